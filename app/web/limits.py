"""Token buckets in memory that all workers share: how many requests of a key, or guesses of an address, are accepted.

The algorithm is GCRA (ITU-T I.371, appendix I), which needs one number a bucket: the time at which it is full again.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import tempfile
import threading
import time
import weakref
from hashlib import blake2b


class Buckets:
    """A fixed number of token buckets. Make them before workers are forked; the memory is used as buckets are."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._full_at = memoryview(mmap.mmap(-1, 8 * count)).cast("d")  # by time.monotonic, which processes share
        # The kernel releases these locks when a process dies, however it does. They are between processes alone.
        self._descriptor = _file_without_name()
        weakref.finalize(self, os.close, self._descriptor)
        self._lock = threading.Lock()
        self._salt = os.urandom(16)  # so that nobody can choose names that share a bucket

    def bucket_of(self, name: str, *, first: int = 0) -> int:
        """Return a bucket for a name, from `first` on; two names rarely share one."""
        hashed = int.from_bytes(blake2b(name.encode(errors="replace"), digest_size=8, key=self._salt).digest())
        return first + hashed % (self.count - first)

    def take(self, bucket: int, *, rate: float, burst: int) -> float:
        """Take a token and return 0, or if there is none return how many seconds later there is one."""
        with self._lock:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX, 1, bucket)
            try:
                now = time.monotonic()
                wait = self._wait(bucket, now, rate, burst)
                if not wait:
                    self._full_at[bucket] = max(self._full_at[bucket], now) + 1 / rate
                return wait
            finally:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, bucket)

    def wait(self, bucket: int, *, rate: float, burst: int) -> float:
        """Return in how many seconds there is a token, 0 if there is one; take none."""
        return self._wait(bucket, time.monotonic(), rate, burst)

    def _wait(self, bucket: int, now: float, rate: float, burst: int) -> float:
        return max(0.0, self._full_at[bucket] - now - (burst - 1) / rate)


def _file_without_name() -> int:
    """Return the descriptor of an empty file that ends with the processes that have it."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("tabserve-limits")
    with tempfile.TemporaryFile() as file:  # another system than Linux
        return os.dup(file.fileno())
