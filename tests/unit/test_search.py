"""The search without its process: how rows are parted, what is tried next, what the journal keeps, what is said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import Store
from model.errors import DataError
from model.store.versions import locked
from model.task import CLASSIFICATION, REGRESSION
from model.train import frames
from model.train.learners import LEARNERS
from model.train.learners.family import Size
from model.train.search.choice import next_trial
from model.train.search.journal import NAME, Journal, finished_trials
from model.train.search.leaderboard import interval, leaderboard
from model.train.search.progress import Progress, print_resumed
from model.train.search.rows import part
from model.train.search.run import parse_budget
from model.train.search.trials import COMPLETE, FAILED, STOPPED, Trial, stops
from model.train.search.verdicts import verdicts
from tests.support.examples import BOSTON_HOUSING, rows_of
from tests.support.service import COLUMNS

SIZE = Size(500, 5, 0)
FAMILIES = {name: LEARNERS[name].family() for name in ("baseline", "linear", "hist-gbm")}


def trial(number: int, family: str, *scores: float, state: str = COMPLETE, reason: str = "") -> Trial:
    """Return a finished trial of a family with its defaults."""
    return Trial(number, family, {}, {}, state, scores, reason)


def tried(n_trials: int, task: object = REGRESSION) -> list[Trial]:
    """Return trials as a search would choose them, with scores that depend on the number alone."""
    found: list[Trial] = []
    for number in range(n_trials):
        upcoming = next_trial(found, FAMILIES, task, seed=3, size=SIZE, n_judged=500)  # type: ignore[arg-type]
        assert upcoming is not None
        family, parameters, asked = upcoming
        state = STOPPED if number % 4 == 3 else FAILED if number % 7 == 6 else COMPLETE
        scores = (1.0 + number % 3,) * (5 if state == COMPLETE else 2 if state == STOPPED else 0)
        found.append(Trial(number, family, parameters, asked, state, scores, "it broke" if state == FAILED else ""))
    return found


def test_first_trials_are_the_defaults() -> None:
    """The baseline comes first, then the defaults of each family in order; later ones are never the baseline."""
    found = tried(12)

    assert [each.family for each in found[:3]] == ["baseline", "linear", "hist-gbm"]
    assert found[1].parameters == {"penalty": "ridge", "alpha": 1.0, "l1_ratio": 0.5, "min_frequency": 1}
    assert {each.family for each in found[3:]} <= {"linear", "hist-gbm"}
    assert len({json.dumps(each.asked) for each in found[3:]}) == 9


@pytest.mark.parametrize("task", [REGRESSION, CLASSIFICATION], ids=["regression", "classification"])
def test_next_trial_depends_on_the_finished_ones_alone(task: object) -> None:
    """A search that goes on from a journal chooses what it would have chosen, to the last bit."""
    found = tried(16, task)
    read = [Trial.of(json.loads(json.dumps(each.to_facts()))) for each in found]

    for number in (2, 5, 11, 15):
        expected = (found[number].family, found[number].parameters, found[number].asked)
        assert next_trial(read[:number], FAMILIES, task, seed=3, size=SIZE, n_judged=500) == expected  # type: ignore[arg-type]


def chosen_after(scores: dict[str, float], n_more: int, *, n_judged: int) -> list[str]:
    """Return the families of the trials after one of each with this score, all of which score the same again."""
    families = {name: replace(LEARNERS[name].family(), cost=lambda size: 1.0) for name in scores}
    found = [trial(number, name, *[score] * 5) for number, (name, score) in enumerate(scores.items())]
    for _ in range(n_more):
        upcoming = next_trial(found, families, REGRESSION, seed=3, size=SIZE, n_judged=n_judged)
        assert upcoming is not None
        family, parameters, asked = upcoming
        found.append(Trial(len(found), family, parameters, asked, COMPLETE, (scores[family],) * 5))
    return [each.family for each in found[len(scores) :]]


def test_families_that_are_behind_get_fewer_trials() -> None:
    """Families that are as good take turns; one that is behind gets less, and on few rows more than on many."""
    close = chosen_after({"baseline": 9.0, "linear": 5.0, "hist-gbm": 5.0}, 12, n_judged=20_000)
    behind = chosen_after({"baseline": 9.0, "linear": 5.4, "hist-gbm": 5.0}, 12, n_judged=20_000)
    uncertain = chosen_after({"baseline": 9.0, "linear": 5.4, "hist-gbm": 5.0}, 12, n_judged=100)

    assert close.count("linear") == close.count("hist-gbm") == 6
    assert behind.count("linear") < uncertain.count("linear") < 6


def test_slow_family_waits_until_others_had_as_much() -> None:
    """The defaults of a slow family come when the cheap ones have had as much work as one of its trials takes."""
    families = {name: LEARNERS[name].family() for name in ("baseline", "hist-gbm", "forest")}
    found: list[Trial] = []
    while not found or found[-1].family != "forest":
        upcoming = next_trial(found, families, REGRESSION, seed=3, size=SIZE, n_judged=500)
        assert upcoming is not None
        found.append(Trial(len(found), *upcoming, COMPLETE, (5.0,) * 5))

    assert [each.family for each in found] == ["baseline", "hist-gbm", "hist-gbm", "forest"]
    assert found[-1].parameters == families["forest"].defaults(REGRESSION)


def test_stopped_trials_of_a_cheap_family_do_not_keep_slow_ones_waiting() -> None:
    """A trial that is stopped early counts half of a whole one, so that each family has its first trial soon."""
    families = {name: LEARNERS[name].family() for name in ("baseline", "linear", "forest")}
    found = [trial(0, "baseline", *[9.0] * 5), trial(1, "linear", *[5.0] * 5)]
    while found[-1].family != "forest":
        upcoming = next_trial(found, families, REGRESSION, seed=3, size=SIZE, n_judged=500)
        assert upcoming is not None
        found.append(Trial(len(found), *upcoming, STOPPED, (5.5,), done=0.05))

    assert [each.family for each in found[2:]].count("linear") <= 6


@pytest.mark.parametrize(
    ("scores", "n_judged", "expected"),
    [
        ((1.2, 2.2), 100, True),
        ((9.0,), 100, False),
        ((1.02,), 4_000, True),
        ((1.01,), 4_000, False),
        ((0.9, 9.0), 100, False),
        ((1.06, 2.12), 100, False),
        ((2.0, 3.0, 4.0), 100, False),
    ],
    ids=["worse", "one small fold", "one large fold", "by chance", "once better", "a little worse", "complete"],
)
def test_trial_stops_where_it_is_worse_than_by_chance(scores: tuple[float, ...], n_judged: int, expected: bool) -> None:
    """A trial stops if every fold is worse than the best trial's, and their mean by one over the root of the rows."""
    assert stops(scores, (1.0, 2.0, 3.0), n_judged) == expected
    assert not stops(scores, None, n_judged)


