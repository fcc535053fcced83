"""The processes that answer pieces of tables, and the order in which their answers come back."""

from __future__ import annotations

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

from model.errors import DataError
from model.score.answer import Answerer
from model.score.plan import Plan, Scored
from model.store import artifact
from model.store.artifact import Artifact

_answerer: Answerer | None = None  # of this process


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
            facts = (self._model.path, self._model.manifest.digest)
            self._executor = ProcessPoolExecutor(self._n_jobs, initializer=_start, initargs=facts)
        waiting: deque[Future[Scored]] = deque()
        try:
            for piece in pieces:
                waiting.append(self._executor.submit(_score, plan, piece))
                if len(waiting) > 2 * self._n_jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise DataError("a process that answered rows ended by itself; is memory short? try --jobs 1") from None


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


def _score(plan: Plan, piece: bytes) -> Scored:
    assert _answerer
    return _answerer.score(plan, piece)
