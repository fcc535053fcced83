"""A process beside this one that does the work of a search: it can be stopped at any moment, and may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from threading import Thread
from time import monotonic
from types import TracebackType
from typing import Any

from model.errors import first_line
from model.train.search import work
from model.train.search.work import Problem

_POLL_SECONDS = 0.25  # between two looks at the clock
_STOP_SECONDS = 5.0
_GRACE_SECONDS = 1.0  # in which a trial may end at its next fold, since another process takes seconds to start
_FOLD, _DONE, _FAILED, _STOP = "fold", "done", "failed", "stop"


class _StoppedError(Exception):
    """The parent has no more use for this piece of work."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a piece of work: facts, or the reason why there are none; neither if there was no time."""

    facts: Mapping[str, Any] | None = None
    reason: str = ""


class Worker:
    """Does one piece of work after another in a process of its own, and starts another process if that one dies.

    The process is spawned, so that no lock of a library is copied while it is held. It ends with this one.
    """

    def __init__(self, problem: Problem) -> None:
        self._problem = problem
        self._process: Any = None
        self._connection: Connection[Any, Any] | None = None

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end() if error is None else self.stop()

    def run(
        self, what: str, *arguments: Any, until: float | None, tell: Callable[[float | None], None] = lambda score: None
    ) -> Outcome:
        """Call a function of `work` with the problem and these arguments.

        `until` is a time of `monotonic` at which the work is stopped, between two folds or by killing the process.
        `tell` is called with the score of each fold, and with None while there is none.
        """
        if self._process is None or not self._process.is_alive():
            self._start()
        assert self._connection is not None
        try:
            self._connection.send((what, arguments))
            while True:
                if self._connection.poll(_POLL_SECONDS):
                    kind, payload = self._connection.recv()
                    if kind == _DONE:
                        return Outcome(facts=payload)
                    if kind == _FAILED:
                        return Outcome(reason=payload)
                    tell(payload)
                else:
                    tell(None)
                if until is not None and monotonic() >= until:
                    return self._stopped()
        except (EOFError, ConnectionError):
            self._process.join(_STOP_SECONDS)
            code = self._process.exitcode
            self.stop()
            return Outcome(reason=_died(code))

    def _stopped(self) -> Outcome:
        """Let the work end at its next fold, or kill the process; return what became of it."""
        assert self._connection is not None
        self._connection.send((_STOP, ()))
        last = monotonic() + _GRACE_SECONDS
        while self._connection.poll(max(last - monotonic(), 0)):
            kind, payload = self._connection.recv()
            if kind == _DONE:
                return Outcome(facts=payload)
            if kind != _FOLD:
                return Outcome(reason=payload or "")
        self.stop()
        return Outcome()

    def stop(self) -> None:
        """Kill the process, if there is one."""
        if self._process is not None:
            self._process.kill()
            self._process.join(_STOP_SECONDS)
            self._process = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _end(self) -> None:
        """Let the process end, if it waits for work, or kill it."""
        if self._connection is not None and self._process is not None:
            self._connection.close()
            self._process.join(_STOP_SECONDS)
        self.stop()

    def _start(self) -> None:
        self.stop()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self._problem), daemon=True)
        process.start()
        self._process = process
        theirs.close()


def _died(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return "its process was killed, perhaps because the machine has too little memory"
    return f"its process ended with {signal.Signals(-code).name if code and code < 0 else code}"


def _serve(connection: Connection[Any, Any], problem: Problem) -> None:
    """Do what comes through the connection, until it is closed."""
    Thread(target=_end_with_parent, daemon=True).start()
    # The semaphores of libraries then have no names, which a killed process would leave behind; nothing is forked.
    multiprocessing.set_start_method("fork", force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops it
    functions: Mapping[str, Callable[..., Any]] = {"score": work.score, "final": work.final, "measure": work.measure}

    def tell(score: float) -> None:
        connection.send((_FOLD, score))
        if connection.poll():
            connection.recv()
            raise _StoppedError

    while True:
        try:
            what, arguments = connection.recv()
        except EOFError:
            return
        if what == _STOP:  # it was done already
            continue
        more = {"tell": tell} if what == "score" else {}
        try:
            connection.send((_DONE, functions[what](problem, *arguments, **more)))
        except _StoppedError:
            connection.send((_STOP, ""))
        except MemoryError:
            connection.send((_FAILED, "it needs more memory than there is"))
        except Exception as error:  # each library has classes of its own
            connection.send((_FAILED, first_line(error)))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
