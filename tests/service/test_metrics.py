"""Owns the metrics: their names and labels, and correct counts while workers start and stop."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from flask.testing import FlaskClient
from prometheus_client.parser import text_string_to_metric_families as parse_text

from app import create_app
from app.config import Config
from tests.support.metrics import (
    BINS,
    MODEL,
    by_label,
    series,
    value,
)
from tests.support.service import HOUSE

ERRORS = ("rmse", "mae", "bias")
OF_CLASSIFIERS = ("log_loss", "log_loss_deviation", "brier", "accuracy", "auc")


def test_names_and_labels(client: FlaskClient) -> None:
    """The metrics and their labels are exactly those that are listed here."""
    client.post("/predict", json=HOUSE)
    client.post("/predict", json={})
    families = {family.name: family for family in parse_text(client.get("/metrics").text)}
    labels = {name: {label for sample in one.samples for label in sample.labels} for name, one in families.items()}

    assert {name: family.type for name, family in families.items() if not name.endswith("_created")} == {
        "http_requests": "counter",
        "http_request_duration_seconds": "histogram",
        "tabserve_requests_in_flight": "gauge",
        "tabserve_inference_duration_seconds": "summary",
        "tabserve_engine_duration_seconds": "summary",
        "tabserve_rows": "counter",
        "tabserve_rejected_rows": "counter",
        "tabserve_overload_rejections": "counter",
        "tabserve_key_requests": "counter",
        "tabserve_refused_requests": "counter",
        "tabserve_batch_rows": "histogram",
        "tabserve_batch_wait_seconds": "histogram",
        "tabserve_gpu_memory_used_bytes": "gauge",
        "tabserve_gpu_memory_total_bytes": "gauge",
        "tabserve_gpu_busy_ratio": "gauge",
        "tabserve_ready": "gauge",
        "tabserve_model_info": "gauge",
        "tabserve_golden_check_success": "gauge",
        "tabserve_model_share": "gauge",
        "tabserve_versions_not_loaded": "gauge",
        "tabserve_challenger_requests": "counter",
        "tabserve_challenger_fallbacks": "counter",
        "tabserve_reload_refused": "gauge",
        "tabserve_feature_bin": "counter",
        "tabserve_feature_bin_reference_ratio": "gauge",
        "tabserve_prediction_bin": "counter",
        "tabserve_prediction_bin_reference_ratio": "gauge",
        "tabserve_reference_rows": "gauge",
        "tabserve_feature_importance_ratio": "gauge",
        "tabserve_feature_contribution": "counter",
        "tabserve_explained_rows": "counter",
        "tabserve_shadow_rows": "counter",
        "tabserve_shadow_missed_rows": "counter",
        "tabserve_shadow_difference": "histogram",
        "tabserve_shadow_largest_difference": "gauge",
        "tabserve_prediction_log_rows": "counter",
        "tabserve_prediction_log_shadow_rows": "counter",
        "tabserve_prediction_log_dropped_rows": "counter",
        "tabserve_prediction_log_removed_rows": "counter",
        "tabserve_prediction_log_failures": "counter",
        "tabserve_feedback_rows": "counter",
        **{
            f"tabserve_{kind}_{name}": "gauge"
            for kind in ("validation", "live_error")
            for name in (*ERRORS, *OF_CLASSIFIERS)
        },
        "tabserve_validation_rows": "gauge",
        "tabserve_live_error_rows": "gauge",
        **{
            f"tabserve_comparison_{name}": "gauge"
            for name in ("requests", "differing_requests", "difference", "difference_squares", "loss")
        },
    }
    assert labels["http_requests"] == {"method", "route", "status"}
    assert labels["http_request_duration_seconds"] == {"route", "le"}
    assert labels["tabserve_inference_duration_seconds"] == {"model", "version", "outcome"}
    assert labels["tabserve_engine_duration_seconds"] == {"model", "version"}
    assert labels["tabserve_rows"] == {"model", "version"}
    assert labels["tabserve_rejected_rows"] == {"model", "version", "reason", "feature"}
    assert labels["tabserve_feature_bin"] == {"model", "version", "feature", "bin"}
    assert labels["tabserve_feature_bin_reference_ratio"] == {"model", "version", "feature", "bin"}
    assert labels["tabserve_feature_contribution"] == {"model", "version", "feature"}
    assert labels["tabserve_feature_importance_ratio"] == {"model", "version", "feature"}
    assert labels["tabserve_explained_rows"] == {"model", "version"}
    assert labels["tabserve_prediction_bin"] == {"model", "version", "bin"}
    assert labels["tabserve_prediction_bin_reference_ratio"] == {"model", "version", "bin"}
    assert labels["tabserve_golden_check_success"] == labels["tabserve_reference_rows"] == {"model", "version"}
    assert labels["tabserve_validation_rmse"] == {"model", "version"}
    assert labels["tabserve_prediction_log_dropped_rows"] == {"reason"}
    assert labels["tabserve_prediction_log_removed_rows"] == {"reason"}
    assert labels["tabserve_feedback_rows"] == {"outcome"}
    assert labels["tabserve_model_share"] == {"model", "version", "role"}
    assert labels["tabserve_versions_not_loaded"] == {"model"}
    assert labels["tabserve_reload_refused"] == set()
    assert labels["tabserve_model_info"] == {"model", "version", "algorithm", "engine", "digest"}
    assert all(family.documentation for family in families.values())


def test_every_request_is_counted_once(client: FlaskClient) -> None:
    """A request is counted by its method, the route's pattern and its status."""
    client.post("/predict", json=HOUSE)
    client.post("/predict", json={})
    client.post("/models/boston-housing/predict", json=HOUSE)
    client.get("/predict")
    found = series(client.get("/metrics").text)

    requests_made = by_label(found, "http_requests_total", "method", "route", "status")
    assert {key: count for key, count in requests_made.items() if count} == {
        ("POST", "/predict", "200"): 1,
        ("POST", "/predict", "422"): 1,
        ("POST", "/models/<name>/predict", "200"): 1,
        ("GET", "unmatched", "405"): 1,
    }
    assert value(found, "http_request_duration_seconds_count", route="/predict") == 2


