"""The quality of a table as a document of JSON, and as one HTML page without scripts or network.

`docs/quality.md` states the JSON form. A new key may come; the meaning of one does not change within a version.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import DataError, counted, one_line
from model.plots import page
from model.schema.feature import DATE
from model.table.checks import DIMENSIONS, Finding, Quality, report
from model.table.clean import Cleaned
from model.table.profile import EXACT_DISTINCT, SAMPLE_ROWS, ColumnProfile, written

VERSION = 1
_TEMPLATE = Path(__file__).parent / "templates" / "quality.html"

MAX_COLUMNS = 200  # in the page: it stays below a few megabytes
_MAX_PERIODS = 48  # bars of the rows over time; more months become years
_WIDTH, _HEIGHT = 240.0, 72.0  # of a picture, in its own units
_END = 10.0  # width of what stands for outliers beside the bars
_LEAST = 2.0  # height of a bar that is not 0
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a picture, in its units, and what it says."""

    x: float
    y: float
    width: float
    height: float
    label: str
    kind: str = "bar"


def document(quality: Quality, cleaned: Cleaned | None = None) -> dict[str, Any]:
    """Return the quality as a document of JSON; numbers that are not finite are not in it."""
    return {
        "version": VERSION,
        "source": quality.source,
        "sha256": quality.sha256,
        "rows": quality.n_rows,
        "checked_on": quality.today.isoformat(),
        "errors": len(quality.errors),
        "warnings": len(quality.findings) - len(quality.errors),
        "findings": [_finding(finding, quality.n_rows) for finding in quality.findings],
        "columns": [_column(profile) for profile in quality.profiles],
        "age": _age(quality),
        "cleaned": _cleaned(cleaned) if cleaned else None,
    }


def to_json(quality: Quality, cleaned: Cleaned | None = None) -> str:
    """Return the document as text."""
    return json.dumps(document(quality, cleaned), indent=2, ensure_ascii=False, allow_nan=False)


def to_text(quality: Quality, cleaned: Cleaned | None = None) -> str:
    """Return the findings as text, with how old the rows are, and how many of them passed."""
    lines = [report(quality.source, quality.findings)]
    if age := quality.age:
        older = (
            f"; {share(age.n_older / age.n_rows)} of the rows are older than {age.maximum} days"
            if age.maximum is not None
            else ""
        )
        lines.append(f"age: the newest row by {age.column!r} is {age.days:,} days old{older}")
    if cleaned:
        total = cleaned.n_kept + cleaned.n_rejected
        lines.append(f"clean: {total:,} rows = {cleaned.n_kept:,} kept + {cleaned.n_rejected:,} rejected")
        for each in cleaned.by_rule:
            where = "" if each.rule.column is None else f"column {each.rule.column!r} "
            lines.append(f"  {each.n_rows:>9,}  {where}{one_line(each.rule.reason)}")
        lines.append(f"  written to {cleaned.kept_path} and {cleaned.rejected_path}")
    return "\n".join(lines)


def _finding(finding: Finding, n_rows: int) -> dict[str, Any]:
    return {
        "dimension": finding.dimension,
        "kind": finding.kind,
        "severity": "error" if finding.fatal else "warning",
        "column": finding.problem.feature,
        "problem": finding.problem.reason,
        "rows": finding.n_rows,
        "share": finding.n_rows / n_rows if n_rows else 0.0,
        "first_rows": list(finding.first_rows),
        "examples": list(finding.examples),
        "what_to_do": finding.remedy,
    }


def _column(profile: ColumnProfile) -> dict[str, Any]:
    return {
        "name": profile.name,
        "type": profile.type,
        "unit": profile.unit,
        "used": profile.is_used,
        "missing": profile.n_missing,
        "missing_share": profile.missing,
        "values": profile.n_values,
        "distinct_about": profile.n_distinct,
        "minimum": _value(profile.minimum, profile.type),
        "maximum": _value(profile.maximum, profile.type),
        "quartiles": [_value(each, profile.type) for each in profile.quartiles] if profile.quartiles else None,
        "outlier_limits": list(profile.limits) if profile.limits else None,
        "frequent": [{"text": text, "sampled_rows": n_rows} for text, n_rows in profile.texts],
    }


def _value(value: float | None, type: str) -> float | str | None:
    return value if value is None or type != DATE else written(value, type)


def _age(quality: Quality) -> dict[str, Any] | None:
    age = quality.age
    if age is None:
        return None
    return {
        "column": age.column,
        "newest": written(age.newest, DATE),
        "oldest": written(age.oldest, DATE),
        "days": age.days,
        "maximum_days": age.maximum,
        "rows": age.n_rows,
        "older": age.n_older,
        "older_share": age.n_older / age.n_rows if age.n_rows else 0.0,
    }


def _cleaned(cleaned: Cleaned) -> dict[str, Any]:
    return {
        "kept": cleaned.n_kept,
        "rejected": cleaned.n_rejected,
        "kept_file": str(cleaned.kept_path),
        "rejected_file": str(cleaned.rejected_path),
        "reasons": [
            {"kind": each.rule.kind, "column": each.rule.column, "reason": each.rule.reason, "rows": each.n_rows}
            for each in cleaned.by_rule
        ],
    }


def write_html(quality: Quality, path: Path) -> None:
    """Write the page, all of it or nothing. Raises `DataError`."""
    incoming = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        incoming.write_text(to_html(quality), "utf-8")
        os.replace(incoming, path)
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        incoming.unlink(missing_ok=True)


