"""Dates: texts, and the seconds since 1970-01-01T00:00:00 UTC that a matrix has for them.

A text is ISO 8601 in its extended form, a date or a date and a time, or in a format of its own as `strptime` has it. A
time without an offset from UTC is UTC. Seconds are float64, the nearest to the microsecond: to the year 2242 each
microsecond is a number of its own, in the year 9999 the nearest number is up to 16 µs away.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache

import numpy as np
from numpy.typing import NDArray

LOWEST = -62_135_596_800.0  # 0001-01-01T00:00:00
HIGHEST = 253_402_300_799.0  # 9999-12-31T23:59:59, for all of that second

MAX_LENGTH = 64  # of a text, and of a format: no text is read at length
_EPOCH = datetime(1970, 1, 1)
_NO_OFFSET = timedelta(0)
_MICROSECONDS = 1_000_000  # in a second
_DAY = 86_400  # seconds
_FEW_DAYS = 10
# `fromisoformat` takes more than this, such as 1512010111200 for noon in 1512, which may be milliseconds since 1970.
_ISO = re.compile(
    r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d([.,]\d{1,9})?)?( ?Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII | re.IGNORECASE
)
_SHOWN = datetime(2026, 1, 31, 14, 30, tzinfo=UTC)  # as an example
_SAMPLES = (datetime(2003, 11, 22, tzinfo=UTC), datetime(2004, 2, 5, tzinfo=UTC))  # by which a format is tried


def parse(text: str, format: str = "") -> float | None:
    """Return the seconds of a text in ISO 8601, or in a format; None for any other text.

    They are beyond `LOWEST` and `HIGHEST` for a time that is in the year 0 or 10000 in UTC. Digits beyond microseconds
    are cut off.
    """
    if len(text) > MAX_LENGTH:
        return None
    try:
        if _ISO.fullmatch(text):
            moment = datetime.fromisoformat(text.upper().replace(" Z", "Z"))
        elif format:
            moment = datetime.strptime(text, format)
        else:
            return None
    except ValueError:  # such as the month 13
        return None
    since = moment.replace(tzinfo=None) - _EPOCH - (moment.utcoffset() or _NO_OFFSET)
    whole = since.days * _DAY + since.seconds
    return float(whole) if whole >= HIGHEST else since.total_seconds()


def text_of(seconds: float) -> str:
    """Return seconds from `LOWEST` to `HIGHEST` in ISO 8601: a date at midnight, else a date and a time in UTC.

    `parse` of it returns the same seconds, if they are those of a text.
    """
    whole = int(seconds // 1)
    moment = _EPOCH + timedelta(seconds=whole, microseconds=round((seconds - whole) * _MICROSECONDS))
    return moment.date().isoformat() if not (seconds - whole or whole % _DAY) else f"{moment.isoformat()}Z"


@cache
def accepted(format: str = "") -> str:
    """Return in words which texts are dates, with an example of each."""
    iso = f"ISO 8601, such as {_SHOWN.date()} or {_SHOWN:%Y-%m-%dT%H:%M:%SZ}"
    return f"{iso}, and {format}, such as {_SHOWN.strftime(format)}" if format else iso


def shown(*seconds: float) -> list[str]:
    """Return seconds for people: as days, or as minutes in UTC where they are within a few days."""
    texts = [text_of(each) for each in seconds]
    if max(seconds) - min(seconds) > _FEW_DAYS * _DAY or not any("T" in text for text in texts):
        return [text[:10] for text in texts]
    return [f"{text[:10]} {text[11:16] or '00:00'}" for text in texts]


def seconds_of(moments: NDArray[np.datetime64]) -> NDArray[np.float64]:
    """Return the seconds of moments in UTC, of any shape: what `parse` returns for their texts, and NaN for NaT."""
    missing = np.isnat(moments)
    whole, rest = np.divmod(np.where(missing, 0, moments.astype("datetime64[us]").view(np.int64)), _MICROSECONDS)
    return np.where(missing, np.nan, whole + np.where(whole >= HIGHEST, 0, rest) / _MICROSECONDS)


def moments_of(seconds: NDArray[np.float64]) -> NDArray[np.datetime64]:
    """Return the moments in UTC, as datetime64[us], that are nearest to seconds; NaT for NaN."""
    missing = np.isnan(seconds)
    whole = np.floor(np.where(missing, 0.0, seconds))
    rest = np.rint(np.where(missing, 0.0, seconds - whole) * _MICROSECONDS)
    microseconds = whole.astype(np.int64) * _MICROSECONDS + rest.astype(np.int64)
    return np.where(missing, np.datetime64("NaT", "us"), microseconds.view("datetime64[us]"))


def on_grid(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the seconds of the nearest moments: what a text can become."""
    return seconds_of(moments_of(seconds))


def check_format(format: str) -> None:
    """Raise `ValueError` for a format that does not give back a month, or whose texts ISO 8601 reads as other days.

    Without a day it is that of the first of the month.
    """
    if len(format) > MAX_LENGTH:
        raise ValueError(f"the format of dates has more than {MAX_LENGTH} characters")
    if "%Z" in format:
        raise ValueError("the format of dates has %Z, and names of time zones have no one meaning; use %z")
    for sample in _SAMPLES:
        try:
            text = sample.strftime(format)
            found = datetime.strptime(text, format)
        except (ValueError, re.error) as error:
            raise ValueError(f"the format of dates {format!r} is none of strptime's: {error}") from None
        if found.date() not in (sample.date(), sample.date().replace(day=1)):
            raise ValueError(f"the format of dates {format!r} does not have the year and the month")
        if len(text) > MAX_LENGTH:
            raise ValueError(f"the format of dates {format!r} makes texts of more than {MAX_LENGTH} characters")
        if _ISO.fullmatch(text) and parse(text) != parse(sample.isoformat()):
            raise ValueError(f"texts in the format {format!r} are other dates in ISO 8601")


def has_day(format: str) -> bool:
    """Return whether a format that `check_format` accepts gives the day of the month."""
    return datetime.strptime(_SAMPLES[0].strftime(format), format).day == _SAMPLES[0].day
