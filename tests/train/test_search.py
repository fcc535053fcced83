"""The search in its processes: the same number of trials gives the same model, whatever stops it on the way."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model.engine.formulas import Derived
from model.errors import DataError, ModelError
from model.task import CLASSIFICATION, REGRESSION
from model.train import frames
from model.train.frames import Frames
from model.train.learners import LEARNERS, fitted
from model.train.search.journal import NAME
from model.train.search.run import Search, search
from tests.support.service import ROOT

N_TRIALS = 8
FAMILIES = ("linear", "hist-gbm")
COMMAND = """
from pathlib import Path
from tests.train.test_search import FAMILIES, N_TRIALS, run
if __name__ == "__main__":
    run(journal=Path({journal!r}), trials=N_TRIALS, families=FAMILIES)
"""


def table(n_rows: int = 240) -> pd.DataFrame:
    """Numbers, a date and a category, of each of which some are missing."""
    draw = np.random.default_rng(1)
    days = pd.Series(pd.to_datetime("2022-03-01") + pd.to_timedelta(draw.integers(0, 700, n_rows), unit="D"))
    town = draw.choice(["east", "north", "west"], n_rows).astype(object)
    town[draw.random(n_rows) < 0.1] = None
    return pd.DataFrame(
        {
            "area": draw.uniform(30, 200, n_rows),
            "rooms": np.where(draw.random(n_rows) < 0.1, np.nan, draw.integers(1, 6, n_rows)),
            "town": pd.Categorical(town, categories=["east", "north", "west"]),
            "sold": days.astype("datetime64[us]"),
        }
    )


def prices(frame: pd.DataFrame) -> np.ndarray:
    """Prices that depend on the area, the town and the month."""
    noise = np.random.default_rng(2).normal(size=len(frame)) * 10
    return np.asarray(frame["area"] * 3 + frame["town"].cat.codes * 40 + frame["sold"].dt.month * 5 + noise)


def run(**options: Any) -> Search:
    """Search for a model of the table."""
    frame = options.pop("frame", None)
    frame = table() if frame is None else frame
    known: dict[str, Any] = {
        "task": REGRESSION,
        "derived": [Derived("month", "month(sold)"), Derived("per_room", "area / rooms")],
        "threads": 1,
        "progress": False,
    }
    y = options.pop("y", None)
    return search(frame, frames.read(frame), prices(frame) if y is None else y, **{**known, **options})


def of_numbers() -> dict[str, Any]:
    """Return options of `run` for a search among linear models of the numbers, whose trials are quick."""
    frame = table()[["area", "rooms"]]
    return {"frame": frame, "y": prices(table()), "derived": (), "families": ["linear"]}


def served(found: Search, frame: pd.DataFrame) -> dict[str, bytes]:
    """Return the files that a server opens; strings of a pickle are shared as this process happened to have them."""
    columns: Frames = frames.read(frame)
    X = columns.matrix(frame.iloc[found.rows.training])
    files = fitted.candidate(found.pipeline, columns, X).files
    return {name: content for name, content in files.items() if not name.endswith(".joblib")}


@pytest.fixture(scope="module")
def expected() -> Search:
    """A search of a number of trials that nothing interrupts."""
    return run(trials=N_TRIALS, families=FAMILIES)


def is_same(found: Search, expected: Search, frame: pd.DataFrame | None = None) -> bool:
    """Return whether two searches have tried, chosen and fitted the same; of another frame than the table, if given."""
    frame = table() if frame is None else frame
    plain = [replace(each, seconds=0, fit_seconds=0, row_seconds=0) for each in found.trials]
    others = [replace(each, seconds=0, fit_seconds=0, row_seconds=0) for each in expected.trials]
    return (
        plain == others and found.to_facts() == expected.to_facts() and served(found, frame) == served(expected, frame)
    )


def test_same_number_of_trials_gives_the_same_bytes(expected: Search) -> None:
    """The same table, options, seed and number of trials give the same trials, leaderboard and model bytes."""
    assert is_same(run(trials=N_TRIALS, families=FAMILIES), expected)
    assert expected.n_trials == N_TRIALS
    assert expected.leaderboard.entries[-1].family == "baseline"
    assert "is better than the baseline" in expected.verdicts[0]


def test_killed_search_ends_as_if_nothing_had_happened(expected: Search, tmp_path: Path) -> None:
    """After kill -9 at random moments, and with its last line cut, a search goes on to the same model bytes."""
    script = tmp_path / "command.py"
    script.write_text(COMMAND.format(journal=str(tmp_path / "run")))
    journal, moments = tmp_path / "run" / NAME, random.Random(5)
    for _ in range(3):
        n_lines = journal.read_bytes().count(b"\n") if journal.exists() else 0
        process = subprocess.Popen(
            [sys.executable, str(script)], env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path
        )
        deadline = monotonic() + 300
        while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > n_lines + 1):
            assert monotonic() < deadline
            sleep(0.02)
        sleep(moments.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.wait()
    content = journal.read_bytes()
    n_known = content.count(b"\n") - 1
    journal.write_bytes(content[:-7])

    assert n_known >= 3
    assert is_same(run(trials=N_TRIALS, families=FAMILIES, journal=tmp_path / "run"), expected)


def test_search_ends_in_its_time_and_can_be_repeated(tmp_path: Path) -> None:
    """A search in a time ends within it, and its number of trials repeats it; run again, it tries nothing more."""
    plain = of_numbers()
    budget_s = 8 * run(**plain, trials=1).seconds  # on a slow machine, a process takes long to start
    started = monotonic()
    found = run(**plain, budget_s=budget_s, journal=tmp_path)

    assert monotonic() - started < budget_s
    assert found.n_trials > 2
    assert is_same(run(**plain, trials=found.n_trials), found, plain["frame"])
    assert run(**plain, budget_s=budget_s, journal=tmp_path).trials == found.trials


def test_search_in_more_time_goes_on_behind_one_that_has_ended(tmp_path: Path) -> None:
    """More time means more trials, the first of which are those that are known; less time still gives its own."""
    plain = of_numbers()
    short = run(**plain, budget_s=4, journal=tmp_path)
    # The trials get two fifths, which is more than the short search took.
    long = run(**plain, budget_s=5 * short.seconds, journal=tmp_path)

    assert long.n_trials > short.n_trials
    assert long.trials[: short.n_trials] == short.trials
    assert run(**plain, budget_s=4, journal=tmp_path).trials == short.trials


def test_trial_that_kills_its_process_is_a_failed_trial(tmp_path: Path) -> None:
    """A learner that ends its process fails with a reason, and the search goes on with the others."""
    script = tmp_path / "command.py"
    script.write_text(
        f"""
