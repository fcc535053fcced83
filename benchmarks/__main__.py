"""make bench: the engine, the cost of each step of a request, and the service compared with its peers."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.contenders import CONTENDERS, ROOT
from benchmarks.machine import machine
from benchmarks.report import render
from benchmarks.side_by_side import run, save

# Each in its own process, since imports and settings of one would influence the next.
IN_A_PROCESS = {"engine": "benchmarks.engine", "breakdown": "benchmarks.breakdown"}
SIDE_BY_SIDE = "side-by-side"
PARTS = [*IN_A_PROCESS, SIDE_BY_SIDE]


def main() -> None:
    """Run the chosen parts and print the results as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    chosen = parser.add_argument_group(SIDE_BY_SIDE)
    names = ", ".join(CONTENDERS)
    chosen.add_argument("--only", nargs="+", choices=CONTENDERS, default=CONTENDERS, metavar="NAME", help=names)
    chosen.add_argument("--rounds", type=int, default=3, help="rounds, in which the contenders take turns (default: 3)")
    chosen.add_argument("--seconds", type=int, default=2, help="seconds per step of load (default: 2)")
    chosen.add_argument("--no-install", action="store_true", help="measure only contenders that are installed already")
    chosen.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    store = Path(os.environ.get("TABSERVE_STORE", "store")).resolve()

    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    for part in options.parts:
        print(f"\n## {part}\n", flush=True)
        if part == SIDE_BY_SIDE:
            contenders = [CONTENDERS[name] for name in options.only]
            measured = run(
                contenders,
                store=store,
                rounds=options.rounds,
                seconds=options.seconds,
                install=not options.no_install,
            )
            save(measured, options.results)
            print(render(measured))
        else:
            subprocess.run([sys.executable, "-m", IN_A_PROCESS[part], store], cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
