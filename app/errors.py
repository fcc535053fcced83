"""The errors that clients see, and the one table from error class to status."""

from __future__ import annotations

import math
import re

from model import (
    DeviceError,
    ExplanationError,
    NotInStoreError,
    PredictionLogError,
    SchemaError,
    TooManyRowsError,
    shortened,
)

_SCOPE_TOKEN = re.compile(r"[!#-\[\]-~]+")  # RFC 6749, section 3.3


class BodyError(Exception):
    """The body does not match its content type or the protocol."""


class TooLargeError(Exception):
    """The body has more bytes or values than the service accepts."""


class UnsupportedMediaTypeError(Exception):
    """The route does not read the content type or encoding."""


class OverloadedError(Exception):
    """More requests are waiting than the service will answer in time."""


class NotReadyError(Exception):
    """No verified model is loaded."""


class UnknownPredictionsError(Exception):
    """Feedback is for unknown predictions only."""


class AccessError(Exception):
    """The request's key does not allow it.

    `reason` is one of `app.web.exchange.REFUSALS`, and `headers` go with the reply.
    """

    def __init__(self, reason: str, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.reason = reason
        self.headers = headers


class UnauthorizedError(AccessError):
    """The request has no key, or none that is accepted."""

    def __init__(self, reason: str, message: str) -> None:
        # RFC 6750, section 3.1: no error is named to a client that sent nothing.
        error = "" if reason == "missing" else ', error="invalid_token"'
        super().__init__(reason, message, (("WWW-Authenticate", f'Bearer realm="tabserve"{error}'),))


class ForbiddenError(AccessError):
    """The request's key lacks the scope that the route needs."""

    def __init__(self, name: str, scope: str) -> None:
        challenge = 'Bearer realm="tabserve", error="insufficient_scope"'
        if _SCOPE_TOKEN.fullmatch(scope):  # it has the model's name from the path, which may be anything
            challenge += f', scope="{scope}"'
        message = f"the key of {name} lacks the scope {shortened(scope)}"
        super().__init__("scope", message, (("WWW-Authenticate", challenge),))


class TooManyRequestsError(AccessError):
    """A key has sent too many requests, or an address too many unknown keys."""

    def __init__(self, reason: str, message: str, seconds: float) -> None:
        wait = max(1, math.ceil(seconds))
        super().__init__(reason, f"{message}; try again in {wait} s", (("Retry-After", str(wait)),))


STATUS: dict[type[Exception], int] = {
    BodyError: 400,
    ExplanationError: 400,
    UnauthorizedError: 401,
    ForbiddenError: 403,
    NotInStoreError: 404,
    UnknownPredictionsError: 404,
    TooLargeError: 413,
    TooManyRowsError: 413,
    UnsupportedMediaTypeError: 415,
    SchemaError: 422,
    TooManyRequestsError: 429,
    OverloadedError: 503,
    PredictionLogError: 503,
    DeviceError: 503,
    NotReadyError: 503,
}
