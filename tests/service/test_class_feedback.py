"""Owns feedback on classifiers: true labels find their predictions, and the live metrics are those of scikit-learn."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from sklearn import metrics as reference

from app import create_app
from app.config import Config
from app.factory import Service
from app.telemetry import prediction_writer
from app.telemetry.gauges import LiveErrors, ModelCollector
from model.live.prediction_log import LiveError
from tests.support import classifiers
from tests.support.classifiers import LABELS
from tests.support.feedback import LONG_AGO, opened
from tests.support.metrics import by_label, series
from tests.support.service import refused, strict_json

STONES = classifiers.table(60, seed=3).fillna(57.0)
RECORDS = classifiers.rows(STONES)


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of the log."""
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def service(classifiers_store: Path, database: str) -> Iterator[Service]:
    """A service of all classifiers that keeps a prediction log, in this process."""
    app = create_app(Config(store=classifiers_store, models=tuple(LABELS), prediction_log=database))
    app.recorder.start()
    yield app
    app.recorder.close()


@pytest.fixture
def client(service: Service) -> FlaskClient:
    """A client of the service."""
    return service.test_client()


def predicted(client: FlaskClient, name: str, records: list[dict[str, Any]] = RECORDS) -> tuple[str, dict[str, Any]]:
    """Return the id of a request, and its reply."""
    reply = client.post(f"/models/{name}/predict?probabilities=true", json=records)
    return reply.headers["X-Request-Id"], strict_json(reply)


def given(client: FlaskClient, body: Any) -> Any:
    """Return the reply to feedback that is taken."""
    reply = client.post("/feedback", json=body)
    assert reply.status_code == 200, reply.text
    return strict_json(reply)


def live(database: str) -> dict[str, LiveError]:
    """Return the live errors by model."""
    with opened(database) as log:
        return {each.model: each for each in log.live_errors(since=LONG_AGO)}


@pytest.mark.parametrize("name", LABELS)
def test_live_metrics_are_those_of_scikit_learn(client: FlaskClient, database: str, name: str) -> None:
    """Labels sent as true values give scikit-learn's metrics of the answers; rows without a truth do not count."""
    request_id, reply = predicted(client, name)
    truths = classifiers.labels(name, STONES, seed=3).tolist()
    assert given(client, {"request_id": request_id, "truth": [*truths[:50], *[None] * 10]})["accepted"] == 50

    error = live(database)[name]
    y, probabilities = truths[:50], np.array([list(row.values()) for row in reply["probability"][:50]])
    assert error.rows == 50
    assert error.figures["accuracy"] == reference.accuracy_score(y, reply["prediction"][:50])
    assert error.figures["log_loss"] == pytest.approx(reference.log_loss(y, probabilities, labels=LABELS[name]))
    assert error.figures["brier"] == pytest.approx(reference.brier_score_loss(y, probabilities, labels=LABELS[name]))
    if len(LABELS[name]) == 2:
        assert error.figures["auc"] == pytest.approx(reference.roc_auc_score(y, probabilities[:, 1]))


def test_live_metrics_are_exposed(client: FlaskClient, service: Service, database: str) -> None:
    """Each live metric of a classifier is a gauge; one that is not defined, such as AUC of one class, is absent."""
    request_id, _ = predicted(client, "precious", RECORDS[:3])
    given(client, {"request_id": request_id, "truth": [True, True, True]})
    with opened(database) as log:
        collector = ModelCollector(service.serving, LiveErrors(log.live_errors(since=LONG_AGO)))
    found = {
        family.name.removeprefix("tabserve_live_error_"): [sample.value for sample in family.samples]
        for family in collector.collect()
        if family.name.startswith("tabserve_live_error_")
    }

    figures = live(database)["precious"].figures
    assert {name: values for name, values in found.items() if values} == {
        "rows": [3],
        **{name: [figures[name]] for name in ("log_loss", "log_loss_deviation", "brier", "accuracy")},
    }
    assert found.keys() >= {"rmse", "mae", "bias", "auc"}


@pytest.mark.parametrize(
    ("name", "sent", "detail"),
    [
        ("mine", "peru", {"reason": "unknown category", "nearest": "Peru"}),
        ("mine", "Atlantis", {"reason": "unknown category"}),
        ("mine", 1, {"reason": "not a string"}),
        ("mine", True, {"reason": "not a string"}),
        ("stars", 4, {"reason": "unknown category", "nearest": 3}),
        ("stars", "3", {"reason": "not a number"}),
        ("stars", True, {"reason": "not a number"}),
        ("precious", "true", {"reason": "not true or false"}),
        ("precious", 2, {"reason": "not true or false"}),
        ("grade", 1.5, {"reason": "unknown category", "nearest": 1.0}),
    ],
)
def test_label_that_the_model_does_not_have(
    client: FlaskClient, database: str, name: str, sent: Any, detail: dict[str, Any]
) -> None:
    """It is 422 with the object that has it, the reason and the nearest label, and nothing of the request is stored."""
    request_id, _ = predicted(client, name, RECORDS[:2])
    body = [
        {"request_id": request_id, "row": 0, "truth": LABELS[name][0]},
        {"request_id": request_id, "row": 1, "truth": sent},
    ]
    reply = client.post("/feedback", json=body)

    refused(reply, 422, "native")
    assert strict_json(reply)["details"] == [{"row": 1, "feature": "truth", **detail}]
    assert live(database) == {}


