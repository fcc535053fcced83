"""Read the files of a store: only regular files, and JSON that is bounded before it is parsed.

A link may lead anywhere, a FIFO waits for a writer for ever, a device may be endless, and a few hundred KiB of JSON can
become gigabytes of lists.
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

# The example's largest JSON file has 7 KiB; golden rows of 3,000 features would have 4 MiB. The worst 8 MiB of JSON
# that we tried (numbers, short strings, keys) took 150 MiB when parsed.
MAX_JSON_BYTES = 2**23
MAX_JSON_CONTAINERS = 100_000  # lists and objects


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file without blocking. Raises `OSError` for anything else, links included."""
    if not stat.S_ISREG(os.lstat(path).st_mode):  # before opening, which has side effects on some devices
        raise OSError(errno.EINVAL, "it is not a regular file")
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        yield file


def read_json(path: Path) -> Any:
    """Return the value of a JSON file. Raises `OSError`, or `ValueError` for invalid or too large JSON."""
    with open_regular(path) as file:
        return parse_json(file.read(MAX_JSON_BYTES + 1))


def parse_json(content: bytes) -> Any:
    """Return the value of JSON. Raises `ValueError` if it is invalid or has too many bytes, lists or levels."""
    if len(content) > MAX_JSON_BYTES:
        raise ValueError(f"more than {MAX_JSON_BYTES} bytes")
    if content.count(b"[") + content.count(b"{") > MAX_JSON_CONTAINERS:
        raise ValueError(f"more than {MAX_JSON_CONTAINERS} lists and objects")
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("too many levels") from None
