"""Bulk scoring by several processes: the same bytes as by one, and whatever kills it leaves no half of an output."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from tests.support.service import ROOT

N_ROWS = 300_000


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, houses: pd.DataFrame) -> Path:
    """A CSV table of many pieces."""
    path = tmp_path_factory.mktemp("bulk") / "houses.csv"
    drawn = houses.sample(N_ROWS, replace=True, random_state=1).reset_index(drop=True)
    drawn["LSTAT"] = np.random.default_rng(1).uniform(1, 40, N_ROWS).round(2)
    drawn.rename_axis("id").to_csv(path)
    return path


def command(store: Path, *arguments: object) -> list[str]:
    return [sys.executable, "-m", "model", "--store", str(store), "predict", "boston-housing", *map(str, arguments)]


def answered(store: Path, *arguments: object) -> str:
    """Run the command and return what it prints."""
    done = subprocess.run(command(store, *arguments), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def wait_for(path: Path, n_bytes: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until a file has so many bytes, while a process runs."""
    until = time.monotonic() + 120
    while not path.exists() or path.stat().st_size < n_bytes:
        assert process.poll() is None, "it ended before it could be disturbed"
        assert time.monotonic() < until
        time.sleep(0.002)


@pytest.fixture(scope="module")
def expected(store: Path, table: Path) -> bytes:
    """The output, made by one process."""
    path = table.with_name("alone.csv")
    answered(store, table, path, "--jobs", 1)
    return path.read_bytes()


def test_several_processes_write_the_same_bytes(store: Path, table: Path, expected: bytes, tmp_path: Path) -> None:
    """Three processes give the output of one, in the order of the rows, and so does standard output."""
    line = answered(store, table, tmp_path / "out.csv", "--jobs", 3)

    assert (tmp_path / "out.csv").read_bytes() == expected
    assert line.splitlines()[-1].startswith(f"{N_ROWS:,} rows, 0 rejected, ")
    with table.open("rb") as given:
        done = subprocess.run(
            command(store, "-", "-", "--jobs", 2), cwd=ROOT, stdin=given, capture_output=True, timeout=300
        )
    assert done.stdout == expected


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_in_the_middle(
    store: Path, table: Path, expected: bytes, tmp_path: Path, number: signal.Signals
) -> None:
    """Nothing has the output's name after a signal in the middle, no process stays, and the next run is whole."""
    output, incoming = tmp_path / "out.csv", tmp_path / ".out.csv.incoming"
    with subprocess.Popen(
        command(store, table, output, "--jobs", 2), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        wait_for(incoming, len(expected) // 4, process)
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) == 2
        process.send_signal(number)
        assert process.stderr
        message = process.stderr.read().decode()
        assert process.wait(timeout=60) != 0
    _, alive = psutil.wait_procs(children, timeout=60)

    assert not output.exists()
    assert not alive
    assert "Traceback" not in message
    assert incoming.exists() is (number == signal.SIGKILL)
    answered(store, table, output, "--jobs", 2)
    assert output.read_bytes() == expected
    assert [path.name for path in tmp_path.iterdir()] == ["out.csv"]


def test_process_that_dies(store: Path, table: Path, expected: bytes, tmp_path: Path) -> None:
    """If one of the processes is killed, as for want of memory, that is the error, and no output is left."""
    output, incoming = tmp_path / "out.csv", tmp_path / ".out.csv.incoming"
    with subprocess.Popen(
        command(store, table, output, "--jobs", 2), cwd=ROOT, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for(incoming, len(expected) // 4, process)  # type: ignore[arg-type]
        psutil.Process(process.pid).children()[0].kill()
        assert process.stderr
        message = process.stderr.read()

    assert "a process that answered rows ended by itself; is memory short? try --jobs 1" in message
    assert "Traceback" not in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_full_disk(store: Path, table: Path, tmp_path: Path, suffix: str) -> None:
    """Where no more can be written, the error says so, and nothing is left."""
    output = tmp_path / f"out.{suffix}"

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    done = subprocess.run(
        command(store, table, output, "--jobs", 2),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        preexec_fn=limit,
    )

    assert done.returncode == 1
    assert f"error: {output} cannot be written: File too large; nothing is left of it" in done.stderr
    assert not list(tmp_path.iterdir())


def test_two_at_once(store: Path, table: Path, expected: bytes, tmp_path: Path) -> None:
    """A second run into the same file is refused while the first one writes, which then is whole."""
    output = tmp_path / "out.csv"
    with subprocess.Popen(command(store, table, output, "--jobs", 2), cwd=ROOT, stderr=subprocess.PIPE) as first:
        wait_for(tmp_path / ".out.csv.incoming", 1, first)
        os.kill(first.pid, signal.SIGSTOP)
        second = subprocess.run(command(store, table, output), cwd=ROOT, capture_output=True, text=True, timeout=300)
        os.kill(first.pid, signal.SIGCONT)
        assert first.stderr
        first.stderr.read()

    assert second.returncode == 1
    assert "is being written by another process" in second.stderr
    assert output.read_bytes() == expected


def test_resume_after_a_kill(store: Path, table: Path, expected: bytes, tmp_path: Path) -> None:
    """A run over a folder that is killed in its second file leaves the first whole, and --resume does the rest."""
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for name in ("a.csv", "b.csv", "c.csv"):
        (folder / name).hardlink_to(table)
    with subprocess.Popen(command(store, folder, f"{output}/", "--jobs", 2), cwd=ROOT, stderr=subprocess.PIPE) as run:
        wait_for(output / ".b.csv.incoming", len(expected) // 4, run)
        run.kill()
        assert run.stderr
        run.stderr.read()
    assert [path.name for path in output.glob("*.csv")] == ["a.csv"]
    first = (output / "a.csv").stat().st_mtime_ns

    line = answered(store, folder, output, "--jobs", 2, "--resume").splitlines()[-1]

    assert line.startswith(f"{3 * N_ROWS:,} rows, 0 rejected, ")
    assert (output / "a.csv").stat().st_mtime_ns == first
    assert [path.read_bytes() == expected for path in sorted(output.glob("*.csv"))] == [True] * 3
    assert not list(output.glob(".*"))


def test_memory_does_not_grow(store: Path, table: Path, tmp_path: Path) -> None:
    """Five times the rows take no more memory, but for noise: the peak of the process stays."""
    long = tmp_path / "long.csv"
    with long.open("wb") as file:
        header, _, rows = table.read_bytes().partition(b"\n")
        file.write(header + b"\n")
        for _ in range(5):
            file.write(rows)
    peaks = []
    for path in (table, long):
        code = (
            "import resource, sys; from model.cli.main import main; status = main(sys.argv[1:]); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); sys.exit(status)"
        )
        arguments = command(store, path, tmp_path / "out.csv", "--jobs", 1)[3:]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stderr.split()[-1]))

    assert peaks[1] < peaks[0] * 1.1 + 10_000, peaks


def test_reader_that_closes_the_pipe(store: Path, table: Path) -> None:
    """Where the reader of standard output has enough, as `head` has, nothing is said of it."""
    with subprocess.Popen(command(store, table), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        assert process.stdout.readline().endswith(b",prediction\n")
        process.stdout.close()
        assert process.stderr.read() == b""
