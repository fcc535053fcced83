"""Bulk scoring: a table in, the same table with a column of predictions out, side by side in one run.

Each way is a process of its own (`peers/bulk/ways.py`; ours is `python -m model predict`). The table has the six
columns of the example's model, each drawn from its values. Every cell of every column is compared with the bits that it
should have. Memory is the proportional share of all processes of a way together, looked at ten times a second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as parquet

from benchmarks.contenders import MODEL, ROOT
from benchmarks.figures import Figures
from benchmarks.machine import machine
from benchmarks.servers import ContenderError, last_line, make_environment
from benchmarks.tables import read
from model import Artifact, Matrix, Store

RESULTS = Path(__file__).with_name("results")
REQUIREMENTS = ROOT / "benchmarks" / "peers" / "bulk" / "requirements.txt"
OURS, PANDAS = "tabserve", "pandas"
TITLES = {
    OURS: "Tabserve: `python -m model predict`",
    PANDAS: "pandas with the fitted pipeline",
    "mlflow": "MLflow's `pyfunc`, with pandas",
    "polars": "Polars streaming, with our engine",
    "duckdb": "DuckDB, with our engine as a function",
    "polars-alone": "Polars, from file to file",
    "duckdb-alone": "DuckDB, from file to file",
    "pyarrow-alone": "pyarrow, from file to file",
}
FORMATS = ("csv", "parquet")
N_TREES = 400  # as the example; scikit-learn's default is 100
CHUNK_ROWS = 1_000_000
LOOK_SECONDS = 0.1
LIMIT_SECONDS = 1_800


@dataclass
class Run:
    """One way with one table: the seconds, the peak of memory, how many cells are other than they should be."""

    way: str
    format: str
    rows: int
    seconds: float = 0.0
    peak_mib: float = 0.0
    n_different: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """All runs, and the machine that they were on."""

    environment: dict[str, str]
    runs: list[Run]

    @classmethod
    def read(cls, file: Path) -> Results:
        """Return the results that `write` wrote."""
        document = json.loads(file.read_text())
        return cls(document["environment"], [Run(**each) for each in document["runs"]])


def rows_like(names: Sequence[str], n_rows: int, seed: int) -> Matrix:
    """Return `(n_rows, 6)`, each column drawn from the values of the example's table; rooms have any three digits."""
    features, _ = read(MODEL)
    rng = np.random.default_rng(seed)
    columns = [rng.choice(features[name].to_numpy(), n_rows) for name in names]
    rooms = list(names).index("RM")
    columns[rooms] = rng.integers(4_000, 8_500, n_rows) / 1_000
    return np.column_stack(columns)


def chunks(names: Sequence[str], n_rows: int) -> list[tuple[int, int]]:
    """Return the seed and the rows of each part of a table."""
    return [(seed, min(CHUNK_ROWS, n_rows - start)) for seed, start in enumerate(range(0, n_rows, CHUNK_ROWS))]


def batch(names: Sequence[str], X: Matrix) -> pa.RecordBatch:
    """Return rows as a person's table has them: whole numbers are integers."""
    arrays = [pa.array(column.astype(np.int64) if (column % 1 == 0).all() else column) for column in X.T]
    return pa.record_batch(arrays, names=list(names))


def write_table(names: Sequence[str], n_rows: int, folder: Path) -> dict[str, Path]:
    """Write a table in every format, and return the files."""
    files = {format: folder / f"in.{format}" for format in FORMATS}
    schema = batch(names, rows_like(names, 1_000, 0)).schema
    with csv.CSVWriter(files["csv"], schema) as texts, parquet.ParquetWriter(files["parquet"], schema) as columns:
        for seed, rows in chunks(names, n_rows):
            piece = batch(names, rows_like(names, rows, seed))
            texts.write_batch(piece)
            columns.write_batch(piece)
    return files


