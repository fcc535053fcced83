"""The command that answers the rows of a table: bulk scoring."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from model.cli.arguments import REFERENCE, Commands, count, store_of
from model.cli.reading import add_dialect, reading
from model.score import FORMATS

if TYPE_CHECKING:
    from model.score.run import Progress
    from model.store.artifact import Artifact

_SECONDS_BETWEEN_LINES = 30


def add_predict(commands: Commands) -> None:
    """Declare the command `predict`."""
    predict = commands.add_parser(
        "predict",
        help="add the model's answers to the rows of a table, of any size",
        description="Writes the table with one column more, `prediction`, in the order of its rows. CSV, Parquet, "
        "Arrow and JSON lines are read and written, CSV and JSON lines compressed with gzip or zstd, too. CSV is read "
        "as the table that the model was trained on: the same separator, decimal mark, dates and missing values.",
    )
    predict.add_argument("model", help=REFERENCE)
    predict.add_argument("table", help="a file, a folder or a pattern of files, a URL, or - for standard input")
    predict.add_argument(
        "output",
        nargs="?",
        default="-",
        help="a file, whose name says its format; - for standard output; or, with / at its end, a folder or a URL in "
        "which each file of the table gets one (default: -)",
    )
    predict.add_argument(
        "--only", metavar="COLUMNS", type=_names, default=(), help="the output's columns, such as prediction,id"
    )
    predict.add_argument(
        "--column", metavar="NAME", default="prediction", help="what the column is called (default: prediction)"
    )
    predict.add_argument("--with-version", action="store_true", help="add the column model_version")
    predict.add_argument(
        "--probabilities",
        action="store_true",
        help="add a column for the probability of each class, probability_NAME; for a classifier",
    )
    predict.add_argument(
        "--interval", metavar="LEVEL", type=float, help="add the ends of prediction intervals, lower and upper"
    )
    predict.add_argument(
        "--explain",
        nargs="?",
        const="",
        metavar="METHOD",
        help="add what each feature contributed, as columns: base, contribution_NAME, residual and explained; by "
        "path_dependent or interventional (default: the model's usual one)",
    )
    predict.add_argument(
        "--rejects",
        metavar="FILE",
        default="",
        help="write rows that cannot be answered there, with the reason, and go on; without it they end the command. "
        "A folder, with / at its end, where the output is one",
    )
    predict.add_argument(
        "--resume", action="store_true", help="leave files of a folder as they are that were answered alike before"
    )
    predict.add_argument(
        "--manifest", metavar="FILE", help="write what was done there as JSON: model, digests, rows, options"
    )
    predict.add_argument(
        "--output-format", choices=FORMATS, default="", help="what the output is, where its name does not say it"
    )
    predict.add_argument("--jobs", type=count, metavar="N", help="processes (default: one for each core)")
    predict.add_argument(
        "--plain",
        action="store_true",
        help="the table is CSV as a server takes it (UTF-8, commas, decimal points, a header), however the model's own "
        "table was written",
    )
    add_dialect(predict, "the table's file, where it is not written as the model's own table")
    predict.set_defaults(run=_predict)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if len(set(names)) < len(names) or "" in names:
        raise argparse.ArgumentTypeError(f"{text!r} has an empty or repeated name; separate names by commas")
    return names


def _method(model: Artifact, asked: str | None) -> str:
    """Return the method by which answers are explained; "" for no explanations."""
    if asked is None:
        return ""
    offer = model.manifest.explanations
    return asked or (offer.methods[0] if offer else "explanations")


def _predict(options: argparse.Namespace) -> None:
    from model.score import outputs
    from model.score.answered import to_json
    from model.score.pool import n_cores
    from model.score.run import Wanted, score

    given = reading(options)
    if options.plain and given:
        raise ValueError(f"--plain says how the table is written; leave out --{next(iter(given))}")
    model = store_of(options).load(options.model)
    wanted = Wanted(
        only=options.only,
        prediction=options.column,
        version=options.with_version,
        probabilities=options.probabilities,
        interval=options.interval,
        explain=_method(model, options.explain),
        plain=options.plain,
        given=given,
        format=options.output_format,
        rejects=options.rejects,
        resume=options.resume,
        n_jobs=options.jobs or n_cores(),
    )
    with _shown() as progress:
        report = score(model, options.table, options.output, wanted, progress)
    if options.manifest:
        with outputs.whole(options.manifest) as file:
            file.write(to_json(report.as_document()) + b"\n")
    print(report.line(), file=sys.stderr if options.output == outputs.STANDARD_OUTPUT else sys.stdout)


@contextmanager
def _shown() -> Iterator[Progress]:
    """Yield what shows how far a run is: a bar in a terminal, else a line now and then."""
    if not sys.stderr.isatty():
        last = time.monotonic()
        started = last

        def note(n_rows: int, n_bytes: int, size: int | None, part: str) -> None:
            nonlocal last
            if time.monotonic() - last > _SECONDS_BETWEEN_LINES:
                last = time.monotonic()
                share = f", {n_bytes / size:.0%}" if size else ""
                print(f"{n_rows:,} rows ({n_rows / (last - started):,.0f} rows/s){share}: {part}", file=sys.stderr)

        yield note
        return
    from tqdm import tqdm

    tqdm.monitor_interval = 0  # no thread, since processes are forked
    form = "{desc} {percentage:3.0f}%|{bar}| {postfix} [{elapsed}<{remaining}]"
    with tqdm(unit="B", bar_format=form, leave=False, mininterval=0.2) as bar:

        def show(n_rows: int, n_bytes: int, size: int | None, part: str) -> None:
            bar.total = size
            bar.n = n_bytes
            rate = n_rows / bar.format_dict["elapsed"] if bar.format_dict["elapsed"] else 0
            bar.set_postfix_str(f"{n_rows:,} rows, {rate:,.0f} rows/s", refresh=False)
            bar.set_description_str(part[-40:], refresh=False)
            bar.update(0)

        yield show
