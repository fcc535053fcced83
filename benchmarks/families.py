"""Each family of trees, compiled by Tabserve and by converters: rows that differ from the library, and time per row.

Each model is fitted, converted and measured in a process of its own (`peers/converters/measure.py`), in the environment
of the converters. The table is simulated and has numbers alone, since the converters take nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import PEERS, ROOT
from benchmarks.families_report import Measured, Results, render
from benchmarks.machine import machine
from benchmarks.servers import ContenderError, last_line, make_environment
from benchmarks.trees import FAMILIES, SIZES, TASKS

ENVIRONMENT = "converters"
RESULTS = "families.json"
# Every library with one thread, as Tabserve's engine has.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def run(
    chosen: Sequence[tuple[str, str, str]],
    folder: Path,
    *,
    kept: Sequence[Measured] = (),
    n_random: int,
    rounds: int,
    install: bool,
) -> Results:
    """Measure models, each given as family, task and size, and add them to `kept`; save what is there after each.

    Raises `ContenderError` without the environment.
    """
    requirements = PEERS / ENVIRONMENT / "requirements.txt"
    python = make_environment(ENVIRONMENT, "the converters", requirements, install=install) / "bin" / "python"
    pins = requirements.read_text() + requirements.with_name("without-dependencies.txt").read_text()
    versions = dict(re.findall(r"^(skl2onnx|onnxmltools|treelite|hummingbird-ml|torch)==(\S+)", pins, re.MULTILINE))
    results = Results(machine(), rounds, versions, list(kept))
    for turn, (family, task, size) in enumerate(chosen):
        print(f"{turn + 1} of {len(chosen)}: {family}, {task}, {size}", file=sys.stderr, flush=True)
        command = [str(python), str(PEERS / ENVIRONMENT / "measure.py"), family, task, size, str(n_random), str(rounds)]
        environ = {**os.environ, **_ONE_THREAD, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
        if done.returncode:
            results.models.append(Measured(family, task, size, problem=last_line(done.stderr)))
        else:
            results.models.append(Measured.parse(json.loads(done.stdout.splitlines()[-1])))
        save(results, folder)
    return results


def save(results: Results, folder: Path) -> None:
    """Write the results into a folder: as JSON and as tables."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / RESULTS)
    (folder / "families.md").write_text(render(results))


def main() -> None:
    """Measure the chosen models, write the results and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.families", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", choices=FAMILIES, default=FAMILIES, metavar="FAMILY", help=", ".join(FAMILIES)
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS, metavar="TASK", help=", ".join(TASKS))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=SIZES, metavar="SIZE", help=", ".join(SIZES))
    parser.add_argument(
        "--rows", type=int, default=50_000, help="random rows, and most rows at splits (default: 50,000)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds, in which all ways take turns (default: 5)")
    parser.add_argument("--keep", action="store_true", help="keep the models that are in the results already")
    parser.add_argument("--no-install", action="store_true", help="fail where the converters are not installed")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    chosen = [
        (family, task, size)
        for family in options.only
        for task in FAMILIES[family].tasks
        for size in SIZES
        if task in options.tasks and size in options.sizes
    ]
    kept = Results.read(options.results / RESULTS).models if options.keep else []
    try:
        results = run(
            chosen,
            options.results,
            kept=[each for each in kept if (each.family, each.task, each.size) not in chosen],
            n_random=options.rows,
            rounds=options.rounds,
            install=not options.no_install,
        )
    except ContenderError as error:
        raise SystemExit(f"the converters cannot be measured: {error}") from None
    print(render(results))


if __name__ == "__main__":
    main()
