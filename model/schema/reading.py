"""How the table that a model is from was read; its manifest keeps it, so that such a table is read so again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# A table that a server reads, too, but for columns that the model does not get.
_PLAIN = {"format": "csv", "separator": ",", "quote": '"', "header": True, "decimal": ".", "thousands": ""}
_PLAIN_ENCODINGS = ("utf-8", "utf-8-sig")
_DIALECT = {"encoding", *_PLAIN}
_OF_NUMBERS = ("decimal", "thousands")


@dataclass(frozen=True, slots=True)
class Reading:
    """How a table's file is written, and which of its columns a model does not get.

    `dialect` has `format`, `encoding`, `separator`, `quote`, `header`, `decimal` and `thousands`; of Parquet and JSON
    only the format counts. `columns` have what is said of single ones: `decimal` with `thousands`, and `missing`, the
    texts that mean a missing value beside the usual ones.
    """

    dialect: Mapping[str, str | bool] = field(default_factory=dict)
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    @property
    def is_plain(self) -> bool:
        """Return whether a server takes such a table as the body of a request, but for the columns left out."""
        is_default = all(self.dialect.get(name, value) == value for name, value in _PLAIN.items())
        return is_default and self.dialect.get("encoding", "utf-8") in _PLAIN_ENCODINGS and not self.columns


def to_document(reading: Reading) -> dict[str, Any]:
    """Return a reading for the manifest."""
    columns = {name: {key: _listed(value) for key, value in said.items()} for name, said in reading.columns.items()}
    return {"dialect": dict(reading.dialect), "columns": columns, "left_out": list(reading.left_out)}


def from_document(facts: Any) -> Reading | None:
    """Return the reading that `to_document` wrote, and None for anything else."""
    try:
        dialect, left_out = dict(facts["dialect"]), list(facts["left_out"])
        columns = {name: dict(said) for name, said in facts["columns"].items()}
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    texts = [value for name, value in dialect.items() if name != "header"] + left_out
    for said in columns.values():
        missing = said.get("missing", [])
        texts += [*(said.get(name, "") for name in _OF_NUMBERS), *(missing if isinstance(missing, list) else [missing])]
        if not said.keys() <= {*_OF_NUMBERS, "missing"} or not isinstance(missing, list):
            return None
        said["missing"] = tuple(missing)
    if not dialect.keys() <= _DIALECT or type(dialect.get("header", True)) is not bool:
        return None
    return Reading(dialect, columns, tuple(left_out)) if all(isinstance(text, str) for text in texts) else None


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
