"""Owns the comparison of two versions by the prediction log: which requests count, with which loss, and the command."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model import PredictionLogError
from model.cli.main import main
from model.live import comparison
from model.live.comparison import LOSSES, Evidence, Judged, of_labels
from model.live.prediction_log import PredictionLog
from tests.support.feedback import LONG_AGO, opened

NOW = datetime.now(UTC) - timedelta(hours=1)
NAN = float("nan")


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def log(url: str) -> Iterator[PredictionLog]:
    """An empty log."""
    with opened(url) as log:
        yield log


def ask(
    log: PredictionLog,
    request_id: str,
    replies: Sequence[float],
    truths: Sequence[float | None] = (),
    *,
    version: int = 1,
    beside: dict[int, Sequence[float]] | None = None,
    when: datetime = NOW,
    features: Sequence[dict[str, Any]] | None = None,
) -> None:
    """Log a request that one version answered, those beside it, and its truths."""
    common = {"request_id": request_id, "time": when, "model": "m", "version": version}
    log.write(
        [
            {**common, "row": row, "features": features[row] if features else None, "prediction": reply}
            for row, reply in enumerate(replies)
        ]
    )
    for other, answers in (beside or {}).items():
        found = [
            {"request_id": request_id, "row": row, "version": other, "prediction": answer}
            for row, answer in enumerate(answers)
        ]
        log.write_shadows(found)
    known = [(request_id, row, truth) for row, truth in enumerate(truths) if truth is not None]
    log.add_truths(known, oldest=LONG_AGO)


def evidence(log: PredictionLog, first: int = 1, second: int = 2, loss: str | None = None) -> Evidence:
    """Return what the log says of two versions."""
    judged, _ = comparison.of_log(log, "m", first, second, since=LONG_AGO, loss=LOSSES[loss] if loss else None)
    return comparison.evidence(judged, is_paired=comparison.is_paired(judged))


def test_a_request_counts_once(log: PredictionLog) -> None:
    """The loss of a request is the mean over its rows, so that one of many rows weighs as much as one of a single."""
    ask(log, "a", [1.0, 2.0, 3.0], [2.0, 2.0, 5.0], beside={2: [2.0, 2.0, 4.0]})
    ask(log, "b", [1.0], [2.0], beside={2: [4.0]})

    losses = evidence(log).losses
    assert losses.n == 2
    assert losses.first.total == pytest.approx(5 / 3 + 1)
    assert losses.second.total == pytest.approx(1 / 3 + 4)
    assert losses.differences
    assert losses.differences.squares == pytest.approx((4 / 3) ** 2 + 3**2)
    assert evidence(log, loss="absolute").losses.first.total == pytest.approx(1 + 1)


def test_a_request_counts_when_all_of_its_rows_have_truths(log: PredictionLog) -> None:
    """A request without truths for all rows does not count yet; how many there are is the coverage."""
    ask(log, "whole", [1.0, 2.0], [1.0, 2.0], beside={2: [1.0, 2.0]})
    ask(log, "part", [1.0, 2.0], [1.0, None], beside={2: [1.0, 2.0]})
    ask(log, "none", [1.0], beside={2: [1.0]})
    ask(log, "alone", [1.0], [1.0])
    ask(log, "half", [1.0, 1.0], [1.0, 1.0], beside={2: [1.0]})

    found = evidence(log)
    assert (found.n_requests, found.n_with_truths, found.n_partly) == (3, 1, 1)
    log.add_truths([("part", 1, 2.0)], oldest=LONG_AGO)
    assert evidence(log).n_with_truths == 2


def test_roles_may_change(log: PredictionLog) -> None:
    """It does not matter which of both versions was the reply, nor whether both were beside a third one."""
    ask(log, "a", [1.0], [2.0], beside={2: [4.0]})
    ask(log, "b", [4.0], [2.0], version=2, beside={1: [1.0]})
    ask(log, "c", [0.0], [2.0], version=3, beside={1: [1.0], 2: [4.0]})

    losses = evidence(log).losses
    assert (losses.first.n, losses.first.total, losses.second.total) == (3, 3.0, 12.0)
    assert (
        evidence(log, 2, 1).losses.differences
        == evidence(log).losses.__class__.paired(np.full(3, 4.0), np.full(3, 1.0)).differences
    )


def test_answers_that_are_no_numbers_do_not_count(log: PredictionLog) -> None:
    """A request counts only if both versions have a finite answer to each row, and an error whose square is finite."""
    ask(log, "a", [NAN, 1.0], [1.0, 1.0], beside={2: [1.0, 1.0]})
    ask(log, "b", [1.0], [1.0], beside={2: [1e200]})
    ask(log, "c", [1.0], [1.0], beside={2: [2.0]})

    assert evidence(log).losses.second.total == 1.0


def test_different_requests_count_in_the_time_of_both(log: PredictionLog) -> None:
    """Where no request has both versions, only those of the time in which both answered are compared."""
    minutes = {1: [0, 10, 20, 30, 40], 2: [15, 25, 35, 45]}
    for version, times in minutes.items():
        for minute in times:
            when = NOW + timedelta(minutes=minute)
            ask(log, f"{version}-{minute}", [1.0 * version], [0.0], version=version, when=when)

    found = evidence(log)
    assert found.losses.differences is None
    assert (found.losses.first.n, found.losses.second.n) == (3, 3)  # from minute 15 to 40
    assert (found.losses.first.mean, found.losses.second.mean) == (1.0, 4.0)


def test_versions_at_different_times(log: PredictionLog) -> None:
    """Versions one after the other have no requests of the same time, so that nothing is known."""
    ask(log, "a", [1.0], [1.0], when=NOW)
    ask(log, "b", [1.0], [1.0], version=2, when=NOW + timedelta(minutes=1))

    assert evidence(log).n_requests == 0


def test_labels_of_each_version(log: PredictionLog) -> None:
    """A true label is found among each version's own labels; one that a version does not know has the worst loss."""
    labels = {("m", 1): ("no", "perhaps", "yes"), ("m", 2): ("yes", "no")}
    truths = ["yes", "no", "perhaps"]
    common = {"request_id": "a", "time": NOW, "model": "m", "version": 1, "features": None}
    log.write(
        [
            {**common, "row": row, "prediction": 0.0, "probabilities": np.array([0.5, 0.25, 0.25])}
            for row in range(len(truths))
        ],
        labels,
    )
    shadow = {"request_id": "a", "version": 2, "prediction": 0.0, "probabilities": np.array([0.8, 0.2])}
    log.write_shadows([{**shadow, "row": row} for row in range(len(truths))], labels)
    log.add_truths([("a", row, truth) for row, truth in enumerate(truths)], oldest=LONG_AGO)

    losses = evidence(log).losses
    assert losses.first.total == pytest.approx(-np.log([0.25, 0.5, 0.25]).mean())
    assert losses.second.total == pytest.approx(-np.log([0.8, 0.2, np.finfo(float).eps]).mean())
    losses = evidence(log, loss="brier").losses
    assert losses.first.total == pytest.approx(((0.25 + 0.0625 + 0.5625) * 2 + (0.25 + 0.0625 + 0.0625)) / 3)
    assert losses.second.total == pytest.approx((0.04 + 0.64 + 1) / 3)
    with pytest.raises(PredictionLogError, match="version 1 is a classifier, which has no squared error; choose"):
        evidence(log, loss="squared")


