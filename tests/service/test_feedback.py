"""Owns feedback: true values that find their predictions, live errors, and a prediction log without avoidable loss."""

from __future__ import annotations

import json
import sqlite3
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from app.routes.feedback import MAX_ROW, MAX_TRUTH, decode, plausible_range
from app.telemetry.metrics import OUTCOMES
from model import Feature, SchemaError, Store, TooManyRowsError
from tests.support import feedback as shared
from tests.support.feedback import UNKNOWN_ID, Answers, ids, logged
from tests.support.metrics import by_label, series
from tests.support.service import HOUSE, PROTOCOLS, everywhere_client, refused, strict_json

service = shared.service
client = shared.client

# The parts of feedback.

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["request_id", "row", "truth", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)
truth_values = st.floats(-MAX_TRUTH, MAX_TRUTH) | st.integers(-(10**20), 10**20)


@given(json_values)
def test_any_body_is_decoded_or_refused(value: Any) -> None:
    """Any JSON is decoded to true values that a database can hold, or refused with every problem."""
    try:
        truths = decode(value, max_rows=3)
    except TooManyRowsError:
        return
    except SchemaError as error:
        counted = error.n_rows, bool(error.problems)
        truths = []
    if not truths:
        assert counted == (len(value) if isinstance(value, list) else 1, True)
        return
    assert len(truths) <= 3
    for request_id, row, truth in truths:
        assert 1 <= len(request_id) <= 128
        assert type(row) is int
        assert 0 <= row <= MAX_ROW
        assert type(truth) is float
        assert abs(truth) <= MAX_TRUTH


@given(st.lists(st.tuples(ids, st.integers(0, MAX_ROW), truth_values), min_size=1, max_size=20))
def test_truths_are_decoded_as_they_are(truths: list[tuple[str, int, float]]) -> None:
    """A list of objects is read in its order, a single object as a list of one, and the row is 0 by default."""
    body = [{"request_id": request_id, "row": row, "truth": truth} for request_id, row, truth in truths]

    assert decode(body, max_rows=20) == [(request_id, row, float(truth)) for request_id, row, truth in truths]
    written = [{**item, "row": float(row)} for item, (_, row, _) in zip(body, truths)]  # as JSON may have it
    assert decode(written, max_rows=20) == decode(body, max_rows=20)
    assert decode(body[0], max_rows=20) == decode(body[:1], max_rows=20)
    assert decode({"request_id": "a", "truth": truths[0][2]}, max_rows=20) == [("a", 0, float(truths[0][2]))]


@given(ids, st.lists(st.none() | truth_values, max_size=20))
def test_list_of_truths_counts_rows_from_0(request_id: str, truths: list[float | None]) -> None:
    """A list of truths is for the request's rows in their order; null is skipped."""
    body = {"request_id": request_id, "truth": truths}
    known = [(request_id, row, float(truth)) for row, truth in enumerate(truths) if truth is not None]
    if known:
        assert decode(body, max_rows=20) == known
    else:
        with pytest.raises(SchemaError):
            decode(body, max_rows=20)


@pytest.mark.parametrize(
    ("body", "details"),
    [
        ({}, [(0, "request_id", "missing"), (0, "truth", "missing")]),
        ([1, None], [(0, None, "not an object"), (1, None, "not an object")]),
        ({"request_id": "a", "truth": "24"}, [(0, "truth", "not a number")]),
        ({"request_id": "a", "truth": True}, [(0, "truth", "not a number")]),
        ({"request_id": "a", "truth": None}, [(0, "truth", "not a number")]),
        ({"request_id": "a", "truth": 1e151}, [(0, "truth", "out of range")]),
        (
            {"request_id": "a", "truth": [1, "x", [2], 1e200]},
            [(0, "truth", "not a number"), (0, "truth", "out of range")],
        ),
        ({"request_id": "a", "truth": 1, "row": -1}, [(0, "row", "not a whole number from 0 to 2147483647")]),
        ({"request_id": "a", "truth": 1, "row": 2**31}, [(0, "row", "not a whole number from 0 to 2147483647")]),
        ({"request_id": "a", "truth": 1, "row": 1.5}, [(0, "row", "not a whole number from 0 to 2147483647")]),
        ({"request_id": "a", "truth": 1, "row": 1e300}, [(0, "row", "not a whole number from 0 to 2147483647")]),
        ({"request_id": "a", "truth": 1, "row": True}, [(0, "row", "not a whole number from 0 to 2147483647")]),
        (
            {"request_id": "a", "truth": [1], "row": 0},
            [(0, "row", "not allowed beside a list of truths, which is for all rows")],
        ),
        ({"request_id": "a b", "truth": 1}, [(0, "request_id", "not 1 to 128 visible ASCII characters")]),
        ({"request_id": "a" * 129, "truth": 1}, [(0, "request_id", "not 1 to 128 visible ASCII characters")]),
        ({"request_id": 7, "truth": 1}, [(0, "request_id", "not a string")]),
        ({"request_id": None, "truth": 1}, [(0, "request_id", "not a string")]),
        ({"request_id": "a", "truth": 1, "model": "x"}, [(0, "model", "unknown")]),
        ({"request_id": "a", "truth": 1, "replace": 1}, [(0, "replace", "neither true nor false")]),
        ([], [(None, None, "the request has no rows")]),
        ({"request_id": "a", "truth": []}, [(None, None, "the request has no rows")]),
    ],
)
def test_every_problem_is_reported(client: FlaskClient, body: Any, details: list[Any]) -> None:
    """Invalid feedback is 422 with every problem: the object, the field and the reason."""
    reply = client.post("/feedback", json=body)

    refused(reply, 422, "native")
    assert [(each["row"], each["feature"], each["reason"]) for each in strict_json(reply)["details"]] == details


