"""Owns the prediction log in SQLite and PostgreSQL: what it stores, and which failures it survives."""

from __future__ import annotations

import json
import math
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, log_loss, mean_absolute_error, roc_auc_score, root_mean_squared_error

from app.telemetry.metrics import OUTCOMES
from model import ImplausibleTruthsError, ModelError, PredictionLogError, Problem, RefusedRowsError, Store
from model.live import prediction_log
from model.live.prediction_log import Outcome, PredictionLog
from tests.support import gems
from tests.support.postgres import Postgres
from tests.support.server import wait_until
from tests.support.service import ROOT, bits

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
FEATURES = ("a", "b")
SECRET = 0.1 + 0.2  # a value of a feature, which no line of code has as it is printed

# Says that it is there and waits for a line, writes 100 requests of 10 rows, and their truths.
WRITER = """
import sys
from datetime import UTC, datetime
from model.live.prediction_log import PredictionLog

url, name = sys.argv[1:]
log, oldest = PredictionLog(url), datetime(2000, 1, 1, tzinfo=UTC)
print("here", flush=True)
input()
for number in range(100):
    row = {"request_id": f"{name}-{number}", "time": datetime.now(UTC), "model": name, "version": 1, "features": None}
    assert log.write([{**row, "row": i, "prediction": number + i / 10} for i in range(10)]) == 10
    assert set(log.add_truths([(f"{name}-{number}", i, 1.0) for i in range(10)], oldest=oldest)) == {"accepted"}
"""


@pytest.fixture
def log(url: str) -> Iterator[PredictionLog]:
    """An empty log."""
    log = PredictionLog(url)
    yield log
    log.close()


def rows(
    request_id: str,
    predictions: Sequence[float],
    *,
    when: datetime = NOON,
    model: str = "boston-housing",
    version: int = 1,
    features: Sequence[dict[str, Any] | None] | None = None,
) -> list[dict[str, Any]]:
    """Return the rows of one request for `write`."""
    common = {"request_id": request_id, "time": when, "model": model, "version": version}
    return [
        {**common, "row": i, "features": features[i] if features else None, "prediction": prediction}
        for i, prediction in enumerate(predictions)
    ]


def numbers(log: PredictionLog, **which: Any) -> list[float]:
    """Return the logged predictions of version 1, oldest first."""
    version = which.pop("version", 1)
    found = log.read("boston-housing", version, features=(), since=which.pop("since", LONG_AGO))
    return [float(prediction) for prediction in found.predictions]


def any_floats(n: int) -> NDArray[np.float64]:
    """Return finite numbers of all sizes, the smallest and the largest among them."""
    patterns = np.random.default_rng(7).integers(-(2**63), 2**63, 4 * n).view(np.float64)
    special = [
        0.0,
        5e-324,
        -5e-324,
        2.2250738585072014e-308,
        1.7976931348623157e308,
        -1.7976931348623157e308,
        0.1,
        1e22,
    ]
    return np.concatenate([special, patterns[np.isfinite(patterns)]])[:n]


def drop_table(url: str, postgres: Callable[[], Postgres]) -> None:
    """Drop the log's table from outside."""
    if url.startswith("postgresql"):
        postgres().execute("DROP TABLE predictions CASCADE")
        return
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        connection.execute("DROP TABLE predictions")


def test_outcomes_are_those_that_are_counted() -> None:
    """Outcomes of true values have the same names in the log and in the metrics."""
    assert tuple(Outcome) == OUTCOMES


def test_round_trip_is_exact(log: PredictionLog) -> None:
    """Times, features and predictions are read as they were written, to the last bit, columns in the given order."""
    values = any_floats(600).reshape(-1, 3)
    written = rows("r", values[:, 0].tolist(), features=[{"a": a, "b": b} for _, a, b in values.tolist()])
    for i, row in enumerate(written):
        row["time"] = NOON + timedelta(microseconds=i * 1_000_001)

    assert log.write(written) == 200
    found = log.read("boston-housing", 1, features=("b", "a"), since=NOON)
    assert bits(found.predictions).tolist() == bits(values[:, 0]).tolist()
    assert bits(found.X).tolist() == bits(values[:, [2, 1]]).tolist()
    assert found.times.tolist() == [row["time"].replace(tzinfo=None) for row in written]
    assert np.isnan(found.truths).all()


def test_every_type_is_read_back(log: PredictionLog, url: str, gems_store: Path) -> None:
    """Cells of every type are logged as clients send them, and are read back as the numbers of the matrix.

    A row of which everything is missing is not one without features.
    """
    model = Store(gems_store).load(gems.NAME)
    records = [
        gems.GEM,
        {**gems.GEM, **dict.fromkeys(gems.MAY_BE_MISSING)},
        {**gems.GEM, "color": "new", "origin": "new"},
        *gems.rows(gems.table(50, seed=3)),
    ]
    X = model.schema.matrix_from_records(records)
    features = [dict(zip(gems.COLUMNS, row)) for row in model.schema.to_log(X)]
    log.write(rows("a", [0.0] * len(X), model=gems.NAME, features=features))
    log.write(rows("b", [1.0], model=gems.NAME, when=NOON + timedelta(1), features=[dict.fromkeys(gems.COLUMNS)]))
    log.write(rows("c", [2.0], model=gems.NAME, when=NOON + timedelta(2)))
    from_log = [kind.from_log for kind in model.schema.cells]
    found = log.read(gems.NAME, 1, features=gems.COLUMNS, since=LONG_AGO, from_log=from_log)

    assert bits(found.X[:-2]).tolist() == bits(X).tolist()
    assert np.isnan(found.X[-2:]).all()
    assert found.with_features.tolist() == [*[True] * len(X), True, False]
    assert features[0] == gems.GEM
    assert features[1] == records[1]
    assert features[2] == {**gems.GEM, "color": {"unseen": True}, "origin": None}
    query = "SELECT features FROM predictions WHERE request_id = 'a' ORDER BY row"
    if url.startswith("postgresql"):
        with psycopg.connect(url) as database:
            stored = [content for (content,) in database.execute(query).fetchall()]
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as database:
            stored = [json.loads(content) for (content,) in database.execute(query)]
    assert stored == features