def count_different(model: Artifact, output: Path, n_rows: int, *, is_answered: bool) -> int:
    """Return how many cells of an output have other bits than the table's cells and the model's answers."""
    names = list(model.schema.names)
    wanted = [*names, "prediction"] if is_answered else names
    if output.suffix == ".parquet":
        pieces = iter(parquet.ParquetFile(output).iter_batches(columns=wanted))
    else:
        types = dict.fromkeys(wanted, pa.float64())
        pieces = iter(
            csv.open_csv(output, convert_options=csv.ConvertOptions(column_types=types, include_columns=wanted))
        )
    parts = (
        np.column_stack([column.cast(pa.float64()).to_numpy(zero_copy_only=False) for column in piece.columns])
        for piece in pieces
    )
    left = np.empty((0, len(wanted)))
    n_different = 0
    for seed, rows in chunks(names, n_rows):
        while len(left) < rows and (part := next(parts, None)) is not None:
            left = np.concatenate([left, part])
        X = rows_like(names, rows, seed)
        expected = np.column_stack([X, model.predict(X)]) if is_answered else X
        found, left = left[:rows], left[rows:]
        if found.shape != expected.shape:
            return n_rows * len(wanted)
        n_different += int((found.view(np.uint64) != expected.view(np.uint64)).sum())
    return n_different + left.size


def measure(command: Sequence[str], folder: Path) -> tuple[float, float, str]:
    """Run a way and return the seconds, the peak of memory in MiB, and the reason if it failed."""
    log = folder / "log"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as output:
        started = time.monotonic()
        process = psutil.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        peak = 0.0
        while process.poll() is None and time.monotonic() < started + LIMIT_SECONDS:
            peak = max(peak, pss_mib(process))
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - started
    if process.poll() is None:
        for each in [*process.children(recursive=True), process]:
            each.kill()
        return seconds, peak, f"took more than {LIMIT_SECONDS:,} s"
    return seconds, peak, last_line(log.read_text()) if process.returncode else ""


def pss_mib(process: psutil.Process) -> float:
    """Return the proportional share of a process and all below it."""
    total = 0
    try:
        for each in [process, *process.children(recursive=True)]:
            text = Path(f"/proc/{each.pid}/smaps_rollup").read_text()
            total += int(text.partition("Pss:")[2].split()[0])
    except (OSError, IndexError, psutil.Error):  # ended meanwhile
        pass
    return total / 1024


def train(store: Path, n_trees: int) -> Path:
    """Train the example with so many trees, and return the store."""
    options = ["--n-estimators", str(n_trees)]
    command = [sys.executable, "-m", "model", "--store", str(store), "train", MODEL, *options]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return store


def command_of(way: str, python: Path, store: Path, artifact: Path, source: Path, target: Path) -> list[str]:
    """Return the command of a way."""
    if way == OURS:
        ours = [sys.executable, "-m", "model", "--store", str(store), "predict", MODEL]
        return [*ours, str(source), str(target)]
    return [str(python), str(REQUIREMENTS.with_name("ways.py")), way, str(artifact), str(source), str(target)]


def run(
    ways: Sequence[str], sizes: Sequence[int], formats: Sequence[str], *, store: Path, python: Path, folder: Path,
    done: Callable[[Run], None],
) -> None:  # fmt: skip
    """Measure each way with each table, all with one table before the next."""
    model = Store(store).load(MODEL)
    for n_rows in sizes:
        files = write_table(model.schema.names, n_rows, folder)
        for format in formats:
            for way in ways:
                target = folder / f"out.{format}"
                found = Run(way, format, n_rows)
                command = command_of(way, python, store, model.path, files[format], target)
                found.seconds, found.peak_mib, found.problem = measure(command, folder)
                if not found.problem:
                    is_answered = not way.endswith("-alone")
                    found.n_different = count_different(model, target, n_rows, is_answered=is_answered)
                target.unlink(missing_ok=True)
                done(found)


