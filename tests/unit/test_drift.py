"""The reference bins: live values are counted into the training distribution and compared with it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2, ks_2samp, norm

from model import Feature, Schema
from model.live.drift import ALPHA, C, Z, ks, ks_threshold, missing_threshold, psi, psi_threshold
from model.schema.feature import BOOLEAN, CATEGORY, DATE
from model.store.reference import (
    BINS,
    CATEGORY_BINS,
    AnyBins,
    Bins,
    CategoryBins,
    Reference,
    bin_numbers,
    category_bins,
    parse,
    reference_bins,
)
from model.store.reference import reference as reference_of
from tests.support.examples import BOSTON_HOUSING, rows_of

finite = st.floats(allow_nan=False, allow_infinity=False)
# Many ties, as measurements have them, or none.
columns = st.lists(finite, min_size=1, max_size=80) | st.lists(st.integers(0, 15).map(float), min_size=1, max_size=80)


@pytest.fixture(scope="module")
def reference(store: Path) -> dict[str, Any]:
    """The reference of the trained artifact."""
    facts: dict[str, Any] = json.loads((store / "boston-housing" / "1" / "reference.json").read_text())
    return facts


def plain_bin(value: float, edges: list[float]) -> int:
    """Return the number of the first edge that is not below the value, one by one."""
    return next((number for number, edge in enumerate(edges) if value <= edge), len(edges))


@given(values=columns)
def test_reference_is_a_distribution(values: list[float]) -> None:
    """Edges are values that occur and rise strictly to the largest; at most ten shares sum to 1, none of them 0."""
    found: dict[str, Any] = reference_bins(np.array(values))
    edges, shares = found["edges"], found["shares"]

    assert found["minimum"] == min(values)
    assert edges[-1] == max(values)
    assert edges == sorted(set(edges))
    assert set(edges) <= set(values)
    assert len(shares) == len(edges) <= BINS
    assert min(shares) > 0
    assert math.fsum(shares) == pytest.approx(1, abs=1e-12)


@given(values=columns)
def test_shares_are_what_counting_gives(values: list[float]) -> None:
    """The share of a bin is that found by counting the values one by one."""
    found = reference_bins(np.array(values))
    counts = [0] * len(found["edges"])
    for value in values:
        counts[plain_bin(value, found["edges"])] += 1

    assert found["shares"] == [count / len(values) for count in counts]


@given(values=st.lists(st.floats(allow_nan=False), max_size=40), edges=st.sets(finite, min_size=1, max_size=12))
def test_bin_numbers_are_the_plain_definition(values: list[float], edges: set[float]) -> None:
    """A value is in the bin of the first edge that is not below it, or above them all; edges and infinities too."""
    ordered = sorted(edges)
    cells = [*values, *ordered, math.inf, -math.inf]

    assert bin_numbers(np.array(cells), np.array(ordered)).tolist() == [plain_bin(cell, ordered) for cell in cells]


@pytest.mark.parametrize("ones", [1, 5, 50, 95, 99])
def test_two_values_have_a_bin_each(ones: int) -> None:
    """A 0/1 column keeps its two values apart, however rare either is."""
    values = np.array([0.0] * (100 - ones) + [1.0] * ones)

    assert reference_bins(values)["edges"] == [0.0, 1.0]
    assert reference_bins(values)["shares"] == [(100 - ones) / 100, ones / 100]


def test_values_without_ties_fall_evenly() -> None:
    """The bins of a column without ties hold a tenth each, give or take a row."""
    values = np.random.default_rng(1).permutation(1000) / 7

    assert reference_bins(values)["shares"] == pytest.approx([0.1] * 10, abs=0.0011)


def test_constant_column_is_one_bin() -> None:
    """A column of one value is one bin that holds everything."""
    assert reference_bins(np.full(30, 7.5)) == {"minimum": 7.5, "edges": [7.5], "shares": [1.0]}


def test_artifact_has_every_feature_and_the_prediction(
    reference: dict[str, Any], pipeline: Any, houses: pd.DataFrame
) -> None:
    """The artifact's reference has the bins of every feature and of the predictions, all of the training rows."""
    X = rows_of(BOSTON_HOUSING).X_train

    assert list(reference) == ["features", "prediction"]
    assert reference["features"] == {name: reference_bins(column) for name, column in zip(houses.columns, X.T)}
    assert reference["prediction"] == reference_bins(pipeline.predict(X))


