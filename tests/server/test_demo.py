"""Owns `make demo`: a day of traffic to a server of its own, or to one that runs, and what it says about it."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.support.keys import make_key
from tests.support.server import Server, serve
from tests.support.service import ROOT

COMMAND = [sys.executable, "-m", "monitoring", "demo", "--seconds", "8"]


def test_drift_and_truths_are_in_the_report(store: Path) -> None:
    """The truths are accepted, the report finds the drift, and a stop by TERM ends the server, too."""
    command = [*COMMAND, "--store", str(store)]
    environ = {"PATH": ""}  # has no Prometheus
    lines = []
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            lines.append(line)
            if "Ctrl-C" in line:
                break
        text = "".join(lines)
        url = re.findall(r"http://\S+?(?=;)", text)[0]
        assert requests.get(f"{url}/metrics", timeout=10).ok
        demo.send_signal(signal.SIGTERM)

    assert demo.returncode == 0
    assert re.search(r"320 requests in \d+ s: 314 of status 200, 6 of status 422", text)
    assert re.search(r"truths +\d+ accepted, 0 not", text)
    assert "alerts    not judged, since Prometheus is not installed" in text
    assert "1 of 6 features drifted away from training: LSTAT" in text
    with pytest.raises(requests.ConnectionError):
        requests.get(f"{url}/livez", timeout=10)


def test_a_server_that_runs(server: Server) -> None:
    """A day may be sent to a server that runs: one without a prediction log takes no truths."""
    done = subprocess.run(
        [*COMMAND, "--url", server.url, "--exit"],
        cwd=ROOT,
        env={"PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "314 of status 200" in done.stdout
    assert re.search(r"truths +0 accepted, \d+ not", done.stdout)


def test_a_server_that_asks_for_keys(store: Path, tmp_path: Path) -> None:
    """The demo has no key, and says so before it sends anything."""
    make_key(tmp_path / "keys.jsonl", "shop", "predict:*")
    with serve(store, tmp_path, TABSERVE_KEYS=str(tmp_path / "keys.jsonl")) as guarded:
        command = [*COMMAND, "--url", guarded.url, "--exit"]
        done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True)

    assert done.returncode == 1
    assert f"{guarded.url} asks for keys, which the demo does not send" in done.stderr


def test_a_server_that_is_not_there() -> None:
    """Without a server at the URL the command says so and fails."""
    command = [*COMMAND, "--url", "http://127.0.0.1:9", "--exit"]
    done = subprocess.run(command, cwd=ROOT, env={"PATH": ""}, capture_output=True, text=True)

    assert done.returncode == 1
    assert done.stderr.strip() == "http://127.0.0.1:9 does not serve boston-housing; train it with `make train`"
