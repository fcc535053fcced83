"""The command line as a whole: its parser, and how a command ends.

Only the commands that train or draw import the training packages, so the others run in the serving image.
"""

from __future__ import annotations

import argparse
import sys
from traceback import clear_frames

from model import ModelError, SchemaError
from model.cli import (
    archive,
    check,
    compare,
    consume,
    describe,
    diff,
    features,
    join,
    key,
    life,
    mirror,
    own,
    predict,
    report,
    retrain,
    runs,
    sample,
    sign,
    store,
    train,
)
from model.cli.arguments import add_store
from model.errors import one_line


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 1 with the error on standard error, or 130 if interrupted.

    A command that judges something, such as `check`, returns 1 for a bad verdict; `compare` has a status for each.

    Raises `BrokenPipeError` when the reader of the output has closed the pipe.
    """
    options = _parser().parse_args(arguments)
    try:
        status: int | None = options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except KeyboardInterrupt as interrupt:  # no version is left behind: an incomplete one has a temporary name
        clear_frames(interrupt.__traceback__)  # closes a progress bar, which would write after the line below
        text = "; ".join(["interrupted", *getattr(interrupt, "__notes__", [])])
        print(f"\n{text}", file=sys.stderr)  # on a line of its own, behind a terminal's ^C or half a progress bar
        return 130
    except SchemaError as error:
        for problem in error.problems:
            print(f"error: {problem}", file=sys.stderr)
        if error.more:
            print("error: checking stopped here; there are more problems", file=sys.stderr)
        return 1
    except (ModelError, ValueError, OSError) as error:
        print("\n".join(map(one_line, f"error: {error}".split("\n"))), file=sys.stderr)
        return 1
    return status or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m model",
        description="Train, inspect and try models.",
        epilog="COMMAND --help explains each command; --store comes before it. A model of your own table: describe, "
        "check, train, then make run in a clone of Tabserve.",
    )
    add_store(parser)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    describe.add_describe(commands)
    check.add_check(commands)
    sample.add_sample(commands)
    join.add_join(commands)
    train.add_train(commands)
    retrain.add_retrain(commands)
    own.add_import(commands)
    store.add_list(commands)
    store.add_show(commands)
    store.add_card(commands)
    store.add_verify(commands)
    diff.add_diff(commands)
    life.add_promote(commands)
    life.add_rollback(commands)
    life.add_tag(commands)
    life.add_prune(commands)
    life.add_history(commands)
    runs.add_runs(commands)
    sign.add_sign(commands)
    key.add_keys(commands)
    features.add_features(commands)
    predict.add_predict(commands)
    consume.add_consume(commands)
    report.add_report(commands)
    compare.add_compare(commands)
    archive.add_pack(commands)
    archive.add_pull(commands)
    mirror.add_mirror(commands)
    store.add_find(commands)
    return parser
