"""The journal of a search: a line of JSON for what the search is, one for each finished trial, one for each end.

Each line is on the disk before the next trial begins, so that a search that is killed goes on behind its last line.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from model.errors import DataError
from model.train.search.trials import Trial

NAME = "journal.jsonl"
_KEY, _TRIAL, _FINISHED = "search", "trial", "finished"
_SECONDS, _TRIALS = "seconds", "trials"


class Journal:
    """The trials of a search, and the file that they are in, if there is one.

    `finished` is the number of trials after which a search in a given time, in seconds, had ended; one in another time
    goes on. The journal is one process's until it is closed.
    """

    def __init__(self, folder: Path | None, head: Mapping[str, Any]) -> None:
        """Open the journal of the search that `head` describes.

        What is behind the first damaged line is dropped. The journal of another search is put aside, with that
        search's key in its name. Raises `DataError` while another process has a journal in this folder.
        """
        self.trials: list[Trial] = []
        self.finished: dict[float, int] = {}
        self._path = folder / NAME if folder else None
        self._lock: int | None = None
        if folder is None or self._path is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _locked(folder)
        lines, n_bytes = _lines(self._path)
        if lines and lines[0] != {_KEY: json.loads(json.dumps(head))}:
            other = lines[0].get(_KEY, {})
            key = str(other.get("key", "unknown"))[:12] if isinstance(other, dict) else "unknown"
            self._path.replace(folder / f"journal-{key}.jsonl")
            lines, n_bytes = [], 0
        if n_bytes and self._path.stat().st_size > n_bytes:
            os.truncate(self._path, n_bytes)
        if not lines:
            self._path.unlink(missing_ok=True)
            self._write({_KEY: head})
        for line in lines[1:]:
            if _TRIAL in line:
                self.trials.append(Trial.of(line[_TRIAL]))
            else:
                self.finished[line[_FINISHED][_SECONDS]] = line[_FINISHED][_TRIALS]

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, trial: Trial) -> None:
        """Add a trial that has finished."""
        self.trials.append(trial)
        self._write({_TRIAL: trial.to_facts()})

    def finish(self, seconds: float) -> None:
        """Say that the search in this time has ended with the trials that are there."""
        self.finished[seconds] = len(self.trials)
        self._write({_FINISHED: {_SECONDS: seconds, _TRIALS: len(self.trials)}})

    def _write(self, line: Mapping[str, Any]) -> None:
        if self._path is None:
            return
        is_new = not self._path.exists()
        with self._path.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if is_new:
            descriptor = os.open(self._path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def finished_trials(folder: Path) -> list[Trial]:
    """Return the finished trials of the last search in this folder."""
    return [Trial.of(line[_TRIAL]) for line in _lines(folder / NAME)[0] if _TRIAL in line]


def state(folder: Path) -> tuple[int, int] | None:
    """Return what each finished trial in this folder changes, and each other search; None where there was no search."""
    try:
        found = (folder / NAME).stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size


def _locked(folder: Path) -> int:
    """Return a descriptor that holds the folder's lock until it is closed, or its process ends."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise DataError(f"another search is running in {folder}; wait for its end, or take another name") from None
    return descriptor


def _lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Return the lines before the first that is damaged, and how many bytes they have."""
    found: list[dict[str, Any]] = []
    n_bytes = 0
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return found, n_bytes
    for line in content.splitlines(keepends=True):
        try:
            facts = json.loads(line)
            is_whole = line.endswith(b"\n") and _is_known(facts, n_before=len(found))
        except (ValueError, TypeError, KeyError):
            is_whole = False
        if not is_whole:
            break
        found.append(facts)
        n_bytes += len(line)
    return found, n_bytes


def _is_known(facts: Any, *, n_before: int) -> bool:
    """Return whether this may be a line behind so many others. Raises `TypeError` or `KeyError` for a damaged trial."""
    if not isinstance(facts, dict) or len(facts) != 1:
        return False
    if _TRIAL in facts:
        return n_before > 0 and isinstance(Trial.of(facts[_TRIAL]), Trial)
    if n_before == 0:
        return _KEY in facts
    end = facts[_FINISHED]
    return isinstance(end[_SECONDS], (int, float)) and isinstance(end[_TRIALS], int)
