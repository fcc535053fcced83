"""The commands about a store: list, show, verify, find."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model import NotInStoreError, Store
from model.cli.arguments import REFERENCE, Commands
from model.store import artifact
from model.store.mounts import find_store


def add_list(commands: Commands) -> None:
    """Declare the command `list`."""
    listing = commands.add_parser("list", help="list every model of the store with its versions")
    listing.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    store = Store(options.store)
    if not store.names():
        print(f"the store {store.root} has no model; train one: python -m model train boston-housing", file=sys.stderr)
    for name in store.names():
        aliases = store.aliases(name)
        for version in store.versions(name):
            marks = " ".join(alias for alias, aliased in sorted(aliases.items()) if aliased == version)
            print(f"{name}@{version} {marks}".rstrip())


def add_show(commands: Commands) -> None:
    """Declare the command `show`."""
    show = commands.add_parser("show", help="print the manifest of one version")
    show.add_argument("model", help=REFERENCE)
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> None:
    document, _ = artifact.read(Store(options.store).find(options.model), {})
    print(artifact.to_json(document).decode(), end="")


def add_verify(commands: Commands) -> None:
    """Declare the command `verify`."""
    verify = commands.add_parser("verify", help="check every file's hash and replay the golden rows")
    verify.add_argument("model", help=REFERENCE)
    verify.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> None:
    model = Store(options.store).load(options.model)
    nearness = f"within {model.tolerance:g}" if model.tolerance else "to the last bit"
    print(
        f"{model.name} version {model.version}: {len(model.manifest.files)} files unchanged, "
        f"{len(model.golden_rows)} golden rows answered {nearness}"
    )


def add_find(commands: Commands) -> None:
    """Declare the command `find`."""
    find = commands.add_parser("find", help="print the first folder with a model, or the one folder in it with one")
    find.add_argument("path", nargs="+", type=Path, help="a store, an artifact, or a folder with exactly one of these")
    find.set_defaults(run=_find)


def _find(options: argparse.Namespace) -> None:
    path = find_store(options.path)
    if path is None:
        raise NotInStoreError(
            f"there is no model in {', '.join(map(str, options.path))}: one of them should be a store (with "
            "NAME/VERSION/manifest.json), an artifact (with manifest.json), or hold exactly one of these"
        )
    print(path)
