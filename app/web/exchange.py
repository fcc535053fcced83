"""One HTTP exchange: what is known about a request and its reply, for the logs and metrics."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from wsgiref.types import StartResponse, WSGIEnvironment

import numpy as np
from numpy.typing import NDArray

from app.web.caller import Caller
from model import Artifact, Explained, Matrix

REFUSALS = ("missing", "unknown", "expired", "scope", "rate", "guesses")  # why a request is refused for its key
UNMATCHED = "unmatched"  # the route of unknown paths, which must not make series of their own
KEY = "tabserve.exchange"  # of the exchange in the environment of its request
_ID_KEY = "tabserve.request_id"  # of an id that was made for a request
# A client's request id that is kept: it is sent back in a header and written to the log.
REQUEST_ID = re.compile(r"[!-~]{1,128}")
# W3C Trace Context: version, trace id, the client's span id, flags; later versions may append fields.
TRACEPARENT = re.compile(
    r"(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


@dataclass(slots=True)
class Trace:
    """What is known of a request for its trace: the ids of its span once that is made, and when its steps were over.

    `read_seconds` and `decoded_seconds` are since the request's start, `explained_seconds` is what explaining took.
    """

    trace_id: str = ""
    span_id: str = ""
    read_seconds: float = 0
    decoded_seconds: float = 0
    explained_seconds: float = 0


@dataclass(slots=True)
class Exchange:
    """One request and its reply. Routes fill in the model and the predictions; the middleware, status and times."""

    request_id: str
    method: str = ""
    route: str = UNMATCHED
    is_probe: bool = False  # a health check
    traceparent: str = ""  # as the client sent it
    caller: Caller | None = None  # whose key it has, where keys are asked for
    refused: str = ""  # why its key was, one of `REFUSALS`
    model: Artifact | None = None  # which the request is for, also if it is refused
    names_version: bool = False  # the path does
    rows: int = 0  # rows with a prediction
    X: Matrix | None = None  # (rows, n_features)
    y: NDArray[np.float64] | None = None  # the answers, as of `Artifact.predict`
    explained: Explained | None = None  # what contributed to them, if that was asked for
    engine_seconds: float = 0  # its share of a run for several requests
    status: int = 500
    is_refused: bool = False  # in a protocol whose reply says so with status 200
    seconds: float = 0  # in the application
    time: float = 0  # of the reply, since the epoch
    trace: Trace | None = None  # where requests are traced


def exchange_of(environ: WSGIEnvironment) -> Exchange:
    """Return the exchange of a request, which the middleware stored."""
    found: Exchange = environ[KEY]
    return found


def request_id(environ: WSGIEnvironment) -> str:
    """Return the id of a request: the client's, if that is 1 to 128 visible ASCII characters, else one made for it."""
    sent: str | None = environ.get("HTTP_X_REQUEST_ID")
    if sent and REQUEST_ID.fullmatch(sent):
        return sent
    made: str | None = environ.get(_ID_KEY)
    if not made:
        made = environ[_ID_KEY] = os.urandom(16).hex()
    return made


WSGICall = tuple[WSGIEnvironment, StartResponse]
"""The arguments of a WSGI application."""
