"""Runs a folder's tests in a process of their own, without this project's configuration of pytest."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path


def pass_apart(python: str | Path, path: Path, folder: Path, tmp_path: Path, environ: Mapping[str, str]) -> None:
    """Run the tests at `path` in `folder`, all of which must pass, and none be skipped."""
    alone = ["-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}", f"--confcutdir={folder}"]
    done = subprocess.run(
        [str(python), "-m", "pytest", str(path), *alone, f"--basetemp={tmp_path / 'tests'}"],
        env={**os.environ, **environ, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1000,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"\d+ passed", done.stdout)
    assert "skipped" not in done.stdout.splitlines()[-1]
