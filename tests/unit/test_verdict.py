"""Owns the verdict on two versions: an interval that holds at every look, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from model.live import verdict
from model.live.verdict import ALPHA, START, START_EQUAL, START_UNPAIRED, Decision, Losses, Margin, Sums, compare

Floats = NDArray[np.float64]
N_RUNS, N_TRUTHS = 1_000, 1_000
NO_MARGIN = Margin(0.0)


def half_widths(n: Floats) -> Floats:
    """Return the paper's factor of the standard deviation for each number of truths, tightest at 1,000."""
    rho2 = (-2 * math.log(ALPHA) + math.log(-2 * math.log(ALPHA) + 1)) / 1_000
    found: Floats = np.sqrt(2 * (n * rho2 + 1) / (n * n * rho2) * np.log(np.sqrt(n * rho2 + 1) / ALPHA))
    return found


def is_decided(losses: Losses) -> bool:
    """Return whether a look at these losses names a winner, however small its lead is."""
    return compare(losses, margin=NO_MARGIN).decision in (Decision.BETTER, Decision.WORSE)


def winners(first: Floats, second: Floats) -> float:
    """Return the share of runs `(n_runs, n_truths)` in which a look after any truth named a winner.

    Of all looks from the hundredth difference on, only that with the largest lead, in widths of the paper's interval,
    is asked for its verdict: it names a winner if any of them does.
    """
    n = np.arange(1.0, first.shape[1] + 1)
    named = 0
    for one, two in zip(first, second):
        d = one - two
        mean = d.cumsum() / n
        deviation = np.sqrt(np.maximum((d * d).cumsum() / n - mean * mean, 1e-300))
        leads = np.where((d != 0).cumsum() >= START, np.abs(mean) / (deviation * half_widths(n)), 0)
        end = int(leads.argmax()) + 1
        named += is_decided(Losses.paired(one[:end], two[:end]))
    return named / len(first)


def errors(n_runs: int, n: int, *, seed: int, better: float = 0.0) -> tuple[Floats, Floats]:
    """Return the squared errors of two models whose errors have a correlation of 0.8, `(n_runs, n)` each."""
    rng = np.random.default_rng(seed)
    shared, *own = rng.normal(size=(3, n_runs, n))
    first, second = ((2 * shared + part) ** 2 for part in own)
    return first, second * (1 - better)


def test_equal_models_seldom_have_a_winner() -> None:
    """Of 1,000 pairs of equal models, looked at after each truth, a winner is named in 5 % and chance at most.

    The ordinary 95 % interval, looked at as often, names one in more than a quarter of them.
    """
    first, second = errors(N_RUNS, N_TRUTHS, seed=1)
    chance = 3 * math.sqrt(ALPHA * (1 - ALPHA) / N_RUNS)
    d = first - second
    n = np.arange(1, N_TRUTHS + 1)
    mean = d.cumsum(axis=1) / n
    deviation = np.sqrt((d * d).cumsum(axis=1) / n - mean * mean)
    beyond = np.abs(mean) > 1.96 * deviation / np.sqrt(n)

    assert winners(first, second) <= ALPHA + chance
    assert beyond[:, START:].any(axis=1).mean() > 0.25


def test_real_difference_is_found() -> None:
    """A model with a fifth less loss is named the better one within 1,000 truths in nearly every run."""
    first, second = errors(100, N_TRUTHS, seed=2, better=0.2)

    assert winners(first, second) > 0.9


def test_versions_that_seldom_differ_have_no_winner_by_chance() -> None:
    """A few large differences among many small ones do not make a winner of equals before enough requests differ."""
    rng = np.random.default_rng(3)
    shape = (1_000, 4_000)
    d = np.where(rng.random(shape) < 0.05, np.where(rng.random(shape) < 1 / 11, -10.0, 1.0), 0.0)

    assert winners(d + 20, np.full(shape, 20.0)) < ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / len(d))


