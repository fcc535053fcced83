"""Watches a store, so that the server loads what aliases have moved to, and a repaired store, without a restart.

Knows nothing about models: it compares what the store names with what it named, and names, sizes, times and
permissions of files.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path

_log = logging.getLogger("tabserve")

Fingerprint = frozenset[tuple[object, ...]]

_INTERVAL_SECONDS = 1.0
_MAX_FILES = 10_000  # an artifact has about a dozen; a store that is set by mistake may be a whole disk


def fingerprint(store: Path, *files: Path) -> Fingerprint:
    """Return the state of a store and other files without reading them.

    It differs after any change, also of permissions.
    """
    seen: list[tuple[object, ...]] = [_file_fingerprint(str(path)) for path in (store, *files)]
    folders = os.walk(store, onerror=lambda error: seen.append((error.filename, error.errno)))
    paths = (os.path.join(folder, name) for folder, inner, names in folders for name in (*inner, *names))
    seen.extend(_file_fingerprint(path) for path in islice(paths, _MAX_FILES))
    return frozenset(seen)


def _file_fingerprint(path: str) -> tuple[object, ...]:
    try:
        found = os.stat(path)
    except OSError as error:
        return path, error.errno
    readable = os.access(path, os.R_OK)  # may change without the file, by a mount for example
    return path, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns, readable


class Moves:
    """Tells whether the store names other versions than at the last load, whether that was served or refused.

    `read` returns what the store names now, `tried` what it named then. So when an alias goes back from a version that
    was refused, what is served is loaded again, and nothing is refused any more. A store that cannot be read is as if
    it had not changed. `is_due` returns whether the last load did not finish and is to be tried again.
    """

    def __init__(
        self, read: Callable[[], object], tried: Callable[[], object], is_due: Callable[[], bool] = lambda: False
    ) -> None:
        self._read, self._tried, self._is_due = read, tried, is_due
        self._is_gone = False

    def __call__(self) -> bool:
        """Return whether to load again."""
        try:
            now = self._read()
        except OSError as error:
            if not self._is_gone:
                _log.error("the store cannot be read, and what is loaded is served on: %s", error)
            self._is_gone = True
            return False
        if self._is_gone:
            _log.info("the store can be read again")
        self._is_gone = False
        if now == self._tried():
            if is_due := self._is_due():
                _log.info("the models were not verified to the end; trying again")
            return is_due
        _log.info("the store names other versions than at the last load; loading them")
        return True


def watch(
    paths: Sequence[Path],
    failed: Callable[[], Fingerprint | None],
    load_again: Callable[[], object],
    is_loading: Callable[[], bool],
    moves: Moves,
    move_seconds: int,
) -> None:
    """Call `load_again` when the models should be loaded again; never return.

    That is when `moves`, asked every `move_seconds` if that is not 0, says so; and when the files have changed since a
    failed load and are stable. `paths` are the store and other files. `failed` returns their fingerprint from before
    the failed load, or None if no load failed. Each state is tried only once, so that a broken artifact is not verified
    in a loop, and none while `is_loading`.
    """
    tried = last = None
    next_move = time.monotonic() + move_seconds
    while True:
        time.sleep(_INTERVAL_SECONDS)
        if is_loading():
            continue
        if move_seconds and time.monotonic() >= next_move:
            next_move = time.monotonic() + move_seconds - _INTERVAL_SECONDS / 2
            if moves():
                load_again()
                continue
        before = failed()
        if before is None:
            last = None
            continue
        now = fingerprint(*paths)
        if now == last and now not in (before, tried):  # a store that still changes is being written to
            tried = now
            _log.info("%s changed; loading the models again", " or ".join(map(str, paths)))
            load_again()
        last = now