def test_not_finite_truths(client: FlaskClient) -> None:
    """NaN and Infinity, which some writers put into JSON, are not finite."""
    for text in ("NaN", "-Infinity", "1e999"):
        reply = client.post("/feedback", data=f'{{"request_id":"a","truth":{text}}}', content_type="application/json")
        assert strict_json(reply)["details"] == [{"row": 0, "feature": "truth", "reason": "not finite"}]


def test_refusals(client: FlaskClient) -> None:
    """Other content types, methods and too large bodies are refused as at other routes."""
    one = {"request_id": "a", "truth": 1.0}

    refused(client.post("/feedback", data="a,1", content_type="text/csv"), 415, "native")
    refused(client.post("/feedback", data="{", content_type="application/json"), 400, "native")
    refused(client.get("/feedback"), 405, "native")
    refused(client.post("/feedback", json=[one] * 1_001), 413, "native")
    refused(client.post("/feedback", json={**one, "truth": [1.0] * 1_001}), 413, "native")
    refused(client.post("/feedback", json=[{**one, "truth": [1.0] * 600}] * 2), 413, "native")
    refused(client.post("/feedback", data=b" " * 100_001, content_type="application/json"), 413, "native")


def test_no_log_is_kept(store: Path) -> None:
    """Without a prediction log feedback is 404 with the setting in its message, and predictions are answered."""
    client = create_app(Config(store=store, prediction_log="")).test_client()

    assert client.post("/predict", json=HOUSE).status_code == 200
    message = refused(client.post("/feedback", json={"request_id": "a", "truth": 1.0}), 404, "native")
    assert "TABSERVE_PREDICTION_LOG" in message


def test_unknown_predictions(client: FlaskClient) -> None:
    """Feedback without any known prediction is 404; if some are known, the unknown ones are listed and counted."""
    request_id = client.post("/predict", json=[HOUSE] * 2).headers["X-Request-Id"]
    alone = client.post("/feedback", json={"request_id": UNKNOWN_ID, "truth": 1.0})
    mixed = client.post("/feedback", json=[{"request_id": request_id, "truth": [20.0, 21.0, 22.0]}])

    assert "known" in refused(alone, 404, "native")
    assert mixed.status_code == 200
    assert strict_json(mixed) == {
        "accepted": 2,
        "replaced": 0,
        "repeated": 0,
        "conflicting": 0,
        "unknown": 1,
        "conflicting_rows": [],
        "unknown_rows": [{"request_id": request_id, "row": 2}],
    }


def test_outcomes_are_counted(client: FlaskClient) -> None:
    """Each true value is reported and counted by its outcome; every outcome is exposed from the start."""
    name = "tabserve_feedback_rows_total"
    before = by_label(series(client.get("/metrics").text), name, "outcome")
    request_id = client.post("/predict", json=[HOUSE] * 3).headers["X-Request-Id"]
    bodies: list[dict[str, Any]] = [{"request_id": request_id, "truth": each} for each in ([1, 2, None], [1, 5, 6, 7])]
    bodies.append({"request_id": request_id, "row": 1, "truth": 5, "replace": True})
    replies = [strict_json(client.post("/feedback", json=body)) for body in bodies]
    after = by_label(series(client.get("/metrics").text), name, "outcome")

    assert [[reply[each] for each in OUTCOMES] for reply in replies] == [
        [2, 0, 0, 0, 0],
        [1, 0, 1, 1, 1],
        [0, 1, 0, 0, 0],
    ]
    assert replies[1]["conflicting_rows"] == [{"request_id": request_id, "row": 1}]
    rises = {outcome: after[outcome,] - before[outcome,] for (outcome,) in after}
    assert rises == {"accepted": 3, "replaced": 1, "repeated": 1, "conflicting": 1, "unknown": 1}


def test_implausible_truths(store: Path, client: FlaskClient) -> None:
    """A truth that is further from the training range of the target than ten times its width is 422 with the range, by
    the object that has it; then none is taken. The last one that is not further is taken.
    """
    target = Store(store).load("boston-housing").schema.target
    low, high = target.minimum, target.maximum
    least, most = low - 10 * (high - low), high + 10 * (high - low)
    request_id = client.post("/predict", json=[HOUSE] * 3).headers["X-Request-Id"]
    for truth in (1e150, np.nextafter(most, np.inf), np.nextafter(least, -np.inf), -1e9):
        items = [
            {"request_id": request_id, "truth": [20.0, None, 21.0]},
            {"request_id": request_id, "truth": [None, truth]},
        ]
        reply = client.post("/feedback", json=items)
        refused(reply, 422, "native")
        reason = f"outside the range of the target of boston-housing: {least:g} to {most:g}"
        assert strict_json(reply)["details"] == [{"row": 1, "feature": "truth", "reason": reason}]
    reply = client.post("/feedback", json={"request_id": request_id, "truth": [least, most, 20.0]})

    assert strict_json(reply)["accepted"] == 3


