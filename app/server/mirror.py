"""Keeps a folder with what a store behind a URL has, by a process of its own beside the workers.

So no process that is forked or serves ever has a connection to the store, nor its packages in memory. What the process
says is logged: once when something cannot be read from the store, and once when everything can again.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_log = logging.getLogger("tabserve")

_FIRST_SECONDS = 20.0  # how long a start waits; after that the watch of the store loads what comes
_AGAIN_SECONDS = 5.0


class Mirror:
    """The process that brings here what `references` name, or every champion; started again if it ends.

    `has_problem` while something of that cannot be brought here.
    """

    def __init__(self, url: str, cache: Path, references: Sequence[str], *, every: int, signatures: bool) -> None:
        self._command = [
            *(sys.executable, "-m", "model", "--store", url, "--cache", str(cache), "mirror"),
            *("--every", str(every), "--until-eof", *(["--signatures"] if signatures else []), "--", *references),
        ]
        self._first = threading.Event()
        self._on_report: Callable[[], object] = lambda: None
        self.has_problem = False

    def start(self) -> None:
        """Start the process and wait until it has read the store once, or could not, but not for ever."""
        threading.Thread(target=self._run, daemon=True).start()
        if not self._first.wait(_FIRST_SECONDS):
            _log.warning("the store was not read within %g s; starting with what is here", _FIRST_SECONDS)

    def tell(self, on_report: Callable[[], object]) -> None:
        """Call `on_report` now, and from another thread when `has_problem` may have changed."""
        self._on_report = on_report
        on_report()

    def _run(self) -> None:
        while True:
            try:
                # It ends with the standard input, which it shares with no process that outlives this one.
                with subprocess.Popen(
                    self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
                ) as process:
                    for line in process.stdout or ():
                        self._report(line.strip())
            except OSError as error:
                _log.error("the process that reads the store did not start: %s", error.strerror)
            self._note(has_problem=True)
            _log.error("the process that reads the store has ended; starting it again")
            time.sleep(_AGAIN_SECONDS)

    def _report(self, line: str) -> None:
        kind, _, text = line.partition(" ")
        if kind == "mirrored":
            _log.info("the store is read: %s", text)
        else:
            _log.warning("not everything could be read from the store; what is here is served: %s", text)
        self._note(has_problem=kind != "mirrored")

    def _note(self, *, has_problem: bool) -> None:
        self.has_problem = has_problem
        self._on_report()
        self._first.set()
