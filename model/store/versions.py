"""Versions and aliases of models: `<root>/<name>/<version>/` and the moves of aliases, `<root>/<name>/moves/`.

A new version is the candidate. It becomes the champion only if the model has none. A platform may mount a single
artifact in place of a store: a root with a manifest is a store of only that version.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ArtifactError, MovedError, NotInStoreError
from model.store import artifact, history
from model.store.artifact import Artifact, Draft
from model.store.files import MAX_JSON_BYTES, open_regular
from model.store.history import MOVES, NAME, Aliased, Move
from model.store.manifest import MAX_VERSION
from model.store.signed import Signed

CHAMPION = "champion"
CANDIDATE = "candidate"  # always the version that was added last
REGISTER, PULL = "register", "pull"

_OLD_ALIASES = "aliases.json"  # of stores before there was a history
_VERSION = re.compile(r"[1-9][0-9]*")
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")  # of a record


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of models, or one artifact, which is then the champion of its name; nothing can be added to it.

    A reference to a model is `name` (its champion), `name@alias` or `name@version`.
    """

    root: Path

    @property
    def place(self) -> str:
        """Return where the store is, for people: a path, or a URL without credentials."""
        return str(self.root)

    def place_of(self, path: Path) -> str:
        """Return where a file or folder of the store is, for people, given its path on this machine."""
        return f"{self.place}/{path.relative_to(self.root).as_posix()}"

    def names(self) -> list[str]:
        """Return the names of models with a version. Raises `ArtifactError` if the root is a broken artifact."""
        if root_artifact := self._root_artifact():
            return list(root_artifact)
        if not self.root.is_dir():
            return []
        return sorted(
            path.name for path in self.root.iterdir() if NAME.fullmatch(path.name) and self.versions(path.name)
        )

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model, oldest first; none if there is no such model."""
        self._folder(name)  # refuses what is no name
        if root_artifact := self._root_artifact():
            return [root_artifact[name]] if name in root_artifact else []
        return self._on_disk(name)

    def aliases(self, name: str) -> dict[str, int]:
        """Return the version of each alias of a model."""
        if root_artifact := self._root_artifact():
            return {CHAMPION: root_artifact[name]} if name in root_artifact else {}
        move = self.last_move(name)
        return move.versions if move else {}

    def last_move(self, name: str) -> Move | None:
        """Return the last move of a model's aliases, None if there is none. Raises `ArtifactError` if it is broken."""
        folder = self._folder(name)
        move = history.last(folder / MOVES)
        if move is None and (folder / _OLD_ALIASES).exists():
            raise ArtifactError(
                folder / _OLD_ALIASES,
                "is of an older version of tabserve, which kept no history",
                f"remove it and name the champion that is in it: python -m model promote {name}@VERSION",
            )
        return move

    def history(self, name: str) -> list[Move]:
        """Return every move of a model's aliases, the oldest first.

        Raises `ArtifactError` that names the first move that does not fit, or a version that is another one than when
        an alias was moved to it.
        """
        folder = self._folder(name)
        moves = history.read(folder / MOVES)
        known = {
            each.new: move.aliases[each.alias].digest for move in moves for each in move.changes if each.new is not None
        }
        for version in self._on_disk(name):
            path = folder / str(version)
            if version in known and artifact.read_manifest(path)["digest"] != known[version]:
                raise ArtifactError(
                    path, "is another version than when an alias was moved to it", "restore it from a copy of the store"
                )
        return moves

    def check_takes(self, name: str) -> None:
        """Raise what `add` would raise for this name, or for a store that takes no models, before there is a draft."""
        self._folder(name)
        self._check_is_store()

    def add(self, name: str, draft: Draft, *, why: str = "", by: str = "") -> Path:
        """Write the draft as the next version of `name`, its candidate, and return its folder.

        It becomes the champion if there is none. `by` is who adds it; empty: this user on this machine.
        """
        self._check_is_store()
        history.check_texts(why, by)
        folder = self._folder(name)
        artifact.make_folder(folder)
        with locked(folder) as descriptor:
            for abandoned in folder.glob(artifact.INCOMING + "*"):  # by a process that was killed
                shutil.rmtree(abandoned)
            version = max([0, *self.versions(name), *self.aliases(name).values()]) + 1
            path = artifact.save(draft, folder / str(version), name=name, version=version)
            os.fsync(descriptor)  # the new version's name before the aliases that point to it

            self._register(name, REGISTER, lambda table: with_new(table, version), why=why, by=by)
        return path

    def move(
        self,
        name: str,
        action: str,
        aliases: Mapping[str, int | None],
        *,
        after: Move | None,
        removed: tuple[int, ...] = (),
        why: str = "",
        by: str = "",
    ) -> Move:
        """Point aliases to versions in one step, None takes one away; then take away the versions `removed`.

        `after` is the last move that was known when this was decided. Raises `MovedError` and changes nothing if there
        is a later one, and `NotInStoreError` for a version that does not exist.
        """
        self._check_is_store()
        folder = self._folder(name)
        versions = self.versions(name)
        if not versions:
            self.find(name)  # raises
        with locked(folder):
            last = self.last_move(name)
            if last and last != after:
                raise history.moved(last, name)
            versions = self.versions(name)
            absent = [version for version in (*aliases.values(), *removed) if version and version not in versions]
            if absent:
                raise NotInStoreError(
                    f"the model {name!r} has no version {absent[0]}; its versions are {listed(versions)}"
                )
            move = self._append(name, last, action, aliases, removed=removed, why=why, by=by)
            for version in removed:
                self._take_away(name, version)
        return move

    def find(self, reference: str) -> Path:
        """Return the folder of the version that `reference` names. Raises `NotInStoreError`."""
        version = self.version(reference)
        return self.root if self._root_artifact() else self._folder(reference.partition("@")[0]) / str(version)

    def version(self, reference: str) -> int:
        """Return the number of the version that `reference` names. Raises `NotInStoreError`."""
        name, _, wanted = reference.partition("@")
        if "@" in wanted:
            check_name(reference.rpartition("@")[0])  # raises
        versions = self.versions(name)
        if not versions:
            raise no_model(name, self.place, self.names())
        version = {str(number): number for number in versions}.get(wanted)
        aliases = {} if version else self.aliases(name)  # a version is found by its number where the history is broken
        version = version or aliases.get(wanted or CHAMPION)
        if version is None or version not in versions:
            raise no_version(name, self.place, wanted or CHAMPION, versions, self.aliases(name))
        return version

    def document(self, name: str, version: int) -> dict[str, Any]:
        """Return what the manifest of a version says. Raises `ArtifactError`, and reads no other file."""
        return artifact.read_manifest(self.root if self._root_artifact() else self._folder(name) / str(version))

    def load(self, reference: str, *, converted: bool = True, signed: Signed | None = None) -> Artifact:
        """Load and verify the version that `reference` names. Raises `NotInStoreError`, `ArtifactError`.

        Without `converted` a converted graph is refused; with `signed` what the version's signature does not cover. A
        version that an alias names must have the digest that the alias carries.
        """
        path = self.find(reference)
        found = artifact.load(path, converted=converted, signed=signed)
        if path != self.root and (found.name, str(found.version)) != (path.parent.name, path.name):
            raise ArtifactError(
                path / artifact.MANIFEST,
                f"is of {found.name} version {found.version}, which belongs in another folder",
                "move it there, or train this version again",
            )
        if not _VERSION.fullmatch(reference.partition("@")[2]):
            self._check_is_aliased(found)
        return found

    def keep(self, name: str, kind: str, key: str, content: bytes) -> None:
        """Write the record `<name>/<kind>/<key>` beside a model's versions, once and for ever.

        Raises `FileExistsError` if there is one, and `ValueError` for what is no name of a folder or a file.
        """
        self._check_is_store()
        folder = self._records(name, kind, key)
        try:
            artifact.make_folder(folder)
        except FileExistsError:  # a file in its place, and no record of this key
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
        with locked(folder.parent):  # that of the records' folder is a search's, for as long as it takes
            for abandoned in folder.glob(artifact.INCOMING + "*"):  # by a process that was killed
                abandoned.unlink(missing_ok=True)
            incoming = folder / (artifact.INCOMING + uuid.uuid4().hex)
            try:
                artifact.write(incoming, content)
                os.link(incoming, folder / key)  # a rename would replace the other one
            finally:
                incoming.unlink(missing_ok=True)
            artifact.sync_folder(folder)

    def kept(self, name: str, kind: str) -> dict[str, bytes | OSError]:
        """Return the records of a kind by their keys, in the order of these; the error of one that cannot be read."""
        folder = self._records(name, kind)
        keys = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        found: dict[str, bytes | OSError] = {}
        for key in filter(KEY.fullmatch, keys):
            try:
                with open_regular(folder / key) as file:
                    found[key] = file.read(MAX_JSON_BYTES + 1)
            except FileNotFoundError:  # removed meanwhile
                continue
            except OSError as error:
                found[key] = error
        return found

    def discard(self, name: str, kind: str, key: str) -> None:
        """Remove the record `<name>/<kind>/<key>`, if there is one."""
        (self._records(name, kind, key) / key).unlink(missing_ok=True)

    def listed(self) -> list[str]:
        """Return the names of the folders of models, whether these have a version or not."""
        folders = self.root.iterdir() if self.root.is_dir() else []
        return sorted(path.name for path in folders if NAME.fullmatch(path.name))

    def _records(self, name: str, kind: str, key: str = "") -> Path:
        """Return the folder of a kind of records. Raises `ValueError`."""
        if not NAME.fullmatch(kind) or kind == MOVES or kind.isdecimal() or (key and not KEY.fullmatch(key)):
            raise ValueError(f"{kind}/{key} is no name of a record; use letters, digits, dashes and dots")
        return self._folder(name) / kind

    def share_signature(self, folder: Path) -> None:
        """Let others see the signature that was written to a version's folder; in a folder they do already."""

    def _check_is_aliased(self, found: Artifact) -> None:
        """Raise `ArtifactError` if an alias of a version carries the digest of another one."""
        move = self.last_move(found.name)
        aliased = move.aliases.values() if move else ()
        if any(each.version == found.version and each.digest != found.manifest.digest for each in aliased):
            raise ArtifactError(
                found.path / artifact.MANIFEST,
                "is of another version than the alias was moved to",
                "restore it from a copy of the store",
            )

    @property
    def _incoming_place(self) -> Path:
        """Return the folder in which `incoming` makes its own."""
        return self.root

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """Yield a new temporary folder on the store's file system, which is removed at the end.

        Also removes the folders of processes that were killed.
        """
        self._check_is_store()
        place = self._incoming_place
        artifact.make_folder(place)
        folder = place / (artifact.INCOMING + uuid.uuid4().hex)
        with ExitStack() as held:
            with locked(place):
                for other in place.glob(artifact.INCOMING + "*"):
                    # A live process holds the lock of its folder.
                    with suppress(BlockingIOError, FileNotFoundError), locked(other, wait=False):
                        shutil.rmtree(other)
                folder.mkdir()
                held.enter_context(locked(folder))
                held.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder

    def merge(self, other: Store, *, alias: str | None = None, why: str = "", by: str = "") -> dict[Path, bool]:
        """Move all versions of `other`, a store on the same file system, into this one, and set its aliases.

        With `alias`, point it to each model's newest version instead. `why` says where they come from. Return each
        version's folder, and whether it is new: a version that this store already has is kept. Raises `ArtifactError`
        and changes nothing if that version is damaged or differs.
        """
        self._check_is_store()
        history.check_texts(why, by)
        self._plan_moves(other)  # before any folder is made, so that an error leaves none
        with ExitStack() as held:
            locks: dict[str, int] = {}
            for name in other.names():  # sorted, so that two merges cannot deadlock
                artifact.make_folder(self._folder(name))
                locks[name] = held.enter_context(locked(self._folder(name)))
                self.aliases(name)  # refuses a store with a broken history, before anything moves
            moves = self._plan_moves(other)
            aliases = {
                name: {alias: other.versions(name)[-1]} if alias else other.aliases(name) for name in other.names()
            }
            for path, source in moves.items():
                if source:
                    self._take_in(source, path)
            for descriptor in locks.values():
                os.fsync(descriptor)  # the new versions' names before the aliases that point to them
            for name, theirs in aliases.items():

                def new(table: Mapping[str, int], theirs: Mapping[str, int] = theirs) -> dict[str, int]:
                    newest = table.get(CANDIDATE, 0)
                    return {each: number for each, number in theirs.items() if each != CANDIDATE or number > newest}

                self._register(name, PULL, new, why=why, by=by)
        return {path: source is not None for path, source in moves.items()}

    def _register(
        self, name: str, action: str, new: Callable[[Mapping[str, int]], Mapping[str, int]], *, why: str, by: str
    ) -> None:
        """Make the move that `new` wants, given the table of aliases; again if another writer came first."""
        while True:
            last = self.last_move(name)
            with suppress(MovedError):
                self._append(name, last, action, new(last.versions if last else {}), why=why, by=by)
                return

    def _append(
        self,
        name: str,
        last: Move | None,
        action: str,
        aliases: Mapping[str, int | None],
        *,
        removed: tuple[int, ...] = (),
        why: str,
        by: str,
    ) -> Move:
        """Make the move after `last`, if anything changes by it. The caller holds the lock of the model's folder."""
        table = dict(last.aliases) if last else {}
        for alias, version in aliases.items():
            if version is None:
                table.pop(alias, None)
            else:
                table[alias] = Aliased(version, self._digest(name, version))
        move = history.following(last, action, table, removed=removed, why=why, by=by)
        if last and not move.changes and not removed:
            return last
        self._write_move(name, move)
        return move

    def _write_move(self, name: str, move: Move) -> None:
        """Write the next move. Raises `MovedError` if another writer came first."""
        history.append(self._folder(name) / MOVES, move)

    def _digest(self, name: str, version: int) -> str:
        """Return the digest of a version's manifest."""
        digest: str = artifact.read_manifest(self._folder(name) / str(version))["digest"]
        return digest

    def _take_in(self, source: Path, path: Path) -> None:
        """Make a folder on the same file system a version of the store, whose number is free."""
        artifact.sync_folders(source)
        source.rename(path)

    def _take_away(self, name: str, version: int) -> None:
        """Remove a version that no alias points to."""
        folder = self._folder(name)
        gone = folder / (artifact.INCOMING + uuid.uuid4().hex)
        (folder / str(version)).rename(gone)  # so that no reader finds a part of it
        shutil.rmtree(gone)

    def _on_disk(self, name: str) -> list[int]:
        """Return the versions that have a folder, oldest first."""
        folder = self._folder(name)
        if not folder.is_dir():
            return []
        return sorted(int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name) and path.is_dir())

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
        if not (isinstance(name, str) and NAME.fullmatch(name) and type(version) is int and 0 < version <= MAX_VERSION):
            raise ArtifactError(path, "does not name its model and version", "train it again")
        return {name: version}

    def _check_is_store(self) -> None:
        if self._root_artifact():
            raise ArtifactError(self.root, "is one artifact and not a store: it takes no models", "name another store")

    def _folder(self, name: str) -> Path:
        check_name(name)
        return self.root / name


