"""Owns the swap: the service goes over from one snapshot of models to another, as a whole and everywhere."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest
from flask.testing import FlaskClient

from app.factory import Service
from app.serving.loaded import Loaded
from model import Artifact, Matrix
from tests.support.metrics import series
from tests.support.service import HOUSE, PROTOCOLS, strict_json

ROW = list(HOUSE.values())


class Constant:
    """An engine that predicts one number."""

    def __init__(self, value: float) -> None:
        self.value = value

    def predict(self, X: Matrix) -> Any:
        return np.full(len(X), self.value)


def model_of(service: Service, value: float, **changes: Any) -> Artifact:
    """Return the served model with an engine of one number, and other changes."""
    (model,) = service.serving.loaded.models.values()
    return replace(model, engine=cast(Any, Constant(value)), **changes)


@pytest.fixture
def service(client: FlaskClient) -> Service:
    """The service of `client`."""
    return cast(Service, client.application)


def test_another_version_answers(client: FlaskClient, service: Service) -> None:
    """After a swap every path answers with the new version, and the old version's own path is not found."""
    old = "/v2/models/boston-housing/versions/1/infer"
    document = PROTOCOLS["V2"].write([ROW])
    assert client.post(old, json=document).status_code == 200
    service.swap(service.serving.loaded.with_model(model_of(service, 7.0, version=2)))

    for path in ("/predict", "/models/boston-housing/predict"):
        reply = strict_json(client.post(path, json=HOUSE))
        assert (reply["prediction"], reply["version"]) == ([7.0], 2)
    assert client.post(old, json=document).status_code == 404
    assert strict_json(client.post(old.replace("/1/", "/2/"), json=document))["outputs"][0]["data"] == [7.0]
    assert strict_json(client.get("/readyz"))["models"] == {"boston-housing": 2}


def test_new_model_is_on_the_fast_path(client: FlaskClient, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that a swap brings is answered before Flask and immediately, as those of the start are."""
    other = model_of(service, 3.0, name="other")
    path = "/models/other/predict"
    assert not service.fast_path.is_immediate("POST", path)
    service.swap(service.serving.loaded.with_model(other))
    assert path in strict_json(client.get("/openapi.json"))["paths"]
    monkeypatch.setattr(Service, "full_dispatch_request", None)

    assert service.fast_path.is_immediate("POST", path)
    assert strict_json(client.post(path, json=HOUSE))["prediction"] == [3.0]


def test_bins_of_a_new_version_count_from_zero(client: FlaskClient, service: Service) -> None:
    """Every bin of a version that a swap brings is a series of 0 before its first request."""
    before = series(client.get("/metrics").text)
    service.swap(service.serving.loaded.with_model(model_of(service, 3.0, version=2)))
    after = series(client.get("/metrics").text)

    def bins(found: dict[Any, float], version: str) -> set[frozenset[Any]]:
        wanted = "tabserve_feature_bin_total"
        rows = (key[1] for key in found if key[0] == wanted and ("version", version) in key[1])
        return {labels - {("version", version)} for labels in rows}

    assert bins(before, "2") == set()
    assert bins(after, "2") == bins(before, "1") != set()


def test_removed_model_is_refused(client: FlaskClient, service: Service) -> None:
    """A model that a swap takes away is not found, and the others answer on."""
    loaded = service.serving.loaded
    service.swap(loaded.with_model(model_of(service, 3.0, name="other")))
    assert client.post("/models/other/predict", json=HOUSE).status_code == 200
    service.swap(loaded)

    assert client.post("/models/other/predict", json=HOUSE).status_code == 404
    assert client.post("/predict", json=HOUSE).status_code == 200


def test_no_request_sees_half_a_swap(client: FlaskClient, service: Service) -> None:
    """While two versions are swapped again and again, each reply has the number of the version that it names."""
    one = service.serving.loaded.with_model(model_of(service, 1.0, version=1))
    two = service.serving.loaded.with_model(model_of(service, 2.0, version=2))
    service.swap(one)
    stops = threading.Event()

    def swap() -> None:
        while not stops.is_set():
            service.swap(two)
            service.swap(one)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        replies = [strict_json(service.test_client().post("/predict", json=[HOUSE] * 3)) for _ in range(300)]
    finally:
        stops.set()
        swapping.join()

    assert {(tuple(reply["prediction"]), reply["version"]) for reply in replies} <= {((1.0,) * 3, 1), ((2.0,) * 3, 2)}


def test_snapshot_cannot_be_changed(service: Service) -> None:
    """A snapshot is immutable: what a request has looked up stays as it is."""
    loaded: Loaded = service.serving.loaded

    with pytest.raises(AttributeError):
        loaded.models = {}  # type: ignore[misc]
    with pytest.raises(TypeError):
        loaded.models["other"] = loaded.models["boston-housing"]  # type: ignore[index]