def test_small_tables_are_parted_into_folds_more_often() -> None:
    """Up to 1,000 rows to fit on have each row judged three times, since the scores of few rows are noisy."""
    rows = part(np.random.default_rng(0).normal(size=300), classes=False)

    judged = np.bincount(np.concatenate([judged for _, judged in rows.folds]), minlength=300)
    assert len(rows.folds) == 15
    assert set(judged[rows.searched].tolist()) == {3}


def test_journal_gives_its_trials_back(tmp_path: Path) -> None:
    """What was added is there when the journal of the same search is opened again, and in no journal of another."""
    trials, folder = tried(6), tmp_path / "runs" / "1"
    with Journal(folder, {"key": "a" * 64}) as journal:
        for each in trials[:4]:
            journal.add(each)
        journal.finish(60.0)
        for each in trials[4:]:
            journal.add(each)
        journal.finish(90.5)

    with Journal(folder, {"key": "a" * 64}) as again:
        assert (again.trials, again.finished) == (trials, {60.0: 4, 90.5: 6})
    assert finished_trials(folder) == trials[:6]
    with Journal(folder, {"key": "b" * 64}) as other:
        assert (other.trials, other.finished) == ([], {})
    assert finished_trials(folder) == finished_trials(tmp_path / "none") == []
    assert sorted(path.name for path in folder.iterdir()) == ["journal-aaaaaaaaaaaa.jsonl", NAME]


def test_journal_is_of_one_search_at_a_time(tmp_path: Path) -> None:
    """While a search runs no other one writes into its folder, of the same table or of another."""
    with Journal(tmp_path, {"key": "a"}) as journal:
        for key in "ab":
            with pytest.raises(DataError, match="another search is running"):
                Journal(tmp_path, {"key": key})
        journal.add(tried(1)[0])

    with Journal(tmp_path, {"key": "a"}) as again:
        assert again.trials == tried(1)