def test_log_of_another_model_of_this_name(log: PredictionLog, gems_store: Path) -> None:
    """Cells that the model does not know, such as those of another one in its place, are read as missing."""
    schema = Store(gems_store).load(gems.NAME).schema
    strange: list[dict[str, Any]] = [dict.fromkeys(gems.COLUMNS, cell) for cell in ("x", [1], {"a": 1}, 3.5, True)]
    log.write(rows("a", [0.0] * len(strange), model=gems.NAME, features=strange))
    from_log = [kind.from_log for kind in schema.cells]
    found = log.read(gems.NAME, 1, features=gems.COLUMNS, since=LONG_AGO, from_log=from_log)

    assert np.isnan(found.X[:3]).all()
    assert np.isnan(found.X[:, [gems.COLUMNS.index(name) for name in gems.CATEGORIES]]).all()


def test_without_features(log: PredictionLog) -> None:
    """Features that are not logged or have no value are read as NaN; an empty log is read as no rows."""
    log.write(rows("a", [1.0]))
    log.write(rows("b", [2.0], features=[{"a": 3.0, "b": float("nan")}]))
    found = log.read("boston-housing", 1, features=("a", "b", "c"), since=LONG_AGO)
    nothing = log.read("boston-housing", 2, features=FEATURES, since=LONG_AGO)

    assert np.array_equal(found.X, [[np.nan] * 3, [3.0, np.nan, np.nan]], equal_nan=True)
    assert (nothing.X.shape, nothing.times.shape, nothing.predictions.shape) == ((0, 2), (0,), (0,))


def test_nothing_to_write(log: PredictionLog) -> None:
    """No rows and no truths are no error, and change nothing."""
    assert log.write([]) == 0
    assert log.add_truths([], oldest=LONG_AGO) == []
    assert log.live_errors(since=LONG_AGO) == []
    assert log.prune(before=NOON) == 0


def test_repeated_ids_stay_as_they_were(log: PredictionLog) -> None:
    """A row whose id and number exist is unchanged and not counted, within a write and across writes."""
    assert log.write([*rows("a", [1.0, 2.0]), *rows("a", [8.0, 9.0, 3.0])]) == 3
    assert log.write(rows("a", [7.0, 7.0])) == 0
    assert log.write([*rows("a", [6.0]), *rows("b", [4.0])]) == 1

    assert numbers(log) == [1.0, 2.0, 3.0, 4.0]


def test_many_rows_in_one_write(log: PredictionLog) -> None:
    """The largest number of waiting rows is written at once: no statement takes as long as its timeout.

    It takes seconds of this process, whatever else the machine does.
    """
    started = time.process_time()
    batch = [row for i in range(50) for row in rows(f"r{i}", [float(i)] * 1_000)]

    assert log.write(batch) == 50_000
    assert log.write(batch[:1000]) == 0
    assert len(numbers(log)) == 50_000
    assert time.process_time() - started < 20


