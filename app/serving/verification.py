"""Loads models in a child process first, so that the process that must live neither hangs nor dies with them."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from app.serving.loaded import Loaded


def verify_apart(
    load: Callable[[], Loaded],
    *,
    max_seconds: float = 60.0,
    max_bytes: int = 2**30,
    is_stopping: Callable[[], bool] = lambda: False,
) -> tuple[tuple[str, ...], dict[tuple[str, int], bool] | None]:
    """Load in a child process, limited in time and additional memory; return its `problems` and `golden`.

    If the child did not finish, the result is one problem and None.

    So gunicorn's master, which must live, neither hangs nor dies with what it verifies. The largest graph takes about
    an eighth of the default time and less than half of the default memory.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _report(load, writing, max_bytes, max_seconds)
    os.close(writing)
    deadline, pieces, is_whole = time.monotonic() + max_seconds, [], False
    with open(reading, "rb", buffering=0) as report:
        while not is_whole and time.monotonic() < deadline and not is_stopping():
            if select.select([report], [], [], 0.1)[0]:
                piece = report.read(2**16)
                pieces.append(piece)
                is_whole = not piece
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not is_whole:
        why = "the server is stopping" if is_stopping() else f"the models were not verified within {max_seconds:g} s"
        return (why,), None
    try:
        problems, golden = json.loads(b"".join(pieces))
    except ValueError:
        return (f"the process that verified the models ended with status {status}; was it out of memory?",), None
    if golden is None:
        return tuple(problems), None
    return tuple(problems), {(name, version): is_good for name, version, is_good in golden}


def _report(load: Callable[[], Loaded], writing: int, max_bytes: int, max_seconds: float) -> NoReturn:
    """Load, write `problems` and `golden` as JSON, and end this process, a child that was just forked."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(math.ceil(max_seconds) + 5)  # in case the parent, which would kill the child, is killed first
        logging.disable()  # the parent logs the problems
        with suppress(OSError):  # not Linux
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + max_bytes,) * 2)
        try:
            found = load()
            report: Any = found.problems, [(*version, is_good) for version, is_good in found.golden.items()]
        except Exception as error:  # whatever it is, the parent keeps its models
            report = (repr(error),), None
        with open(writing, "wb") as file:
            file.write(json.dumps(report).encode())
    finally:
        os._exit(0)  # without the parent's cleanup