def test_rows_are_counted(client: FlaskClient) -> None:
    """Predicted rows are counted by model and version, rejected ones by each reason and feature, too."""
    client.post("/predict", json=[HOUSE] * 3)
    client.post("/predict", json=HOUSE)
    client.post("/predict", json=[HOUSE, {**HOUSE, "RM": "x", "TAX": "y"}, {**HOUSE, "RM": None}])
    client.post("/predict", json={"columns": [*list(HOUSE)[1:], "ZN"], "data": [list(HOUSE.values())] * 5})
    client.post("/predict", json=[1, 2])
    client.post("/predict", data="{", content_type="application/json")
    found = series(client.get("/metrics").text)

    assert value(found, "tabserve_rows_total", **MODEL) == 4
    rejected = by_label(found, "tabserve_rejected_rows_total", "reason", "feature")
    assert {key: count for key, count in rejected.items() if count} == {
        ("not a number", "RM"): 1,
        ("not a number", "TAX"): 1,
        ("missing", "RM"): 1,
        ("missing", "CHAS"): 5,
        ("unknown", ""): 5,
        ("shape", ""): 2,
    }


def test_inferences_are_measured(client: FlaskClient) -> None:
    """Prediction requests are measured by their outcome, and in the engine if they reach it."""
    started = time.perf_counter()
    for rows in (1, 3, 200):
        client.post("/predict", json=[HOUSE] * rows)
    for body in ("{", "{}", "[]"):
        client.post("/predict", data=body, content_type="application/json")
    client.post("/models/titanic/predict", json=HOUSE)
    client.get("/models")
    took = time.perf_counter() - started
    found = series(client.get("/metrics").text)
    inference, engine = "tabserve_inference_duration_seconds", "tabserve_engine_duration_seconds"

    assert by_label(found, f"{inference}_count", "outcome") == {("success",): 3, ("failure",): 3}
    assert value(found, f"{engine}_count", **MODEL) == 3
    in_engine, succeeded = (
        value(found, f"{engine}_sum", **MODEL),
        value(found, f"{inference}_sum", **MODEL, outcome="success"),
    )
    assert 0 < in_engine < succeeded < took
    assert 0 < value(found, f"{inference}_sum", **MODEL, outcome="failure") < took


def test_labels_are_bounded(client: FlaskClient) -> None:
    """No text of a client becomes a label's value."""
    bodies: list[Any] = [[], {}, [1], {"ZN": 1}, {"a": {}}, {"columns": [1], "data": [1]}]
    for body in [*bodies, {"columns": ["x", "x"], "data": [[1, 2]]}]:
        client.post("/predict", json=body)
    found = series(client.get("/metrics").text)

    assert {reason for (reason,) in by_label(found, "tabserve_rejected_rows_total", "reason")} == {
        "missing",
        "out of range",
        "unknown",
        "repeated",
        "shape",
    }


def test_gauges_of_a_version(client: FlaskClient, store: Path) -> None:
    """Reference shares, rows and validation metrics are the artifact's; golden rows are predicted as in training."""
    folder = store / "boston-housing" / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    reference = json.loads((folder / "reference.json").read_text())
    found = series(client.get("/metrics").text)
    shares = by_label(found, "tabserve_feature_bin_reference_ratio", "feature", "bin")
    outside = ("below", "above", "missing")

    for name, bins in reference["features"].items():
        assert [shares[name, label] for label in outside] == [0, 0, 0]
        inside = [shares[key] for key in sorted(shares) if key[0] == name and key[1] not in outside]
        assert inside == bins["shares"]
        assert shares[name, "10"] == bins["shares"][-1]
    predicted = by_label(found, "tabserve_prediction_bin_reference_ratio", "bin")
    assert [predicted[f"{number:02}",] for number in range(1, 11)] == reference["prediction"]["shares"]
    assert value(found, "tabserve_reference_rows", **MODEL) == manifest["metrics"]["training"]["rows"]
    for name in (*ERRORS, "rows"):
        assert value(found, f"tabserve_validation_{name}", **MODEL) == manifest["metrics"]["validation"][name]
    assert value(found, "tabserve_golden_check_success", **MODEL) == 1


