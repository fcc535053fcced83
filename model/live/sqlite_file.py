"""An SQLite file with several writing processes: how it is opened, its size, and whether it is still in place.

SQLite keeps using a file that was removed or replaced, and what it writes there is lost.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from model.errors import PredictionLogError

# SQLite empties the -wal file when no reader uses it; a permanent reader makes it grow. A transaction of the log adds
# less than 100 MiB.
_MAX_WAL_BYTES = 128 * 2**20
_KEPT_WAL_BYTES = 16 * 2**20  # a larger file is truncated to this size


def configurer(*, timeout_seconds: float) -> Callable[[Any, object], None]:
    """Return a listener that sets up WAL for several writers: readers do not block, only checkpoints sync to disk."""

    def set_up(connection: Any, _: object) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:  # unlike other statements, this one does not wait for a lock
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA journal_size_limit = {_KEPT_WAL_BYTES}")

    return set_up


def read_only_connector(path: Path, *, timeout_seconds: float) -> Callable[[], sqlite3.Connection]:
    """Return a function that opens an existing file. Raises `PredictionLogError` if there is none."""
    if not path.is_file():
        raise PredictionLogError(f"there is no prediction log {str(path)!r}; name the one that the server writes to")
    # Not "ro", which would leave -wal and -shm files that other users may not be able to remove.
    address = f"file:{quote(str(path.absolute()))}?mode=rw"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, timeout=timeout_seconds, uri=True, check_same_thread=False)
        connection.execute("PRAGMA query_only = ON")
        return connection

    return connect


class SQLiteFile:
    """The file of an open database with its -wal and -shm files, identified by devices and inodes.

    The inode of an open file is not reused. `execute` runs a statement in the database and returns its row.
    """

    def __init__(self, execute: Callable[[str], Any]) -> None:
        path = execute("PRAGMA database_list")[2]
        self._path, self._wal, self._shm = path, f"{path}-wal", f"{path}-shm"
        self._inodes = {path: _inode(path) for path in (self._path, self._wal, self._shm)}

    def is_in_place(self) -> bool:
        """Return whether the path still names the file that was opened."""
        return _inode(self._path) == self._inodes[self._path]

    def remove_wal_and_shm(self) -> None:
        """Remove the -wal and -shm files of a file that is gone; SQLite would use them for the next file."""
        for path in (self._wal, self._shm):
            if self._inodes[path] and _inode(path) == self._inodes[path]:
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def bound_wal(self, execute: Callable[[str], Any]) -> None:
        """Empty the -wal file if it is too long. Raises `PredictionLogError` if a reader prevents it."""
        with suppress(FileNotFoundError):
            if os.stat(self._wal).st_size > _MAX_WAL_BYTES and execute("PRAGMA wal_checkpoint(TRUNCATE)")[0]:
                raise PredictionLogError(
                    f"the prediction log has a -wal file of {_MAX_WAL_BYTES} bytes that another program reads; end it"
                )


def used_bytes(execute: Callable[[str], Any]) -> int:
    """Return the bytes of the used pages; SQLite reuses the free ones before the file grows."""
    pages, free, size = (execute(f"PRAGMA {name}")[0] for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * size)


def _inode(path: str) -> tuple[int, int] | None:
    """Return the device and inode of a file, or None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
