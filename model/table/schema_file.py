"""A description as a schema file in TOML: written with the reasons as comments, edited by a person, and read back."""

from __future__ import annotations

import codecs
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from datetime import date, datetime
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError

from model.engine.formula_syntax import nearest
from model.engine.formulas import Derived
from model.engine.formulas import parse as parse_formula
from model.errors import DataError, FormulaError, first_line
from model.schema import dates
from model.schema.feature import DATE
from model.table.description import (
    DECIMALS,
    FORMATS,
    PARTS,
    THOUSANDS,
    TYPES,
    ColumnDescription,
    Description,
    Dialect,
    Rule,
)
from model.task import TASKS

_HEAD = (
    "What is known about a table. Edit it, and give it back: python -m model describe --schema FILE.",
    "A comment says why a column was taken for its type. docs/tables.md explains every key.",
)
_TEXTS = (
    *("name", "title", "source", "purpose", "limits", "license", "data", "notebook", "learner"),
    *("target", "task", "group", "time", "date"),
)
_TOP = {**dict.fromkeys(_TEXTS, str), "max_age_days": int}
_TABLES = {"options": Mapping, "dialect": Mapping, "columns": Mapping, "rules": list, "features": list}
_DIALECT = {each.name: bool if each.name == "header" else str for each in fields(Dialect)}
_COLUMN: dict[str, Any] = {
    **dict.fromkeys(("type", "unit", "description", "format", "decimal", "thousands"), str),
    **dict.fromkeys(("use", "required"), bool),
    **dict.fromkeys(("minimum", "maximum"), (int, float, str, date)),
    **dict.fromkeys(("allowed", "missing", "parts"), list),
}
_KINDS = {str: "a text", int: "a whole number", bool: "true or false", list: "a list", Mapping: "a table"}
MAX_BYTES = 2**24
MAX_DAYS = 999_999  # of the rows' age


def render(description: Description) -> str:
    """Return a description as a schema file, with the reason for a column's type as a comment beside it."""
    document = tomlkit.document()
    for line in _HEAD:
        document.add(tomlkit.comment(line))
    for name, kind in _TOP.items():
        value = getattr(description, name)
        if value not in ("", None):
            document.add(name, kind(value))
    if description.options:
        document.add("options", _table(description.options))
    if description.dialect:
        document.add("dialect", _table(description.dialect.options))
    columns = tomlkit.table(is_super_table=True)
    for column in description.columns:
        columns.append(column.name, _column(column))
    document.add("columns", columns)
    for name, rows in (("rules", description.rules), ("features", description.features)):
        if rows:
            listed = tomlkit.aot()
            for row in rows:
                listed.append(_table({key: getattr(row, key) for key in row.__slots__ if getattr(row, key)}))
            document.add(name, listed)
    return tomlkit.dumps(document)


def _table(facts: Mapping[str, Any]) -> tomlkit.items.Table:
    table = tomlkit.table()
    for name, value in facts.items():
        table.add(name, list(value) if isinstance(value, tuple) else value)
    return table


def _column(column: ColumnDescription) -> tomlkit.items.Table:
    bare = ColumnDescription(column.name, column.type)
    facts: dict[str, Any] = {"type": column.type}
    for name in _COLUMN:
        value = getattr(column, name)
        if name != "type" and value != getattr(bare, name):
            if name in ("minimum", "maximum"):
                value = dates.text_of(value) if column.type == DATE else _short(value)
            facts[name] = value
    table = _table(facts)
    if column.reason:
        table["type"].comment(re.sub(r"[\x00-\x08\x0a-\x1f\x7f]", " ", column.reason))
    return table


def _short(number: float) -> int | float:
    return int(number) if math.isfinite(number) and number == int(number) and abs(number) < 2**53 else number


def write(description: Description, path: Path) -> None:
    """Write a schema file, all of it or nothing. Raises `DataError`."""
    incoming = path.with_name(f".{path.name}.incoming")
    try:
        incoming.write_text(render(description), "utf-8", newline="\n")
        os.replace(incoming, path)
    except OSError as error:
        incoming.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror}") from None


