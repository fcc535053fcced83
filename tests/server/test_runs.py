"""Recording a run: how it ended, where it ran, and that a record which cannot be written costs nothing else."""

from __future__ import annotations

import re
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from model import VERSION, ModelError, NotInStoreError, Store
from model.store import artifact, runs
from model.store.runs import FAILED, FINISHED, INTERRUPTED, TRAIN, Run, recording
from tests.support.service import ROOT


def only_run(store: Store) -> Run:
    """Return the one run of the model `m`."""
    (run,), damaged = runs.read(store, "m")
    assert damaged == []
    return run


def test_run_that_finishes_is_recorded(tmp_path: Path) -> None:
    """The record has what was told, in strict JSON, the code and environment, and no credentials."""
    store = Store(tmp_path / "new" / "store")
    asked = {
        "data": "http://user:secret@host/t.csv?key=secret",
        "out": Path("x"),
        "bad": float("nan"),
        "odd": "a\udc80",
    }
    with recording(store, "m", TRAIN, parameters=asked, by="somebody") as run:
        assert not (tmp_path / "new").exists()
        run.add(data={"source": asked["data"]}, metrics={"training": {"rmse": np.float64(2)}})
        run.add(data={"rows": np.int64(3)}, environment={"device": "cuda", "packages": {"torch": "2"}})
    found = only_run(store)

    assert (found.outcome, found.kind, found.model, found.by, found.error) == (FINISHED, TRAIN, "m", "somebody", "")
    assert found.parameters == {"data": "http://host/t.csv", "out": "x", "bad": None, "odd": "a\\udc80"}
    assert found.facts == {
        "data": {"source": "http://host/t.csv", "rows": 3},
        "metrics": {"training": {"rmse": 2.0}},
    }
    assert found.code["tabserve"] == VERSION
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?", found.code["git_commit"]) or not (ROOT / ".git").exists()
    assert found.environment["device"] == "cuda"
    assert {"numpy", "torch"} <= found.environment["packages"].keys()
    assert found.id == re.sub(r"[-:]|\+.*", "", found.started_at).replace("T", "-").replace(".", "-")


@pytest.mark.parametrize(
    ("raised", "outcome", "message"),
    [
        (ModelError("no column in http://user:secret@host/t.csv"), FAILED, "no column in http://host/t.csv"),
        (MemoryError(), FAILED, "MemoryError"),
        (ValueError("x" * 5_000), FAILED, f"{'x' * 2_000}…"),
        (KeyboardInterrupt(), INTERRUPTED, ""),
    ],
)
def test_run_that_fails_is_recorded(tmp_path: Path, raised: BaseException, outcome: str, message: str) -> None:
    """A run that fails or is interrupted is kept with the reason and what was known; its error goes on unchanged."""

    def work() -> None:
        with recording(Store(tmp_path), "m", TRAIN) as run:
            run.add(data={"rows": 7})
            raise raised

    with pytest.raises(type(raised)) as caught:
        work()
    found = only_run(Store(tmp_path))

    assert caught.value is raised
    assert (found.outcome, found.error, found.part("data")) == (outcome, message, {"rows": 7})


def test_name_that_cannot_be_is_refused_before_the_work(tmp_path: Path) -> None:
    """A name that no model can have leaves no folder, and nothing is done."""
    with pytest.raises(NotInStoreError), recording(Store(tmp_path), "../x", TRAIN):
        raise AssertionError
    assert list(tmp_path.iterdir()) == []


@contextmanager
def full_disk() -> Iterator[None]:
    """Let no file of this process grow, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("fault", ["full disk", "no folder"])
def test_record_that_cannot_be_written_costs_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str
) -> None:
    """On a full disk, or where there can be no folder, what was done stays done; one line says so."""
    (tmp_path / "m").mkdir()
    folder = tmp_path / "m" / "runs"
    if fault == "no folder":
        folder.write_text("")
    done = False
    if fault == "full disk":
        with full_disk(), recording(Store(tmp_path), "m", TRAIN):
            done = True
    else:
        with recording(Store(tmp_path), "m", TRAIN):
            done = True

    assert done
    error = capsys.readouterr().err
    assert error.startswith(f"mind     this run is not kept in {folder}: ")
    assert error.count("\n") == 1
    assert not folder.is_dir() or list(folder.iterdir()) == []


def test_error_is_not_hidden_by_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    """Where neither the run nor its record succeeds, the run's error is what is raised."""
    (tmp_path / "m").write_text("")
    with pytest.raises(ModelError, match="the reason"), recording(Store(tmp_path), "m", TRAIN):
        raise ModelError("the reason")


def test_artifact_takes_no_record(tmp_path: Path) -> None:
    """A store that is one artifact stays as it is."""
    (tmp_path / artifact.MANIFEST).write_text("{}")
    with recording(Store(tmp_path), "m", TRAIN):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [artifact.MANIFEST]


def test_what_a_killed_process_has_left_is_removed(tmp_path: Path) -> None:
    """A record that was begun and never ended is removed by the next one, and so is nothing else."""
    folder = tmp_path / "m" / runs.RUNS
    folder.mkdir(parents=True)
    (folder / f"{artifact.INCOMING}0").write_text("{")
    (folder / "journal.jsonl").write_text("of a search")
    with recording(Store(tmp_path), "m", TRAIN):
        pass

    assert sorted(path.name for path in folder.iterdir()) == [f"{only_run(Store(tmp_path)).id}.json", "journal.jsonl"]


def test_training_that_is_asked_to_end(tmp_path: Path) -> None:
    """SIGTERM ends a training as Ctrl-C does: with a line, a record that it was interrupted, and no version."""
    command = [sys.executable, "-m", "model", "--store", str(tmp_path), "train", "m", "--data", "-", "--target", "y"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as training:
        assert training.stdin
        assert training.stderr
        training.stdin.write(b"x,y\n" + b"1,2\n" * 100_000)  # more than a pipe holds, so it is being read
        training.stdin.flush()
        training.terminate()
        training.stdin.close()  # a signal just before a read would wait for the end of it
        status, error = training.wait(timeout=60), training.stderr.read().decode()

    assert (status, error) == (128 + signal.SIGTERM, "\ninterrupted\n")
    assert only_run(Store(tmp_path)).outcome == INTERRUPTED
    assert Store(tmp_path).versions("m") == []


def test_processes_that_record_at_once(tmp_path: Path) -> None:
    """Every run of several processes that record at the same time is kept, whole, under an id of its own."""
    code = (
        "import sys; from pathlib import Path; from model import Store; from model.store import runs\n"
        "for number in range(20):\n"
        "    with runs.recording(Store(Path(sys.argv[1])), 'm', 'train') as run: run.add(number=number)\n"
    )
    processes = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT) for _ in range(3)]
    assert [process.wait(timeout=300) for process in processes] == [0, 0, 0]
    found, damaged = runs.read(Store(tmp_path), "m")

    assert damaged == []
    assert sorted(run.facts["number"] for run in found) == sorted(3 * list(range(20)))
    assert [run.id for run in found] == sorted(run.id for run in found)