import os, signal
from model.train.learners import linear

class Deadly(linear.Ridge):
    def fit(self, X, y):
        os.kill(os.getpid(), signal.SIGKILL)

linear.Ridge = Deadly  # in the search's process, too, which imports this file
if __name__ == "__main__":
    from tests.train.test_search import run
    found = run(trials=3, families={FAMILIES!r})
    print([(each.family, each.state, each.reason[:22]) for each in found.trials][:2], found.family)
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == (
        "[('baseline', 'complete', ''), ('linear', 'failed', 'its process was killed')] hist-gbm"
    )


@pytest.mark.parametrize("kind", ["strings", "booleans", "numbers"])
def test_labels_are_found_by_their_positions(kind: str) -> None:
    """Labels of all kinds are learned; one that training rows lack is left out, and said to be."""
    frame = table()
    values = pd.qcut(prices(frame), 2 if kind == "booleans" else 3, labels=False)
    known: dict[str, list[Any]] = {
        "strings": ["cheap", "dear", "fair"],
        "booleans": [False, True],
        "numbers": [1, 5, 7],
    }
    labels = known[kind]
    y = np.array([labels[value] for value in values], dtype=object)
    found = run(frame=frame, y=y, task=CLASSIFICATION, labels=labels, trials=3, families=FAMILIES)

    assert found.labels == tuple(labels)
    assert found.leaderboard.metric == "log loss"
    predicted = found.pipeline.predict(frame.iloc[found.rows.validation])
    assert np.mean(np.array(labels, dtype=object)[predicted] == y[found.rows.validation]) > 0.6


def test_leaks_and_repeated_rows_are_named() -> None:
    """A feature that is the target, and rows on both sides of the split, are warned of."""
    frame = table(120)
    frame = pd.concat([frame, frame], ignore_index=True)
    y = prices(frame.iloc[:120])
    y = np.concatenate([y, y])
    found = run(frame=frame.assign(paid=y * 1.19), y=y, trials=2, families=["linear"])

    assert "features that explain nearly all of the target alone: 'paid'" in " ".join(found.warnings)
    assert "held-out rows have the same features as a row that the model is fitted on" in " ".join(found.warnings)
    assert "there are only 192 rows to fit on" in " ".join(found.warnings)


def test_families_that_no_trial_reached_are_named() -> None:
    """A leaderboard without a family says that it was not tried, so that nobody takes it for worse than those above."""
    found = run(trials=2, families=FAMILIES)
    assert [entry.family for entry in found.leaderboard.entries if entry.family != "baseline"] == ["linear"]
    assert found.leaderboard.left_out == {
        "hist-gbm": "there was no time or trial left for it; give more time or trials"
    }


def test_nothing_to_learn_is_said() -> None:
    """A target of one value, and a learner that does not exist, are refused before any work."""
    with pytest.raises(DataError, match="the target has only one value"):
        run(y=np.ones(240))
    with pytest.raises(ModelError, match=f"there is no learner 'svm'; choose among {', '.join(LEARNERS)}"):
        run(families=["svm"])
