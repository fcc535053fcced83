"""Owns shadows: challengers that answer behind the champion, what is counted of them, and what they cannot hurt."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest

from app import create_app
from app.config import Config
from app.factory import Service
from app.serving import shadow
from app.serving.challengers import Challenger, Mode
from model import Artifact, Matrix
from tests.support import classifiers
from tests.support.feedback import LONG_AGO, opened
from tests.support.metrics import Series, by_label, series, value
from tests.support.service import COLUMNS, HOUSE, PROTOCOLS, strict_json

NAME = "boston-housing"
PAIR = {"model": NAME, "version": "2", "against": "1"}
ROWS, MISSED = "tabserve_shadow_rows_total", "tabserve_shadow_missed_rows_total"
DIFFERENCE, LARGEST = "tabserve_shadow_difference", "tabserve_shadow_largest_difference"


class Changed:
    """An engine that answers as another one, but for a change of its answers."""

    def __init__(self, model: Artifact, change: Any) -> None:
        self._model = model
        self._change = change

    def predict(self, X: Matrix) -> Any:
        return self._change(X, self._model.predict(X))


def changed(model: Artifact, change: Any, **changes: Any) -> Artifact:
    """Return version 2 of a model, whose answers are changed by `change(X, y)`."""
    return replace(model, **{"version": 2, "engine": cast(Any, Changed(model, change)), **changes})


def shadowed(service: Service, *challengers: Artifact, mode: Mode = Mode.SHADOW) -> Service:
    """Serve challengers beside the champion."""
    found = tuple(Challenger(model, mode, 1.0) for model in challengers)
    service.swap(replace(service.serving.loaded, challengers={found[0].model.name: found}))
    return service


@pytest.fixture
def url(tmp_path: Path) -> str:
    """The URL of an empty log."""
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def service(store: Path, url: str) -> Service:
    """A service with a prediction log; its threads are not started."""
    return create_app(Config(store=store, prediction_log=url, prediction_log_features=True), write_log=lambda _: None)


@pytest.fixture
def champion(service: Service) -> Artifact:
    """The model that answers."""
    return service.serving.loaded.models[NAME]


def found(service: Service) -> Series:
    """Answer all that is queued for shadows, and return every series."""
    while service.shadow.work():
        pass
    return scraped(service)


def scraped(service: Service) -> Series:
    return series(service.test_client().get("/metrics").text)


def outcomes(found: Series) -> dict[str, float]:
    """Return the rows by the outcome of their comparison, and those that were missed by reason; none of 0."""
    counts = {**by_label(found, ROWS, "outcome"), **by_label(found, MISSED, "reason")}
    return {name: count for (name,), count in counts.items() if count}


def ask(service: Service, X: Any, **headers: str) -> list[float]:
    """Send rows in the order of the columns, and return the predictions."""
    body = {"columns": COLUMNS, "data": np.asarray(X).tolist()}
    answers: list[float] = strict_json(service.test_client().post("/predict", json=body, headers=headers))["prediction"]
    return answers


def test_exact_share_of_different_answers(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """Rows in requests of any size are compared bit for bit: a known set differs by known amounts, one of them in its
    last bit.
    """
    X = houses.to_numpy()
    column = COLUMNS.index("LSTAT")
    least = X[:, column].min()

    def change(X: Matrix, y: Any) -> Any:
        return np.where(X[:, column] > 20, y + 2.5, np.where(X[:, column] == least, np.nextafter(y, 99.0), y))

    shadowed(service, changed(champion, change))
    start = 0
    while start < len(X):
        size = (1, 7, 1, 60)[start % 4]
        ask(service, X[start : start + size])
        start += size
    before = champion.predict(X)
    after = change(X, before)
    differing = int((before != after).sum())

    counts = found(service)
    assert outcomes(counts) == {"equal": len(X) - differing, "different": differing}
    assert 20 < differing < len(X)
    assert value(counts, f"{DIFFERENCE}_count", **PAIR) == differing
    assert value(counts, f"{DIFFERENCE}_sum", **PAIR) == pytest.approx(np.abs(before - after).sum())
    assert value(counts, LARGEST, **PAIR) == np.abs(before - after).max()
    within = by_label(counts, f"{DIFFERENCE}_bucket", "le")
    assert within["1e-06",] == within["1.0",] == (np.abs(before - after)[before != after] < 1).sum()
    assert within["3.0",] == differing


def test_nothing_is_shadowed_without_a_challenger(service: Service, houses: pd.DataFrame) -> None:
    """Without challengers nothing is queued, and there is no series of shadows."""
    ask(service, houses.to_numpy()[:3])

    assert not service.shadow.work()
    assert not [key for key in scraped(service) if key[0].startswith("tabserve_shadow") and key[1]]


def test_counters_start_at_zero(service: Service, champion: Artifact) -> None:
    """All counters of a pair, and the bins of the challenger's predictions, are there before the first request."""
    shadowed(service, changed(champion, lambda X, y: y))
    counts = scraped(service)

    assert by_label(counts, ROWS, "outcome") == {("equal",): 0, ("different",): 0}
    assert set(by_label(counts, MISSED, "reason").values()) == {0.0}
    assert value(counts, f"{DIFFERENCE}_count", **PAIR) == 0
    names = {key[0] for key in counts if dict(key[1]).keys() >= PAIR.keys()}
    assert {ROWS, MISSED, f"{DIFFERENCE}_count", LARGEST} <= names
    bins = [key for key in counts if key[0] == "tabserve_prediction_bin_total" and ("version", "2") in key[1]]
    assert len(bins) == len(champion.reference.prediction.labels)


