"""The descriptions that come with the project, by name, and those in schema files, by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.engine.formula_syntax import nearest
from model.errors import DataError
from model.table import schema_file
from model.table.description import Description

FOLDER = Path(__file__).parents[1] / "data"


def names() -> tuple[str, ...]:
    """Return the names of the descriptions that come with the project."""
    return tuple(path.stem.replace("_", "-") for path in sorted(FOLDER.glob("*.toml")))


def find(name_or_path: str | Path) -> Description:
    """Return a description by its name, or from a schema file, with the table and notebook that are beside the file.

    Raises `DataError` for a name that is not known, and for a file that is no schema file.
    """
    path = Path(name_or_path)
    if str(name_or_path) in names():
        path = FOLDER / f"{str(name_or_path).replace('-', '_')}.toml"
    elif not path.suffix and not path.exists():
        known = nearest(str(name_or_path), names())
        raise DataError(f"there is no data set {str(name_or_path)!r}{known}; choose {', '.join(names())} or a file")
    found = schema_file.read(path)
    return replace(found, data=_beside(path, found.data), notebook=_beside(path, found.notebook))


def reading(known: Description | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `open_table` that were given, and beside them those of a schema file's dialect."""
    dialect = known.dialect.options if known and known.dialect else {}
    return {**dialect, **given}


def _beside(path: Path, name: str) -> str:
    """Return a file that is named relative to another one, if it is there; else the name."""
    beside = path.parent / name
    return str(beside.resolve()) if name and "://" not in name and beside.is_file() else name
