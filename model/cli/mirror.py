"""The command `mirror`: a copy, in a folder, of what servers need of a store behind a URL."""

from __future__ import annotations

import argparse
import select
import sys
from collections.abc import Sequence

from model.cli.arguments import Commands, count
from model.errors import ModelError, StoreError, one_line
from model.store.urls import missing_package, shown


def add_mirror(commands: Commands) -> None:
    """Declare the command `mirror`."""
    mirror = commands.add_parser(
        "mirror",
        help="keep a folder with the verified versions that servers need of a store behind a URL",
        description="Brings here the moves of a model with the versions that are wanted of it, verified, and prints "
        "the folder, which is a store. The version named first for a model is the one that answers; if it cannot be "
        "brought here, the last state stays. Any other version that cannot be is left out. The exit status is 1 if "
        "anything could not be brought here, or is not in the store. A server with a URL as its store does this by "
        "itself.",
    )
    mirror.add_argument("model", nargs="*", help="NAME, NAME@ALIAS or NAME@VERSION (default: every champion)")
    mirror.add_argument("--every", type=count, metavar="SECONDS", help="go on, and look for new moves this often")
    mirror.add_argument("--signatures", action="store_true", help="also look for signatures that were made later")
    mirror.add_argument("--until-eof", action="store_true", help="with --every: end when the standard input ends")
    mirror.set_defaults(run=_mirror)


def _mirror(options: argparse.Namespace) -> int:
    if not isinstance(options.store, str):
        raise ValueError(f"{options.store} is a folder, which needs no mirror; name a URL with --store")
    try:
        from model.store.remote import RemoteStore, mirror
    except ImportError:
        raise missing_package(options.store) from None
    store: RemoteStore | None = None
    said = None
    problems: Sequence[ModelError]
    while True:
        try:
            store = store or RemoteStore.at(options.store, options.cache, is_mirror=True)
            problems = mirror(store, options.model, signatures=options.signatures)
        except StoreError as error:  # a provider's settings may be repaired, too
            problems = [error]
        lines = [f"problem {one_line(str(problem))}" for problem in problems]
        if lines != said:  # only what is news
            print("\n".join(lines or [f"mirrored {shown(options.store)} in {store.root if store else ''}"]), flush=True)
            said = lines
        if not options.every:
            return 1 if problems else 0
        if select.select([sys.stdin] if options.until_eof else [], [], [], options.every)[0]:
            return 0
