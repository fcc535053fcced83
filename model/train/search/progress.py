"""What a search shows while it runs: a bar on a terminal, else a line now and then; all on standard error."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType

from tqdm import tqdm

from model.metrics import short
from model.train.checklist import print_under
from model.train.search.trials import Trial, best_of

_LINE_SECONDS = 15.0  # between two lines


class Progress:
    """Shows how far a search of `n_trials`, or of `budget_s` seconds, has come, and what is best so far.

    `shown` says whether a bar is; if it is None, one is on a terminal, and elsewhere lines are printed.
    """

    def __init__(self, metric: str, *, n_trials: int | None, budget_s: float | None, shown: bool | None) -> None:
        self._metric, self._n_trials, self._budget_s, self._shown = metric, n_trials, budget_s, shown
        self._total = n_trials or round(budget_s or 0)
        self._next_line: float | None = None
        self._bar = tqdm(
            total=self._total,
            desc="search",
            disable=None if shown is None else not shown,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {postfix}",
        )

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bar.close()

    def tell(self, seconds: float, finished: Sequence[Trial], family: str) -> None:
        """Show that a trial of a family runs behind those that are finished, after so many seconds of the search."""
        best = best_of(finished)
        known = f"best {best.family} {self._metric} {short(best.score)}" if best else "no score yet"
        left = "" if self._budget_s is None else f"{max(self._budget_s - seconds, 0):.0f} s left, "
        text = f"{left}{known}, trial {len(finished) + 1}: {family}"
        if not self._bar.disable:
            self._bar.n = len(finished) if self._n_trials else min(round(seconds), self._total)
            self._bar.set_postfix_str(text)
        elif self._shown is None:
            if self._next_line is None:
                self._next_line = seconds + _LINE_SECONDS
            if seconds >= self._next_line:
                self._next_line = seconds + _LINE_SECONDS
                print_under("search", [text], file=sys.stderr)


def print_resumed(n_trials: int) -> None:
    """Print how many trials of a search that was stopped, or has ended, are known."""
    trials = "1 trial that was" if n_trials == 1 else f"{n_trials} trials that were"
    print_under("search", [f"goes on behind {trials} finished"], file=sys.stderr)
