"""What is known of one request: filled in on its way through, counted and logged when it has left."""

from __future__ import annotations

from dataclasses import dataclass, field
from wsgiref.types import WSGIEnvironment

import numpy as np
from numpy.typing import NDArray

from model import Artifact, Matrix

UNMATCHED = "unmatched"  # the route of a path that is none: junk paths must not make series
NOTHING = np.empty(0)

_KEY = "tabserve.visit"


@dataclass(slots=True)
class Visit:
    """One request. Routes fill in what only they know; the door, what is known when the reply leaves."""

    request_id: str
    method: str = ""
    route: str = UNMATCHED
    model: Artifact | None = None  # that the request is for, also where it is refused
    X: Matrix = field(default_factory=lambda: NOTHING)  # (n_rows, n_features) that was predicted from
    y: NDArray[np.float64] = field(default_factory=lambda: NOTHING)  # (n_rows,) that was answered
    engine_seconds: float = 0
    status: int = 500
    seconds: float = 0  # in the application
    time: float = 0  # when it left, since the epoch


def enter(environ: WSGIEnvironment, guest: Visit) -> None:
    """Have `visit` find the guest."""
    environ[_KEY] = guest


def visit(environ: WSGIEnvironment) -> Visit:
    """Return the visit of the request that `environ` describes."""
    found: Visit = environ[_KEY]
    return found