def test_journal_and_records_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """A run of the same model that ends during a search is recorded at once, and a search begins while one is."""
    store = Store(tmp_path)
    with Journal(tmp_path / "m" / "runs", {"key": "a"}):
        store.keep("m", "runs", "1.json", b"{}")
    assert store.kept("m", "runs")["1.json"] == b"{}"

    with locked(tmp_path / "m"), Journal(tmp_path / "m" / "runs", {"key": "a"}) as again:
        assert again.trials == []


@given(cut=st.integers(0, 2_000), noise=st.binary(max_size=20))
def test_journal_drops_a_damaged_end(tmp_path_factory: pytest.TempPathFactory, cut: int, noise: bytes) -> None:
    """However a journal is cut off and whatever is behind the cut, the trials of the whole lines are kept."""
    folder = tmp_path_factory.mktemp("run")
    trials = tried(4)
    with Journal(folder, {"key": "a"}) as journal:
        for each in trials:
            journal.add(each)
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[:cut] + noise.replace(b"\n", b"."))
    n_whole = max(content[:cut].count(b"\n") - 1, 0)

    with Journal(folder, {"key": "a"}) as again:
        assert again.trials == trials[:n_whole]
        again.add(trials[n_whole % 4])
    with Journal(folder, {"key": "a"}) as again:
        assert again.trials == [*trials[:n_whole], trials[n_whole % 4]]


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("how", ["random", "groups", "times", "both"])
def test_rows_are_parted(how: str, classes: bool) -> None:
    """No row is on two sides; groups are on one side; later rows are never fitted on to judge earlier ones."""
    random = np.random.default_rng(5)
    n_rows = 2_000
    y = random.integers(0, 3, n_rows) if classes else random.normal(size=n_rows)
    groups = random.integers(0, 40, n_rows) if how in ("groups", "both") else None
    times = random.integers(0, 90, n_rows) if how in ("times", "both") else None
    if groups is not None and times is not None:
        times = 5 * groups + times // 6  # a group begins when the one three before it has ended
    rows = part(y, classes=classes, groups=groups, times=times, max_rows=1_500)
    sides = [(rows.training, rows.validation), *rows.folds]

    assert sorted([*rows.training, *rows.validation]) == list(range(n_rows))
    assert 0.1 < len(rows.validation) / n_rows < 0.3
    assert len(rows.searched) == 1_500
    assert len(rows.folds) == 5
    for fitted, judged in sides:
        assert not set(fitted) & set(judged)
        if groups is not None:
            assert not set(groups[fitted]) & set(groups[judged])
        if times is not None and groups is None:
            assert times[fitted].max() < times[judged].min()
    if times is not None and groups is not None:
        latest = np.array([times[groups == group].max() for group in range(40)])
        for fitted, judged in sides:
            assert latest[groups[fitted]].max() < latest[groups[judged]].min()
        share = np.mean(times[rows.validation] > times[rows.training].max())
        assert rows.how.endswith(f"{share:.0%} of the held-out rows are later than all that are fitted on")


