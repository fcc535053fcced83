"""Finds the records of CSV in a block of bytes, without a Python object for each.

The rules are those of Python's `csv` in its strict mode: a quote begins a quoted cell only at the start of a cell, it
is doubled within one, and only a separator or the end of the record follows the closing one. A record that breaks them
is malformed. It is then taken to end with its first line, so that the lines behind it are still read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAX_RECORD_BYTES = 2**20
"""A longer record is malformed: most often a quote is never closed."""

Offsets = NDArray[np.int64]
_NEWLINE, _RETURN = 10, 13


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a block: record `i` is the bytes from `starts[i]` to `ends[i]`, without the end of its line.

    `malformed` are the numbers of those that are not valid CSV. `length` is where the last whole record ends.
    """

    starts: Offsets
    ends: Offsets
    malformed: NDArray[np.intp]
    length: int


@dataclass(frozen=True)
class Marks:
    """The separator and the quote of a table, a byte each."""

    separator: bytes = b","
    quote: bytes = b'"'

    def cut(self, block: bytes, *, is_last: bool) -> int:
        """Return how many bytes of a block that starts with a record are whole records; all of them if it `is_last`."""
        if is_last:
            return len(block)
        if self.quote not in block:
            return block.rfind(b"\n") + 1
        return self.split(block, is_last=False).length

    def split(self, block: bytes, *, is_last: bool) -> Records:
        """Return the records of a block that starts with one. The end of a block that `is_last` ends a record."""
        newlines = _positions(block, _NEWLINE)
        malformed: list[int] = []
        if self.quote in block:
            quotes = _positions(block, self.quote[0])
            if self._is_regular(block, quotes, is_last=is_last):
                newlines = newlines[quotes.searchsorted(newlines) % 2 == 0]
            else:
                newlines, malformed = self._walk(block, is_last=is_last)
        length = int(newlines[-1]) + 1 if len(newlines) else 0
        starts = np.concatenate([np.zeros(1, dtype=np.int64), newlines + 1])
        if is_last and length < len(block):
            newlines, length = np.append(newlines, len(block)), len(block)
        starts = starts[: len(newlines)]
        ends = newlines
        if b"\r" in block:
            data = np.frombuffer(block, dtype=np.uint8)
            ends = newlines - ((newlines > starts) & (data[newlines - 1] == _RETURN))
            alone = self._lone_returns(block, data, starts, ends)
            malformed = sorted({*malformed, *alone})
        return Records(starts, ends, np.array(malformed, dtype=np.intp), length)

    def _is_regular(self, block: bytes, quotes: Offsets, *, is_last: bool) -> bool:
        """Return whether every other quote opens a cell, and every other one closes it or is the first of a pair.

        Whether a place is within a quoted cell then follows from the number of quotes before it.
        """
        data = np.frombuffer(block, dtype=np.uint8)
        opening, closing = quotes[::2], quotes[1::2]
        if len(opening) > len(closing) and (is_last or len(block) - int(opening[-1]) > MAX_RECORD_BYTES):
            return False
        separator, quote = self.separator[0], self.quote[0]
        before = data[opening[opening > 0] - 1]
        if not np.isin(before, (separator, quote, _NEWLINE)).all():
            return False
        after = data[closing[closing < len(block) - 1] + 1]
        return bool(np.isin(after, (separator, quote, _NEWLINE, _RETURN)).all())

    def _lone_returns(self, block: bytes, data: NDArray[np.uint8], starts: Offsets, ends: Offsets) -> list[int]:
        """Return the numbers of records with a carriage return outside of quotes, which readers take for an end."""
        returns = _positions(block, _RETURN)
        record = starts.searchsorted(returns, side="right") - 1
        within = returns < ends[np.clip(record, 0, len(ends) - 1)] if len(ends) else np.zeros(len(returns), dtype=bool)
        found: list[int] = np.unique(record[within]).tolist()
        if self.quote not in block:
            return found
        # Those within quotes are text.
        return [number for number in found if b"\r" in self._quoted.sub(b"", block[starts[number] : ends[number]])]

    def _walk(self, block: bytes, *, is_last: bool) -> tuple[Offsets, list[int]]:
        """Return the newlines that end records, found record by record, and the numbers of malformed records."""
        newlines: list[int] = []
        malformed: list[int] = []
        position = 0
        while position < len(block):
            record = self._record.match(block, position)
            if record and record.end() - position <= MAX_RECORD_BYTES:
                position = record.end()
                newlines.append(position - 1)
                continue
            if is_last and self._last.match(block, position):
                break
            is_short = len(block) - position <= MAX_RECORD_BYTES
            if not is_last and is_short and self._unfinished.match(block, position):
                break
            newline = block.find(b"\n", position)
            malformed.append(len(newlines))
            if newline < 0:
                break
            newlines.append(newline)
            position = newline + 1
        return np.array(newlines, dtype=np.int64), malformed

    @cached_property
    def _cells(self) -> tuple[bytes, bytes]:
        """The expressions of a cell, and of the start of a quoted cell; no text matches in two ways.

        Possessive quantifiers would say so, but match wrongly before Python 3.11.5.
        """
        separator, quote = re.escape(self.separator), re.escape(self.quote)
        start = quote + rb"[^" + quote + rb"]*(?:" + quote * 2 + rb"[^" + quote + rb"]*)*"
        unquoted = rb"(?!" + quote + rb")[^\n" + separator + rb"]*"
        end = rb"(?=" + separator + rb"|\r?\n|\r?\Z)"
        return rb"(?:" + start + quote + end + rb"|" + unquoted + rb")", start

    @cached_property
    def _record(self) -> re.Pattern[bytes]:
        """A whole record with its newline."""
        cell, _ = self._cells
        return re.compile(cell + rb"(?:" + re.escape(self.separator) + cell + rb")*\r?\n")

    @cached_property
    def _last(self) -> re.Pattern[bytes]:
        """A whole record at the end of the table."""
        cell, _ = self._cells
        return re.compile(cell + rb"(?:" + re.escape(self.separator) + cell + rb")*\r?\Z")

    @cached_property
    def _unfinished(self) -> re.Pattern[bytes]:
        """The start of a record up to the end of the block."""
        cell, start = self._cells
        return re.compile(rb"(?:" + cell + re.escape(self.separator) + rb")*(?:" + cell + rb"|" + start + rb")\r?\Z")

    @cached_property
    def _quoted(self) -> re.Pattern[bytes]:
        """A quoted cell, in a record that is not malformed."""
        _, start = self._cells
        separator = re.escape(self.separator)
        return re.compile(rb"(?<![^" + separator + rb"])" + start + re.escape(self.quote))


def _positions(block: bytes, byte: int) -> Offsets:
    return np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == byte)
