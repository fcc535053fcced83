"""A store behind a URL: its moves and versions as objects, and a verified copy of what was used, in a folder.

The objects have the names that files of a store have, `<name>/moves/<number>.json` and `<name>/<version>/…`. A version
exists if a move names it. So nothing depends on a listing, which may be late: the next move is the one after the last,
and a version is uploaded whole, its manifest last, before the move that names it. A move, and the claim of a version's
number, is an object that only one writer can create. The folder is a store itself, and never has what is not verified:
moves follow each other by their hashes, and a version is moved into place after every hash in its manifest was checked,
with the digest that the move names.
"""

from __future__ import annotations

import shutil
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

from model.errors import ArtifactError, ModelError, MovedError, NotInStoreError, StoreError
from model.store import artifact, history
from model.store.artifact import Draft
from model.store.files import MAX_JSON_BYTES
from model.store.history import MOVES, NAME, Move
from model.store.objects import Objects
from model.store.signed import MAX_SIGNATURE_BYTES, SIGNATURE, read_signature
from model.store.tries import pause_seconds
from model.store.urls import folder_of
from model.store.versions import CHAMPION, KEY, REGISTER, Store, locked, no_model, no_version, with_new

_CLAIM = ".claim"  # beside a version's files: whose number it is
_FRESH_SECONDS = 1.0  # how long a command takes what it has asked for as known
_AHEAD = 8  # moves that are asked for together, where there is a next one


class _LeftOut(NamedTuple):
    """Versions of a model that could not be brought here, each with its error, after so many tries in a row.

    The last one was `at` this time of `time.monotonic`.
    """

    problems: dict[int, StoreError]
    n_tries: int
    at: float

    @property
    def is_due(self) -> bool:
        """Return whether to try again."""
        return bool(self.problems) and time.monotonic() >= self.at + pause_seconds(self.n_tries)


