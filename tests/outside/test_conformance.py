"""Runs V2's conformance suite, which knows nothing of this server, against this server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.server import Server, serve
from tests.support.service import HOUSE, ROOT

MATRIX = {"name": "rows", "shape": [2, 6], "datatype": "FP32", "data": [list(HOUSE.values())] * 2}


@pytest.mark.parametrize("request_body", [None, {"inputs": [MATRIX]}], ids=["made up", "matrix of FP32"])
def test_conformance(server: Server, tmp_path: Path, request_body: dict[str, object] | None) -> None:
    """The server passes every case, with a tensor a feature or with one matrix."""
    options = []
    if request_body:
        sample = tmp_path / "request.json"
        sample.write_text(json.dumps(request_body))
        options = ["--request", str(sample)]
    check(server, options)


def test_conformance_of_a_classifier(classifiers_store: Path, tmp_path: Path) -> None:
    """A model of two outputs, one of which is a matrix, passes every case, too."""
    with serve(classifiers_store, tmp_path, TABSERVE_MODELS="grade", WEB_CONCURRENCY="1") as server:
        check(server, ["--model", "grade"])


def check(server: Server, options: list[str]) -> None:
    """Run the suite against a server."""
    command = [sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", "--url", server.url, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000)

    assert done.returncode == 0, done.stdout
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) > 150
