"""The errors that clients see, and the one table from error class to status."""

from __future__ import annotations

from model import (
    DeviceError,
    ExplanationError,
    NotInStoreError,
    PredictionLogError,
    SchemaError,
    TooManyRowsError,
)


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


STATUS: dict[type[Exception], int] = {
    BodyError: 400,
    ExplanationError: 400,
    NotInStoreError: 404,
    UnknownPredictionsError: 404,
    TooLargeError: 413,
    TooManyRowsError: 413,
    UnsupportedMediaTypeError: 415,
    SchemaError: 422,
    OverloadedError: 503,
    PredictionLogError: 503,
    DeviceError: 503,
    NotReadyError: 503,
}
