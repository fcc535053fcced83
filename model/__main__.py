"""The command line: python -m model COMMAND, such as describe, check, train, import, predict and report."""

from __future__ import annotations

import signal
import sys
from types import FrameType

from model.cli.main import main


def _run() -> int:
    """Run one command and return its exit status; SIGTERM interrupts it as Ctrl-C does, and then the status is 143.

    So a training that a scheduler stops leaves its record, and nothing half-written.
    """
    is_terminated = False

    def terminate(number: int, frame: FrameType | None) -> None:
        nonlocal is_terminated
        is_terminated = True
        interrupt = signal.getsignal(signal.SIGINT)  # a command may handle it; a shell's background job ignores it
        (interrupt if callable(interrupt) else signal.default_int_handler)(signal.SIGINT, frame)

    signal.signal(signal.SIGTERM, terminate)
    status = main()
    return 128 + signal.SIGTERM if is_terminated and status else status


if __name__ == "__main__":
    try:
        sys.exit(_run())
    except BrokenPipeError:  # end silently by SIGPIPE, as other tools do
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
