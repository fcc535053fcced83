"""Search for the best model of a table that can be served exactly, in a time or in a number of trials."""

from model.train.search.run import DEFAULT_BUDGET_S, Search, parse_budget, search

__all__ = ["DEFAULT_BUDGET_S", "Search", "parse_budget", "search"]
