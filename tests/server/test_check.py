"""A check that is killed while it writes leaves no half of a table."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.quality import HEADER, house
from tests.support.service import ROOT

N_ROWS = 100_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table that takes a while to write."""
    path = tmp_path_factory.mktemp("table") / "houses.csv"
    path.write_text("\n".join([HEADER, *(",".join(house(number)) for number in range(N_ROWS))]) + "\n")
    return path


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1])
def test_killed_check_leaves_no_clean_table(table: Path, tmp_path: Path, delay: float) -> None:
    """After kill -9, at any time once the output is begun, there is no clean table, or all of both files."""
    output = tmp_path / "ok.csv.gz"
    command = [sys.executable, "-m", "model", "check", str(table), "--clean", str(output)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None and not any(tmp_path.iterdir()):
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
    if output.exists():
        counted = [sys.executable, "-m", "model", "check", str(output), "--json"]
        subprocess.run(counted, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=300)  # it can be read
        assert (tmp_path / "ok.rejected.csv.gz").exists()
    else:
        assert {path.name[0] for path in tmp_path.iterdir()} <= {"."} | ({"o"} if delay else set())