def test_progress_is_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Every 15 seconds a line on standard error says what is best so far and how much time is left."""
    finished = [trial(0, "baseline", 9.0, 9.5), trial(1, "linear", 5.0, 5.5)]
    with Progress("RMSE", n_trials=None, budget_s=120.0, shown=None) as progress:
        for quarters in range(4 * 32):
            seconds = quarters / 4
            progress.tell(seconds, finished[: int(seconds) // 8], "forest")
    with Progress("RMSE", n_trials=4, budget_s=None, shown=False) as progress:
        progress.tell(0.0, finished, "forest")
        progress.tell(99.0, finished, "forest")
    print_resumed(1)
    print_resumed(5)

    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "search   105 s left, best baseline RMSE 9.25, trial 2: forest",
        "search   90 s left, best linear RMSE 5.25, trial 3: forest",
        "search   goes on behind 1 trial that was finished",
        "search   goes on behind 5 trials that were finished",
    ]


@pytest.mark.parametrize("n_ended_before", [0, 6, 40])
def test_groups_that_overlap_in_time_are_not_split_by_time(n_ended_before: int) -> None:
    """Groups that exist side by side cannot be parted by time: that is refused with what to do, whenever they end."""
    groups, times = (each.ravel() for each in np.meshgrid(np.arange(46), np.arange(100)))
    kept = times < np.where(groups < n_ended_before, 60 + groups, 100)
    groups, times = groups[kept], times[kept]
    y = np.random.default_rng(5).normal(size=len(times))

    with pytest.raises(DataError, match=r"the groups overlap in time.*say --time alone.*or --group alone"):
        part(y, classes=False, groups=groups, times=times)
    assert len(part(y, classes=False, groups=groups).folds) == len(part(y, classes=False, times=times).folds) == 5


def test_groups_that_end_together_stay_together() -> None:
    """Groups whose latest rows have the same time are on the same side, so that the held-out ones do end later."""
    times = np.repeat(np.arange(20), 10)
    groups = np.arange(200) // 2
    rows = part(np.arange(200.0), classes=False, groups=groups, times=times)

    assert times[rows.training].max() < times[rows.validation].min()
    assert "100% of the held-out rows are later" in rows.how


def test_rows_are_parted_the_same_way_again() -> None:
    """The same rows and seed give the same parts, another seed gives others."""
    y = np.random.default_rng(0).normal(size=100)

    assert part(y, classes=False).training.tolist() == part(y, classes=False).training.tolist()
    assert part(y, classes=False).training.tolist() != part(y, classes=False, seed=8).training.tolist()


def test_too_few_rows_groups_and_times_are_named() -> None:
    """Rows, groups or times that cannot be parted raise an error that says how many there are."""
    y = np.arange(30.0)

    with pytest.raises(DataError, match="there are 19 rows with a target; a search needs 20"):
        part(y[:19], classes=False)
    with pytest.raises(DataError, match="there are 2 groups"):
        part(y, classes=False, groups=y % 2)
    with pytest.raises(DataError, match="there are 2 different times"):
        part(y, classes=False, times=y % 2)
    uneven = np.r_[np.zeros(3000), 1, 2]
    with pytest.raises(DataError, match="nearly all rows are of one group"):
        part(uneven, classes=False, groups=uneven, seed=2, max_rows=100)


def test_label_of_one_row_is_parted_without_a_warning() -> None:
    """A label with fewer rows than folds is named by the search, and scikit-learn says nothing of its own."""
    rows = part(np.r_[np.zeros(40, dtype=int), 1], classes=True)

    assert len(rows.folds) == 15


def test_interval_is_wider_for_folds_that_share_rows() -> None:
    """The interval of five folds is that of Student's t with the variance of Nadeau and Bengio."""
    found = interval([1.0, 2.0, 3.0, 4.0, 5.0], 0.25)

    assert found.mean == 3.0
    # 2.776445 deviations of t with 4 degrees of freedom, times the root of (1/5 + 1/4) * 2.5
    assert found.high - found.mean == pytest.approx(2.776445 * (0.45 * 2.5) ** 0.5, rel=1e-6)


def test_verdicts_compare_with_the_baseline_and_the_linear_model() -> None:
    """The best is called better only where the interval of the folds' differences is above zero."""
    clear = [
        trial(0, "baseline", 9, 9.1, 9.2, 9, 9),
        trial(1, "linear", 5, 5.1, 5, 5.2, 5),
        trial(2, "forest", *[2] * 5),
    ]
    board = leaderboard(clear, "RMSE", 0.25, {}, {})

    assert [entry.family for entry in board.entries] == ["forest", "linear", "baseline"]
    assert [sentence.split(" in RMSE")[0] for sentence in verdicts(board, 0.25)] == [
        "forest is better than the baseline",
        "forest is better than a linear model",
    ]
    close = [*clear[:1], replace(clear[1], scores=(2.0, 2.1, 1.9, 2.2, 2.1)), clear[2]]
    assert "a linear model is as good" in verdicts(leaderboard(close, "RMSE", 0.25, {}, {}), 0.25)[1]
    nothing = [clear[0], trial(1, "linear", 9.5, 9.5, 9.5, 9.5, 9.5)]
    assert verdicts(leaderboard(nothing, "RMSE", 0.25, {}, {}), 0.25)[0].startswith(
        "nothing is better than the baseline"
    )
    alone = leaderboard(clear[:1], "RMSE", 0.25, {"linear": "there was no time or trial left for it"}, {})
    assert verdicts(alone, 0.25)[0].startswith("nothing but the baseline was fitted")