def to_html(quality: Quality) -> str:
    """Return the page."""
    far: dict[str, int] = defaultdict(int)
    for each in quality.broken:
        if each.rule.kind in ("outlier", "marker") and each.rule.column:
            far[each.rule.column] += each.n_rows
    by_kind = {each.rule.kind: each.n_rows for each in quality.broken if each.rule.column is None}
    by_kind["contradiction"] = sum(each.n_rows for each in quality.broken if each.rule.kind == "contradiction")
    text = page.template(
        _TEMPLATE, {"share": share, "written": written, "counted": counted, "distinct": _distinct}
    ).render(
        quality=quality,
        dimensions={
            dimension: [finding for finding in quality.findings if finding.dimension == dimension]
            for dimension in DIMENSIONS
        },
        columns=[(profile, _picture(profile, far[profile.name]), far[profile.name]) for profile in _drawn(quality)],
        n_left_out=max(len(quality.profiles) - MAX_COLUMNS, 0),
        missing=[profile for profile in sorted(_drawn(quality), key=lambda each: -each.missing) if profile.n_missing],
        rows=_repeats(quality.n_rows, by_kind.get("duplicate row", 0), by_kind["contradiction"]),
        periods=_periods(quality.age.months) if quality.age else [],
        width=_WIDTH,
        height=_HEIGHT,
        sample=min(quality.n_rows, SAMPLE_ROWS),
        is_sampled=quality.n_rows > SAMPLE_ROWS,
    )
    return _CONTROLS.sub("\ufffd", text)


def share(share: float) -> str:
    """Return a share for a person: not 0 % of what is there."""
    return f"{share:.1%}" if share == 0 or share >= 0.001 else "below 0.1%"


def _distinct(number: int) -> str:
    if number == 1:
        return "1 value"
    return f"{'about ' if number >= EXACT_DISTINCT else ''}{number:,} different values"


def _drawn(quality: Quality) -> Sequence[ColumnProfile]:
    return quality.profiles[:MAX_COLUMNS]


def _picture(profile: ColumnProfile, n_far: int) -> list[Bar]:
    """Return the bars of a column: bins of values within the limits, and at the ends what stands for outliers."""
    if not profile.counts:
        return _texts(profile)
    low, high = profile.limits or (float("-inf"), float("inf"))
    has_low = n_far > 0 and profile.minimum is not None and profile.minimum < low
    has_high = n_far > 0 and profile.maximum is not None and profile.maximum > high
    left, right = _END * has_low, _WIDTH - _END * has_high
    ends = [[written(end, profile.type) for end in each] for each in profile.bins]
    labels = [f"{' to '.join(dict.fromkeys(each))}: {n:,} rows" for each, n in zip(ends, profile.counts)]
    bars = list(_upright(profile.counts, labels, left, right))
    if has_low:
        bars.append(Bar(0, 0, _END - 3, _HEIGHT, f"outliers down to {written(profile.minimum, profile.type)}", "far"))
    if has_high:
        label = f"outliers up to {written(profile.maximum, profile.type)}"
        bars.append(Bar(_WIDTH - _END + 3, 0, _END - 3, _HEIGHT, label, "far"))
    return bars


def _upright(counts: Sequence[int], labels: Sequence[str], left: float, right: float) -> Iterable[Bar]:
    step = (right - left) / max(len(counts), 1)
    most = max(counts, default=0)
    for place, (count, label) in enumerate(zip(counts, labels)):
        if count:
            height = max(_HEIGHT * count / most, _LEAST)
            yield Bar(left + place * step + 0.5, _HEIGHT - height, max(step - 1, 0.5), height, label)


def _texts(profile: ColumnProfile) -> list[Bar]:
    """Return lying bars of the most frequent texts."""
    most = max((n_rows for _, n_rows in profile.texts), default=0)
    step = _HEIGHT / max(len(profile.texts), 4)
    return [
        Bar(0, place * step + 1, max(_WIDTH * n_rows / most, _LEAST), step - 2, f"{text}: {n_rows:,} rows")
        for place, (text, n_rows) in enumerate(profile.texts)
    ]


def _repeats(n_rows: int, n_duplicates: int, n_contradictions: int) -> list[tuple[str, int, float]]:
    """Return the parts of all rows as (name, rows, share): those that say something new, and the others."""
    n_new = max(n_rows - n_duplicates - n_contradictions, 0)
    parts = (("new", n_new), ("repeat an earlier row", n_duplicates), ("contradict an earlier row", n_contradictions))
    return [(name, count, count / n_rows if n_rows else 0.0) for name, count in parts]


def _periods(months: Sequence[tuple[str, int]]) -> list[Bar]:
    """Return a bar for each month from the first to the last; if there are many, for each of the last years."""
    counts = dict(months)
    first, last = months[0][0], months[-1][0]
    ends = [int(year) * 12 + int(month) - 1 for year, month in (each.split("-") for each in (first, last))]
    if ends[1] - ends[0] < _MAX_PERIODS:
        names = [f"{number // 12:04}-{number % 12 + 1:02}" for number in range(ends[0], ends[1] + 1)]
    else:
        by_year: dict[str, int] = defaultdict(int)
        for month, count in months:
            by_year[month[:-3]] += count
        counts = dict(by_year)
        names = [f"{year:04}" for year in range(ends[0] // 12, ends[1] // 12 + 1)][-_MAX_PERIODS:]
    labels = [f"{name}: {counts.get(name, 0):,} rows" for name in names]
    return list(_upright([counts.get(name, 0) for name in names], labels, 0, _WIDTH))
