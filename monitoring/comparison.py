"""Rules for two versions that answer the same requests: the interval around the difference of their losses.

Each instance has the sums of the whole log, so they are not added: those of the instance that has counted most requests
are taken, all from the same one. The rules compute what model/live/verdict.py does, and explains.
"""

from __future__ import annotations

from model.live.verdict import ALPHA, START, START_EQUAL, TIGHTEST, Margin
from monitoring.rule import Rule, alert, record

MODEL = "namespace, job, model"
PAIR = f"{MODEL}, version, against"
_SUMS = ("requests", "differing_requests", "difference", "difference_squares", "loss")


def rules(*, hold: str) -> list[Rule]:
    """Return the rules for the interval of each two versions, which share alpha, and the alert when it is decided."""
    n, differing = "tabserve:comparison_requests:max", "tabserve:comparison_differing_requests:max"
    mean, half = "tabserve:comparison_difference:mean", "tabserve:comparison_half_width"
    low, high, margin = "tabserve:comparison_low", "tabserve:comparison_high", "tabserve:comparison_margin"
    alpha, growth = "tabserve:comparison_alpha", "tabserve:comparison_growth"
    log = f"-2 * ln({alpha})"
    of_model = f"* on ({MODEL}) group_left ()"
    has_begun = f"and {differing} >= {START}"
    better = f"{low} > {margin} {has_begun}"
    equal = f"{low} >= -{margin} and {high} <= {margin}"
    return [
        *(
            record(
                f"tabserve:comparison_{name}:max",
                f"max by ({PAIR}) (\n  tabserve_comparison_{name} and\n"
                f"  topk by ({PAIR}) (1, tabserve_comparison_requests > 0)\n)",
            )
            for name in _SUMS
        ),
        record(mean, f"tabserve:comparison_difference:max / {n}"),
        record(
            "tabserve:comparison_difference_deviation",
            f"sqrt(clamp_min(tabserve:comparison_difference_squares:max / {n} - {mean} ^ 2, 0))",
        ),
        record(alpha, f"{ALPHA} / count by ({MODEL}) ({n})"),
        record(growth, f"{n} {of_model} (({log} + ln({log} + 1)) / {TIGHTEST})"),
        record(
            half,
            f"tabserve:comparison_difference_deviation * sqrt(\n  2 * ({growth} + 1) / ({n} * {growth}) *\n"
            f"  ln(sqrt({growth} + 1) / on ({MODEL}) group_left () {alpha})\n)\n"
            f"and ({differing} >= {START} or {n} >= {START_EQUAL})",
        ),
        record(low, f"{mean} - {half}"),
        record(high, f"{mean} + {half}"),
        record(margin, f"{Margin().value} * tabserve:comparison_loss:max / {n}"),
        record(
            "tabserve:comparison_decided",
            f'label_replace({mean} and ({better}), "decision", "better", "", "") or\n'
            f'label_replace({mean} and ({equal}), "decision", "equal", "", "") or\n'
            f'label_replace({mean} and ({high} < 0 {has_begun}) unless ({equal}), "decision", "worse", "", "")',
        ),
        alert(
            "TabserveComparisonDecided",
            "tabserve:comparison_decided",
            hold=hold,
            severity="warning",
            summary="{{ $labels.model }} version {{ $labels.version }} is {{ $labels.decision }}, compared with "
            "version {{ $labels.against }}.",
            description='On the requests that both answered, its loss is less by {{ printf "%.4g" $value }} on '
            "average.",
        ),
    ]