@pytest.mark.parametrize(
    ("linear", "baseline", "said"),
    [
        (
            (24, 23, 25, 22, 310),
            (39, 40, 38, 41, 39),
            "hist-gbm is better than a linear model in 5 of 5 folds, in RMSE by 59.8 in the mean (95 % interval "
            "-177.8 to 297.4); most of it is one fold, in which the linear model is far off; a linear model is worse "
            "than the baseline",
        ),
        (
            (19, 20, 20, 20, 310),
            (39, 40, 38, 41, 39),
            "hist-gbm is better than a linear model in 1 of 5 folds, in RMSE by 56.8 in the mean (95 % interval "
            "-183.9 to 297.5); most of it is one fold, in which the linear model is far off; a linear model is worse "
            "than the baseline",
        ),
        (
            (21, 22, 21, 29, 30),
            (39, 40, 38, 41, 39),
            "hist-gbm is better than a linear model in 5 of 5 folds, in RMSE by 3.6 in the mean (95 % interval "
            "-3.474 to 10.67), which may be by chance",
        ),
        (
            (19, 22, 21, 29, 30),
            (39, 40, 38, 41, 39),
            "a linear model is as good: hist-gbm is better by 3.2 (95 % interval -4.663 to 11.06); "
            "the simpler one may be the better choice",
        ),
    ],
    ids=["one fold far off", "worse than the baseline", "every fold", "as good"],
)
def test_linear_model_is_as_good_if_its_errors_are(
    linear: tuple[float, ...], baseline: tuple[float, ...], said: str
) -> None:
    """An interval that contains zero is not enough: the linear model wins a fold, and is better than the baseline."""
    found = [
        trial(0, "baseline", *baseline),
        trial(1, "linear", *linear),
        trial(2, "hist-gbm", 20, 21, 20.5, 21.5, 22),
    ]

    assert verdicts(leaderboard(found, "RMSE", 0.25, {}, {}), 0.25)[1] == said


def test_leaderboard_of_one_fold_has_no_interval() -> None:
    """Three different times make one fold, whose score has no interval: the facts are JSON all the same."""
    board = leaderboard([trial(0, "baseline", 2.0), trial(1, "linear", 1.0)], "RMSE", 0.25, {}, {})

    scores = [entry["score"] for entry in json.loads(json.dumps(board.to_facts(), allow_nan=False))["entries"]]

    assert scores == [{"mean": 1.0, "low": 0.0, "high": None}, {"mean": 2.0, "low": 0.0, "high": None}]
    assert "one fold: none" in board.table()
    assert "by 1 (50%; one fold gives no interval)" in verdicts(board, 0.25)[0]


def test_leaderboard_has_no_times_in_its_facts() -> None:
    """What the manifest keeps of a leaderboard is the same for the same search, whatever was measured beside it."""
    trials = [trial(0, "baseline", 2, 3, 4), trial(1, "linear", 1, 2, 3), trial(2, "linear", state=FAILED, reason="no")]
    measured = {
        "linear": {"fit_seconds": 0.5, "microseconds_one_row": 20.0, "microseconds_a_row": 1.0, "bytes": 2048.0}
    }
    board = leaderboard(trials, "RMSE", 0.25, {"mlp": "PyTorch is not installed"}, measured)

    assert board.to_facts() == leaderboard(trials, "RMSE", 0.25, {"mlp": "PyTorch is not installed"}, {}).to_facts()
    assert json.loads(json.dumps(board.to_facts()))["entries"][0]["n_failed"] == 1
    assert board.measured() == measured
    assert "20 µs" in board.table()
    assert "2 (1 failed)" in board.table()


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("2m", 120), ("1.5h", 5400)])
def test_budget_is_a_time(text: str, seconds: float) -> None:
    """A budget is seconds, or has a unit."""
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "2 d", "m", "1e3"])
def test_wrong_budget_says_how_to_write_one(text: str) -> None:
    """What is no time, or none at all, is refused with examples."""
    with pytest.raises(ValueError, match="write seconds, or 90s, 10m, 1h"):
        parse_budget(text)


def test_any_table_gives_the_published_model() -> None:
    """The published split and GBM are what the search's own parts and the learner's defaults make of the table."""
    table = rows_of(BOSTON_HOUSING)
    frame = pd.DataFrame(table.X, columns=COLUMNS)
    rows = part(table.y, classes=False)
    family = LEARNERS["gbm"].family()
    pipeline = family.build(family.defaults(REGRESSION), frames.read(frame).columns, (), REGRESSION, 7)
    pipeline.fit(frame.iloc[rows.training], table.y[rows.training])

    assert np.array_equal(table.X[rows.validation], table.X_validation)
    assert pipeline.predict(frame[:1]).tolist() == [25.002145787183498]
