"""Requests that schemathesis generates from the OpenAPI document."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.keys import make_key
from tests.support.server import serve
from tests.support.service import ROOT

# The paths to whose requests and replies a model's columns and labels make a difference, but for those by version.
PREDICTIONS = ["--include-path-regex", "(predict|infer|invocations)$", "--exclude-path-regex", "/versions/"]
ST = ROOT / ".venv-clients" / "bin" / "st"


@pytest.mark.skipif(not ST.exists(), reason="there is no .venv-clients; `make test-all` makes it")
@pytest.mark.parametrize(
    ("name", "models", "paths", "scopes"),
    [
        ("store", "", [], []),
        ("store", "", [], ["admin"]),
        ("gems_store", "", PREDICTIONS, []),
        ("sales_store", "", PREDICTIONS, []),
        ("classifiers_store", "mine,many,precious", PREDICTIONS, []),
    ],
    ids=["store", "store_with_keys", "gems_store", "sales_store", "classifiers_store"],
)
def test_generated_requests_fit_the_document(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, models: str, paths: list[str], scopes: list[str]
) -> None:
    """Schemathesis, which generates good and bad requests from the document, finds no failure.

    Wrong keys are left to tests/service/test_keys.py: the server looks at few of them from one address.

    Paths that know nothing of columns are asked of one store alone. The servers take few rows: requests reach the
    limit, and lists of 10,000 take minutes to generate.
    """
    clients = ROOT / "tests" / "outside" / "clients"
    examples = "2000" if settings.get_current_profile_name() == "deep" else "100"  # for each operation
    command = [
        str(ST),
        "--no-color",
        "--config-file",
        str(clients / "schemathesis.toml"),
        "run",
        "--max-examples",
        examples,
    ]
    settings_of_server = {"TABSERVE_MAX_ROWS": "20", "TABSERVE_MODELS": models, "TABSERVE_MCP": "true"}
    if scopes:
        key = make_key(tmp_path / "keys.jsonl", "schemathesis", *scopes)
        settings_of_server["TABSERVE_KEYS"] = str(tmp_path / "keys.jsonl")
        command += ["--header", f"X-API-Key: {key}", "--exclude-checks", "ignored_auth"]
    with serve(request.getfixturevalue(name), tmp_path, **settings_of_server) as server:
        # It stores its findings in the working directory.
        done = subprocess.run(
            [*command, *paths, f"{server.url}/openapi.json"],
            cwd=tmp_path,
            env={**os.environ, "SCHEMATHESIS_HOOKS": str(clients / "serializers.py")},
            capture_output=True,
            text=True,
            timeout=1100,
        )

    assert done.returncode == 0, "\n".join(line[:500] for line in done.stdout.splitlines())
    generated = re.search(r"(\d+) generated, (\d+) passed", done.stdout)
    assert generated
    assert int(generated[1]) > 1000
