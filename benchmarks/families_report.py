"""The results of `benchmarks.families`: as JSON and as tables."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures
from benchmarks.report import markdown, number
from benchmarks.trees import FAMILIES, N_TRAINED, REGRESSION

ROUNDING = 1e-5  # relative, of sums in float32; a prediction that is further off took another branch
AIM = 1.2  # times what ONNX Runtime alone takes for one row
RANDOM, SPLITS = "random", "at splits"  # the rows that are tried
N_ROWS = (1, 100, 10_000)  # in a call
LIBRARY, OURS, ALONE = "library", "tabserve", "onnxruntime"
CONVERTERS = {
    "onnx": "skl2onnx, onnxmltools, CatBoost's own",
    "treelite": "Treelite",
    "hummingbird": "Hummingbird",
}
_TITLES = {LIBRARY: "the library", OURS: "Tabserve", ALONE: "ONNX Runtime on Tabserve's graph", **CONVERTERS}


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
    version: str = ""  # of the library
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
        return f"{FAMILIES[self.family].title} {self.version}".strip() + f"{task}: {trees}"


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine and settings, and each model."""

    machine: dict[str, str]
    rounds: int
    converters: dict[str, str]  # their versions
    models: list[Measured]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        return cls(models=[Measured.parse(model) for model in raw.pop("models")], **raw)


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
    parts = ["; ".join(f"{name} {value}" for name, value in facts.items())]
    if measured:
        parts += [how, _differences(measured), timed, _times(measured), _summary(measured)]
    return "\n\n".join([*parts, *failed]) + "\n"


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
