"""How a request is refused: from an error to the reply, in the words of a protocol."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Blueprint, Flask
from werkzeug.exceptions import HTTPException, InternalServerError

from app.errors import STATUS
from app.web.reply import Reply
from model import Problem, SchemaError

# Enough to see what is wrong with a table; a longer list would outgrow the request that caused it.
MAX_DETAILS = 1_000
RETRY_AFTER_SECONDS = 1

_MESSAGES = {
    404: "not found; see / for the paths",
    405: "method not allowed; see the Allow header for those that are",
    500: "internal error; find it in the log by this request's id",
}


KNOWN = (*STATUS, HTTPException)
"""The errors that have a status of their own; any other is a defect of the service."""

Refuse = Callable[[Exception], Reply]


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a client learns about an error; each protocol renders it in its own format."""

    status: int
    message: str
    problems: Sequence[Problem] = ()
    more: bool = False  # there may be further problems, which were not looked for

    def full_message(self) -> str:
        """Return one message with every problem, for protocols whose errors are one string."""
        if len(self.problems) < 2:
            return self.message
        listed = "; ".join(map(str, self.problems[:MAX_DETAILS]))
        rest, more = len(self.problems) - MAX_DETAILS, "more than " if self.more else ""
        return f"{more}{len(self.problems)} problems: {listed}" + (f"; and {more}{rest} more" if rest > 0 else "")


def readiness(body: dict[str, Any], *, ready: bool) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Return the reply to a readiness check: 200, or 503 with Retry-After."""
    return (body, 200, {}) if ready else (body, 503, {"Retry-After": str(RETRY_AFTER_SECONDS)})


def native(refusal: Refusal) -> dict[str, Any]:
    """Return the body of an error in the native API: `{"error", "status", "details"}`."""
    details = [_detail(problem) for problem in refusal.problems[:MAX_DETAILS]]
    return {"error": refusal.message, "status": refusal.status, "details": details}


def _detail(problem: Problem) -> dict[str, Any]:
    detail: dict[str, Any] = {"row": problem.row, "feature": problem.feature, "reason": problem.reason}
    if problem.nearest is not None:
        detail["nearest"] = problem.nearest
    return {**detail, "accepted": problem.accepted} if problem.accepted else detail


def message(refusal: Refusal) -> dict[str, Any]:
    """Return the body of an error in V1, V2 and Vertex AI: every problem in one string."""
    return {"error": refusal.full_message()}


def refuser(render: Callable[[Refusal], dict[str, Any]], *, unfit: int) -> Refuse:
    """Return the function that makes the reply to an error, with a body that `render` makes.

    `unfit` is the status for rows that do not fit the schema. A 500 tells the client nothing about the inside.
    """

    def refuse(error: Exception) -> Reply:
        if not isinstance(error, KNOWN):
            error = InternalServerError()
        status = next((status for error_class, status in STATUS.items() if isinstance(error, error_class)), 500)
        refusal = Refusal(status, str(error))
        headers = []
        if isinstance(error, SchemaError):
            refusal = Refusal(unfit, str(error), error.problems, more=error.more)
        elif isinstance(error, HTTPException):
            status = error.code or 500
            refusal = Refusal(status, _MESSAGES.get(status, error.description or error.name))
            headers = [(name, value) for name, value in error.get_headers() if name == "Allow"]
        if refusal.status == 503:
            headers.append(("Retry-After", str(RETRY_AFTER_SECONDS)))
        return Reply(orjson.dumps(render(refusal)), status=refusal.status, headers=headers)

    return refuse


refuse_natively = refuser(native, unfit=422)
refuse_in_one_message = refuser(message, unfit=400)


def register(scope: Flask | Blueprint, refuse: Refuse) -> None:
    """Have `refuse` make the reply to every known error of the routes of `scope`, Flask's own errors included."""
    for error_class in KNOWN:
        scope.register_error_handler(error_class, refuse)