@pytest.mark.parametrize("share", [0.5, 0.1])
def test_different_requests(share: float) -> None:
    """Where each request has one version, chosen at random, equals have a winner as seldom, and a difference is found.

    Their losses are exponential, so that they are skewed.
    """
    rng = np.random.default_rng(4)
    named = {0.0: 0, 0.3: 0}
    for better in named:
        for _ in range(200):
            loss, is_second = rng.exponential(size=5_000), rng.random(5_000) < share
            losses = Losses.unpaired(np.empty(0), np.empty(0))
            for places in np.array_split(np.arange(len(loss)), 50):
                of_second = is_second[places]
                part = loss[places]
                losses += Losses.unpaired(part[~of_second], part[of_second] * (1 - better))
                if is_decided(losses):
                    named[better] += 1
                    break

    assert named[0.0] / 200 <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / 200)
    assert named[0.3] / 200 > 0.9


# Numbers of which sums and squares are exact, so that their order does not matter.
exact = st.lists(st.tuples(*[st.integers(0, 2**20).map(lambda number: number / 1024)] * 2), max_size=60)


@given(exact, st.lists(st.integers(0, 60), max_size=5))
def test_sums_of_any_parts_are_those_of_the_whole(losses: Sequence[tuple[float, float]], cuts: Sequence[int]) -> None:
    """Sums of workers, pods and days, however the truths are divided among them, add up to those of all truths."""
    first, second = np.array(losses, dtype=np.float64).reshape(-1, 2).T
    ends = sorted({0, len(losses), *(min(cut, len(losses)) for cut in cuts)})
    paired, unpaired = Losses.paired(first[:0], second[:0]), Losses.unpaired(first[:0], second[:0])
    for start, end in pairwise(ends):
        paired += Losses.paired(first[start:end], second[start:end])
        unpaired += Losses.unpaired(first[start:end], second[start:end])

    assert paired == Losses.paired(first, second)
    assert unpaired == Losses.unpaired(first, second)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), st.integers(0, 50))
def test_sums_of_any_numbers(values: Sequence[float], cut: int) -> None:
    """Sums of parts have the mean and the deviation of all numbers, up to rounding."""
    numbers = np.array(values)
    found = Sums.of(numbers[:cut]) + Sums.of(numbers[cut:])

    assert found.n == len(values)
    assert found.mean == pytest.approx(numbers.mean(), abs=1e-6)
    assert found.variance == pytest.approx(numbers.var(), rel=1e-6, abs=1e-3)


def test_losses_of_other_kinds_do_not_add() -> None:
    """Sums over the same requests and sums over different ones are not mixed."""
    numbers = np.ones(3)
    with pytest.raises(ValueError, match="do not add"):
        Losses.paired(numbers, numbers) + Losses.unpaired(numbers, numbers)


def alternating(mean: float, n: int, *, spread: float = 1.0) -> Losses:
    """Return losses with this mean difference, and a standard deviation of the differences of `spread`."""
    d = mean + spread * np.where(np.arange(n) % 2, 1.0, -1.0)
    return Losses.paired(np.full(n, 10.0), 10.0 - d)


def test_interval_is_that_of_the_paper() -> None:
    """The interval is the mean, and the standard deviation times the factor of theorem 2.2, tightest at 1,000."""
    found = compare(alternating(0.5, 400))
    half = float(half_widths(np.array([400.0]))[0])

    assert (found.low, found.high) == pytest.approx((0.5 - half, 0.5 + half))
    ratios = {n: verdict.width(n, ALPHA) * math.sqrt(n) for n in (100, 500, 1_000, 2_000, 100_000)}
    assert min(ratios, key=lambda n: ratios[n]) == 1_000


@pytest.mark.parametrize(
    ("mean", "n", "decision"),
    [
        (0.9, START, Decision.BETTER),
        (0.9, START - 1, Decision.UNDECIDED),
        (-0.9, START, Decision.WORSE),
        (-0.9, START - 1, Decision.UNDECIDED),
        (0.19, 1_000, Decision.UNDECIDED),  # surely better, but perhaps by less than the margin
        (0.2, 10_000, Decision.BETTER),
        (-0.15, 1_000, Decision.WORSE),  # surely worse, if only a little
        (0.0, 10_000, Decision.EQUAL),
        (0.1, 10**6, Decision.UNDECIDED),  # at the margin itself
    ],
)
def test_decisions(mean: float, n: int, decision: Decision) -> None:
    """Better needs more than the margin, 1 % of the first version's loss, and worse any; both need 100 truths."""
    assert compare(alternating(mean, n)).decision is decision


