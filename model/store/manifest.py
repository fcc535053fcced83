"""The manifest's schema: its required facts and their types. Knows nothing about files and hashes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from model.engine.graph import MAX_LAYER_WIDTH
from model.schema.numbers import is_number

MAX_VERSION = 2**31 - 1
_MAX_LAYERS = 1_000


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < 2**53


def _is_version(value: Any) -> bool:
    return type(value) is int and 0 < value <= MAX_VERSION


_Check = tuple[Callable[[Any], bool], str]
_TEXT: _Check = (_is_text, "a string")
_NUMBER: _Check = (is_number, "a finite number")
_COUNT: _Check = (_is_count, "a whole number of at least 1")

_REQUIRED: Mapping[str, _Check] = {
    "name": _TEXT,
    "version": (_is_version, f"a whole number from 1 to {MAX_VERSION}"),
    "title": _TEXT,
    "algorithm": _TEXT,
    "digest": _TEXT,
    "created_at": _TEXT,
    **{
        f"metrics.{part}.{name}": _COUNT if name == "rows" else _NUMBER
        for part in ("training", "validation")
        for name in ("rows", "mse", "rmse", "mae", "bias", "r2")
    },
}
_OPTIONAL: Mapping[str, _Check] = {
    "limits": _TEXT,
    "tags": (lambda value: isinstance(value, dict) and all(map(_is_text, value.values())), "an object of strings"),
    "network": (lambda value: isinstance(value, dict), "an object"),
}
_NETWORK: Mapping[str, _Check] = {
    "network.file": _TEXT,
    "network.n_features": _COUNT,
    "network.activation": _TEXT,
    "network.hidden": (
        lambda value: (
            isinstance(value, list)
            and len(value) <= _MAX_LAYERS
            and all(_is_count(width) and width <= MAX_LAYER_WIDTH for width in value)
        ),
        f"a list of at most {_MAX_LAYERS} widths up to {MAX_LAYER_WIDTH}",
    ),
}


def check(manifest: Mapping[str, Any]) -> None:
    """Raise `ValueError` that lists all facts that are missing or of another type."""
    checks = {**_REQUIRED, **{name: check for name, check in _OPTIONAL.items() if name in manifest}}
    if isinstance(manifest.get("network"), dict):
        checks |= _NETWORK
    problems = []
    for name, (is_valid, kind) in checks.items():
        value: Any = manifest
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if not is_valid(value):
            problems.append(f"{name} is {'missing' if value is None else f'not {kind}'}")
    if problems:
        raise ValueError("; ".join(problems))


def file_sizes(manifest: Mapping[str, Any]) -> dict[str, int]:
    """Return the size of each file in the manifest. Raises `ValueError` if the list of files is invalid."""
    files = manifest.get("files")
    fingerprints = files.values() if isinstance(files, dict) else [None]
    if not all(isinstance(fingerprint, dict) and type(fingerprint.get("size")) is int for fingerprint in fingerprints):
        raise ValueError("files is not an object of files with their sizes")
    return {name: fingerprint["size"] for name, fingerprint in manifest["files"].items()}
