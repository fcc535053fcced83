"""Plain requests and replies, read and written in one step where gunicorn takes many.

A plain request is HTTP/1.1, GET or POST, with ordinary characters in its path and header names, no header twice, and a
body of known length. This part of HTTP is unambiguous. gunicorn's parser reads every other request, and gunicorn's
response writes every other reply.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

from gunicorn import SERVER, util
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import Response, base_environ

_MAX_HEAD_BYTES = 4_000
_MAX_KNOWN_NAMES = 1_000  # of headers; bounded, since a client can invent any number of names
_MAX_KNOWN_HOSTS = 1_000

_LINE = rb"(GET|POST) (/(?!/)[!\"$&-~]*) HTTP/1\.1\r\n"  # visible ASCII but for # and %
_FIELDS = rb"((?:[A-Za-z0-9-]+:[^\x00-\x08\n-\x1f\x7f]*\r\n)*)"
_HEAD = re.compile(_LINE + _FIELDS + rb"\r\n")
_PARTIAL_HEAD = re.compile(_LINE + _FIELDS + rb"[^\x00-\x08\n-\x0c\x0e-\x1f\x7f]*")
_FIELD = re.compile(rb"([^:]+):([^\r]*)\r\n")
# These decide how a message is framed, or what happens to its connection: gunicorn reads them.
_NEVER_PLAIN = frozenset({"TRANSFER-ENCODING", "EXPECT", "UPGRADE", "HTTP2-SETTINGS"})

_STATUS = re.compile(r"(?!204|304)[2-5][0-9]{2} [\t -~]*")
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


def may_be_plain(cfg: Any, log: Any) -> bool:
    """Return whether gunicorn's settings allow plain requests."""
    hooks = (cfg.settings[name] for name in ("pre_request", "post_request"))
    return (
        not cfg.is_ssl
        and cfg.proxy_protocol in (False, "off")
        and type(log) is Logger
        and not log.access_log.hasHandlers()
        and all(hook.get() is hook.default for hook in hooks)
        and "SCRIPT_NAME" not in os.environ
    )


def trusted_proxy_predicate(cfg: Any) -> Callable[[str | None], bool]:
    """Return a predicate: is this host a trusted proxy for gunicorn? None is a client of a Unix socket.

    The predicate asks gunicorn's parser, with a request that claims to have come by https.
    """
    probe_config = Config()
    probe_config.set("forwarded_allow_ips", ",".join(cfg.forwarded_allow_ips))
    probe_config.set("secure_scheme_headers", {"X-SCHEME": "https"})
    request = b"GET / HTTP/1.1\r\nHost: h\r\nX-Scheme: https\r\n\r\n"

    @lru_cache(_MAX_KNOWN_HOSTS)
    def is_trusted(host: str | None) -> bool:
        parser = RequestParser(probe_config, [request], None if host is None else (host, 0))
        return bool(next(parser).scheme == "https")

    return is_trusted


class Client:
    """What the requests of a connection have in common."""

    def __init__(self, environ: dict[str, Any], scheme_headers: dict[str, str], server: Any) -> None:
        self.environ = environ
        self.scheme_headers = scheme_headers  # headers by which this client may report that a request came by TLS
        self.server = server


class PlainHeads:
    """Parses plain heads under gunicorn's settings."""

    def __init__(self, cfg: Any) -> None:
        self._cfg = cfg
        # A head within gunicorn's limits for a line has no line above them. 0 is no limit.
        limits = cfg.limit_request_line, cfg.limit_request_field_size
        self._max_bytes = min([_MAX_HEAD_BYTES, *filter(None, limits)])
        self._max_fields: int = cfg.limit_request_fields or _MAX_HEAD_BYTES
        self._names: dict[bytes, str] = {}  # from header names to keys of the environment; empty for `_NEVER_PLAIN`
        self.is_trusted_proxy = trusted_proxy_predicate(cfg)

    def match(self, data: bytes) -> re.Match[bytes] | None:
        """Return the head at the start of the received bytes, if it looks plain; `environ` decides whether it is."""
        return _HEAD.match(data)

    def may_become_plain(self, data: bytes) -> bool:
        """Return whether more bytes can make the received bytes a plain head."""
        return len(data) <= self._max_bytes and (b"\n" not in data or bool(_PARTIAL_HEAD.fullmatch(data)))

    def client(self, sock: Any, client: Any, server: Any) -> Client:
        """Return what the requests of a connection have in common."""
        is_tcp = isinstance(client, tuple)
        secure = self._cfg.secure_scheme_headers if self.is_trusted_proxy(client[0] if is_tcp else None) else {}
        environ = {
            **base_environ(self._cfg),
            "wsgi.multithread": True,
            "wsgi.url_scheme": "http",
            "gunicorn.socket": sock,
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
        }
        if is_tcp:
            environ["REMOTE_ADDR"], port = client[:2]
            environ["REMOTE_PORT"] = str(port)
        else:
            environ["REMOTE_ADDR"] = os.fsdecode(client)
        if isinstance(server, tuple):
            environ["SERVER_NAME"], port = server[:2]
            environ["SERVER_PORT"] = str(port)
        return Client(environ, {self._key(name.encode()): value for name, value in secure.items()}, server)

    def environ(self, head: re.Match[bytes], client: Client) -> dict[str, Any]:
        """Return the WSGI environment of a request, without its body; it is empty if the request is not plain."""
        if len(head[0]) > self._max_bytes:
            return {}
        environ = client.environ.copy()
        method, target, fields = head.groups()
        environ["REQUEST_METHOD"] = method.decode()
        environ["RAW_URI"] = uri = target.decode()
        environ["PATH_INFO"], _, environ["QUERY_STRING"] = uri.partition("?")
        found = _FIELD.findall(fields)
        if len(found) > self._max_fields:
            return {}
        for name, value in found:
            key = self._names.get(name)
            if key is None:
                key = self._key(name)
            if not key or key in environ:
                return {}
            environ[key] = value.decode("latin-1").strip(" \t")
        length = environ.get("CONTENT_LENGTH", "0")
        if not (length.isascii() and length.isdigit() and len(length) < 10):
            return {}
        if environ.get("HTTP_CONNECTION", "close").lower() not in ("close", "keep-alive"):
            return {}
        sent = [key for key in client.scheme_headers if key in environ]
        if len(sent) > 1:
            return {}
        if sent and environ[sent[0]] == client.scheme_headers[sent[0]]:
            environ["wsgi.url_scheme"] = "https"
        if isinstance(client.server, str):  # a Unix socket has no host name
            server = client.server.split(":")
            if len(server) == 1:
                host, port = environ.get("HTTP_HOST"), "443" if environ["wsgi.url_scheme"] == "https" else "80"
                server = [*host.split(":"), port] if host else [client.server, ""]
            environ["SERVER_NAME"], environ["SERVER_PORT"] = server[:2]
        return environ

    def _key(self, name: bytes) -> str:
        upper = name.decode().upper()
        key = "" if upper in _NEVER_PLAIN else upper.replace("-", "_")
        if key and key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if len(self._names) < _MAX_KNOWN_NAMES:
            self._names[name] = key
        return key


