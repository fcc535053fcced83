"""Owns the command line and its wrappers: pipes, Ctrl-C, encodings, paths with spaces, empty variables."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from tests.support.service import ROOT, TABLE

PYTHON = [sys.executable, "-m", "model"]


def predicting(store: Path, table: str = "-") -> list[str]:
    """Return the command that predicts the rows of a table, by default of its standard input."""
    return [*PYTHON, "--store", str(store), "predict", "boston-housing", table]


def test_reader_that_stops(store: Path, houses: pd.DataFrame) -> None:
    """A closed output pipe ends the command silently by SIGPIPE, as with other tools."""
    table = pd.concat([houses] * 40).to_csv(index=False)
    with subprocess.Popen(
        predicting(store), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as command:
        assert command.stdin
        assert command.stdout
        assert command.stderr
        command.stdin.write(table.encode())
        command.stdin.close()
        command.stdout.readline()
        command.stdout.close()

        assert command.stderr.read() == b""
        assert command.wait(timeout=300) == -signal.SIGPIPE


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"], ids=["plain", "byte order mark"])
@pytest.mark.parametrize("from_file", [True, False], ids=["file", "standard input"])
def test_tables_are_utf8(store: Path, tmp_path: Path, mark: bytes, from_file: bool) -> None:
    """A table is UTF-8, with or without a byte order mark, from a file as from standard input, in any locale."""
    text = mark + TABLE.read_bytes()
    path = tmp_path / "table.csv"
    path.write_bytes(text)
    environ = {**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"}
    command = predicting(store, *([str(path)] if from_file else []))
    done = subprocess.run(
        command, cwd=ROOT, env=environ, input=b"" if from_file else text, capture_output=True, timeout=300
    )

    header, *rows = done.stdout.splitlines()
    assert header == b"CHAS,RM,TAX,PTRATIO,B,LSTAT,MEDV,prediction"
    assert len(rows) == 506
    assert done.stderr.startswith(b"506 rows, 0 rejected, ")


def test_unknown_name(store: Path) -> None:
    """An error for an unknown name lists the names in the store, without advice to train that name."""
    done = subprocess.run(
        [*PYTHON, "--store", str(store), "predict", "nope", "-"], cwd=ROOT, capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 1
    assert "train nope" not in done.stderr
    assert "boston-housing" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("notebook", [[], ["--notebook"]], ids=["directly", "notebook"])
def test_interrupted_training(tmp_path: Path, notebook: list[str]) -> None:
    """Ctrl-C ends training with a last line, whatever stood before it, and no version in the store.

    A shell reports status 130, also where Python ends itself by the signal (Ctrl-C came while it ran a text of code).
    """
    store = tmp_path / "store"
    command = [*PYTHON, "--store", str(store), "train", "boston-housing", *notebook]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as training:
        deadline = time.monotonic() + 60
        while "sklearn" not in Path(f"/proc/{training.pid}/maps").read_text():  # its imports have begun
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert training.stderr
        output = ""
        if notebook:  # a progress bar has begun, and must end before the last line
            while not output.endswith("Executing"):
                character = training.stderr.read(1)
                assert character, output  # training has ended
                output += character
        else:
            time.sleep(3)
        os.killpg(training.pid, signal.SIGINT)  # as a terminal does
        output += training.stderr.read()

        assert training.wait(timeout=300) in (130, -signal.SIGINT)
    assert output.splitlines()[-1] == "interrupted"
    assert "Traceback" not in output
    assert not list(store.glob("*/*/manifest.json"))


def test_store_with_spaces(store: Path, tmp_path: Path) -> None:
    """Make's targets take a store, and a model's name, as one word, whatever spaces are in it."""
    own = tmp_path / "a store"
    for target in ("train", "run"):
        output = subprocess.run(
            ["make", "-n", target, f"STORE={own}", "--old-file=.venv/.installed"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        (line,) = (line for line in output.splitlines() if "-m model --store" in line)
        words = shlex.split(line)
        assert words[words.index("--store") + 1] == str(own)
    assert f'TABSERVE_STORE="{own}"' in output

    own.symlink_to(store)
    output = subprocess.run(
        ["make", "-n", "run", f"STORE={own}", "--old-file=.venv/.installed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "-m model" not in output


def test_store_behind_a_url() -> None:
    """`make run` serves a store behind a URL as it is: it trains nothing there."""
    output = subprocess.run(
        ["make", "-n", "run", "STORE=s3://bucket/models", "--old-file=.venv/.installed"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert 'TABSERVE_STORE="s3://bucket/models"' in output
    assert "-m model" not in output


@pytest.mark.parametrize("empty", [{"WEB_CONCURRENCY": ""}, {"WEB_CONCURRENCY": "", "PORT": ""}])
def test_variables_that_are_empty(tmp_path: Path, empty: dict[str, str]) -> None:
    """A variable that compose passes as empty counts as unset, in the image and for `make run`."""
    server = tmp_path / "gunicorn"
    server.write_text('#!/bin/sh\necho "${WEB_CONCURRENCY-unset} $PORT $*"\n')
    server.chmod(0o755)
    script = (ROOT / "docker" / "entrypoint.sh").read_text().replace("/srv/tabserve", str(tmp_path))
    environ = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TABSERVE_STORE": "x", **empty}
    done = subprocess.run(["sh", "-c", script], env=environ, capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "unset 8080 \n"

    makefile = (ROOT / "Makefile").read_text() + "\nshow:\n\t@echo $${WEB_CONCURRENCY-unset} $(PORT)\n"
    done = subprocess.run(
        ["make", "-s", "-f", "-", "show"], input=makefile, env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == "unset 8000\n"