TEN = Bins(0.0, np.arange(1.0, 11.0), np.full(10, 0.1))
SCHEMA = Schema((Feature("a"),), Feature("y"))


def bins_of(values: list[float]) -> Bins:
    """Return the bins of training values."""
    facts = reference_bins(np.array(values))
    return Bins(facts["minimum"], np.array(facts["edges"]), np.array(facts["shares"]), facts.get("missing", 0.0))


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (-0.001, "below"),
        (-math.inf, "below"),
        (0.0, "01"),
        (1.0, "01"),
        (1.001, "02"),
        (9.0, "09"),
        (9.5, "10"),
        (10.0, "10"),
        (10.001, "above"),
        (math.inf, "above"),
        (math.nan, "missing"),
    ],
)
def test_count_names_the_bin(value: float, label: str) -> None:
    """An edge belongs to the bin that it ends. Outside is below the minimum and above the last edge. NaN is missing."""
    assert dict(zip(TEN.labels, TEN.count(np.array([value]))))[label] == 1


@given(values=columns, live=st.lists(st.floats(), max_size=60))
def test_count_is_counting_one_by_one(values: list[float], live: list[float]) -> None:
    """Every value is counted once, where a plain search finds it, in the bins of any column."""
    bins = bins_of(values)
    plain = dict.fromkeys(bins.labels, 0)
    inside = bins.labels[1:-2]
    for value in live:
        if math.isnan(value):
            plain["missing"] += 1
        elif value < bins.minimum:
            plain["below"] += 1
        elif value > bins.edges[-1]:
            plain["above"] += 1
        else:
            plain[inside[plain_bin(value, bins.edges.tolist())]] += 1

    assert dict(zip(bins.labels, bins.count(np.array(live, dtype=np.float64)).tolist())) == plain
    assert bins.count(np.array(values)).tolist() == pytest.approx((bins.all_shares * len(values)).tolist())


@pytest.mark.parametrize(
    ("n", "labels"),
    [
        (1, ("below", "10", "above", "missing")),
        (2, ("below", "01", "10", "above", "missing")),
        (3, ("below", "01", "02", "10", "above", "missing")),
        (10, ("below", *(f"{number:02}" for number in range(1, 11)), "above", "missing")),
    ],
)
def test_labels(n: int, labels: tuple[str, ...]) -> None:
    """Bins are numbered from 01, and the last is always 10, however many there are."""
    bins = Bins(0.0, np.arange(1.0, n + 1), np.full(n, 1 / n))

    assert bins.labels == labels
    assert len(bins.all_shares) == len(labels)
    assert bins.count(np.array([])).tolist() == [0] * len(labels)


@given(values=columns)
def test_parse_reads_what_was_written(values: list[float]) -> None:
    """A reference is read as it was written, to the last bit."""
    facts = reference_bins(np.array(values))
    found: Reference = parse(json.loads(json.dumps({"features": {"a": facts}, "prediction": facts})), SCHEMA)

    for bins in (found.features["a"], found.prediction):
        assert isinstance(bins, Bins)
        assert [bins.minimum, bins.edges.tolist(), bins.shares.tolist()] == list(facts.values())


