"""Dates as numbers: which texts are dates, what they become, and the way back."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.schema import dates

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LAST = datetime(9999, 12, 31, 23, 59, 59)
offsets = st.integers(-23 * 60 - 59, 23 * 60 + 59).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(max_value=LAST)
FORMATS = ["%d.%m.%Y", "%m/%d/%y %H:%M:%S", "%d %b %Y %I:%M %p", "%Y%m%dT%H%M%S%z", "%Y-%m-%d %H:%M"]


def as_numpy(moment: datetime) -> np.ndarray:
    """Return a moment as an array of numpy, `(1,)`."""
    return np.array([moment], dtype="datetime64[us]")


@given(moment=moments)
def test_every_moment_comes_back(moment: datetime) -> None:
    """A moment becomes the float64 nearest to its seconds, and its text is read as the same; as arrays, too."""
    expected = (moment.replace(tzinfo=UTC) - EPOCH).total_seconds()
    number = dates.parse(moment.isoformat())

    assert number == expected
    assert dates.parse(dates.text_of(expected)) == expected
    assert dates.seconds_of(as_numpy(moment)).tolist() == [expected]
    assert dates.on_grid(np.array([expected])).tolist() == [expected]
    if 1698 < moment.year < 2242:  # where each microsecond is a float64 of its own
        assert dates.moments_of(np.array([expected])).tolist() == [moment]


@given(moment=st.datetimes(timezones=offsets), separator=st.sampled_from("Tt "))
def test_offset_is_taken_off(moment: datetime, separator: str) -> None:
    """A time with an offset from UTC is that moment in UTC, beyond the limits if that is in another year."""
    number = dates.parse(moment.isoformat(separator))
    seconds = (moment - EPOCH).total_seconds()

    assert number is not None
    assert number == (math.floor(seconds) if seconds >= dates.HIGHEST else seconds)
    if dates.LOWEST <= number <= dates.HIGHEST:
        assert dates.parse(dates.text_of(number)) == number


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2020-02-29", "2020-02-29T00:00:00Z"),
        ("2020-02-29 10:30", "2020-02-29T10:30:00Z"),
        ("2020-02-29T10:30:00,5", "2020-02-29T10:30:00.500000Z"),
        ("2020-02-29T10:30:00.123456789", "2020-02-29T10:30:00.123456Z"),
        ("2020-02-29t10:30:00z", "2020-02-29T10:30:00Z"),
        ("2020-02-29 10:30:00 Z", "2020-02-29T10:30:00Z"),
        ("2020-02-29 10:30:00+02", "2020-02-29T08:30:00Z"),
        ("2020-02-29 10:30:00-0230", "2020-02-29T13:00:00Z"),
        ("9999-12-31T23:59:59.999999", "9999-12-31T23:59:59Z"),
    ],
)
def test_forms_of_iso(text: str, same: str) -> None:
    """ISO 8601 leaves open what is written of a time; digits beyond microseconds, and of the last second, are cut."""
    assert dates.parse(text) == dates.parse(same) is not None


@pytest.mark.parametrize(
    "text",
    [
        *("", "2020", "2020-01", "20200101", "2020-W01-1", "2020-001", "1577836800", "1512010111200", "now", "NaT"),
        *("2020-13-01", "2020-02-30", "2020-1-1", " 2020-01-01", "2020-01-01\n", "2020-01-01T", "2020-01-01x10:00"),
        *("2020-01-01T24:00", "2020-01-01T10:00:60", "2020-01-01T10", "2020-01-01T10:00+24:00", "10000-01-01"),
        *("2020-01-01T10:00-23:60", "2020-01-01T10:00+99:00", "0000-12-31T23:00-05:00"),
        *("2020-01-01T10:00:00.", "0000-01-01", "-001-01-01", "٢٠٢٠-٠١-٠١", "2020-01-01T10:00:00+02:00[Europe/Berlin]"),
    ],
)
def test_texts_that_are_no_dates(text: str) -> None:
    """What could be a number, or leaves out a day, is no date, nor is a day or a time that does not exist."""
    assert dates.parse(text) is None


@given(text=st.text() | st.from_regex(r"[-0-9T:.+Zz ]{0,40}"), format=st.sampled_from(["", *FORMATS]))
def test_any_text_is_a_number_or_none(text: str, format: str) -> None:
    """No text raises, and what is taken for a date is a whole or fractional second of about the years 1 to 9999."""
    number = dates.parse(text, format)

    assert number is None or dates.LOWEST - 86_400 <= number <= dates.HIGHEST + 86_401


@given(moment=st.datetimes(datetime(1970, 1, 1), datetime(2068, 12, 31)), format=st.sampled_from(FORMATS))
def test_format_is_read_beside_iso(moment: datetime, format: str) -> None:
    """A text in the format is what Python reads in it, as UTC; ISO 8601 is read as without a format."""
    dates.check_format(format)
    text = moment.replace(tzinfo=UTC).strftime(format)
    expected = datetime.strptime(text, format).replace(tzinfo=UTC)

    assert dates.parse(text, format) == (expected - EPOCH).total_seconds()
    assert dates.parse(moment.isoformat(), format) == dates.parse(moment.isoformat())


@pytest.mark.parametrize(
    ("format", "message"),
    [
        ("%Y-%d-%m", "are other dates in ISO 8601"),
        ("%d.%m.", "does not have the year and the month"),
        ("%H:%M", "does not have the year"),
        ("%d%d%m%Y", "is none of strptime's"),
        ("%q", "is none of strptime's"),
        ("%", "is none of strptime's"),
        ("\0%Y-%m-%d", "is none of strptime's"),
        ("\ud800%Y", "is none of strptime's"),
        ("%Y-%m-%d %Z", "use %z"),
        ("%Y-%m-%d" + " " * 60, "more than 64 characters"),
        ("%A %B " * 7 + "%Y%m%d", "strptime's|more than 64"),
        ("%d.%m.%Y %I:%M", "has one of %I and %p"),
        ("%d.%m.%Y %H:%M %p", "has one of %I and %p"),
        ("%Y-%j", "has %j, which is none"),
        ("%x", "does not mean the same on every machine"),
        ("%G-W%V-%u", "%G, which is none of strptime's that can be used"),
    ],
)
def test_format_must_name_a_month(format: str, message: str) -> None:
    """A format that loses the year or the month, or whose texts are other days in ISO 8601, is refused."""
    with pytest.raises(ValueError, match=message):
        dates.check_format(format)


def test_missing_moments_are_nan() -> None:
    """NaT is NaN, in arrays of any shape and unit."""
    moments = np.array([["2020-01-01", "NaT"]], dtype="datetime64[D]")
    seconds = dates.seconds_of(moments)

    assert np.array_equal(seconds, [[1_577_836_800.0, np.nan]], equal_nan=True)
    assert np.isnat(dates.moments_of(seconds)).tolist() == [[False, True]]
