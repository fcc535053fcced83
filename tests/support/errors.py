"""What the tests of errors share."""

from __future__ import annotations

import json
from typing import Any

from tests.support.service import COLUMNS, HOUSE, strict_json

JSON = "application/json"
CSV = "text/csv"
ROW = list(HOUSE.values())
LINE = ",".join(map(str, ROW))
HEADER = ",".join(COLUMNS)

UNREADABLE: list[tuple[str, bytes]] = [
    (JSON, b""),
    (JSON, b" \n"),
    (JSON, b"hello"),
    (JSON, json.dumps(HOUSE).encode()[:-1]),
    (JSON, json.dumps(HOUSE).encode() + b"}"),
    (JSON, json.dumps({**HOUSE, "RM": float("nan")}).encode()[:-1]),
    (JSON, b'{"RM": 1e999, "\\ud800": 1}'),
    (JSON, b"{'RM': 6.575}"),
    (JSON, b"1"),
    (JSON, b'"house"'),
    (JSON, b"null"),
    (JSON, b"true"),
    (JSON, b'{"RM": "\xff"}'),
    (JSON, b'{"RM": "\\ud800"}'),
    (JSON, b"[" * 10_000 + b"]" * 10_000),
    (JSON, b'{"RM":' * 10_000 + b"1" + b"}" * 10_000),
    (CSV, b""),
    (CSV, b"\n\n"),
    (CSV, b'CHAS,RM\n"0,6.575\n'),
    (CSV, b"CHAS,RM\n\xff,6.575\n"),
    (CSV, b'CHAS,RM\n"0"1,6.575\n'),
    (CSV, b"CHAS," + b"x" * 200_000 + b"\n0,1\n"),
]


def refusal(reply: Any, status: int) -> list[dict[str, Any]]:
    """Return the details of an error reply after checking its status and its format."""
    body = strict_json(reply)
    assert reply.status_code == status, body
    assert list(body) == ["error", "status", "details"]
    assert body["status"] == status
    assert body["error"]
    keys = ["row", "feature", "reason"]
    assert all(list(each) == keys + ["nearest"] * (each["reason"] == "out of range") for each in body["details"])
    details: list[dict[str, Any]] = body["details"]
    return details
