"""Run Prometheus on this machine with the rules, against one server or several as one service."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

from monitoring import rules

_POLL_SECONDS = 0.1

MISSING = (
    "prometheus is not installed: apt-get install prometheus (Debian, Ubuntu), or see https://prometheus.io/download; "
    "with Docker: docker compose -f monitoring/compose.yaml up"
)


def run(urls: Sequence[str], *, port: int, window: str, hold: str, interval: str, folder: Path | None = None) -> int:
    """Watch the servers at `urls` until Prometheus ends or this process is interrupted; return the exit status.

    Stores the samples in `folder`, or in a temporary folder. Raises `FileNotFoundError` if Prometheus is not installed.
    """
    program = shutil.which("prometheus")
    if not program:
        raise FileNotFoundError(MISSING)
    with TemporaryDirectory(prefix="tabserve-prometheus-") as temporary_folder:
        directory = folder or Path(temporary_folder)
        write(directory, urls, window=window, hold=hold, interval=interval)
        command = [
            program,
            f"--config.file={directory / 'prometheus.json'}",
            f"--storage.tsdb.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        process = subprocess.Popen(command)

        def stop(number: int, frame: FrameType | None) -> None:
            process.terminate()

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, stop)
        while process.poll() is None and _status(port, "/-/ready") != 200:
            time.sleep(_POLL_SECONDS)
        if process.poll() is None:
            # Debian's Prometheus has only the classic pages, without those that are built with Node.
            pages = f"http://localhost:{port}" + ("" if _status(port, "/targets") == 200 else "/classic")
            print(
                f"Prometheus watches {', '.join(urls)}; stop it with Ctrl-C.\n"
                f"  targets  {pages}/targets\n"
                f"  alerts   {pages}/alerts\n"
                f"  drift    {pages}/graph?g0.expr=tabserve:feature_drift:ratio&g0.tab=0&g0.range_input=1h",
                flush=True,
            )
        return process.wait()


def _status(port: int, path: str) -> int:
    """Return Prometheus's status for a path, or 0 without a response."""
    with closing(HTTPConnection("127.0.0.1", port, timeout=_POLL_SECONDS * 10)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, HTTPException):
            return 0


def write(folder: Path, urls: Sequence[str], *, window: str, hold: str, interval: str) -> None:
    """Write Prometheus's configuration and the rules, as JSON, which is valid YAML and needs no package."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("prometheus.json", configuration(urls, interval=interval)),
        ("rules.json", {"groups": rules.groups(window=window, hold=hold, interval=interval)}),
    ):
        (folder / name).write_text(json.dumps(content, indent=1))


def configuration(urls: Sequence[str], *, interval: str) -> dict[str, Any]:
    """Return the configuration: the targets, the interval and the rule file."""
    return {
        "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
        "rule_files": ["rules.json"],
        "scrape_configs": [{"job_name": "tabserve", "static_configs": [_target(url) for url in urls]}],
    }


def _target(url: str) -> dict[str, Any]:
    address = urlsplit(url if "//" in url else f"//{url}")
    if not address.netloc or address.scheme not in ("", "http", "https"):
        raise ValueError(f"{url!r} is not the URL of a server, such as http://localhost:8000")
    path = f"{address.path.rstrip('/')}/metrics"
    return {
        "targets": [address.netloc],
        "labels": {"__scheme__": address.scheme or "http", "__metrics_path__": path},
    }


def main(urls: Sequence[str], *, port: int, window: str, hold: str, interval: str, folder: Path | None) -> int:
    """Run Prometheus, or print the reason in one sentence if that fails."""
    try:
        return run(urls, port=port, window=window, hold=hold, interval=interval, folder=folder)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
