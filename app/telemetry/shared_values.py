"""Metric values in memory that all workers share, in place of prometheus_client's files.

The memory belongs to no file: it needs no disk, cannot be removed, and ends with the server. It is mapped before
workers are forked. Each worker has a slot and writes only to the region of that slot; a scrape adds up all regions, or
takes the largest value of a gauge whose `multiprocess_mode` is "max". A worker that takes over the slot of a dead one
continues from its values. A slot has two halves: where one gets full, what counts on is written to the other, so that
a server which loads new versions for months does not run out of memory for them.
"""

from __future__ import annotations

import logging
import mmap
import os
import threading
from array import array
from collections.abc import Callable, Collection, Iterable, Sequence

import orjson
from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# Address space only: memory is used as values are written. A model of 100 features has 1,300 bins; a name, 200 bytes.
_MAX_VALUES = 2**16
_MAX_NAMES_BYTES = 15 * 2**20
_VALUES_BYTES = 8 * (1 + _MAX_VALUES)
_HALF_BYTES = _VALUES_BYTES + _MAX_NAMES_BYTES

_log = logging.getLogger("tabserve")


class _Half:
    """A half of a slot's memory: the length of all names in bytes, the values, and the names, one a line."""

    def __init__(self, memory: memoryview) -> None:
        self.cells = memory[:_VALUES_BYTES].cast("d")
        self._names = memory[_VALUES_BYTES:]

    def read(self) -> list[tuple[bytes, float]]:
        """Return the names and their values."""
        names = bytes(self._names[: int(self.cells[0])]).splitlines()
        return list(zip(names, self.cells[1 : 1 + len(names)].tolist()))

    def write(self, found: Sequence[tuple[bytes, float]]) -> None:
        """Replace the names and their values, while nobody reads this half."""
        names = b"".join(name + b"\n" for name, _ in found)
        self.cells[1 : 1 + len(found)] = memoryview(array("d", [value for _, value in found]))
        self._names[: len(names)] = names
        self.cells[0] = len(names)

    def add(self, name: bytes, count: int) -> bool:
        """Add a name behind `count` others, or return False if there is no room."""
        used, line = int(self.cells[0]), name + b"\n"
        if count + 1 >= _MAX_VALUES or used + len(line) > _MAX_NAMES_BYTES:
            return False
        self.cells[count + 1] = 0.0
        self._names[used : used + len(line)] = line
        self.cells[0] = used + len(line)  # last, so that no scrape or later worker reads half a name
        return True

    @property
    def is_half_full(self) -> bool:
        """Whether there is as much in it as room."""
        return 2 * self.cells[0] > _MAX_NAMES_BYTES or 2 * len(self.read()) > _MAX_VALUES


class _Region:
    """The memory of one slot: which of its halves counts, and the halves. One process writes, and all read."""

    def __init__(self) -> None:
        memory = memoryview(mmap.mmap(-1, 8 + 2 * _HALF_BYTES))
        self._which = memory[:8].cast("Q")
        self._halves = [_Half(memory[8 + number * _HALF_BYTES :][:_HALF_BYTES]) for number in range(2)]
        self.half = self._halves[0]  # that counts, in the process that writes
        self._indexes: dict[bytes, int] = {}
        self._is_full = False

    def read(self) -> list[tuple[bytes, float]]:
        """Return the names and their values, whichever process writes them."""
        return self._halves[self._which[0]].read()

    def open(self, is_kept: Callable[[bytes], bool]) -> None:
        """Find the values that an earlier process wrote; call it in the process that writes from now on.

        Where there is little room left, the names that are not kept are dropped, in one step for whoever reads.
        """
        self.half = self._halves[self._which[0]]
        if self.half.is_half_full:
            other = 1 - self._which[0]
            self._halves[other].write([(name, value) for name, value in self.half.read() if is_kept(name)])
            self._which[0], self.half = other, self._halves[other]
        self._indexes = {name: index for index, (name, _) in enumerate(self.half.read(), start=1)}

    def index(self, name: bytes) -> int | None:
        """Return the index of a name's value, a new one if needed; None if there is no room."""
        index = self._indexes.get(name)
        if index is None:
            if self.half.add(name, len(self._indexes)):
                index = self._indexes[name] = len(self._indexes) + 1
            elif not self._is_full:
                self._is_full = True
                _log.error("the memory for metrics is full, and new ones are not counted; restart the server")
        return index


