"""Request bodies: read, decompressed and parsed as JSON, each within limits."""

from __future__ import annotations

import gc
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from wsgiref.types import WSGIEnvironment

import orjson
from werkzeug.http import parse_options_header
from werkzeug.sansio.utils import get_content_length

from app.errors import BodyError, TooLargeError, UnsupportedMediaTypeError

CSV_TYPE = "text/csv"
ARROW_TYPE = "application/vnd.apache.arrow.stream"
JSON_LINES_TYPES = ("application/jsonlines", "application/x-ndjson", "application/jsonl")
NPY_TYPE = "application/x-npy"

MAX_JSON_DEPTH = 100  # as in Triton; the deepest valid request has four levels
# A list or object takes up to 30 times its text in memory, and its text compresses to next to nothing. Twenty columns
# of 10,000 rows have so many if each cell is a list of its own.
MAX_JSON_CONTAINERS = 200_000
# From here on the garbage collector pauses: it would scan all new containers repeatedly, and JSON has no cycles.
_MANY_CONTAINERS = 1_000
MAX_JSON_VALUES = 200_000  # where no schema tells how many a request may need
# Beyond the size of a model's largest table, a body may expand by this factor. A table of 10,000 rows compresses to a
# fiftieth at best (0 and 1 in indented JSON), one row repeated to 1/435.
MAX_EXPANSION = 100
_MIN_EXPANDED_BYTES = 2**20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")  # ASCII is a subset of UTF-8
# Block-wise writers make a member of every 64 KiB or so: an eighth of this for the largest body.
_MAX_GZIP_MEMBERS = 1_000
_PIECE_BYTES = 65_536  # zlib copies what follows a member: of a piece, not of the whole body

# zlib's window bits for each content coding: 15 is the largest window, plus 16 for gzip's framing.
CODINGS = {"gzip": 15 + 16, "deflate": 15}

_NOT_RECEIVED = "did not arrive before the connection closed or TABSERVE_MAX_READ_SECONDS were over"
_TOO_DEEP = f"the JSON body is nested more than {MAX_JSON_DEPTH} levels deep"
_CONTAINERS = frozenset({list, dict})
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # one half of a pair, or each half of a whole one


