"""What it takes to explain a row: Tabserve beside the shap package and, where it is installed, woodelf-explainer.

Six models, each exported, so that what is measured is what a server does. Every one of 100,000 rows is explained, and
its base, contributions and residual are added up again; the others explain as many of them as their time allows. Each
round measures all in turns, on one core. `woodelf-explainer` is not among the project's requirements: install it into
the same environment to have it measured, too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and the libraries read it

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.datasets import make_regression
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor, RandomForestRegressor

from benchmarks.contenders import ROOT
from benchmarks.figures import Figures
from benchmarks.machine import machine
from benchmarks.report import markdown, number
from model import Artifact, Store, export
from model.store.explanation import EXPLANATION

ROWS, TRAINED_ON, FEATURES = 100_000, 5_000, 13
TIMED = 20_000  # of the rows, in each round
METHODS = ("path_dependent", "interventional")
OURS, SHAP, WOODELF = "Tabserve", "shap", "woodelf-explainer"
MODELS: dict[str, Callable[[], Any]] = {
    "gbm, 400 trees of 8 leaves": lambda: GradientBoostingRegressor(n_estimators=400, random_state=0),
    "gbm, 100 trees of 64 leaves": lambda: GradientBoostingRegressor(max_depth=6, random_state=0),
    "histograms, 100 trees of 31 leaves": lambda: HistGradientBoostingRegressor(random_state=0),
    "LightGBM, 100 trees of 31 leaves": lambda: import_module("lightgbm").LGBMRegressor(verbose=-1, n_jobs=1),
    "CatBoost, 300 trees of 64 leaves": lambda: import_module("catboost").CatBoostRegressor(
        iterations=300, verbose=0, thread_count=1, allow_writing_files=False
    ),
    "random forest, 50 trees of depth 8": lambda: RandomForestRegressor(50, max_depth=8, random_state=0),
}
_SECONDS = 3.0  # for each of the others in each round

Explain = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(slots=True)
class Found:
    """One model by one method: microseconds a row by who explains, one for each round, and how exact it is."""

    microseconds: dict[str, list[float]] = field(default_factory=dict)
    one_row: list[float] = field(default_factory=list)  # alone, by Tabserve
    largest_residual: float = 0.0
    rows_that_add_up: int = 0
    from_shap: float = 0.0  # the largest difference of a contribution
    first_ms: float = 0.0  # the first explanation, which makes the tables


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine, how many rows were explained, and what was found by model and method."""

    machine: dict[str, str]
    rounds: int
    rows: int
    found: dict[str, dict[str, Found]]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        by_model = raw.pop("found")
        found = {name: {method: Found(**each) for method, each in of.items()} for name, of in by_model.items()}
        return cls(found=found, **raw)


