"""Versions and aliases of models: `<root>/<name>/<version>/` and `<root>/<name>/aliases.json`."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from model import artifact
from model.artifact import Artifact, Draft
from model.errors import ArtifactError, NotInStoreError

CHAMPION = "champion"
ALIASES = "aliases.json"

# Names become folders, URLs and label values: nothing that would have to be quoted in any of them.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of models.

    A model is asked for as `name` (its champion), `name@alias` or `name@version`.
    """

    root: Path

    def names(self) -> list[str]:
        """Return the models that have a version."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if _NAME.fullmatch(path.name) and self.versions(path.name)
        )

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, oldest first; none if there is no such model."""
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir())

    def aliases(self, name: str) -> dict[str, int]:
        """Return the version that each alias of a model stands for."""
        path = self._folder(name) / ALIASES
        try:
            aliases = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            aliases = None
        if not isinstance(aliases, dict) or not all(type(version) is int for version in aliases.values()):
            raise ArtifactError(path, "is not a table of aliases", 'write it anew: {"champion": 1}')
        return aliases

    def add(self, name: str, draft: Draft, *, alias: str = CHAMPION) -> Path:
        """Write the draft as the next version of `name`, point `alias` to it and return its folder."""
        folder = self._folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder) as descriptor:
            for abandoned in folder.glob(artifact.INCOMING + "*"):  # by a process that was killed while it wrote
                shutil.rmtree(abandoned)
            aliases = self.aliases(name)
            version = max(self.versions(name), default=0) + 1
            path = artifact.save(draft, folder / str(version), name=name, version=version)
            incoming = folder / f".{ALIASES}"
            artifact.write(incoming, artifact.to_json({**aliases, alias: version}))
            os.fsync(descriptor)  # the new version's name, before the alias that points to it
            incoming.replace(folder / ALIASES)
            os.fsync(descriptor)
        return path

    def find(self, reference: str) -> Path:
        """Return the folder of the version that `reference` asks for. Raises `NotInStoreError`."""
        name, _, wanted = reference.partition("@")
        versions = self.versions(name)
        if not versions:
            there = ", ".join(self.names()) or "no model at all"
            raise NotInStoreError(
                f"there is no model {name!r} in the store {self.root}, which has {there}; "
                f"train it with `python -m model train {name}`, or name another store"
            )
        aliases = self.aliases(name)
        by_number = {str(version): version for version in versions}
        version = by_number.get(wanted) or aliases.get(wanted or CHAMPION)
        if version not in versions:
            raise NotInStoreError(
                f"the model {name!r} in the store {self.root} has no version {wanted or CHAMPION!r}; "
                f"its versions are {versions}, its aliases {aliases}"
            )
        return self._folder(name) / str(version)

    def load(self, reference: str) -> Artifact:
        """Load and verify the version that `reference` asks for. Raises `NotInStoreError`, `ArtifactError`."""
        path = self.find(reference)
        found = artifact.load(path)
        if (found.name, str(found.version)) != (path.parent.name, path.name):
            raise ArtifactError(
                path / artifact.MANIFEST,
                f"is of {found.name} version {found.version}, which belongs in another folder",
                "put it back there, or train this version again",
            )
        return found

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise NotInStoreError(f"{name!r} is not a model's name: small letters, digits and single dashes")
        return self.root / name


@contextmanager
def _locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock and yield its descriptor, so that two trainings at once get two versions."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
