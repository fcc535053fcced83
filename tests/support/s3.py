"""A real S3-compatible server, and a proxy in front of it that breaks connections where a test says so."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import requests

from tests.support.server import wait_until

BUCKET = "bucket"
REGION = "us-east-1"


@dataclass
class Request:
    """One request of a client: its method, path with query, and headers; and what is left of its body."""

    method: str
    path: str
    headers: dict[str, str]
    head: bytes


@dataclass
class Proxy:
    """Passes requests on, one a connection, but for what `fault` returns for one.

    None: passed on. A number: cut after this many bytes of the request's body, or, negative, of the reply. Bytes: the
    reply, without asking the server.
    """

    port: int
    upstream: int
    fault: Callable[[Request], int | bytes | None] = lambda request: None
    seen: list[Request] = field(default_factory=list)
    _listener: socket.socket | None = None

    def handle(self, client: socket.socket) -> None:
        """Answer one connection."""
        with client, suppress(OSError):
            client.settimeout(30)
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(65_536)
                if not piece:
                    return
                head += piece
            head, _, body = head.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
            request = Request(method, unquote(path), headers, head)
            self.seen.append(request)
            fault = self.fault(request)
            if headers.get("expect") == "100-continue":
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = int(headers.get("content-length", 0))
            limit = length if fault is None or isinstance(fault, bytes) or fault < 0 else min(length, fault)
            while len(body) < limit:
                body += client.recv(65_536)
            if isinstance(fault, bytes):
                client.sendall(fault)
                return
            kept = [line for line in lines if not re.match("(connection|expect):", line, re.IGNORECASE)]
            with socket.create_connection(("127.0.0.1", self.upstream), timeout=30) as server:
                server.sendall("\r\n".join([first, *kept, "Connection: close"]).encode("latin-1") + b"\r\n\r\n")
                if fault is not None and fault >= 0:
                    server.sendall(body[:fault])
                    return  # half an upload
                server.sendall(body)
                left = -fault if fault is not None else sys.maxsize
                while left > 0 and (piece := server.recv(min(65_536, left))):
                    left -= len(piece)
                    client.sendall(piece)

    def run(self, listener: socket.socket) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self.handle, args=(client,), daemon=True).start()

    def open(self) -> None:
        """Listen; again after `close`."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self.run, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Refuse connections from now on."""
        if self._listener:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # close alone would not wake the thread that accepts
            self._listener.close()
            self._listener = None


@contextmanager
def s3_server(folder: Path) -> Iterator[Proxy]:
    """Run the server with one empty bucket, and yield the proxy in front of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (folder / "s3.log").open("wb") as log:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    proxy = Proxy(0, port)
    try:

        def is_up() -> bool:
            assert process.poll() is None, (folder / "s3.log").read_text()
            with suppress(requests.ConnectionError):
                return requests.put(f"http://127.0.0.1:{port}/{BUCKET}", timeout=30).status_code == 200
            return False

        wait_until(is_up)
        proxy.open()
        yield proxy
    finally:
        proxy.close()
        process.kill()
        process.wait()


def environment(port: int) -> dict[str, str]:
    """Return the variables with which the clients of S3 reach a server on this machine."""
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }
