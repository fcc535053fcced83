"""Finds out how a CSV file is written: its encoding, separator, quotes and header; each can be given instead.

How numbers are written is found a column at a time, in `infer.py`, from all rows.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.errors import DataError, first_line
from model.table.description import Dialect

_CHUNK_BYTES = 2**20
_SAMPLE_CHARACTERS = 2**18
_SAMPLE_ROWS = 1000
# Of separators that are equally good the first is taken: a comma is in numbers and sentences, too.
_SEPARATORS = ("\t", ";", "|", ",")
_NAMES = {"\t": "tab", ",": "comma", ";": "semicolon", "|": "vertical bar", " ": "space"}
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_NUMBER = re.compile(r"[+-]?\d[\d.,' \u00a0\u202f]*([eE][+-]?\d+)?|[+-]?[.,]\d+", re.ASCII)
_DATE = re.compile(r"\d{1,4}[-/.]\d{1,2}[-/.]\d{1,4}([ T].*)?", re.ASCII)
_YEARS = range(1800, 2200)


@dataclass(frozen=True, slots=True)
class Text:
    """A file of text in UTF-8: its path, the encoding that it came in, and what to say about it."""

    path: Path
    encoding: str
    notes: tuple[str, ...]


def to_utf8(path: Path, name: str, folder: Path, encoding: str | None = None) -> Text:
    """Return a text in UTF-8: the file itself, or a transcoded copy in `folder`.

    Without an `encoding` it is that of a byte order mark, UTF-8 if all bytes are, else Windows-1252 or Latin-1, which
    is said. One of another alphabet's bytes, such as cp1252, accepts UTF-8 with wrong letters; such a file is read as
    UTF-8, which is said, too. Raises `DataError` for bytes that are no text.
    """
    notes: list[str] = []
    with path.open("rb") as file:
        start = file.read(4)
    marked = next((found for mark, found in _MARKS.items() if start.startswith(mark)), None)
    scan = None
    if encoding is not None:
        try:
            encoding = codecs.lookup(encoding).name
        except LookupError:
            raise DataError(f"there is no encoding {encoding!r}; utf-8, cp1252 and utf-16 are some") from None
        if not encoding.startswith("utf") and (marked == "utf-8-sig" or _is_utf8_beyond_ascii(path)):
            notes.append(f"it is UTF-8, and was not read as {encoding}, as given: letters would be wrong")
            encoding = "utf-8"
        else:
            notes.append(f"encoding {encoding}, as given")
        encoding = marked if encoding == "utf-8" and marked == "utf-8-sig" else encoding
    elif marked:
        encoding = marked
        notes += [f"encoding {encoding}, by its byte order mark"] if encoding != "utf-8-sig" else []
    else:
        scan = _scan(path)
        if scan.wrong_byte is None:
            encoding = "utf-8"
        else:
            encoding = "cp1252" if _decodes(path, "cp1252") else "latin-1"
            notes.append(
                f"it is not UTF-8 (near byte {scan.wrong_byte:,}) and was read as {encoding}; say --encoding if "
                "letters are wrong"
            )
    if encoding not in ("utf-8", "utf-8-sig"):
        path, scan = _transcoded(path, name, folder, encoding), None
    scan = scan or _scan(path)
    if scan.wrong_byte is not None:
        raise DataError(f"{name} is not UTF-8: near byte {scan.wrong_byte:,}; say --encoding, such as cp1252")
    if scan.n_nul:
        hint = "; is it UTF-16? say --encoding utf-16-le or utf-16-be" if scan.n_nul > scan.n_bytes / 4 else ""
        raise DataError(
            f"{name} is not a table of text: {scan.n_nul:,} of its {scan.n_bytes:,} bytes are NUL, the first at byte "
            f"{scan.first_nul:,}{hint}"
        )
    return Text(path, encoding, tuple(notes))


@dataclass(slots=True)
class _Scan:
    """What all bytes of a file say: how many there are, how many are NUL, near which one it is not UTF-8, and so on."""

    n_bytes: int = 0
    n_nul: int = 0
    first_nul: int = 0
    wrong_byte: int | None = None
    is_ascii: bool = True


def _scan(path: Path) -> _Scan:
    scan = _Scan()
    decoder = codecs.getincrementaldecoder("utf-8")()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if n_nul := chunk.count(0):
                scan.first_nul = scan.first_nul if scan.n_nul else scan.n_bytes + chunk.index(0)
                scan.n_nul += n_nul
            try:
                if scan.wrong_byte is None:
                    decoder.decode(chunk)
            except UnicodeDecodeError as error:
                scan.wrong_byte = scan.n_bytes + error.start
            scan.n_bytes += len(chunk)
            scan.is_ascii = scan.is_ascii and chunk.isascii()
    try:
        if scan.wrong_byte is None:
            decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        scan.wrong_byte = scan.n_bytes
    return scan


def _is_utf8_beyond_ascii(path: Path) -> bool:
    """Return whether all bytes are UTF-8 and some are not ASCII, which no text in another encoding is by chance."""
    scan = _scan(path)
    return scan.wrong_byte is None and not scan.is_ascii


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                decoder.decode(chunk)
    except UnicodeDecodeError:
        return False
    return True


def _transcoded(path: Path, name: str, folder: Path, encoding: str) -> Path:
    """Return a copy in UTF-8. Raises `DataError` for bytes that are not of the encoding."""
    target = folder / f"{path.name}.utf-8"
    try:
        with path.open(encoding=encoding, newline="") as source, target.open("x", encoding="utf-8", newline="") as out:
            while text := source.read(_CHUNK_BYTES):
                out.write(text)
    except UnicodeError as error:
        raise DataError(f"{name} is not {encoding}: {first_line(error)}") from None
    except LookupError:
        raise DataError(f"{encoding!r} is no encoding of text; utf-8, cp1252 and utf-16 are some") from None
    return target


@dataclass(frozen=True, slots=True)
class Sniffed:
    """What the start of a CSV file says: its dialect, its header or None, the lines before it, and how it was found."""

    dialect: Dialect
    header: tuple[str, ...] | None
    width: int
    skipped_lines: int
    notes: tuple[str, ...]


def sniff(text: Text, given: Dialect, *, separator: str | None, quote: str | None, header: bool | None) -> Sniffed:
    """Return the dialect of a CSV file from its first rows; what is not None is taken as it is.

    Raises `DataError` for a file without cells.
    """
    with text.path.open(encoding="utf-8-sig", newline="") as file:
        start = file.read(_SAMPLE_CHARACTERS)
        is_all = not file.read(1)
    notes = list(text.notes)
    skipped = 0
    body = start
    while match := re.match(r"[ \t]*(\r\n|\n|\r)|sep=(.)(\r\n|\n|\r)", body):
        skipped += 1
        if match[2] and separator is None:
            separator = match[2]
            notes.append(f"separator {_called(separator)}, as its first line says")
        body = body[match.end() :]
    if not body.strip():
        raise DataError("it has no cells")
    if separator is None:
        separator, note = _separator(body, quote or '"', is_all)
        notes.append(note)
    if quote is None:
        quote = _quote(body, separator)
        if quote != '"':
            notes.append(f"quote {quote}, which surrounds cells")
    rows = _rows(body, separator, quote, is_all)
    if not rows:
        raise DataError(f"its first row is longer than {_SAMPLE_CHARACTERS:,} characters, or its quote is never closed")
    names = [name.strip() for name in rows[0]]
    if header is None:
        header, note = _has_header(names, rows[1:])
        notes.append(note)
    dialect = replace(given, encoding=text.encoding, separator=separator, quote=quote, header=header)
    widths = Counter(map(len, rows))
    width = len(names) if header else widths.most_common(1)[0][0]
    return Sniffed(dialect, tuple(names) if header else None, width, skipped, tuple(notes))


def repeated(names: Sequence[str]) -> list[str]:
    """Return a sentence for each name that a header has more than once."""
    counts = Counter(filter(None, names))
    return [f"{count} columns are called {name!r}" for name, count in counts.items() if count > 1]


def _called(separator: str) -> str:
    return _NAMES.get(separator, repr(separator))


def _rows(body: str, separator: str, quote: str, is_all: bool) -> list[list[str]]:
    """Return the first rows, without blank ones, and without the last one if it may be cut off."""
    reader = csv.reader(io.StringIO(body, newline=""), delimiter=separator, quotechar=quote)
    rows: list[list[str]] = []
    try:
        for row in reader:
            if row:
                rows.append(row)
            if len(rows) > _SAMPLE_ROWS:
                break
    except csv.Error:
        is_all = True  # the rows before are whole
    return rows[:_SAMPLE_ROWS] if is_all or len(rows) > _SAMPLE_ROWS else rows[:-1]


def _separator(body: str, quote: str, is_all: bool) -> tuple[str, str]:
    """Return the separator by which most rows are as wide as the first one, and a sentence."""
    scores: dict[str, tuple[float, int, int]] = {}
    for separator in _SEPARATORS:
        widths = [len(row) for row in _rows(body, separator, quote, is_all)]
        if widths and widths[0] > 1:
            same = sum(width == widths[0] for width in widths)
            scores[separator] = (same / len(widths), widths[0], len(widths))
    if not scores:
        return ",", "one column: no comma, semicolon, tab or vertical bar is in its first row"
    best = max(scores, key=lambda each: scores[each][0])  # the first of the best
    share, width, n_rows = scores[best]
    equal = [_called(each) for each, (other, *_) in scores.items() if other == share and each != best]
    also = f"; {' and '.join(equal)} would do, too: say --separator if it is wrong" if equal else ""
    return best, f"separator {_called(best)}: {share:.0%} of the first {n_rows:,} rows have {width} cells{also}"


def _quote(body: str, separator: str) -> str:
    between = re.escape(separator)
    found = {
        quote: len(re.findall(rf"(?m:^|{between}){quote}[^{quote}\r\n]*{quote}(?=(?m:{between}|\r|\n|$))", body))
        for quote in ('"', "'")
    }
    return "'" if found["'"] and not found['"'] else '"'


def _kind(cell: str) -> str:
    cell = cell.strip()
    if not cell or cell.lower() in ("na", "nan", "null", "none", "n/a", "?", "-"):
        return ""
    return "number" if _NUMBER.fullmatch(cell) else "date" if _DATE.fullmatch(cell) else "text"


def _has_header(first: list[str], others: list[list[str]]) -> tuple[bool, str]:
    """Return whether the first row is a header, and why."""
    kinds = [_kind(cell) for cell in first]
    columns = [[_kind(row[i]) for row in others if i < len(row)] for i in range(len(first))]
    found = [Counter(filter(None, column)).most_common(1) for column in columns]
    usual = [each[0][0] if each and each[0][1] > 0.8 * sum(map(bool, c)) else "" for each, c in zip(found, columns)]
    above = zip(first, kinds, usual)
    evidence = [name for name, kind, other in above if kind == "text" and other in ("number", "date")]
    if evidence:
        return True, f"the first row is the header: {evidence[0]!r} stands over numbers or dates"
    if kinds and all(kind == "number" for kind in kinds[1:]) and _are_years(first):
        return True, "the first row is the header: its numbers are years, one after the other"
    numbers = [name for name, kind, other in zip(first, kinds, usual) if kind in ("number", "date") and other == kind]
    if numbers:
        return False, f"no header: the first row has {numbers[0]!r}, as the rows below; say --header if it is one"
    if others and not all(first[1:]):
        return False, "no header: a cell of the first row is empty; say --header if it is one"
    repeated = [
        name for i, name in enumerate(first) if name and any(i < len(row) and row[i].strip() == name for row in others)
    ]
    if repeated and len(repeated) * 2 >= len(first):
        return (
            False,
            f"no header: {repeated[0]!r} is in the rows below, too; say --header if it is one",
        )
    return True, "the first row was taken for the header; say --no-header if it is data"


def _are_years(first: list[str]) -> bool:
    years = [int(cell) for cell in first[1:] if cell.isdecimal() and cell.isascii()]
    in_a_row = years and years == list(range(years[0], years[0] + len(first) - 1))
    return bool(in_a_row) and len(years) > 1 and years[0] in _YEARS