def render(results: Results) -> str:
    """Return the tables of a run as Markdown."""
    facts = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    speeds, exact = [], []
    for model, by_method in results.found.items():
        for method, found in by_method.items():
            ours = found.microseconds[OURS]
            cells = [number(statistics.median(ours), 1), number(statistics.median(found.one_row), 0)]
            for other in (SHAP, WOODELF):
                theirs = found.microseconds.get(other, [])
                ratio = statistics.median(b / a for a, b in zip(ours, theirs)) if theirs else float("nan")
                cells += [number(statistics.median(theirs), 1) if theirs else "", number(ratio, 1)]
            speeds.append([model, method, *cells])
            exact.append(
                [
                    model,
                    method,
                    f"{found.rows_that_add_up:,} of {results.rows:,}",
                    f"{found.largest_residual:.1e}",
                    f"{found.from_shap:.1e}",
                    number(found.first_ms, 0) if method == METHODS[0] else "",
                ]
            )
    of_speed = ["model", "method", "µs a row", "µs, one row alone", "shap", "times", "woodelf-explainer", "times"]
    of_exactness = [
        "model",
        "method",
        "rows that add up to the bit",
        "largest residual",
        "largest difference from shap",
    ]
    return "\n".join(
        [
            "# Explanations: microseconds a row, and whether they add up",
            "",
            f"{FEATURES} features, one core; medians of {results.rounds} rounds of up to {TIMED:,} rows. {facts}.",
            "",
            markdown(of_speed, speeds),
            "",
            "Interventional values are against 100 rows; shap's weights for them are float32.",
            "",
            markdown([*of_exactness, "first explanation, ms"], exact),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> int:
    """Explain rows of every model, and write what was found."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.explanations", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--only", choices=MODELS, action="append")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    X, y = make_regression(options.rows, FEATURES, noise=20, random_state=0)
    table = pd.DataFrame(X.round(4), columns=[f"x{place}" for place in range(FEATURES)])
    found: dict[str, dict[str, Found]] = {}
    for name in options.only or MODELS:
        fitted = MODELS[name]().fit(table[:TRAINED_ON], y[:TRAINED_ON])
        with TemporaryDirectory() as folder:
            with redirect_stdout(sys.stderr):
                export(fitted, table[:TRAINED_ON], y[:TRAINED_ON], name="model", store=folder)
            model = Store(Path(folder)).load("model")
            found[name] = {method: _measured(model, fitted, table, method, options.rounds) for method in METHODS}
    results = Results(machine(), options.rounds, options.rows, found)
    results.write(options.results / "explanations.json")
    (options.results / "explanations.md").write_text(render(results))
    print(render(results))
    return 0


def _measured(model: Artifact, fitted: Any, table: pd.DataFrame, method: str, rounds: int) -> Found:
    X = table.to_numpy()
    found = Found()
    with np.load(model.path / EXPLANATION) as arrays:
        background = pd.DataFrame(arrays["background"], columns=table.columns)
    others: dict[str, Explain] = {SHAP: _shap(fitted, background.to_numpy(), method)}
    if find_spec("woodelf"):
        others[WOODELF] = _woodelf(fitted, background, method)
    others = {name: explain for name, explain in others.items() if _works(explain, X)}
    started = time.perf_counter()
    model.explanations.explain(X[:1], method)
    found.first_ms = (time.perf_counter() - started) * 1e3
    timed = X[: min(TIMED, model.manifest.explanations.most_rows(method) if model.manifest.explanations else TIMED)]
    # woodelf-explainer makes its tables for each call, which pays off for many rows alone.
    n_rows = {name: len(timed) if name == WOODELF else _affordable(explain, timed) for name, explain in others.items()}
    for _ in range(rounds):
        started = time.perf_counter()
        explained = model.explanations.explain(timed, method)
        found.microseconds.setdefault(OURS, []).append((time.perf_counter() - started) / len(timed) * 1e6)
        for name, explain in others.items():
            started = time.perf_counter()
            theirs = explain(X[: n_rows[name]])
            found.microseconds.setdefault(name, []).append((time.perf_counter() - started) / n_rows[name] * 1e6)
            if name == SHAP:
                found.from_shap = float(np.abs(theirs - explained.contributions[: len(theirs)]).max())
        started = time.perf_counter()
        for row in X[:1_000]:
            model.explanations.explain(row[np.newaxis], method)
        found.one_row.append((time.perf_counter() - started) / min(1_000, len(X)) * 1e6)
    offer = model.manifest.explanations
    assert offer is not None
    for start in range(0, len(X), offer.most_rows(method)):
        rows = X[start : start + offer.most_rows(method)]
        explained, predictions = model.explanations.explain(rows, method), model.predict(rows)
        total = explained.bases
        for column in explained.contributions.T:
            total = total + column
        is_exact = (total + explained.residuals == predictions) & (explained.values == predictions)
        found.rows_that_add_up += int(np.count_nonzero(is_exact))
        found.largest_residual = max(found.largest_residual, float(np.abs(explained.residuals).max()))
    return found


def _shap(fitted: Any, background: NDArray[np.float64], method: str) -> Explain:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import shap

    if method == "path_dependent":
        explainer = shap.TreeExplainer(fitted)
    else:
        explainer = shap.TreeExplainer(fitted, data=background, feature_perturbation="interventional")
    return lambda X: np.asarray(explainer.shap_values(X, check_additivity=False))


def _woodelf(fitted: Any, background: pd.DataFrame, method: str) -> Explain:
    from woodelf import WoodelfExplainer

    def explain(X: NDArray[np.float64]) -> NDArray[np.float64]:
        explainer = WoodelfExplainer(fitted) if method == "path_dependent" else WoodelfExplainer(fitted, background)
        rows = pd.DataFrame(X, columns=background.columns)
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            return np.asarray(explainer.shap_values(rows))

    return explain


def _works(explain: Explain, X: NDArray[np.float64]) -> bool:
    """Return whether it can explain this model at all."""
    try:
        explain(X[:10])
    except Exception as error:  # every library has classes of its own
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def _affordable(explain: Explain, X: NDArray[np.float64]) -> int:
    """Return how many rows are explained in some seconds, at least 100."""
    started = time.perf_counter()
    explain(X[:100])
    return int(min(len(X), max(100, 100 * _SECONDS / (time.perf_counter() - started))))


if __name__ == "__main__":
    sys.exit(main())
