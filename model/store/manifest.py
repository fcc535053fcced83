"""The manifest: what is known of a version, as a typed value of its JSON document. Knows nothing about files on disk.

The document itself is kept, with facts that this version of the code does not know, so that what is written back has
the same bytes and digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from model.engine import explanation, formulas, steps
from model.engine.formulas import Derived
from model.engine.graph import MAX_LAYER_WIDTH
from model.engine.steps import Step
from model.errors import FormulaError
from model.metrics import AnyScores, Interval
from model.schema import features, reading
from model.schema.feature import BOOLEAN, CATEGORY, DATE, Category, Feature
from model.schema.features import Schema
from model.schema.numbers import is_number
from model.schema.reading import Reading
from model.task import CLASSIFICATION, REGRESSION, TASKS, Task

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    T = TypeVar("T", bound=DataclassInstance)

# `engine.kind`
GRAPH_ENGINE, TREES_ENGINE, LINEAR_ENGINE, CONVERTED_ENGINE = ENGINES = "onnx", "trees", "linear", "converted"
MAX_VERSION = 2**31 - 1
# The largest relative difference from the trained model that a manifest may allow.
MAX_TOLERANCE = 1e-6
MAX_ALLOWED = 0.01  # of the range of a converted model's answers, and of a probability
MAX_DERIVED = 1_000
MAX_CLASSES = 1_000  # each is a number in every answer
MAX_LEVELS = 100  # of prediction intervals
MAX_EXPLAINED = 2**16  # names, each a number in every explanation
MAX_NUMBERS = 2**21  # contributions in one reply: about 64 MB of JSON
MAX_STANDINGS = 50  # of a leaderboard
_MAX_LAYERS = 1_000
_FORMAT_WITHOUT_TOLERANCE = 1  # in which every model is exact to the last bit


@dataclass(frozen=True, slots=True)
class Metrics:
    """How well the model predicts the rows it was fitted on, and those that were held out, if there were any."""

    training: AnyScores
    validation: AnyScores | None


@dataclass(frozen=True, slots=True)
class Split:
    """How the rows of one table were divided into those for training and those for validation."""

    validation_share: float
    random_state: int


@dataclass(frozen=True, slots=True)
class Data:
    """The table that the model was trained on."""

    source: str
    sha256: str
    rows: int
    warnings: list[str]
    split: Split | None


@dataclass(frozen=True, slots=True)
class Intervals:
    """The prediction intervals of a regression: `half_widths` by level, in the order of the levels.

    An interval reaches so far on both sides of a prediction, and has the true value with a probability of at least its
    level, if the row is like the held-out `rows` that the half widths are from.
    """

    rows: int
    half_widths: Mapping[float, float]

    @property
    def levels(self) -> list[float]:
        """Return the levels, from the lowest."""
        return list(self.half_widths)

    def around(self, predictions: NDArray[np.float64], level: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the lower and the upper ends `(n_rows,)` of the intervals of one of the levels."""
        half_width = self.half_widths[level]
        return predictions - half_width, predictions + half_width


@dataclass(frozen=True, slots=True)
class Proof:
    """On how many rows of each kind the compiled model was compared with the trained one, and how they differ.

    `largest_share_of_allowed` is of a linear model, for each of whose rows a difference is allowed.
    """

    table_rows: int
    random_rows: int
    limit_rows: int
    split_rows: int
    different_rows: int
    largest_relative_difference: float
    seed: int
    largest_share_of_allowed: float = 0.0

    @property
    def n_rows(self) -> int:
        """Return the number of rows of all kinds."""
        return self.table_rows + self.random_rows + self.limit_rows + self.split_rows


@dataclass(frozen=True, slots=True)
class Standing:
    """How well a family of learners did in the search for a model; lower scores are better.

    `low` and `high` are the interval of 95 %, None where there is none. `measured` are seconds, microseconds and bytes
    on the machine of the training, by name.
    """

    family: str
    mean: float
    low: float | None
    high: float | None
    n_trials: int
    measured: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The families of a search, the best first, by what `metric` says."""

    metric: str
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Network:
    """The architecture of a model that is a network, and the file with its weights."""

    file: str
    n_features: int
    hidden: list[int]
    activation: str


@dataclass(frozen=True, slots=True)
class Offer:
    """What explanations a version offers, as `engine.explanation` has them.

    `methods` begin with the usual one. `explains` says which number is made up, `names` of what. `max_rows` is how many
    rows may be explained at once by a method, where that matters. `mean_absolute` has by name, in the order of `names`,
    the mean absolute contribution to the answers for rows of the training table; it is empty where that is not known.
    """

    methods: tuple[str, ...]
    explains: str
    names: tuple[str, ...]
    max_rows: Mapping[str, int]
    mean_absolute: Mapping[str, float]

    def most_rows(self, method: str) -> int:
        """Return how many rows may be explained at once: `max_rows`, and no more than give `MAX_NUMBERS`."""
        of_size = max(1, MAX_NUMBERS // len(self.names))
        return min(self.max_rows.get(method, of_size), of_size)


@dataclass(frozen=True, slots=True)
class File:
    """The fingerprint of a file."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of one version of a model.

    `engine` is one of `ENGINES`. Trees are served from arrays, a linear model from its coefficients, anything else as a
    graph; `steps` are done to what these give. A classifier's `decision` is how its label follows from these, one of
    `engine.steps.DECISIONS`; it is None for a regression, and for a converted graph, which has the label. `tolerance`
    and `allowed_difference` are how far the trained model may be apart, as `engine.compare` measures it; the latter is
    that of a converted graph. `explanations` are what it offers of them, None if none. `intervals` are None for a
    classifier, and where too few rows were held out; `metric_intervals` are 95 % intervals of validation metrics.
    `data`, `proof` and `leaderboard` are None in a manifest that does not have them completely, and `reading` is that
    of a plain table. `document` is the whole manifest as it was read.
    """

    name: str
    version: int
    format_version: int
    title: str
    task: Task
    algorithm: str
    digest: str
    created_at: str
    schema: Schema
    metrics: Metrics
    metric_intervals: Mapping[str, Interval]
    intervals: Intervals | None
    engine: str
    steps: Sequence[Step]
    decision: str | None
    tolerance: float
    allowed_difference: float
    files: Mapping[str, File]
    limits: str
    tags: Mapping[str, str]
    derived: Sequence[Derived]
    network: Network | None
    data: Data | None
    reading: Reading
    proof: Proof | None
    leaderboard: Leaderboard | None
    explanations: Offer | None
    document: Mapping[str, Any] = field(repr=False)

    @property
    def not_explained(self) -> str:
        """Return why there are no explanations."""
        found = self.document.get("explanations")
        reason = found.get("reason") if isinstance(found, dict) else None
        return reason if isinstance(reason, str) else "this version has none; train or export it again"

    @property
    def is_alike_in_every_batch(self) -> bool:
        """Return whether a row has the same bits alone and among others."""
        return self.engine in (TREES_ENGINE, LINEAR_ENGINE) or (self.engine == GRAPH_ENGINE and self.tolerance == 0)

    @property
    def classes(self) -> Sequence[Category]:
        """Return the labels of a classifier in the order of its probabilities; none for a regression."""
        if self.task is not CLASSIFICATION:
            return ()
        target = self.schema.target
        return target.categories if target.type == CATEGORY else (False, True)

    @property
    def class_names(self) -> list[str]:
        """Return the labels of a classifier as texts."""
        return self.schema.target.texts if self.classes else []


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**53


def _is_version(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_VERSION


_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (_is_text, "a string")
_NUMBER: _Check = (is_number, "a finite number")
_NUMBER_OR_NONE: _Check = (lambda value: value is None or is_number(value), "a finite number or null")
_COUNT: _Check = (_is_count, "a whole number of at least 1")
_INTEGER: _Check = (lambda value: type(value) is int, "a whole number")


def _scores(part: str, task: Task) -> dict[str, _Check]:
    kinds = {"int": _COUNT, "float": _NUMBER, "float | None": _NUMBER_OR_NONE}
    return {f"metrics.{part}.{each.name}": kinds[str(each.type)] for each in fields(task.score_class)}


_REQUIRED: Mapping[str, _Check] = {
    "name": _TEXT,
    "version": (_is_version, f"a whole number from 1 to {MAX_VERSION}"),
    "title": _TEXT,
    "algorithm": _TEXT,
    "digest": _TEXT,
    "created_at": _TEXT,
}
_OPTIONAL: Mapping[str, _Check] = {
    "task": (lambda value: _is_text(value) and value in TASKS, f"one of: {', '.join(TASKS)}"),
    "limits": _TEXT,
    "tags": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), "an object of strings"),
    "network": (lambda value: isinstance(value, dict), "an object"),
}
_NETWORK: Mapping[str, _Check] = {
    "network.file": _TEXT,
    "network.n_features": _COUNT,
    "network.activation": _TEXT,
    "network.hidden": (
        lambda value: (
            isinstance(value, list)
            and len(value) <= _MAX_LAYERS
            and all(_is_count(width) and width <= MAX_LAYER_WIDTH for width in value)
        ),
        f"a list of at most {_MAX_LAYERS} widths up to {MAX_LAYER_WIDTH}",
    ),
}
# Serving does not need these, so a manifest that lacks one is served.
_DATA: Mapping[str, _Check] = {
    "data.source": _TEXT,
    "data.sha256": _TEXT,
    "data.rows": _COUNT,
    "data.warnings": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of strings"),
}
_SPLIT: Mapping[str, _Check] = {
    "data.split.validation_share": _NUMBER,
    "data.split.random_state": _INTEGER,
}
_PROOF: Mapping[str, _Check] = {
    **{
        f"engine.parity.{name}": _INTEGER
        for name in ("table_rows", "random_rows", "limit_rows", "split_rows", "different_rows", "seed")
    },
    "engine.parity.largest_relative_difference": _NUMBER,
}


def parse(document: Mapping[str, Any]) -> Manifest:
    """Return the manifest that a JSON document describes.

    Raises `ValueError` that lists all required facts that are missing or of another type; `KeyError`, `TypeError` or
    `ValueError` if the schema or the tolerance is invalid.
    """
    checks = {**_REQUIRED, **{name: check for name, check in _OPTIONAL.items() if name in document}}
    if isinstance(document.get("network"), dict):
        checks |= _NETWORK
    name = document.get("task", REGRESSION.name)
    task = TASKS.get(name, REGRESSION) if isinstance(name, str) else REGRESSION
    scores = document.get("metrics")
    has_validation = not isinstance(scores, dict) or scores.get("validation", ...) is not None
    checks |= _scores("training", task) | (_scores("validation", task) if has_validation else {})
    if problems := _problems(document, checks):
        raise ValueError("; ".join(problems))
    engine = document.get("engine")
    kind = engine.get("kind") if isinstance(engine, dict) else None
    kind = kind if kind in ENGINES else GRAPH_ENGINE
    schema = features.from_manifest(document)
    return Manifest(
        name=document["name"],
        version=document["version"],
        format_version=document["format_version"],
        title=document["title"],
        task=task,
        algorithm=document["algorithm"],
        digest=document["digest"],
        created_at=document["created_at"],
        schema=schema,
        metrics=Metrics(
            training=_value(task.score_class, document["metrics"]["training"]),
            validation=_value(task.score_class, document["metrics"]["validation"]) if has_validation else None,
        ),
        metric_intervals=_metric_intervals(document, task),
        intervals=_intervals(document, task),
        engine=kind,
        steps=_steps(engine, kind),
        decision=_decision(document, task, schema.target),
        tolerance=_tolerance(document),
        allowed_difference=_allowed_difference(document) if kind == CONVERTED_ENGINE else 0.0,
        files=files(document),
        limits=document.get("limits", ""),
        tags=document.get("tags", {}),
        derived=derived(document),
        network=_value(Network, document["network"]) if "network" in document else None,
        data=_data(document),
        reading=reading.from_document(document.get("reading")) or Reading(),
        proof=_proof(document),
        leaderboard=_leaderboard(document),
        explanations=_explanations(document),
        document=document,
    )


def _explanations(document: Mapping[str, Any]) -> Offer | None:
    """Return what explanations are offered, None for none. Raises `ValueError` for anything else."""
    found = document.get("explanations")
    if not isinstance(found, dict) or "methods" not in found:
        return None
    methods, names, max_rows = found["methods"], found.get("names"), found.get("max_rows", {})
    known = isinstance(methods, list) and all(method in explanation.METHODS for method in methods)
    if not (known and methods and len(set(methods)) == len(methods)):
        raise ValueError(f"explanations.methods is not a list of some of: {', '.join(explanation.METHODS)}")
    if not (isinstance(names, list) and 0 < len(names) <= MAX_EXPLAINED and all(map(_is_text, names))):
        raise ValueError(f"explanations.names is not a list of 1 to {MAX_EXPLAINED} strings")
    if len(set(names)) < len(names):
        raise ValueError("explanations.names has a name more than once")
    if found.get("explains") not in explanation.KINDS:
        raise ValueError(f"explanations.explains is none of: {', '.join(explanation.KINDS)}")
    if not (isinstance(max_rows, dict) and max_rows.keys() <= set(methods) and all(map(_is_count, max_rows.values()))):
        raise ValueError("explanations.max_rows is not a number of rows by method")
    sizes = found.get("mean_absolute")
    if sizes is not None and not (
        isinstance(sizes, dict)
        and sizes.keys() == set(names)
        and len(sizes) == len(names)
        and all(is_number(size) and size >= 0 for size in sizes.values())
    ):
        raise ValueError("explanations.mean_absolute is not a number of at least 0 for each of explanations.names")
    in_order = {name: float(sizes[name]) for name in names} if sizes else {}
    return Offer(tuple(methods), found["explains"], tuple(names), max_rows, in_order)


def derived(document: Mapping[str, Any]) -> tuple[Derived, ...]:
    """Return the derived features, in order. Raises `ValueError` for ones that are no formulas."""
    listed = document.get("derived", [])
    if not isinstance(listed, list) or len(listed) > MAX_DERIVED:
        raise ValueError(f"derived is not a list of at most {MAX_DERIVED} features")
    found = []
    for number, facts in enumerate(listed):
        known = {each.name: facts.get(each.name, "") for each in fields(Derived)} if isinstance(facts, dict) else {}
        if not known or not all(map(_is_text, known.values())) or not known["name"]:
            raise ValueError(f"derived[{number}] has no name and formula, or another type than a string")
        found.append(Derived(**known))
        try:
            formulas.parse(known["formula"])
        except FormulaError as error:
            raise ValueError(f"derived[{number}] has no formula: {error}") from None
    return tuple(found)


def files(document: Mapping[str, Any]) -> dict[str, File]:
    """Return the fingerprint of each file. Raises `ValueError` if the list of files is invalid."""
    listed = document.get("files")
    fingerprints = listed.values() if isinstance(listed, dict) else [None]
    if not all(isinstance(fingerprint, dict) and type(fingerprint.get("size")) is int for fingerprint in fingerprints):
        raise ValueError("files is not an object of files with their sizes")
    return {
        name: File(sha256=str(fingerprint.get("sha256")), size=fingerprint["size"])
        for name, fingerprint in document["files"].items()
    }


def _problems(document: Mapping[str, Any], checks: Mapping[str, _Check]) -> list[str]:
    problems = []
    for name, (is_valid, kind) in checks.items():
        value: Any = document
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not is_valid(value):
            problems.append(f"{name} is {'missing' if value is None else f'not {kind}'}")
    return problems


def _value(kind: type[T], document: Mapping[str, Any]) -> T:
    """Return a value of a dataclass from the facts of the same names; others are ignored."""
    return kind(**{field.name: document[field.name] for field in fields(kind)})


def _tolerance(document: Mapping[str, Any]) -> float:
    """Return the relative difference from the trained model that is allowed. Raises `ValueError` if it is too large."""
    tolerance = document["engine"]["tolerance"] if document["format_version"] > _FORMAT_WITHOUT_TOLERANCE else 0.0
    if not 0 <= tolerance <= MAX_TOLERANCE:
        raise ValueError(f"the tolerance {tolerance!r} is not from 0 to {MAX_TOLERANCE}")
    return float(tolerance)


def _steps(engine: Any, kind: str) -> tuple[Step, ...]:
    """Return the steps behind an engine, which a graph need not have. Raises `ValueError` if they are invalid."""
    found = engine.get("steps") if isinstance(engine, dict) else None
    return () if kind == GRAPH_ENGINE and found is None else steps.parse(found)


def _decision(document: Mapping[str, Any], task: Task, target: Feature) -> str | None:
    """Return how a classifier decides on a label, None for a regression. Raises `ValueError` if this does not fit."""
    has_classes = target.type in (CATEGORY, BOOLEAN)
    if has_classes is not (task is CLASSIFICATION) or target.type == DATE:
        raise ValueError(f"its task is {task.name}, and its target is of the type {target.type}")
    if not has_classes:
        return None
    if len(target.categories) > MAX_CLASSES:
        raise ValueError(f"it has {len(target.categories)} classes, more than {MAX_CLASSES}")
    engine = document["engine"]
    if engine.get("kind") == CONVERTED_ENGINE:
        return None
    decision = engine.get("decision")
    if not isinstance(decision, str) or decision not in steps.DECISIONS:
        raise ValueError(f"it decides by {decision!r}, which does not exist")
    return decision


def _allowed_difference(document: Mapping[str, Any]) -> float:
    """Return how far the answers of a converted graph may be from the trained model's."""
    allowed = document["engine"].get("allowed_difference")
    if not is_number(allowed) or allowed < 0:
        raise ValueError(f"the allowed difference {allowed!r} is not a number of at least 0")
    if document.get("task") == CLASSIFICATION.name and allowed > MAX_ALLOWED:
        raise ValueError(f"the allowed difference {allowed!r} of probabilities is above {MAX_ALLOWED}")
    return float(allowed)


