"""Rules for drift of features and predictions.

A pod counts rows in the bins of the training data. The rules sum the counts over pods and a window and compare them
with the training shares. `below` and `above` are outside the training range, `01` to `10` are its quantiles (fewer for
a feature of few values; the last is always `10`), and `missing` counts NaN. A category or a boolean has bins for its
frequent values, such as `=Ideal`, then `rest` for the other known ones, and `unseen`. The constants are explained in
model/live/drift.py, which computes the same statistics for the report.

A feature that the model uses less than others must drift more before it is worth a look: its drift is weighted by its
importance, relative to the mean of all features. None has a weight above 1, so that weights raise no alert that chance
alone would not. Features of a version that has no contributions have the weight 1.
"""

from __future__ import annotations

import numpy as np

from model.live.drift import EMPTY_ROWS, MINIMUM_KS, MINIMUM_PSI, SMALLEST_SHARE, C, Z
from model.store.reference import BINS, Bins
from monitoring.rule import FEATURE, VERSION, Rule, alert, record

# The bins after which the distribution functions are compared: all but `above` and `missing`.
CUTS = Bins(0.0, np.arange(float(BINS)), np.full(BINS, 1 / BINS)).labels[:-2]


def rules(*, window: str, hold: str, minimum_rows: int) -> list[Rule]:
    """Return the rules for the rows of the last `window`, if there are at least `minimum_rows`."""
    reference_rows = f"max by ({VERSION}) (last_over_time(tabserve_reference_rows[{window}]))"
    return [
        record("tabserve:reference_rows:max", reference_rows),
        *_distribution("feature", FEATURE, window, minimum_rows),
        *_distribution("prediction", VERSION, window, minimum_rows),
        *_weighted(window),
        alert(
            "TabserveFeatureDrift",
            "tabserve:feature_drift_weighted:ratio > 1",
            hold=hold,
            severity="warning",
            summary="Values of {{ $labels.feature }} are no longer those that {{ $labels.model }} was trained on.",
            description="PSI or KS of {{ $labels.feature }} for {{ $labels.model }} version {{ $labels.version }} was "
            "{{ $value | humanize }} times its threshold in the last " + window + ", weighted by its importance.",
        ),
        alert(
            "TabservePredictionShift",
            "tabserve:prediction_drift:ratio > 1",
            hold=hold,
            severity="warning",
            summary="{{ $labels.model }} predicts other values than on its training data.",
            description="PSI or KS of the predictions of {{ $labels.model }} version {{ $labels.version }} was "
            "{{ $value | humanize }} times its threshold in the last " + window + ".",
        ),
    ]


