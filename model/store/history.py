"""The history of a model's aliases: moves as files, each with the hash of the one before. The last is the truth.

`<store>/<name>/moves/<number>.json`, from 1, has the whole table of aliases after the move. A move is written once and
never changed. Two writers cannot both make a move of one number, so the second is told of the first. A changed byte is
found by the move's own hash, and a move that was rewritten with a new hash by the move after it. Who may write to the
store can still take the last moves away, or write all of them anew: the hash of the last one, noted elsewhere, finds
this. Knows nothing of what may be moved.

To change the format: raise FORMAT_VERSION and let `decode` read the older versions, which stay as they are for ever.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model.errors import ArtifactError, MovedError
from model.store import artifact
from model.store.files import MAX_JSON_BYTES, open_regular, parse_json
from model.store.manifest import MAX_VERSION

FORMAT_VERSION = 1

MOVES = "moves"
# What a name of a model or an alias is: they become folders, URLs and label values, and need no quoting there.
NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")

_FILE = re.compile(r"([1-9][0-9]{0,8})\.json")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_TEXT = 1_000  # characters of a reason, and of who moved

_RESTORE = "restore the folder from a copy of the store"
_KEYS = (
    *("action", "aliases", "at", "before", "by", "changes", "format_version", "number", "removed"),
    *("sha256", "why"),
)


@dataclass(frozen=True, slots=True)
class Aliased:
    """What an alias points to: a version, and the digest of its manifest when the alias was moved there."""

    version: int
    digest: str


@dataclass(frozen=True, slots=True)
class Change:
    """An alias that pointed to the version `old` and points to `new` now; None where it points to none."""

    alias: str
    old: int | None
    new: int | None

    def __str__(self) -> str:
        if self.old is None:
            return f"{self.alias} to {self.new}"
        return f"{self.alias} from {self.old} to {self.new or 'none'}"


@dataclass(frozen=True, slots=True)
class Move:
    """One step of a model's aliases: when (UTC, ISO 8601), by whom, what, and the whole table after it.

    `removed` are versions that were taken away. `before` is the SHA-256 of the file of the move before, None for the
    first move.
    """

    number: int
    at: str
    by: str
    action: str
    changes: tuple[Change, ...]
    removed: tuple[int, ...]
    why: str
    aliases: Mapping[str, Aliased]
    before: str | None

    @property
    def versions(self) -> dict[str, int]:
        """Return the version of each alias after the move."""
        return {alias: aliased.version for alias, aliased in self.aliases.items()}

    @property
    def sha256(self) -> str:
        """Return the SHA-256 of the move's file."""
        return hashlib.sha256(encode(self)).hexdigest()

    def to_document(self) -> dict[str, Any]:
        """Return what the move's file says, as a JSON value."""
        return {
            "format_version": FORMAT_VERSION,
            "number": self.number,
            "at": self.at,
            "by": self.by,
            "action": self.action,
            "changes": [{"alias": each.alias, "from": each.old, "to": each.new} for each in self.changes],
            "removed": list(self.removed),
            "why": self.why,
            "aliases": {
                alias: {"version": aliased.version, "digest": aliased.digest} for alias, aliased in self.aliases.items()
            },
            "before": self.before,
        }

    def __str__(self) -> str:
        parts = [*map(str, self.changes), *(f"without version {version}" for version in self.removed)]
        return f"{self.action} {', '.join(parts)}{f' ({self.why})' if self.why else ''}"


def following(
    last: Move | None,
    action: str,
    aliases: Mapping[str, Aliased],
    *,
    removed: tuple[int, ...] = (),
    why: str = "",
    by: str = "",
) -> Move:
    """Return the move after `last` that makes `aliases` the whole table.

    `by` is who moves; empty: this user on this machine. Raises `ValueError` for texts that are no line, and for a name
    that no alias may have.
    """
    by = by or who()
    check_texts(why, by)
    check_aliases(aliases)
    return Move(
        number=last.number + 1 if last else 1,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        by=by,
        action=action,
        changes=_changes(last.aliases if last else {}, aliases),
        removed=removed,
        why=why,
        aliases=dict(sorted(aliases.items())),
        before=last.sha256 if last else None,
    )


def encode(move: Move) -> bytes:
    """Return the bytes of a move's file: its document in one form only, with the SHA-256 of all that it says."""
    facts = move.to_document()
    return _canonical({**facts, "sha256": hashlib.sha256(_canonical(facts)).hexdigest()})


def decode(content: bytes) -> Move:
    """Return the move that `encode` wrote. Raises `ValueError` for any other bytes."""
    facts = parse_json(content)
    if not isinstance(facts, dict) or type(facts.get("format_version")) is not int:
        raise ValueError("it is no move of aliases")
    if facts["format_version"] > FORMAT_VERSION:
        raise ValueError(f"it is of format {facts['format_version']}, which a later version of tabserve wrote")
    if sorted(facts) != sorted(_KEYS):
        raise ValueError("it has other facts than a move of aliases")
    texts = [facts["at"], facts["by"], facts["action"], facts["why"]]
    if not _is_number(facts["number"]) or not all(map(_is_line, texts)):
        raise ValueError("its number, time, name, action or reason is none")
    try:
        move = Move(
            number=facts["number"],
            at=facts["at"],
            by=facts["by"],
            action=facts["action"],
            changes=tuple(Change(each["alias"], each["from"], each["to"]) for each in facts["changes"]),
            removed=tuple(facts["removed"]),
            why=facts["why"],
            aliases={alias: Aliased(each["version"], each["digest"]) for alias, each in facts["aliases"].items()},
            before=facts["before"],
        )
    except (AttributeError, KeyError, TypeError):
        raise ValueError("its changes or its aliases are none") from None
    numbers = [*move.removed, *(aliased.version for aliased in move.aliases.values())]
    ends = [end for each in move.changes for end in (each.old, each.new) if end is not None]
    hashes = [aliased.digest for aliased in move.aliases.values()] + ([] if move.before is None else [move.before])
    if not all(map(_is_number, (*numbers, *ends))) or not all(map(_is_sha256, hashes)):
        raise ValueError("a version or a hash in it is none")
    check_aliases([*move.aliases, *(each.alias for each in move.changes)])
    if encode(move) != content:
        raise ValueError("it was changed after it was written")
    return move


