"""What a store is read with: plain files alone, and JSON that is bounded before it is parsed.

A link may lead anywhere, a FIFO waits for a writer for ever, a device may have no end, and a few hundred KiB of packed
JSON can become gigabytes of lists.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

# The example's largest JSON file has 7 KiB; golden rows of 3,000 features would have 4 MiB. Text of 8 MiB that was made
# to become large (numbers, short texts, keys) took 150 MiB.
MAX_JSON_BYTES = 2**23
MAX_JSON_CONTAINERS = 100_000  # lists and objects


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain file. Raises `OSError` for anything else, a link among it, without waiting for it."""
    if not stat.S_ISREG(os.lstat(path).st_mode):  # before it is opened: that alone does something to some devices
        raise OSError(errno.EINVAL, "it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        yield file


def read_json(path: Path) -> Any:
    """Return what a JSON file says. Raises `OSError`, or `ValueError` for what is no JSON or too much of it."""
    with open_regular(path) as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1))


def parse_json(content: bytes) -> Any:
    """Return what JSON says. Raises `ValueError` for what is none, or has too many bytes, lists or levels."""
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
    if content.count(b"[") + content.count(b"{") > MAX_JSON_CONTAINERS:
        raise ValueError(f"more than {MAX_JSON_CONTAINERS} lists and objects")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("too many levels") from None