@pytest.mark.parametrize(
    ("minimum", "maximum", "expected"),
    [
        (0.0, 1.0, (-10.0, 11.0)),
        (-3.0, -3.0, (-33.0, 27.0)),
        (0.0, 0.0, (-10.0, 10.0)),
        (-1e308, 1e308, (-1e150, 1e150)),
        (-np.inf, np.inf, (-1e150, 1e150)),
    ],
)
def test_plausible_range(minimum: float, maximum: float, expected: tuple[float, float]) -> None:
    """Truths are also accepted for a target that is constant, of any size, or without a known range."""
    assert plausible_range(Feature("y", minimum=minimum, maximum=maximum)) == expected


def test_every_protocol_finds_its_prediction(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """Predictions of every protocol are logged with the request id of their reply."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    client = everywhere_client(store, lambda lines: None, prediction_log=url)
    recorder = client.application.recorder  # type: ignore[attr-defined]
    recorder.start()
    X = houses.iloc[:3].to_numpy().tolist()
    answers: Answers = {}
    for protocol in PROTOCOLS.values():
        reply = client.post(protocol.path, json=protocol.write(X))
        answers[reply.headers["X-Request-Id"]] = protocol.read(reply.json)
    feedback = client.post("/feedback", json=[{"request_id": each, "truth": [1, 2, 3]} for each in answers])
    recorder.close()

    assert len(answers) == len(PROTOCOLS)
    assert (feedback.status_code, feedback.json["accepted"]) == (200, 3 * len(PROTOCOLS))  # type: ignore[index]
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        found = connection.execute("SELECT request_id, prediction FROM predictions ORDER BY request_id, row").fetchall()
    assert found == [(each, y) for each in sorted(answers) for y in answers[each]]


def test_features_stay_out_of_the_log(store: Path, tmp_path: Path) -> None:
    """Without TABSERVE_PREDICTION_LOG_FEATURES no value of a feature is in the database."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    app = create_app(Config(store=store, prediction_log=url))
    app.recorder.start()
    app.test_client().post("/predict", json={**HOUSE, "RM": 6.5432101234})
    app.recorder.close()

    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        ((features, prediction),) = connection.execute("SELECT features, prediction FROM predictions").fetchall()
    assert features is None
    assert prediction > 0


def test_features_of_a_share(store: Path, tmp_path: Path) -> None:
    """With a share, the features of some requests are in the log, those of the same ids in every process."""
    found = []
    for name in ("a", "b"):
        url = f"sqlite:///{tmp_path / name}.db"
        app = create_app(Config(store=store, prediction_log=url, prediction_log_features=0.25))
        app.recorder.start()
        for number in range(100):
            app.test_client().post("/predict", json=[HOUSE, HOUSE], headers={"X-Request-Id": f"request-{number}"})
        app.recorder.close()
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            rows = connection.execute("SELECT request_id, features IS NOT NULL FROM predictions").fetchall()
        assert len(rows) == 200
        found.append(sorted({request_id for request_id, has_features in rows if has_features}))

    assert found[0] == found[1]
    assert 15 <= len(found[0]) <= 35


@pytest.mark.parametrize(("share", "n"), [(0.0, 0), (1.0, 50)])
def test_no_share_and_all(store: Path, tmp_path: Path, share: float, n: int) -> None:
    """With a share of 0 no request is logged, with 1 every request."""
    url = f"sqlite:///{tmp_path / 'log.db'}"
    app = create_app(Config(store=store, prediction_log=url, prediction_log_share=share))
    app.recorder.start()
    for _ in range(50):
        assert app.test_client().post("/predict", json=HOUSE).status_code == 200
    app.recorder.close()

    assert len(logged(url)) == n


@pytest.mark.parametrize(
    "body",
    [
        b'{"request_id":"a","truth":[' + b"1," * 4_000_000 + b"1]}",
        b'{"request_id":"a","truth":1,' + b",".join(b'"%x":1' % number for number in range(700_000)) + b"}",
    ],
    ids=["truths", "fields"],
)
def test_body_that_expands_is_refused_early(store: Path, body: bytes) -> None:
    """An 8 MiB body with too many values or truths is refused before they are made."""
    client = create_app(Config(store=store, prediction_log="")).test_client()
    parsed = json.loads(body)
    tracemalloc.start()
    try:
        with pytest.raises((TooManyRowsError, SchemaError)):
            decode(parsed, max_rows=10_000)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000
    reply = client.post("/feedback", data=body, content_type="application/json")
    assert reply.status_code in (413, 422)
    assert len(reply.data) < 10_000
