"""The checklist that a training or an export prints: what is accepted, what was proven, how good it is, how to ask."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from model.errors import one_line
from model.metrics import AnyScores, ClassificationScores, short
from model.schema.feature import Category, described, to_text
from model.schema.features import Schema
from model.schema.numbers import is_number
from model.store.artifact import Artifact
from model.store.manifest import CONVERTED_ENGINE, Manifest, Proof
from model.store.versions import CHAMPION, Store
from model.train.card import curl

_MAX_SHOWN = 6  # categories in a line


def print_under(word: str, lines: Sequence[str], *, file: TextIO | None = None) -> None:
    """Print lines below each other, the first of them behind a word, on standard output or in a file."""
    for number, line in enumerate(lines):
        print(f"{word if number == 0 else '':<8} {one_line(line)}".rstrip(), file=file, flush=True)


def print_schema(schema: Schema, labels: Sequence[Category], targets: NDArray[np.float64]) -> None:
    """Print a line for each column: its type, what was seen of it, and what else is accepted; then one for labels.

    `targets` `(n_rows,)` are the positions of the labels, of which a regression has none.
    """
    width = max(len(feature.name) for feature in schema.features)
    print_under("schema", [f"{each.name:<{width}}  {each.type:<8}  {described(each)}" for each in schema.features])
    if labels:
        print(f"target   {one_line(schema.target.name)}: {_shares(labels, targets)}")


def print_comparing() -> None:
    """Print that the long comparison starts."""
    print("compare  the fitted and the served model, row by row; large ones take a minute", flush=True)


def print_version(model: Artifact, models: Store) -> None:
    """Print what was proven of a version that was written, and how good it is."""
    if model.manifest.proof:
        print(f"proof    {_proof_line(model.manifest, model.manifest.proof)}")
    print(f"golden   {len(model.golden_rows)} rows, which every server replays before it is ready")
    for part, scores in (("training", model.manifest.metrics.training), ("holdout", model.manifest.metrics.validation)):
        print(f"{part:<8} {_scores_line(scores) if scores else 'none, so there is no figure for new rows'}")
    if intervals := model.manifest.intervals:
        level = 0.9 if 0.9 in intervals.levels else intervals.levels[-1]
        width = intervals.half_widths[level]
        print(
            f"interval {level:.0%} of new rows like these are within ±{short(width)}; ask for it by ?interval={level:g}"
        )
    place = f"{models.place}/{model.name}/{model.version}"
    print(f"written  {place}: version {model.version}; card.md in it says how good it is, and where")


def print_use(model: Artifact, store: Store) -> None:
    """Print whether a version that was written is the champion, and how to serve and ask the model."""
    champion = store.aliases(model.name)[CHAMPION]
    if champion == model.version:
        print(f"champion version {champion}, which a server loads")
    else:
        print(
            f"champion is still version {champion}, which is served and asked below; to change that: "
            f"{_promote_line(model, store)}"
        )
    is_converted = model.manifest.engine == CONVERTED_ENGINE
    place = store.place if "://" in store.place else str(store.root.resolve())
    serve = f"make run MODEL={model.name} STORE={shlex.quote(place)}"
    print(f"serve    in a clone of Tabserve: {'TABSERVE_ALLOW_CONVERTED=true ' if is_converted else ''}{serve}")
    print(f"ask      {curl(model.name, model.schema, model.golden_rows[0])}")


def _promote_line(model: Artifact, store: Store) -> str:
    """Return the command that makes a version the champion."""
    named = "" if store.place == "store" else f"--store {shlex.quote(store.place)} "
    return f"python -m model {named}promote {model.name}@{model.version}"


def _proof_line(manifest: Manifest, proof: Proof) -> str:
    at_splits = f"{proof.split_rows:,} on both sides of splits, " if proof.split_rows else ""
    rows = (
        f"{proof.n_rows:,} rows ({proof.table_rows:,} of the table, {proof.random_rows:,} random, {at_splits}"
        f"{proof.limit_rows:,} at limits and of each category)"
    )
    differ = f"{proof.different_rows:,} differ in a bit, by {proof.largest_relative_difference:.1e} at most"
    allowed = manifest.document["engine"].get("allowed_difference")
    if allowed is not None:
        bound = f"{allowed:g}" if is_number(allowed) else allowed
        return f"{rows}: {differ}, and by {proof.largest_share_of_allowed:.0%} of what is allowed: {bound}"
    if proof.different_rows:
        return f"{rows}: {differ}; {manifest.tolerance:g} is allowed"
    return f"{rows}: 0 differ in any bit"


def _shares(labels: Sequence[Category], targets: NDArray[np.float64]) -> str:
    """Return the labels of a classifier, each with its share of the rows."""
    shares = np.bincount(targets.astype(np.intp), minlength=len(labels)) / len(targets)
    texts = [repr(label) if isinstance(label, str) else to_text(label) for label in labels[:_MAX_SHOWN]]
    some = [f"{text} {share:.1%}" for text, share in zip(texts, shares)]
    more = len(labels) - len(some)
    return f"{', '.join(some)}{f' and {more} more' if more else ''}"


def _scores_line(scores: AnyScores) -> str:
    if isinstance(scores, ClassificationScores):
        auc = "not defined" if scores.auc is None else f"{scores.auc:.4f}"
        return f"{scores.rows:,} rows: log loss {scores.log_loss:.4g}, accuracy {scores.accuracy:.2%}, AUC {auc}"
    return f"{scores.rows:,} rows: RMSE {short(scores.rmse)}, MAE {short(scores.mae)}, R² {scores.r2:.4f}"
