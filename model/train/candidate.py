"""The candidate that every learner passes to the export. Knows no learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.runtime import Predict, Predictor
from model.schema.feature import Feature
from model.schema.features import Matrix


@dataclass(frozen=True, slots=True)
class Allowance:
    """How far the answers of a compiled model may be from the fitted one's, where there are no bits to match.

    `of_rows` returns it for rows, in the shape of their answers. `bound` says it in words, `reason` says why. For a
    converted model it is `converted_within` of the range of the answers, or of a probability.
    """

    of_rows: Predict
    bound: str
    reason: str
    converted_within: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fitted model of any library, with its compiled form.

    `predict` is the fitted model and `engine` the compiled one. Their answers have the form of `Artifact.predict` and
    may differ by the `tolerance`; at 0 they have the same bits. `engine_facts` say in the manifest how the engine is
    made of `files`, and with which `tolerance` another machine may replay it, if not with this one. `features` are what
    the model accepts; the export adds what is known of the table. `split_rows` `(n_rows, n_features)` are rows where
    the two would differ first, if there are any. `summary` describes the model's size, `packages` determine its bits.
    `files` go into the artifact, `facts` into its manifest. With an `allowance` the answers for a row may be apart by
    that instead of `tolerance`; the golden rows then have the compiled model's answers. `cover` `(n_nodes,)` is how
    many training rows came to each node of an engine of trees.
    """

    algorithm: str
    summary: str
    predict: Predict
    engine: Predictor
    engine_facts: Mapping[str, Any]
    features: tuple[Feature, ...]
    split_rows: Matrix
    packages: tuple[str, ...]
    files: Mapping[str, bytes]
    facts: Mapping[str, Any]
    tolerance: float = 0.0
    allowance: Allowance | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    cover: NDArray[np.float64] | None = None
