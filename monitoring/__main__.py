"""python -m monitoring write | run | demo: write the generated files, run Prometheus, or send a day of traffic."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from monitoring import demo, prometheus


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m monitoring", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("write", help="write the rules and the dashboard")
    run = commands.add_parser("run", help="run Prometheus with the rules, watching servers")
    run.add_argument(
        "--url", nargs="+", default=["http://localhost:8000"], help="the server, or several (default: %(default)s)"
    )
    run.add_argument("--port", type=int, default=9090, help="where Prometheus listens (default: %(default)s)")
    run.add_argument("--window", default="1h", help="the window in which drift is judged (default: %(default)s)")
    run.add_argument("--hold", default="10m", help="how long drift must last for an alert (default: %(default)s)")
    run.add_argument("--interval", default="5s", help="how often it scrapes and evaluates (default: %(default)s)")
    run.add_argument("--folder", type=Path, help="keep what is collected there (default: a temporary folder)")
    traffic = commands.add_parser("demo", help="send a day of traffic with a drift to a server, and say where to look")
    traffic.add_argument("--url", help="the server (default: one that is started, with a prediction log of its own)")
    traffic.add_argument("--store", default="store", help="the store of that server (default: %(default)s)")
    traffic.add_argument("--seconds", type=_seconds, default=60, help="how long the day takes (default: %(default)s)")
    traffic.add_argument("--seed", type=int, default=7, help="which rows are drawn, and when (default: %(default)s)")
    traffic.add_argument(
        "--exit", action="store_true", help="stop the server at the end, in place of waiting for Ctrl-C"
    )
    options = parser.parse_args(arguments)
    if options.command == "write":
        return write()
    if options.command == "demo":
        return demo.main(
            url=options.url, store=options.store, seconds=options.seconds, seed=options.seed, stays=not options.exit
        )
    return prometheus.main(
        options.url,
        port=options.port,
        window=options.window,
        hold=options.hold,
        interval=options.interval,
        folder=options.folder,
    )


def _seconds(text: str) -> int:
    """Parse how long a day takes: with fewer seconds the alerts have no time to fire."""
    if not text.isdecimal() or not 8 <= int(text) <= 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 8 to 86400")
    return int(text)


def write() -> int:
    """Write the generated files and name those that changed."""
    from monitoring import files  # here, since it needs packages that `run` does not

    for path, text in files.generated().items():
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(path.relative_to(files.ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