def _distribution(what: str, by: str, window: str, minimum_rows: int) -> list[Rule]:
    """Return the rules that compare the bins of `what`, feature or prediction, with training."""
    name = f"tabserve:{what}"
    in_range = 'bin!~"below|above|unseen|missing"'
    rows, share = f"{name}_bin_rows:increase", f"{name}_bin:ratio"
    inside, expected = f"{name}_bin_in_range_rows:increase", f"{name}_bin_expected:ratio"
    # The last value in the window instead of the current one, so that pods that have just ended count.
    reference = f"max by ({by}, bin) (last_over_time(tabserve_{what}_bin_reference_ratio[{window}]))"
    ks = " or\n  ".join(
        f'label_replace(abs(sum by ({by}) ({name}_bin_difference:ratio{{bin=~"{"|".join(CUTS[: cut + 1])}"}})), '
        f'"cut", "{CUTS[cut]}", "", "")'
        for cut in range(len(CUTS))
    )
    df = f"{name}_degrees_of_freedom"
    return [
        record(rows, f"sum by ({by}, bin) (increase(tabserve_{what}_bin_total[{window}]))"),
        # Rows with a value, absent if there are too few; everything that depends on it is then absent, too.
        record(f"{name}_rows:sum", f'sum by ({by}) ({rows}{{bin!="missing"}}) >= {minimum_rows}'),
        record(share, f'{rows}{{bin!="missing"}} / on ({by}) group_left () {name}_rows:sum'),
        record(f"{name}_bin_reference:max", reference),
        record(
            f"{name}_bin_reference:ratio",
            f'{name}_bin_reference:max{{bin!="missing"}} / on ({by}) group_left ()\n'
            f'sum by ({by}) ({name}_bin_reference:max{{bin!="missing"}})',
        ),
        # The largest distance between the two distribution functions, compared after every bin; none for categories.
        record(f"{name}_bin_difference:ratio", f"{share} - {name}_bin_reference:ratio"),
        record(f"{name}_ks", f"max by ({by}) (\n  {ks}\n)"),
        # Values outside the range count in the nearest bin: training has no share there, and PSI would be infinite. A
        # feature of one value has no bin 01, so values below it are missing in bin 10. Unseen categories count among
        # those without a bin of their own, which have a small share where training has none.
        record(
            inside,
            f"{rows}{{{in_range}}} + (\n"
            f'  label_replace({rows}{{bin="below"}}, "bin", "01", "", "") or\n'
            f'  label_replace({rows}{{bin="above"}}, "bin", "10", "", "") or\n'
            f'  label_replace({rows}{{bin="unseen"}}, "bin", "rest", "", "") or\n'
            f"  0 * {rows}{{{in_range}}}\n)",
        ),
        record(
            f"{name}_bin_in_range:ratio",
            f"clamp_min(clamp_min({inside}, {EMPTY_ROWS}) / on ({by}) group_left () {name}_rows:sum, "
            f"{SMALLEST_SHARE:g})",
        ),
        record(
            expected,
            f"{name}_bin_reference:ratio{{{in_range}}} > 0 or\n"
            f"clamp_min({name}_bin_reference:ratio{{{in_range}}}, {SMALLEST_SHARE:g}) and {inside} > 0",
        ),
        record(
            f"{name}_psi",
            f"sum by ({by}) (\n  ({name}_bin_in_range:ratio - {expected}) *\n"
            f"  ln({name}_bin_in_range:ratio / {expected})\n)",
        ),
        # Without drift, PSI is distributed as (1/N + 1/M) times chi-square with one degree of freedom less than there
        # are bins (Yurdakul and Naranjo 2020), for N rows in the window and M in training.
        record(
            f"{name}_sampling_variance",
            f"1 / {name}_rows:sum + on ({VERSION}) group_left () 1 / tabserve:reference_rows:max",
        ),
        record(df, f"clamp_min(count by ({by}) ({name}_bin_reference:ratio{{{in_range}}} > 0) - 1, 1)"),
        # The quantile of chi-square after Wilson and Hilferty (1931), 11 % too high at most.
        record(
            f"{name}_psi_threshold",
            f"clamp_min(\n  {df} * (1 - 2 / (9 * {df}) + {Z:.3f} * sqrt(2 / (9 * {df}))) ^ 3 *\n"
            f"  {name}_sampling_variance,\n  {MINIMUM_PSI}\n)",
        ),
        record(f"{name}_ks_threshold", f"clamp_min({C:.3f} * sqrt({name}_sampling_variance), {MINIMUM_KS})"),
        record(
            f"{name}_drift:ratio",
            f"max by ({by}) (\n"
            f'  label_replace({name}_psi / {name}_psi_threshold, "statistic", "psi", "", "") or\n'
            f'  label_replace({name}_ks / {name}_ks_threshold, "statistic", "ks", "", "")\n)',
        ),
    ]


def _weighted(window: str) -> list[Rule]:
    """Return the rules that weigh the drift of features, and those for what moved the predictions of the window."""
    importance, weight = "tabserve:feature_importance:max", "tabserve:feature_weight:ratio"
    contributions = f"sum by ({FEATURE}) (increase(tabserve_feature_contribution_total[{window}]))"
    return [
        record(importance, f"max by ({FEATURE}) (last_over_time(tabserve_feature_importance_ratio[{window}]))"),
        # An importance is the share of all contributions, so the mean is 1 divided by the number of features.
        record(
            weight,
            f"clamp_max({importance} * on ({VERSION}) group_left () count by ({VERSION}) ({importance}), 1) or\n"
            f"1 + 0 * sum by ({FEATURE}) (tabserve:feature_bin_rows:increase)",
        ),
        record("tabserve:feature_drift_weighted:ratio", f"tabserve:feature_drift:ratio * {weight}"),
        record("tabserve:feature_contribution:increase", contributions),
        record(
            "tabserve:feature_contribution:ratio",
            f"tabserve:feature_contribution:increase / on ({VERSION}) group_left ()\n"
            f"(sum by ({VERSION}) (tabserve:feature_contribution:increase) > 0)",
        ),
    ]
