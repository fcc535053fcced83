"""Trainings into one store."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model import ArtifactError, Store
from model.store import artifact
from model.train import recipe
from tests.support import examples
from tests.support import store as shared
from tests.support.service import ROOT

shelf = shared.shelf


def test_trainings_at_once_get_a_version_each(shelf: Store) -> None:
    """Processes that add to one model at the same time get different versions, and no move is lost."""
    script = """if True:
        import sys
        from pathlib import Path
        from model.store.artifact import Draft
        from model import Store
        for _ in range(5):
            Store(Path(sys.argv[1])).add("m", Draft({}, {"a": b"a" * 1000}), by=sys.argv[2])"""
    command = [sys.executable, "-c", script, str(shelf.root)]
    running = [subprocess.Popen([*command, str(number)], cwd=ROOT) for number in range(4)]

    assert [process.wait(timeout=300) for process in running] == [0, 0, 0, 0]
    assert shelf.versions("m") == list(range(1, 24))
    assert [artifact.read(shelf.find(f"m@{n}"))[0]["version"] for n in range(4, 24)] == list(range(4, 24))
    moves = shelf.history("m")[4:]
    assert [move.versions for move in moves] == [{"candidate": n, "challenger": 2, "champion": 3} for n in range(4, 24)]
    assert sorted(move.by for move in moves) == [*"0" * 5, *"1" * 5, *"2" * 5, *"3" * 5]


def test_of_two_promotions_at_once_one_wins(shelf: Store) -> None:
    """Of processes that decide on the same state exactly one moves the alias; the others are told and move nothing."""
    script = """if True:
        import sys
        from pathlib import Path
        from model import Store
        from model.errors import MovedError
        store = Store(Path(sys.argv[1]))
        seen = store.last_move("m")
        print("ready", flush=True)
        sys.stdin.readline()
        try:
            store.move("m", "promote", {"champion": 1 + int(sys.argv[2]) % 2}, after=seen, by=sys.argv[2])
            print("moved")
        except MovedError as error:
            print(error)"""
    command = [sys.executable, "-c", script, str(shelf.root)]
    running = [
        subprocess.Popen([*command, str(n)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(4)
    ]
    for process in running:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    outputs = [process.communicate("go\n", timeout=300)[0].strip() for process in running]
    last = shelf.history("m")[-1]

    assert len(shelf.history("m")) == 5
    assert outputs.index("moved") == int(last.by)
    assert [f"m was moved meanwhile, by {last.by} at" in output for output in outputs].count(True) == 3


def test_same_data_and_code_give_the_same_bytes(tmp_path: Path) -> None:
    """Two trainings on one table write the same files, figures included, and manifests that differ in `created_at`."""
    paths = []
    for name in ("one", "two"):
        paths.append(Store(tmp_path / name).add("boston-housing", recipe.draft(examples.trained(n_estimators=20))))
    one, two = (artifact.read(path) for path in paths)

    assert one[1] == two[1]
    assert {**one[0], "created_at": ""} == {**two[0], "created_at": ""}


def test_draft_that_no_server_would_load_is_refused() -> None:
    """A version is loaded as a server loads it before it is written, so that none blocks the server's next start."""
    found = examples.trained(n_estimators=5)
    other = replace(found.candidate, engine_facts={"kind": "another"})
    with pytest.raises(ArtifactError, match="does not list"):
        recipe.draft(replace(found, candidate=other))
