"""Owns the life of a model under load; benchmarks/life.py does the same for longer."""

from __future__ import annotations

from pathlib import Path

from benchmarks.life import run
from model.store.artifact import read_draft


def test_versions_come_and_go_under_load(store: Path, worse_store: Path, tmp_path: Path) -> None:
    """While versions are promoted, rolled back, damaged and removed, no request fails, and each answer is bit for bit
    that of a version that is the champion, or was a moment before.
    """
    life = run([read_draft(folder / "boston-housing" / "1") for folder in (store, worse_store)], tmp_path, seconds=18)

    assert list(life.failures) == []
    assert (life.n_failed, life.n_wrong) == (0, 0)
    assert max(life.replaced_for) < 60  # far more than the second of the poll and a load on a busy machine
    assert len({answer.version for answer in life.answers}) > 1
