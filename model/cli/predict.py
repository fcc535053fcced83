"""The command that predicts the rows of a table."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model import Artifact, columns_from_csv
from model.cli.arguments import REFERENCE, Commands, store_of
from model.cli.reading import add_dialect, reading
from model.schema.reading import Reading

_STANDARD_INPUT = "-"
_PLAIN_SUFFIXES = ("", ".csv")


def add_predict(commands: Commands) -> None:
    """Declare the command `predict`."""
    predict = commands.add_parser(
        "predict",
        help="print one prediction or label per line for the rows of a table",
        description="Reads a table as the one that the model was trained on: the same separator, decimal mark, dates "
        "and missing values. Columns that training left out are ignored. A cell that does not fit is an error with its "
        "row and column.",
    )
    predict.add_argument("model", help=REFERENCE)
    predict.add_argument("table", help="a file, a pattern of files, a URL, or - for standard input")
    predict.add_argument(
        "--ignore-unknown", action="store_true", help="ignore columns that the model does not know, up to 20"
    )
    predict.add_argument(
        "--probabilities",
        action="store_true",
        help="print CSV with the label and the probability of each class instead; for a classifier",
    )
    predict.add_argument(
        "--plain",
        action="store_true",
        help="the table is CSV as a server takes it (UTF-8, commas, decimal points, a header), however the model's own "
        "table was written",
    )
    add_dialect(predict, "the table's file, where it is not written as the model's own table")
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    model = store_of(options).load(options.model)
    given, known = reading(options), model.manifest.reading
    if options.plain and given:
        raise ValueError(f"--plain says how the table is written; leave out --{next(iter(given))}")
    path = Path(options.table)
    is_file = path.is_file() or not ("://" in options.table or {*"*?["} & {*options.table})
    if options.plain or (known.is_plain and not given and is_file and path.suffix.lower() in _PLAIN_SUFFIXES):
        columns = _plain_columns(model, options.table, known, advice=not options.plain)
    else:
        columns = _columns(model, options.table, known, given)
    schema = replace(model.schema, ignore_unknown=options.ignore_unknown)
    classes = model.manifest.class_names
    if options.probabilities and not classes:
        raise ValueError(f"{model.name} is a regression, which has no probabilities; leave out --probabilities")
    answers = model.predict(schema.matrix_from_columns(columns)).tolist()
    if not classes:
        for value in answers:
            print(value)
        return
    labels = [classes[int(position)] for position, *_ in answers]
    if not options.probabilities:
        for label in labels:
            print(label)
        return
    written = csv.writer(sys.stdout, lineterminator="\n")
    written.writerow([schema.target.name, *classes])
    written.writerows([label, *probabilities] for label, (_, *probabilities) in zip(labels, answers))


def _plain_columns(model: Artifact, table: str, known: Reading, *, advice: bool) -> dict[str, list[Any]]:
    """Return the cells of a CSV table as a server takes it, without the columns that training left out.

    With `advice` an error says how another table is read.
    """
    is_input = table == _STANDARD_INPUT
    try:
        content = sys.stdin.buffer.read() if is_input else Path(table).read_bytes()
        names = (*model.schema.names, *known.left_out)
        columns, _ = columns_from_csv(content.decode("utf-8"), names=names, parsers=model.schema.parsers)
    except ValueError as error:
        more = "; where it is written otherwise, say how, as by --separator or --encoding" if advice else ""
        name = "standard input" if is_input else table
        raise ValueError(f"{name} is not a CSV table in UTF-8: {error}{more}") from None
    left_out = {*known.left_out} - {*model.schema.names}
    return {name: cells for name, cells in columns.items() if name not in left_out}


def _columns(model: Artifact, table: str, known: Reading, given: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the cells of any table, which the packages of training read."""
    try:
        from model.table import rows
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{table} is read as the model's own table was, which needs the package {error.name}: pip install -r "
            "requirements.txt; or give CSV as a server takes it, and say --plain"
        ) from None
    return rows.columns_of(table, model.schema.features, model.schema.target.name, known, given)
