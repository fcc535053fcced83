"""The command line: python -m model COMMAND, such as describe, check, train, import, predict and report."""

from __future__ import annotations

import signal
import sys

from model.cli.main import main

if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # end silently by SIGPIPE, as other tools do
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