@pytest.mark.parametrize(
    "change",
    [
        {"edges": []},
        {"edges": [], "shares": []},
        {"edges": [1.0]},
        {"edges": [2.0, 1.0]},
        {"edges": [1.0, 1.0]},
        {"edges": [1.0, math.nan]},
        {"edges": [1.0, "x"]},
        {"edges": [[1.0], [2.0]]},
        {"edges": None},
        {"edges": list(range(1, 12)), "shares": [1 / 11] * 11},
        {"shares": [0.5, 0.4]},
        {"shares": [math.nan, 1.0]},
        {"shares": [1.0]},
        {"minimum": 1.5},
        {"minimum": math.nan},
        {"minimum": None},
        {"minimum": "low"},
    ],
)
def test_parse_takes_nothing_else(change: dict[str, Any]) -> None:
    """Invalid bins raise an exception that the artifact's loader catches."""
    facts = {"minimum": 0.0, "edges": [1.0, 2.0], "shares": [0.5, 0.5]}
    bad = {"features": {"a": {**facts, **change}}, "prediction": facts}

    parse({"features": {"a": facts}, "prediction": facts}, SCHEMA)
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse(bad, SCHEMA)


@pytest.mark.parametrize("content", [{}, {"features": {}}, {"features": {"b": {}}, "prediction": {}}, [], None, "x"])
def test_parse_of_another_content(content: Any) -> None:
    """A reference without the schema's features, or that is not an object, is refused in the same way."""
    with pytest.raises((KeyError, TypeError, ValueError)):
        parse(content, SCHEMA)


# Rows below, in ten bins, above and missing; with enough inside for an index.
all_counts = st.lists(st.integers(0, 500), min_size=13, max_size=13).map(lambda counts: np.array(counts, dtype=np.intp))


@given(values=columns, times=st.integers(1, 50), missing=st.integers(0, 9))
def test_same_shares_have_no_distance(values: list[float], times: int, missing: int) -> None:
    """The training rows themselves, repeated any number of times, have distance 0; missing values change nothing."""
    bins = bins_of(values)
    counts = bins.count(np.array(values * times + [math.nan] * missing))

    assert psi(counts, bins) == pytest.approx(0, abs=1e-9)
    assert ks(counts, bins) == pytest.approx(0, abs=1e-9)


@given(values=columns, missing=st.integers(1, 30), times=st.integers(1, 5))
def test_missing_values_of_training_are_no_distance(values: list[float], missing: int, times: int) -> None:
    """Of a feature with missing values in training, too, only the values that are known are compared."""
    training = [*values, *[math.nan] * missing]
    bins = bins_of(training)
    counts = bins.count(np.array(training * times))

    assert psi(counts, bins) == pytest.approx(0, abs=1e-9)
    assert ks(counts, bins) == pytest.approx(0, abs=1e-9)
    assert psi(counts, bins) == pytest.approx(psi(counts, bins_of(values)), abs=1e-9)


def test_nothing_known_in_training_has_no_distance() -> None:
    """If all values were missing in training, there is nothing to compare live values with."""
    bins = bins_of([math.nan] * 30)
    counts = bins.count(np.array([0.0, 1.0, 2.0]))

    assert math.isnan(psi(counts, bins))
    assert math.isnan(ks(counts, bins))
    assert missing_threshold(100, bins.missing) == 1


COLORS = Feature("a", type=CATEGORY, categories=tuple(f"c{code}" for code in range(CATEGORY_BINS + 5)))
codes = st.integers(0, CATEGORY_BINS + 4).map(float)


def categories_of(values: list[float], feature: Feature = COLORS) -> CategoryBins:
    """Return the bins of training values of a category, as an artifact has them."""
    facts = json.loads(json.dumps(category_bins(np.array(values))))
    content = {"features": {"a": facts}, "prediction": reference_bins(np.zeros(1))}
    found = parse(content, Schema((feature,), Feature("y"))).features["a"]
    assert isinstance(found, CategoryBins)
    return found


