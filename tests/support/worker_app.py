"""A WSGI application that echoes what its server passes to it, and replies in every way that a server must handle.

The last part of the path names the reply, and the query is its argument; any other path echoes the request as JSON.
Requests under `/pool/` are not immediate.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Environ = dict[str, Any]
Reply = tuple[str, list[tuple[str, str]], Iterable[bytes]]

# The ports differ from run to run. Early hints are for slow requests: the loop offers none for an immediate request.
_VARYING = {"REMOTE_PORT", "SERVER_PORT", "wsgi.early_hints"}

calls: Counter[str] = Counter()  # of this process: requests by path, and "closed" iterables


class Pieces:
    """An iterable body whose `close` is counted, and which may fail after some pieces."""

    def __init__(self, pieces: list[bytes], *, fail: bool = False) -> None:
        self.pieces = pieces
        self.fail = fail

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.fail:
            raise ValueError("in the middle of the reply")

    def close(self) -> None:
        """Count that the server closed the reply."""
        calls["closed"] += 1


def large(size: int) -> bytes:
    """Return `size` bytes in which no part repeats, so that lost and repeated bytes show."""
    return b"".join(b"%010d" % number for number in range(size // 10 + 1))[:size]


def sized(body: bytes) -> list[tuple[str, str]]:
    """Return the headers of a body of known length."""
    return [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))]


def echo(environ: Environ, body: bytes) -> bytes:
    """Return the request as JSON: texts and flags of the environ, names of the rest, the body's length and hash."""
    shown = {key: value for key, value in environ.items() if isinstance(value, str | bool | tuple | int)}
    fields = {key: value for key, value in shown.items() if key not in _VARYING}
    others = sorted(environ.keys() - shown.keys() - _VARYING)
    digest = hashlib.sha256(body).hexdigest()
    return json.dumps(
        {"environ": fields, "others": others, "bytes": len(body), "sha256": digest}, sort_keys=True
    ).encode()


