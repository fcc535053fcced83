"""A real gunicorn, run as `make run` runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.support.service import ROOT


@dataclass
class Server:
    """A running gunicorn: its URL, its process and its output files."""

    url: str
    process: subprocess.Popen[bytes]
    stdout: Path
    stderr: Path

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end and return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a server with SIGTERM, and kill it if that takes too long."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def serve(
    store: Path | str,
    folder: Path,
    *,
    wait: str = "/readyz",
    host: str = "127.0.0.1",
    port: str = "",
    prefix: Sequence[str] = (),
    tls: Sequence[str] = (),
    **settings: str,
) -> Iterator[Server]:
    """Run gunicorn as `make run` does until the block ends; `wait` for a path to reply 200. Port "" is any free one,
    and `host` an address by which 127.0.0.1 is reached, too.

    `settings` are environment variables, as in `WEB_CONCURRENCY="1"`; by default there is no prediction log, and models
    are loaded again at SIGHUP alone.
    `prefix` is a command that runs the server. `tls` are the files by which a client asks: of the authority
    of the server's certificate, and of the client's own certificate and its key, if it needs one.
    """
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TABSERVE_", "PROMETHEUS_", "PORT"))}
    environ = {**kept, "TABSERVE_STORE": str(store), "TABSERVE_PREDICTION_LOG": "", "TABSERVE_RELOAD_SECONDS": "0"}
    environ |= {"TMPDIR": str(folder), **settings}
    stdout, stderr = folder / "stdout.log", folder / "stderr.log"
    command = [*prefix, str(Path(sys.executable).parent / "gunicorn"), "--bind", f"{host}:{port}"]
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=out, stderr=err)
    server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{port}", process, stdout, stderr)
    try:
        _wait_for(server, wait, tls)
        yield server
    finally:
        end(process)


def _wait_for(server: Server, path: str, tls: Sequence[str]) -> None:
    verify, cert = (tls[0], (tls[1], tls[2]) if tls[1:] else None) if tls else (True, None)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if requests.get(server.url + path, timeout=5, verify=verify, cert=cert).status_code == 200:
                return
        except requests.RequestException:
            if server.process.poll() is not None:
                break
        time.sleep(0.05)
    raise AssertionError(f"the server did not answer {path}:\n{server.stderr.read_text()}")


def wait_until(true: Callable[[], bool]) -> None:
    """Return once a condition is true; fail after a minute, which is far more than even a busy machine needs."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# A proxy in front of the server.
NGINX = """
{user}
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_max_body_size 0;
  client_body_temp_path {folder}/bodies;
  proxy_temp_path {folder}/proxied;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream service {{ server {service}; keepalive 4; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://service;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_next_upstream off;
    }}
  }}
}}
"""