def _intervals(document: Mapping[str, Any], task: Task) -> Intervals | None:
    """Return the prediction intervals, None for a manifest without. Raises `ValueError` if they cannot be served."""
    facts = document.get("intervals")
    if facts is None:
        return None
    if task is not REGRESSION or not isinstance(facts, dict) or not _is_count(facts.get("rows")):
        raise ValueError("intervals are not of a regression, or do not say of how many rows they are")
    levels: Any = facts.get("levels")
    half_widths: Any = facts.get("half_widths")
    for values in (levels, half_widths):
        if not isinstance(values, list) or not 0 < len(values) <= MAX_LEVELS or not all(map(is_number, values)):
            raise ValueError(f"intervals have no list of 1 to {MAX_LEVELS} levels, with a half width for each")
    in_order = all(low < high for low, high in pairwise(levels)) and levels[0] > 0 and levels[-1] < 1
    widening = all(low <= high for low, high in pairwise(half_widths)) and half_widths[0] >= 0
    if len(levels) != len(half_widths) or not in_order or not widening:
        raise ValueError("the levels of intervals do not rise between 0 and 1, with half widths that do not fall")
    return Intervals(facts["rows"], dict(zip(map(float, levels), map(float, half_widths))))


def _metric_intervals(document: Mapping[str, Any], task: Task) -> dict[str, Interval]:
    """Return the intervals of those metrics that have one; none for a manifest without an evaluation."""
    found = {}
    for name in task.labels:
        ends = [f"evaluation.metrics.{name}.{end}" for end in ("low", "high")]
        if not _problems(document, dict.fromkeys(ends, _NUMBER)):
            metric = document["evaluation"]["metrics"][name]
            found[name] = (float(metric["low"]), float(metric["high"]))
    return found