def last(folder: Path) -> Move | None:
    """Return the last move in a folder of moves, None if there is none. Raises `ArtifactError` if it is broken."""
    numbers = _numbers(folder)
    return _read(folder, numbers[-1]) if numbers else None


def read(folder: Path) -> list[Move]:
    """Return all moves in a folder of moves, the oldest first, after checking the whole chain.

    Raises `ArtifactError` that names the first move that does not fit.
    """
    moves: list[Move] = []
    for expected, number in enumerate(_numbers(folder), start=1):
        if number != expected:
            raise ArtifactError(_file(folder, expected), "is missing from the history", _RESTORE)
        move, before = _read(folder, number), moves[-1] if moves else None
        if move.number != number:
            raise ArtifactError(_file(folder, number), f"is the move {move.number}, in another's place", _RESTORE)
        if move.before != (before.sha256 if before else None):
            raise ArtifactError(
                _file(folder, number),
                "does not follow the move before: it has another hash of it, so one of the two was written anew",
                _RESTORE,
            )
        if move.changes != _changes(before.aliases if before else {}, move.aliases):
            raise ArtifactError(_file(folder, number), "has a table of aliases that its changes do not give", _RESTORE)
        moves.append(move)
    return moves


def append(folder: Path, move: Move) -> None:
    """Write a move to a folder of moves: all of it, or nothing. The caller holds the lock of the model's folder.

    Raises `MovedError` if another writer, on a machine that this lock does not reach, has made a move of this number.
    """
    artifact.make_folder(folder)
    for abandoned in folder.glob(artifact.INCOMING + "*"):  # by a process that was killed
        abandoned.unlink(missing_ok=True)
    incoming, target = folder / (artifact.INCOMING + uuid.uuid4().hex), _file(folder, move.number)
    try:
        artifact.write(incoming, encode(move))
        os.link(incoming, target)  # a rename would replace the other's move
    except FileExistsError:
        raise moved(_read(folder, move.number), folder.parent.name) from None
    finally:
        incoming.unlink(missing_ok=True)
    artifact.sync_folder(folder)


def moved(move: Move, name: str) -> MovedError:
    """Return the error that tells a second writer of the move that came first."""
    return MovedError(
        f"{name} was moved meanwhile, by {move.by} at {move.at}: {move}; look at `python -m model history {name}` and "
        "try again"
    )


def who() -> str:
    """Return who runs this process, as user@machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{os.uname().nodename}" if _is_line(user) else f"{os.getuid()}@{os.uname().nodename}"


def check_texts(why: str, by: str) -> None:
    """Raise `ValueError` for a reason, or for who moves, that is not one line which a terminal shows as it is."""
    for name, text in (("the reason", why), ("who moves it", by)):
        if not _is_line(text):
            raise ValueError(f"{name} is {text[:50]!r}; write one line of at most {_MAX_TEXT} characters")


def check_aliases(names: Iterable[Any]) -> None:
    """Raise `ValueError` for what cannot be the name of an alias; digits alone name a version."""
    for name in names:
        if not isinstance(name, str) or not NAME.fullmatch(name) or name.isdecimal():
            raise ValueError(f"{name!r} is not an alias; use lower-case letters, digits and single dashes")


def _changes(old: Mapping[str, Aliased], new: Mapping[str, Aliased]) -> tuple[Change, ...]:
    """Return what is different in two tables, by alias; the same version with another digest is a change, too."""
    pairs = [(alias, old.get(alias), new.get(alias)) for alias in sorted({*old, *new})]
    return tuple(
        Change(alias, before.version if before else None, after.version if after else None)
        for alias, before, after in pairs
        if before != after
    )


def _numbers(folder: Path) -> list[int]:
    """Return the numbers of the moves in a folder, in order; none if there is no such folder."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        raise ArtifactError(folder, "is no folder of moves", _RESTORE) from None
    return sorted(int(found[1]) for found in map(_FILE.fullmatch, names) if found)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number}.json"


def _read(folder: Path, number: int) -> Move:
    path = _file(folder, number)
    try:
        with open_regular(path) as file:
            return decode(file.read(MAX_JSON_BYTES + 1))
    except PermissionError:  # the file itself may be correct
        raise
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise ArtifactError(
            path, f"is not a move of aliases: {reason}", f"{_RESTORE}, or remove the move if it is the last"
        ) from None


def _canonical(facts: Mapping[str, Any]) -> bytes:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _is_line(text: Any) -> bool:
    """Return whether this is a text that a terminal shows in one line: no half of a surrogate pair, no escape code."""
    return isinstance(text, str) and text.isprintable() and len(text) <= _MAX_TEXT


def _is_number(number: Any) -> bool:
    return type(number) is int and 0 < number <= MAX_VERSION


def _is_sha256(text: Any) -> bool:
    return isinstance(text, str) and bool(_SHA256.fullmatch(text))
