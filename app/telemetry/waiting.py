"""A queue that is bounded in rows and bytes, between threads that answer requests and one that works behind them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """A queue of items; `size_of` returns an item's rows and bytes. One thread at a time puts, and one takes.

    Items stay in it until they are done, so that what failed can be repeated.
    """

    def __init__(self, size_of: Callable[[T], tuple[int, int]], *, max_rows: int, max_bytes: int) -> None:
        self.size_of = size_of
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._items: deque[T] = deque()
        self._rows_put = self._rows_done = 0  # one thread changes each
        self._bytes_put = self._bytes_done = 0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def n_rows(self) -> int:
        """The rows of all items."""
        return self._rows_put - self._rows_done

    def put(self, item: T) -> bool:
        """Append an item; return False without doing so if there is no room."""
        rows, n_bytes = self.size_of(item)
        if self.n_rows + rows > self._max_rows or self._bytes_put - self._bytes_done + n_bytes > self._max_bytes:
            return False
        self._rows_put += rows
        self._bytes_put += n_bytes
        self._items.append(item)
        return True

    def first(self, *, max_items: int, max_rows: int) -> list[T]:
        """Return the items that have waited longest, one of them at least, of `max_rows` together at most."""
        n_rows = 0
        # As many as there are now, since other threads append: a deque does not allow that during an iteration.
        found = [self._items[number] for number in range(min(max_items, len(self._items)))]
        for number, item in enumerate(found):
            n_rows += self.size_of(item)[0]
            if number and n_rows > max_rows:
                return found[:number]
        return found

    def done(self, count: int) -> None:
        """Remove the items that have waited longest."""
        for _ in range(count):
            rows, n_bytes = self.size_of(self._items.popleft())
            self._rows_done += rows
            self._bytes_done += n_bytes