def test_a_margin_in_units_of_the_loss() -> None:
    """The margin is a share of the first version's mean loss, or a loss."""
    losses = alternating(0.5, 5_000)

    assert compare(losses, margin=Margin(0.02)).margin == pytest.approx(0.2)
    assert compare(losses, margin=Margin(0.02)).decision is Decision.BETTER
    assert compare(losses, margin=Margin(2.0, of_loss=False)).decision is Decision.EQUAL


def test_the_same_answers_are_equal() -> None:
    """Versions of which no loss differs are practically equal after 1,000 truths, and not named so before."""
    for n, decision in ((START_EQUAL - 1, Decision.UNDECIDED), (START_EQUAL, Decision.EQUAL)):
        assert compare(Losses.paired(np.full(n, 3.0), np.full(n, 3.0))).decision is decision


def test_challengers_share_alpha() -> None:
    """The interval of one of several comparisons is that of a smaller alpha, so that all of them hold together."""
    losses = alternating(0.3, 500)

    alone, shared = compare(losses), compare(losses, sharing=4)
    assert shared == compare(losses, alpha=ALPHA / 4)
    assert shared.low < alone.low < alone.high < shared.high


@given(st.floats(-0.5, 0.5), st.integers(1, 3_000), st.floats(0.1, 3.0))
def test_how_many_more_truths(mean: float, n: int, spread: float) -> None:
    """After as many more truths of the same kind as it says it is decided, and shortly before that it is not."""
    found = compare(alternating(mean, 2 * n, spread=spread))
    if found.decision is not Decision.UNDECIDED:
        assert found.more == 0
    elif found.more is not None and 40 < found.more < 100_000:  # a pair of truths is then less than a tenth of them
        later, before = 2 * (n + math.ceil(1.05 * found.more / 2)), 2 * (n + math.floor(0.9 * found.more / 2))
        assert compare(alternating(mean, later, spread=spread)).decision is not Decision.UNDECIDED
        assert compare(alternating(mean, before, spread=spread)).decision is Decision.UNDECIDED


def test_without_truths() -> None:
    """Without truths nothing is known, and the number of truths that are needed at least is."""
    nothing = np.empty(0)

    assert compare(Losses.paired(nothing, nothing)).more == START
    assert compare(Losses.unpaired(nothing, nothing)).more == 2 * START_UNPAIRED
    assert math.isinf(compare(Losses.paired(nothing, nothing)).high)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        (
            alternating(1.0, 1_000),
            "version 2 is better than version 1: its squared error is less by 1 (10.0%; 95 % interval 0.904 to 1.096), "
            "more than the margin of 0.1 (1.00%)",
        ),
        (
            alternating(-1.0, 1_000),
            "version 2 is worse than version 1: its squared error is more by 1 (10.0%; 95 % interval 0.904 to 1.096)",
        ),
        (
            alternating(0.0, 10_000),
            "version 2 is practically equal to version 1: its squared error is less by 0 (0.0%; 95 % interval "
            "-0.03242 to 0.03242), within the margin of 0.1 (1.00%)",
        ),
        (
            alternating(0.2, 500),
            "undecided whether version 2 is better than version 1: its squared error is less by 0.2 (2.0%; 95 % "
            "interval 0.0621 to 0.3379); about 420 more requests with true values decide it if the difference stays",
        ),
        (
            alternating(0.2, 50),
            "undecided whether version 2 is better than version 1: its squared error is less by 0.2 (2.0%; too few for "
            "an interval); about 870 more requests with true values decide it if the difference stays",
        ),
        (
            Losses.paired(np.empty(0), np.empty(0)),
            "undecided whether version 2 is better than version 1: no true values of both; it takes about 100 "
            "requests with true values at least",
        ),
    ],
)
def test_sentences(losses: Losses, expected: str) -> None:
    """The verdict is one sentence with the difference, its interval, the margin, and how many more truths it takes."""
    assert verdict.sentence(compare(losses), "version 1", "version 2", "squared error") == expected
