"""A piece of a table -> its well-formed rows as a table of Arrow, and what is wrong with the others. Knows no model."""

from __future__ import annotations

from codecs import BOM_UTF8
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
from numpy.typing import NDArray

from model.errors import DataError
from model.schema.feature import CATEGORY, INTEGER, NUMBER, Feature, to_text
from model.schema.features import Schema
from model.score import text
from model.score.cells import Written
from model.score.plan import ARROW, CSV, JSON, Plan
from model.score.records import Offsets

NOT_UTF_8 = "not UTF-8; if all rows are in another encoding, say --encoding, such as cp1252"
MALFORMED = "not CSV: a quote is never closed or text stands behind one, or a carriage return is in a line"
NOT_JSON = "not a JSON object"
# Texts of numbers that are read as missing; those that are written otherwise are looked at one by one.
_MISSING = ["", "NA", "na", "N/A", "n/a", "NaN", "nan", "NULL", "null", "Null", "None", "none"]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a piece, which are numbered from 0.

    `table` has the well-formed ones, whose numbers are `numbers`: the features, and of other columns those that the
    output needs. `faults` has a reason for each other row. The text of row `i` is from `starts[i]` to `ends[i]`,
    without the end of its line; pieces of Arrow have none.
    """

    n_rows: int
    numbers: NDArray[np.intp]
    table: pa.Table
    faults: dict[int, str]
    starts: Offsets
    ends: Offsets


def rows_of(plan: Plan, schema: Schema, piece: bytes, answers: Sequence[str] = ()) -> Rows:
    """Return the rows of a piece; columns of the output that are `answers` are not looked for in it.

    Raises `DataError` for a column of Arrow whose cells cannot be found.
    """
    if plan.form == ARROW:
        return _of_arrow(arrow_table(piece))
    return _of_csv(plan, schema, piece) if plan.form == CSV else _of_json(plan, schema, piece, answers)


def arrow_table(piece: bytes) -> pa.Table:
    """Return all rows of a piece of Arrow."""
    return pa.ipc.open_stream(piece).read_all()


def _of_arrow(table: pa.Table) -> Rows:
    faults: dict[int, str] = {}
    for name, column in zip(table.column_names, table.columns):
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise DataError(f"column {name!r} is damaged: {error}") from error
            broken = [row for row, cell in enumerate(column) if not _is_utf_8_cell(cell)]
            faults = dict.fromkeys(broken, f"column {name!r}: not UTF-8") | faults
    numbers = np.delete(np.arange(table.num_rows), list(faults))
    none = np.zeros(0, dtype=np.int64)
    return Rows(table.num_rows, numbers, table.take(text.indices(numbers)) if faults else table, faults, none, none)


def records_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table; bytes of texts that are no UTF-8 are written with a backslash."""
    return [dict(zip(table.column_names, map(_readable, cells))) for cells in zip(*table.columns)]


def _is_utf_8_cell(cell: pa.Scalar) -> bool:
    try:
        cell.as_py()
    except UnicodeDecodeError:
        return False
    return True


def _readable(cell: pa.Scalar) -> Any:
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        value = cell.value if isinstance(cell, pa.DictionaryScalar) else cell
        if not text.is_text(value.type):  # a nested one
            return "not UTF-8"
        return value.as_buffer().to_pybytes().decode(errors="backslashreplace")


def _of_csv(plan: Plan, schema: Schema, piece: bytes) -> Rows:
    records = plan.marks.split(piece, is_last=True)
    is_row = records.starts < records.ends  # not a blank line
    starts, ends = records.starts[is_row], records.ends[is_row]
    malformed = np.zeros(len(is_row), dtype=np.bool_)
    malformed[records.malformed] = True
    faults = dict.fromkeys(np.flatnonzero(malformed[is_row]).tolist(), MALFORMED)
    if not _is_utf_8(piece):
        bounds = enumerate(zip(starts.tolist(), ends.tolist()))
        faults |= {row: NOT_UTF_8 for row, (start, end) in bounds if not _is_utf_8(piece[start:end])}
    good = np.delete(np.arange(len(starts)), list(faults))
    lines = piece
    if len(good) < len(is_row):
        kept = text.slices(piece, starts[good], ends[good])
        lines = text.content_of(text.joined([kept, text.repeated(b"\n", len(good))], b""))
    table, wrong = _parsed(plan, schema, lines)
    for place, width in wrong.items():
        faults[int(good[place])] = f"has {width} cells where the table has {len(plan.names)} columns"
    numbers = np.delete(good, list(wrong))
    if table.num_rows != len(numbers):
        raise RuntimeError(f"{len(numbers)} rows of CSV were read as {table.num_rows}; please report this table")
    return Rows(len(starts), numbers, table, faults, starts, ends)


