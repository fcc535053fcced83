"""Dates: texts, and the seconds since 1970-01-01T00:00:00 UTC that a matrix has for them.

A text is ISO 8601 in its extended form, a date or a date and a time, or in a format of its own as `strptime` has it. A
time without an offset from UTC is UTC. Seconds are float64, the nearest to the microsecond: to the year 2242 each
microsecond is a number of its own, in the year 9999 the nearest number is up to 16 µs away.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache

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
_YEAR = r"([1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])"
_HOUR, _SIXTY = r"([01]\d|2[0-3])", r"[0-5]\d"
ISO = rf"{_YEAR}-\d\d-\d\d([Tt ]{_HOUR}:{_SIXTY}(:{_SIXTY}([.,]\d{{1,9}})?)?( ?[Zz]|[+-]{_HOUR}(:?{_SIXTY})?)?)?"
"""The form of dates in ISO 8601, for Python and RE2. Some days of this form do not exist.

`fromisoformat` takes more, such as 1512010111200 for noon in 1512, which may be milliseconds since 1970.
"""
_ISO = re.compile(ISO, re.ASCII)
# The directives of strptime that mean the same everywhere: each with its digits, or with letters.
_DIGITS = {"Y": (4, 4), "y": (2, 2), "f": (1, 6), **dict.fromkeys("mdHIMS", (1, 2))}
_OTHERS = {**dict.fromkeys("aAbBp", "[A-Za-z]{2,9}"), "z": rf"[+-]{_HOUR}:?{_SIXTY}", "%": "%"}
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
        elif format and _compiled(format).fullmatch(text):
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


def pattern(format: str) -> str:
    """Return the form of texts in a format that `check_format` accepts, for Python and RE2.

    Numbers may lack a leading 0, unless others stand directly beside them. Some days of this form do not exist.
    """
    parts = re.findall(r"%.|[^%]", format, re.DOTALL)
    numbers = [part[0] == "%" and part[1:] in _DIGITS for part in parts]
    found = []
    for number, part in enumerate(parts):
        if numbers[number]:
            least, most = _DIGITS[part[1:]]
            beside = any(numbers[max(number - 1, 0) : number] + numbers[number + 1 : number + 2])
            found.append(_YEAR if part == "%Y" else rf"\d{{{most if beside else least},{most}}}")
        elif part == " ":
            found.append(" {1,2}")
        else:
            found.append(_OTHERS[part[1:]] if part[0] == "%" else re.escape(part))
    return "".join(found)


@lru_cache(maxsize=256)
def _compiled(format: str) -> re.Pattern[str]:
    return re.compile(pattern(format), re.ASCII)


def check_format(format: str) -> None:
    """Raise `ValueError` for a format that does not give back a month, or whose texts ISO 8601 reads as other days.

    Without a day it is that of the first of the month.
    """
    if len(format) > MAX_LENGTH:
        raise ValueError(f"the format of dates has more than {MAX_LENGTH} characters")
    for directive in re.findall(r"%(.)", format, re.DOTALL):
        if directive in "ZcxX":
            raise ValueError(
                f"the format of dates has %{directive}, which does not mean the same on every machine; use "
                f"{'%z' if directive == 'Z' else 'the year, the month and so on'}"
            )
        if directive not in {*_DIGITS, *_OTHERS}:
            raise ValueError(
                f"the format of dates {format!r} has %{directive}, which is none of strptime's that can be used: "
                f"{', '.join(f'%{each}' for each in (*_DIGITS, *_OTHERS))}"
            )
    if ("%I" in format) != ("%p" in format):
        raise ValueError(f"the format of dates {format!r} has one of %I and %p; they say the hour together")
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
