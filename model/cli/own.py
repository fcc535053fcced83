"""The command that takes in a fitted model of one's own."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from model.cli.arguments import Commands, add_words, given, store_of
from model.store import runs


def add_import(commands: Commands) -> None:
    """Declare the command `import`."""
    own = commands.add_parser(
        "import",
        help="compile a fitted model from a file, prove it equal, and write it as the candidate",
        description="A pickle (.joblib, .pkl) runs the code that is in it: import only files that you trust. It is "
        "opened by this command alone and never by a server.",
    )
    own.add_argument(
        "file",
        help="the fitted model: .joblib, .pkl, .skops, XGBoost's .json or .ubj, LightGBM's .txt, CatBoost's .cbm, "
        ".onnx, or what MLflow keeps, such as mlflow:models:/prices@champion",
    )
    own.add_argument("--name", required=True, help="the model's name in the store: lower-case letters, digits, dashes")
    own.add_argument("--data", type=Path, required=True, help="the table that it was fitted on (CSV with a header)")
    own.add_argument("--target", required=True, help="the column that it predicts")
    own.add_argument(
        "--as",
        dest="types",
        metavar="COLUMN=TYPE",
        action="append",
        default=[],
        type=_type,
        help="what a column of the table is to the model, where that is not as it looks: text, category or date; may "
        "be given several times",
    )
    own.add_argument("--holdout", type=Path, help="rows that it was not fitted on (CSV): the card says how good it is")
    add_words(own)
    own.add_argument(
        "--engine",
        choices=("exact", "onnx"),
        default="exact",
        help="onnx: let a general converter do what cannot be compiled, and mark the model so",
    )
    own.add_argument(
        "--tolerance",
        type=float,
        default=1e-6,
        help="with --engine onnx, how far answers may be apart, as a share of their range (default: %(default)g)",
    )
    own.set_defaults(run=_import)


def _type(text: str) -> tuple[str, str]:
    """Return the column and the type in COLUMN=TYPE."""
    column, equals, kind = text.rpartition("=")
    if not equals or kind not in ("text", "category", "date"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a column with a type, such as zip=text, zone=category or sold=date"
        )
    return column, kind


def _import(options: argparse.Namespace) -> None:
    from model.train import model_files, model_table, own_model

    store = store_of(options)
    with runs.recording(store, options.name, runs.IMPORT, parameters=given(options)) as run:
        run.add(data={"source": str(options.data)})
        if model_files.runs_code(options.file):
            print(f"opening  {options.file}, which runs the code in it; no server opens it", file=sys.stderr)
        fitted = model_files.load(options.file)
        read = partial(model_table.read, fitted=fitted, target=options.target, types=dict(options.types))
        X, y = read(options.data)
        holdout = read(options.holdout, like=X) if options.holdout else None
        texts = own_model.Texts(
            name=options.name,
            title=options.title,
            target="",
            unit=options.unit,
            source=options.data.name,
            owner=options.owner,
            license=options.license,
            purpose=options.purpose,
            limits=options.limits,
        )
        model = own_model.add(
            fitted, X, y, texts, holdout=holdout, store=store, engine=options.engine, tolerance=options.tolerance
        )
        run.add_version(model.manifest.document)
