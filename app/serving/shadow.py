"""Challengers that answer the champion's rows once more, after the reply: what would change if they were the champion.

Nobody waits for these answers. They are compared with the champion's, bit for bit, and counted, and they go to the
prediction log. A thread makes them in small pieces, each in a moment in which the worker has nothing else to do. If
there is none, it takes a twentieth of the time at most, and rows that find the queue full are dropped and counted.
To compare takes as long for hundreds of answers as for one, so answers wait for that.

The thread has the priority of all others. With less of it, another process would keep it from running while it holds
the interpreter's lock, and every request of this process would wait for that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from app.serving.challengers import Mode
from app.serving.current import Serving
from app.serving.inference import Inference
from app.serving.loaded import Loaded
from app.telemetry.log_lines import FirstFailures
from app.telemetry.metrics import Metrics
from app.telemetry.prediction_writer import LogWriter, Shadowed
from app.telemetry.waiting import Waiting
from app.web.exchange import Exchange
from app.web.server_facts import ServerFacts
from model import Artifact, Matrix, ModelError, SchemaError, check_comparable, row_differences, translated

T = TypeVar("T", "_Job", "_Answers")

_log = logging.getLogger("tabserve")

# Rows that may wait for the thread, and their bytes: a few seconds of requests with one row.
MAX_WAITING_ROWS = 20_000
MAX_WAITING_BYTES = 2**25
# Answered together, in a fifth of a millisecond by most models: a request may have to wait for so long. Much of that is
# the same for one row, and a request that waits a little longer is rarer than one that has to wait.
_REQUESTS_A_PIECE, _ROWS_A_PIECE = 64, 128
# Compared together, in about the same time: as soon as there are so many pieces or rows.
_PIECES_A_COMPARISON, _ROWS_A_COMPARISON = 4, 1_000
# Between pieces: the event loop may wait for the interpreter's lock, and seems idle until it gets it.
_PAUSE_SECONDS = 0.0002
# How long the thread looks for an idle moment: 20 times as long as its last piece took, and at least so many seconds.
_BUSY_FACTOR, _BUSY_SECONDS = 20.0, 0.1
_LOOK_SECONDS = 0.002
_STOP_SECONDS = 2.0  # how long a stopping worker answers what is queued


class _Job(NamedTuple):
    """The exchange of a champion, and a challenger that is to answer its rows."""

    exchange: Exchange
    champion: Artifact
    challenger: Artifact
    X: Matrix  # of the exchange, in the champion's schema
    y: NDArray[np.float64]  # the champion's answers


class _Answers(NamedTuple):
    """What both versions answered to the rows of a piece, and the id of the first request."""

    champion: Artifact
    challenger: Artifact
    before: NDArray[np.float64]
    after: NDArray[np.float64]
    request_id: str


class Shadow:
    """The queue of exchanges that challengers answer, too, and the thread in which they do.

    The recorder calls `start`, `put` and `close`. Without a thread, `work` answers what is queued, piece by piece.
    """

    def __init__(
        self,
        serving: Serving,
        inference: Inference,
        metrics: Metrics,
        writer: LogWriter | None,
        server: ServerFacts,
    ) -> None:
        self._serving = serving
        self._inference = inference
        self._metrics = metrics
        self._writer = writer
        self._server = server
        self._waiting: Waiting[_Job] = Waiting(_size, max_rows=MAX_WAITING_ROWS, max_bytes=MAX_WAITING_BYTES)
        self._answered: list[_Answers] = []  # and not compared yet
        self._failures = FirstFailures("a shadow failed; later failures are only counted")
        self._has_work = threading.Event()
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None  # made in `start`: threads do not survive a fork

    def prepare(self, loaded: Loaded) -> None:
        """Count the shadows of a snapshot from zero, and log which of them cannot answer; call it before it is served.

        Those are the ones that need columns which the champion does not have, or whose answers are of another kind.
        """
        for champion, challenger in _pairs(loaded):
            self._metrics.count_shadows_from_zero(champion, challenger)
            if problem := _problem(champion, challenger):
                reason, message = problem
                fields = {"model": champion.name, "version": challenger.version, "reason": reason}
                _log.error("a shadow cannot be compared: %s", message, extra={"fields": fields})

    def start(self) -> None:
        """Start the thread; call it once, in the worker process."""
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)
        self._thread.start()

    def put(self, exchanges: Sequence[Exchange]) -> None:
        """Queue those exchanges that the champion answered without being named by its version."""
        loaded = self._serving.loaded
        if not loaded.challengers:
            return
        shadows: dict[str, list[tuple[Artifact, str]]] = {}
        for champion, challenger in _pairs(loaded):
            problem = _problem(champion, challenger)
            shadows.setdefault(champion.name, []).append((challenger, problem[0] if problem else ""))
        for exchange in exchanges:
            model, X, y = exchange.model, exchange.X, exchange.y
            if model is None or X is None or y is None or exchange.names_version or model.name not in shadows:
                continue
            if model.version != loaded.models[model.name].version:
                continue
            for challenger, reason in shadows[model.name]:
                if not reason and not self._waiting.put(_Job(exchange, model, challenger, X, y)):
                    reason = "queue_full"
                if reason:
                    self._metrics.count_missed_shadows(model, challenger, len(y), reason)
        if self._waiting:
            self._has_work.set()

    def work(self) -> bool:
        """Answer a piece of the queue, or compare answers; return whether there was one of these to do."""
        if self._answered and (
            not self._waiting
            or len(self._answered) >= _PIECES_A_COMPARISON
            or sum(len(each.after) for each in self._answered) >= _ROWS_A_COMPARISON
        ):
            self._compare()
            return True
        jobs = self._waiting.first(max_items=_REQUESTS_A_PIECE, max_rows=_ROWS_A_PIECE)
        try:
            for of_pair in _by_pair(jobs):
                self._answer(of_pair)
        finally:
            self._waiting.done(len(jobs))
        return bool(jobs)

    def close(self) -> None:
        """Answer what is queued if that takes a moment, count the rest as missed, and stop."""
        self._stopping.set()
        self._has_work.set()
        if self._thread:
            self._thread.join(_STOP_SECONDS + 1)  # a second for its last piece
        else:
            self._finish()
        waiting = self._waiting.first(max_items=len(self._waiting), max_rows=MAX_WAITING_ROWS)
        for job in waiting:
            self._metrics.count_missed_shadows(job.champion, job.challenger, len(job.y), "stopped")
        for each in self._answered:
            self._metrics.count_missed_shadows(each.champion, each.challenger, len(each.after), "stopped")

    def _run(self) -> None:
        seconds = 0.0  # of the last piece
        while not self._stopping.is_set():
            self._has_work.wait()
            self._has_work.clear()
            while (self._waiting or self._answered) and not self._stopping.is_set():
                self._wait_for_idle_moment(max(_BUSY_SECONDS, _BUSY_FACTOR * seconds))
                started = time.monotonic()
                self.work()
                seconds = time.monotonic() - started
        self._finish()

    def _wait_for_idle_moment(self, seconds: float) -> None:
        latest = time.monotonic() + seconds
        self._stopping.wait(_PAUSE_SECONDS)
        while not self._server.is_idle() and time.monotonic() < latest and not self._stopping.wait(_LOOK_SECONDS):
            pass

    def _finish(self) -> None:
        """Answer what is queued, for a moment."""
        latest = time.monotonic() + _STOP_SECONDS
        while time.monotonic() < latest and self.work():
            pass

    def _answer(self, jobs: Sequence[_Job]) -> None:
        """Have a challenger answer the rows of one champion, and pass its answers to the log."""
        champion, challenger = jobs[0].champion, jobs[0].challenger
        answered: list[tuple[_Job, NDArray[np.float64]]] = []
        missed: list[tuple[_Job, Exception]] = []
        try:
            fitting = [(job, job.X) for job in jobs]
            if champion.schema.features != challenger.schema.features:
                fitting = _translated(jobs, missed)
            answered = self._run_jobs(fitting, missed) if fitting else []
            if answered:
                before, after = np.concatenate([job.y for job, _ in answered]), np.concatenate([y for _, y in answered])
                first = answered[0][0].exchange.request_id
                self._answered.append(_Answers(champion, challenger, before, after, first))
        except Exception as error:  # whatever it is, later pieces are answered
            answered, missed = [], [(job, error) for job in jobs]
        for job, reason in missed:
            self._miss(job.champion, job.challenger, len(job.y), reason, job.exchange.request_id)
        if self._writer:
            for job, y in answered:
                self._writer.put_shadow(Shadowed(job.exchange, challenger, y))

    def _compare(self) -> None:
        """Compare and count all answers that wait for it."""
        answered, self._answered = self._answered, []
        for of_pair in _by_pair(answered):
            champion, challenger, *_, request_id = of_pair[0]
            before, after = (
                np.concatenate([each.before for each in of_pair]),
                np.concatenate([each.after for each in of_pair]),
            )
            try:
                differences = row_differences(champion, before, challenger, after)
                self._metrics.count_shadows(champion, challenger, differences, after)
            except Exception as error:  # whatever it is, later answers are compared
                self._miss(champion, challenger, len(after), error, request_id)

    def _run_jobs(
        self, jobs: Sequence[tuple[_Job, Matrix]], missed: list[tuple[_Job, Exception]]
    ) -> list[tuple[_Job, NDArray[np.float64]]]:
        """Return the jobs that the challenger answers, each with its answers; add the others to `missed`.

        They share a run if the other rows of a run change no bit, which is much faster than to run each alone.
        """
        challenger = jobs[0][0].challenger
        if challenger.manifest.is_alike_in_every_batch:
            y = self._inference.run([(challenger, np.concatenate([X for _, X in jobs]))])[0].y
            if y is not None and y.shape[1:] == jobs[0][0].y.shape[1:]:
                ends = np.cumsum([len(X) for _, X in jobs]).tolist()
                return [(job, y[end - len(X) : end]) for (job, X), end in zip(jobs, ends)]
        answered: list[tuple[_Job, NDArray[np.float64]]] = []
        for job, X in jobs:
            outcome = self._inference.run([(challenger, X)])[0]
            if outcome.y is not None and outcome.y.shape == job.y.shape:
                answered.append((job, outcome.y))
            else:
                missed.append((job, outcome.error or ValueError("answers of another shape")))
        return answered

    def _miss(self, champion: Artifact, challenger: Artifact, n_rows: int, error: Exception, request_id: str) -> None:
        """Count rows that the challenger did not answer comparably, and log the first failure of a version."""
        reason = "columns" if isinstance(error, SchemaError) else "failed"
        self._metrics.count_missed_shadows(champion, challenger, n_rows, reason)
        if reason == "failed":
            self._failures.log(challenger.name, challenger.version, error, request_id)


def _size(job: _Job) -> tuple[int, int]:
    return len(job.y), job.X.nbytes + job.y.nbytes


def _by_pair(items: Iterable[T]) -> Iterable[list[T]]:
    """Divide jobs or answers by their champion and challenger."""
    found: dict[tuple[int, int], list[T]] = {}
    for item in items:
        found.setdefault((id(item.champion), id(item.challenger)), []).append(item)
    return found.values()


def _translated(jobs: Sequence[_Job], missed: list[tuple[_Job, Exception]]) -> list[tuple[_Job, Matrix]]:
    """Return each job with its rows in the challenger's schema; add those with a row that it refuses to `missed`."""
    fitting: list[tuple[_Job, Matrix]] = []
    for job in jobs:
        try:
            fitting.append((job, translated(job.X, job.champion.schema, job.challenger.schema)))
        except SchemaError as error:
            missed.append((job, error))
    return fitting


def _pairs(loaded: Loaded) -> list[tuple[Artifact, Artifact]]:
    """Return each champion with each of its shadows."""
    return [
        (loaded.models[name], challenger.model)
        for name, challengers in loaded.challengers.items()
        if name in loaded.models
        for challenger in challengers
        if challenger.mode is Mode.SHADOW
    ]


def _problem(champion: Artifact, challenger: Artifact) -> tuple[str, str] | None:
    """Return why no answer of a shadow can be compared, as a reason of the metrics and in a sentence."""
    lacking = [name for name in challenger.schema.names if name not in champion.schema.by_name]
    if lacking:
        return "columns", (
            f"{challenger.name}@{challenger.version} needs the columns {', '.join(map(repr, lacking[:5]))}"
            f"{' and others' if len(lacking) > 5 else ''}, which requests to version {champion.version} do not have"
        )
    try:
        check_comparable(champion, challenger)
    except ModelError as error:
        return "answers", str(error)
    return None