def check_name(name: str) -> None:
    """Raise `NotInStoreError` for a name that no model can have."""
    if not NAME.fullmatch(name):
        before, at, rest = name.partition("@")
        is_reference = at and NAME.fullmatch(before)
        remedy = f"leave out {at + rest!r}" if is_reference else "use lower-case letters, digits and single dashes"
        raise NotInStoreError(f"{name!r} is not a model's name; {remedy}")


def no_model(name: str, place: str, names: Sequence[str]) -> NotInStoreError:
    """Return the error that there is no such model in the store at a place, which has those `names`."""
    advice = "name one of those" if names else "train one, as with `python -m model train boston-housing`"
    return NotInStoreError(
        f"there is no model {name!r} in the store {place}, which has {', '.join(names) or 'no model at all'}; "
        f"{advice}, or name another store"
    )


def no_version(
    name: str, place: str, wanted: str, versions: Iterable[int], aliases: Mapping[str, int]
) -> NotInStoreError:
    """Return the error that a model in the store at a place has no such version or alias."""
    return NotInStoreError(
        f"the model {name!r} in the store {place} has no version or alias {wanted!r}; its versions are "
        f"{listed(versions)}, its aliases {listed_aliases(aliases)}"
    )


def listed(parts: Iterable[object]) -> str:
    """Return what a message says of several things: them with commas between, or none."""
    return ", ".join(map(str, parts)) or "none"


def listed_aliases(aliases: Mapping[str, int]) -> str:
    """Return what a message says of aliases, each with its version."""
    return listed(f"{alias} ({version})" for alias, version in sorted(aliases.items()))


def with_new(table: Mapping[str, int], version: int) -> dict[str, int]:
    """Return the aliases that a new version gets: it is the candidate, and the champion if there is none."""
    return {CANDIDATE: version} if CHAMPION in table else {CANDIDATE: version, CHAMPION: version}


@contextmanager
def locked(folder: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold the folder's lock and yield its descriptor, so that two concurrent trainings get two versions.

    Raises `BlockingIOError` if another process holds the lock and `wait` is False.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)
