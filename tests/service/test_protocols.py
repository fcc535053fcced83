"""Owns what all protocols have in common: the same bits, counts, log line and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import TestResponse

from app.factory import Service
from model import Matrix
from tests.support.metrics import MODEL, by_label, series, value
from tests.support.service import COLUMNS, HOUSE, PROTOCOLS, Rows, bits, everywhere_client, refused, strict_json

ROW = list(HOUSE.values())
BAD_ROWS: Rows = [ROW, [0, "x", None, 15.3, 396.9, 4.98], [0, None, 296.0, 15.3, 396.9, 1e300]]

numbers = st.floats(-1e37, 1e37)


def send(client: FlaskClient, protocol: str, rows: Rows) -> TestResponse:
    """Send rows in a protocol's simplest form."""
    form = PROTOCOLS[protocol]
    return client.post(form.path, data=json.dumps(form.write(rows)), content_type="application/json")


def answers(client: FlaskClient, protocol: str, rows: Rows) -> list[float]:
    """Return the predictions of a protocol for rows."""
    reply = send(client, protocol, rows)
    assert reply.status_code == 200, reply.text
    return PROTOCOLS[protocol].read(strict_json(reply))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_same_rows_get_the_same_bits(
    store: Path, pipeline: Any, houses: pd.DataFrame, log_lines: list[dict[str, Any]], protocol: str
) -> None:
    """The same rows get the pipeline's bits in every protocol, are counted the same, and are one line in the log."""
    client = everywhere_client(store, log_lines.extend)
    answered = answers(client, protocol, houses.to_numpy().tolist())
    lines = [{key: line[key] for key in ("status", "model", "version", "rows")} for line in log_lines]
    found = series(client.get("/metrics").text)

    assert bits(answered).tolist() == bits(pipeline.predict(houses.to_numpy())).tolist()
    assert lines == [{"status": 200, "model": "boston-housing", "version": 1, "rows": 506}]
    assert value(found, "tabserve_rows_total", **MODEL) == 506
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="success") == 1
    assert value(found, "tabserve_engine_duration_seconds_count", **MODEL) == 1
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="failure") == 0


