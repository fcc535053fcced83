"""Bodies: read to their limit, decompressed to the same limit, parsed as JSON that is not too deep; and replies."""

from __future__ import annotations

import gc
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any
from wsgiref.types import WSGIEnvironment

import orjson
from werkzeug.http import parse_accept_header, parse_options_header
from werkzeug.sansio.utils import get_content_length

from app.errors import BodyError, TooLargeError, UnsupportedMediaTypeError
from app.reply import Reply

CSV_TYPE = "text/csv"

MAX_JSON_DEPTH = 100  # Triton's; the deepest of our forms has four levels
# A list or object takes up to 30 times its text in memory, and its text in gzip next to nothing. Twenty columns of
# 10,000 rows have as many if each cell is a list of its own.
MAX_JSON_CONTAINERS = 200_000
# From here on the collector pauses: it would look through all that is new again and again, and none of it is a cycle.
_MANY_CONTAINERS = 1_000
MAX_JSON_VALUES = 200_000  # where no schema says how many a request may need
# What is small may become large enough for any table of a model; beyond, a table of 10,000 rows is compressed to a
# fiftieth at best (of 0 and 1 in indented JSON), and one row again and again to 1/435.
MAX_EXPANSION = 100
_MIN_EXPANDED_BYTES = 2**20

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CHARSETS = ("utf-8", "utf8", "us-ascii", "ascii")  # ASCII is a part of UTF-8
# Writers that work in blocks make a member of each 64 KiB or so: an eighth of this for the largest body.
_MAX_GZIP_MEMBERS = 1_000
_PIECE_BYTES = 65_536  # what follows a member is copied: of a piece, not of the whole body

# zlib's window bits for each content coding: 15 is the largest window, 16 more asks for gzip's frame.
_CODINGS = {"gzip": 15 + 16, "deflate": 15}
_MIN_COMPRESSED_BYTES = 1_024  # below this a reply fits one packet either way

_NOT_RECEIVED = "did not arrive before the connection closed or TABSERVE_MAX_READ_SECONDS were over"
_TOO_DEEP = f"the JSON body is nested more than {MAX_JSON_DEPTH} levels deep"
_CONTAINERS = frozenset({list, dict})
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # or a whole one, which is two of them