def test_read_selects(log: PredictionLog) -> None:
    """Only rows of the model and version are read, from the time on, oldest first, a request's in its order."""
    for hour in (3, 1, 2):
        log.write(rows(f"h{hour}", [hour + 0.0, hour + 0.5], when=NOON + timedelta(hours=hour)))
    log.write(rows("other", [100.0], model="titanic"))
    log.write(rows("next", [200.0], version=2))

    assert numbers(log) == [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    assert numbers(log, since=NOON + timedelta(hours=2)) == [2.0, 2.5, 3.0, 3.5]
    assert numbers(log, version=2) == [200.0]


def test_outcomes_of_truths(log: PredictionLog) -> None:
    """A truth is accepted, repeated, unknown, or conflicts with another, which is kept unless it is to be replaced."""
    log.write(rows("a", [1.0, 2.0]))

    assert log.add_truths([("a", 0, 5.0), ("a", 1, 0.0), ("a", 2, 1.0), ("b", 0, 1.0)], oldest=LONG_AGO) == [
        "accepted",
        "accepted",
        "unknown",
        "unknown",
    ]
    later = [("a", 0, 5.0), ("a", 1, 6.0)]
    assert log.add_truths(later, oldest=LONG_AGO) == ["repeated", "conflicting"]
    assert log.read("boston-housing", 1, features=(), since=LONG_AGO).truths.tolist() == [5.0, 0.0]
    assert log.add_truths(later, oldest=LONG_AGO, replace={("a", 1)}) == ["repeated", "replaced"]
    assert log.read("boston-housing", 1, features=(), since=LONG_AGO).truths.tolist() == [5.0, 6.0]


def test_truths_twice_in_one_call(log: PredictionLog) -> None:
    """Several truths for one row in a call have outcomes as if they were sent one after the other."""
    log.write(rows("a", [1.0]))
    truths = [("a", 0, 5.0), ("b", 0, 5.0), ("a", 0, 5.0), ("a", 0, 6.0), ("a", 0, 5.0), ("b", 0, 5.0)]

    outcomes = log.add_truths(truths, oldest=LONG_AGO)
    assert outcomes == ["accepted", "unknown", "repeated", "conflicting", "repeated", "unknown"]
    outcomes = log.add_truths(truths[3:], oldest=LONG_AGO, replace={("a", 0)})
    assert outcomes == ["replaced", "replaced", "unknown"]
    assert log.read("boston-housing", 1, features=(), since=LONG_AGO).truths.tolist() == [5.0]


def test_truths_of_many_ids(log: PredictionLog) -> None:
    """Truths of more ids than a statement has parameters are all found, in any order, among unknown ones."""
    ids = [f"r{i}" for i in range(2_600)]
    log.write([row for i, item in enumerate(ids) if i % 3 for row in rows(item, [float(i), -float(i)])])
    order = np.random.default_rng(1).permutation(len(ids)).tolist()
    outcomes = log.add_truths([(ids[i], 1, i + 0.25) for i in order], oldest=LONG_AGO)

    assert outcomes == ["accepted" if i % 3 else "unknown" for i in order]
    found = log.read("boston-housing", 1, features=(), since=LONG_AGO)
    known = ~np.isnan(found.truths)
    assert known.sum() == outcomes.count(Outcome.ACCEPTED)
    assert np.array_equal(found.truths[known], -found.predictions[known] + 0.25)


def test_truths_of_old_predictions_are_unknown(log: PredictionLog) -> None:
    """A prediction from before `oldest` is unknown; one at that time is known."""
    log.write(rows("old", [1.0], when=NOON - timedelta(microseconds=1)))
    log.write(rows("new", [1.0], when=NOON))

    assert log.add_truths([("old", 0, 1.0), ("new", 0, 1.0)], oldest=NOON) == ["unknown", "accepted"]


def test_live_errors_are_those_of_scikit_learn(log: PredictionLog) -> None:
    """Each version's errors equal scikit-learn's for the same pairs; rows without a truth do not count."""
    random = np.random.default_rng(3)
    pairs = {}
    for version, scale in ((1, 1.0), (2, 1e-9), (3, 1e6)):
        predictions, truths = scale * random.normal(20, 9, 700), scale * random.normal(21, 9, 700)
        log.write(rows(f"v{version}", predictions.tolist(), version=version))
        log.add_truths([(f"v{version}", i, truth) for i, truth in enumerate(truths[:500].tolist())], oldest=LONG_AGO)
        pairs[version] = predictions[:500], truths[:500]
    found = {item.version: item for item in log.live_errors(since=LONG_AGO)}

    assert found.keys() == pairs.keys()
    for version, (predictions, truths) in pairs.items():
        live_error = found[version]
        assert (live_error.model, live_error.rows) == ("boston-housing", 500)
        assert live_error.figures["rmse"] == pytest.approx(root_mean_squared_error(truths, predictions), rel=1e-9)
        assert live_error.figures["mae"] == pytest.approx(mean_absolute_error(truths, predictions), rel=1e-9)
        assert live_error.figures["bias"] == pytest.approx((predictions - truths).mean(), rel=1e-9)


LABELS = ("a", "b", "c")


def answered(request_id: str, answers: NDArray[np.float64], **which: Any) -> list[dict[str, Any]]:
    """Return the rows of one request to a classifier for `write`; answers are as of `Artifact.predict`."""
    written = rows(request_id, answers[:, 0].tolist(), **which)
    return [{**row, "probabilities": probabilities} for row, probabilities in zip(written, answers[:, 1:])]


def random_answers(n: int, *, seed: int = 3) -> NDArray[np.float64]:
    """Return answers of a classifier of three labels."""
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(3), n)
    return np.column_stack([probabilities.argmax(axis=1), probabilities])


def test_answers_of_classifiers_are_read_back(log: PredictionLog) -> None:
    """Labels and probabilities are read as they were written, to the last bit, beside rows of a regression."""
    answers = random_answers(300)
    plain = [{**row, "probabilities": None} for row in rows("r", [1.5], model="other")]
    assert log.write([*plain, *answered("c", answers)], {("boston-housing", 1): LABELS}) == 301
    found = log.read("boston-housing", 1, features=(), since=LONG_AGO, n_classes=3)

    assert np.array_equal(bits(found.answers), bits(answers))
    assert found.predictions.tolist() == answers[:, 0].tolist()
    assert log.read("other", 1, features=(), since=LONG_AGO).answers.tolist() == [1.5]
    assert log.read("boston-housing", 2, features=(), since=LONG_AGO, n_classes=3).answers.shape == (0, 4)


def test_truths_of_classifiers_are_labels(log: PredictionLog) -> None:
    """A label is stored as its position in the version that predicted; versions may have other labels."""
    log.write(answered("v1", random_answers(4)), {("boston-housing", 1): LABELS})
    log.write(answered("v2", random_answers(2), version=2), {("boston-housing", 2): ("c", "b", "z")})
    truths = [("v1", 0, "c"), ("v1", 1, "a"), ("v2", 0, "c"), ("v2", 1, "z"), ("none", 0, "a")]

    assert log.add_truths(truths, oldest=LONG_AGO) == [*["accepted"] * 4, "unknown"]
    assert log.add_truths([("v1", 0, "c"), ("v1", 1, "b")], oldest=LONG_AGO) == ["repeated", "conflicting"]
    first = log.read("boston-housing", 1, features=(), since=LONG_AGO, n_classes=3)
    second = log.read("boston-housing", 2, features=(), since=LONG_AGO, n_classes=3)
    assert first.truths[:2].tolist() == [2.0, 0.0]
    assert second.truths.tolist() == [0.0, 2.0]
    with pytest.raises(ImplausibleTruthsError) as caught:
        log.add_truths([("v1", 2, "a"), ("v1", 3, "z"), ("v2", 0, 1.0)], oldest=LONG_AGO)
    assert caught.value.problems.keys() == {1, 2}
    assert caught.value.problems[1].reason == "unknown category"
    assert (
        log.read("boston-housing", 1, features=(), since=LONG_AGO, n_classes=3).truths[2:].tolist()
        == [pytest.approx(np.nan, nan_ok=True)] * 2
    )


def test_numbers_are_not_booleans(log: PredictionLog) -> None:
    """The labels 0 and 1 are not false and true, and the other way round they are as JSON has them."""
    of_two = np.array([[1.0, 0.2, 0.8], [0.0, 0.7, 0.3]])
    log.write(answered("numbers", of_two), {("boston-housing", 1): (0, 1)})
    log.write(answered("flags", of_two, version=2), {("boston-housing", 2): (False, True)})

    with pytest.raises(ImplausibleTruthsError) as caught:
        log.add_truths([("numbers", 0, 1.0), ("numbers", 1, True), ("flags", 0, 2.0)], oldest=LONG_AGO)
    assert [problem.reason for problem in caught.value.problems.values()] == ["not a number", "not true or false"]
    assert log.add_truths([("numbers", 0, 1.0), ("flags", 0, True)], oldest=LONG_AGO) == ["accepted"] * 2


