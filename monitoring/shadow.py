"""Rules for challengers that answer behind the champion: how many answers would change, and how many rows are missed.

Instances have seen different requests, so their counts are added.
"""

from __future__ import annotations

from monitoring.comparison import PAIR
from monitoring.rule import Rule, alert, record

MISSED_SHARE = 0.05  # of the rows: beyond that, what is compared may be unlike the rest


def rules(*, window: str, hold: str) -> list[Rule]:
    """Return the rules for the shares of `window`, and the alert when a challenger misses rows for `hold`."""
    rows, missed = "tabserve:shadow_rows:increase", "tabserve:shadow_missed_rows:increase"

    def share(outcomes: str) -> str:
        increase = f'increase(tabserve_shadow_rows_total{{outcome=~"{outcomes}"}}[{window}])'
        return f"sum by ({PAIR}) ({increase}) / ({rows} > 0)"

    return [
        record(rows, f"sum by ({PAIR}) (increase(tabserve_shadow_rows_total[{window}]))"),
        record(missed, f"sum by ({PAIR}) (increase(tabserve_shadow_missed_rows_total[{window}]))"),
        record("tabserve:shadow_differing:ratio", share("different|relabelled")),
        record("tabserve:shadow_relabelled:ratio", share("relabelled")),
        record("tabserve:shadow_missed:ratio", f"{missed} / ({missed} + {rows} > 0)"),
        alert(
            "TabserveShadowMissesRows",
            f"tabserve:shadow_missed:ratio > {MISSED_SHARE}",
            hold=hold,
            severity="warning",
            summary="{{ $labels.model }} version {{ $labels.version }} misses {{ $value | humanizePercentage }} of the "
            "rows behind version {{ $labels.against }}.",
            description="It fails, is too slow, or needs other columns, so that the shares of differing answers may "
            "not hold for all rows. Requests are answered as ever.",
        ),
    ]