_lock = threading.Lock()  # between threads of one process, of which a fork must not find it taken
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)
_regions = [_Region()]  # the master's region first
_own = _regions[0]


class SharedValue:
    """A value of a prometheus_client metric: the sum, or the largest, over all processes."""

    _multiprocess = True

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> None:
        labels = dict(zip(labelnames, labelvalues))
        self._name = orjson.dumps([metric_name, typ, name, labels, help_text, multiprocess_mode == "max"])
        with _lock:
            self._find()

    def _find(self) -> None:
        """Find the cell in this process's region, or make a cell that is not shared if the region is full."""
        self._half = _own.half
        self._cells: memoryview[float] | array[float] = self._half.cells
        index = _own.index(self._name)
        if index is None:
            self._cells, index = array("d", [0.0]), 0
        self._index = index

    def inc(self, amount: float) -> None:
        """Add to this process's share."""
        with _lock:
            if self._half is not _own.half:
                self._find()
            self._cells[self._index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set this process's share."""
        with _lock:
            if self._half is not _own.half:
                self._find()
            self._cells[self._index] = value

    def get(self) -> float:
        """Return this process's share."""
        with _lock:
            if self._half is not _own.half:
                self._find()
            return self._cells[self._index]

    def set_exemplar(self, exemplar: object) -> None:
        """Ignore exemplars, as prometheus_client does for several processes."""

    def get_exemplar(self) -> None:
        """Return None."""


class SharedCollector(Collector):
    """Joins the values of all slots."""

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all processes."""
        found: dict[bytes, list[float]] = {}
        for region in _regions:
            for key, value in region.read():
                found.setdefault(key, []).append(value)
        metrics: dict[str, Metric] = {}
        for key, of_slots in found.items():
            metric_name, typ, name, labels, help_text, is_largest = orjson.loads(key)
            total = max(of_slots) if is_largest else sum(of_slots)
            if metric_name not in metrics:
                metrics[metric_name] = Metric(metric_name, help_text, typ)
                metrics[metric_name]._multiprocess_mode = "sum"  # type: ignore[attr-defined]
            metrics[metric_name].add_sample(name, tuple(sorted(labels.items())), total)  # type: ignore[arg-type]
        joined: Iterable[Metric] = MultiProcessCollector._accumulate_metrics(metrics, True)  # type: ignore[no-untyped-call]
        return joined


def share_values() -> None:
    """Have prometheus_client keep its values here; call it before any metric is made."""
    values.ValueClass = SharedValue


def are_shared() -> bool:
    """Return whether prometheus_client keeps its values here."""
    return values.ValueClass is SharedValue


def reserve_slots(count: int) -> None:
    """Make room for the values of so many workers; call it in the master, before the first fork."""
    _regions.extend(_Region() for _ in range(count))


def take_slot(slot: int, served: Collection[tuple[str, int]]) -> None:
    """Use the slot from now on; call it in a new worker, before its first request.

    `served` are the names and versions of the models that it serves. Where the memory gets full, what was counted of
    others is dropped.
    """
    global _own
    if slot + 1 < len(_regions):
        _own = _regions[slot + 1]
        make_room(served)
    else:
        _own = _Region()
        _log.error("too many workers share the metrics, and this one is not counted; restart the server")


def make_room(served: Collection[tuple[str, int]]) -> None:
    """Drop what this process counted of versions that are not served, if the memory is half full."""
    versions = {(name, str(version)) for name, version in served}

    def is_kept(key: bytes) -> bool:
        labels = orjson.loads(key)[3]
        return "version" not in labels or (labels.get("model"), labels["version"]) in versions

    with _lock:
        _own.open(is_kept)
