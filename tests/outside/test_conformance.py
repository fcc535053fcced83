"""Runs V2's conformance suite, which knows nothing of this server, against this server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import Server
from tests.support.service import HOUSE, ROOT

MATRIX = {"name": "rows", "shape": [2, 6], "datatype": "FP32", "data": [list(HOUSE.values())] * 2}


@pytest.mark.parametrize("request_body", [None, {"inputs": [MATRIX]}], ids=["made up", "matrix of FP32"])
def test_conformance(server: Server, tmp_path: Path, request_body: dict[str, object] | None) -> None:
    """The server passes every case, with a tensor a feature or with one matrix."""
    command = [sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", "--url", server.url]
    if request_body:
        sample = tmp_path / "request.json"
        sample.write_text(json.dumps(request_body))
        command += ["--request", str(sample)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000)

    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 150
