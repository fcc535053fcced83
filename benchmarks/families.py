"""Each family of trees, compiled by Tabserve and by converters: rows that differ from the library, and time per row.

Each model is fitted, converted and measured in a process of its own (`peers/converters/measure.py`), in the environment
of the converters. The table is simulated and has numbers alone, since the converters take nothing else.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.contenders import PEERS, ROOT
from benchmarks.machine import machine
from benchmarks.report import markdown, number
from benchmarks.servers import ContenderError, last_line, make_environment

REGRESSION, BINARY, MULTICLASS = "regression", "binary", "multiclass"
N_CLASSES = {BINARY: 2, MULTICLASS: 4}
TASKS = (REGRESSION, *N_CLASSES)
SIZES = SMALL, LARGE = "small", "large"
N_TRAINED = 20_000
RANDOM, SPLITS = "random", "at splits"  # the rows that are tried
N_ROWS = (1, 100, 10_000)  # in a call
ROUNDING = 1e-5  # relative, of sums in float32; a prediction that is further off took another branch
AIM = 1.2  # times what ONNX Runtime alone takes for one row
ENVIRONMENT = "converters"
LIBRARY, OURS, ALONE = "library", "tabserve", "onnxruntime"
CONVERTERS = {"onnx": "skl2onnx, onnxmltools, CatBoost's own", "treelite": "Treelite", "hummingbird": "Hummingbird"}
_TITLES = {LIBRARY: "the library", OURS: "Tabserve", ALONE: "ONNX Runtime on Tabserve's graph", **CONVERTERS}
# Every library with one thread, as Tabserve's engine has.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one kind: a class of a library, and its settings for either size."""

    title: str
    path: str  # of the class, without Regressor or Classifier at its end
    package: str  # whose version is reported
    sizes: Mapping[str, Mapping[str, Any]]
    always: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = (REGRESSION,)

    def make(self, task: str, size: str) -> Any:
        """Return a model that is to be fitted."""
        module, _, name = self.path.rpartition(".")
        kind = "Regressor" if task == REGRESSION else "Classifier"
        return getattr(importlib.import_module(module), name + kind)(**self.always, **self.sizes[size])


_ONE_JOB = {"random_state": 0, "n_jobs": 1}
_FOREST = {
    SMALL: {"n_estimators": 100, "max_leaf_nodes": 31},
    LARGE: {"n_estimators": 500, "max_depth": 10},
}

FAMILIES = {
    "hist-gradient-boosting": Family(
        "scikit-learn HistGradientBoosting",
        "sklearn.ensemble.HistGradientBoosting",
        "scikit-learn",
        {SMALL: {"max_iter": 100, "max_leaf_nodes": 31}, LARGE: {"max_iter": 1_000, "max_leaf_nodes": 255}},
        {"random_state": 0, "early_stopping": False},
    ),
    "gradient-boosting": Family(
        "scikit-learn GradientBoosting",
        "sklearn.ensemble.GradientBoosting",
        "scikit-learn",
        {SMALL: {"n_estimators": 100, "max_depth": 3}, LARGE: {"n_estimators": 500, "max_depth": 6, "subsample": 0.2}},
        {"random_state": 0},
    ),
    "random-forest": Family(
        "scikit-learn RandomForest", "sklearn.ensemble.RandomForest", "scikit-learn", _FOREST, _ONE_JOB
    ),
    "extra-trees": Family("scikit-learn ExtraTrees", "sklearn.ensemble.ExtraTrees", "scikit-learn", _FOREST, _ONE_JOB),
    "decision-tree": Family(
        "scikit-learn DecisionTree",
        "sklearn.tree.DecisionTree",
        "scikit-learn",
        {SMALL: {"max_leaf_nodes": 31}, LARGE: {"max_leaf_nodes": 5_000}},
        {"random_state": 0},
    ),
    "xgboost": Family(
        "XGBoost",
        "xgboost.XGB",
        "xgboost-cpu",
        {SMALL: {"n_estimators": 100, "max_leaves": 31}, LARGE: {"n_estimators": 1_000, "max_leaves": 255}},
        {**_ONE_JOB, "max_depth": 0, "grow_policy": "lossguide", "learning_rate": 0.1},
    ),
    "lightgbm": Family(
        "LightGBM",
        "lightgbm.LGBM",
        "lightgbm",
        {SMALL: {"n_estimators": 100, "num_leaves": 31}, LARGE: {"n_estimators": 1_000, "num_leaves": 255}},
        {**_ONE_JOB, "verbose": -1},
    ),
    "catboost": Family(
        "CatBoost",
        "catboost.CatBoost",
        "catboost",
        {SMALL: {"iterations": 100, "depth": 4}, LARGE: {"iterations": 1_000, "depth": 8}},
        {"random_seed": 0, "thread_count": 1, "logging_level": "Silent", "allow_writing_files": False},
    ),
}


