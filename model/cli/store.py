"""The commands about a store: list, show, verify, find."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from model import ArtifactError, NotInStoreError, Store, card_of
from model.cli.arguments import REFERENCE, Commands, print_table, store_of
from model.cli.sign import add_trusted_keys, print_verified, trusted
from model.errors import StoreError, counted
from model.store import artifact
from model.store.card import CARD
from model.store.mounts import find_store
from model.store.runs import headline


def add_list(commands: Commands) -> None:
    """Declare the command `list`."""
    listing = commands.add_parser("list", help="list every model of the store with its versions")
    listing.add_argument("name", nargs="?", help="only this model")
    listing.add_argument("--json", action="store_true", help="print a list of objects instead")
    listing.set_defaults(run=_list)


def _list(options: argparse.Namespace) -> None:
    store = store_of(options)
    if not store.names():
        print(f"the store {store.place} has no model; train one: python -m model train boston-housing", file=sys.stderr)
    if options.name and not store.versions(options.name):
        store.find(options.name)  # raises
    names = [options.name] if options.name else store.names()
    found = [each for name in names for each in _versions(store, name)]
    if options.json:
        print(json.dumps(found, indent=1))
    elif found:
        print_table([("model", "aliases", "created", "algorithm", "rows", "metric", "owner"), *map(_row, found)])


def _versions(store: Store, name: str) -> Iterator[dict[str, Any]]:
    """Yield what `list` says of each version. Where the last move of aliases is damaged, no version has one."""
    aliases: Mapping[str, int] = {}
    problem = None
    try:
        aliases = store.aliases(name)
    except ArtifactError as error:
        problem = str(error)
        print(f"damaged  {problem}", file=sys.stderr)
    for version in store.versions(name):
        facts = _version(store, name, version, [alias for alias, aliased in aliases.items() if aliased == version])
        yield {**facts, "problem": facts["problem"] or problem}


def _version(store: Store, name: str, version: int, aliases: Sequence[str]) -> dict[str, Any]:
    """Return what `list` says of a version; `problem` is what is wrong with its manifest, None if nothing is."""
    document: dict[str, Any] = {}
    problem = None
    try:
        document = store.document(name, version)
    except (ArtifactError, StoreError) as error:
        problem = str(error)
    metric, part, value = headline(document.get("metrics", {}))
    return {
        "model": name,
        "version": version,
        "aliases": sorted(aliases),
        "created_at": document.get("created_at"),
        "algorithm": document.get("algorithm"),
        "rows": document.get("data", {}).get("rows"),
        "metric": metric,
        "of": part,
        "value": value,
        "owner": document.get("tags", {}).get("owner", ""),
        "digest": document.get("digest"),
        "problem": problem,
    }


def _row(facts: Mapping[str, Any]) -> tuple[str, ...]:
    value = facts["value"]
    metric = "" if value is None else f"{facts['metric'].replace('_', ' ')} {value:.4g} ({facts['of']})"
    return (
        f"{facts['model']}@{facts['version']}",
        " ".join(facts["aliases"]),
        (facts["created_at"] or "")[:10],
        "damaged: see verify" if facts["problem"] else facts["algorithm"] or "",
        "" if facts["rows"] is None else f"{facts['rows']:,}",
        metric,
        facts["owner"],
    )


def add_show(commands: Commands) -> None:
    """Declare the command `show`."""
    show = commands.add_parser("show", help="print the manifest of one version")
    show.add_argument("model", help=REFERENCE)
    show.set_defaults(run=_show)


def _show(options: argparse.Namespace) -> None:
    document, _ = artifact.read(store_of(options).find(options.model), {})
    print(artifact.to_json(document).decode(), end="")


def add_card(commands: Commands) -> None:
    """Declare the command `card`."""
    card = commands.add_parser("card", help="print the model card of one version, as Markdown")
    card.add_argument("model", help=REFERENCE)
    card.set_defaults(run=_card)


def _card(options: argparse.Namespace) -> None:
    folder = store_of(options).find(options.model)
    document, files = artifact.read(folder, {}, optional={CARD: artifact.MAX_ARTIFACT_BYTES})
    print(card_of(document, files[CARD].decode(errors="replace") if CARD in files else None), end="")


def add_verify(commands: Commands) -> None:
    """Declare the command `verify`."""
    verify = commands.add_parser("verify", help="check every file's hash and the history, and replay the golden rows")
    verify.add_argument("model", help=REFERENCE)
    add_trusted_keys(verify)
    verify.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> None:
    store = store_of(options)
    signed = trusted(options)
    model = store.load(options.model, signed=signed)
    print_verified(model, is_signed=signed is not None)
    moves = store.history(model.name)
    if moves:
        print(
            f"history of {model.name}: {counted(len(moves), 'move')}, each follows the one before; the last is "
            f"{moves[-1].sha256}"
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