def test_live_errors_of_classifiers_are_those_of_scikit_learn(log: PredictionLog) -> None:
    """A classifier's metrics equal scikit-learn's for the same rows, and a regression beside it has its own."""
    answers, random = random_answers(700), np.random.default_rng(5)
    truths = [LABELS[int(place)] for place in random.integers(0, 3, 500)]
    log.write(answered("c", answers), {("boston-housing", 1): LABELS})
    log.write(rows("r", [1.0, 2.0], model="other"))
    log.add_truths([("c", number, truth) for number, truth in enumerate(truths)], oldest=LONG_AGO)
    log.add_truths([("r", 0, 3.0)], oldest=LONG_AGO)
    found = {each.model: each for each in log.live_errors(since=LONG_AGO)}

    labels = [LABELS[int(place)] for place in answers[:500, 0]]
    error = found["boston-housing"]
    assert (error.version, error.rows) == (1, 500)
    assert error.figures["accuracy"] == pytest.approx(accuracy_score(truths, labels))
    assert error.figures["log_loss"] == pytest.approx(log_loss(truths, answers[:500, 1:], labels=LABELS))
    assert error.figures["auc"] == pytest.approx(roc_auc_score(truths, answers[:500, 1:], multi_class="ovr"))
    assert found["other"].figures == {"rmse": 2.0, "mae": 2.0, "bias": -2.0}