@given(values=st.lists(codes | st.just(math.nan), min_size=1, max_size=80))
def test_frequent_categories_have_bins(values: list[float]) -> None:
    """The most frequent categories have a bin each, the others one together; all shares are those of the rows."""
    bins = categories_of(values)
    names = {f"={COLORS.categories[int(value)]}": values.count(value) for value in values if value == value}
    others = [count for name, count in names.items() if name not in bins.labels]
    n_rows = len(values)

    assert bins.labels[-3:] == ("rest", "unseen", "missing")
    assert len(bins.names) == min(len(names), CATEGORY_BINS)
    assert max(others, default=0) <= min((names[label] for label in bins.labels[:-3]), default=0)
    assert (bins.all_shares * n_rows).tolist() == pytest.approx(
        [*(names[label] for label in bins.labels[:-3]), sum(others), 0, sum(map(math.isnan, values))]
    )
    assert bins.count(np.array(values)).tolist() == pytest.approx((bins.all_shares * n_rows).tolist())


@given(
    values=st.lists(codes | st.just(math.nan), min_size=1, max_size=80).filter(lambda found: any(v == v for v in found))
)
def test_same_categories_have_no_distance(values: list[float]) -> None:
    """The training rows themselves have distance 0."""
    bins = categories_of(values)

    assert psi(bins.count(np.array(values)), bins) == pytest.approx(0, abs=1e-9)


def test_index_of_categories_by_hand() -> None:
    """Unseen categories count in the rest, which has a small share if training has none."""
    bins = categories_of([0.0] * 50 + [1.0] * 30 + [math.nan] * 20)
    counts = np.array([60, 30, 0, 10, 40])  # c0, c1, rest, unseen, missing
    by_hand = sum((p - q) * math.log(p / q) for p, q in zip([0.6, 0.3, 0.1], [0.625, 0.375, 1e-4]))

    assert bins.labels == ("=c0", "=c1", "rest", "unseen", "missing")
    assert psi(counts, bins) == pytest.approx(by_hand, rel=1e-12)
    assert bins.outside(counts) == 10
    # Without them the rest counts for nothing.
    without = sum((p - q) * math.log(p / q) for p, q in zip([2 / 3, 1 / 3], [0.625, 0.375]))
    assert psi(np.array([60, 30, 0, 0, 40]), bins) == pytest.approx(without, rel=1e-12)


