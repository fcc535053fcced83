"""What an artifact has for explaining its answers; it is proven before it is written."""

from __future__ import annotations

from typing import Any

import numpy as np

from model.engine import explanation, steps
from model.engine.explanation import INTERVENTIONAL, PATH_DEPENDENT, Explained, Explainer, Facts, Numbers, TreeParts
from model.engine.linear import LinearEngine
from model.engine.runtime import TreesEngine
from model.engine.trees import Trees
from model.schema.features import Matrix
from model.store.explanation import EXPLANATION, TOLERANCE, golden_of, replay
from model.store.manifest import MAX_EXPLAINED
from model.train.candidate import Candidate

BACKGROUND_ROWS = 100
_PROVEN_ROWS = 1_000  # of the table, at random
_WALKED_AT_ONCE = 2**26  # players on the paths of leaves that are computed for each row: some seconds
_MOST_WALKED = 2**21  # of one row

Explanations = tuple[dict[str, Any], dict[str, bytes]]
"""What the manifest says about explanations, and the file for them, if they are offered."""


def explanations_of(candidate: Candidate, names: tuple[str, ...], golden: Matrix, X: Matrix) -> Explanations:
    """Return how a candidate's answers are explained, or why they are not.

    `names` are those of its features, `golden` and `X`, both `(n_rows, n_features)`, the golden rows and the training
    table. How much each contributes is the mean over at most 1,000 rows of the table. Explanations are not offered if
    they do not add up to the answers, or if they are other ones where they are computed leaf by leaf.
    """
    of_sums = steps.parse(candidate.engine_facts.get("steps", []))
    if reason := explanation.not_offered(of_sums):
        return _none(reason)
    engine, decision = candidate.engine, candidate.engine_facts.get("decision")
    sample = X[np.random.default_rng(0).permutation(len(X))[:_PROVEN_ROWS]]
    _, inner = explanation.parts_of(engine)
    trees = inner.trees if isinstance(inner, TreesEngine) else None
    if isinstance(inner, LinearEngine):
        facts, methods = Facts(means=inner.columns.run(X).mean(axis=0)), [INTERVENTIONAL]
    elif trees is not None:
        background = sample[:BACKGROUND_ROWS]
        facts, methods = Facts(cover=candidate.cover, background=background), [PATH_DEPENDENT, INTERVENTIONAL]
    else:
        return _none("only trees and linear models are explained")

    def made(**options: int) -> Explainer:
        return explanation.explainer(engine, facts, names, of_sums, decision, **options)

    explainer, found, max_rows = made(), dict[str, Numbers](), dict[str, int]()
    means, n_rows = dict[str, float](), 0
    if len(explainer.names) > MAX_EXPLAINED:
        return _none(f"it has more than {MAX_EXPLAINED:,} features and columns of several features")
    if len(set(explainer.names)) < len(explainer.names):
        return _none("a column of several features would have the name of another feature")
    for method in methods:
        try:
            explainer.explain(golden[:1], method)
        except ValueError:  # categories of so many values that there is no room for tables
            continue
        walked = explainer.parts.walked(method) if isinstance(explainer.parts, TreeParts) else 0
        if walked > _MOST_WALKED:
            continue
        if walked:
            max_rows[method] = max(1, _WALKED_AT_ONCE // walked)
        found[method] = golden_of(explainer, golden, method)
        rows = np.vstack([golden, sample[: max(1, _WALKED_AT_ONCE // max(1, walked))]])
        explained = explainer.explain(rows, method)
        if not _adds_up(explained, trees):
            return _none("they do not add up to the answers")
        if not means:
            of_table = explained.contributions[len(golden) :]
            means, n_rows = dict(zip(explainer.names, np.abs(of_table).mean(axis=0).tolist())), len(of_table)
    if not found:
        return _none("its trees have too many leaves behind many features")
    if trees is not None and PATH_DEPENDENT in found:
        some = slice(max(1, min(len(golden), _WALKED_AT_ONCE // (100 * len(trees.leaves)))))
        try:
            replay(made(max_table_bytes=0), golden[some], {PATH_DEPENDENT: found[PATH_DEPENDENT][some]})
        except ValueError as error:
            return _none(f"two ways of computing them differ: {error}")
    offer = {
        "file": EXPLANATION,
        "methods": list(found),
        "explains": explanation.explains(of_sums, is_classifier=decision is not None),
        "names": list(explainer.names),
        **({"max_rows": max_rows} if max_rows else {}),
        "mean_absolute": means,
        "mean_absolute_rows": n_rows,
    }
    return {"explanations": offer}, {EXPLANATION: facts.pack(found)}


def _none(reason: str) -> Explanations:
    return {"explanations": {"reason": reason}}, {}


def _adds_up(found: Explained, trees: Trees | None) -> bool:
    """Return whether the residuals are those of rounding: of sums in float32, if the leaves are."""
    share = TOLERANCE if trees is None or trees.leaves.dtype == np.float64 else len(trees.roots) * 2.0**-23
    scale = np.abs(found.contributions).sum(axis=1) + np.abs(found.bases)
    return bool((np.abs(found.residuals) <= share * scale).all())