def table(task: str, n_rows: int = N_TRAINED, n_features: int = 10) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return a simulated table, `X` `(n_rows, n_features)` and `y` `(n_rows,)`.

    Half of the columns have all digits, and half are on a grid, as prices and counts are.
    """
    random = np.random.default_rng(0)
    X = random.normal(size=(n_rows, n_features))
    X[:, 5:8] = (X[:, 5:8] * 20 + 50).round(1)
    X[:, 8:] = random.integers(0, 50, X[:, 8:].shape)
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + np.abs(X[:, 5] - 50) / 20 + (X[:, 8] % 7) / 3
    y += random.normal(size=n_rows) / 4
    if task == REGRESSION:
        return X, 10 + y
    n_classes = N_CLASSES[task]
    return X, np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))


@dataclass(frozen=True, slots=True)
class Difference:
    """How predictions differ from the library's."""

    rows: int  # in any bit
    beyond_rounding: int
    largest: float  # relative


@dataclass(slots=True)
class Engine:
    """What one way to predict gave for one model; every list has one entry per round."""

    takes: str = ""  # the type of its matrix
    problem: str = ""  # why there is nothing else
    differences: dict[str, Difference] = field(default_factory=dict)  # by kind of rows
    microseconds: dict[int, list[float]] = field(default_factory=dict)  # a row, by rows in a call

    def median(self, n_rows: int) -> float:
        """Return the median microseconds a row; NaN where it was not measured."""
        return statistics.median(self.microseconds.get(n_rows) or [math.nan])


@dataclass(slots=True)
class Measured:
    """One model: what it is, what it was tried on, and what each way to predict gave."""

    family: str
    task: str
    size: str
    version: str
    problem: str = ""  # why there is nothing else
    trees: int = 0
    leaves: int = 0
    rows: dict[str, int] = field(default_factory=dict)  # that were tried, by kind
    engines: dict[str, Engine] = field(default_factory=dict)

    @classmethod
    def parse(cls, raw: dict[str, Any]) -> Measured:
        """Return what `asdict` made a document of."""
        engines = {}
        for name, engine in raw.pop("engines").items():
            microseconds = {int(n_rows): rounds for n_rows, rounds in engine.pop("microseconds").items()}
            differences = {kind: Difference(**figures) for kind, figures in engine.pop("differences").items()}
            engines[name] = Engine(microseconds=microseconds, differences=differences, **engine)
        return cls(engines=engines, **raw)

    @property
    def title(self) -> str:
        """The model in a few words."""
        task = "" if self.task == REGRESSION else f", {self.task}"
        trees = f"{self.trees:,} trees, {self.leaves:,} leaves" if self.trees else self.size
        return f"{FAMILIES[self.family].title} {self.version}{task}: {trees}"