def test_live_errors_of_classifiers_are_of_the_last_truths(log: PredictionLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many of the latest truths count, so that a scrape never waits for all of them."""
    monkeypatch.setattr(prediction_log, "MAX_CLASSIFIED", 3)
    right = np.array([[0.0, 0.8, 0.1, 0.1]] * 6)
    log.write(answered("c", right), {("boston-housing", 1): LABELS})
    log.add_truths([("c", number, "b") for number in range(3)], oldest=LONG_AGO)
    log.add_truths([("c", number, "a") for number in range(3, 6)], oldest=LONG_AGO)

    (error,) = log.live_errors(since=LONG_AGO)
    assert (error.rows, error.figures["accuracy"]) == (3, 1.0)
    assert "auc" not in error.figures


def test_version_that_gets_other_labels(log: PredictionLog, url: str) -> None:
    """If a store is made anew beside an old log, rows with other classes than now are left out, and nothing fails."""
    log.write(answered("old", random_answers(3)), {("boston-housing", 1): LABELS})
    log.add_truths([("old", 0, "c")], oldest=LONG_AGO)
    with closing(PredictionLog(url)) as later:
        of_two = np.array([[1.0, 0.2, 0.8], [0.0, 0.7, 0.3]])
        later.write(answered("new", of_two), {("boston-housing", 1): (False, True)})
        outcomes = later.add_truths([("new", 0, True), ("new", 1, False), ("old", 1, True)], oldest=LONG_AGO)
        (error,) = later.live_errors(since=LONG_AGO)

    assert outcomes == ["accepted"] * 3
    assert error.rows == 2


def test_version_that_becomes_a_regression(log: PredictionLog) -> None:
    """If a store is made anew beside an old log, a regression takes numbers though a classifier had its version."""
    log.write(answered("old", random_answers(1)), {("boston-housing", 1): LABELS})
    log.write(rows("new", [1.0]))

    assert log.add_truths([("new", 0, 3.0), ("old", 0, "c")], oldest=LONG_AGO) == ["accepted"] * 2
    with pytest.raises(ImplausibleTruthsError) as caught:
        log.add_truths([("new", 0, "c"), ("old", 0, 3.0)], oldest=LONG_AGO)
    assert [problem.reason for problem in caught.value.problems.values()] == ["not a number", "not a string"]


def shadows(request_id: str, version: int, predictions: Sequence[float]) -> list[dict[str, Any]]:
    """Return the rows of a version whose answers to one request were not the reply, for `write_shadows`."""
    return [
        {"request_id": request_id, "row": i, "version": version, "prediction": prediction}
        for i, prediction in enumerate(predictions)
    ]


def test_answers_of_several_versions(log: PredictionLog) -> None:
    """Two versions have answers to the same rows: the reply, with features and truth, and that of the other one."""
    log.write(rows("b", [1.0, 2.0], features=[{"a": 0.5}, {"a": None}]))
    log.write(rows("a", [3.0], version=2, when=NOON + timedelta(seconds=1)))
    log.write(rows("other", [9.0], model="other"))
    found = [*shadows("b", 2, [1.5, 2.5]), *shadows("b", 3, [1.75]), *shadows("a", 1, [3.5])]
    assert log.write_shadows(found) == 4
    assert log.add_truths([("b", 1, 8.0)], oldest=LONG_AGO) == [Outcome.ACCEPTED]

    (part,) = log.answers("boston-housing", since=NOON, feature="a")
    assert part.requests.tolist() == [0, 0, 1]
    assert part.replied.tolist() == [1, 1, 2]
    assert part.times.tolist() == [row.replace(tzinfo=None) for row in (NOON, NOON, NOON + timedelta(seconds=1))]
    assert np.array_equal(part.truths, [np.nan, 8.0, np.nan], equal_nan=True)
    expected = {1: [1.0, 2.0, 3.5], 2: [1.5, 2.5, 3.0], 3: [1.75, np.nan, np.nan]}
    assert part.answers.keys() == expected.keys()
    assert all(np.array_equal(part.answers[key], expected[key], equal_nan=True) for key in expected)
    assert part.cells == [0.5, None, None]


def test_answers_of_classifiers(log: PredictionLog) -> None:
    """Each version has probabilities by its own list of labels; rows that it did not answer are NaN."""
    labels = {("m", 1): ("no", "yes"), ("m", 2): ("no", "perhaps", "yes")}
    log.write([{**rows("r", [1.0], model="m")[0], "probabilities": np.array([0.25, 0.75])}], labels)
    log.write_shadows([{**shadows("r", 2, [0.0])[0], "probabilities": np.array([0.5, 0.25, 0.25])}], labels)

    (part,) = log.answers("m", since=LONG_AGO)
    assert {version: found.tolist() for version, found in part.answers.items()} == {
        1: [[1.0, 0.25, 0.75]],
        2: [[0.0, 0.5, 0.25, 0.25]],
    }
    assert {version: tuple(found) for version, found in part.labels.items()} == {1: labels["m", 1], 2: labels["m", 2]}


def test_answers_come_in_parts_of_whole_requests(log: PredictionLog) -> None:
    """No request is divided among parts, none is in two, and none is left out."""
    sizes = [3, 1, 5, 1, 1, 2, 4, 1]
    for number, size in enumerate(sizes):
        log.write(rows(f"r{number}", [float(number)] * size, when=NOON + timedelta(seconds=number)))
        log.write_shadows(shadows(f"r{number}", 2, [float(number)] * size))

    parts = list(log.answers("boston-housing", since=NOON, rows_at_once=4))
    assert [part.answers[2].tolist() for part in parts] == [part.answers[1].tolist() for part in parts]
    found = np.concatenate([part.answers[1] for part in parts])
    assert found.tolist() == np.repeat(np.arange(8.0), sizes).tolist()
    assert len(parts) > 2
    assert all(set(np.unique(part.answers[1], return_counts=True)[1]) <= {*sizes} for part in parts)
    assert len(list(log.answers("boston-housing", since=NOON + timedelta(seconds=6), rows_at_once=4))) == 2
    assert list(log.answers("boston-housing", since=NOON + timedelta(days=1))) == []


def test_shadows_of_unknown_and_repeated_requests(log: PredictionLog) -> None:
    """Answers to a request that is not in the log are skipped, and so are those that it has already."""
    log.write(rows("known", [1.0]))
    assert not log.has_shadows()

    assert log.write_shadows([*shadows("unknown", 2, [1.0]), *shadows("known", 2, [1.5])]) == 1
    assert log.write_shadows(shadows("known", 2, [9.0])) == 0
    (part,) = log.answers("boston-housing", since=LONG_AGO)
    assert part.answers[2].tolist() == [1.5]
    assert log.has_shadows()


def test_times_of_requests(log: PredictionLog) -> None:
    """The time of each request that the log has is found to the microsecond, in UTC, by its id."""
    exact = datetime.fromtimestamp(1_795_751_999.1234567, UTC)
    log.write([*rows("a", [1.0, 2.0], when=exact), *rows("b", [3.0], when=NOON)])

    assert log.times({"a", "b", "unknown"}) == {"a": exact, "b": NOON}
    assert log.times(set()) == {}


def test_shadows_go_with_their_rows(log: PredictionLog) -> None:
    """A row that is removed takes the answers of other versions with it."""
    for number in range(2):
        log.write(rows(f"r{number}", [1.0, 2.0], when=NOON + timedelta(days=number)))
        log.write_shadows(shadows(f"r{number}", 2, [1.5, 2.5]))
    assert log.prune(before=NOON + timedelta(hours=1)) == 2

    (part,) = log.answers("boston-housing", since=LONG_AGO)
    assert part.answers[2].tolist() == [1.5, 2.5]
    assert log.prune(before=NOON + timedelta(days=2)) == 2
    assert not log.has_shadows()


def test_shadows_count_for_the_size(log: PredictionLog, url: str) -> None:
    """A log that is too large because of the answers of other versions loses its oldest rows."""
    log.write(rows("old", [0.0] * 5_000))
    log.write(rows("new", [0.0] * 5_000, when=NOON + timedelta(days=1)))
    size = 1_500_000 if url.startswith("sqlite") else 4_400_000
    assert log.trim(max_bytes=size) == 0
    for version in range(2, 6):
        log.write_shadows([*shadows("old", version, [0.0] * 5_000), *shadows("new", version, [0.0] * 5_000)])
    wait_until(lambda: log.trim(max_bytes=size) > 0)  # PostgreSQL's statistics are up to a second late
    assert log.trim(max_bytes=size * 10) == 0


def test_live_errors_since(log: PredictionLog) -> None:
    """Only truths stored since the time count, by the time of a row's last truth, not of its prediction."""
    log.write(rows("a", [1.0, 1.0, 1.0]))
    log.add_truths([("a", 0, 2.0), ("a", 1, 2.0)], oldest=LONG_AGO)
    middle = datetime.now(UTC)
    log.add_truths([("a", 1, 2.0), ("a", 2, 4.0)], oldest=LONG_AGO)  # the first is repeated: it came before

    assert [(live_error.rows, live_error.figures["mae"]) for live_error in log.live_errors(since=middle)] == [(1, 3.0)]
    log.add_truths([("a", 0, 3.0)], oldest=LONG_AGO, replace={("a", 0)})
    assert [(live_error.rows, live_error.figures["mae"]) for live_error in log.live_errors(since=middle)] == [(2, 2.5)]
    assert log.live_errors(since=datetime.now(UTC) + timedelta(minutes=1)) == []


def test_largest_truths_do_not_break_live_errors(log: PredictionLog) -> None:
    """The largest truths that feedback accepts have finite errors."""
    log.write(rows("a", [1.0, 1.0]))
    log.add_truths([("a", 0, 1e150), ("a", 1, -1e150)], oldest=LONG_AGO)

    (live_error,) = log.live_errors(since=LONG_AGO)
    assert [live_error.figures["rmse"], live_error.figures["mae"]] == pytest.approx([1e150, 1e150])
    assert abs(live_error.figures["bias"]) < 1e135


@pytest.mark.parametrize(
    ("prediction", "truth", "rows_with_it"),
    [(0.0, 1e-200, 3), (0.0, 5e-324, 3), (1e149, -1e150, 3), (1e200, 1.0, 2), (np.nan, 1.0, 2), (np.inf, 1.0, 2)],
)
def test_errors_of_every_size(log: PredictionLog, prediction: float, truth: float, rows_with_it: int) -> None:
    """An error whose square underflows counts as 0; one whose square overflows is left out with its row."""
    log.write(rows("a", [1.0, prediction, 2.0]))
    log.add_truths([("a", 0, 2.0), ("a", 1, truth), ("a", 2, 2.0)], oldest=LONG_AGO)

    (live_error,) = log.live_errors(since=LONG_AGO)
    error = prediction - truth if rows_with_it == 3 else 0.0
    assert live_error.rows == rows_with_it
    assert live_error.figures["rmse"] == pytest.approx(math.hypot(1, error) / math.sqrt(rows_with_it))
    assert live_error.figures["mae"] == pytest.approx((1 + abs(error)) / rows_with_it)


def test_version_of_any_size(log: PredictionLog) -> None:
    """A version may be as large as a date."""
    log.write([{**row, "version": 20261121135500} for row in rows("a", [1.0])])
    log.add_truths([("a", 0, 2.0)], oldest=LONG_AGO)

    assert [live_error.version for live_error in log.live_errors(since=LONG_AGO)] == [20261121135500]


def test_id_that_is_written_again(log: PredictionLog) -> None:
    """No row is added to an existing id, not even a new number: it would belong to another request."""
    assert log.write(rows("a", [1.0])) == 1
    assert log.write(rows("a", [2.0, 3.0]) + rows("b", [4.0])) == 1

    assert numbers(log) == [1.0, 4.0]


def test_rows_that_are_refused(log: PredictionLog) -> None:
    """Rows that violate constraints raise another error than an unusable database, without their contents."""
    with pytest.raises(RefusedRowsError) as caught:
        log.write([{**row, "model": None} for row in rows("secret-id", [1.0])])

    assert "secret-id" not in str(caught.value)
    assert log.write(rows("a", [1.0])) == 1


def test_truths_of_single_rows_of_large_requests(log: PredictionLog) -> None:
    """A truth for one row does not load the other rows of its request."""
    for item in range(10):
        log.write(rows(f"r{item}", [0.0] * 5_000))
    tracemalloc.start()
    try:
        log.add_truths([(f"r{item}", 4_999, 1.0) for item in range(10)], oldest=LONG_AGO)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 2_000_000  # 50,000 rows take more than 10 MB


def test_prune(log: PredictionLog) -> None:
    """Rows from before a time are removed with their truths, and no others."""
    for day in range(5):
        log.write(rows(f"d{day}", [float(day), float(day)], when=NOON + timedelta(days=day)))
    log.add_truths([("d0", 0, 1.0), ("d4", 0, 1.0)], oldest=LONG_AGO)

    assert log.prune(before=NOON + timedelta(days=2)) == 4
    assert log.prune(before=NOON + timedelta(days=2)) == 0
    assert numbers(log) == [2.0, 2.0, 3.0, 3.0, 4.0, 4.0]
    assert [live_error.rows for live_error in log.live_errors(since=LONG_AGO)] == [1]


def test_trim(url: str, log: PredictionLog) -> None:
    """A log of too many bytes loses its oldest rows, a bounded number at once, and about as many as it
    must; two processes that look at once do not remove more, and SQLite's file stays that small.
    """
    max_bytes, n_batches = 2 * 2**20, 30
    logs = [log, PredictionLog(url)]
    removed = 0
    for number in range(n_batches):
        when = NOON + timedelta(seconds=number)
        log.write(
            [row for i in range(1_000) for row in rows(f"{number}-{i}".rjust(32, "0"), [float(number)], when=when)]
        )
        for item in logs:
            some = item.trim(max_bytes=max_bytes)
            assert some <= 5_000
            removed += some
    deadline = time.monotonic() + 20  # PostgreSQL's statistics are some seconds late
    while len(numbers(log)) * 180 > max_bytes:
        assert time.monotonic() < deadline
        removed += sum(item.trim(max_bytes=max_bytes) for item in logs)
        time.sleep(0.1)
    kept = numbers(log)
    logs[1].close()

    assert len(kept) == 1_000 * n_batches - removed
    assert kept == [float(number) for number in range(n_batches) for _ in range(1_000)][-len(kept) :]
    assert len(kept) * 500 > max_bytes
    assert log.trim(max_bytes=10 * max_bytes) == 0
    if url.startswith("sqlite"):
        assert Path(url.removeprefix("sqlite:///")).stat().st_size < 2 * max_bytes


def test_prune_is_bounded(log: PredictionLog) -> None:
    """Many old rows are removed in several transactions, each of them short."""
    log.write(rows("old", [0.0] * 7_000))
    log.write(rows("new", [1.0], when=NOON + timedelta(days=1)))

    assert [log.prune(before=NOON + timedelta(hours=1)) for _ in range(3)] == [5_000, 2_000, 0]
    assert numbers(log) == [1.0]


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_odd_predictions_do_not_block_the_log(log: PredictionLog, odd: float) -> None:
    """A prediction that is NaN or infinite is written like any other, and so are the rows with it."""
    assert log.write([*rows("a", [1.0, odd]), *rows("b", [2.0])]) == 3
    assert np.array_equal(numbers(log), [1.0, odd, 2.0], equal_nan=True)
    log.add_truths([("a", 0, 1.5), ("b", 0, 2.5)], oldest=LONG_AGO)
    assert [(live_error.rows, live_error.figures["bias"]) for live_error in log.live_errors(since=LONG_AGO)] == [
        (2, -0.5)
    ]


def test_processes_write_at_once(url: str, log: PredictionLog) -> None:
    """Four processes that open an empty database at the same moment create the table once and lose no row."""
    command = [sys.executable, "-c", WRITER, url]
    with ExitStack() as stack:
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        processes: list[Any] = [
            stack.enter_context(subprocess.Popen([*command, f"p{i}"], cwd=ROOT, text=True, **pipes)) for i in range(4)
        ]
        assert [process.stdout.readline() for process in processes] == ["here\n"] * 4
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate(timeout=300)[1] for process in processes] == [""] * 4

    found = {live_error.model: live_error.rows for live_error in log.live_errors(since=LONG_AGO)}
    assert found == {f"p{i}": 1000 for i in range(4)}


