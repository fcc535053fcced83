"""Download one URL with limits on bytes, on time from DNS to the last byte, and on the addresses that are reached.

Uses the environment's proxies as urllib does. Knows nothing about the contents.
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
from tempfile import TemporaryDirectory
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from model.errors import ArchiveError, ModelError
from model.store.files import open_regular

_CHUNK_BYTES = 2**16
_ASK_SECONDS = 30.0
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def parse_url(url: str) -> tuple[Request, str]:
    """Return the request for a URL and the URL without user, password, query and fragment, for messages."""
    try:
        parts = urlsplit(url)
        user, password, _ = parts.username, parts.password, parts.port
    except ValueError:
        raise ArchiveError("this is not a URL: its host or port cannot be parsed") from None
    if parts.scheme not in ("http", "https", "file"):
        raise ArchiveError("the URL does not begin with http://, https:// or file://")
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment="")
    request = Request(urlunsplit(bare))
    if user is not None:
        credentials = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
        # Not an ordinary header: urllib would send it to the target of a redirect.
        request.add_unredirected_header("Authorization", f"Basic {credentials}")
    return request, urlunsplit(bare._replace(query=""))


def ask(url: str, who: str, *, max_bytes: int, key: str = "") -> tuple[bytes, str]:
    """Return what a server answers at a URL, to an access key if it asks for one, and the URL for messages.

    Raises `ModelError`, by which `who` cannot be asked.
    """
    where = "by this URL"
    try:
        request, shown = parse_url(url)
        where = f"at {shown}"
        if key:
            request.add_header("Authorization", f"Bearer {key}")
        with TemporaryDirectory() as folder:
            file = Path(folder) / "answer"
            download(request, file, max_bytes=max_bytes, max_seconds=_ASK_SECONDS, stall_seconds=_ASK_SECONDS)
            return file.read_bytes(), shown
    except ArchiveError as error:
        raise ModelError(f"{who} cannot be asked {where}: {error}") from None


def download(request: Request, file: Path, *, max_bytes: int, max_seconds: float, stall_seconds: float) -> str:
    """Write the response body to a new file and return its SHA-256. Raises `ArchiveError`."""
    deadline = _Deadline(max_seconds)
    sha256, received = hashlib.sha256(), 0
    try:
        with (
            deadline.running(),
            _open(request, deadline, stall_seconds) as (content, announced_length),
            file.open("xb") as output,
        ):
            # Returns what has arrived; a full read would wait for a slow sender.
            while chunk := content.read1(_CHUNK_BYTES):  # type: ignore[attr-defined]
                received += len(chunk)
                if received > max_bytes:
                    raise ArchiveError(f"is longer than {max_bytes} bytes")
                sha256.update(chunk)
                output.write(chunk)
    except ArchiveError:
        raise
    except HTTPError as error:
        error.close()
        deadline.check()
        raise ArchiveError(f"was answered with status {error.code}") from None
    except (HTTPException, ValueError) as error:  # their messages may contain the URL
        deadline.check()
        raise ArchiveError(f"could not be downloaded: {type(error).__name__}") from None
    except OSError as error:
        deadline.check()
        reason = error.reason if isinstance(error, URLError) else error
        raise ArchiveError(f"could not be downloaded: {getattr(reason, 'strerror', None) or reason}") from None
    deadline.check()
    if announced_length is not None and announced_length != str(received):
        raise ArchiveError(f"ended after {received} of {announced_length} bytes")
    return sha256.hexdigest()


@contextmanager
def _open(request: Request, deadline: _Deadline, stall_seconds: float) -> Iterator[tuple[IO[bytes], str | None]]:
    """Yield the response body and its Content-Length."""
    if request.type == "file":
        if request.host not in ("", None, "localhost"):
            raise ArchiveError("names a file on another host")
        path = Path(unquote(urlsplit(request.full_url).path)).resolve()
        with open_regular(path) as file:  # reading a FIFO would block
            yield file, None
        return
    connector = _Connector(deadline)
    opener = build_opener(_Redirects(), _Http(connector), _Https(connector))
    with opener.open(request, timeout=stall_seconds) as reply:
        yield reply, reply.headers.get("Content-Length")


class _Deadline:
    """Shuts down every connection when the time for the whole download is over.

    A timeout for each read does not limit their sum: status lines, `100 Continue`, headers, chunk lengths and trailers
    may arrive a byte at a time for ever.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._expired = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        timer = threading.Timer(self._seconds, self._expire)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            for connection in self._sockets:
                connection.close()

    def add(self, connection: socket.socket) -> None:
        """Register a connection by a duplicate of its socket, since TLS detaches the original one."""
        with self._lock:
            self._sockets.append(connection.dup())
        self.check()

    def resolve(self, host: str, port: int) -> list[Any]:
        """Return the addresses of a name; a DNS query that takes too long is abandoned."""
        results: list[Any] = []

        def look_up() -> None:
            try:
                results.append(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, ValueError) as error:
                results.append(error)

        thread = threading.Thread(target=look_up, daemon=True)
        thread.start()
        while thread.is_alive() and not self._expired.is_set():
            thread.join(0.05)
        self.check()
        if isinstance(results[0], Exception):
            raise results[0]
        return list(results[0])

    def check(self) -> None:
        """Raise `ArchiveError` if the deadline has passed."""
        if self._expired.is_set():
            raise ArchiveError(f"was not complete after {self._seconds:g} seconds")

    def _expire(self) -> None:
        self._expired.set()
        with self._lock:
            for connection in self._sockets:
                with suppress(OSError):  # closed by the other side
                    connection.shutdown(socket.SHUT_RDWR)


