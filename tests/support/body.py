"""What the tests of body share."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.support.service import HOUSE, PROTOCOLS, strict_json

ROW = list(HOUSE.values())
CODINGS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
every_coding = pytest.mark.parametrize("coding", CODINGS)


def plain_body(protocol: str, rows: Any = (ROW,)) -> bytes:
    """Return the body of a request of a protocol."""
    return json.dumps(PROTOCOLS[protocol].write(rows)).encode()


def post(client: FlaskClient, protocol: str, body: bytes, coding: str | None = None) -> TestResponse:
    """Send a body to a protocol's path with this Content-Encoding."""
    headers = {"Content-Type": "application/json"} | ({} if coding is None else {"Content-Encoding": coding})
    return client.post(PROTOCOLS[protocol].path, data=body, headers=headers)


def answer(reply: Any, protocol: str) -> list[float]:
    """Return the predictions of a reply."""
    assert reply.status_code == 200, reply.text
    return PROTOCOLS[protocol].read(strict_json(reply))


def bomb(coding: str, mebibytes: int) -> bytes:
    """Return a body that decompresses to so many MiB of spaces, from one deflate block that repeats."""
    deflate = zlib.compressobj(wbits=-15)
    block = deflate.compress(b" " * 2**20) + deflate.flush(zlib.Z_FULL_FLUSH)
    head = {"gzip": bytes([0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255]), "deflate": b"\x78\x01"}
    return head[coding] + block * mebibytes