def reply_to(environ: Environ, start: Callable[..., Callable[[bytes], object]]) -> Iterable[bytes]:
    """Answer a request as its path says."""
    name, argument = environ["PATH_INFO"].rpartition("/")[2], environ["QUERY_STRING"]
    read = environ["wsgi.input"].read
    calls[environ["PATH_INFO"]] += 1
    text = [("Content-Type", "text/plain")]
    match name:
        case "large":
            body = large(int(argument))
            start("200 OK", sized(body))
            return [body]
        case "stream":  # like large, in pieces of 64 KiB and chunked
            body = large(int(argument))
            start("200 OK", text)
            return (body[place : place + 65536] for place in range(0, len(body), 65536))
        case "pieces":
            start("200 OK", text)
            return Pieces([b"one", b"", b"two" * 100, b"\r\n0\r\n\r\n"])
        case "nothing":
            start("200 OK", text)
            return []
        case "empty":
            start("200 OK", sized(b""))
            return [b""]
        case "status":  # any status, with a body even where the status allows none
            start(argument.replace("+", " "), sized(b"body"))
            return [b"body"]
        case "unread":
            start("200 OK", sized(b"unread"))
            return [b"unread"]
        case "first":
            body = read(int(argument or 3))
            start("200 OK", sized(body))
            return [body]
        case "lines":
            lines = list(environ["wsgi.input"])
            body = json.dumps([len(lines), hashlib.sha256(b"".join(lines)).hexdigest()]).encode()
            start("200 OK", sized(body))
            return [body]
        case "line":
            source = environ["wsgi.input"]
            body = b"|".join([source.readline(), source.readline(5), source.read(2), source.read(), source.read()])
            start("200 OK", sized(body))
            return [body]
        case "raise":
            raise ValueError("before the reply")
        case "raise-started":
            start("200 OK", sized(b"never"))
            raise ValueError("after the start of the reply")
        case "raise-middle":
            start("200 OK", sized(b"never seen"))
            return Pieces([b"never"], fail=True)
        case "raise-first":
            start("200 OK", sized(b"never seen"))
            return Pieces([], fail=True)
        case "restart":  # with the exception, as PEP 3333 allows
            start("200 OK", sized(b"first"))
            try:
                raise ValueError("found late")
            except ValueError:
                start("503 Service Unavailable", sized(b"second"), sys.exc_info())
            return [b"second"]
        case "twice":
            start("200 OK", sized(b"first"))
            start("201 Created", sized(b"second"))
            return [b"second"]
        case "unstarted":
            return [b"no status"]
        case "late-start":

            def started() -> Iterator[bytes]:
                start("200 OK", sized(b"late"))
                yield b"late"

            return started()
        case "sleep":
            time.sleep(float(argument))
            start("200 OK", sized(b"slept"))
            return [b"slept"]
        case "spin":
            end = time.perf_counter() + float(argument)
            while time.perf_counter() < end:
                pass
            start("200 OK", sized(b"spun"))
            return [b"spun"]
        case "slow-pieces":

            def slowly() -> Iterator[bytes]:
                for number in range(5):
                    time.sleep(float(argument) / 5)
                    yield b"%d" % number

            start("200 OK", [("Content-Length", "5")])
            return slowly()
        case "closing":
            start("200 OK", [*sized(b"bye"), ("Connection", "close")])
            return [b"bye"]
        case "write":
            write = start("200 OK", text)
            write(b"written ")
            write(b"")
            return [b"and returned"]
        case "short":
            start("200 OK", [("Content-Length", "10")])
            return [b"short"]
        case "long":
            start("200 OK", [("Content-Length", "3")])
            return [b"lo", b"nger", b"still"]
        case "headers":  # of many kinds, among them a repeated header
            cookies = [("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-Latin", "caf\xe9"), ("x-lower", "  padded\t")]
            start("200 OK", [*sized(b"h"), *cookies, ("Server", "own"), ("Date", "never"), ("X-Empty", "")])
            return [b"h"]
        case "hop":
            hops = [("Transfer-Encoding", "chunked"), ("Keep-Alive", "timeout=9"), ("TE", "x"), ("Trailer", "y")]
            start("200 OK", [*sized(b"hop"), *hops])
            return [b"hop"]
        case "upgrade":
            start("101 Switching Protocols", [("Connection", "Upgrade"), ("Upgrade", "websocket")])
            return []
        case "split":
            start("200 OK", [*sized(b"x"), ("X-Split", "a\r\nSet-Cookie: stolen=1")])
            return [b"x"]
        case "bad-name":
            start("200 OK", [*sized(b"x"), ("X Split", "a")])
            return [b"x"]
        case "bad-length":
            start("200 OK", [("Content-Length", "three")])
            return [b"x"]
        case "text":
            start("200 OK", text)
            return ["no bytes"]  # type: ignore[list-item]
        case "none":
            start("200 OK", text)
            return None  # type: ignore[return-value]
        case "file":
            start("200 OK", sized(large(100)))
            wrapped: Iterable[bytes] = environ["wsgi.file_wrapper"](io.BytesIO(large(100)), 30)
            return wrapped
        case "hints":
            environ["wsgi.early_hints"]([("Link", "</a.css>; rel=preload")])
            start("200 OK", sized(b"hinted"))
            return [b"hinted"]
        case "calls":  # of the path in the query only, since the test sends other requests too
            body = str(calls[argument]).encode()
            start("200 OK", sized(body))
            return [body]
        case _:
            body = echo(environ, read())
            start("200 OK", sized(body))
            return [body]


class Application:
    """What gunicorn calls; reports whether a request is immediate, and answers immediate requests together."""

    def __call__(self, environ: Environ, start: Callable[..., Callable[[bytes], object]]) -> Iterable[bytes]:
        return reply_to(environ, start)

    def is_immediate(self, environ: Environ) -> bool:
        """Return whether a request is immediate; fail for a path with `unsure`."""
        if "unsure" in environ["PATH_INFO"]:
            raise ValueError("cannot tell")
        return "pool" not in environ["PATH_INFO"]

    def answer_together(self, batch: Iterable[tuple[Environ, Any]]) -> list[Any]:
        """Answer a batch, and count its requests; `all-fail` in a path makes it fail, `too-few` return nothing."""
        requests = list(batch)
        calls[f"together-{len(requests)}"] += 1
        if any("all-fail" in environ["PATH_INFO"] for environ, _ in requests):
            raise ValueError("no answer to any")
        answers: list[Any] = []
        if any("too-few" in environ["PATH_INFO"] for environ, _ in requests):
            return answers
        for environ, start in requests:
            try:
                answers.append(self(environ, start))
            except Exception as error:
                answers.append(error)
        return answers


application = Application()
undecided = reply_to  # without `is_immediate`
