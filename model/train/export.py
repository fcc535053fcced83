"""Turn a candidate into the draft of an artifact: proven equal to its compiled graph, and described."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from model.plots import style
from model.schema import features
from model.schema.feature import BOOLEAN, CATEGORY, Feature
from model.schema.features import Matrix, Schema
from model.store import artifact, reference
from model.store.artifact import Draft
from model.store.card import CARD
from model.store.manifest import Metrics
from model.store.runs import git_commit
from model.task import REGRESSION
from model.train import card, conformal, evaluation, proof
from model.train.candidate import Candidate
from model.train.explain import explanations_of
from model.train.subject import Subject

GOLDEN_ROWS = 64

# The packages that determine a model's bits, besides those of its algorithm; install these versions to reproduce it.
_PACKAGES = ("numpy", "onnx", "onnxruntime", "pandas")


def draft_of(
    subject: Subject, candidate: Candidate, *, figures: Mapping[str, Figure], notebook: str | None = None
) -> Draft:
    """Prove the compiled model equal to the fitted one and collect the contents of the artifact.

    The candidate's features have names, units and descriptions. `figures` are those beside the figures of `evaluation`,
    which are drawn of every model. Raises `ProofError` if one prediction differs in a bit, or by more than the
    tolerance, and `ArtifactError` for a draft that a server would not load.
    """
    schema = schema_of(subject, candidate)
    comparison = proof.prove(
        candidate.predict,
        candidate.engine.predict,
        schema=schema,
        table_rows=subject.X,
        split_rows=candidate.split_rows,
        tolerance=candidate.tolerance,
        allowance=candidate.allowance,
    )
    golden = golden_rows(subject.X, candidate.split_rows, proof.limit_rows(schema))
    X_train, y_train = subject.training
    answers = candidate.predict(X_train)
    predictions = answers if answers.ndim == 1 else answers[:, 0]
    task = subject.task
    scores = Metrics(
        training=task.scores(y_train, answers),
        validation=task.scores(subject.validation[1], candidate.predict(subject.validation[0]))
        if subject.validation
        else None,
    )
    found = evaluation.evaluate(subject, candidate.engine.predict, schema, scores.validation)
    intervals = None
    if subject.validation and task is REGRESSION:
        X_new, y_new = subject.validation
        intervals = conformal.facts(np.abs(y_new - candidate.engine.predict(X_new)))
    explained, explanation_files = explanations_of(candidate, schema.names, golden, X_train)
    facts = {
        "title": subject.title,
        "task": task.name,
        "algorithm": candidate.algorithm,
        "summary": candidate.summary,
        **features.to_manifest(schema),
        **candidate.facts,
        "metrics": asdict(scores),
        **({"evaluation": found.facts()} if found else {}),
        **({"intervals": intervals} if intervals else {}),
        **explained,
        "data": asdict(subject.data),
        "code": {"git_commit": git_commit(), "notebook": notebook},
        "environment": {
            "python": platform.python_version(),
            "machine": platform.machine(),
            "packages": _versions({*_PACKAGES, *candidate.packages}),
            **candidate.environment,
        },
        "tags": dict(subject.tags),
        "engine": {"tolerance": candidate.tolerance, **candidate.engine_facts, "parity": asdict(comparison)},
        "purpose": subject.purpose,
        "limits": subject.limits,
    }
    # Where the fitted model differs from itself by the batch, servers repeat the compiled one.
    golden_predict = candidate.engine.predict if candidate.allowance else candidate.predict
    pictures = {**figures, **evaluation.figures(subject, candidate.engine.predict, found)}
    files = {
        artifact.GOLDEN: artifact.to_golden(schema.names, golden, golden_predict(golden)),
        artifact.REFERENCE: artifact.to_json(reference.reference(X_train, predictions, schema)),
        **candidate.files,
        **explanation_files,
        CARD: card.render(
            subject, candidate, schema, scores, comparison, found, intervals, explained["explanations"]
        ).encode(),
        **{f"plots/{name}.png": style.to_png(figure) for name, figure in pictures.items()},
    }
    draft = Draft(manifest=facts, files=files)
    with TemporaryDirectory() as folder:  # what a server would refuse is no version
        artifact.load(artifact.save(draft, Path(folder) / "1", name="draft", version=1))
    return draft


def schema_of(subject: Subject, candidate: Candidate) -> Schema:
    """Return the schema with the ranges of the training rows and the limits of the fitted model."""
    X, y = subject.training
    return Schema(
        features=tuple(with_range(feature, values) for feature, values in zip(candidate.features, X.T)),
        target=with_range(subject.target, y),
    )


def with_range(feature: Feature, values: NDArray[np.float64]) -> Feature:
    """Return a feature with the range of its values `(n_rows,)`; a column without any has the range 0 to 0.

    A category and a boolean have no range.
    """
    if feature.type in (BOOLEAN, CATEGORY):
        return feature
    known = values[~np.isnan(values)]
    if not len(known):
        return replace(feature, minimum=0.0, maximum=0.0)
    return replace(feature, minimum=float(known.min()), maximum=float(known.max()))


def golden_rows(X: Matrix, split_rows: Matrix, limit_rows: Matrix) -> Matrix:
    """Return the golden rows: the table's first row, others of the table, rows at splits and at limits."""
    random = np.random.default_rng(0)
    n_limits = min(len(limit_rows), GOLDEN_ROWS // 2)
    spare = GOLDEN_ROWS - 1 - n_limits
    n_splits = min(len(split_rows), spare - spare // 2)
    others = random.permutation(X)[: spare - n_splits]
    at_splits = random.permutation(split_rows)[:n_splits]
    if n_limits < len(limit_rows):  # the first two have all lowest and all highest values
        limit_rows = np.vstack([limit_rows[:2], random.permutation(limit_rows[2:])[: n_limits - 2]])
    return np.vstack([X[:1], others, at_splits, limit_rows])


def _versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package; one that is imported by another name than it is installed has the latter."""
    installed = _distributions()
    return {name: version(name) for name in sorted(installed.get(package, [package])[0] for package in packages)}


@cache
def _distributions() -> Mapping[str, Sequence[str]]:
    """Return the installed packages by the names that they are imported by, which takes half a second to find."""
    return packages_distributions()