def test_predictions_of_a_shadow_have_bins(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """The challenger's predictions are counted by its own bins, under its version."""
    shadowed(service, changed(champion, lambda X, y: np.full(len(y), 1e9)))
    ask(service, houses.to_numpy())
    counts = found(service)

    assert value(counts, "tabserve_prediction_bin_total", model=NAME, version="2", bin="above") == len(houses)


def test_only_the_champions_answers_are_shadowed(service: Service, champion: Artifact) -> None:
    """A request whose path names a version, one that is refused, and one of an earlier champion are not shadowed."""
    shadowed(service, changed(champion, lambda X, y: y + 1))
    client = service.test_client()
    document = PROTOCOLS["V2"].write([list(HOUSE.values())])
    assert client.post(f"/v2/models/{NAME}/versions/1/infer", json=document).status_code == 200
    assert client.post("/predict", json={**HOUSE, "RM": "x"}).status_code == 422
    assert outcomes(found(service)) == {}
    assert client.post(f"/v2/models/{NAME}/infer", json=document).status_code == 200
    assert outcomes(found(service)) == {"different": 1}


@pytest.mark.parametrize("mode", [Mode.CANARY, Mode.AB])
def test_other_modes_are_no_shadows(service: Service, champion: Artifact, houses: pd.DataFrame, mode: Mode) -> None:
    """A canary, or the other side of an A/B test, answers nothing behind the champion."""
    shadowed(service, changed(champion, lambda X, y: y + 1), mode=mode)
    ask(service, houses.to_numpy()[:1])

    assert not service.shadow.work()


def test_two_shadows(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """Each of several shadows answers every request."""
    shadowed(service, changed(champion, lambda X, y: y + 1), changed(champion, lambda X, y: y, version=3))
    ask(service, houses.to_numpy()[:5])
    counts = found(service)

    assert value(counts, ROWS, **PAIR, outcome="different") == 5
    assert value(counts, ROWS, **{**PAIR, "version": "3"}, outcome="equal") == 5


def failing(X: Matrix, y: Any) -> Any:
    raise RuntimeError(f"cannot predict {X}")


@pytest.mark.parametrize(
    "change",
    [failing, lambda X, y: y[:-1], lambda X, y: np.append(y, 1.0), lambda X, y: y[:, None], lambda X, y: None],
    ids=["raises", "too short", "too long", "another shape", "nothing"],
)
def test_broken_challenger_hurts_no_request(
    service: Service, champion: Artifact, houses: pd.DataFrame, caplog: pytest.LogCaptureFixture, change: Any
) -> None:
    """A challenger that raises, or answers in another form, is counted and logged once, without values of features."""
    shadowed(service, changed(champion, change))
    X = houses.to_numpy()
    with caplog.at_level(logging.ERROR):
        for start in range(0, 30, 3):
            assert ask(service, X[start : start + 3]) == champion.predict(X[start : start + 3]).tolist()
        counts = found(service)

    assert outcomes(counts) == {"failed": 30}
    messages = [record.getMessage() for record in caplog.records if "shadow" in record.getMessage()]
    assert messages == ["a shadow failed; later failures are only counted"]


def test_one_row_that_fails(service: Service, champion: Artifact, houses: pd.DataFrame, url: str) -> None:
    """Of requests that are answered together only the one with the bad row fails."""

    def change(X: Matrix, y: Any) -> Any:
        if (X[:, 0] == 1).any():
            raise ValueError
        return y

    shadowed(service, changed(champion, change))
    X = houses.to_numpy()[:20].copy()
    X[:, 0] = 0
    X[7, 0] = 1
    for row in X:
        ask(service, [row])

    assert outcomes(found(service)) == {"equal": 19, "failed": 1}


@pytest.mark.parametrize("name", ["MAX_WAITING_ROWS", "MAX_WAITING_BYTES"])
def test_full_queue(
    store: Path, champion: Artifact, houses: pd.DataFrame, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Rows that find the queue full, by rows or bytes, are not shadowed and counted; there is room again later."""
    bytes_of_row = 8 * (len(COLUMNS) + 1)
    monkeypatch.setattr(shadow, name, 10 if name == "MAX_WAITING_ROWS" else 10 * bytes_of_row)
    service = create_app(Config(store=store, prediction_log=""), write_log=lambda _: None)
    shadowed(service, changed(champion, lambda X, y: y))
    X = houses.to_numpy()
    for size in (8, 3, 2, 1):
        ask(service, X[:size])
    assert outcomes(found(service)) == {"equal": 10, "queue_full": 4}
    ask(service, X[:9])

    assert outcomes(found(service)) == {"equal": 19, "queue_full": 4}


def test_large_requests_are_pieces_of_their_own(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """A piece has 128 rows at most, or one request."""
    sizes: list[int] = []

    def change(X: Matrix, y: Any) -> Any:
        sizes.append(len(X))
        return y

    shadowed(service, changed(champion, change))
    X = np.resize(houses.to_numpy(), (2_000, len(COLUMNS)))
    for size in (2_000, 200, 100, 28, 1, 1):
        ask(service, X[:size])
    found(service)

    assert sizes == [2_000, 200, 128, 2]


@pytest.mark.parametrize(("requests", "rows", "compared_after"), [(300, 1, 256), (30, 50, 8), (9, 300, 4)])
def test_answers_are_compared_before_there_are_many(
    service: Service, champion: Artifact, houses: pd.DataFrame, requests: int, rows: int, compared_after: int
) -> None:
    """Answers do not wait for the queue to be empty: they are compared after four pieces, or at 1,000 rows."""
    shadowed(service, changed(champion, lambda X, y: y))
    X = houses.to_numpy()[np.arange(rows) % len(houses)]
    for _ in range(requests):
        ask(service, X)
    while not outcomes(scraped(service)):
        assert service.shadow.work()

    assert outcomes(scraped(service)) == {"equal": compared_after * rows}
    assert outcomes(found(service)) == {"equal": requests * rows}


def test_a_comparison_that_fails(
    service: Service, champion: Artifact, houses: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers whose comparison raises are counted as failed, and later ones are compared."""
    shadowed(service, changed(champion, lambda X, y: y))
    ask(service, houses.to_numpy()[:3])
    with monkeypatch.context() as patched:
        patched.setattr(shadow, "row_differences", failing)
        assert outcomes(found(service)) == {"failed": 3}
    ask(service, houses.to_numpy()[:2])

    assert outcomes(found(service)) == {"failed": 3, "equal": 2}


def test_rows_are_alone_where_others_change_their_bits(
    service: Service, champion: Artifact, houses: pd.DataFrame
) -> None:
    """A network's answer may depend on the rows beside it, so each request is answered alone, as its reply was."""
    sizes: list[int] = []

    def change(X: Matrix, y: Any) -> Any:
        sizes.append(len(X))
        return y

    network = replace(champion.manifest, engine="onnx", tolerance=1e-6)
    assert not network.is_alike_in_every_batch
    shadowed(service, changed(champion, change, manifest=network))
    for size in (3, 1, 4):
        ask(service, houses.to_numpy()[:size])

    assert outcomes(found(service)) == {"equal": 8}
    assert sizes == [3, 1, 4]


def test_infinite_differences(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """An answer that is no finite number differs infinitely, and leaves the sum of the others finite."""
    shadowed(service, changed(champion, lambda X, y: np.concatenate([[np.nan, np.inf], y[2:] + 1])))
    ask(service, houses.to_numpy()[:10])
    counts = found(service)

    assert outcomes(counts) == {"different": 10}
    assert value(counts, f"{DIFFERENCE}_sum", **PAIR) == pytest.approx(8)
    assert by_label(counts, f"{DIFFERENCE}_bucket", "le")["+Inf",] == 10
    assert by_label(counts, f"{DIFFERENCE}_bucket", "le")["1e+06",] == 8
    assert value(counts, LARGEST, **PAIR) == np.inf


def test_challenger_with_fewer_columns(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """A challenger gets the columns that it has, in its own order."""

    class Sum:
        def predict(self, X: Matrix) -> Any:
            return X @ np.arange(1.0, X.shape[1] + 1)

    features = champion.schema.features[::-1][:-2]
    other = replace(champion, version=2, schema=replace(champion.schema, features=features), engine=cast(Any, Sum()))
    shadowed(service, other)
    X = houses.to_numpy()[:5]
    y = np.array(ask(service, X))
    expected = np.abs(Sum().predict(X[:, ::-1][:, :-2]) - y)
    counts = found(service)

    assert outcomes(counts) == {"different": 5}
    assert value(counts, f"{DIFFERENCE}_sum", **PAIR) == pytest.approx(expected.sum())


def test_challenger_with_more_columns(
    service: Service, champion: Artifact, houses: pd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    """A challenger that needs a column which requests do not have says so once, when it is loaded, and is counted."""
    more = replace(
        champion.schema, features=(*champion.schema.features, replace(champion.schema.features[0], name="AGE"))
    )
    with caplog.at_level(logging.ERROR):
        shadowed(service, changed(champion, failing, schema=more))
        ask(service, houses.to_numpy()[:4])
        ask(service, houses.to_numpy()[:2])
        counts = found(service)

    assert outcomes(counts) == {"columns": 6}
    assert [record.getMessage() for record in caplog.records] == [
        "a shadow cannot be compared: boston-housing@2 needs the columns 'AGE', which requests to version 1 do not have"
    ]


def test_rows_that_a_challenger_refuses(service: Service, champion: Artifact, houses: pd.DataFrame) -> None:
    """Of two requests one has a value that the challenger's schema refuses; it is counted, the other is compared."""
    features = tuple(
        replace(feature, highest=7.0) if feature.name == "RM" else feature for feature in champion.schema.features
    )
    other = changed(champion, lambda X, y: y, schema=replace(champion.schema, features=features))
    shadowed(service, other)
    X = houses.to_numpy()[:2].copy()
    X[:, COLUMNS.index("RM")] = [6.5, 7.5]
    for row in X:
        ask(service, [row])

    assert outcomes(found(service)) == {"equal": 1, "columns": 1}


def test_close_answers_what_is_queued(service: Service, champion: Artifact, houses: pd.DataFrame, url: str) -> None:
    """A worker that stops answers the rest of the queue; every request then has both answers in the log."""
    shadowed(service, changed(champion, lambda X, y: y + 0.5))
    ids = [f"r{number}" for number in range(300)]
    predictions = [
        ask(service, [row], **{"X-Request-Id": key}) for key, row in zip(ids, np.resize(houses.to_numpy(), (300, 6)))
    ]
    service.recorder.start()
    service.recorder.close()

    assert outcomes(scraped(service)) == {"different": 300}
    assert sorted(both_answers(url)) == sorted((y, y + 0.5) for (y,) in predictions)


def test_answers_of_another_request_with_the_same_id(
    store: Path, champion: Artifact, houses: pd.DataFrame, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where an id comes twice, the log has the first request alone, and the second one's shadow is not beside it."""
    monkeypatch.setattr(shadow, "MAX_WAITING_ROWS", 3)
    service = create_app(Config(store=store, prediction_log=url), write_log=lambda _: None)
    shadowed(service, changed(champion, lambda X, y: y + 0.5))
    X = houses.to_numpy()
    first = ask(service, X[:4], **{"X-Request-Id": "twice"})  # finds no room
    ask(service, X[4:7], **{"X-Request-Id": "twice"})
    counts = found(service)
    service.recorder.start()
    service.recorder.close()

    answers = both_answers(url)
    assert outcomes(counts) == {"queue_full": 4, "different": 3}
    assert [one for one, _ in answers] == first
    assert np.isnan([two for _, two in answers]).all()


def test_logged_share(store: Path, champion: Artifact, houses: pd.DataFrame, url: str) -> None:
    """Every request is compared; those in the logged share have both answers in the log, and the others have none."""
    service = create_app(Config(store=store, prediction_log=url, prediction_log_share=0.5), write_log=lambda _: None)
    shadowed(service, changed(champion, lambda X, y: y + 0.5))
    for number, row in enumerate(houses.to_numpy()[:100]):
        ask(service, [row], **{"X-Request-Id": f"request-{number}"})
    service.recorder.start()
    service.recorder.close()

    counts = scraped(service)
    answers = both_answers(url)
    assert outcomes(counts) == {"different": 100}
    assert 25 < len(answers) < 75
    assert all(two == one + 0.5 for one, two in answers)
    assert value(counts, "tabserve_prediction_log_shadow_rows_total") == len(answers)
    assert value(counts, "tabserve_prediction_log_rows_total") == len(answers)


def test_dropped_shadows_are_not_logged(
    store: Path, champion: Artifact, houses: pd.DataFrame, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request whose shadow was dropped is in the log with the reply alone."""
    monkeypatch.setattr(shadow, "MAX_WAITING_ROWS", 3)
    service = create_app(Config(store=store, prediction_log=url), write_log=lambda _: None)
    shadowed(service, changed(champion, lambda X, y: y + 0.5))
    for row in houses.to_numpy()[:5]:
        ask(service, [row])
    service.recorder.start()
    service.recorder.close()

    answers = both_answers(url)
    assert len(answers) == 5
    assert sum(np.isfinite(two) for _, two in answers) == 3


class Labels:
    """A classifier's engine that answers in the order of another list of labels, or moves some probability."""

    def __init__(self, model: Artifact, change: Any) -> None:
        self._model = model
        self._change = change

    def predict(self, X: Matrix) -> Any:
        answers = self._change(self._model.predict(X)[:, 1:].copy())
        return np.column_stack([answers.argmax(axis=1), answers])


def test_shadow_of_a_classifier(classifiers_store: Path, url: str) -> None:
    """Labels are compared by name, whatever their order; a size is the largest difference of a probability."""
    app = create_app(Config(store=classifiers_store, models=("many",), prediction_log=url), write_log=lambda _: None)
    model = app.serving.loaded.models["many"]
    target = model.schema.target
    schema = replace(model.schema, target=replace(target, categories=target.categories[::-1]))
    records: Any = classifiers.table(40, seed=3).fillna(57.0).to_dict("records")
    X = model.schema.matrix_from_records(records)
    y = model.predict(X)
    first = y[:, 0] == y[0, 0]

    def change(probabilities: Any) -> Any:
        """Give a quarter of the probability of the first row's label to the next label, and turn the order."""
        place = int(y[0, 0])
        moved = np.where(probabilities.argmax(axis=1) == place, probabilities[:, place] / 4, 0)
        probabilities[:, place] -= moved
        probabilities[:, place - 1] += moved
        return probabilities[:, ::-1]

    engine = cast(Any, Labels(model, change))
    turned = replace(model, version=2, schema=schema, manifest=replace(model.manifest, schema=schema), engine=engine)
    shadowed(app, turned)
    for record in records:
        assert app.test_client().post("/predict", json=record).status_code == 200
    counts = found(app)

    after = turned.predict(X)[:, :0:-1]
    relabelled = int((after.argmax(axis=1) != y[:, 0]).sum())
    expected = {"equal": 40 - first.sum(), "different": first.sum() - relabelled, "relabelled": relabelled}
    assert outcomes(counts) == {name: count for name, count in expected.items() if count}
    pair = {"model": "many", "version": "2", "against": "1"}
    assert value(counts, LARGEST, **pair) == pytest.approx(y[first, int(y[0, 0]) + 1].max() / 4)


def test_challenger_with_other_labels(classifiers_store: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A challenger whose labels are others cannot be compared, which is said when it is loaded, and counted."""
    app = create_app(Config(store=classifiers_store, models=("many",), prediction_log=""), write_log=lambda _: None)
    model = app.serving.loaded.models["many"]
    target = replace(model.schema.target, categories=model.schema.target.categories[1:])
    schema = replace(model.schema, target=target)
    with caplog.at_level(logging.ERROR):
        shadowed(app, replace(model, version=2, schema=schema, manifest=replace(model.manifest, schema=schema)))
        record = classifiers.table(1, seed=3).fillna(57.0).to_dict("records")[0]
        assert app.test_client().post("/predict", json=record).status_code == 200

    assert outcomes(found(app)) == {"answers": 1}
    (message,) = [record.getMessage() for record in caplog.records]
    assert "other labels" in message


def both_answers(url: str) -> list[tuple[float, float]]:
    """Return the answers of versions 1 and 2 to every row in the log; NaN for none."""
    with opened(url) as log:
        parts = list(log.answers(NAME, since=LONG_AGO))
    return [
        (one, two)
        for part in parts
        for one, two in zip(part.answers[1].tolist(), part.answers.get(2, np.full(len(part.times), np.nan)).tolist())
    ]
