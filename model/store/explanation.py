"""Explains a version's answers: what is needed for that is made when an explanation is first asked for.

Before the first one is given, the contributions of the golden rows are computed again, and compared with those of the
export.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from threading import Lock

import numpy as np

from model.engine import explanation
from model.engine.explanation import Explained, Explainer, Numbers
from model.engine.linear import LinearEngine
from model.engine.runtime import Predictor
from model.errors import ExplanationError
from model.schema.features import Matrix
from model.store.manifest import Manifest

EXPLANATION = "explanation.npz"
TOLERANCE = 1e-9  # of the largest number that a row's contributions are made of


class Explanations:
    """Explains the answers of one version; may be used by several threads."""

    def __init__(self, manifest: Manifest, engine: Predictor, golden_rows: Matrix, content: bytes) -> None:
        """Take the engine that the manifest describes, and the content of the version's file of explanations."""
        self._manifest, self._engine, self._golden_rows, self._content = manifest, engine, golden_rows, content
        self._made: Explainer | str | None = None  # or why it cannot be made
        self._lock = Lock()

    def explain(self, X: Matrix, method: str | None = None) -> Explained:
        """Return what contributed to the answers for `X` `(n_rows, n_features)`, float64, 1 row or more.

        `method` is one of those that the manifest lists, the first if it is None. Raises `ExplanationError` for a
        version that is not explained, for another method, and for more rows than its `max_rows`.
        """
        offer = self._manifest.explanations
        if offer is None:
            raise ExplanationError(f"explanations are not offered: {self._manifest.not_explained}")
        if method is not None and method not in offer.methods:
            raise ExplanationError(f"{method!r} is not offered; choose one of: {', '.join(offer.methods)}")
        method = method or offer.methods[0]
        if len(X) > (most := offer.most_rows(method)):
            raise ExplanationError(
                f"{len(X):,} rows are too many to explain at once with this model; send at most {most:,}"
            )
        with self._lock:
            if self._made is None:
                self._made = self._load()
        if isinstance(self._made, str):
            raise ExplanationError(f"explanations are not offered: {EXPLANATION} cannot be used ({self._made})")
        try:
            return self._made.explain(X, method)
        except ValueError as error:  # of the tables for a label that no golden row has
            raise ExplanationError(f"an answer cannot be explained: {error}") from None

    @cached_property
    def importance(self) -> Mapping[str, float]:
        """Return by feature its share of the contributions to answers for training rows; empty if that is not known."""
        offer = self._manifest.explanations
        if offer is None or not offer.mean_absolute:
            return {}
        sizes = self.by_feature(np.array(list(offer.mean_absolute.values())))
        total = float(sizes.sum())
        return dict(zip(self._manifest.schema.names, (sizes / total).tolist())) if total > 0 else {}

    def by_feature(self, amounts: Numbers) -> Numbers:
        """Return amounts of the names that are explained `(n_names,)` as amounts of the features `(n_features,)`.

        What several features contribute together counts evenly for each.
        """
        return explanation.by_feature(self._members, len(self._manifest.schema.names), amounts)

    @cached_property
    def _members(self) -> Sequence[Sequence[int]]:
        return explanation.members_of(len(self._manifest.schema.names), explanation.parts_of(self._engine)[0])

    def _load(self) -> Explainer | str:
        """Return what explains answers, after replaying the golden rows; or why it cannot be used."""
        manifest, offer = self._manifest, self._manifest.explanations
        assert offer is not None
        try:
            is_linear = isinstance(self._engine, LinearEngine)
            facts, golden = explanation.unpack(self._content, offer.methods, is_linear=is_linear)
            names, steps = manifest.schema.names, manifest.steps
            made = explanation.explainer(self._engine, facts, names, steps, manifest.decision)
            if made.names != offer.names:
                raise ValueError("it explains other features than the manifest says")
            replay(made, self._golden_rows, golden)
        except ValueError as error:
            return str(error)
        return made


def golden_of(explainer: Explainer, X: Matrix, method: str) -> Numbers:
    """Return base and contributions of each row, `(n_rows, 1 + n_names)`."""
    found = explainer.explain(X, method)
    return np.column_stack([found.bases, found.contributions])


def replay(explainer: Explainer, X: Matrix, golden: Mapping[str, Numbers]) -> None:
    """Raise `ValueError` if golden rows `X` are explained otherwise than `golden` says, by method."""
    for method, expected in golden.items():
        found = golden_of(explainer, X, method)
        if expected.shape != found.shape:
            raise ValueError(f"its golden contributions have the shape {expected.shape}, not {found.shape}")
        if not np.isfinite(expected).all():
            raise ValueError("its golden contributions are not finite")
        scale = np.abs(expected).max(axis=1, keepdims=True)
        different = ~(np.abs(found - expected) <= TOLERANCE * scale).all(axis=1)  # negated, for NaN
        if different.any():
            raise ValueError(
                f"{np.count_nonzero(different)} of {len(X)} golden rows are explained differently than at the export"
            )