@dataclass(frozen=True)  # without slots, which `super()` does not survive
class RemoteStore(Store):
    """The store at a URL; `root` is the folder with what was brought here. Everything may raise `StoreError`, too."""

    objects: Objects
    _asked: dict[str, float] = field(default_factory=dict, compare=False, repr=False)  # when, of each name
    _left_out: dict[str, _LeftOut] = field(default_factory=dict, compare=False, repr=False)  # by `follow`, of each name

    @classmethod
    def at(cls, url: str, cache: Path, *, is_mirror: bool = False) -> RemoteStore:
        """Return the store at a URL, with what is brought here in a folder in `cache`."""
        return cls(folder_of(url, cache, is_mirror=is_mirror), Objects(url))

    @property
    def place(self) -> str:
        """Return the URL without credentials."""
        return self.objects.url

    def names(self) -> list[str]:
        """Return the names of models with a version; a new one may be missing where listings are late."""
        return [name for name in self.listed() if self.versions(name)]

    def listed(self) -> list[str]:
        """Return the names that a listing has, or that are here, whether they have a version or not."""
        kept = [path.name for path in self.root.iterdir()] if self.root.is_dir() else []
        return sorted({name for name in (*self.objects.folders(), *kept) if NAME.fullmatch(name)})

    def versions(self, name: str) -> list[int]:
        """Return the versions of a model that a move names and none has taken away, oldest first."""
        return sorted(self._digests(name))

    def aliases(self, name: str) -> dict[str, int]:
        """Return the version of each alias of a model."""
        self._sync(name, max_age=_FRESH_SECONDS)
        move = history.last(self._moves(name))
        return move.versions if move else {}

    def last_move(self, name: str) -> Move | None:
        """Return the last move of a model's aliases, None if there is none, by one request if there is no new one."""
        self._sync(name)
        return history.last(self._moves(name))

    def history(self, name: str) -> list[Move]:
        """Return every move of a model's aliases, the oldest first, after checking the chain."""
        self._sync(name)
        return super().history(name)

    def find(self, reference: str) -> Path:
        """Return the folder with the version that `reference` names, which is downloaded and verified if need be."""
        version = self.version(reference)
        name = reference.partition("@")[0]
        return self._fetch(name, version, self._digests(name)[version])

    def document(self, name: str, version: int) -> dict[str, Any]:
        """Return what the manifest of a version says, which alone is downloaded if it is not here."""
        path, digest = self._folder(name) / str(version), self._digests(name)[version]
        with suppress(ArtifactError):
            found = super().document(name, version) if path.is_dir() else {}
            if found.get("digest") == digest:
                return found
        with self._of_version(name, version, path):
            return self._manifest(name, version, path, digest)[0]

    def check_takes(self, name: str) -> None:
        """Raise what `add` would raise for this name, or for a URL that can only be read, before there is a draft."""
        super().check_takes(name)
        self.objects.check_creates()

    def add(self, name: str, draft: Draft, *, why: str = "", by: str = "") -> Path:
        """Upload the draft as the next version of `name`, its candidate, and return its folder here."""
        history.check_texts(why, by)
        moves = [*self._read_moves(name), *self._new_moves(name)]
        used = [each.new or 0 for move in moves for each in move.changes]
        version = max([0, *used, *(number for move in moves for number in move.removed)]) + 1
        with self.incoming() as folder:
            while True:
                try:
                    self._claim(name, version)
                    break
                except FileExistsError:  # by another writer, who is at it or was stopped
                    version += 1
            path = self._folder(name) / str(version)
            self._upload(artifact.save(draft, folder / str(version), name=name, version=version), path)
        self._register(name, REGISTER, lambda table: with_new(table, version), why=why, by=by)
        return path

    def merge(self, other: Store, *, alias: str | None = None, why: str = "", by: str = "") -> dict[Path, bool]:
        """Upload all versions of `other` and set its aliases; as in a folder, if each has an alias."""
        for name in other.names():
            named = {other.versions(name)[-1]} if alias else {*other.aliases(name).values()}
            if without := {*other.versions(name)} - named - {*self.versions(name)}:
                raise StoreError(
                    self.place,
                    f"knows a version by the moves that name it, and {name}@{min(without)} has no alias; "
                    "give it one before packing the store, or pack and pull it by itself",
                )
        return super().merge(other, alias=alias, why=why, by=by)

    def keep(self, name: str, kind: str, key: str, content: bytes) -> None:
        """Write the record `<name>/<kind>/<key>` beside a model's versions, once and for ever."""
        self._records(name, kind, key)  # refuses what is no name
        self.objects.create(f"{name}/{kind}/{key}", content)

    def kept(self, name: str, kind: str) -> dict[str, bytes | OSError]:
        """Return the records of a kind by their keys; a new one may be missing where listings are late."""
        self._records(name, kind)
        keys = [key for key in self.objects.files(f"{name}/{kind}") if KEY.fullmatch(key)]
        found = self.objects.read_many([f"{name}/{kind}/{key}" for key in keys], max_bytes=MAX_JSON_BYTES)
        return {record.rpartition("/")[2]: content for record, content in found.items()}

    def discard(self, name: str, kind: str, key: str) -> None:
        """Remove the record `<name>/<kind>/<key>`, if there is one."""
        self._records(name, kind, key)
        self.objects.remove(f"{name}/{kind}/{key}")

    def share_signature(self, folder: Path) -> None:
        """Upload the signature that a version's folder here has."""
        signature = read_signature(folder)
        if signature is not None:
            self.objects.write(f"{folder.parent.name}/{folder.name}/{SIGNATURE}", signature)

    def follow(self, name: str, wanted: Sequence[str], *, signatures: bool = False) -> list[StoreError]:
        """Bring the moves of a model here with the versions that `wanted` names, which are aliases and numbers.

        The first is the one that answers: no move is taken before that version is here. So the folder always has the
        one that its last move points to. Any other that cannot be brought here is left out until it can be, and its
        error is returned. It is tried again after the next move, which does not wait for it, and after a pause, which
        grows. Those that were wanted before the new moves stay, as a server may be on them, and all others are removed.
        Raises `StoreError` and leaves the folder as it is if the first cannot be brought here.
        """
        new, before = self._new_moves(name), self._left_out.get(name)
        if new or before is None:
            old = self._read_moves(name)
            digests = _digests([*old, *new])
            answering, current = (_named(each, [*old, *new]) & digests.keys() for each in (wanted[:1], wanted))
            for version in answering:
                self._fetch(name, version, digests[version])
            beside, known = current - answering, {*before.problems} if before else set()
            problems = self._fetch_all(name, beside - known, digests)
            self._take(name, new)
            problems |= self._fetch_all(name, beside & known, digests)
            self._left_out[name] = _LeftOut(problems, 1, time.monotonic())
            for version in {*self._on_disk(name)} - current - _named(wanted, old):
                super()._take_away(name, version)
        else:
            if before.is_due:
                problems = self._fetch_all(name, before.problems, _digests(self._read_moves(name)))
                self._left_out[name] = _LeftOut(problems, before.n_tries + 1, time.monotonic())
            for version in self._on_disk(name) if signatures else ():
                self._refresh_signature(name, version)
        return [*self._left_out[name].problems.values()]

    def absent(self, name: str, wanted: Sequence[str]) -> list[NotInStoreError]:
        """Return an error for each of the aliases and numbers `wanted` that names no version by the moves here."""
        last = history.last(self._moves(name))
        if last is None:
            return [no_model(name, self.place, [each for each in self.listed() if each != name])]
        unknown = [each for each in dict.fromkeys(wanted) if each not in last.versions]
        versions = sorted(_digests(self._read_moves(name))) if unknown else []
        return [
            no_version(name, self.place, each, versions, last.versions)
            for each in unknown
            if each not in map(str, versions)
        ]

    def has_model(self, names: Iterable[str]) -> bool:
        """Return whether one of these models has a move here."""
        return any(history.last(self._moves(name)) for name in names)

    def _fetch_all(self, name: str, versions: Iterable[int], digests: Mapping[int, str]) -> dict[int, StoreError]:
        """Download and verify versions, and return those with which it was not possible, each with its error."""
        left_out: dict[int, StoreError] = {}
        for version in sorted(versions):
            try:
                self._fetch(name, version, digests[version])
            except StoreError as error:
                left_out[version] = error
            except OSError as error:
                left_out[version] = _not_kept(f"{self.place}/{name}/{version}", self.root, error)
        return left_out

    @property
    def _incoming_place(self) -> Path:
        return self.root.with_name(f"{self.root.name}-incoming")  # so that `root` changes only with what it has

    def _sync(self, name: str, *, max_age: float = 0.0) -> None:
        """Bring the moves here that are new, unless that was done a moment ago."""
        if time.monotonic() - self._asked.get(name, -max_age - 1) > max_age:
            self._take(name, self._new_moves(name))

    def _new_moves(self, name: str) -> list[Move]:
        """Return the moves after the last one that is here, each checked to follow the one before.

        The first time, the last one here is compared with the store's.
        """
        last = history.last(self._moves(name))
        if last and name not in self._asked and self._read_move(name, last.number) != history.encode(last):
            raise StoreError(
                self.place,
                f"has another history of {name} than when it was read last: it was replaced, or moves were taken away; "
                f"if that is right, remove {self.root / name}",
            )
        moves: list[Move] = []
        while contents := self._next_moves(name, last.number if last else 0):
            for content in contents:
                last = self._following(name, last, content)
                moves.append(last)
        self._asked[name] = time.monotonic()
        return moves

    def _next_moves(self, name: str, number: int) -> list[bytes]:
        """Return what is in the objects of the next moves, of all or of the first few; one request if there is none."""
        content = self._read_move(name, number + 1)
        if content is None:
            return []
        ahead = [_move_object(name, each) for each in range(number + 2, number + 2 + _AHEAD)]
        found = self.objects.read_many(ahead, max_bytes=MAX_JSON_BYTES)
        return [content, *(found[each] for each in takewhile(found.__contains__, ahead))]

    def _read_move(self, name: str, number: int) -> bytes | None:
        return self.objects.read(_move_object(name, number), max_bytes=MAX_JSON_BYTES)

    def _following(self, name: str, last: Move | None, content: bytes) -> Move:
        """Return the move in an object after checking that it follows the last one."""
        number = last.number + 1 if last else 1
        place = f"{self.place}/{_move_object(name, number)}"
        try:
            move = history.decode(content)
        except ValueError as error:
            raise StoreError(place, f"is not a move of aliases: {error}; restore it from a copy") from None
        if (move.number, move.before) != (number, last.sha256 if last else None):
            raise StoreError(place, "does not follow the move before; restore the history from a copy")
        return move

    def _take(self, name: str, moves: list[Move]) -> None:
        """Write moves to the folder here, those that another process has not written."""
        if not moves:
            return
        folder = self._moves(name)
        artifact.make_folder(folder)
        with locked(folder):
            for move in moves:
                with suppress(MovedError):
                    history.append(folder, move)

    def _read_moves(self, name: str) -> list[Move]:
        return history.read(self._moves(name))

    def _digests(self, name: str) -> dict[int, str]:
        """Return the versions of a model with the digest that an alias was moved to."""
        self._sync(name, max_age=_FRESH_SECONDS)
        return _digests(self._read_moves(name))

    def _digest(self, name: str, version: int) -> str:
        known = self._digests(name).get(version)
        return known or super()._digest(name, version)  # a new one, which was just uploaded from here

    def _write_move(self, name: str, move: Move) -> None:
        if move.number > 1:  # the cheapest object of which we know what it should be
            last = history.encode(self._read_moves(name)[move.number - 2])
            self.objects.check_refuses(_move_object(name, move.number - 1), last)
        try:
            self.objects.create(_move_object(name, move.number), history.encode(move))
        except FileExistsError:
            self._sync(name)
            raise history.moved(self._read_moves(name)[move.number - 1], name) from None
        self._take(name, [move])

    def _claim(self, name: str, version: int) -> None:
        """Reserve a version's number for this writer. Raises `FileExistsError` if another one has it."""
        content, claim = uuid.uuid4().hex.encode(), f"{name}/{version}/{_CLAIM}"
        self.objects.create(claim, content)
        self.objects.check_refuses(claim, content)

    def _upload(self, source: Path, path: Path) -> None:
        """Upload a version whose number is claimed, the manifest last, and move its folder to `path`."""
        artifact.sync_folders(source)
        files = sorted(file for file in source.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: file == source / artifact.MANIFEST):
            relative = file.relative_to(source).as_posix()
            self.objects.upload(f"{path.parent.name}/{path.name}/{relative}", file)
        if path.is_dir():  # of an upload that no move followed
            shutil.rmtree(path)
        artifact.make_folder(path.parent)
        source.rename(path)

    def _take_in(self, source: Path, path: Path) -> None:
        name, version = path.parent.name, int(path.name)
        place = f"{self.place}/{name}/{version}"
        if any(version in move.removed for move in self._read_moves(name)):
            raise StoreError(place, "was pruned, and a number is not given again; add the version anew")
        try:
            self._claim(name, version)
        except FileExistsError:
            reason = "is being written by another, who may have been stopped; try again later, or remove it there"
            raise StoreError(place, reason) from None
        self._upload(source, path)

    def _take_away(self, name: str, version: int) -> None:
        if (self._folder(name) / str(version)).is_dir():
            super()._take_away(name, version)
        self.objects.remove(f"{name}/{version}")

    def _fetch(self, name: str, version: int, digest: str) -> Path:
        """Return the folder here of a version, which is whole, unchanged and the one with this digest.

        What is not is downloaded again. Raises `StoreError` if that does not verify either.
        """
        path = self._folder(name) / str(version)
        if path.is_dir():
            with suppress(ArtifactError):
                if artifact.read(path, {})[0]["digest"] == digest:
                    self._refresh_signature(name, version)
                    return path
        with self.incoming() as folder:
            target = folder / str(version)
            self._download(name, version, digest, target)
            artifact.make_folder(path.parent)
            with locked(self.root):  # that of the model's folder may be held by who asks
                if path.is_dir():
                    path.rename(folder / "replaced")
                target.rename(path)
        return path

    def _download(self, name: str, version: int, digest: str, target: Path) -> None:
        """Write the files of a version to a new folder and check them. Raises `StoreError`."""
        base = f"{name}/{version}"
        target.mkdir()
        with self._of_version(name, version, target):
            document, content = self._manifest(name, version, target, digest)
            for relative, file in artifact.listed_files(target / artifact.MANIFEST, document).items():
                (target / relative).parent.mkdir(parents=True, exist_ok=True)
                self.objects.download(f"{base}/{relative}", target / relative, file.size)
            artifact.write(target / artifact.MANIFEST, content)
            artifact.read(target, {})
        signature = self.objects.read(f"{base}/{SIGNATURE}", max_bytes=MAX_SIGNATURE_BYTES)
        if signature is not None:
            artifact.write(target / SIGNATURE, signature)
        artifact.sync_folders(target)

    def _manifest(self, name: str, version: int, folder: Path, digest: str) -> tuple[dict[str, Any], bytes]:
        """Return the manifest in the store of the version with this digest: what it says, and its bytes.

        Raises `StoreError`, or `ArtifactError` that names it in `folder`.
        """
        path = folder / artifact.MANIFEST
        content = self.objects.read(f"{name}/{version}/{artifact.MANIFEST}", max_bytes=MAX_JSON_BYTES)
        if content is None:
            raise ArtifactError(path, "is missing", "restore it from a copy")
        document = artifact.parse_manifest(path, content)
        if (document["digest"], document.get("name"), document.get("version")) != (digest, name, version):
            raise ArtifactError(path, "is another version than when an alias was moved to it", "restore it from a copy")
        return document, content

    @contextmanager
    def _of_version(self, name: str, version: int, folder: Path) -> Iterator[None]:
        """Name what is wrong with the files of a version, which come to `folder`, by their URLs."""
        try:
            yield
        except ArtifactError as error:
            inside = error.path.relative_to(folder).as_posix()
            raise StoreError(f"{self.place}/{name}/{version}/{inside}", f"{error.reason}; {error.remedy}") from None

    def _refresh_signature(self, name: str, version: int) -> None:
        """Take the signature that a version has in the store now."""
        path = self._folder(name) / str(version)
        signature = self.objects.read(f"{name}/{version}/{SIGNATURE}", max_bytes=MAX_SIGNATURE_BYTES)
        if signature is not None and signature != read_signature(path):
            artifact.write_signature(path, signature)

    def _moves(self, name: str) -> Path:
        return self._folder(name) / MOVES