@dataclass(frozen=True, slots=True)
class Results:
    """One run: its machine and settings, and each model."""

    machine: dict[str, str]
    rounds: int
    converters: dict[str, str]  # their versions
    models: list[Measured]

    def write(self, path: Path) -> None:
        """Write the run as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        return cls(models=[Measured.parse(model) for model in raw.pop("models")], **raw)


def run(chosen: Sequence[tuple[str, str, str]], *, n_random: int, rounds: int, install: bool) -> Results:
    """Measure models, each given as family, task and size. Raises `ContenderError` without the environment."""
    requirements = PEERS / ENVIRONMENT / "requirements.txt"
    python = make_environment(ENVIRONMENT, "the converters", requirements, install=install) / "bin" / "python"
    pins = requirements.read_text() + requirements.with_name("without-dependencies.txt").read_text()
    versions = dict(re.findall(r"^(skl2onnx|onnxmltools|treelite|hummingbird-ml|torch)==(\S+)", pins, re.MULTILINE))
    results = Results(machine(), rounds, versions, [])
    for turn, (family, task, size) in enumerate(chosen):
        print(f"{turn + 1} of {len(chosen)}: {family}, {task}, {size}", file=sys.stderr, flush=True)
        command = [str(python), str(PEERS / ENVIRONMENT / "measure.py"), family, task, size, str(n_random), str(rounds)]
        environ = {**os.environ, **_ONE_THREAD, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
        if done.returncode:
            results.models.append(Measured(family, task, size, problem=last_line(done.stderr)))
        else:
            results.models.append(Measured.parse(json.loads(done.stdout.splitlines()[-1])))
    return results


def render(results: Results) -> str:
    """Return the run as Markdown: how the predictions differ, and the time per row."""
    facts = {**results.machine, **results.converters}
    measured = [model for model in results.models if not model.problem]
    failed = [f"{model.title}: {model.problem}" for model in results.models if model.problem]
    how = (
        f"Each model is fitted on {N_TRAINED:,} simulated rows of numbers, none of them missing. Random rows are half "
        "in the training range and half beyond it; rows at splits are on both sides of a split. A cell has the rows "
        f"that differ from the library in any bit, those that differ by more than {ROUNDING:g}, and the largest "
        "difference, both relative. A converter is handed float64 or float32, whichever it is nearer with."
    )
    timed = (
        f"Microseconds a row, on one thread: medians of {results.rounds} rounds, in which all take turns. Each call "
        "has other rows, in the type that it takes."
    )
    parts = ["; ".join(f"{name} {value}" for name, value in facts.items()), how, _differences(measured), timed]
    return "\n\n".join(filter(None, [*parts, _times(measured), _summary(measured), *failed])) + "\n"


def _differences(models: Sequence[Measured]) -> str:
    shown = (OURS, *CONVERTERS)
    rows = []
    for model in models:
        for kind, tried in model.rows.items():
            cells = [_difference(model.engines[name], kind) for name in shown]
            rows.append([model.title if kind == RANDOM else "", f"{tried:,} {kind}", *cells])
    return markdown(["model", "rows tried", *[_TITLES[name] for name in shown]], rows)


def _difference(engine: Engine, kind: str) -> str:
    if engine.problem:
        return f"not converted: {engine.problem}" if kind == RANDOM else ""
    found = engine.differences[kind]
    figures = f"{found.rows:,} / {found.beyond_rounding:,} / {found.largest:.0e}" if found.rows else "0"
    return figures if engine.takes == "float64" else f"{figures} ({engine.takes})"


def _times(models: Sequence[Measured]) -> str:
    shown = [LIBRARY, OURS, ALONE, *CONVERTERS]
    rows = []
    for model in models:
        for n_rows in N_ROWS:
            medians = {name: model.engines[name].median(n_rows) for name in shown if name in model.engines}
            cells = [number(medians.get(name, math.nan), 1) for name in shown]
            ratio = number(medians[OURS] / medians[ALONE], 2) if ALONE in medians else ""
            rows.append([model.title if n_rows == N_ROWS[0] else "", f"{n_rows:,}", *cells, ratio])
    head = ["model", "rows a call", *[_TITLES[name] for name in shown], "Tabserve / ONNX Runtime"]
    return markdown(head, rows)


def _summary(models: Sequence[Measured]) -> str:
    if not models:
        return ""
    tried = sum(sum(model.rows.values()) for model in models)
    different = sum(found.rows for model in models for found in model.engines[OURS].differences.values())
    slower = [
        f"{model.title} ({ratio:.2f})"
        for model in models
        if ALONE in model.engines and (ratio := model.engines[OURS].median(1) / model.engines[ALONE].median(1)) > AIM
    ]
    return (
        f"Tabserve: {different:,} of {tried:,} rows differ in any bit. One row takes more than {AIM} times what "
        f"ONNX Runtime alone takes on the same graph: {', '.join(slower) or 'for no model'}."
    )


def main() -> None:
    """Measure the chosen models, write the results and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=FAMILIES, default=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES)
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument(
        "--rows", type=int, default=100_000, help="random rows, and most rows at splits (default: 100,000)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds, in which all ways take turns (default: 5)")
    parser.add_argument("--no-install", action="store_true", help="fail where the converters are not installed")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    chosen = [
        (family, task, size)
        for family in options.only
        for task in FAMILIES[family].tasks
        for size in SIZES
        if task in options.tasks and size in options.sizes
    ]
    try:
        results = run(chosen, n_random=options.rows, rounds=options.rounds, install=not options.no_install)
    except ContenderError as error:
        raise SystemExit(f"the converters cannot be measured: {error}") from None
    options.results.mkdir(parents=True, exist_ok=True)
    results.write(options.results / "families.json")
    (options.results / "families.md").write_text(render(results))
    print(render(results))


if __name__ == "__main__":
    main()