@lru_cache(_MAX_KNOWN_NAMES)
def _is_plain_status(status: str) -> bool:
    """Return whether a reply with this status consists of its headers and its body only."""
    return bool(_STATUS.fullmatch(status))


@lru_cache(_MAX_KNOWN_NAMES)
def _is_plain_name(name: str) -> bool:
    """Return whether a reply's header with this name is sent as it is, whatever its value."""
    if name == "Content-Length":  # `_plain_lines` counts it in this spelling only
        return True
    lower = name.lower()
    return lower != "content-length" and lower not in util.hop_headers and bool(_HEADER_NAME.fullmatch(name))


class WholeReply:
    """The application's reply to a plain request, which is sent in one piece."""

    def __init__(self, cfg: Any, environ: dict[str, Any], *, closes: bool) -> None:
        self._cfg = cfg
        self._environ = environ
        self._closes = closes
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._response: Any = None  # gunicorn's, if the reply is not plain
        self._written = bytearray()

    def start(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        """Store the status and the headers: WSGI's `start_response`."""
        if self._status or exc_info:
            self._gunicorn_response().start_response(status, headers, exc_info)
        else:
            self._status, self._headers = status, headers
        return lambda piece: self._gunicorn_response().write(piece)

    def finish(self, body: bytes, date: str) -> tuple[bytes, bool]:
        """Return the bytes to send, and whether the connection closes after them."""
        if not self._response and _is_plain_status(self._status):
            lines = self._plain_lines(len(body))
            if lines:
                connection = "close" if self._closes else "keep-alive"
                head = f"HTTP/1.1 {self._status}\r\nServer: {SERVER}\r\nDate: {date}\r\nConnection: {connection}\r\n"
                return f"{head}{lines}\r\n".encode("ascii") + body, self._closes
        response = self._gunicorn_response()
        if body:
            response.write(body)
        response.close()
        return bytes(self._written), response.should_close()

    def fail(self, handle_error: Callable[..., object], client: Any, error: Exception) -> bytes:
        """Return the error page that gunicorn's `handle_error` writes."""
        page = bytearray()
        sink = SimpleNamespace(sendall=page.extend, gettimeout=lambda: 0.0)
        handle_error(self._request(), sink, client, error)
        return bytes(page)

    def _plain_lines(self, length: int) -> str:
        """Return the header lines to send; nothing if a header is not plain, or there is not exactly one length."""
        lines, lengths = "", 0
        for name, value in self._headers:
            if not _is_plain_name(name) or not value.isprintable():
                return ""
            if name == "Content-Length":
                lengths += 1
            lines += f"{name}: {value}\r\n"
        has_length = lengths == 1 and f"Content-Length: {length}\r\n" in lines
        # gunicorn strips values, and writes them in Latin-1.
        return lines if has_length and lines.isascii() and ":  " not in lines and " \r\n" not in lines else ""

    def _request(self) -> SimpleNamespace:
        """Return the request with the attributes that gunicorn reads."""
        return SimpleNamespace(
            method=self._environ["REQUEST_METHOD"],
            uri=self._environ["RAW_URI"],
            query=self._environ["QUERY_STRING"],
            body=self._environ["wsgi.input"],
            version=(1, 1),
            headers=[],
            should_close=lambda: self._closes,
        )

    def _gunicorn_response(self) -> Any:
        if not self._response:
            self._response = Response(self._request(), SimpleNamespace(sendall=self._written.extend), self._cfg)
            if self._status:
                self._response.start_response(self._status, self._headers)
        return self._response