def read(path: Path) -> Description:
    """Return the description in a schema file. Raises `DataError` with every fault, each with its line."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path} is no schema file: it is larger than {MAX_BYTES:,} bytes")
        text = path.read_text("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path} is no schema file: it is not UTF-8 text") from None
    return parse(text, str(path))


def parse(text: str, name: str = "the schema file") -> Description:
    """Return the description in the text of a schema file. Raises `DataError` with every fault, each with its line."""
    try:
        document = tomlkit.parse(text).unwrap()
    except (TOMLKitError, ValueError, RecursionError) as error:
        raise DataError(f"{name} is not TOML: {first_line(error)}") from None
    reader = _Reader(_lines(text))
    top = reader.facts((), document, {**_TOP, **_TABLES})
    tables = {key: top.pop(key, None) for key in _TABLES}
    given = reader.facts(("dialect",), tables["dialect"] or {}, _DIALECT)
    described = tables["columns"] or {}
    columns = tuple(reader.column(key, facts) for key, facts in described.items())
    if not columns:
        reader.fault((), "columns", "there is no column; write a table [columns.NAME] for each")
    description = Description(
        columns,
        dialect=Dialect(**given) if tables["dialect"] is not None else None,
        rules=tuple(reader.formulas("rules", tables["rules"] or [], Rule)),
        features=tuple(reader.formulas("features", tables["features"] or [], Derived)),
        options=dict(tables["options"] or {}),
        **top,
    )
    reader.check(description)
    if reader.faults:
        head = f"{name} has {len(reader.faults)} fault{'s' if len(reader.faults) > 1 else ''}"
        raise DataError("\n  ".join([head, *reader.faults]))
    return description


@dataclass(slots=True)
class _Reader:
    """Turns tables of TOML into facts, and keeps what is wrong with them."""

    lines: Mapping[tuple[str, ...], int]
    faults: list[str] = field(default_factory=list)

    def fault(self, table: tuple[str, ...], key: str, reason: str) -> None:
        line = self.lines.get((*table, key)) or self.lines.get(table)
        self.faults.append(f"line {line}: {reason}" if line else reason)

    def facts(self, table: tuple[str, ...], found: Any, known: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a table's facts that are known and of their kind."""
        if not isinstance(found, Mapping):
            self.fault(table[:-1], table[-1], f"{'.'.join(table)} is no table, such as [{'.'.join(table)}]")
            return {}
        facts = {}
        for key, value in found.items():
            where = f" in {'.'.join(table)}" if table else ""
            if key not in known:
                self.fault(table, key, f"there is no key {key!r}{where}{nearest(key, known)}")
            elif not isinstance(value, known[key]) or (isinstance(value, bool) and known[key] is not bool):
                kind = _KINDS.get(known[key], "a number or a date")
                self.fault(table, key, f"{key}{where} is {value!r}, and not {kind}")
            else:
                facts[key] = value
        return facts

    def column(self, name: str, found: Any) -> ColumnDescription:
        table = ("columns", name)
        facts = self.facts(table, found, _COLUMN)
        self.one_of(table, "type", facts, TYPES)
        for key in ("minimum", "maximum"):
            if key in facts:
                facts[key] = self.limit(table, key, facts[key], facts.get("type", ""))
        for key, kinds in (("allowed", (str, int, float)), ("missing", str), ("parts", str)):
            values = facts.get(key, [])
            if not all(isinstance(value, kinds) and not isinstance(value, bool) for value in values):
                self.fault(table, key, f"{key} in columns.{name} has a value that is no text or number")
                values = []
            facts[key] = tuple(values)
        for part in facts["parts"]:
            if part not in PARTS:
                self.fault(
                    table, "parts", f"parts in columns.{name}: a date has no part {part!r}{nearest(part, PARTS)}"
                )
        if any(value != value for value in facts["allowed"]):
            self.fault(table, "allowed", f"allowed in columns.{name} has nan, which no cell is")
        self.marks(table, facts.get("decimal") or ".", facts.get("thousands", ""))
        if facts.get("format"):
            try:
                dates.check_format(facts["format"])
            except ValueError as error:
                self.fault(table, "format", str(error))
        if facts.get("minimum", -math.inf) > facts.get("maximum", math.inf):
            self.fault(table, "minimum", f"the minimum of {name!r} is larger than its maximum")
        return ColumnDescription(name, **facts)

    def limit(self, table: tuple[str, ...], key: str, value: Any, type: str) -> float:
        if type == DATE and isinstance(value, (str, date)):
            text = value if isinstance(value, str) else value.isoformat()
            seconds = dates.parse(text if not isinstance(value, datetime) else text.replace(" ", "T"))
            if seconds is not None:
                return seconds
        elif type != DATE and isinstance(value, (int, float)) and value == value:
            return float(value)
        what = "a date such as 2026-01-31" if type == DATE else "a number"
        self.fault(table, key, f"the {key} of {table[-1]!r} is {value!r}, and not {what}")
        return -math.inf if key == "minimum" else math.inf

    def marks(self, table: tuple[str, ...], decimal: str, thousands: str) -> None:
        """Report what cannot be a decimal mark, or a thousands separator beside it."""
        where = f" in {'.'.join(table)}"
        if decimal not in tuple(DECIMALS):
            self.fault(table, "decimal", f"decimal{where} is {decimal!r}, and not a point or a comma")
        if thousands and (thousands == decimal or thousands not in tuple(THOUSANDS)):
            accepted = "a point, comma, apostrophe, space or underscore other than the decimal mark"
            self.fault(table, "thousands", f"thousands{where} is {thousands!r}, and not {accepted}")

    def one_of(self, table: tuple[str, ...], key: str, facts: Mapping[str, Any], known: Iterable[str]) -> None:
        if key in facts and facts[key] not in known:
            choices = ", ".join(known)
            self.fault(table, key, f"the {key} {facts[key]!r} is none of {choices}{nearest(facts[key], known)}")

    def formulas(self, key: str, found: list[Any], kind: Any) -> list[Any]:
        rows = []
        for number, row in enumerate(found):
            table = (key, str(number))
            facts = self.facts(table, row, dict.fromkeys(kind.__slots__, str))
            absent = [name for name in ("formula", "name") if name not in facts and (name != "name" or kind is Derived)]
            if absent:
                self.fault(table, "", f"one of the {key} has no {' and no '.join(absent)}")
            else:
                rows.append(kind(**facts))
        return rows

    def check(self, description: Description) -> None:
        """Report what facts of several places contradict."""
        names = [column.name for column in description.columns]
        self.one_of((), "task", {"task": description.task} if description.task else {}, TASKS)
        if description.max_age_days is not None and not 0 <= description.max_age_days <= MAX_DAYS:
            self.fault(
                (), "max_age_days", f"max_age_days is {description.max_age_days}, and not from 0 to {MAX_DAYS:,}"
            )
        for key in ("target", "group", "time", "date"):
            name = getattr(description, key)
            if name and name not in names:
                self.fault((), key, f"the {key} {name!r} is no column{nearest(name, names)}")
        dialect = description.dialect or Dialect()
        self.one_of(("dialect",), "format", {"format": dialect.format}, FORMATS)
        for key in ("separator", "quote"):
            mark = getattr(dialect, key)
            if len(mark) != 1 or mark in "\r\n\0":
                self.fault(("dialect",), key, f"the {key} is {mark!r}; it is one character")
        if dialect.separator == dialect.quote:
            self.fault(
                ("dialect",), "quote", f"the separator and the quote are both {dialect.quote!r}; they must differ"
            )
        self.marks(("dialect",), dialect.decimal, dialect.thousands)
        try:
            codecs.lookup(dialect.encoding)
        except (LookupError, ValueError):
            reason = f"the encoding {dialect.encoding!r} is not known; write one such as utf-8 or cp1252"
            self.fault(("dialect",), "encoding", reason)
        defined = [feature.name for feature in description.features]
        for number, name in enumerate(defined):
            if name in names or name in defined[:number]:
                self.fault(("features", str(number)), "name", f"{name!r} is the name of another column or feature")
        types = {column.name: column.type for column in description.columns}
        formulas = {
            "rules": [rule.formula for rule in description.rules],
            "features": [feature.formula for feature in description.features],
        }
        for key, texts in formulas.items():
            for number, text in enumerate(texts):
                try:
                    parse_formula(text).check(types)
                except FormulaError as error:
                    self.fault((key, str(number)), "formula", str(error))


def _lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line of each table and key; tables of a list have their number as a key."""
    places: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()
    counts: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if line.lstrip().startswith("["):
            table = _path(line)
            if line.lstrip().startswith("[[") and table:
                counts[table[0]] = counts.get(table[0], -1) + 1
                table = (table[0], str(counts[table[0]]))
            places.setdefault(table, number)
        elif match := re.match(r"""\s*([\w-]+|"[^"]*"|'[^']*')\s*=""", line):
            places.setdefault((*table, match[1].strip("\"'")), number)
    return places


def _path(line: str) -> tuple[str, ...]:
    """Return the keys in the header of a table."""
    path = []
    try:
        inner: Any = tomlkit.parse(line).unwrap()
    except TOMLKitError:
        return ()
    while isinstance(inner, dict) and inner:
        key, inner = next(iter(inner.items()))
        path.append(key)
    return tuple(path)