def test_a_version_that_did_not_answer(log: PredictionLog) -> None:
    """The message names the versions without answers."""
    ask(log, "a", [1.0], [1.0])
    with pytest.raises(PredictionLogError, match="has no answer of m version 2 in this time, but of version 1;"):
        evidence(log)
    with pytest.raises(PredictionLogError, match="has no answer of m version 3 or 2 in this time, but of version 1;"):
        evidence(log, 3, 2)


def test_sums_of_the_parts_are_those_of_the_log(log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that reads the log in parts has the sums of the whole."""
    random = np.random.default_rng(0)
    for number in range(40):
        y = random.integers(0, 8, (3, int(random.integers(1, 4)))).astype(float).tolist()
        ask(log, f"r{number}", y[0], y[1], beside={2: y[2]}, when=NOW + timedelta(seconds=number))
    whole = evidence(log)
    monkeypatch.setattr(comparison, "LIVE_ROWS", 7)

    *steps, last = comparison.live(log, ["m"], since=LONG_AGO)
    assert last
    (found,) = last
    assert len(steps) > 5
    assert steps == [None] * len(steps)
    assert found.losses.n == 40
    assert found.losses.difference == pytest.approx(whole.losses.difference)
    assert found.losses.deviation == pytest.approx(whole.losses.deviation)


def test_pairs_of_all_versions(log: PredictionLog) -> None:
    """Each two versions with requests in common are a pair, the older one first, until a day after the last of them."""
    ask(log, "a", [1.0], [2.0], beside={2: [4.0], 3: [2.0]})
    ask(log, "b", [1.0], beside={4: [1.0]}, when=NOW - timedelta(days=2))
    ask(log, "c", [1.0], [2.0], beside={2: [2.0]}, when=NOW - timedelta(days=2))
    ask(log, "d", [1.0], [2.0], version=5)

    *_, found = comparison.live(log, ["m", "other"], since=LONG_AGO)
    assert found
    pairs = {(each.model, each.first, each.second): (each.losses.n, each.losses.difference) for each in found}
    assert pairs == {("m", 1, 2): (2, -1.0), ("m", 1, 3): (1, 1.0), ("m", 2, 3): (1, 4.0)}
    *_, later = comparison.live(log, ["m"], since=LONG_AGO, now=NOW + timedelta(days=2))
    assert later == []


def judged(cells: Sequence[Any], requests: Sequence[int] | None = None) -> Judged:
    """Return rows with these cells."""
    found = comparison.of_table(np.zeros(len(cells)), np.ones(len(cells)), cells)
    if requests is None:
        return found
    return Judged(np.array(requests), *(getattr(found, name) for name in Judged.__slots__[1:]))


def sizes(cells: Sequence[Any]) -> dict[str, int]:
    """Return the number of rows of each slice."""
    return {name: int(rows.sum()) for name, rows in comparison.slices(judged(cells)).items()}


def test_slices() -> None:
    """Categories are slices, the most frequent first; many numbers or dates are quartiles; missing ones are apart."""
    assert sizes(["b", "a", "b", None, {"unseen": True}, "b", "a"]) == {"b": 3, "a": 2, "missing": 1, "unseen": 1}
    assert sizes([True, False, True]) == {"true": 2, "false": 1}
    assert sizes([1, 2.0, 1, 1.0, 0.5]) == {"1": 3, "0.5": 1, "2": 1}
    assert sizes([*range(100), None, NAN]) == {
        "below 25": 25,
        "25 to 50": 25,
        "50 to 75": 25,
        "75 and more": 25,
        "missing": 2,
    }
    days = [f"2026-{1 + day // 25:02}-{1 + day % 25:02}" for day in range(100)]
    assert sizes([*days, None]) == {
        "below 2026-02-01": 25,
        "2026-02-01 to 2026-03-01": 25,
        "2026-03-01 to 2026-04-01": 25,
        "2026-04-01 and more": 25,
        "missing": 1,
    }
    many = sizes([f"c{number:02}" for number in range(40) for _ in range(number)])
    assert len(many) == comparison.MAX_SLICES
    assert next(iter(many)) == "c39"
    assert many["others"] == sum(range(21))


def test_a_request_in_several_slices() -> None:
    """A request counts in each slice by its rows there."""
    rows = judged(["a", "a", "b", "b"], [0, 0, 0, 1])
    rows.first[:] = [1.0, 2.0, 6.0, 8.0]
    parts = {
        name: comparison.evidence(rows, is_paired=True, rows=chosen).losses.first
        for name, chosen in comparison.slices(rows).items()
    }

    assert (parts["a"].n, parts["a"].total) == (1, 1.5)
    assert (parts["b"].n, parts["b"].total) == (2, 14.0)


def answers(log: PredictionLog, n: int, *, better: float, seed: int = 0) -> None:
    """Log `n` requests that version 1 answered and version 2 beside it, with truths for three in four."""
    random = np.random.default_rng(seed)
    errors: NDArray[np.float64] = random.normal(size=(2, n))
    rows, shadows, truths = [], [], []
    for number, (one, two) in enumerate(zip(errors[0], errors[1] * (1 - better))):
        common = {"request_id": f"r{number}", "row": 0}
        features = {"zone": "north" if number % 3 else "south"}
        model = {"time": NOW, "model": "m", "version": 1}
        rows.append({**common, **model, "features": features, "prediction": 10 + one})
        shadows.append({**common, "version": 2, "prediction": 10 + two})
        if number % 4:
            truths.append((f"r{number}", 0, 10.0))
    log.write(rows)
    log.write_shadows(shadows)
    log.add_truths(truths, oldest=LONG_AGO)


def compare(url: str, *options: str) -> int:
    """Run the command on version 1 and 2 of the log."""
    return main(["--store", "no-such-store", "compare", "m", "1", "2", "--log", url, *options])


@pytest.mark.parametrize(
    ("better", "n", "options", "status", "text"),
    [
        (0.5, 800, [], 0, "version 2 is better than version 1: its squared error is less by"),
        (-0.5, 800, [], 3, "version 2 is worse than version 1: its squared error is more by"),
        (0.0, 800, ["--margin", "5"], 4, "version 2 is practically equal to version 1: its squared error is"),
        (0.0, 800, [], 5, "undecided whether version 2 is better than version 1: its squared error is"),
        (0.5, 100, [], 5, "undecided whether version 2 is better than version 1: its squared error is"),
        (0.5, 800, ["--loss", "absolute"], 0, "version 2 is better than version 1: its absolute error is less by"),
    ],
)
def test_the_command_says_it_in_one_sentence(
    log: PredictionLog,
    url: str,
    capsys: pytest.CaptureFixture[str],
    better: float,
    n: int,
    options: list[str],
    status: int,
    text: str,
) -> None:
    """Each verdict is a sentence and an exit status, with the coverage of truths below it."""
    answers(log, n, better=better)

    assert compare(url, *options) == status
    first, *rest = capsys.readouterr().out.splitlines()
    assert first.startswith(text)
    assert rest[0] == f"  {3 * n // 4} requests that both answered; 75.0% of {n} have true values"


def test_the_command_by_a_feature(log: PredictionLog, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`--by` has a line for each value of a feature with its own verdict; all slices together share alpha."""
    answers(log, 1_200, better=0.5)
    assert compare(url, "--by", "zone") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[-3:]] == ["slice", "north", "south"]
    assert lines[-2].split()[1:3] == ["800", "75.0%"]
    assert lines[-2].endswith("better")

    assert compare(url, "--by", "zone", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["decision"], found["requests"], found["with_truths"], found["more"]) == ("better", 1_200, 900, 0)
    north = found["slices"]["north"]
    assert north["low"] < north["difference"] < north["high"]
    assert north["high"] - north["low"] > found["high"] - found["low"]


