"""Watches a store whose models could not be loaded, so that the server loads a repaired store without a restart.

Knows nothing about models: it compares names, sizes, times and permissions of files.
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


def watch(paths: Sequence[Path], failed: Callable[[], Fingerprint | None], load_again: Callable[[], object]) -> None:
    """Call `load_again` when a store or other files have changed since a failed load and are stable; never return.

    `paths` are the store and these files. `failed` returns their fingerprint from before the failed load, or None if no
    load failed. Each state is tried only once, so that a broken artifact is not verified in a loop.
    """
    tried = last = None
    while True:
        time.sleep(_INTERVAL_SECONDS)
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