@pytest.mark.parametrize(("share", "drifts"), [(0.01, False), (0.03, True)])
def test_unseen_categories_are_a_drift(share: float, drifts: bool) -> None:
    """One unseen category in a hundred rows is none; three are, however the others are distributed."""
    bins = categories_of([0.0] * 200 + [1.0] * 200)
    n_unseen = round(10_000 * share)
    counts = np.array([(10_000 - n_unseen) // 2, (10_000 - n_unseen) // 2, 0, n_unseen, 0])

    assert (psi(counts, bins) > psi_threshold(10_000, 400, 2)) == drifts


def test_booleans_are_two_categories() -> None:
    """A boolean has the bins of false and true."""
    bins = categories_of([1.0, 0.0, 1.0], Feature("a", type=BOOLEAN))

    assert bins.labels == ("=false", "=true", "rest", "unseen", "missing")
    assert bins.count(np.array([0.0, 1.0, 1.0, math.nan])).tolist() == [1, 2, 0, 0, 1]


def test_unseen_category_is_counted() -> None:
    """The number after those of the known categories is that of unseen ones."""
    bins = categories_of([0.0, 1.0])

    assert dict(zip(bins.labels, bins.count(np.array([0.0, 7.0, len(COLORS.categories)])).tolist())) == {
        "=c0": 1,
        "=c1": 0,
        "rest": 1,
        "unseen": 1,
        "missing": 0,
    }


@given(counts=all_counts)
def test_distances_are_bounded(counts: NDArray[np.intp]) -> None:
    """PSI is not negative, and KS is between 0 and 1."""
    assume(counts[:-1].sum())

    assert psi(counts, TEN) >= 0
    assert 0 <= ks(counts, TEN) <= 1


@given(counts=all_counts, times=st.integers(2, 30))
def test_distances_are_of_shares(counts: NDArray[np.intp], times: int) -> None:
    """Twice the rows in the same shares have the same distance, if no bin is empty."""
    counts = counts + 1

    assert psi(counts * times, TEN) == pytest.approx(psi(counts, TEN))
    assert ks(counts * times, TEN) == pytest.approx(ks(counts, TEN))


@given(counts=all_counts, other=all_counts)
def test_index_is_symmetric(counts: NDArray[np.intp], other: NDArray[np.intp]) -> None:
    """It does not matter which of two samples is the reference."""
    samples = [np.array([0, *shares[1:-2], 0, 0]) + np.array([0, *[1] * 10, 0, 0]) for shares in (counts, other)]
    references = [Bins(0.0, TEN.edges, shares[1:-2] / shares.sum()) for shares in samples]

    assert psi(samples[0], references[1]) == pytest.approx(psi(samples[1], references[0]))
    assert ks(samples[0], references[1]) == pytest.approx(ks(samples[1], references[0]))


@given(
    values=st.lists(st.integers(-20, 20).map(float), min_size=1, max_size=60), scale=st.sampled_from([0.5, 2.0, 1024])
)
def test_counts_do_not_depend_on_the_unit(values: list[float], scale: float) -> None:
    """A change of unit in training and live values changes neither counts nor distances."""
    training = np.random.default_rng(5).normal(0, 10, 200).round(1)
    counts, scaled = (
        bins_of((training * by).tolist()).count(np.array(values) * by + by * 0.03125) for by in (1.0, scale)
    )

    assert counts.tolist() == scaled.tolist()


def test_index_by_hand() -> None:
    """PSI is the textbook sum; values outside count in the nearest bin, and an empty bin as half a row."""
    bins = Bins(0.0, np.array([1.0, 2.0, 3.0]), np.array([0.5, 0.3, 0.2]))
    counts = np.array([10, 30, 0, 50, 10, 7])
    shares = [0.4, 0.005, 0.6]
    by_hand = sum((p - q) * math.log(p / q) for p, q in zip(shares, [0.5, 0.3, 0.2]))

    assert psi(counts, bins) == pytest.approx(by_hand, rel=1e-12)
    assert ks(counts, bins) == pytest.approx(0.8 - 0.4, rel=1e-12)  # up to 2: training has 0.8, live 0.4


def test_distance_is_that_of_scipy_at_the_edges() -> None:
    """For values that are edges, KS is SciPy's of the two samples."""
    rng = np.random.default_rng(6)
    training, live = rng.integers(0, 10, 300).astype(float), rng.binomial(12, 0.5, 200).astype(float)

    assert ks(bins_of(training.tolist()).count(live), bins_of(training.tolist())) == pytest.approx(
        ks_2samp(training, live).statistic
    )


def test_constants_are_quantiles() -> None:
    """Z and C are SciPy's quantiles for the same rate of false alarms."""
    assert pytest.approx(norm.isf(ALPHA), rel=1e-9) == Z
    assert pytest.approx(math.sqrt(-math.log(ALPHA / 2) / 2), rel=1e-12) == C


@pytest.mark.parametrize(("n_bins", "error"), [(2, 0.115), (3, 0.075), (5, 0.045), (8, 0.026), (10, 0.02)])
def test_threshold_of_the_index(n_bins: int, error: float) -> None:
    """The threshold is the quantile of chi-square, never too low, and nearer the more bins there are."""
    exact = chi2.isf(ALPHA, n_bins - 1)
    found = psi_threshold(50, 50, n_bins) * 25

    assert exact <= found <= exact * (1 + error)


@pytest.mark.parametrize("n_bins", [1, 2, 10])
def test_thresholds_fall_to_their_minimum(n_bins: int) -> None:
    """More rows, live or in training, lower the thresholds down to the minimums."""
    rows = [100, 400, 1600, 10**9]

    for of in (lambda n, m: psi_threshold(n, m, n_bins), ks_threshold):
        assert [of(n, 400) for n in rows] == sorted((of(n, 400) for n in rows), reverse=True)
        assert [of(400, n) for n in rows] == [of(n, 400) for n in rows]
        assert of(10**9, 10**9) == 0.1


def test_threshold_of_missing_values() -> None:
    """Where 1 in 100 is missing, hardly any sample exceeds the threshold; it is 1 in 100 in the long run."""
    for n in (100, 1000, 10_000):
        exceeded = np.random.default_rng(7).binomial(n, 0.01, 100_000) / n > missing_threshold(n)
        assert exceeded.mean() < 2e-3
    assert missing_threshold(10**12) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.995, 1.0])
