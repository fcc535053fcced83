"""JSON-RPC 2.0 as the Model Context Protocol uses it: messages from parsed JSON, and replies. Knows no method.

Source: the JSON-RPC 2.0 specification. MCP narrows it: an id is a string or a number and never null, and parameters are
an object.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND, INVALID_PARAMS, INTERNAL_ERROR = -32700, -32600, -32601, -32602, -32603

VERSION = "2.0"

Id = str | int | float | None


class RpcError(Exception):
    """A request cannot be answered; `code` says why to a program, the message to a person."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(message)
        self.code = code
        self.data = data


class Message(NamedTuple):
    """A request, or with the id None a notification or a response, to which there is no reply."""

    id: Id
    method: str
    params: Mapping[str, Any]


def parse(value: Any) -> Message:
    """Return the message that a JSON value is. Raises `RpcError` if it is none."""
    if not isinstance(value, dict) or value.get("jsonrpc") != VERSION:
        raise RpcError(INVALID_REQUEST, f'the message is not an object with "jsonrpc": "{VERSION}"')
    if "method" not in value:
        if "id" in value and ("result" in value) != ("error" in value):
            return Message(None, "", {})
        raise RpcError(INVALID_REQUEST, "the message has no method")
    method, params = value["method"], value.get("params", {})
    if not isinstance(method, str):
        raise RpcError(INVALID_REQUEST, "the method is not a string")
    if not isinstance(params, dict):
        raise RpcError(INVALID_REQUEST, "params is not an object")
    if "id" not in value:
        return Message(None, method, params)
    if not _is_id(value["id"]):
        raise RpcError(INVALID_REQUEST, "the id is neither a string nor a finite number")
    return Message(value["id"], method, params)


def id_of(value: Any) -> Id:
    """Return the id of a JSON value that may be a message; None where it has no valid one."""
    found = value.get("id") if isinstance(value, dict) else None
    return found if _is_id(found) else None


def result(id: Id, value: Any) -> dict[str, Any]:
    """Return the reply to a request that was answered."""
    return {"jsonrpc": VERSION, "id": id, "result": value}


def error(id: Id, code: int, message: str, data: Any = None) -> dict[str, Any]:
    """Return the reply to a request that could not be answered; `id` is None if it is not known."""
    found = {"code": code, "message": message}
    return {"jsonrpc": VERSION, "id": id, "error": found if data is None else {**found, "data": data}}


def _is_id(value: Any) -> bool:
    return type(value) in (str, int) or (type(value) is float and math.isfinite(value))