def test_failures_are_counted_from_zero(client: FlaskClient) -> None:
    """Every route with POST has its counters of 500 and 503 from the start, so that a first burst is an increase."""
    found = series(client.get("/metrics").text)
    failures = by_label(found, "http_requests_total", "method", "route", "status")

    for route in ("/predict", "/models/<name>/predict", "/v2/models/<name>/infer", "/invocations", "/feedback"):
        assert failures["POST", route, "500"] == failures["POST", route, "503"] == 0


def test_ready(store: Path, client: FlaskClient) -> None:
    """The gauge equals /readyz: it is 0 if one of several models is not loaded."""
    assert value(series(client.get("/metrics").text), "tabserve_ready") == 1
    half = create_app(Config(store=store, models=("boston-housing", "titanic"))).test_client()

    assert half.get("/readyz").status_code == 503
    assert value(series(half.get("/metrics").text), "tabserve_ready") == 0


def test_every_bin_is_counted_from_zero(client: FlaskClient) -> None:
    """Before the first request every bin with a reference share has a counter at 0, so that 1 is an increase."""
    found = series(client.get("/metrics").text)
    for kind, labels in (("feature", ("feature", "bin")), ("prediction", ("bin",))):
        counts = by_label(found, f"tabserve_{kind}_bin_total", *labels)
        assert counts == dict.fromkeys(by_label(found, f"tabserve_{kind}_bin_reference_ratio", *labels), 0)
    refused = by_label(found, "tabserve_rejected_rows_total", "reason", "feature")
    assert refused == dict.fromkeys(((reason, name) for name in HOUSE for reason in ("missing", "out of range")), 0)
    assert by_label(found, "tabserve_feature_contribution_total", "feature") == dict.fromkeys(((n,) for n in HOUSE), 0)
    assert value(found, "tabserve_explained_rows_total", **MODEL) == 0


def test_rows_are_counted_into_bins(client: FlaskClient, houses: pd.DataFrame) -> None:
    """Each value is counted in the first bin whose upper edge is not below it, or outside the training range."""
    far = [{**HOUSE, "RM": 3.5}, {**HOUSE, "RM": 8.8}, {**HOUSE, "RM": 5.565}, {**HOUSE, "RM": np.nextafter(5.565, 9)}]
    client.post("/predict", json=far)
    found = series(client.get("/metrics").text)
    rooms = {label: n for (name, label), n in by_label(found, BINS, "feature", "bin").items() if name == "RM" and n}
    assert rooms == {"below": 1, "above": 1, "01": 1, "02": 1}

    client.post("/predict", json=houses.to_dict("records"))
    found = series(client.get("/metrics").text)
    counted = by_label(found, BINS, "feature", "bin")
    for name in houses:
        assert sum(n for (feature, _), n in counted.items() if feature == name) == len(far) + len(houses)
    assert sum(by_label(found, "tabserve_prediction_bin_total", "bin").values()) == len(far) + len(houses)


def test_model_info(client: FlaskClient, store: Path) -> None:
    """Each loaded version is a series, with the artifact's algorithm and digest."""
    found = series(client.get("/metrics").text)
    info = [dict(labels) for name, labels in found if name == "tabserve_model_info"]

    assert len(info) == 1
    assert info[0].items() >= MODEL.items()
    assert info[0]["digest"] in (store / "boston-housing" / "1" / "manifest.json").read_text()
    assert info[0]["algorithm"]


def test_buckets_resolve_fast_requests(client: FlaskClient) -> None:
    """Several buckets are below a millisecond, where single rows are answered, and they reach to 10 s."""
    client.post("/predict", json=HOUSE)
    found = series(client.get("/metrics").text)
    bounds = sorted(float(dict(labels)["le"]) for name, labels in found if name.endswith("_seconds_bucket"))

    assert len([bound for bound in bounds if bound < 0.001]) >= 3
    assert bounds[-2:] == [10.0, float("inf")]


def test_junk_makes_no_series(client: FlaskClient) -> None:
    """1,000 unknown paths and methods add two series: one for each status."""
    client.get("/metrics")
    before = series(client.get("/metrics").text)
    for number in range(500):
        client.get(f"/junk{number}")
        client.open(f"/junk/{number}?x={number}", method=f"JUNK{number}")
    found = series(client.get("/metrics").text)

    added = {(name, labels) for name, labels in found.keys() - before.keys() if name == "http_requests_total"}
    assert {frozenset(dict(labels).values()) for _, labels in added} == {
        frozenset({"GET", "unmatched", "404"}),
        frozenset({"other", "unmatched", "404"}),
    }
    assert value(found, "http_requests_total", method="GET", route="unmatched", status="404") == 500


def test_names_of_models_make_no_series(client: FlaskClient) -> None:
    """Requests for unknown models add no series for their names."""
    for number in range(50):
        client.post(f"/models/junk-{number}/predict", json=HOUSE)

    assert "junk" not in client.get("/metrics").text
