"""Owns the rule that the end of a chunked body is found where gunicorn finds it."""

from __future__ import annotations

from gunicorn.config import Config
from gunicorn.http.errors import NoMoreData
from gunicorn.http.parser import RequestParser
from hypothesis import example, given
from hypothesis import strategies as st

from app.server.bodies import Chunked, ReceivedBytes
from tests.support.http_cases import CHUNKED, LAST, chunks, post

bodies = st.builds(chunks, st.binary(max_size=200), st.integers(1, 70))
ends = st.sampled_from([LAST, b"00;a=b\r\n\r\n", b"0\r\nX: y\r\nZ: w\r\n\r\n"])
sizes = st.sampled_from([b"4", b"0004", b"4 ; a = b", b'4;a="x"', b"4;a;b"])
whole = st.builds(
    lambda parts, end: b"".join(size + b"\r\nabcd\r\n" for size in parts) + end, st.lists(sizes, max_size=4), ends
)
lengths = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def pieces_of(stream: bytes, lengths: list[int]) -> list[bytes]:
    """Return a stream in pieces of these lengths, which are repeated as needed."""
    pieces: list[bytes] = []
    while stream:
        pieces.append(stream[: lengths[len(pieces) % len(lengths)]])
        stream = stream[len(pieces[-1]) :]
    return pieces


@given(body=bodies | whole, lengths=lengths)
@example(body=b"4\r\nabcd\r\n0\r\nX: y\r\n\r\n", lengths=[1])
def test_end_of_chunks(body: bytes, lengths: list[int]) -> None:
    """The end of a valid body is found with its last byte and not before, however the body is split."""
    chunked = Chunked()
    found = [chunked.feed(piece) for piece in pieces_of(body, lengths)]

    assert found == [False] * (len(found) - 1) + [True]


@given(body=bodies | whole, at=st.integers(0, 300), change=st.binary(max_size=3), lengths=lengths)
def test_malformed_chunks(body: bytes, at: int, change: bytes, lengths: list[int]) -> None:
    """When a body is reported as complete or malformed, gunicorn needs no more bytes."""
    stream = body[:at] + change + body[at + 1 :]
    chunked, sent = Chunked(), b""
    for piece in pieces_of(stream, lengths):
        sent += piece
        if chunked.feed(piece):
            break
    else:
        return
    parser = RequestParser(Config(), [post(CHUNKED, body=sent)], ("127.0.0.1", 1))
    request = next(parser)
    missing = False
    try:
        request.body.read()
    except NoMoreData:
        missing = True
    except Exception:
        pass  # it is malformed

    assert not missing


def test_length_of_chunks() -> None:
    """A chunked body is too long when enough bytes are received, not when a chunk announces them."""
    chunked = Chunked()

    assert not chunked.feed(b"ffffffff\r\n" + b"x" * 3_000)
    assert not chunked.is_longer_than(1_000)
    assert not chunked.feed(b"x" * 100)
    assert chunked.is_longer_than(1_000)


@given(pieces=st.lists(st.binary(min_size=1, max_size=9), max_size=9), size=st.integers(0, 90))
def test_received_bytes(pieces: list[bytes], size: int) -> None:
    """Received bytes can be read to their end, and bytes that are not read are not lost."""
    stream = b"".join(pieces)
    received = ReceivedBytes(b"".join(pieces[:1]))
    for piece in pieces[1:]:
        received.add(piece)

    assert received.read(size) == stream[:size]
    assert received.rest() == stream[size:]
    assert received.read(1) == b""