def content_type(environ: WSGIEnvironment, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the body's type and its parameters.

    Raises `UnsupportedMediaTypeError` if it is none of `known`, or in another charset than UTF-8.
    """
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
    """Return the whole body, decompressed where it says that it is gzip or deflate (RFC 9110: zlib's format).

    Raises `TooLargeError` for a body beyond `max_bytes`, sent or decompressed, which is not read to its end, and for
    one that decompresses to more than `MAX_EXPANSION` times its length, `min_expanded_bytes` and 1 MiB; `BodyError`
    for one that breaks off; `UnsupportedMediaTypeError` for another coding.
    """
    coding = environ.get("HTTP_CONTENT_ENCODING", "").lower() or "identity"
    if coding == "x-gzip":  # the same (RFC 9110, section 8.4.1.3)
        coding = "gzip"
    if coding != "identity" and coding not in _CODINGS:
        raise UnsupportedMediaTypeError(f"the Content-Encoding is {coding}; send gzip, deflate or none")
    length = get_content_length(environ.get("CONTENT_LENGTH"), environ.get("HTTP_TRANSFER_ENCODING"))
    if length is not None and length > max_bytes:  # None is a body in chunks
        raise TooLargeError(f"the body is longer than {max_bytes} bytes; send a shorter one")
    missing = max_bytes + 1 if length is None else length
    stream = environ["wsgi.input"]
    try:
        # Werkzeug's own stream would cut a body in chunks at the limit and call that its end.
        pieces = [stream.read(missing)]
        missing -= len(pieces[0])
        while missing and (piece := stream.read(missing)):
            pieces.append(piece)
            missing -= len(piece)
    except OSError:
        raise BodyError(f"the last chunk of the body {_NOT_RECEIVED}") from None
    except Exception as error:  # gunicorn's own, of several kinds
        raise BodyError(f"the body's chunked encoding is malformed ({type(error).__name__})") from None
    if length is None and not missing:
        raise TooLargeError(f"the body is longer than {max_bytes} bytes; send a shorter one")
    if length is not None and missing:
        raise BodyError(f"{missing} of the body's {length} bytes {_NOT_RECEIVED}")
    body = b"".join(pieces)
    return _decompress(body, coding, max_bytes, min_expanded_bytes) if coding in _CODINGS else body


def parse_json(body: bytes, *, max_values: int = MAX_JSON_VALUES) -> Any:
    """Return the value of a JSON body.

    Raises `BodyError`, also for one that is nested too deep, and `TooLargeError` for more than `max_values`: each of
    them takes memory and time, and in gzip next to no bytes.

    A byte order mark before it is skipped. Of a key that an object repeats, the last value counts.
    Numbers beyond float64, NaN and infinities, which some writers put into JSON, come out as they are: the schema
    says of them where they stand.
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
    """Return the whole number that a value of JSON is, or None: JSON has one kind of number, and 1.0 is 1.

    Beyond 2^53 a float may stand for another whole number than the one that was written.
    """
    if type(value) is float and value.is_integer() and abs(value) <= 2**53:
        return int(value)
    return value if type(value) is int else None


def to_json(value: Any) -> Reply:
    """Return a reply of strict JSON; numpy arrays are written as lists, floats so that they read back the same."""
    return Reply(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def compress(reply: Reply, environ: WSGIEnvironment) -> Reply:
    """Return the reply in a coding that the client accepts, if there is something to gain."""
    reply.headers.append(("Vary", "Accept-Encoding"))
    if len(reply.body) >= _MIN_COMPRESSED_BYTES:
        coding = parse_accept_header(environ.get("HTTP_ACCEPT_ENCODING")).best_match(_CODINGS)
        if coding:
            deflate = zlib.compressobj(zlib.Z_BEST_SPEED, wbits=_CODINGS[coding])
            reply.body = deflate.compress(reply.body) + deflate.flush()
            reply.headers.append(("Content-Encoding", coding))
    return reply


def _parse_with_infinities(body: bytes, problem: str) -> Any:
    """Return the value of JSON that orjson has a `problem` with; raise `BodyError` if it is not NaN or an infinity.

    Each number is made by a function of ours, between two of which other threads run.
    """
    try:
        value = json.loads(body.decode(), parse_int=_parse_int, parse_float=_parse_float)
        if _SURROGATE.search(body):
            orjson.dumps(value)  # it could not be reported
    except RecursionError:
        raise BodyError(_TOO_DEEP) from None
    except (ValueError, TypeError):
        raise BodyError(f"the body is not JSON: {problem}") from None
    return value


def _parse_int(digits: str) -> int | float:
    """Return an integer, or a float where it has more bits than 64: as orjson does, and for infinity, too."""
    value = int(digits) if len(digits) <= 20 else 2**64
    return value if -(2**63) <= value < 2**64 else float(digits)


def _parse_float(digits: str) -> float:
    return float(digits)


def _decompress(body: bytes, coding: str, max_bytes: int, min_expanded_bytes: int) -> bytes:
    """Return what a body is in plain: of gzip all members, one after the other (RFC 1952, section 2.2)."""
    limit = min(max_bytes, max(_MIN_EXPANDED_BYTES, min_expanded_bytes, MAX_EXPANSION * len(body)))
    pieces: list[bytes] = []
    size = position = members = 0
    inflate = zlib.decompressobj(_CODINGS[coding])
    while position < len(body):
        if inflate.eof:
            members += 1
            if coding != "gzip" or members == _MAX_GZIP_MEMBERS:
                break
            inflate = zlib.decompressobj(_CODINGS[coding])
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
    """Return whether lists and objects are nested more than so many levels deep."""
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