def content_type(environ: WSGIEnvironment, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the body's content type and its parameters.

    Raises `UnsupportedMediaTypeError` if the type is not one of `known`, or the charset is not UTF-8. If no type is
    known, the header is ignored: the type is "".
    """
    if not known:
        return "", {}
    header = environ.get("CONTENT_TYPE", "")
    if header in known:
        return header, {}
    media_type, parameters = parse_options_header(header)
    if media_type.lower() not in known:
        found = f"the Content-Type is {media_type}" if media_type else "the Content-Type is missing"
        raise UnsupportedMediaTypeError(f"{found}; send {' or '.join(known)}")
    if parameters.get("charset", "utf-8").lower() not in _CHARSETS:
        raise UnsupportedMediaTypeError("the charset of the Content-Type is not utf-8; send UTF-8")
    return media_type.lower(), parameters


def csv_header(parameters: Mapping[str, str], *, default: bool | None) -> bool | None:
    """Return whether a CSV body has a header: by `text/csv; header=present|absent` (RFC 4180), else `default`."""
    header = parameters.get("header")
    if header not in (None, "present", "absent"):
        raise UnsupportedMediaTypeError(f"the Content-Type has header={header}; send header=present or header=absent")
    return default if header is None else header == "present"


def read(environ: WSGIEnvironment, *, max_bytes: int, min_expanded_bytes: int = 0) -> bytes:
    """Return the whole body, decompressed if its Content-Encoding is gzip or deflate (in RFC 9110, zlib's format).

    Raises `TooLargeError` for a body beyond `max_bytes`, as sent or decompressed, without reading it to its end. It
    also raises it for a body that decompresses to more than `MAX_EXPANSION` times its length, to more than
    `min_expanded_bytes` and to more than 1 MiB. Raises `BodyError` for an incomplete body, and
    `UnsupportedMediaTypeError` for another coding.
    """
    coding = environ.get("HTTP_CONTENT_ENCODING", "").lower() or "identity"
    if coding == "x-gzip":  # the same (RFC 9110, section 8.4.1.3)
        coding = "gzip"
    if coding != "identity" and coding not in CODINGS:
        raise UnsupportedMediaTypeError(f"the Content-Encoding is {coding}; send gzip, deflate or none")
    length = get_content_length(environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"))
    if length is not None and length > max_bytes:  # None: the body is chunked
        raise TooLargeError(f"the body is longer than {max_bytes} bytes; send a shorter one")
    missing = max_bytes + 1 if length is None else length
    stream = environ["wsgi.input"]
    try:
        # Werkzeug's own stream would cut a chunked body at the limit as if it ended there.
        pieces = [stream.read(missing)]
        missing -= len(pieces[0])
        while missing and (piece := stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
    except OSError:
        raise BodyError(f"the last chunk of the body {_NOT_RECEIVED}") from None
    except Exception as error:  # one of several classes of gunicorn
        raise BodyError(f"the body's chunked encoding is malformed ({type(error).__name__})") from None
    if length is None and not missing:
        raise TooLargeError(f"the body is longer than {max_bytes} bytes; send a shorter one")
    if length is not None and missing:
        raise BodyError(f"{missing} of the body's {length} bytes {_NOT_RECEIVED}")
    body = b"".join(pieces)
    return _decompress(body, coding, max_bytes, min_expanded_bytes) if coding in CODINGS else body


def max_expanded_bytes(n_sent: int, *, max_bytes: int, min_expanded_bytes: int = 0) -> int:
    """Return how many bytes `n_sent` compressed ones may become: `MAX_EXPANSION` times as many, or a table's."""
    return min(max_bytes, max(_MIN_EXPANDED_BYTES, min_expanded_bytes, MAX_EXPANSION * n_sent))


def parse_json(body: bytes, *, max_values: int = MAX_JSON_VALUES) -> Any:
    """Return the value of a JSON body.

    Raises `BodyError`, also for one that is nested too deep, and `TooLargeError` for more than `max_values`: values
    take memory and time, and compress to next to no bytes.

    A leading byte order mark is skipped. If an object repeats a key, the last value counts.
    Numbers beyond float64, NaN and infinities, which some writers put into JSON, are returned as such: the schema
    reports them with their rows and features.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    containers = body.count(b"[") + body.count(b"{")
    if containers > MAX_JSON_CONTAINERS:
        raise BodyError(f"the JSON body has more than {MAX_JSON_CONTAINERS} lists and objects; send fewer rows at once")
    if len(body) > max_values and body.count(b",") > max_values:
        raise TooLargeError(f"the JSON body has more than {max_values} values; send fewer rows or columns at once")
    pauses = containers > _MANY_CONTAINERS and gc.isenabled()
    if pauses:
        gc.disable()
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        problem = str(error)
        if problem.startswith("depth"):  # far beyond ours
            raise BodyError(_TOO_DEEP) from None
        if not ("infinity" in problem or b"NaN" in body or b"Infinity" in body):
            raise BodyError(f"the body is not JSON: {problem}") from None
        value = _parse_with_infinities(body, problem)
    finally:
        if pauses:
            gc.enable()
    if containers > MAX_JSON_DEPTH and _is_deeper(value, MAX_JSON_DEPTH):
        raise BodyError(_TOO_DEEP)
    return value


def whole_number(value: Any) -> int | None:
    """Return a JSON value as a whole number, or None if it is none: JSON has one kind of number, and 1.0 is 1.

    Floats beyond 2^53 are None: such a float may be another whole number than the one that was written.
    """
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value if type(value) is int else None


def _parse_with_infinities(body: bytes, problem: str) -> Any:
    """Return the value of JSON that orjson refuses with `problem`; raise `BodyError` unless NaN or an infinity is why.

    Our own functions parse the numbers, so that other threads can run in between.
    """
    try:
        value = json.loads(body.decode(), parse_int=_parse_int, parse_float=_parse_float)
        if _SURROGATE.search(body):
            orjson.dumps(value)  # half a surrogate pair could not be sent back in an error
    except RecursionError:
        raise BodyError(_TOO_DEEP) from None
    except (ValueError, TypeError):
        raise BodyError(f"the body is not JSON: {problem}") from None
    return value


def _parse_int(digits: str) -> int | float:
    """Return an integer, or a float if it needs more than 64 bits, as orjson does."""
    value = int(digits) if len(digits) <= 20 else 2**64
    return value if -(2**63) <= value < 2**64 else float(digits)


def _parse_float(digits: str) -> float:
    return float(digits)


def _decompress(body: bytes, coding: str, max_bytes: int, min_expanded_bytes: int) -> bytes:
    """Return a body decompressed; gzip may have several members (RFC 1952, section 2.2)."""
    limit = max_expanded_bytes(len(body), max_bytes=max_bytes, min_expanded_bytes=min_expanded_bytes)
    pieces: list[bytes] = []
    size = position = members = 0
    inflate = zlib.decompressobj(CODINGS[coding])
    while position < len(body):
        if inflate.eof:
            members += 1
            if coding != "gzip" or members == _MAX_GZIP_MEMBERS:
                break
            inflate = zlib.decompressobj(CODINGS[coding])
        sent = body[position : position + _PIECE_BYTES]
        try:
            pieces.append(inflate.decompress(sent, limit + 1 - size))
        except zlib.error as error:
            raise BodyError(f"the body is not {coding}: {error}") from None
        size += len(pieces[-1])
        if size > limit:
            message = f"the decompressed body is longer than {limit} bytes"
            if limit < max_bytes:
                message += f", {MAX_EXPANSION} times its compressed length, and than any table of the model; "
                message += "send it uncompressed"
            raise TooLargeError(message)
        position += len(sent) - len(inflate.unused_data)
    if position < len(body) and coding == "gzip":
        raise BodyError(f"the gzip body has more than {_MAX_GZIP_MEMBERS} members; compress it as one")
    if not inflate.eof or position < len(body):
        raise BodyError(f"the body is not one complete {coding} stream")
    return b"".join(pieces)


def _is_deeper(value: Any, depth: int) -> bool:
    """Return whether lists and objects are nested more than `depth` levels deep."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(depth):
        level = [
            inner
            for container in level
            for inner in (container.values() if type(container) is dict else container)
            if type(inner) in _CONTAINERS
        ]
        if not level:
            return False
    return True