def render(results: Results) -> str:
    """Return the results as Markdown, a table for each format and size."""
    lines = [
        "# Bulk scoring",
        "",
        "A table in, the same table with a column of predictions out; made by `make bench-bulk`.",
        "",
    ]
    lines += [f"- {name}: {value}" for name, value in results.environment.items()]
    runs = results.runs
    for format, rows in dict.fromkeys((each.format, each.rows) for each in runs):
        group = [each for each in runs if (each.format, each.rows) == (format, rows)]
        pandas = next((each for each in group if each.way == PANDAS and not each.problem), None)
        lines += ["", f"## {rows:,} rows, {format}", ""]
        lines += ["| way | seconds | rows a second | times pandas | peak memory, MiB | cells with other bits |"]
        lines += ["|---|---|---|---|---|---|"]
        for each in group:
            if each.problem:
                lines.append(f"| {TITLES[each.way]} | not measured: {each.problem} | | | | |")
                continue
            ratio = f"{pandas.seconds / each.seconds:.1f}" if pandas else ""
            speed = f"{rows / each.seconds:,.0f}"
            cells = [
                TITLES[each.way],
                f"{each.seconds:.1f}",
                speed,
                ratio,
                f"{each.peak_mib:,.0f}",
                f"{each.n_different:,}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "pylignum 0.3.0 is not beside these: it reads models of LightGBM, XGBoost and CatBoost alone, and this",
    ]
    lines += ["one is scikit-learn's."]
    return "\n".join(lines) + "\n"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write a picture: rows a second and peak memory of each way, for each table."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((each.format, each.rows) for each in runs))
    figure = Figure(figsize=(11, 2.6 * len(groups)), layout="constrained")
    axes: Any = figure.subplots(len(groups), 2, squeeze=False)
    for (left, right), (format, rows) in zip(axes, groups):
        group = [each for each in runs if (each.format, each.rows) == (format, rows) and not each.problem][::-1]
        names = [TITLES[each.way].replace("`", "") for each in group]
        colours = ["tab:blue" if each.way == OURS else "tab:gray" for each in group]
        left.barh(names, [rows / each.seconds / 1e6 for each in group], color=colours)
        left.set(title=f"{rows:,} rows, {format}", xlabel="million rows a second")
        right.barh(names, [each.peak_mib for each in group], color=colours)
        right.set(xlabel="peak memory, MiB", yticks=[])
    figure.savefig(path, dpi=110)


def save(results: Results, folder: Path) -> None:
    """Write the results as JSON, as tables and as a picture."""
    folder.mkdir(parents=True, exist_ok=True)
    results.write(folder / "bulk.json")
    (folder / "bulk.md").write_text(render(results))
    draw(results.runs, folder / "bulk.png")


def main() -> None:
    """Measure what the options select, and write the results after each run."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.bulk", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--trees", type=int, default=N_TREES, help="of the model (default: 400)")
    parser.add_argument(
        "--only", nargs="+", choices=TITLES, default=list(TITLES), metavar="WAY", help=", ".join(TITLES)
    )
    parser.add_argument("--rows", nargs="+", type=int, default=[2_000_000, 10_000_000], help="sizes of the table")
    parser.add_argument("--formats", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--results", type=Path, default=RESULTS, help="the folder of the results")
    parser.add_argument("--no-install", action="store_true", help="fail where the environment is not installed")
    options = parser.parse_args()
    python = Path(sys.executable)
    try:
        if options.only != [OURS]:
            environment = make_environment("bulk", "the ways", REQUIREMENTS, install=not options.no_install)
            python = environment / "bin" / "python"
    except ContenderError as error:
        raise SystemExit(f"the ways cannot be measured: {error}") from None
    results = Results({**machine(), "model": f"the example's, with {options.trees} trees"}, [])

    def done(found: Run) -> None:
        results.runs.append(found)
        save(results, options.results)
        result = found.problem or f"{found.seconds:.1f} s, {found.peak_mib:,.0f} MiB, {found.n_different} cells differ"
        print(f"{found.rows:,} rows, {found.format}, {found.way}: {result}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tabserve-bulk-") as folder:
        store = train(Path(folder) / "store", options.trees)
        run(
            options.only, options.rows, options.formats, store=store, python=python,
            folder=Path(folder), done=done,
        )  # fmt: skip
    print((options.results / "bulk.md").read_text())


if __name__ == "__main__":
    main()