def mirror(store: RemoteStore, references: Collection[str], *, signatures: bool = False) -> list[ModelError]:
    """Bring here what `references` name, or the champion of every model, and return what was not possible.

    What a model has here stays as it is if the first version that is named of it cannot be brought here. What the store
    does not have is not possible either, nor is anything of a store without a model.
    """
    problems: list[ModelError] = []
    wanted: dict[str, list[str]] = {}
    try:
        for reference in references or store.listed():
            name, _, which = reference.partition("@")
            wanted.setdefault(name, []).append(which or CHAMPION)
    except StoreError as error:
        return [error]
    for name, which_ones in wanted.items():
        try:
            problems += store.follow(name, which_ones, signatures=signatures)
            problems += store.absent(name, which_ones) if references else []
        except (StoreError, NotInStoreError, ArtifactError) as error:  # ArtifactError: the moves here are damaged
            problems.append(error)
        except OSError as error:
            problems.append(_not_kept(f"{store.place}/{name}", store.root, error))
    if not (references or problems or store.has_model(wanted)):
        problems.append(StoreError(store.place, "there is no model; train one, or correct the URL"))
    return problems


def _not_kept(place: str, folder: Path, error: OSError) -> StoreError:
    """Return the error that names what of a store could not be written to the folder here."""
    reason = f"{error.filename or folder}: {error.strerror or error}"
    return StoreError(place, f"cannot be kept in {reason}; make room there, or name another folder for the cache")


def _digests(moves: Collection[Move]) -> dict[int, str]:
    """Return the versions that moves name, without those that were taken away, with their digests."""
    found: dict[int, str] = {}
    for move in moves:
        found |= {each.new: move.aliases[each.alias].digest for each in move.changes if each.new is not None}
        for version in move.removed:
            found.pop(version, None)
    return found


def _named(wanted: Collection[str], moves: Sequence[Move]) -> set[int]:
    """Return the versions that aliases and numbers name after these moves; an alias that does not exist names none."""
    table = moves[-1].versions if moves else {}
    found = {table.get(each, int(each) if each.isdecimal() else 0) for each in wanted}
    return found - {0}


def _move_object(name: str, number: int) -> str:
    return f"{name}/{MOVES}/{number}.json"
