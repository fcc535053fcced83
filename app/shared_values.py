"""Values of metrics in memory that all workers share, where prometheus_client itself would keep files in a folder.

The memory belongs to no file: no full disk touches it, nobody can remove it, and it ends with the server. It is mapped
before workers are forked. Each worker has a slot and writes to the region of that slot alone; a scrape adds up all
regions. A worker that takes a dead one's slot counts on from where that one stopped.
"""

from __future__ import annotations

import logging
import mmap
import threading
from array import array
from collections.abc import Iterable, Sequence

import orjson
from prometheus_client import values
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

# Of address space: memory is taken for what is written. A model of 100 features has 1,300 bins, a name 200 bytes.
_MAX_VALUES = 2**16
_MAX_NAMES_BYTES = 15 * 2**20

_log = logging.getLogger("tabserve")


class _Region:
    """The values of one slot: the bytes that their names take, the values, and a line for the name of each."""

    def __init__(self) -> None:
        self._names_start = 8 * (1 + _MAX_VALUES)  # of the names
        self._memory = mmap.mmap(-1, self._names_start + _MAX_NAMES_BYTES)
        self.cells = memoryview(self._memory)[: self._names_start].cast("d")
        self._indexes: dict[bytes, int] = {}
        self._is_full = False

    def open(self) -> None:
        """Find what an earlier process wrote: in the process that writes from now on."""
        self._indexes = {name: index for index, (name, _) in enumerate(self.read(), start=1)}

    def read(self) -> list[tuple[bytes, float]]:
        """Return the names and their values."""
        names = self._memory[self._names_start : self._names_start + int(self.cells[0])].splitlines()
        return list(zip(names, self.cells[1 : 1 + len(names)].tolist()))

    def index(self, name: bytes) -> int | None:
        """Return where the value of a name is; None where there is no room for another."""
        index = self._indexes.get(name)
        if index is None:
            used, line = int(self.cells[0]), name + b"\n"
            if len(self._indexes) + 1 < _MAX_VALUES and used + len(line) <= _MAX_NAMES_BYTES:
                self._memory[self._names_start + used : self._names_start + used + len(line)] = line
                self.cells[0] = used + len(line)  # last, so that no scrape finds half a name, nor does a successor
                index = self._indexes[name] = len(self._indexes) + 1
            elif not self._is_full:
                self._is_full = True
                _log.error("the memory for metrics is full, and new ones are not counted; restart the server")
        return index


_lock = threading.Lock()  # for the threads of a process
_regions = [_Region()]  # the first is the master's
_own = _regions[0]


class SharedValue:
    """A value as prometheus_client's metrics use it; sums over processes are all that there is."""

    _multiprocess = True

    def __init__(
        self,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: Sequence[str],
        labelvalues: Sequence[str],
        help_text: str,
        **_: object,
    ) -> None:
        self._name = orjson.dumps([metric_name, typ, name, dict(zip(labelnames, labelvalues)), help_text])
        with _lock:
            self._find()

    def _find(self) -> None:
        """Find the cell in this process's region, or make one that is not shared where that is full."""
        self._region = _own
        self._cells: memoryview[float] | array[float] = _own.cells
        index = _own.index(self._name)
        if index is None:
            self._cells, index = array("d", [0.0]), 0
        self._index = index

    def inc(self, amount: float) -> None:
        """Add to this process's share."""
        with _lock:
            if self._region is not _own:
                self._find()
            self._cells[self._index] += amount

    def set(self, value: float, timestamp: float | None = None) -> None:
        """Set this process's share."""
        with _lock:
            if self._region is not _own:
                self._find()
            self._cells[self._index] = value

    def get(self) -> float:
        """Return this process's share."""
        with _lock:
            if self._region is not _own:
                self._find()
            return self._cells[self._index]

    def set_exemplar(self, exemplar: object) -> None:
        """Keep none, as prometheus_client for several processes."""

    def get_exemplar(self) -> None:
        """Return none."""


class SharedCollector(Collector):
    """Adds up the values of all slots."""

    def collect(self) -> Iterable[Metric]:
        """Return every metric that any process has."""
        totals: dict[bytes, float] = {}
        for region in _regions:
            for key, value in region.read():
                totals[key] = totals.get(key, 0.0) + value
        metrics: dict[str, Metric] = {}
        for key, total in totals.items():
            metric_name, typ, name, labels, help_text = orjson.loads(key)
            if metric_name not in metrics:
                metrics[metric_name] = Metric(metric_name, help_text, typ)
                metrics[metric_name]._multiprocess_mode = "sum"  # type: ignore[attr-defined]
            metrics[metric_name].add_sample(name, tuple(sorted(labels.items())), total)  # type: ignore[arg-type]
        found: Iterable[Metric] = MultiProcessCollector._accumulate_metrics(metrics, True)  # type: ignore[no-untyped-call]
        return found


def share_values() -> None:
    """Have prometheus_client keep its values here: before any metric is made."""
    values.ValueClass = SharedValue


def are_shared() -> bool:
    """Return whether it does."""
    return values.ValueClass is SharedValue


def reserve_slots(count: int) -> None:
    """Make room for the values of so many workers: in the master, before it forks the first."""
    _regions.extend(_Region() for _ in range(count))


def take_slot(slot: int) -> None:
    """Count in a slot from now on: in a new worker, before it answers a request."""
    global _own
    if slot + 1 < len(_regions):
        _own = _regions[slot + 1]
        _own.open()
    else:
        _own = _Region()
        _log.error("too many workers share the metrics, and this one is not counted; restart the server")