def test_the_command_by_a_feature_that_is_not_logged(
    log: PredictionLog, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A column that no logged request has, as a misspelt one, is an error that names those which the log has."""
    answers(log, 200, better=0.5)

    for name in ("zoen", "1"):
        assert compare(url, "--by", name) == 1
        errors = capsys.readouterr().err
        assert f"the prediction log has no value of {name!r} for these requests, but of zone; name one of" in errors


def test_the_command_by_a_feature_where_none_is_logged(
    log: PredictionLog, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """If the log has no features at all, the error says how a server keeps them."""
    ask(log, "a", [1.0], [1.0], beside={2: [2.0]})

    assert compare(url, "--by", "zone") == 1
    assert "of no feature: let the server log them: TABSERVE_PREDICTION_LOG_FEATURES=true" in capsys.readouterr().err


def test_the_command_without_versions(log: PredictionLog, url: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Without others, the first version is compared with each that answered; the status is the best of them."""
    answers(log, 800, better=0.5)
    log.write_shadows(
        [{"request_id": f"r{number}", "row": 0, "version": 3, "prediction": 20.0} for number in range(800)]
    )

    assert main(["compare", "m", "1", "--log", url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[:26] for line in lines if line.startswith("v")] == [
        "version 2 is better than v",
        "version 3 is worse than ve",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["m", "1", "7"], "has no answer of m version 7 in this time, but of version 1 and 2; serve it beside"),
        (["other", "1", "2"], "has no answer of other version 1 or 2 in this time, nor of any other version; serve"),
        (["other", "1"], "has no answer of other but by version 1 in the last 30 days"),
        (["m", "1", "2", "--margin", "-1"], "--margin '-1' is no share such as 1% and no loss such as 0.5"),
        (["m"], "there is no model 'm' in the store "),
        (["m", "1", "2", "--loss", "brier"], "version 1 is a regression, which has no Brier score"),
    ],
)
def test_the_command_says_what_is_wrong(
    log: PredictionLog,
    url: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """An error names what is wrong and what to do, with exit status 1."""
    answers(log, 10, better=0.5)

    assert main(["--store", str(tmp_path / "none"), "compare", "--log", url, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_command_names_a_file_that_is_no_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is no database, or has no log in it, is named; a person may have several."""
    for content in ("a,b\n" * 1_000, ""):
        (tmp_path / "rows.csv").write_text(content)
        assert compare(f"sqlite:///{tmp_path / 'rows.csv'}") == 1
        assert repr(str(tmp_path / "rows.csv")) in capsys.readouterr().err


def test_labels_by_name() -> None:
    """A label is found by its name in another version's list, -1 where that one does not have it."""
    y = np.array([0.0, 1.0, 2.0])

    assert of_labels(y, ("a", "b", "c"), ("c", "a")).tolist() == [1, -1, 0]
    assert of_labels(y, (), ()).tolist() == [0, 1, 2]
