"""Takes messages from a queue, answers them, and removes each after its document is safe: at least once.

A batch is received by the main thread and answered by one of several others. While it is in their hands another thread
keeps the queue from giving it to others. What does not answer, the queue or the place of the documents, is tried again
with growing pauses, and the messages wait.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

from model.errors import StoreError
from model.on_queue.current import Current
from model.on_queue.message import ID, answer
from model.on_queue.places import Place
from model.on_queue.sqs import MAX_BATCH, WAIT_SECONDS, Queue, Received
from model.store.tries import pause_seconds

T = TypeVar("T")

_REPORT_SECONDS = 60
_LAST_WAIT_SECONDS = 1  # for messages, where none means the end
_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 1, 60  # the messages that come meanwhile wait for the end of the pause


class _StoppedError(Exception):
    """The consumer was told to end before something worked."""


@dataclass
class Counts:
    """What was done: messages that were answered or put aside, rows that were predicted, messages put aside.

    `n_returned` were given back to the queue, since the consumer was told to end first.
    """

    n_messages: int = 0
    n_rows: int = 0
    n_dead: int = 0
    n_returned: int = 0


class Consumer:
    """Answers the messages of a queue until it is told to stop.

    `results` gets the documents of the messages that were answered, `dead` those of all others. `say` is called with
    one line at a time, from any thread.
    """

    def __init__(
        self,
        queue: Queue,
        current: Current,
        *,
        results: Place,
        dead: Place,
        say: Callable[[str], None],
        id_key: str = ID,
        threads: int = 4,
        visibility_seconds: int = 60,
    ) -> None:
        self._queue, self._current = queue, current
        self._results, self._dead = results, dead
        self._say, self._id_key = say, id_key
        self._threads, self._visibility_seconds = threads, visibility_seconds
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._held: set[str] = set()
        self._left: list[str] = []
        self._counts = Counts()

    def stop(self) -> None:
        """End soon: what was received is answered or, if that is not possible, given back."""
        self._stop.set()

    def run(self, *, until_empty: bool = False) -> Counts:
        """Answer messages until `stop`, or until the queue says that there are none."""
        free = threading.Semaphore(self._threads)
        wait_seconds = _LAST_WAIT_SECONDS if until_empty else WAIT_SECONDS
        with (
            self._keeping(),  # until the workers have ended
            ThreadPoolExecutor(self._threads * MAX_BATCH) as writers,
            ThreadPoolExecutor(self._threads) as workers,
        ):

            def work(batch: Sequence[Received]) -> None:
                try:
                    self._work(batch, writers)
                finally:
                    free.release()

            started = reported = time.monotonic()
            while not self._stop.is_set():
                if time.monotonic() >= reported + _REPORT_SECONDS:
                    reported = time.monotonic()
                    self._report(reported - started)
                if not free.acquire(timeout=1):
                    continue
                try:
                    batch = self._retried(lambda: self._queue.receive(self._visibility_seconds, wait_seconds))
                    is_done = until_empty and not batch and self._retried(self._queue.is_empty)
                except _StoppedError:
                    break
                if not batch:
                    free.release()
                    if is_done:
                        break
                    continue
                with self._lock:
                    self._held |= {each.receipt for each in batch}
                workers.submit(work, batch)
        with suppress(StoreError):  # only now, or the request for messages that was under way would bring them back
            self._queue.hold(self._left, 0)
        return self._counts

    def _work(self, batch: Sequence[Received], writers: ThreadPoolExecutor) -> None:
        """Answer some messages, write the documents, and remove the messages whose document was written."""
        model = self._current.model()
        answers = [answer(each.message, model, id_key=self._id_key) for each in batch]

        def write(place: int) -> bool:
            found = answers[place]
            to = self._dead if found.reason else self._results
            try:
                self._retried(lambda: to.keep(batch[place].message, found))
            except _StoppedError:
                return False
            return True

        written = list(writers.map(write, range(len(batch))))
        done = [each.receipt for each, is_written in zip(batch, written) if is_written]
        try:
            with suppress(_StoppedError):  # they come again after a while, and keep their documents
                self._retried(lambda: self._queue.delete(done))
        finally:
            with self._lock:
                self._held -= {each.receipt for each in batch}
                self._left += [each.receipt for each, is_written in zip(batch, written) if not is_written]
                kept = [found for found, is_written in zip(answers, written) if is_written]
                self._counts.n_messages += len(kept)
                self._counts.n_rows += sum(found.n_rows for found in kept)
                self._counts.n_dead += sum(bool(found.reason) for found in kept)
                self._counts.n_returned += len(batch) - len(kept)

    def _retried(self, act: Callable[[], T]) -> T:
        """Return what `act` returns once it works, after pauses. Raises `_StoppedError` if `stop` comes first."""
        for n_tries in itertools.count(1):
            try:
                return act()
            except (StoreError, OSError) as error:
                pause = pause_seconds(n_tries, first=_FIRST_PAUSE_SECONDS, last=_LAST_PAUSE_SECONDS)
                self._say(f"warning: {error}; next try in {pause} s")
                if self._stop.wait(pause):
                    raise _StoppedError from None
        raise AssertionError

    @contextmanager
    def _keeping(self) -> Iterator[None]:
        """Keep the messages that are held from others for as long as they are."""
        is_over = threading.Event()

        def keep() -> None:
            while not is_over.wait(self._visibility_seconds / 3):
                with self._lock:
                    held = list(self._held)
                try:
                    self._queue.hold(held, self._visibility_seconds)
                except StoreError as error:  # the next time comes before they are given to others
                    self._say(f"warning: {error}")

        keeper = threading.Thread(target=keep, name="keeper", daemon=True)
        keeper.start()
        try:
            yield
        finally:
            is_over.set()
            keeper.join()

    def _report(self, seconds: float) -> None:
        with self._lock:
            found, n_held = self._counts, len(self._held)
            self._say(
                f"{found.n_messages:,} messages, {found.n_rows:,} rows, {found.n_dead:,} dead letters "
                f"in {seconds:.0f} s; {n_held} in hand"
            )
