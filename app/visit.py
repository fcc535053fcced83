"""What is known of one request: filled in on its way through, counted and logged when it has left."""

from __future__ import annotations

from dataclasses import dataclass
from wsgiref.types import WSGIEnvironment

import numpy as np
from numpy.typing import NDArray

from model import Artifact, Matrix

UNMATCHED = "unmatched"  # the route of a path that is none: junk paths must not make series
_KEY = "tabserve.exchange"


@dataclass(slots=True)
class Exchange:
    """One request. Routes fill in what only they know; the door, what is known when the reply leaves."""

    request_id: str
    method: str = ""
    route: str = UNMATCHED
    is_probe: bool = False  # asks how the service is, and nothing else
    traceparent: str = ""  # as the caller sent it
    model: Artifact | None = None  # that the request is for, also where it is refused
    rows: int = 0  # that were answered
    X: Matrix | None = None  # (rows, n_features), what they were answered to
    y: NDArray[np.float64] | None = None  # (rows,), the answers
    failure: Exception | None = None  # why there are none
    engine_seconds: float = 0  # its share, where requests were run together
    status: int = 500
    seconds: float = 0  # in the application
    time: float = 0  # when it left, since the epoch


def attach(environ: WSGIEnvironment, exchange: Exchange) -> None:
    """Have `visit` find the exchange."""
    environ[_KEY] = exchange


def exchange_of(environ: WSGIEnvironment) -> Exchange:
    """Return the visit of the request that `environ` describes."""
    found: Exchange = environ[_KEY]
    return found
