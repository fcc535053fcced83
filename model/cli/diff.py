"""The command that says how two versions differ, and the lines about their answers, which promotion prints, too."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from model import Artifact, Matrix, ModelError, Schema, SchemaError, columns_from_csv
from model.cli.arguments import REFERENCE, Commands, store_of
from model.store import differences
from model.store.differences import Answers, translated


def add_diff(commands: Commands) -> None:
    """Declare the command `diff`."""
    diff = commands.add_parser("diff", help="say how two versions differ: schema, model, data, metrics, answers")
    diff.add_argument("old", help=REFERENCE)
    diff.add_argument("new", help="the other one")
    diff.add_argument("--data", type=Path, metavar="TABLE", help="compare the answers to these rows, too (CSV, header)")
    diff.set_defaults(run=_diff)


def _diff(options: argparse.Namespace) -> None:
    store = store_of(options)
    old, new = store.load(options.old), store.load(options.new)
    facts = list(differences.facts(old.manifest.document, new.manifest.document))
    found = golden(old, new)
    if options.data:
        found[str(options.data)] = _compared(old, new, _reader(options.data))
    for part, line in facts or [("facts", "the same schema, model, data and metrics")]:
        print(f"{part:<8} {line}")
    print_answers(found)


def name_of(model: Artifact) -> str:
    """Return the reference of a version by its number."""
    return f"{model.name}@{model.version}"


def golden(old: Artifact, new: Artifact) -> dict[str, Answers | str]:
    """Return how answers change for the golden rows of each of two versions, or why they cannot be compared.

    Some of these rows are at the limits of what a version accepts. Those that the other version refuses are left out.
    """
    found = {}
    for model, other in ((old, new), (new, old)):
        X = model.golden_rows
        accepted = X[[_is_accepted(X[[row]], model.schema, other.schema) for row in range(len(X))]]
        n_refused = len(X) - len(accepted) if len(accepted) else 0  # if it refuses all, it is said why
        but = f", without {n_refused} that {name_of(other)} refuses" if n_refused else ""
        found[f"golden rows of {name_of(model)}{but}"] = rows_of(accepted if len(accepted) else X, model, old, new)
    return found


def _is_accepted(X: Matrix, old: Schema, new: Schema) -> bool:
    try:
        translated(X, old, new)
    except SchemaError:
        return False
    return True


def rows_of(X: Matrix, model: Artifact, old: Artifact, new: Artifact) -> Answers | str:
    """Return how answers change for rows `(n_rows, n_features)` of a model's schema, or why nobody can say."""
    return _compared(old, new, lambda schema: translated(X, model.schema, schema))


def print_answers(found: Mapping[str, Answers | str]) -> None:
    """Print a line for each set of rows whose answers were compared."""
    for where, each in found.items():
        print(f"answers  {where}: {each}")


def _compared(old: Artifact, new: Artifact, rows: Callable[[Schema], Matrix]) -> Answers | str:
    try:
        return differences.answers(old, rows(old.schema), new, rows(new.schema))
    except ModelError as error:
        return f"not compared: {error}"


def _reader(path: Path) -> Callable[[Schema], Matrix]:
    """Return what reads a CSV table by a schema; other columns are left out."""
    text = path.read_bytes()

    def read(schema: Schema) -> Matrix:
        try:
            columns, _ = columns_from_csv(text.decode("utf-8"), names=schema.names, parsers=schema.parsers)
        except ValueError as error:
            raise ValueError(f"{path} is not a CSV table in UTF-8: {error}") from None
        return schema.matrix_from_columns({name: columns[name] for name in schema.names if name in columns})

    return read
