"""The file of access keys: a line of JSON for each key, which has its SHA-256 and never the key; read and changed here.

Several keys may have one name, so that a key can be replaced without a gap. What a scope opens is the service's matter.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import secrets
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from model.errors import KeyFileError

KEY_PREFIX = "tabserve_"  # by which programs that search for leaked secrets find a key
_KEY_BYTES = 32  # of chance: no number of guesses finds one
_MAX_FILE_BYTES = 2**24  # about 60,000 keys
_MAX_FAULTS = 20  # that a message lists

KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SCOPE = re.compile(r"admin|feedback|metrics|predict:(\*|[a-z0-9]+(-[a-z0-9]+)*)")
SCOPES = "admin, feedback, metrics, predict:* or predict:MODEL"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OF_NOTHING = hashlib.sha256().hexdigest()  # such as a script writes whose key is an unset variable
_RATE = re.compile(r"([1-9][0-9]{0,8})/(s|m|h)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_FIELDS = frozenset({"name", "sha256", "scopes", "expires", "rate", "burst"})
_MAX_BURST = 1_000_000


@dataclass(frozen=True, slots=True)
class AccessKey:
    """One key of a file: its name, the SHA-256 of its text in hex, what it may do, and until when; None is for ever.

    `rate` is the most requests a second, None where the file does not say, and `burst` how many may come at once.
    """

    name: str
    sha256: str
    scopes: tuple[str, ...]
    expires: datetime | None = None
    rate: float | None = None
    burst: int | None = None


def parse_rate(text: str) -> float:
    """Return the requests a second in a text such as 100/s, 6000/m or 500/h. Raises `ValueError`."""
    found = _RATE.fullmatch(text)
    if not found:
        raise ValueError("not a rate such as 100/s, 6000/m or 500/h")
    return int(found[1]) / _SECONDS[found[2]]


def new_key() -> str:
    """Return the text of a new key: the prefix, 256 bits of chance, and a CRC-32 of both in hex."""
    text = KEY_PREFIX + secrets.token_urlsafe(_KEY_BYTES)
    return f"{text}{zlib.crc32(text.encode()):08x}"


def digest_of(key: str) -> str:
    """Return what a file has of a key: its SHA-256 in hex."""
    return hashlib.sha256(key.encode()).hexdigest()


def read_keys(path: Path) -> list[AccessKey]:
    """Return the keys of a file, which may have none. Raises `KeyFileError`, which names every line that is wrong."""
    return [key for _, key in _parse(path, _read(path)) if key]


def add_key(path: Path, key: AccessKey) -> None:
    """Add a key to a file, which is made if it is not there, in one step. Raises `KeyFileError` for a broken file."""
    with _locked(path):
        lines = _read(path) if path.exists() else []
        lines.append(_line(key))
        _parse(path, lines)  # so that no command breaks the file
        _write(path, lines)


def revoke_keys(path: Path, name: str, digest_start: str = "") -> list[AccessKey]:
    """Remove the keys of a name, or the one whose SHA-256 starts so, from a file in one step; return them."""
    with _locked(path):
        parsed = _parse(path, _read(path))
        gone = [key for _, key in parsed if key and key.name == name and key.sha256.startswith(digest_start)]
        if gone:
            _write(path, [line for line, key in parsed if key not in gone])
        return gone


def _read(path: Path) -> list[str]:
    remedy = "name a file that python -m model key new has written"
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        if len(content) > _MAX_FILE_BYTES:
            raise KeyFileError(path, f"has more than {_MAX_FILE_BYTES} bytes", remedy)
        return content.decode().splitlines()
    except OSError as error:
        raise KeyFileError(path, f"cannot be read ({error.strerror})", remedy) from None
    except UnicodeDecodeError:
        raise KeyFileError(path, "is not a text in UTF-8", remedy) from None


def _parse(path: Path, lines: Sequence[str]) -> list[tuple[str, AccessKey | None]]:
    """Return each line with its key; None for an empty line and a comment. Raises `KeyFileError` with every fault."""
    parsed: list[tuple[str, AccessKey | None]] = []
    faults: list[str] = []
    numbers: dict[str, int] = {}
    limits: dict[str, tuple[float | None, int | None]] = {}
    for number, line in enumerate(lines, start=1):
        key = None
        if line.strip() and not line.lstrip().startswith("#"):
            try:
                key = _key(line)
                if key.sha256 in numbers:
                    raise ValueError(f"the key of line {numbers[key.sha256]} again")
                if limits.setdefault(key.name, (key.rate, key.burst)) != (key.rate, key.burst):
                    raise ValueError(f"with another rate or burst than the other keys of {key.name}, which share it")
                numbers[key.sha256] = number
            except ValueError as error:
                faults.append(f"line {number}: {error}")
        parsed.append((line, key))
    if faults:
        more = f"; and {len(faults) - _MAX_FAULTS} more" if len(faults) > _MAX_FAULTS else ""
        raise KeyFileError(path, "; ".join(faults[:_MAX_FAULTS]) + more, "write each key with python -m model key new")
    return parsed


def _key(line: str) -> AccessKey:
    """Return the key of a line. Raises `ValueError` with what is wrong; no value is quoted, which may be a key."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        raise ValueError("not JSON") from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    if value.keys() - _FIELDS:
        raise ValueError(f"an object with other fields than {', '.join(sorted(_FIELDS))}")
    name, digest, scopes = value.get("name"), value.get("sha256"), value.get("scopes")
    if not isinstance(name, str) or not KEY_NAME.fullmatch(name):
        raise ValueError("without a name of 1 to 64 letters, digits, dots, dashes and underscores")
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise ValueError("without sha256, the key's SHA-256 in 64 lower-case hexadecimal digits")
    if digest == _OF_NOTHING:
        raise ValueError("with the SHA-256 of an empty text, which is no key")
    if not isinstance(scopes, list) or not scopes or not all(isinstance(s, str) and SCOPE.fullmatch(s) for s in scopes):
        raise ValueError(f"without scopes, a list of {SCOPES}")
    return AccessKey(name, digest, tuple(scopes), _expires(value), _rate(value), _burst(value))