def test_truths_in_any_order_at_once(log: PredictionLog) -> None:
    """Concurrent feedback for the same rows in opposite orders is accepted without a deadlock."""
    log.write(rows("a", [0.0] * 300))
    errors: list[Exception] = []

    def add(step: int) -> None:
        try:
            for turn in range(6):
                truths = [("a", i, turn * 2.0 + step) for i in range(300)[::step]]
                log.add_truths(truths, oldest=LONG_AGO, replace={truth[:2] for truth in truths})
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=add, args=[step]) for step in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_first_truth_stays_at_once(url: str, log: PredictionLog) -> None:
    """Of different truths for a row that processes send at the same moment one is accepted and kept."""
    log.write(rows("a", [0.0] * 300))
    outcomes: dict[float, list[Outcome]] = {}

    def add(value: float) -> None:
        other = PredictionLog(url)
        outcomes[value] = other.add_truths([("a", i, value) for i in range(300)], oldest=LONG_AGO)
        other.close()

    threads = [threading.Thread(target=add, args=[float(value)]) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    kept = log.read("boston-housing", 1, features=(), since=LONG_AGO).truths.tolist()
    for row, value in enumerate(kept):
        assert {item: found[row] for item, found in outcomes.items()} == {
            item: "accepted" if item == value else "conflicting" for item in outcomes
        }


def test_truths_out_of_range(log: PredictionLog) -> None:
    """A truth outside the range of its model's target is reported by position, and none of the call is stored."""
    log.write([*rows("a", [1.0, 2.0]), *rows("b", [3.0], model="titanic")])
    truths = [("a", 0, 5.0), ("a", 1, 5.5), ("none", 0, 1e9), ("b", 0, 1e9)]

    with pytest.raises(ImplausibleTruthsError) as caught:
        log.add_truths(truths, oldest=LONG_AGO, ranges={"boston-housing": (-5.0, 5.0)})
    reason = "outside the range of the target of boston-housing: -5 to 5"
    assert caught.value.problems == {1: Problem(None, "truth", reason)}
    assert log.live_errors(since=LONG_AGO) == []
    outcomes = log.add_truths(truths, oldest=LONG_AGO, ranges={"boston-housing": (-5.0, 5.5)})
    assert outcomes == ["accepted", "accepted", "unknown", "accepted"]


def test_same_ids_in_any_order_at_once(url: str, log: PredictionLog) -> None:
    """Processes that write the same ids in opposite orders at the same time do not deadlock."""
    log.write([])
    errors: list[Exception] = []
    written: list[int] = []

    def add(step: int) -> None:
        other = PredictionLog(url)
        try:
            for turn in range(5):
                batch = [row for i in range(300)[::step] for row in rows(f"{turn}-{i}", [0.0])]
                written.append(other.write(batch))
        except Exception as error:
            errors.append(error)
        finally:
            other.close()

    threads = [threading.Thread(target=add, args=[step]) for step in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert sum(written) == len(numbers(log)) == 5 * 300


def test_dropped_table_is_created_again(url: str, log: PredictionLog, request: pytest.FixtureRequest) -> None:
    """If the table was dropped, the next use fails, and the one after it creates the table again."""
    log.write(rows("a", [1.0]))
    drop_table(url, lambda: request.getfixturevalue("postgres"))

    with pytest.raises(PredictionLogError, match="cannot be used"):
        log.write(rows("b", [2.0]))
    assert log.write(rows("b", [2.0])) == 1
    assert numbers(log) == [2.0]


def test_database_restarts(postgres: Postgres) -> None:
    """Without the database every method fails at once; when it is back, the log continues with its rows."""
    postgres.execute("DROP TABLE IF EXISTS predictions CASCADE")
    log = PredictionLog(postgres.url())
    log.write(rows("a", [1.0]))
    postgres.stop()
    started = time.monotonic()
    uses: list[Callable[[], object]] = [
        lambda: log.write(rows("b", [2.0])),
        lambda: log.add_truths([("a", 0, 1.0)], oldest=LONG_AGO),
        lambda: log.live_errors(since=LONG_AGO),
        lambda: numbers(log),
        lambda: log.prune(before=LONG_AGO),
    ]
    for use in uses:
        with pytest.raises(PredictionLogError):
            use()
    assert time.monotonic() - started < 20  # five waits for a connection would be 25 s
    postgres.start()

    assert log.write(rows("b", [2.0])) == 1
    assert log.add_truths([("a", 0, 1.0)], oldest=LONG_AGO) == ["accepted"]
    assert numbers(log) == [1.0, 2.0]
    postgres.stop()  # between two uses nobody notices
    postgres.start()
    assert numbers(log) == [1.0, 2.0]
    log.close()


def test_locked_row(postgres: Postgres) -> None:
    """The wait for a row that another process locked ends after a few seconds."""
    postgres.execute("DROP TABLE IF EXISTS predictions CASCADE")
    log = PredictionLog(postgres.url())
    log.write(rows("a", [1.0]))
    with psycopg.connect(postgres.url()) as other:
        other.execute("SELECT * FROM predictions FOR UPDATE")
        started = time.monotonic()
        with pytest.raises(PredictionLogError):
            log.add_truths([("a", 0, 1.0)], oldest=LONG_AGO)
        assert time.monotonic() - started < 30
        other.rollback()

    assert log.add_truths([("a", 0, 1.0)], oldest=LONG_AGO) == ["accepted"]
    log.close()


def test_locked_file(tmp_path: Path) -> None:
    """A file that another program writes can be read meanwhile, and written if that program ends within seconds."""
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    log.write(rows("a", [1.0]))
    other = sqlite3.connect(tmp_path / "log.db", check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, other.rollback)
    timer.start()

    assert numbers(log) == [1.0]
    assert log.write(rows("b", [2.0])) == 1
    timer.join()
    other.close()
    log.close()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://tabserve:s3cret@127.0.0.1:1/none",
        "postgresql://tabserve:s3cret@127.0.0.1:1/none?s3cret=s3cret",
        "postgresql://tabserve:s3cret@127.0.0.1:1/none?sslmode=s3cret",
        "postgresql://tabserve:s3cret@no.such.host.invalid/none",
        "sqlite:////no/such/s3cret/log.db",
        "sqlite:////",
    ],
)
def test_errors_tell_no_secret(url: str) -> None:
    """The error and traceback for a database that cannot be opened contain nothing of its URL."""
    log = PredictionLog(url)
    with pytest.raises(PredictionLogError) as caught:
        log.write(rows("a", [1.0], features=[{"a": SECRET}]))

    text = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert "s3cret" not in text
    assert str(SECRET) not in text
    log.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "predictions.db",
        "mysql://tabserve:s3cret@db/x",
        "s3cret://x",
        "postgresql://tabserve:s3cret@db:s3cret/x",
        "postgresql:s3cret",
    ],
)
def test_url_of_no_database(url: str) -> None:
    """A URL of another kind is refused when the log is created, with a message that does not repeat it."""
    with pytest.raises(ModelError, match="sqlite:///FILE or postgresql://") as caught:
        PredictionLog(url)

    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_file_that_cannot_be_written(tmp_path: Path) -> None:
    """A missing folder, a file instead of a folder, and a read-only database are errors like any other."""
    there = tmp_path / "log.db"
    log = PredictionLog(f"sqlite:///{there}")
    log.write(rows("a", [1.0]))
    log.close()
    for path in (tmp_path / "none" / "log.db", there / "log.db", tmp_path, f"file:{there}?mode=ro&uri=true"):
        log = PredictionLog(f"sqlite:///{path}")
        with pytest.raises(PredictionLogError):
            log.write(rows("b", [1.0]))
        log.close()


