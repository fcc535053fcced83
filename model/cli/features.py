"""The command about shared definitions of derived features: which there are, and which models use them."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from model.cli.arguments import Commands, store_of
from model.train import feature_file


def add_features(commands: Commands) -> None:
    """Declare the command `features`."""
    features = commands.add_parser(
        "features",
        help="list shared derived features, and the models that use each",
        description='Lists the definitions in a TOML file, such as [features.per_room] with formula = "price / rooms", '
        "which train takes by --features FILE --feature per_room. docs/features.md says more.",
    )
    features.add_argument(
        "file", nargs="?", type=Path, help=f"TOML file of definitions (default: {feature_file.NAME} in the store)"
    )
    features.add_argument("--json", action="store_true", help="print JSON instead")
    features.set_defaults(run=_features)


def _features(options: argparse.Namespace) -> None:
    store = store_of(options)
    shared = feature_file.read(options.file or store.root / feature_file.NAME)
    found, problems = feature_file.uses(shared.values(), store)
    for problem in problems:
        print(problem, file=sys.stderr)
    if options.json:
        print(json.dumps({"features": found}, indent=1, ensure_ascii=False))
        return
    for facts in found:
        print(f"{facts['name']} = {facts['formula']}")
        words = [facts["description"], f"owner: {facts['owner']}" if facts["owner"] else ""]
        lines = ["; ".join(filter(None, words)), f"used by {', '.join(facts['used_by']) or 'no model'}"]
        lines += [f"other in {each['model']}: {each['formula']}" for each in facts["other_in"]]
        for line in filter(None, lines):
            print(f"    {line}")
