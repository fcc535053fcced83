"""The command that predicts the rows of a table."""

from __future__ import annotations

import argparse
import csv
import sys
from dataclasses import replace
from pathlib import Path

from model import Store, columns_from_csv
from model.cli.arguments import REFERENCE, Commands


def add_predict(commands: Commands) -> None:
    """Declare the command `predict`."""
    predict = commands.add_parser("predict", help="print one prediction or label per line for the rows of a CSV file")
    predict.add_argument("model", help=REFERENCE)
    predict.add_argument("table", nargs="?", type=Path, help="CSV file with a header (default: standard input)")
    predict.add_argument(
        "--ignore-unknown", action="store_true", help="ignore columns that the model does not know, up to 20"
    )
    predict.add_argument(
        "--probabilities",
        action="store_true",
        help="print CSV with the label and the probability of each class instead; for a classifier",
    )
    predict.set_defaults(run=_predict)


def _predict(options: argparse.Namespace) -> None:
    model = Store(options.store).load(options.model)
    try:
        table = options.table.read_bytes() if options.table else sys.stdin.buffer.read()
        columns, _ = columns_from_csv(table.decode("utf-8"), names=model.schema.names, parsers=model.schema.parsers)
    except ValueError as error:
        raise ValueError(f"{options.table or 'standard input'} is not a CSV table in UTF-8: {error}") from None
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
