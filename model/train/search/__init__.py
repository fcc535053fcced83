"""Search for the best model of a table that can be served exactly, in a time or in a number of trials."""

import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # Optuna imports tqdm's bars for notebooks, which warn where ipywidgets is not installed; none is shown.
    warnings.simplefilter("ignore", TqdmWarning)
    from model.train.search.run import DEFAULT_BUDGET_S, Search, parse_budget, search

__all__ = ["DEFAULT_BUDGET_S", "Search", "parse_budget", "search"]
