"""What a protocol says about its predictions, and nothing about how they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from wsgiref.types import WSGIEnvironment

import numpy as np
from numpy.typing import NDArray

from app.config import Config
from app.web.refusal import Refuse
from app.web.reply import Reply
from model import Artifact, Category, Intervals, Matrix, Schema


class Request(NamedTuple):
    """One request for predictions, as an endpoint decodes it: its body, decompressed, and the type of its content."""

    body: bytes
    media_type: str  # "" for an endpoint without media types
    parameters: Mapping[str, str]  # of the media type
    environ: WSGIEnvironment
    schema: Schema
    max_rows: int
    max_expanded_bytes: int  # of what is compressed within the body
    intervals: Intervals | None  # that the model has


class Decoded(NamedTuple):
    """The rows of a request, `(n_rows, n_features)`, and what else its reply depends on."""

    X: Matrix
    detail: Any = None


class Answer(NamedTuple):
    """A model's answers to a request, as of `Artifact.predict`, and all that an endpoint may write into its reply.

    `X` `(n_rows, n_features)` are the rows that were answered.
    """

    y: NDArray[np.float64]
    X: Matrix
    model: Artifact
    detail: Any
    request_id: str
    environ: WSGIEnvironment

    @property
    def predictions(self) -> NDArray[np.float64] | list[Category]:
        """Return a number for each row, or a label."""
        if self.y.ndim == 1:
            return self.y
        classes = self.model.manifest.classes
        return [classes[int(position)] for position in self.y[:, 0].tolist()]

    @property
    def probabilities(self) -> NDArray[np.float64]:
        """Return a classifier's probabilities `(n_rows, n_classes)`, in the order of its classes."""
        return np.ascontiguousarray(self.y[:, 1:])


def _never(environ: WSGIEnvironment) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to ask for predictions, by POST.

    `rules` are Flask's; `<name>` and `<version>` in a rule choose the model, else it is the default one. A request has
    one of the `media_types`; if there are none, its type is ignored. `decode` raises what `refuse` makes a reply of,
    in the protocol's words. `describe` returns the operation in the OpenAPI document for a model. `may_block` says of a
    small request whether its reply may take long: the server's event loop then answers others meanwhile.
    """

    name: str
    rules: Sequence[str]
    decode: Callable[[Request], Decoded]
    encode: Callable[[Answer], Reply]
    refuse: Refuse
    describe: Callable[[Artifact, Config], Mapping[str, Any]]
    media_types: Sequence[str] = ()
    may_block: Callable[[WSGIEnvironment], bool] = _never