def _parsed(plan: Plan, schema: Schema, lines: bytes) -> tuple[pa.Table, dict[int, int]]:
    """Return the cells of lines, and of those with another number of cells than there are columns that number."""
    is_copied = plan.target == CSV and not plan.only
    others = () if is_copied else (plan.only or plan.names)
    names = {str(place): name for place, name in enumerate(plan.names) if name in schema.by_name or name in others}
    if not lines:
        return pa.table({name: pa.array([], pa.string()) for name in names.values()}), {}
    numbers = [
        place
        for place, name in names.items()
        if is_copied and schema.by_name[name].type in (NUMBER, INTEGER) and plan.written.is_plain(schema.by_name[name])
    ]
    if lines.startswith(BOM_UTF8):
        lines = BOM_UTF8 + lines  # of which Arrow skips one: the other belongs to a cell
    wrong: dict[int, int] = {}

    def skip(row: Any) -> str:
        wrong[row.number - 1] = row.actual_columns
        return "skip"

    def read(numbers: Sequence[str]) -> pa.Table:
        wrong.clear()
        return csv.read_csv(
            pa.BufferReader(lines),
            read_options=csv.ReadOptions(
                use_threads=False, block_size=len(lines) + 1, column_names=list(map(str, range(len(plan.names))))
            ),
            parse_options=csv.ParseOptions(
                delimiter=plan.marks.separator.decode(),
                quote_char=plan.marks.quote.decode(),
                newlines_in_values=True,
                invalid_row_handler=skip,
            ),
            convert_options=csv.ConvertOptions(
                include_columns=list(names),
                column_types={name: pa.float64() if name in numbers else pa.string() for name in names},
                null_values=_MISSING,
                strings_can_be_null=False,
                quoted_strings_can_be_null=True,
                check_utf8=False,
            ),
        )

    try:
        table = read(numbers)
        if not all(_is_finite(table.column(name)) for name in numbers):  # inf and nan, of which a server reads others
            table = read([])
    except pa.ArrowInvalid:  # a cell is no number for Arrow, and may be one for a server
        table = read([])
    return table.rename_columns(list(names.values())), wrong


def _is_finite(column: pa.ChunkedArray) -> bool:
    """Return whether all numbers that are not null are finite."""
    return all(pc.all(pc.is_finite(chunk)).as_py() is not False for chunk in column.chunks)


def _is_utf_8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _of_json(plan: Plan, schema: Schema, piece: bytes, answers: Sequence[str]) -> Rows:
    starts, lines, position = [], [], 0
    for line in piece.split(b"\n"):
        stripped = line.rstrip()
        if stripped:
            starts.append(position)
            lines.append(stripped)
        position += len(line) + 1
    records = list(map(_record, lines))
    faults: dict[int, str] = {}
    known = None if plan.target == JSON else {*plan.names}
    for row, record in enumerate(records):
        if type(record) is not dict:
            faults[row] = NOT_JSON
        elif nested := [name for name in schema.names if type(record.get(name)) in (dict, list)]:
            faults[row] = f"column {nested[0]!r}: nested"
        elif not plan.only and (odd := _unexpected(record, known, answers)):
            faults[row] = odd
    numbers = [row for row in range(len(records)) if row not in faults]
    cells = {
        feature.name: _column([records[row].get(feature.name) for row in numbers], feature, plan.written)
        for feature in schema.features
    }
    for name in plan.only or plan.names:
        if name not in cells and name not in answers:
            cells[name] = pa.array([_text(records[row].get(name)) for row in numbers], pa.string())
    starts_of_rows = np.array(starts, dtype=np.int64)
    ends = starts_of_rows + np.array(list(map(len, lines)), dtype=np.int64)
    return Rows(len(lines), np.array(numbers, dtype=np.intp), pa.table(cells), faults, starts_of_rows, ends)


def _unexpected(record: dict[str, Any], known: set[str] | None, answers: Sequence[str]) -> str:
    """Return what is wrong with the keys of a record, "" for nothing; `known` are all that an output has."""
    if not record.keys().isdisjoint(answers):
        return f"has a key {next(name for name in answers if name in record)!r}, as an answer has"
    if known is None or record.keys() <= known:
        return ""
    key = next(name for name in record if name not in known)
    return f"has a key {key!r}, which the first records have not; --only or an output of JSON lines can have it"


def _record(line: bytes) -> Any:
    """Return the value of a line of JSON, None for what is none."""
    try:
        return orjson.loads(line)
    except ValueError:
        return None


def _column(cells: list[Any], feature: Feature, written: Written) -> pa.Array:
    """Return the cells of a feature in records of JSON as Arrow has them; of cells of several types their texts.

    A number beside texts gets the decimal mark that these have.
    """
    types = set(map(type, cells)) - {type(None)}
    if feature.type == CATEGORY and feature.has_text and types != {str}:
        known = set(feature.categories)
        return pa.array([_category(cell, known) for cell in cells], pa.string())
    if types == {bool}:
        return pa.array(cells, pa.bool_())
    if types <= {int, float}:
        return pa.array([None if cell is None else float(cell) for cell in cells], pa.float64())
    decimal = written.marks(feature.name)[0] if feature.type in (NUMBER, INTEGER) else "."
    is_number = {int, float}
    return pa.array(
        [(_text(cell) or "").replace(".", decimal) if type(cell) in is_number else _text(cell) for cell in cells],
        pa.string(),
    )


def _category(cell: Any, known: set[Any]) -> str | None:
    """Return the text of a category: of a number the one that it has in a table of text."""
    if cell is None or type(cell) is str:
        return cell
    found = to_text(cell)
    return found if found in known else found.removesuffix(".0")


def _text(cell: Any) -> str | None:
    """Return a value of JSON as a text, and one that is no text as JSON."""
    return cell if cell is None or type(cell) is str else orjson.dumps(cell).decode()
