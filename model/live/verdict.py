"""The verdict on two versions by the losses of their answers: an interval that holds at every look, and what it says.

A person, a dashboard and an alert look again after every truth. An interval for one look is then wrong far more often
than it says, so this is a confidence sequence, which holds at all looks together: that of Waudby-Smith, Arbour, Sinha,
Kennedy and Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of Statistics 52
(2024), theorem 2.2. It needs only sums, which add over workers, pods and days.

Knows numbers, and nothing of a log, a table or a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

ALPHA = 0.05
# The interval is narrowest, compared with that of a single look, at so many truths: 1.5 times as wide.
TIGHTEST = 1_000
# The sequence relies on the central limit theorem, so it begins at so many requests of which the losses differ. Those
# that do not differ say nothing of the variance: with differences in 5 % of the requests, of which 1 in 11 was 10 times
# as large as the others, a sequence from 100 truths on named a winner among equals in 40 % of runs, this one in 4 %.
START = 100
# Of each version, where no request is answered by both. From 100 on a version with a tenth of the requests, and errors
# with Student's t distribution of 5 degrees of freedom, was wrong in 8 % of runs; from 200 on in 4.5 %.
START_UNPAIRED = 200
# Versions that hardly ever differ are practically equal after so many truths.
START_EQUAL = 1_000
MAX_MORE = 1_000_000  # truths to wait for; what takes more is as good as never decided


class Decision(StrEnum):
    """What is known of the second version, compared with the first."""

    BETTER = "better"
    WORSE = "worse"
    EQUAL = "equal"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class Sums:
    """What is known of a set of numbers: how many, how many of them are not 0, their sum, and that of their squares."""

    n: int = 0
    n_nonzero: int = 0
    total: float = 0.0
    squares: float = 0.0

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Sums:
        """Return the sums of `values` `(n,)`, whose squares are finite."""
        return cls(len(values), int(np.count_nonzero(values)), float(values.sum()), float((values * values).sum()))

    def __add__(self, other: Sums) -> Sums:
        """Return the sums of both sets together."""
        return Sums(
            self.n + other.n,
            self.n_nonzero + other.n_nonzero,
            self.total + other.total,
            self.squares + other.squares,
        )

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else math.nan

    @property
    def variance(self) -> float:
        """Return the variance, 0 or more whatever the rounding."""
        return max(self.squares / self.n - self.mean * self.mean, 0.0) if self.n else math.nan


@dataclass(frozen=True, slots=True)
class Losses:
    """The losses of two versions, a number a request.

    `differences` are the first version's losses less the second's where both answered the same requests. They are None
    where each request was answered by one version, chosen at random.
    """

    first: Sums
    second: Sums
    differences: Sums | None

    @classmethod
    def paired(cls, first: NDArray[np.float64], second: NDArray[np.float64]) -> Losses:
        """Return the sums of the losses `(n,)` for the same requests."""
        return cls(Sums.of(first), Sums.of(second), Sums.of(first - second))

    @classmethod
    def unpaired(cls, first: NDArray[np.float64], second: NDArray[np.float64]) -> Losses:
        """Return the sums of the losses `(n_first,)` and `(n_second,)` for different requests."""
        return cls(Sums.of(first), Sums.of(second), None)

    def __add__(self, other: Losses) -> Losses:
        """Return the losses of both sets of requests. Raises `ValueError` if only one of them is paired."""
        if (self.differences is None) is not (other.differences is None):
            raise ValueError("losses of the same requests and of different ones do not add")
        paired = self.differences is not None and other.differences is not None
        differences = self.differences + other.differences if paired else None  # type: ignore[operator]
        return Losses(self.first + other.first, self.second + other.second, differences)

    @property
    def n(self) -> int:
        """Return the number of requests."""
        return self.first.n + self.second.n if self.differences is None else self.differences.n

    @property
    def difference(self) -> float:
        """Return by how much the second version's mean loss is less than the first's."""
        return self.first.mean - self.second.mean if self.differences is None else self.differences.mean

    @property
    def deviation(self) -> float:
        """Return the standard deviation of one request's share in the difference.

        For different requests it is that of the pseudo-outcomes of the paper's section 3, whose mean is the difference
        of the means: `s² = n (s_first² / n_first + s_second² / n_second)`.
        """
        if self.differences is not None:
            return math.sqrt(self.differences.variance)
        if not (self.first.n and self.second.n):
            return math.nan
        return math.sqrt(self.n * (self.first.variance / self.first.n + self.second.variance / self.second.n))

    @property
    def begun(self) -> float:
        """Return the part of the evidence with which the sequence begins: from 1 on it holds."""
        if self.differences is None:
            return min(self.first.n, self.second.n) / START_UNPAIRED
        return self.differences.n_nonzero / START


@dataclass(frozen=True, slots=True)
class Margin:
    """A difference that matters: a loss, or, with `of_loss`, a share of the first version's mean loss."""

    value: float = 0.01
    of_loss: bool = True

    def in_loss(self, losses: Losses) -> float:
        """Return the margin as a loss."""
        return self.value * losses.first.mean if self.of_loss else self.value


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the losses say: the decision, and by how much the second version's mean loss is less than the first's.

    The difference is between `low` and `high`, at every look and for all comparisons that share alpha, with a
    probability of `1 - alpha`. They are infinite as long as there are too few truths.
    """

    decision: Decision
    difference: float
    low: float
    high: float
    margin: float
    alpha: float
    losses: Losses

    @property
    def more(self) -> int | None:
        """Return about how many more truths it takes to decide, or None for more than `MAX_MORE`.

        It is the number after which truths like those that there are decide it.
        """
        if not (self.losses.first.n and self.losses.second.n):
            return START if self.losses.differences is not None else 2 * START_UNPAIRED
        low, high = self.losses.n - 1, self.losses.n + MAX_MORE
        if not self._is_decided(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._is_decided(middle) else (middle, high)
        return high - self.losses.n

    def _is_decided(self, n: int) -> bool:
        half = _half_width(self.losses, n, self.alpha)
        return _decide(self.losses, n, half, self.margin) is not Decision.UNDECIDED


@lru_cache(maxsize=4096)
def width(n: float, alpha: float) -> float:
    """Return half the interval's width for `n` truths with a standard deviation of 1."""
    log = -2 * math.log(alpha)
    rho2 = (log + math.log(log + 1)) / TIGHTEST
    return math.sqrt(2 * (n * rho2 + 1) / (n * n * rho2) * math.log(math.sqrt(n * rho2 + 1) / alpha))


