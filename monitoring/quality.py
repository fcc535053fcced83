"""Rules for broken data: features that are missing, unseen, out of the training range, or constant.

When values drift the world has changed; when they are missing or impossible a pipeline is broken. So these alerts are
apart from drift. From a small share of the rows on they are a ticket. They page if a feature that the model relies on
is broken in most rows. Rows that were refused for such a value count like those that were answered.

The rules go on from what drift.py records.
"""

from __future__ import annotations

import math

from model import MISSING, OUT_OF_RANGE, UNKNOWN_CATEGORY
from model.live.drift import ALPHA, MINIMUM_MISSING, Z
from monitoring.rule import FEATURE, VERSION, Rule, alert, record

BROKEN = 0.5  # of the rows, more than in training: most answers rely on it
# So much more than in training: one row in a hundred, as for missing values.
MINIMUM_UNSEEN = MINIMUM_OUTSIDE = MINIMUM_MISSING
ROWS = "tabserve:feature_bin_rows:increase"
SENT = "tabserve:feature_sent_rows:sum"
OF_FEATURE = "{{ $labels.feature }}"
MODEL = "{{ $labels.model }}"


def rules(*, window: str, hold: str, minimum_rows: int) -> list[Rule]:
    """Return the rules for the rows of the last `window`, if there are at least `minimum_rows`."""
    refused = f"increase(tabserve_rejected_rows_total[{window}])"
    reference = f'sum by ({FEATURE}) (tabserve:feature_bin_reference:max{{bin="missing"}})'
    # Of rows like those of training, 1 in N + 1 is above the largest of N values, and 1 below the smallest.
    outside = f"0 * {SENT} + on ({VERSION}) group_left ()\n(2 / (tabserve:reference_rows:max + 1) + {MINIMUM_OUTSIDE})"
    return [
        # A row counts once for each feature and reason, so the largest count is a lower bound of the rows.
        record(
            "tabserve:rejected_rows:increase",
            f"max by ({VERSION}) (sum by ({FEATURE}, reason) ({refused})) or 0 * sum by ({VERSION}) ({ROWS})",
        ),
        record(
            SENT,
            f"sum by ({FEATURE}) ({ROWS}) + on ({VERSION}) group_left () "
            f"tabserve:rejected_rows:increase >= {minimum_rows}",
        ),
        *_share("missing", "missing", MISSING, f"clamp_max({reference} + {MINIMUM_MISSING}, 1)", window),
        *_share("unseen", "unseen", UNKNOWN_CATEGORY, f"0 * {SENT} + {MINIMUM_UNSEEN}", window),
        *_share("outside", "below|above", OUT_OF_RANGE, outside, window),
        # All values are in a bin in which as many rows of training are by chance with the probability `share ** rows`.
        # Values that are all outside or unseen have alerts of their own.
        record(
            "tabserve:feature_constant_rows:sum",
            f'{ROWS}{{bin!~"below|above|unseen|missing"}} and tabserve:feature_bin:ratio == 1 and\n'
            f"ln(tabserve:feature_bin_reference:ratio) * on ({FEATURE}) group_left () tabserve:feature_rows:sum "
            f"< {math.log(ALPHA):.3f}",
        ),
        *_broken(
            "TabserveMissingValues",
            "missing",
            hold=hold,
            summary=f"{OF_FEATURE} is missing more often than when {MODEL} was trained.",
            description=f"{OF_FEATURE} was missing",
            window=window,
        ),
        *_broken(
            "TabserveUnseenCategories",
            "unseen",
            hold=hold,
            summary=f"{OF_FEATURE} has categories that {MODEL} was not trained on.",
            description=f"{OF_FEATURE} was a category that training did not have",
            window=window,
        ),
        *_broken(
            "TabserveOutOfRange",
            "outside",
            hold=hold,
            summary=f"{OF_FEATURE} is outside the range that {MODEL} was trained on.",
            description=f"{OF_FEATURE} was below or above all values of training",
            window=window,
        ),
        alert(
            "TabserveConstantFeature",
            "tabserve:feature_constant_rows:sum > 0",
            hold=hold,
            severity="warning",  # no page: in a batch, or of a date, a feature may well be constant
            summary=f"{OF_FEATURE} no longer varies in what {MODEL} is sent.",
            description=f"All {{{{ $value | humanize }}}} values of {OF_FEATURE} for {MODEL} version "
            f"{{{{ $labels.version }}}} in the last {window} are in the bin {{{{ $labels.bin }}}}.",
        ),
    ]


def _share(name: str, bins: str, reason: str, usual: str, window: str) -> list[Rule]:
    """Return the rules for the share of the rows whose values are in some bins, or were refused for a reason."""
    counted = f'sum by ({FEATURE}) ({ROWS}{{bin=~"{bins}"}})'
    refused = f'increase(tabserve_rejected_rows_total{{reason="{reason}", feature!=""}}[{window}])'
    recorded = f"tabserve:feature_{name}_usual:ratio"
    return [
        record(
            f"tabserve:feature_{name}:ratio",
            f"(\n  {counted} +\n  (sum by ({FEATURE}) ({refused}) or 0 * sum by ({FEATURE}) ({ROWS}))\n) / {SENT}",
        ),
        record(recorded, usual),
        # The score test of a proportion: the smallest share that chance does not explain if the usual one is true.
        record(
            f"tabserve:feature_{name}_threshold",
            f"{recorded} + {Z:.3f} * sqrt({recorded} * (1 - {recorded}) / {SENT})",
        ),
    ]


def _broken(name: str, share: str, *, hold: str, summary: str, description: str, window: str) -> list[Rule]:
    """Return a warning where a share is above its threshold, and a page where an important feature is broken."""
    ratio = f"tabserve:feature_{share}:ratio"
    excess = f"({ratio} - tabserve:feature_{share}_usual:ratio) * tabserve:feature_weight:ratio"
    return [
        alert(
            name,
            expr,
            hold=hold,
            severity=severity,
            summary=summary,
            description=f"{description} in {{{{ $value | humanizePercentage }}}} of the rows that {MODEL} version "
            f"{{{{ $labels.version }}}} was sent in the last {window}.",
        )
        for severity, expr in (
            ("critical", f"{ratio} and\n{excess} > {BROKEN}"),
            ("warning", f"{ratio} > tabserve:feature_{share}_threshold"),
        )
    ]
