"""The processes that answer pieces of tables, and the order in which their answers come back."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import parent_process
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from model.errors import DataError
from model.score.answer import Answerer
from model.score.plan import Plan, Scored
from model.store import artifact
from model.store.artifact import Artifact

_SLOT_BYTES = 2**23  # a piece, and what becomes of it, in nearly all tables

_answerer: Answerer | None = None  # of this process
_slots: _Slots | None = None  # of this process and those that it forks


class _Slots:
    """Memory that this process and those that it forks share: a slot for each piece that is under way.

    Through pipes, pieces and answers would take a sixth of the time. What does not fit into a slot goes through them.
    """

    def __init__(self, n_slots: int) -> None:
        self._memory = mmap.mmap(-1, n_slots * _SLOT_BYTES)

    def write(self, slot: int, content: bytes) -> bool:
        """Write bytes to a slot; return whether they fit."""
        if len(content) > _SLOT_BYTES:
            return False
        self._memory[slot * _SLOT_BYTES : slot * _SLOT_BYTES + len(content)] = content
        return True

    def read(self, slot: int, length: int) -> bytes:
        """Return the bytes in a slot."""
        return self._memory[slot * _SLOT_BYTES : slot * _SLOT_BYTES + length]


class _Sent(NamedTuple):
    """Bytes on their way between two processes: in a slot, or themselves."""

    slot: int
    length: int
    content: bytes = b""

    @classmethod
    def of(cls, content: bytes, slot: int) -> _Sent:
        """Return the bytes, in the slot if there is one and they fit."""
        if _slots and _slots.write(slot, content):
            return cls(slot, len(content))
        return cls(slot, -1, content)

    def received(self) -> bytes:
        """Return the bytes on the other side."""
        return _slots.read(self.slot, self.length) if _slots and self.length >= 0 else self.content


def n_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool:
    """Answers pieces on several cores by one version of a model; a table of one piece is answered in this process."""

    def __init__(self, model: Artifact, *, n_jobs: int) -> None:
        self._model, self._n_jobs = model, n_jobs
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._executor:
            self._executor.shutdown(wait=True, cancel_futures=True)

    def scored(self, plan: Plan, pieces: Iterable[bytes]) -> Iterator[Scored]:
        """Yield the answers to pieces in their order; only a few more pieces are read than are answered.

        Raises `DataError` if a process ended by itself, for want of memory, say.
        """
        pieces = iter(pieces)
        first = list(islice(pieces, 2))
        pieces = chain(first, pieces)
        if self._n_jobs == 1 or (len(first) < 2 and not self._executor):
            answerer = Answerer(self._model)
            yield from (answerer.score(plan, piece) for piece in pieces)
            return
        if not self._executor:
            self._executor = self._started()
        most = 2 * self._n_jobs
        waiting: deque[Future[tuple[Scored, _Sent]]] = deque()
        try:
            for number, piece in enumerate(pieces):
                sent = _Sent.of(piece, number % (most + 1))
                waiting.append(self._executor.submit(_score, plan, sent))
                if len(waiting) > most:
                    yield _whole(waiting.popleft())
            while waiting:
                yield _whole(waiting.popleft())
        except BrokenProcessPool:
            raise DataError("a process that answered rows ended by itself; is memory short? try --jobs 1") from None

    def _started(self) -> ProcessPoolExecutor:
        """Start the processes; those that are forked share memory with this one."""
        global _slots
        if multiprocessing.get_start_method() == "fork":
            _slots = _Slots(2 * self._n_jobs + 1)
        facts = (self._model.path, self._model.manifest.digest)
        return ProcessPoolExecutor(self._n_jobs, initializer=_start, initargs=facts)


def _whole(future: Future[tuple[Scored, _Sent]]) -> Scored:
    """Return a piece with its answers, with the bytes that were sent apart."""
    scored, sent = future.result()
    return scored._replace(content=sent.received())


def _start(folder: Path, digest: str) -> None:
    """Load the version in a new process, which ends with the one that started it."""
    global _answerer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the first one ends the others
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    model = artifact.load(folder)
    if model.manifest.digest != digest:
        raise RuntimeError(f"{folder} was replaced")
    _answerer = Answerer(model)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)


def _score(plan: Plan, sent: _Sent) -> tuple[Scored, _Sent]:
    assert _answerer
    scored = _answerer.score(plan, sent.received())
    return scored._replace(content=b""), _Sent.of(scored.content, sent.slot)