def _proof(document: Mapping[str, Any]) -> Proof | None:
    if _problems(document, _PROOF):
        return None
    parity = document["engine"]["parity"]
    share = parity.get("largest_share_of_allowed")
    return _value(Proof, {**parity, "largest_share_of_allowed": share if is_number(share) else 0.0})


def _leaderboard(document: Mapping[str, Any]) -> Leaderboard | None:
    """Return the leaderboard of a search; None in a manifest that does not have one completely."""
    try:
        board = document["search"]["leaderboard"]
        measured = document.get("observed", {}).get("leaderboard", {})
        standings = tuple(_standing(each, measured) for each in board["entries"][:MAX_STANDINGS])
        metric = board["metric"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return Leaderboard(metric, standings) if standings and _is_text(metric) else None


def _standing(entry: Mapping[str, Any], measured: Mapping[str, Any]) -> Standing:
    family, n_trials, score = entry["family"], entry["n_trials"], entry["score"]
    low, high = score["low"], score["high"]
    if not (_is_text(family) and _is_count(n_trials) and is_number(score["mean"])):
        raise ValueError("it is no standing")
    if not all(end is None or is_number(end) for end in (low, high)):
        raise ValueError("its interval is none")
    figures = {name: float(value) for name, value in measured.get(family, {}).items() if is_number(value)}
    return Standing(family, float(score["mean"]), low, high, n_trials, figures)


def _data(document: Mapping[str, Any]) -> Data | None:
    if _problems(document, _DATA):
        return None
    data = document["data"]
    has_split = data.get("split", ...) is not None
    if has_split and _problems(document, _SPLIT):
        return None
    return _value(Data, {**data, "split": _value(Split, data["split"]) if has_split else None})
