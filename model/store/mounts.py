"""A store where a platform mounts one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from model.store import artifact
from model.store.history import MOVES
from model.store.versions import Store


def find_store(candidates: Sequence[Path]) -> Path | None:
    """Return the first candidate with a model, or the only folder in it, at most two levels down, with one.

    A folder has a model if it is an artifact or a store that is not empty. A store of one version without aliases, as
    mounted from `<name>/<version>/`, is found as that artifact. An unreadable folder has no model.
    """
    found = (_find_below(candidate, levels=2) for candidate in candidates)
    return next((path for path in found if path), None)


def _find_below(folder: Path, *, levels: int) -> Path | None:
    with suppress(OSError):
        if (folder / artifact.MANIFEST).is_file():
            return folder
        store = Store(folder)
        models = {name: store.versions(name) for name in store.names()}
        paths = [folder / name / str(version) for name, versions in models.items() for version in versions]
        n_versions = sum((path / artifact.MANIFEST).is_file() for path in paths)
        if n_versions > 1 or (n_versions and any((folder / name / MOVES).is_dir() for name in models)):
            return folder
        inside = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
        found = [path for path in (_find_below(path, levels=levels - 1) for path in inside if levels) if path]
        if len(found) == 1:
            return found[0]
        return folder if n_versions else None
    return None