def remove_all(path: Path) -> None:
    """Remove a log with its -wal and -shm files."""
    for item in path.parent.glob(f"{path.name}*"):
        item.unlink()


def replace_by_another(path: Path) -> None:
    """Replace a log by another one, and leave its -wal and -shm files."""
    other = PredictionLog(f"sqlite:///{path.parent / 'other.db'}")
    other.write(rows("other", [7.0]))
    other.close()
    (path.parent / "other.db").rename(path)


def replace_by_nothing(path: Path) -> None:
    """Replace a log by an empty file."""
    (path.parent / "empty").touch()
    (path.parent / "empty").rename(path)


@pytest.mark.parametrize(
    ("change", "left"),
    [(remove_all, []), (Path.unlink, []), (replace_by_another, [7.0]), (replace_by_nothing, [])],
    ids=["all removed", "removed", "replaced", "emptied"],
)
def test_file_that_is_gone(tmp_path: Path, change: Callable[[Path], None], left: list[float]) -> None:
    """A file that is removed or replaced is noticed by each process at its next use: nothing is lost that is written
    or found afterwards, what another file has stays, and that file is whole.
    """
    path = tmp_path / "log.db"
    logs = [PredictionLog(f"sqlite:///{path}") for _ in range(3)]
    for number, log in enumerate(logs):
        log.write(rows(f"before-{number}", [number + 0.5] * 50))
    change(path)

    assert logs[0].write(rows("a", [1.0])) == 1
    assert logs[1].add_truths([("a", 0, 2.0), ("before-0", 0, 2.0)], oldest=LONG_AGO) == ["accepted", "unknown"]
    assert logs[0].write(rows("b", [2.0])) == 1
    assert [live_error.rows for live_error in logs[2].live_errors(since=LONG_AGO)] == [1]
    assert logs[2].write(rows("c", [3.0])) == 1
    for log in logs:
        log.close()
    fresh = PredictionLog(f"sqlite:///{path}")
    assert sorted(numbers(fresh)) == [1.0, 2.0, 3.0, *left]
    fresh.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_reader_that_stays(tmp_path: Path) -> None:
    """While another program reads the file for long, what SQLite keeps beside it stays bounded: nothing more is
    written then, which is an error, until the reader ends.
    """
    path = tmp_path / "log.db"
    log = PredictionLog(f"sqlite:///{path}")
    log.write(rows("a", [1.0]))
    wide = {f"feature-{number}": number / 7 for number in range(300)}
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM predictions").fetchall()
        writes = (log.write(rows(f"r{number}", [0.0] * 200, features=[wide] * 200)) for number in range(200))
        with pytest.raises(PredictionLogError, match="reads"):
            sum(writes)
        assert 100 * 2**20 < (tmp_path / "log.db-wal").stat().st_size < 200 * 2**20
    assert log.write(rows("b", [2.0])) == 1
    assert (tmp_path / "log.db-wal").stat().st_size < 20 * 2**20
    log.close()


def test_folder_that_comes_later(tmp_path: Path) -> None:
    """A log in a missing folder works as soon as the folder exists."""
    log = PredictionLog(f"sqlite:///{tmp_path / 'later' / 'log.db'}")
    with pytest.raises(PredictionLogError):
        log.write(rows("a", [1.0]))
    (tmp_path / "later").mkdir()

    assert log.write(rows("a", [1.0])) == 1
    log.close()


def test_wrong_rows_say_no_value(log: PredictionLog) -> None:
    """An error of the database does not quote what was written."""
    with pytest.raises(PredictionLogError) as caught:
        log.write([{**rows("a", [1.0], features=[{"a": SECRET}])[0], "model": None}])

    assert str(SECRET) not in "".join(traceback.format_exception(caught.value))
    assert json.dumps(str(caught.value)).isascii()
