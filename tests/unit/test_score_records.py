"""The records of CSV in a block of bytes, as Python's `csv` in its strict mode finds them."""

from __future__ import annotations

import csv
import io

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.score.records import MAX_RECORD_BYTES, Marks

# Cells as they are written: quoted with newlines, quotes and separators within, unquoted with quotes in the middle.
TEXT = st.text(st.sampled_from('a1é😀 ,;"\n'), max_size=6)
QUOTED = TEXT.map(lambda text: f'"{text.replace(chr(34), chr(34) * 2)}"') | st.sampled_from(['"\r\n"', '"a\rb"'])
PLAIN = st.text(st.sampled_from('a1é😀 "'), max_size=6).map(lambda text: text.lstrip('"'))
ROWS = st.lists(st.lists(QUOTED | PLAIN, min_size=2, max_size=4).map(",".join), min_size=1, max_size=8)
MALFORMED = ['1,"open', '1,"a"b', '"a" ,1', "1,a\rb", '"']


def texts(block: bytes, *, is_last: bool = True) -> list[str]:
    """Return the records of a block, none of them malformed."""
    found = Marks().split(block, is_last=is_last)
    assert not len(found.malformed)
    return [block[start:end].decode() for start, end in zip(found.starts, found.ends)]


@settings(max_examples=200)
@given(rows=ROWS, end=st.sampled_from(["\n", "\r\n"]), has_last_end=st.booleans(), data=st.data())
def test_records_are_those_that_were_written(
    rows: list[str], end: str, has_last_end: bool, data: st.DataObject
) -> None:
    """Every record is found, in one block and in two that are cut anywhere, and `csv` reads each to the same cells."""
    block = (end.join(rows) + (end if has_last_end else "")).encode()
    place = data.draw(st.integers(0, len(block)))

    length = Marks().cut(block[:place], is_last=False)

    assert texts(block) == rows
    assert texts(block[:length]) + texts(block[length:]) == rows
    whole = list(csv.reader(io.StringIO(block.decode(), newline=""), strict=True))
    assert whole == [next(csv.reader(io.StringIO(row, newline=""), strict=True)) for row in rows]


@settings(max_examples=200)
@given(before=ROWS, wrong=st.sampled_from(MALFORMED), after=ROWS)
@example(before=["1,2"], wrong='1,"open', after=['"a"', '2,"b,c"'])
def test_malformed_record_ends_with_its_line(before: list[str], wrong: str, after: list[str]) -> None:
    """What `csv` refuses is malformed, and takes no record along unless its quote is closed there by chance."""
    rows = [*before, wrong, *after]
    block = "".join(f"{row}\n" for row in rows).encode()

    found = Marks().split(block, is_last=True)

    records = [block[start:end].decode() for start, end in zip(found.starts, found.ends)]
    assert records[: len(before)] == before
    assert "".join(f"{record}\n" for record in records).replace("\r", "") == block.decode().replace("\r", "")
    if wrong.count('"') % 2 == 0 or not any('"' in row for row in after):
        assert records == rows
        assert found.malformed.tolist() == [len(before)]


def test_quote_that_is_never_closed() -> None:
    """A record beyond the limit is malformed, and the lines behind its first are read."""
    line = b'1,"open\n'
    rest = b"2,x\n" * (MAX_RECORD_BYTES // 4 + 1)
    marks = Marks()

    assert marks.cut(line + rest[:1_000], is_last=False) == 0
    found = marks.split(line + rest, is_last=False)

    assert found.malformed.tolist() == [0]
    assert found.length == len(line + rest)
    assert len(found.starts) == 1 + rest.count(b"\n")


@pytest.mark.parametrize("marks", [Marks(b";", b"'"), Marks(b"\t", b'"'), Marks(b"|", b"^"), Marks(b"]", b"\\")])
def test_other_marks(marks: Marks) -> None:
    """Any two characters of ASCII may be the separator and the quote."""
    separator, quote = marks.separator.decode(), marks.quote.decode()
    row = f"a{separator}{quote}b{separator}\n{quote * 2}{quote}{separator}c"
    block = f"{row}\n{row}\n".encode()

    found = marks.split(block, is_last=True)

    assert [block[start:end].decode() for start, end in zip(found.starts, found.ends)] == [row, row]
    assert not len(found.malformed)