def _expires(value: dict[str, Any]) -> datetime | None:
    text = value.get("expires")
    if text is None:
        return None
    with suppress(ValueError, TypeError, OverflowError):  # the last for a time that UTC puts after the year 9999
        found = datetime.fromisoformat(text)
        if found.tzinfo:
            return found.astimezone(UTC)
    raise ValueError("with expires that is no time with its zone, such as 2027-01-31T12:00:00Z")


def _rate(value: dict[str, Any]) -> float | None:
    text = value.get("rate")
    if text is None:
        return None
    if not isinstance(text, str):
        raise ValueError("with a rate that is not a text such as 100/s")
    return parse_rate(text)


def _burst(value: dict[str, Any]) -> int | None:
    burst = value.get("burst")
    if burst is None:
        return None
    if type(burst) is not int or not 1 <= burst <= _MAX_BURST or value.get("rate") is None:
        raise ValueError(f"with a burst that is not a whole number from 1 to {_MAX_BURST} beside a rate")
    return burst


def _line(key: AccessKey) -> str:
    """Return the line of a key. Its rate is written by the hour where it is less than one a second."""
    value: dict[str, Any] = {"name": key.name, "sha256": key.sha256, "scopes": key.scopes}
    if key.expires:
        value["expires"] = key.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if key.rate is not None:
        each = next((unit for unit, seconds in _SECONDS.items() if (key.rate * seconds).is_integer()), "h")
        value["rate"] = f"{round(key.rate * _SECONDS[each])}/{each}"
    if key.burst is not None:
        value["burst"] = key.burst
    return orjson.dumps(value).decode()


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep two commands from changing the same file at once."""
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def _write(path: Path, lines: Sequence[str]) -> None:
    """Replace a file in one step; only its owner may read it."""
    target = path.resolve()  # a link stays one
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")  # with mode 0600
    try:
        with os.fdopen(descriptor, "w") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
