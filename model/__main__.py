"""The command line: python -m model train | list | show | verify | predict | report | pack | pull | find.

Training packages are imported only by the commands that train or draw, so that the others run in the serving image.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from model import ModelError, NotInStoreError, SchemaError, Store, columns_from_csv, transfer
from model import artifact as artifacts
from model.artifact import Draft
from model.store import find_store


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, or 1 with what is wrong on standard error."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except SchemaError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        return 1
    except (ModelError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model", description="Train, inspect and try models.")
    parser.add_argument("--store", type=Path, default=Path("store"), help="the folder of models (default: store)")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    reference = "the model: NAME, NAME@ALIAS or NAME@VERSION"

    train = commands.add_parser("train", help="train a model and make it the champion")
    train.add_argument("name", help="the data set, which is also the model's name: boston-housing")
    train.add_argument("--notebook", action="store_true", help="through the model's notebook, which the artifact keeps")
    train.add_argument("--data", type=Path, help="another table with the same columns (CSV)")
    train.add_argument("--n-estimators", type=int, default=400, help="trees of the model (default: 400)")
    train.add_argument("--random-state", type=int, default=7, help="seed of the split and the trees (default: 7)")
    train.add_argument("--owner", default="", help="who answers for the model: a tag in the manifest")
    train.set_defaults(run=_train)

    listing = commands.add_parser("list", help="every model of the store with its versions")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="the manifest of one version")
    show.add_argument("model", help=reference)
    show.set_defaults(run=_show)

    verify = commands.add_parser("verify", help="check every file's hash and replay the golden rows")
    verify.add_argument("model", help=reference)
    verify.set_defaults(run=_verify)

    predict = commands.add_parser("predict", help="answer the rows of a CSV file, a prediction a line")
    predict.add_argument("model", help=reference)
    predict.add_argument("table", nargs="?", type=Path, help="CSV with a header; without it, standard input")
    predict.set_defaults(run=_predict)

    report = commands.add_parser("report", help="write drift and live errors of a model in use to one HTML file")
    report.add_argument("model", help=reference)
    report.add_argument(
        "--log",
        metavar="URL",
        default="sqlite:///predictions.db",
        help="the prediction log: sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME (default: %(default)s)",
    )
    report.add_argument("--days", type=int, default=30, help="how far back (default: %(default)s)")
    report.add_argument("--output", type=Path, default=Path("report.html"), help="the file (default: %(default)s)")
    report.set_defaults(run=_report)

    pack = commands.add_parser("pack", help="write one version to an archive and print the archive's SHA-256")
    pack.add_argument("model", help=reference)
    pack.add_argument("file", type=Path, help="the archive: a .tar.gz, always the same for the same version")
    pack.set_defaults(run=_pack)

    pull = commands.add_parser("pull", help="download an archive, verify what is in it and put that into the store")
    pull.add_argument("url", help="a .tar.gz of one version or of a store: http, https or file")
    pull.add_argument("--sha256", metavar="HEX", help="the archive's SHA-256; another archive is refused")
    pull.add_argument("--alias", help="what to point to the version (default: champion; a store has its own)")
    pull.add_argument(
        "--max-bytes",
        type=int,
        default=transfer.MAX_DOWNLOAD_BYTES,
        help="longest archive that is downloaded (default: %(default)s)",
    )
    pull.add_argument(
        "--max-unpacked-bytes",
        type=int,
        default=transfer.MAX_UNPACKED_BYTES,
        help="most that it may unpack to (default: %(default)s)",
    )
    pull.add_argument(
        "--max-seconds",
        type=float,
        default=transfer.MAX_SECONDS,
        help="longest time that the download may take (default: %(default)s)",
    )
    pull.set_defaults(run=_pull)

    find = commands.add_parser("find", help="print the first of some folders that has a model, or the folder in it")
    find.add_argument("path", nargs="+", type=Path, help="a store, an artifact, or a folder with exactly one of these")
    find.set_defaults(run=_find)
    return parser


def _train(options: argparse.Namespace) -> None:
    from model.datasets import DATASETS

    if options.name not in DATASETS:
        raise ValueError(f"there is no data set {options.name!r}; there are: {', '.join(DATASETS)}")
    draft = _draft_from_notebook(options) if options.notebook else _draft(options)
    path = Store(options.store).add(options.name, draft)
    found = artifacts.load(path)
    figures = found.manifest["metrics"]["validation"]
    print(f"{found.name} version {found.version}: validation MSE {figures['mse']:.2f}, written to {path}")


def _draft(options: argparse.Namespace) -> Draft:
    """Train step by step, as the notebook does."""
    from model import datasets, evaluate, export, gbm, plots

    table = datasets.read(datasets.DATASETS[options.name], options.data)
    for warning in table.warnings:
        print(warning, file=sys.stderr)
    rows = evaluate.split(table.X, table.y, random_state=options.random_state)
    search = gbm.search(rows.X_train, rows.y_train, random_state=options.random_state)
    pipeline = gbm.fit(rows.X_train, rows.y_train, n_estimators=options.n_estimators, random_state=options.random_state)
    predicted = pipeline.predict(rows.X_validation)
    label = f"{table.dataset.target.name} ({table.dataset.target.unit})"
    figures = {
        "distributions": plots.distributions(table),
        "correlations": plots.correlations(table),
        "search": plots.search(search["results"]),
        "predicted_against_actual": plots.predicted_against_actual(rows.y_validation, predicted, label=label),
        "residuals": plots.residuals(rows.y_validation, predicted, label=label),
        "importance": plots.importance(tuple(table.X.columns), evaluate.importance(pipeline, rows)),
    }
    return export.draft(table, rows, pipeline, search=search, figures=figures, owner=options.owner)


def _draft_from_notebook(options: argparse.Namespace) -> Draft:
    """Let the notebook train into a store of its own, and take the artifact from there with the notebook in it."""
    from model import notebook

    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        parameters = {
            "store": store,
            "data": options.data.resolve() if options.data else "",
            "n_estimators": options.n_estimators,
            "random_state": options.random_state,
            "owner": options.owner,
        }
        executed = notebook.run(notebook.NOTEBOOKS[options.name], parameters=parameters)
        draft = artifacts.read_draft(Store(store).find(options.name))
    return replace(draft, files={**draft.files, "notebook.ipynb": executed})


def _list(options: argparse.Namespace) -> None:
    store = Store(options.store)
    if not store.names():
        print(f"the store {store.root} has no model; train one: python -m model train boston-housing", file=sys.stderr)
    for name in store.names():
        aliases = store.aliases(name)
        for version in store.versions(name):
            marks = " ".join(alias for alias, aliased in sorted(aliases.items()) if aliased == version)
            print(f"{name}@{version} {marks}".rstrip())


def _show(options: argparse.Namespace) -> None:
    manifest, _ = artifacts.read(Store(options.store).find(options.model))
    print(artifacts.to_json(manifest).decode(), end="")


def _verify(options: argparse.Namespace) -> None:
    found = Store(options.store).load(options.model)
    print(
        f"{found.name} version {found.version}: {len(found.manifest['files'])} files unchanged, "
        f"{len(found.golden_rows)} golden rows answered to the last bit"
    )


def _predict(options: argparse.Namespace) -> None:
    found = Store(options.store).load(options.model)
    try:
        text = options.table.read_text(encoding="utf-8") if options.table else sys.stdin.read()
        columns, _ = columns_from_csv(text)
    except ValueError as error:
        raise ValueError(f"{options.table or 'standard input'} is not a CSV table in UTF-8: {error}") from None
    columns.pop(found.schema.target.name, None)  # a table with the truth in it can be predicted too
    for value in found.predict(found.schema.matrix_from_columns(columns)).tolist():
        print(value)


def _report(options: argparse.Namespace) -> None:
    from model import report
    from model.prediction_log import PredictionLog

    found = Store(options.store).load(options.model)
    with closing(PredictionLog(options.log, read_only=True)) as log:
        for _, sentence in report.write(found, log, options.output, days=options.days):
            print(sentence)
    print(f"{found.name} version {found.version}: written to {options.output}")


def _pack(options: argparse.Namespace) -> None:
    print(f"{transfer.pack(Store(options.store), options.model, options.file)}  {options.file}")


def _pull(options: argparse.Namespace) -> None:
    versions = transfer.pull(
        Store(options.store),
        options.url,
        sha256=options.sha256,
        alias=options.alias,
        max_download_bytes=options.max_bytes,
        max_unpacked_bytes=options.max_unpacked_bytes,
        max_seconds=options.max_seconds,
    )
    for path, is_new in versions.items():
        print(f"{path.parent.name} version {path.name}: {'verified, and now' if is_new else 'was already'} in {path}")


def _find(options: argparse.Namespace) -> None:
    path = find_store(options.path)
    if path is None:
        raise NotInStoreError(
            f"there is no model in {', '.join(map(str, options.path))}: one of them should be a store (with "
            "NAME/VERSION/manifest.json), an artifact (with manifest.json), or hold exactly one of these"
        )
    print(path)


if __name__ == "__main__":
    sys.exit(main())
