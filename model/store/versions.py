"""Versions and aliases of models: `<root>/<name>/<version>/` and `<root>/<name>/aliases.json`.

A platform may mount a single artifact in place of a store: a root with a manifest is a store of only that version.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from model.errors import ArtifactError, NotInStoreError
from model.store import artifact
from model.store.artifact import Artifact, Draft
from model.store.files import read_json
from model.store.manifest import MAX_VERSION

CHAMPION = "champion"
ALIASES = "aliases.json"

# Names become folders, URLs and label values, so they contain nothing that needs quoting.
_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_VERSION = re.compile(r"[1-9][0-9]*")


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of models, or one artifact, which is then the champion of its name; nothing can be added to it.

    A reference to a model is `name` (its champion), `name@alias` or `name@version`.
    """

    root: Path

    def names(self) -> list[str]:
        """Return the names of models with a version. Raises `ArtifactError` if the root is a broken artifact."""
        if root_artifact := self._root_artifact():
            return list(root_artifact)
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if _NAME.fullmatch(path.name) and self.versions(path.name)
        )

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, oldest first; none if there is no such model."""
        folder = self._folder(name)
        if root_artifact := self._root_artifact():
            return [root_artifact[name]] if name in root_artifact else []
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir())

    def aliases(self, name: str) -> dict[str, int]:
        """Return the version of each alias of a model."""
        path = self._folder(name) / ALIASES
        if root_artifact := self._root_artifact():
            return {CHAMPION: root_artifact[name]} if name in root_artifact else {}
        try:
            aliases = read_json(path)
        except FileNotFoundError:
            return {}
        except PermissionError:  # the file itself may be correct
            raise
        except (OSError, ValueError):
            aliases = None
        if not isinstance(aliases, dict) or not all(type(version) is int for version in aliases.values()):
            raise ArtifactError(path, "is not a table of aliases", 'replace it, for example by {"champion": 1}')
        return aliases

    def add(self, name: str, draft: Draft, *, alias: str = CHAMPION) -> Path:
        """Write the draft as the next version of `name`, point `alias` to it and return its folder."""
        self._check_is_store()
        folder = self._folder(name)
        artifact.make_folder(folder)
        with _locked(folder) as descriptor:
            for abandoned in folder.glob(artifact.INCOMING + "*"):  # by a process that was killed
                shutil.rmtree(abandoned)
            aliases = self.aliases(name)
            version = max(self.versions(name), default=0) + 1
            path = artifact.save(draft, folder / str(version), name=name, version=version)
            incoming = folder / f".{ALIASES}"
            artifact.write(incoming, artifact.to_json({**aliases, alias: version}))
            os.fsync(descriptor)  # the new version's name before the alias that points to it
            incoming.replace(folder / ALIASES)
            os.fsync(descriptor)
        return path

    def find(self, reference: str) -> Path:
        """Return the folder of the version that `reference` names. Raises `NotInStoreError`."""
        name, _, wanted = reference.partition("@")
        versions = self.versions(name)
        if not versions:
            names = self.names()
            advice = "name one of those" if names else "train one, as with `python -m model train boston-housing`"
            raise NotInStoreError(
                f"there is no model {name!r} in the store {self.root}, which has "
                f"{', '.join(names) or 'no model at all'}; {advice}, or name another store"
            )
        aliases = self.aliases(name)
        by_number = {str(version): version for version in versions}
        version = by_number.get(wanted) or aliases.get(wanted or CHAMPION)
        if version not in versions:
            raise NotInStoreError(
                f"the model {name!r} in the store {self.root} has no version {wanted or CHAMPION!r}; "
                f"its versions are {versions}, its aliases {aliases}"
            )
        return self.root if self._root_artifact() else self._folder(name) / str(version)

    def load(self, reference: str, *, converted: bool = True) -> Artifact:
        """Load and verify the version that `reference` names. Raises `NotInStoreError`, `ArtifactError`.

        Without `converted` a converted graph is refused.
        """
        path = self.find(reference)
        found = artifact.load(path, converted=converted)
        if path != self.root and (found.name, str(found.version)) != (path.parent.name, path.name):
            raise ArtifactError(
                path / artifact.MANIFEST,
                f"is of {found.name} version {found.version}, which belongs in another folder",
                "move it there, or train this version again",
            )
        return found

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """Yield a new temporary folder on the store's file system, which is removed at the end.

        Also removes the folders of processes that were killed.
        """
        self._check_is_store()
        artifact.make_folder(self.root)
        folder = self.root / (artifact.INCOMING + uuid.uuid4().hex)
        with ExitStack() as held:
            with _locked(self.root):
                for other in self.root.glob(artifact.INCOMING + "*"):
                    # A live process holds the lock of its folder.
                    with suppress(BlockingIOError, FileNotFoundError), _locked(other, wait=False):
                        shutil.rmtree(other)
                folder.mkdir()
                held.enter_context(_locked(folder))
                held.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    def merge(self, other: Store, *, alias: str | None = None) -> dict[Path, bool]:
        """Move all versions of `other`, a store on the same file system, into this one, and set its aliases.

        With `alias`, point it to each model's newest version instead. Return each version's folder, and whether it is
        new: a version that this store already has is kept. Raises `ArtifactError` and changes nothing if that version
        is damaged or differs.
        """
        self._check_is_store()
        self._plan_moves(other)  # before any folder is made, so that an error leaves none
        with ExitStack() as held:
            locks: dict[str, int] = {}
            for name in other.names():  # sorted, so that two merges cannot deadlock
                artifact.make_folder(self._folder(name))
                locks[name] = held.enter_context(_locked(self._folder(name)))
            moves = self._plan_moves(other)
            changed: dict[Path, int] = {}  # new tables of aliases, to be renamed later, with their folders
            for name, descriptor in locks.items():
                old = self.aliases(name)
                new = {**old, **({alias: other.versions(name)[-1]} if alias else other.aliases(name))}
                if new != old:
                    path = self._folder(name) / f".{ALIASES}"
                    held.callback(path.unlink, missing_ok=True)
                    artifact.write(path, artifact.to_json(new))
                    changed[path] = descriptor
            for path, source in moves.items():
                if source:
                    artifact.sync_folders(source)
                    source.rename(path)
            for descriptor in locks.values():
                os.fsync(descriptor)  # the new versions' names before the aliases that point to them
            for path, descriptor in changed.items():
                path.replace(path.with_name(ALIASES))
                os.fsync(descriptor)
        return {path: source is not None for path, source in moves.items()}

    def _plan_moves(self, other: Store) -> dict[Path, Path | None]:
        """Return the target folder of each version of `other` with its source, None if this store has it already."""
        moves: dict[Path, Path | None] = {}
        for name in other.names():
            for version in other.versions(name):
                source, path = other.find(f"{name}@{version}"), self._folder(name) / str(version)
                moves[path] = source
                if version in self.versions(name):
                    moves[path] = None
                    found = self.load(f"{name}@{version}")
                    if found.manifest.digest != artifact.read_manifest(source)["digest"]:
                        remedy = "remove it to take the new one"
                        raise ArtifactError(path, "is in the store already, with other contents", remedy)
        return moves

    def _root_artifact(self) -> dict[str, int]:
        """Return the name and the version if the root itself is an artifact, else nothing."""
        path = self.root / artifact.MANIFEST
        if not path.is_file():
            return {}
        document = artifact.read_manifest(self.root)
        name, version = document.get("name"), document.get("version")
        if not (
            isinstance(name, str) and _NAME.fullmatch(name) and type(version) is int and 0 < version <= MAX_VERSION
        ):
            raise ArtifactError(path, "does not name its model and version", "train it again")
        return {name: version}

    def _check_is_store(self) -> None:
        if self._root_artifact():
            raise ArtifactError(self.root, "is one artifact and not a store: it takes no models", "name another store")

    def _folder(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise NotInStoreError(f"{name!r} is not a model's name; use lower-case letters, digits and single dashes")
        return self.root / name


@contextmanager
def _locked(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the folder's lock and yield its descriptor, so that two concurrent trainings get two versions.

    Raises `BlockingIOError` if another process holds the lock and `wait` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)
