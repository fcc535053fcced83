"""Tables in CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

from model.errors import Problem, SchemaError, TooManyRowsError
from model.schema.feature import parse_cell
from model.schema.features import EXTRA_VALUES, MAX_UNKNOWN, check_width, max_cells, shape_problems

# Separators other than commas in files that are called CSV.
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs"}


def columns_from_csv(
    text: str,
    *,
    max_rows: int | None = None,
    header: bool | None = True,
    names: Sequence[str] | None = None,
    parsers: Mapping[str, Callable[[str], Any]] | None = None,
) -> tuple[dict[str, list[Any]], int]:
    """Return the columns of a CSV table, each a list of parsed cells, and the number of rows.

    The first line is the header. If `header` is False, all lines are data and `names` is the header. If it is None, the
    first line is the header if it has text where no column of text is, or text and all the names. Columns that are not
    in `names` are returned empty. A first column without a name is dropped: it is the index that pandas writes. Blank
    lines are skipped. `parsers` turn the texts of some columns into cells; those of others are numbers, missing values,
    or remain texts.

    Raises `SchemaError` for a header that repeats a name or has far too many, and for rows of another length than the
    header; `TooManyRowsError` for more than `max_rows`; `ValueError` for text that is not CSV. With `max_rows` and
    `names`, `SchemaError` is also raised for too many lines, blank ones included, or too many cells.
    """
    parsers = parsers or {}
    source: Iterable[str] = io.StringIO(text.removeprefix("\ufeff"), newline="")
    if max_rows is not None and names is not None:
        source = _bounded(source, max_rows, len(names))
    lines = filter(None, csv.reader(source, strict=True))
    try:
        first = next(lines, None)
        if first is None:
            raise ValueError("not CSV: it is empty")
        known = frozenset(names or ())
        titles = [name if name in known else name.strip() for name in first]
        of_text = [name in parsers and isinstance(parsers[name]("0"), str) for name in names or ()]
        if header is None:
            parse = [parsers.get(name, parse_cell) for name in names or ()] + [parse_cell] * MAX_UNKNOWN
            found_text = [isinstance(read(cell), str) for read, cell in zip(parse, first)]
            misplaced = [is_text for is_text, may_be in zip_longest(found_text, of_text[: len(first)]) if not may_be]
            header = any(misplaced) or (any(found_text) and known <= {*titles})
        columns = titles if header else list(names or ())
        check_width(len(columns), names)
        # Any character may be in a category.
        separable = first if header else [cell for cell, is_text in zip(first, of_text) if not is_text]
        for separator, called in _OTHER_SEPARATORS.items():
            found = sum(cell.count(separator) for cell in separable)
            if found >= len(first) and not known & {*titles}:
                raise ValueError(f"not CSV: its cells are separated by {called}; separate them by commas")
        rows = [] if header else [first]
        rows += islice(lines, None if max_rows is None else max_rows + 1)
    except csv.Error as error:
        raise ValueError(f"not CSV: {error}") from None
    if max_rows is not None and len(rows) > max_rows:
        raise TooManyRowsError(max_rows)
    problems = shape_problems(rows, columns)
    if problems:
        raise SchemaError(problems, n_rows=len(rows))
    known = frozenset(columns) if names is None else known
    cells = {
        name: _parse_cells([row[i] for row in rows], parsers.get(name, parse_cell)) if name in known else []
        for i, name in enumerate(columns)
    }
    if names is not None and columns[:1] == [""] and "" not in known:
        del cells[""]
    return cells, len(rows)


def _parse_cells(texts: list[str], parse: Callable[[str], Any]) -> list[Any]:
    """Return the parsed cells; equal texts, which are frequent, are parsed once."""
    parsed = {text: parse(text) for text in set(texts)}
    return [parsed[text] for text in texts]


def _bounded(lines: Iterable[str], max_rows: int, width: int) -> Iterator[str]:
    """Yield lines of CSV; raise `SchemaError` for more lines or commas than `max_rows` can have.

    A generator, because other threads can run between two lines.
    """
    max_lines = 2 * max_rows + EXTRA_VALUES  # each line may be followed by a blank one
    n_left = max_cells(max_rows, width)
    for number, line in enumerate(lines):
        n_left -= line.count(",")
        if n_left < 0:
            raise SchemaError([Problem(None, None, f"has far more cells than {max_rows} rows of {width}")], n_rows=0)
        if number == max_lines:
            raise SchemaError([Problem(None, None, f"has more than {max_lines} lines, many of them blank")], n_rows=0)
        yield line