def test_threshold_of_missing_values_follows_training(share: float) -> None:
    """Where values were missing in training, so many and one in a hundred more are usual."""
    for n in (100, 1000, 10_000):
        exceeded = np.random.default_rng(7).binomial(n, min(share + 0.01, 1), 100_000) / n > missing_threshold(n, share)
        assert exceeded.mean() < 2e-3
    assert missing_threshold(10**12, share) == pytest.approx(min(share + 0.01, 1), rel=1e-3)


@pytest.mark.parametrize("n_live", [100, 1000])
def test_false_alarms_are_rare(n_live: int) -> None:
    """Rows of the training distribution hardly ever exceed a threshold, and PSI is as large as theory says."""
    rng = np.random.default_rng(8)
    n_reference, windows = 404, 20_000
    alarms, scaled = 0, []
    for _ in range(windows // 200):
        bins = Bins(0.0, TEN.edges, rng.multinomial(n_reference, TEN.shares) / n_reference)
        for inside in rng.multinomial(n_live, TEN.shares, 200):
            counts = np.array([0, *inside, 0, 0])
            alarms += psi(counts, bins) > psi_threshold(n_live, n_reference, 10)
            alarms += ks(counts, bins) > ks_threshold(n_live, n_reference)
            scaled.append(psi(counts, bins) / (1 / n_live + 1 / n_reference))

    assert alarms <= 4  # 40,000 looks, and 1 in 100,000 is expected
    assert np.mean(scaled) == pytest.approx(9, rel=0.1)  # degrees of freedom


@pytest.mark.parametrize("n_live", [100, 1000])
def test_false_alarms_of_categories_are_rare(n_live: int) -> None:
    """Rows of the training distribution hardly ever exceed the threshold, rare categories and new ones included."""
    rng = np.random.default_rng(9)
    n_reference, shares = 404, np.array([0.6, 0.25, 0.1, 0.03, 0.015, 0.005])
    alarms = 0
    for _ in range(100):
        training = np.repeat(np.arange(6.0), rng.multinomial(n_reference, shares))
        bins: AnyBins = categories_of(training.tolist())
        n_bins = int((bins.expected > 0).sum())
        for live in rng.multinomial(n_live, shares, 100):
            counts = bins.count(np.repeat(np.arange(6.0), live))
            alarms += psi(counts, bins) > psi_threshold(n_live, n_reference, n_bins)

    assert alarms <= 1  # of 10,000


@pytest.mark.parametrize(("share_missing", "drifts"), [(0.0, False), (0.5, True)])
def test_dates_drift_by_gaps_alone(share_missing: float, drifts: bool) -> None:
    """Later dates than those of training are no drift, since time goes on; more missing ones are."""
    schema, day = Schema((Feature("sold", type=DATE, missing=True),), Feature("y")), 86_400.0
    X = np.arange(1_000.0).reshape(-1, 1) * day
    bins = parse(reference_of(X, X[:, 0], schema), schema).features["sold"]
    live = np.where(np.arange(1_000) < share_missing * 1_000, np.nan, X[:, 0] + 10_000 * day)
    counts = bins.count(live)

    assert psi(counts, bins) == pytest.approx(0, abs=1e-9)
    assert bool(counts[-1] / 1_000 > missing_threshold(1_000, bins.missing)) is drifts