class _Connector:
    """Opens the connections of one download; if the first address was public, all others must be.

    A name is resolved once, and the checked address is the one connected to. Behind a proxy only an address in the URL
    itself can be checked.
    """

    def __init__(self, deadline: _Deadline) -> None:
        self._deadline = deadline
        self._first_was_public: bool | None = None

    def connect(
        self, host_and_port: tuple[str, int], timeout: float, source: None = None, *, proxied: str
    ) -> socket.socket:
        """Return a socket connected to a host and port, which are the proxy's if `proxied` names the real host."""
        candidates = self._deadline.resolve(*host_and_port)
        is_public = {item[4][0]: _is_public(proxied or item[4][0]) for item in candidates}
        if self._first_was_public:
            candidates = [item for item in candidates if is_public[item[4][0]]]
        if not candidates:
            raise ArchiveError("redirects to a private or link-local address; if that is right, pull from there")
        for number, (family, kind, protocol, _, address) in enumerate(candidates, start=1):
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout)
                self._deadline.add(connection)
                connection.connect(address)
                break
            except OSError:
                connection.close()
                self._deadline.check()
                if number == len(candidates):
                    raise
        if self._first_was_public is None:
            self._first_was_public = is_public[address[0]]
        return connection


def _is_public(host: str) -> bool:
    """Return whether an address is public. A name, which a proxy resolves, counts as public."""
    try:
        address: _Address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host != "localhost"
    if isinstance(address, ipaddress.IPv6Address):  # it may embed an IPv4 address
        inside = address.ipv4_mapped or address.sixtofour
        address = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else inside or address
    return address.is_global and not address.is_multicast


def _connection(
    kind: Any, connector: _Connector, request: Request, host: str, **options: Any
) -> http.client.HTTPConnection:
    """Return an unopened connection that uses the connector; `host` is the proxy if the request has one."""
    target_host = urlsplit(request.full_url).hostname or ""
    connection: Any = kind(host, **options)
    proxied = "" if urlsplit(f"//{host}").hostname == target_host else target_host
    connection._create_connection = partial(connector.connect, proxied=proxied)
    return connection  # type: ignore[no-any-return]


class _Http(HTTPHandler):
    def __init__(self, connector: _Connector) -> None:
        super().__init__()
        self._connector = connector

    def http_open(self, req: Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPConnection, self._connector, req), req)


class _Https(HTTPSHandler):
    def __init__(self, connector: _Connector) -> None:
        super().__init__()
        self._connector = connector

    def https_open(self, req: Request) -> Any:
        return self.do_open(partial(_connection, http.client.HTTPSConnection, self._connector, req), req)


class _Redirects(HTTPRedirectHandler):
    """Follows redirects that keep the scheme."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        fp.close()  # the caller would read the body, which may be endless
        if urlsplit(newurl).scheme != req.type:
            raise ArchiveError(f"redirects from {req.type} to another scheme; if that is right, pull from there")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