def compare(losses: Losses, *, margin: Margin | None = None, alpha: float = ALPHA, sharing: int = 1) -> Comparison:
    """Return the comparison of the second version with the first.

    The second is `BETTER` if its loss is less by more than the margin, and `WORSE` as soon as its loss is more at all;
    `EQUAL` says that the difference is within the margin. `sharing` comparisons share `alpha`, so that all of their
    intervals hold together (Bonferroni).
    """
    alpha /= sharing
    if not (losses.first.n and losses.second.n):
        return Comparison(Decision.UNDECIDED, math.nan, -math.inf, math.inf, math.nan, alpha, losses)
    limit = (margin or Margin()).in_loss(losses)
    half = _half_width(losses, losses.n, alpha)
    low, high = losses.difference - half, losses.difference + half
    return Comparison(_decide(losses, losses.n, half, limit), losses.difference, low, high, limit, alpha, losses)


def _half_width(losses: Losses, n: int, alpha: float) -> float:
    """Return half the interval's width for `n` truths like those that there are, infinite before it begins."""
    is_sparse = losses.begun * n / losses.n < 1
    if is_sparse and (losses.differences is None or n < START_EQUAL):
        return math.inf
    return losses.deviation * width(n, alpha)


def _decide(losses: Losses, n: int, half: float, margin: float) -> Decision:
    low, high = losses.difference - half, losses.difference + half
    has_begun = losses.begun * n / losses.n >= 1
    if has_begun and low > margin:
        return Decision.BETTER
    if -margin <= low and high <= margin:
        return Decision.EQUAL
    return Decision.WORSE if has_begun and high < 0 else Decision.UNDECIDED


def sentence(found: Comparison, first: str, second: str, loss: str, *, unit: str = "requests") -> str:
    """Return the comparison in one sentence with its interval, for the names of two versions and of the loss.

    `unit` is what there is a loss of.
    """
    if found.decision is Decision.UNDECIDED:
        return f"undecided whether {second} is better than {first}: {_interval(found, loss)}; {_waiting(found, unit)}"
    if found.decision is Decision.BETTER:
        return f"{second} is better than {first}: {_interval(found, loss)}, more than the margin of {_margin(found)}"
    if found.decision is Decision.WORSE:
        return f"{second} is worse than {first}: {_interval(found, loss)}"
    return f"{second} is practically equal to {first}: {_interval(found, loss)}, within the margin of {_margin(found)}"


def figure(value: float) -> str:
    """Return a loss for people, with four digits or all of its whole ones."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _interval(found: Comparison, loss: str) -> str:
    if math.isnan(found.difference):
        return "no true values of both"
    sign = -1 if found.difference < 0 else 1
    low, high = sorted((sign * found.low, sign * found.high))
    share = f"{abs(found.difference) / found.losses.first.mean:.1%}; " if found.losses.first.mean else ""
    interval = f"95 % interval {figure(low)} to {figure(high)}" if math.isfinite(low) else "too few for an interval"
    return f"its {loss} is {'more' if sign < 0 else 'less'} by {figure(abs(found.difference))} ({share}{interval})"


def _margin(found: Comparison) -> str:
    mean = found.losses.first.mean
    return f"{figure(found.margin)}" + (f" ({found.margin / mean:.2%})" if mean else "")


def _waiting(found: Comparison, unit: str) -> str:
    more = found.more
    if not (found.losses.first.n and found.losses.second.n):
        return f"it takes about {more:,} {unit} with true values at least"
    if more is None:
        return f"at this difference {MAX_MORE:,} more {unit} with true values would not decide it"
    about = more if more < 100 else int(float(f"{more:.2g}"))
    return f"about {about:,} more {unit} with true values decide it if the difference stays"
