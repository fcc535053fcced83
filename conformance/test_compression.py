"""Request bodies in gzip and deflate."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
import requests

from conformance.conftest import Refused, Same
from conformance.protocol import JSON, Server, error_of, to_binary

pytestmark = pytest.mark.compression

# As tritonclient compresses; RFC 9110 calls the zlib format "deflate".
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}

BOMB_BYTES = 64 * 2**20


def infer_compressed(server: Server, content: bytes, headers: dict[str, str], *, encoding: str) -> requests.Response:
    """Send a compressed request; a 415 says that the server does not take the encoding, as RFC 9110 has it."""
    reply = server.infer(content, {**headers, "Content-Encoding": encoding})
    if reply.status_code == 415:
        pytest.skip(f"the server does not take {encoding}")
    return reply


@pytest.mark.parametrize("encoding", COMPRESS)
def test_compressed_json(server: Server, infer_request: JSON, assert_same: Same, encoding: str) -> None:
    """A compressed request is answered like the request itself."""
    content = COMPRESS[encoding](json.dumps(infer_request).encode())

    assert_same(infer_compressed(server, content, {"Content-Type": "application/json"}, encoding=encoding))


@pytest.mark.binary
@pytest.mark.usefixtures("binary")
@pytest.mark.parametrize("encoding", COMPRESS)
def test_compressed_binary(server: Server, infer_request: JSON, assert_same: Same, encoding: str) -> None:
    """The JSON object and the binary tensors are compressed together; the header has the object's own length."""
    body, headers = to_binary(infer_request)

    assert_same(infer_compressed(server, COMPRESS[encoding](body), headers, encoding=encoding))


@pytest.mark.robust
@pytest.mark.parametrize("encoding", COMPRESS)
@pytest.mark.parametrize("damage", ["truncated", "not compressed", "empty"])
def test_damaged(server: Server, infer_request: JSON, assert_refused: Refused, encoding: str, damage: str) -> None:
    """A body that does not decompress is a 4xx with an error object."""
    content = json.dumps(infer_request).encode()
    bodies = {"truncated": COMPRESS[encoding](content)[:-12], "not compressed": content, "empty": b""}
    reply = server.infer(bodies[damage], {"Content-Type": "application/json", "Content-Encoding": encoding})

    assert_refused(reply)
    error_of(reply)


@pytest.mark.robust
def test_unknown_encoding(server: Server, infer_request: JSON, assert_refused: Refused) -> None:
    """An unknown encoding is a 4xx with an error object, not ignored."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "x-unknown"}
    reply = server.infer(json.dumps(infer_request).encode(), headers)

    assert_refused(reply)
    error_of(reply)


@pytest.mark.robust
@pytest.mark.parametrize("encoding", COMPRESS)
def test_bomb(server: Server, assert_refused: Refused, encoding: str) -> None:
    """A short body that decompresses to 64 MiB of blanks is a 4xx with an error object."""
    headers = {"Content-Type": "application/json", "Content-Encoding": encoding}
    reply = server.infer(COMPRESS[encoding](b" " * BOMB_BYTES), headers)

    assert_refused(reply)
    error_of(reply)
