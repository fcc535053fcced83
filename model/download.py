"""One download by URL: bounded in bytes, in time from the first look-up to the last byte, and in where it leads.

The environment's proxies are used as urllib uses them. Knows nothing of what is downloaded.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import ipaddress
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from model.errors import TransferError
from model.files import open_plain

_CHUNK_BYTES = 2**16
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_url(url: str) -> tuple[Request, str]:
    """Return the request for a URL, and what may be shown of it: neither user, password, query nor fragment."""
    try:
        parts = urlsplit(url)
        user, password, _ = parts.username, parts.password, parts.port
    except ValueError:
        raise TransferError("this is not a URL: its host or port cannot be parsed") from None
    if parts.scheme not in ("http", "https", "file"):
        raise TransferError("the URL does not begin with http://, https:// or file://")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    request = Request(urlunsplit(bare))
    if user is not None:
        credentials = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
        # Not a plain header: those go along to wherever a redirect leads.
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    return request, urlunsplit(bare._replace(query=""))


def download(request: Request, file: Path, *, max_bytes: int, max_seconds: float, stall_seconds: float) -> str:
    """Write what the URL answers to a file and return its SHA-256. Raises `TransferError`."""
    watch = _Watch(max_seconds)
    hashed, received = hashlib.sha256(), 0
    try:
        with (
            watch.running(),
            _open(request, watch, stall_seconds) as (content, announced),
            file.open("xb") as written,
        ):
            # What is there: a full read would wait for a slow sender.
            while piece := content.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]
                received += len(piece)
                if received > max_bytes:
                    raise TransferError(f"is longer than {max_bytes} bytes")
                hashed.update(piece)
                written.write(piece)
    except TransferError:
        raise
    except HTTPError as error:
        error.close()
        watch.check()
        raise TransferError(f"was answered with status {error.code}") from None
    except (HTTPException, ValueError) as error:  # their messages may show the URL
        watch.check()
        raise TransferError(f"could not be downloaded: {type(error).__name__}") from None
    except OSError as error:
        watch.check()
        reason = error.reason if isinstance(error, URLError) else error
        raise TransferError(f"could not be downloaded: {getattr(reason, 'strerror', None) or reason}") from None
    watch.check()
    if announced is not None and announced != str(received):
        raise TransferError(f"ended after {received} of {announced} bytes")
    return hashed.hexdigest()


@contextmanager
def _open(request: Request, watch: _Watch, stall_seconds: float) -> Iterator[tuple[IO[bytes], str | None]]:
    """Yield what a URL answers, and which length was announced."""
    if request.type == "file":
        if request.host not in ("", None, "localhost"):
            raise TransferError("names a file on another host")
        path = Path(unquote(urlsplit(request.full_url).path)).resolve()
        with open_plain(path) as file:  # a FIFO would have to be waited for
            yield file, None
        return
    places = _Places(watch)
    opener = build_opener(_Redirects(), _Http(places), _Https(places))
    with opener.open(request, timeout=stall_seconds) as reply:
        yield reply, reply.headers.get("Content-Length")


class _Watch:
    """Cuts every connection off when the time for the whole exchange is over.

    A limit on each read does not bound the sum of them: status lines, `100 Continue`, headers, the lengths of chunks
    and trailers may come a byte at a time, for ever.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_over = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        timer = threading.Timer(self._seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for kept in self._sockets:
                kept.close()

    def add(self, connection: socket.socket) -> None:
        """Have a connection cut off in time, whatever becomes of its own object: TLS takes it apart."""
        with self._lock:
            self._sockets.append(connection.dup())
        self.check()

    def resolve(self, host: str, port: int) -> list[Any]:
        """Return the addresses of a name; a look-up that takes longer than there is time for is left alone."""
        found: list[Any] = []

        def look_up() -> None:
            try:
                found.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, ValueError) as error:
                found.append(error)

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        while thread.is_alive() and not self._is_over.is_set():
            thread.join(0.05)
        self.check()
        if isinstance(found[0], Exception):
            raise found[0]
        return list(found[0])

    def check(self) -> None:
        """Raise `TransferError` if the time is over."""
        if self._is_over.is_set():
            raise TransferError(f"was not complete after {self._seconds:g} seconds")

    def _cut(self) -> None:
        self._is_over.set()
        with self._lock:
            for connection in self._sockets:
                with suppress(OSError):  # closed by the other side
                    connection.shutdown(socket.SHUT_RDWR)


class _Places:
    """Where one exchange may connect to: to public addresses alone, once the first one was public.

    The address that is connected to is the one that was looked at: no name is looked up twice. Where a proxy connects,
    only an address that the URL itself has can be looked at.
    """

    def __init__(self, watch: _Watch) -> None:
        self._watch = watch
        self._first_was_public: bool | None = None

    def connect(self, place: tuple[str, int], timeout: float, source: None = None, *, proxied: str) -> socket.socket:
        """Return a socket that is connected to a host and port, or to the proxy that connects to the `proxied` host."""
        found = self._watch.resolve(*place)
        is_public = {item[4][0]: _is_public(proxied or item[4][0]) for item in found}
        if self._first_was_public:
            found = [item for item in found if is_public[item[4][0]]]
        if not found:
            raise TransferError("redirects to a private or link-local address; if that is right, pull from there")
        for number, (family, kind, protocol, _, address) in enumerate(found, start=1):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout)
                self._watch.add(connection)
                connection.connect(address)
                break
            except OSError:
                connection.close()
                self._watch.check()
                if number == len(found):
                    raise
        if self._first_was_public is None:
            self._first_was_public = is_public[address[0]]
        return connection


def _is_public(host: str) -> bool:
    """Return whether an address is one of the internet; a name, which a proxy looks up, counts as one."""
    try:
        address: _Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host != "localhost"
    if isinstance(address, ipaddress.IPv6Address):  # it may stand for one of IPv4
        inside = address.ipv4_mapped or address.sixtofour
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else inside or address
    return address.is_global and not address.is_multicast


def _connection(kind: Any, places: _Places, request: Request, host: str, **options: Any) -> http.client.HTTPConnection:
    """Return an unopened connection that connects where it may; `host` is a proxy's where the request has one."""
    wanted = urlsplit(request.full_url).hostname or ""
    connection: Any = kind(host, **options)
    proxied = "" if urlsplit(f"//{host}").hostname == wanted else wanted
    connection._create_connection = partial(places.connect, proxied=proxied)
    return connection  # type: ignore[no-any-return]


class _Http(HTTPHandler):
    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places

    def http_open(self, req: Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._places, req), req)


class _Https(HTTPSHandler):
    def __init__(self, places: _Places) -> None:
        super().__init__()
        self._places = places

    def https_open(self, req: Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._places, req), req)


class _Redirects(HTTPRedirectHandler):
    """Follow redirects within the scheme."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        fp.close()  # the caller would read the reply's body, which may have no end
        if urlsplit(newurl).scheme != req.type:
            raise TransferError(f"redirects from {req.type} to another scheme; if that is right, pull from there")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
