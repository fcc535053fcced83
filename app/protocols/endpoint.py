"""What a protocol says about its predictions, and nothing about how they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from wsgiref.types import WSGIEnvironment

import numpy as np
from numpy.typing import NDArray

from app.config import Config
from app.errors import OverloadedError
from app.web import body
from app.web.refusal import Refuse
from app.web.reply import Reply
from model import Artifact, Matrix, Schema


@dataclass(frozen=True, slots=True)
class Request:
    """One request for predictions, as an endpoint decodes it."""

    environ: WSGIEnvironment
    schema: Schema
    config: Config
    overloaded: bool = False

    @property
    def max_rows(self) -> int:
        """Return the most rows that a request may have."""
        return self.config.max_rows

    def read(self) -> bytes:
        """Return the body, decompressed. Raises `OverloadedError`, and what `body.read` raises."""
        if self.overloaded:
            raise OverloadedError(f"more than {self.config.max_in_flight} requests are in flight here; try again")
        compressed = "HTTP_CONTENT_ENCODING" in self.environ
        table_bytes = self.schema.max_bytes(self.config.max_rows) if compressed else 0
        return body.read(self.environ, max_bytes=self.config.max_body_bytes, min_expanded_bytes=table_bytes)


class Decoded(NamedTuple):
    """The rows of a request, `(n_rows, n_features)`, and what else its reply depends on."""

    X: Matrix
    detail: Any = None


class Answer(NamedTuple):
    """The predictions `(n_rows,)` of a request, and all that an endpoint may write into its reply."""

    y: NDArray[np.float64]
    model: Artifact
    detail: Any
    request_id: str
    environ: WSGIEnvironment


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One way to ask for predictions, by POST.

    `rules` are Flask's; `<name>` and `<version>` in a rule choose the model, else it is the default one. `decode`
    raises what `refuse` makes a reply of, in the protocol's words. `describe` returns the operation in the OpenAPI
    document for a model.
    """

    name: str
    rules: Sequence[str]
    decode: Callable[[Request], Decoded]
    encode: Callable[[Answer], Reply]
    refuse: Refuse
    describe: Callable[[Artifact, Config], Mapping[str, Any]]
