"""The journal of a search: a line of JSON for what the search is, and one for each trial that has finished.

Each line is on the disk before the next trial begins, so that a search that is killed goes on behind its last line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.train.search.trials import Trial

NAME = "journal.jsonl"
_KEY, _TRIAL, _FINISHED = "search", "trial", "finished"


class Journal:
    """The trials of a search, and the file that they are in, if there is one.

    `finished` is the number of trials after which a search in a given time had ended; None for one that goes on.
    """

    def __init__(self, folder: Path | None, head: Mapping[str, Any]) -> None:
        """Open the journal of the search that `head` describes.

        What is behind the first damaged line is dropped. The journal of another search is put aside, with that
        search's key in its name.
        """
        self.trials: list[Trial] = []
        self.finished: int | None = None
        self._path = folder / NAME if folder else None
        if folder is None or self._path is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
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
                self.finished = line[_FINISHED]

    def add(self, trial: Trial) -> None:
        """Add a trial that has finished."""
        self.trials.append(trial)
        self._write({_TRIAL: trial.to_facts()})

    def finish(self) -> None:
        """Say that the search has ended with the trials that are there."""
        self.finished = len(self.trials)
        self._write({_FINISHED: self.finished})

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
    return _KEY in facts if n_before == 0 else isinstance(facts.get(_FINISHED), int)
