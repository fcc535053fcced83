"""python -m benchmarks.verdict: how often a look after every true value names a winner among equals, and finds one.

Compares the interval of model/live/verdict.py with that of a single look, which people know: the mean and 1.96 standard
errors. A second table is of A/B tests that chose the version of each client. Prints Markdown.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from model.live.verdict import ALPHA, START, START_UNPAIRED, Decision, Losses, Sums, compare, width

Floats = NDArray[np.float64]
_AT_ONCE = 50  # runs


def _errors(random: np.random.Generator, shape: tuple[int, int], better: float, *, df: float | None = None) -> Floats:
    """Return differences of squared errors with a correlation of 0.8 between both versions' errors."""
    parts = (3, *shape)
    shared, first, second = random.standard_t(df, parts) if df else random.normal(size=parts)
    found: Floats = (2 * shared + first) ** 2 - (1 - better) * (2 * shared + second) ** 2
    return found


def _log_losses(random: np.random.Generator, shape: tuple[int, int], better: float) -> Floats:
    """Return differences of log losses of two noisy logits, or of one that is nearer to the true logit."""
    logit = random.normal(0, 2, shape)
    y = random.random(shape) < 1 / (1 + np.exp(-logit))
    noisy = [logit + random.normal(0, noise, shape) for noise in (1, 1 - better)]
    first, second = (np.logaddexp(0, np.where(y, -each, each)) for each in noisy)
    found: Floats = first - second
    return found


def _rare(random: np.random.Generator, shape: tuple[int, int], better: float) -> Floats:
    """Return differences in 5 % of the requests, of which 1 in 11 is 10 times as large as the others, and a loss."""
    size = np.where(random.random(shape) < 1 / 11, -10.0 * (1 - better), 1.0)
    return np.where(random.random(shape) < 0.05, size, 0.0)


KINDS: Mapping[str, tuple[Callable[[np.random.Generator, tuple[int, int], float], Floats], float]] = {
    "squared errors": (_errors, 0.1),
    "squared errors with heavy tails (Student's t, 5 degrees of freedom)": (
        lambda random, shape, better: _errors(random, shape, better, df=5),
        0.1,
    ),
    "log losses": (_log_losses, 0.5),
    "versions that differ in 5 % of the requests": (_rare, 0.5),
}


def shares(
    draw: Callable[[np.random.Generator, tuple[int, int], float], Floats], better: float, n_runs: int, n: int
) -> Iterator[tuple[float, float, float]]:
    """Yield for each interval the share of runs that name any winner, the right one first, and the median truths."""
    random = np.random.default_rng(0)
    counts = np.arange(1.0, n + 1)
    factors = np.array([width(float(count), ALPHA) for count in counts]), 1.96 / np.sqrt(counts)
    named: tuple[list[float], list[float]] = [], []
    right: tuple[list[bool], list[bool]] = [], []
    for _ in range(n_runs // _AT_ONCE):
        d = draw(random, (_AT_ONCE, n), better)
        mean = d.cumsum(axis=1) / counts
        deviation = np.sqrt(np.maximum((d * d).cumsum(axis=1) / counts - mean * mean, 0))
        for number, factor in enumerate(factors):
            begun = (d != 0).cumsum(axis=1) >= START if number == 0 else np.broadcast_to(counts >= START, d.shape)
            wins = (np.abs(mean) > deviation * factor) & begun
            first = wins.argmax(axis=1)
            is_named = wins.any(axis=1)
            named[number].extend(np.where(is_named, first + 1.0, np.inf))
            right[number].extend(is_named & (mean[np.arange(len(d)), first] > 0))
    for when, is_right in zip(named, right):
        yield float(np.mean(np.isfinite(when))), float(np.mean(is_right)), float(np.median(when))


CLIENTS = (5_000, 500, 100, 50)
_LOOK_EVERY = 50  # requests


def by_client(n_clients: int, n_runs: int, n: int) -> float:
    """Return the share of A/B tests of equal versions that name a winner, where chance chose the version of a client.

    The errors of two thirds of the clients are within a factor of 1.6 of the usual client's.
    """
    random = np.random.default_rng(0)
    n_won = 0
    for _ in range(n_runs):
        client = random.permutation(np.arange(n) % n_clients)
        is_second = (random.random(n_clients) < 0.5)[client]
        losses = (np.exp(0.5 * random.normal(size=n_clients))[client] * random.normal(size=n)) ** 2
        arms = [~is_second, is_second]
        sums = [np.cumsum([arm, arm, arm * losses, arm * losses**2], axis=1) for arm in arms]
        for look in range(2 * START_UNPAIRED, n, _LOOK_EVERY):
            first, second = (Sums(int(each[0, look]), int(each[1, look]), *each[2:, look].tolist()) for each in sums)
            if compare(Losses(first, second, None)).decision in (Decision.BETTER, Decision.WORSE):
                n_won += 1
                break
    return n_won / n_runs


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdict", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000, help="pairs of versions (default: %(default)s)")
    parser.add_argument("--truths", type=int, default=5_000, help="true values of each (default: %(default)s)")
    options = parser.parse_args()
    print("| losses | equals, 1.96 standard errors | equals, this interval | better one found | after, in the median |")
    print("|---|---|---|---|---|")
    for name, (draw, better) in KINDS.items():
        (sequence, *_), (single, *_) = shares(draw, 0.0, options.runs, options.truths)
        (_, right, when), _ = shares(draw, better, options.runs, options.truths)
        print(f"| {name} | {single:.1%} | {sequence:.1%} | {right:.1%} | {when:,.0f} |")
    print("\n| clients of an A/B test | requests of each | equals have a winner |\n|---|---|---|")
    for n_clients in CLIENTS:
        share = by_client(n_clients, options.runs, options.truths)
        print(f"| {n_clients:,} | {options.truths / n_clients:,.0f} | {share:.1%} |")


if __name__ == "__main__":
    main()
