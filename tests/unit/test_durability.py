"""Owns what is on the disk when: nothing gets its final name before all of it would survive a power cut."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from model import Store
from tests.support.store import SMALL

_renames: list[tuple[str, str]] | None = None


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("os.rename", "os.link") and _renames is not None:
        _renames.append((os.fsdecode(arguments[0]), os.fsdecode(arguments[1])))  # type: ignore[arg-type]


sys.addaudithook(_note)


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """What happens to files, in order: (path, "sync") when it is synced, (old name, new name) when it gets that."""
    global _renames
    found = _renames = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        sync(descriptor)
        found.append((os.readlink(f"/proc/self/fd/{descriptor}"), "sync"))

    monkeypatch.setattr(os, "fsync", noting)
    yield found
    _renames = None


needs_proc = pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs Linux's /proc")


@needs_proc
def test_version_is_on_the_disk_before_its_name_and_that_before_its_alias(
    tmp_path: Path, events: list[tuple[str, str]]
) -> None:
    """Files and folders of a version are synced before it gets its number, that before its alias, and then that."""
    root = (tmp_path / "new" / "store").resolve()
    version = Store(root).add("m", SMALL)
    model, moves = str(root / "m"), str(root / "m" / "moves")
    ((named, (incoming, _)),) = [(n, event) for n, event in enumerate(events) if event[1] == str(version)]
    ((aliased, (table, _)),) = [(n, event) for n, event in enumerate(events) if event[1] == f"{moves}/1.json"]

    def synced(events: list[tuple[str, str]]) -> set[str]:
        return {path for path, what in events if what == "sync"}

    parts = [Path(incoming), *(Path(incoming) / path.relative_to(version) for path in version.rglob("*"))]
    assert {str(path) for path in parts} <= synced(events[:named])
    assert {str(root), str(root.parent), str(tmp_path.resolve())} <= synced(events[:named])  # names of new folders
    assert model in synced(events[named:aliased])
    assert {table, model} <= synced(events[:aliased])
    assert moves in synced(events[aliased:])


@needs_proc
def test_merged_versions_are_on_the_disk_before_their_names(tmp_path: Path, events: list[tuple[str, str]]) -> None:
    """Versions of another store are synced before they move, and their names before the aliases."""
    other, root = (tmp_path / "other").resolve(), (tmp_path / "store").resolve()
    source = Store(other).add("m", SMALL)
    root.mkdir()
    events.clear()
    ((version, _),) = Store(root).merge(Store(other)).items()
    (named,) = [n for n, event in enumerate(events) if event == (str(source), str(version))]
    (aliased,) = [n for n, event in enumerate(events) if event[1] == str(root / "m" / "moves" / "1.json")]

    assert {(str(source), "sync"), (str(source / "plots"), "sync"), (str(root), "sync")} <= set(events[:named])
    assert (str(root / "m"), "sync") in events[named:aliased]
    assert (str(root / "m" / "moves"), "sync") in events[aliased:]
