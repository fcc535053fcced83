"""Export a fitted model of one's own: from a notebook to a version in the store, with a checklist on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.exceptions import NotFittedError

from model.engine.compare import differing, shares_of
from model.errors import ExportError, first_line
from model.schema.feature import DATE, INTEGER, Category
from model.schema.features import Matrix
from model.store.artifact import Artifact
from model.store.location import open_store
from model.store.manifest import CONVERTED_ENGINE, MAX_ALLOWED, Data
from model.store.runs import EXPORT, recording
from model.store.versions import Store
from model.task import CLASSIFICATION, REGRESSION
from model.train import checklist, frames
from model.train import export as drafts
from model.train.candidate import Candidate
from model.train.compile.compiled import answers, estimator_of, fitted_names, is_named
from model.train.compile.onnx_file import OnnxModel
from model.train.frames import Frames
from model.train.labels import is_utf8, labels_of, positions, target_of
from model.train.learners import fitted as learner
from model.train.subject import Subject, title_of

ENGINES = EXACT, ONNX = "exact", "onnx"
_MAX_TARGET = 1e145  # whose squares can be added for any number of rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """What a person says of a model; `target` is empty for the name of the targets.

    Raises `ExportError` for what is no string that can be written in UTF-8.
    """

    name: str
    title: str
    target: str
    unit: str
    source: str
    owner: str
    license: str
    purpose: str
    limits: str

    def __post_init__(self) -> None:
        for argument, text in asdict(self).items():
            if not isinstance(text, str) or not is_utf8(text):
                raise ExportError(f"{argument} is {text!r}; pass a string that can be written in UTF-8")


def export(
    fitted: Any,
    X: Any,
    y: Any,
    *,
    name: str,
    holdout: tuple[Any, Any] | None = None,
    store: Store | Path | str = "store",
    title: str = "",
    target: str = "",
    unit: str = "",
    source: str = "a table in memory",
    owner: str = "",
    license: str = "",
    purpose: str = "",
    limits: str = "",
    engine: str = EXACT,
    tolerance: float = 1e-6,
) -> Artifact:
    """Compile a fitted model, prove it equal to the original, and add it to the store as its candidate.

    It is the champion, which a server loads, if it is the first version of that name; `python -m model promote` makes a
    later one the champion.

    `X` is the data frame, or the array `(n_rows, n_features)`, that the model was fitted on, and `y` `(n_rows,)` its
    targets: numbers, or the labels of a classifier. `holdout` are features and targets that it was not fitted on: how
    good it is on them is what the live error is compared with, and they give a regression its prediction intervals.
    `target` and `unit` name what is predicted; the default is the name of `y`.

    With `engine="onnx"` a general converter does what cannot be compiled; a model that can be compiled is served as
    without it, and the checklist says so. What was converted is accepted if its answers are within `tolerance` of the
    fitted model's, as a share of the range of its answers for `X`, or in each probability.

    Prints a checklist. Returns the version, loaded and verified as a server does it. Raises `ExportError` for a model
    or a table that cannot be served exactly, and `ProofError` if a prediction differs; nothing is written then.
    """
    texts = Texts(
        name=name,
        title=title,
        target=target,
        unit=unit,
        source=source,
        owner=owner,
        license=license,
        purpose=purpose,
        limits=limits,
    )
    parameters = {**asdict(texts), "engine": engine, "tolerance": tolerance}
    models = store if isinstance(store, Store) else open_store(store)
    with recording(models, name, EXPORT, parameters={key: value for key, value in parameters.items() if value}) as run:
        model = add(fitted, X, y, texts, holdout=holdout, store=models, engine=engine, tolerance=tolerance)
        run.add_version(model.manifest.document)
    return model


def add(
    fitted: Any,
    X: Any,
    y: Any,
    texts: Texts,
    *,
    holdout: tuple[Any, Any] | None,
    store: Store,
    engine: str,
    tolerance: float,
) -> Artifact:
    """Do what `export` does, but for the record of the run."""
    store.check_takes(texts.name)  # before the work
    if engine not in ENGINES:
        raise ExportError(f"the engine {engine!r} does not exist; choose one of {', '.join(ENGINES)}")
    if not 0 < tolerance <= MAX_ALLOWED:
        raise ExportError(f"the tolerance {tolerance:g} is not above 0 and at most {MAX_ALLOWED:g}")
    fitted = estimator_of(fitted)
    _check_predicts(fitted)
    names = fitted_names(fitted)
    table = frames.read(X, names if is_named(fitted) else None)
    _check_names(names, table)
    labels = labels_of(fitted)
    predicted = target_of(labels, texts.target or str(getattr(y, "name", None) or "target"), texts.unit)
    (matrix, predictions), targets = _read(fitted, labels, table, X, "table"), _targets(y, labels, len(X))
    validation = None
    if holdout is not None:
        if not isinstance(holdout, (tuple, list)) or len(holdout) != 2:
            raise ExportError("the holdout is not a pair of features and targets; pass holdout=(X, y)")
        X_new, y_new = holdout
        validation = _read(fitted, labels, table, X_new, "holdout")[0], _targets(y_new, labels, len(X_new))
    may_convert = engine == ONNX or isinstance(fitted, OnnxModel)
    candidate = learner.candidate(fitted, table, matrix, converted_within=tolerance if may_convert else None)
    _check_as_read(predictions, candidate, matrix)
    task = CLASSIFICATION if labels else REGRESSION
    subject = Subject(
        name=texts.name,
        title=texts.title or title_of(texts.name),
        task=task,
        target=predicted,
        purpose=texts.purpose,
        limits=texts.limits,
        tags={"task": task.name, "owner": texts.owner, "license": texts.license},
        data=Data(
            source=texts.source,
            sha256=hashlib.sha256(matrix.tobytes() + targets.tobytes()).hexdigest(),
            rows=len(matrix),
            warnings=[],
            split=None,
        ),
        was_checked=False,
        X=matrix,
        training=(matrix, targets),
        validation=validation,
    )
    checklist.print_schema(drafts.schema_of(subject, candidate), labels, targets)
    print(f"steps    {candidate.algorithm}: {candidate.summary} on the columns above")
    if may_convert and candidate.engine_facts["kind"] != CONVERTED_ENGINE:
        print("mind     it is compiled as without engine='onnx': the converter and its tolerance are not needed")
    if candidate.allowance:
        print(f"mind     {candidate.allowance.reason}")
    checklist.print_comparing()
    draft = drafts.draft_of(subject, candidate, figures={})
    model = store.load(f"{texts.name}@{store.add(texts.name, draft).name}")
    checklist.print_version(model, store)
    checklist.print_use(model, store)
    return model


def _check_predicts(fitted: Any) -> None:
    """Raise `ExportError` for what is no model, and say what to pass."""
    if isinstance(fitted, type):
        raise ExportError(f"{fitted.__name__} is a class; pass a fitted model of it")
    if isinstance(fitted, (str, Path)):
        raise ExportError(
            f"{str(fitted)!r} is the name of a file; pass the model in it, for example by joblib.load, or run "
            "python -m model import"
        )
    if not hasattr(fitted, "predict"):
        raise ExportError(
            f"{type(fitted).__name__} does not predict; pass a fitted estimator, or a pipeline that ends in one"
        )


def _check_names(names: Sequence[str], table: Frames) -> None:
    """Raise `ExportError` if a model was fitted on other columns, or in another order; LightGBM itself does not see."""
    columns = [column.name for column in table.columns]
    # LightGBM writes underscores for spaces; libraries make up the names of an array's columns.
    known = [name.replace(" ", "_") for name in columns]
    fitted_on = [name.replace(" ", "_") for name in names]
    if not table.is_array and set(known) & set(fitted_on) and known != fitted_on:
        raise ExportError(
            f"the model was fitted on the columns {', '.join(map(repr, names))}, and the table has "
            f"{', '.join(map(repr, columns))}; pass the columns that it was fitted on, in their order"
        )


def _read(
    fitted: Any, labels: Sequence[Category], table: Frames, X: Any, what: str
) -> tuple[Matrix, NDArray[np.float64]]:
    """Return a table as a matrix, and what the model itself answers for it."""
    X = table.select(X, what)
    try:
        predictions = answers(fitted, labels, X)
    except ExportError:
        raise
    except NotFittedError as error:
        raise ExportError(f"the model cannot be exported: {error}") from None
    except Exception as error:  # every library has classes of its own
        dated = next((column.name for column in table.columns if column.type == DATE), None)
        todo = (
            f"turn the dates in {dated!r} into numbers by Formulas, such as month({dated})"
            if dated
            else ("pass rows that it predicts")
        )
        raise ExportError(f"the model does not predict the {what}: {first_line(error)}; {todo}") from None
    matrix = table.matrix(X)
    infinite = [column.name for column, values in zip(table.columns, matrix.T) if np.isinf(values).any()]
    if infinite:
        raise ExportError(f"the {what} has infinite numbers in {', '.join(map(repr, infinite))}; leave those rows out")
    beyond = [
        column.name
        for column, values in zip(table.columns, matrix.T)
        if column.type == INTEGER and (np.abs(values) > frames.MAX_WHOLE).any()
    ]
    if beyond:
        raise ExportError(
            f"the {what} has whole numbers beyond 2**53 in {', '.join(map(repr, beyond))}, which float64 does not have "
            "exactly; make them categories of strings, or leave that column out, and fit again"
        )
    return matrix, predictions


def _targets(y: Any, labels: Sequence[Category], n_rows: int) -> NDArray[np.float64]:
    """Return the targets, or the positions of a classifier's labels, `(n_rows,)`."""
    if labels:
        given = np.asarray(y, dtype=object).reshape(-1)
        missing = np.asarray(pd.isna(given))
    else:
        try:
            if np.asarray(y).dtype.kind in "mM":
                raise TypeError("dates")
            given = np.asarray(y, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            raise ExportError("the targets are not numbers; a regression has one number for each row") from None
        missing = ~np.isfinite(given)
    if len(given) != n_rows:
        raise ExportError(f"there are {len(given)} targets for {n_rows} rows; pass one for each row")
    if missing.any():
        raise ExportError(f"{np.count_nonzero(missing)} targets are missing; leave those rows out")
    if not labels and np.abs(given).max(initial=0) > _MAX_TARGET:
        raise ExportError(
            f"the targets reach {np.abs(given).max():g}, and the sum of their squares overflows; fit the model on a "
            f"larger unit, in which they are below {_MAX_TARGET:g}"
        )
    return positions(given, labels) if labels else given


def _check_as_read(predictions: NDArray[np.float64], candidate: Candidate, matrix: Matrix) -> None:
    """Raise `ExportError` if the table was read differently than the model itself reads it for its predictions."""
    as_read = candidate.predict(matrix)
    if candidate.allowance:
        is_different = shares_of(candidate.allowance.of_rows(matrix), predictions, as_read[np.newaxis]) > 1
    else:
        is_different = differing(predictions, as_read, candidate.tolerance)
    different = np.flatnonzero(is_different)
    if len(different):
        raise ExportError(
            f"the model predicts {len(different)} of {len(matrix)} rows differently once the table was read as numbers "
            f"and categories, the first in row {different[0]}; look for cells of mixed types, such as 1 and '1'"
        )
