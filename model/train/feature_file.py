"""Shared definitions of derived features: a TOML file that several models refer to, and the words of a command line."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from model.engine.formulas import Derived, parse
from model.errors import ArtifactError, FeatureFileError, FormulaError
from model.store import artifact, manifest
from model.store.versions import Store

NAME = "features.toml"
"""The file that is read where none is named, in the store's folder."""

_MAX_BYTES = 2**20  # thousands of definitions


def read(path: Path) -> dict[str, Derived]:
    """Return the definitions of a file by name, in its order.

    Raises `FeatureFileError` for a file that cannot be read, or that has anything but definitions.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise FeatureFileError(path, f"has more than {_MAX_BYTES} bytes")
        document = tomllib.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise FeatureFileError(path, f"cannot be read: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise FeatureFileError(path, f"is not TOML in UTF-8: {error}") from None
    unknown = sorted(document.keys() - {"features"})
    if unknown:
        raise FeatureFileError(path, f"has {unknown[0]!r} beside its features")
    listed = document.get("features")
    if not isinstance(listed, dict) or not listed:
        raise FeatureFileError(path, "has no features")
    return {name: _definition(path, name, facts) for name, facts in listed.items()}


def _definition(path: Path, name: str, facts: Any) -> Derived:
    known = [each.name for each in fields(Derived) if each.name != "name"]
    if not name or not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
        raise FeatureFileError(path, f"has the feature {name!r}, which is not a table of strings with a name")
    unknown = sorted(facts.keys() - set(known))
    if unknown:
        raise FeatureFileError(path, f"has {unknown[0]!r} in the feature {name!r}, which has {', '.join(known)}")
    if "formula" not in facts:
        raise FeatureFileError(path, f"has the feature {name!r} without a formula")
    definition = Derived(name, **facts)
    try:
        parse(definition.formula)
    except FormulaError as error:
        raise FeatureFileError(path, f"has the feature {name!r}: {error}") from None
    return definition


def resolve(specs: Sequence[str], shared: Mapping[str, Derived]) -> tuple[Derived, ...]:
    """Return what `"name = formula"`, or the name of a shared definition, stand for, in order.

    Raises `FormulaError` for a name that is not shared or is there twice, and for what is no formula.
    """
    found: dict[str, Derived] = {}
    for spec in specs:
        definition = _resolved(spec, shared)
        if definition.name in found:
            raise FormulaError(spec, f"the derived feature {definition.name!r} is defined more than once; rename one")
        found[definition.name] = definition
    return tuple(found.values())


def _resolved(spec: str, shared: Mapping[str, Derived]) -> Derived:
    name, sign, formula = map(str.strip, spec.partition("="))
    if spec.strip() in shared:
        return shared[spec.strip()]
    if not sign:
        near = difflib.get_close_matches(name, shared, n=1)
        nearest = f"; the nearest is {near[0]!r}" if near else ""
        raise FormulaError(spec, f"there is no shared definition {name!r}{nearest}; name one, or write NAME = FORMULA")
    if not name:
        raise FormulaError(spec, "it has no name; write NAME = FORMULA")
    definition = Derived(name, formula)
    parse(formula)
    return definition


def uses(definitions: Iterable[Derived], store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """Return each definition as facts, with the versions of a store that have it, and what could not be read.

    `used_by` are those with the same formula, `other_in` those with another one of this name.
    """
    derived, problems = _versions(store)
    found = []
    for definition in definitions:
        same, other = [], []
        for version, of_version in derived.items():
            if theirs := of_version.get(definition.name):
                if theirs.parsed.root == definition.parsed.root:
                    same.append(version)
                else:
                    other.append({"model": version, "formula": theirs.formula})
        found.append({**asdict(definition), "used_by": same, "other_in": other})
    return found, problems


def _versions(store: Store) -> tuple[dict[str, dict[str, Derived]], list[str]]:
    """Return the derived features of each version of a store, by name, and a line for each that cannot be read."""
    found, problems = {}, []
    for version in (f"{name}@{number}" for name in store.names() for number in store.versions(name)):
        try:
            derived = manifest.derived(artifact.read_manifest(store.find(version)))
        except (ArtifactError, ValueError) as error:
            problems.append(f"{version} is left out: {error}")
        else:
            found[version] = {each.name: each for each in derived}
    return found, problems
