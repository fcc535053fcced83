"""The command line: python -m model train | list | show | verify | predict | report | pack | pull | find.

Only the commands that train or draw import the training packages, so the others run in the serving image.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from model import ModelError, NotInStoreError, SchemaError, Store, columns_from_csv
from model.store import archive
from model.store import artifact as artifacts
from model.store.mounts import find_store
from model.train.learners import LEARNERS


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 with the error on standard error, or 130 if interrupted.

    Raises `BrokenPipeError` when the reader of the output has closed the pipe.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except KeyboardInterrupt:  # no version is left behind: an incomplete one has a temporary name
        print("interrupted", file=sys.stderr)
        return 130
    except SchemaError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        if error.more:
            print("error: checking stopped here; there are more problems", file=sys.stderr)
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

    _add_train(commands.add_parser("train", help="train a model and make it the champion"))

    listing = commands.add_parser("list", help="list every model of the store with its versions")
    listing.set_defaults(run=_list)

    show = commands.add_parser("show", help="print the manifest of one version")
    show.add_argument("model", help=reference)
    show.set_defaults(run=_show)

    verify = commands.add_parser("verify", help="check every file's hash and replay the golden rows")
    verify.add_argument("model", help=reference)
    verify.set_defaults(run=_verify)

    predict = commands.add_parser("predict", help="print one prediction per line for the rows of a CSV file")
    predict.add_argument("model", help=reference)
    predict.add_argument("table", nargs="?", type=Path, help="CSV file with a header (default: standard input)")
    predict.add_argument(
        "--ignore-unknown", action="store_true", help="ignore columns that the model does not know, up to 20"
    )
    predict.set_defaults(run=_predict)

    report = commands.add_parser("report", help="write the drift and live errors of a model to one HTML file")
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
    pack.add_argument("file", type=Path, help="the archive, a .tar.gz; the same version gives the same bytes")
    pack.set_defaults(run=_pack)

    pull = commands.add_parser("pull", help="download an archive, verify it and add its models to the store")
    pull.add_argument("url", help="a .tar.gz of one version or of a store: http, https or file")
    pull.add_argument("--sha256", metavar="HEX", help="expected SHA-256 of the archive; empty: not checked")
    pull.add_argument("--alias", help="alias of the version (default: champion; an archive of a store has its own)")
    pull.add_argument(
        "--max-bytes",
        type=int,
        default=archive.MAX_DOWNLOAD_BYTES,
        help="largest archive that is downloaded (default: %(default)s)",
    )
    pull.add_argument(
        "--max-unpacked-bytes",
        type=int,
        default=archive.MAX_UNPACKED_BYTES,
        help="largest size that it may unpack to (default: %(default)s)",
    )
    pull.add_argument(
        "--max-seconds",
        type=float,
        default=archive.MAX_SECONDS,
        help="longest time for the whole download, DNS included (default: %(default)s)",
    )
    pull.set_defaults(run=_pull)

    find = commands.add_parser("find", help="print the first folder with a model, or the one folder in it with one")
    find.add_argument("path", nargs="+", type=Path, help="a store, an artifact, or a folder with exactly one of these")
    find.set_defaults(run=_find)
    return parser


def _add_train(train: argparse.ArgumentParser) -> None:
    train.add_argument("name", help="the data set, which is also the model's name: boston-housing or height-weight")
    train.add_argument(
        "--notebook", action="store_true", help="train with the data set's notebook, which is kept in the artifact"
    )
    train.add_argument("--data", type=Path, help="another table with the same columns (CSV)")
    train.add_argument("--algorithm", choices=tuple(LEARNERS), help="what to fit (default: the data set's)")
    train.add_argument("--random-state", type=int, default=7, help="seed of the split and the fit (default: 7)")
    train.add_argument("--owner", default="", help="who is responsible for the model; a tag in the manifest")
    for name, learner in LEARNERS.items():
        group = train.add_argument_group(f"{name}, {learner.title}")
        for option, details in learner.options.items():
            group.add_argument(f"--{option.replace('_', '-')}", default=argparse.SUPPRESS, **details)
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from model.train import recipe
    from model.train.tables import DATASETS

    if options.name not in DATASETS:
        raise ValueError(f"there is no data set {options.name!r}; choose one of: {', '.join(DATASETS)}")
    default_algorithm = DATASETS[options.name].algorithm
    algorithm = options.algorithm or default_algorithm
    if options.notebook and algorithm != default_algorithm:
        raise ValueError(
            f"the notebook of {options.name} trains the {default_algorithm}; leave out --notebook for the {algorithm}"
        )
    algorithm_options = {}
    for name, learner in LEARNERS.items():
        for option in vars(options).keys() & learner.options.keys():
            if name != algorithm:
                flag = f"--{option.replace('_', '-')}"
                raise ValueError(f"{flag} is an option of the {name}; leave it out for the {algorithm}")
            algorithm_options[option] = getattr(options, option)
    common = {"data": options.data, "random_state": options.random_state, "owner": options.owner}
    if options.notebook:
        draft = recipe.draft_from_notebook(options.name, algorithm_options, **common)
    else:
        draft = recipe.draft(options.name, algorithm_options, algorithm=algorithm, **common)
    path = Store(options.store).add(options.name, draft)
    if "checkpoint" in algorithm_options:
        algorithm_options["checkpoint"].unlink(missing_ok=True)  # the artifact has replaced it
    model = artifacts.load(path)
    metrics = model.manifest["metrics"]["validation"]
    print(f"{model.name} version {model.version}: validation MSE {metrics['mse']:.2f}, written to {path}")


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
    manifest, _ = artifacts.read(Store(options.store).find(options.model), {})
    print(artifacts.to_json(manifest).decode(), end="")


def _verify(options: argparse.Namespace) -> None:
    model = Store(options.store).load(options.model)
    nearness = f"within {model.tolerance:g}" if model.tolerance else "to the last bit"
    print(
        f"{model.name} version {model.version}: {len(model.manifest['files'])} files unchanged, "
        f"{len(model.golden_rows)} golden rows answered {nearness}"
    )


def _predict(options: argparse.Namespace) -> None:
    model = Store(options.store).load(options.model)
    try:
        table = options.table.read_bytes() if options.table else sys.stdin.buffer.read()
        columns, _ = columns_from_csv(table.decode("utf-8"), names=model.schema.names)
    except ValueError as error:
        raise ValueError(f"{options.table or 'standard input'} is not a CSV table in UTF-8: {error}") from None
    schema = replace(model.schema, ignore_unknown=options.ignore_unknown)
    for value in model.predict(schema.matrix_from_columns(columns)).tolist():
        print(value)


def _report(options: argparse.Namespace) -> None:
    from model.live import report
    from model.live.prediction_log import PredictionLog

    model = Store(options.store).load(options.model)
    with closing(PredictionLog(options.log, read_only=True)) as log:
        for _, sentence in report.write(model, log, options.output, days=options.days):
            print(sentence)
    print(f"{model.name} version {model.version}: written to {options.output}")


def _pack(options: argparse.Namespace) -> None:
    print(f"{archive.pack(Store(options.store), options.model, options.file)}  {options.file}")


def _pull(options: argparse.Namespace) -> None:
    versions = archive.pull(
        Store(options.store),
        options.url,
        sha256=options.sha256,
        alias=options.alias,
        max_download_bytes=options.max_bytes,
        max_unpacked_bytes=options.max_unpacked_bytes,
        max_seconds=options.max_seconds,
    )
    for path, is_new in versions.items():
        print(f"{path.parent.name} version {path.name}: {'verified, now' if is_new else 'already'} in {path}")


def _find(options: argparse.Namespace) -> None:
    path = find_store(options.path)
    if path is None:
        raise NotInStoreError(
            f"there is no model in {', '.join(map(str, options.path))}: one of them should be a store (with "
            "NAME/VERSION/manifest.json), an artifact (with manifest.json), or hold exactly one of these"
        )
    print(path)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # end silently by SIGPIPE, as other tools do
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.raise_signal(signal.SIGPIPE)