def test_nearest_label_of_a_few(client: FlaskClient) -> None:
    """The nearest label is named for the first 10 wrong ones: looking for it takes long, and the log is locked."""
    request_id, _ = predicted(client, "mine", RECORDS[:12])
    body = [{"request_id": request_id, "row": row, "truth": "peru"} for row in range(12)]
    details = strict_json(client.post("/feedback", json=body))["details"]

    assert [detail["reason"] for detail in details] == ["unknown category"] * 12
    assert ["nearest" in detail for detail in details] == [True] * 10 + [False] * 2


@pytest.mark.parametrize(
    ("name", "first", "same", "other"),
    [("stars", 1, 1.0, 2), ("precious", True, 1, False), ("grade", 2.0, 2, 1.0), ("mine", "Peru", "Peru", "é")],
)
def test_outcomes_of_labels(client: FlaskClient, name: str, first: Any, same: Any, other: Any) -> None:
    """A label that is sent again is repeated, another one conflicts, and replaces the first if it says so."""
    request_id, _ = predicted(client, name, RECORDS[:1])
    one = {"request_id": request_id}

    assert given(client, {**one, "truth": first})["accepted"] == 1
    assert given(client, {**one, "truth": same})["repeated"] == 1
    assert given(client, {**one, "truth": other})["conflicting"] == 1
    assert given(client, {**one, "truth": other, "replace": True})["replaced"] == 1


def test_regressions_take_numbers_beside_classifiers(
    store: Path, classifiers_store: Path, tmp_path: Path, database: str
) -> None:
    """Where regressions and classifiers are served together, each takes its own kind of truth, in one request, too."""
    both = tmp_path / "both"
    both.mkdir()
    (both / "boston-housing").symlink_to(store / "boston-housing")
    (both / "mine").symlink_to(classifiers_store / "mine")
    app = create_app(Config(store=both, models=("boston-housing", "mine"), prediction_log=database))
    app.recorder.start()
    client = app.test_client()
    house = {"CHAS": 0, "RM": 6.575, "TAX": 296.0, "PTRATIO": 15.3, "B": 396.9, "LSTAT": 4.98}
    of_house = client.post("/predict", json=[house, house]).headers["X-Request-Id"]
    of_stone, _ = predicted(client, "mine", RECORDS[:2])
    reply = client.post(
        "/feedback", json=[{"request_id": of_house, "truth": "Peru"}, {"request_id": of_stone, "truth": 1}]
    )
    taken = given(client, [{"request_id": of_house, "truth": 24}, {"request_id": of_stone, "truth": "Peru"}])
    app.recorder.close()

    assert [(each["row"], each["reason"]) for each in strict_json(reply)["details"]] == [
        (0, "not a number"),
        (1, "not a string"),
    ]
    assert taken["accepted"] == 2
    assert live(database)["boston-housing"].figures.keys() == {"rmse", "mae", "bias"}
    assert "log_loss" in live(database)["mine"].figures


def test_regressions_alone_take_numbers_only(store: Path, database: str) -> None:
    """Without a classifier, a string is no true value of any prediction, known or not."""
    client = create_app(Config(store=store, prediction_log=database)).test_client()
    reply = client.post("/feedback", json={"request_id": "unknown", "truth": "Peru"})

    assert strict_json(reply)["details"] == [{"row": 0, "feature": "truth", "reason": "not a number"}]


def test_log_has_the_labels_of_each_version(client: FlaskClient, service: Service, tmp_path: Path) -> None:
    """The log can be read without the store: each version's labels, positions in them, and the probabilities' bits."""
    request_id, reply = predicted(client, "mine", RECORDS[:3])
    given(client, {"request_id": request_id, "truth": ["Peru", None, "é"]})
    service.recorder.close()
    with closing(sqlite3.connect(tmp_path / "log.db")) as connection:
        rows = connection.execute(
            "SELECT labels ->> CAST(prediction AS INTEGER), labels ->> CAST(truth AS INTEGER), probabilities "
            "FROM predictions JOIN prediction_classes USING (model, version) ORDER BY row"
        ).fetchall()

    assert [(label, truth) for label, truth, _ in rows] == list(zip(reply["prediction"], ["Peru", None, "é"]))
    found = [np.frombuffer(probabilities, "<f8").tolist() for *_, probabilities in rows]
    assert found == [list(row.values()) for row in reply["probability"]]


def test_waiting_answers_are_bounded(classifiers_store: Path, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of many classes that wait for the database are bounded in bytes; more are dropped and counted."""
    monkeypatch.setattr(prediction_writer, "MAX_WAITING_BYTES", 3 * 26 * 8)
    app = create_app(Config(store=classifiers_store, models=("many",), prediction_log=database))
    client = app.test_client()  # without the thread that writes
    for n_rows in (2, 2, 1, 1):
        assert client.post("/predict", json=RECORDS[:n_rows]).status_code == 200
    dropped = by_label(series(client.get("/metrics").text), "tabserve_prediction_log_dropped_rows_total", "reason")

    assert dropped["queue_full",] == 3