@settings(max_examples=30, deadline=None)
@given(rows=st.lists(st.tuples(*[numbers] * len(COLUMNS)), min_size=1, max_size=8))
def test_any_rows_get_the_same_bits(everywhere: FlaskClient, pipeline: Any, rows: list[tuple[float, ...]]) -> None:
    """Any valid float64 row gets the trained pipeline's prediction bit for bit in every protocol."""
    expected = bits(pipeline.predict(pd.DataFrame(rows, columns=COLUMNS).to_numpy())).tolist()

    assert {name: bits(answers(everywhere, name, rows)).tolist() for name in PROTOCOLS} == dict.fromkeys(
        PROTOCOLS, expected
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_rejected_rows_count_once(store: Path, log_lines: list[dict[str, Any]], protocol: str) -> None:
    """Rows that do not fit are reported by row, feature and reason, counted once for each reason, and logged."""
    client = everywhere_client(store, log_lines.extend)
    message = refused(send(client, protocol, BAD_ROWS), PROTOCOLS[protocol].unfit, protocol)
    lines = [{key: line[key] for key in ("status", "model", "version", "rows")} for line in log_lines]
    found = series(client.get("/metrics").text)

    assert message.startswith("4 problems")
    assert "row 1, column 'RM': not a number" in message
    if protocol != "native":  # which has the others in its details
        for text in (
            "row 1, column 'TAX': missing",
            "row 2, column 'RM': missing",
            "row 2, column 'LSTAT': out of range",
        ):
            assert text in message
    assert lines == [{"status": PROTOCOLS[protocol].unfit, "model": "boston-housing", "version": 1, "rows": None}]
    rejected = by_label(found, "tabserve_rejected_rows_total", "reason", "feature")
    assert {key: count for key, count in rejected.items() if count} == {
        ("not a number", "RM"): 1,
        ("missing", "RM"): 1,
        ("missing", "TAX"): 1,
        ("out of range", "LSTAT"): 1,
    }
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="failure") == 1
    assert value(found, "tabserve_rows_total", **MODEL) == 0
    assert value(found, "tabserve_engine_duration_seconds_count", **MODEL) == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_many_problems(everywhere: FlaskClient, protocol: str) -> None:
    """Of very many problems the reply has the first thousand, and their number."""
    message = refused(send(everywhere, protocol, [[None] * 6] * 500), PROTOCOLS[protocol].unfit, protocol)

    assert message.startswith("3000 problems")
    if protocol != "native":
        assert message.count("missing") == 1000
        assert message.endswith("; and 2000 more")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_number_of_rows(store: Path, protocol: str) -> None:
    """The allowed number of rows is answered, one more is 413, and a request without rows is one that does not fit."""
    client = everywhere_client(store, lambda lines: None, max_rows=3)

    assert len(answers(client, protocol, [ROW] * 3)) == 3
    assert refused(send(client, protocol, [ROW] * 4), 413, protocol) == "more than 3 rows"
    assert "no rows" in refused(send(client, protocol, []), PROTOCOLS[protocol].unfit, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_overloaded(store: Path, protocol: str) -> None:
    """A worker with too many requests in flight answers predictions with 503 and Retry-After."""
    client = everywhere_client(store, lambda lines: None, max_in_flight=2)
    service = cast(Service, client.application)
    service.server.in_flight = lambda: 3
    reply = send(client, protocol, [ROW])

    assert "more than 2 requests" in refused(reply, 503, protocol)
    assert reply.headers["Retry-After"] == "1"
    service.server.in_flight = lambda: 2
    assert len(answers(client, protocol, [ROW])) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_model(store: Path, protocol: str) -> None:
    """If a configured model is not loaded, its predictions are 503 with Retry-After."""
    client = everywhere_client(store, lambda lines: None, models=("boston-housing@7",))
    reply = send(client, protocol, [ROW])

    refused(reply, 503, protocol)
    assert reply.headers["Retry-After"] == "1"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_draining(store: Path, protocol: str) -> None:
    """A stopping server still answers predictions."""
    client = everywhere_client(store, lambda lines: None)
    cast(Service, client.application).serving.draining = True

    assert len(answers(client, protocol, [ROW])) == 1


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_failure_reveals_nothing_internal(store: Path, log_lines: list[dict[str, Any]], protocol: str) -> None:
    """A defect is a 500 in the protocol's format, which reveals no internals."""

    class Broken:
        def predict(self, X: Matrix) -> Matrix:
            raise ZeroDivisionError(f"secret {X.tolist()}")

    client = everywhere_client(store, log_lines.extend)
    service = cast(Service, client.application)
    model = service.serving.loaded.models["boston-housing"]
    service.swap(service.serving.loaded.with_model(replace(model, engine=cast(Any, Broken()))))
    message = refused(send(client, protocol, [ROW]), 500, protocol)

    assert message == "internal error; find it in the log by this request's id"
    assert [line["status"] for line in log_lines] == [500]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b"hello",
        b"1",
        b"null",
        b"true",
        b'"x"',
        b'{"x": "\xff"}',
        b"[" * 10_000,
        b"{}}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_body_that_is_not_a_request(everywhere: FlaskClient, protocol: str, body: bytes) -> None:
    """A body that is not JSON, or JSON that is not a request, is 400."""
    refused(everywhere.post(PROTOCOLS[protocol].path, data=body, content_type="application/json"), 400, protocol)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if "boston" in PROTOCOLS[name].path])
@pytest.mark.parametrize("name", ["titanic", "boston", "boston-housing2", "BOSTON-HOUSING", "..", "%2e%2e", "é", "%ff"])
def test_unknown_model(everywhere: FlaskClient, protocol: str, name: str) -> None:
    """An unknown model is 404, and the message lists the loaded models."""
    path = PROTOCOLS[protocol].path.replace("boston-housing", name)
    body = json.dumps(PROTOCOLS[protocol].write([ROW]))
    reply = everywhere.post(path, data=body, content_type="application/json")

    assert "loaded models: boston-housing" in refused(reply, 404, protocol)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_only_posts(everywhere: FlaskClient, protocol: str) -> None:
    """Predictions need POST: another method is 405, and Allow lists POST."""
    reply = everywhere.put(PROTOCOLS[protocol].path, json=PROTOCOLS[protocol].write([ROW]))

    assert reply.status_code == 405
    assert "POST" in reply.headers["Allow"]
