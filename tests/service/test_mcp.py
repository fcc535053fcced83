"""Owns the Model Context Protocol: its revisions, its tools and cards, and that calls are predictions like others."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from werkzeug.test import TestResponse

from app import create_app
from app.config import Config
from app.factory import Service
from app.protocols import mcp
from tests.support import classifiers, gems
from tests.support.metrics import MODEL, series, value
from tests.support.service import ANSWER, HOUSE, everywhere_client, rewrite, strict_json

NAME = "boston-housing"
META = {
    "io.modelcontextprotocol/protocolVersion": mcp.STATELESS,
    "io.modelcontextprotocol/clientCapabilities": {},
}
ORIGIN = "https://agents.example"


@pytest.fixture
def agents(store: Path, log_lines: list[dict[str, Any]]) -> FlaskClient:
    """A client of a service that answers agents."""
    return everywhere_client(store, log_lines.extend, mcp=True, cors_origins=(ORIGIN,))


@pytest.fixture(scope="module")
def shared(store: Path) -> FlaskClient:
    """The same for tests that count nothing."""
    return everywhere_client(store, lambda lines: None, mcp=True)


def message(method: str, *, id: Any = 1, **params: Any) -> dict[str, Any]:
    """Return a request of JSON-RPC."""
    return {"jsonrpc": "2.0", "id": id, "method": method, "params": params}


def post(client: FlaskClient, body: Any, **headers: str) -> TestResponse:
    """Send a body; underscores in the names of headers are dashes."""
    sent = json.dumps(body)
    return client.post(
        "/mcp",
        data=sent,
        content_type="application/json",
        headers={name.replace("_", "-"): text for name, text in headers.items()},
    )


def ask(client: FlaskClient, method: str, **params: Any) -> Any:
    """Return the result of a request."""
    reply = post(client, message(method, **params))
    assert reply.status_code == 200, reply.text
    body = strict_json(reply)
    assert (body["jsonrpc"], body["id"]) == ("2.0", 1)
    return body["result"]


def call(client: FlaskClient, rows: Any, *, name: str = NAME, **more: Any) -> Any:
    """Return the result of a call of a tool."""
    return ask(client, "tools/call", name=name, arguments={"rows": rows, **more})


def failure(reply: TestResponse, status: int) -> tuple[int, str]:
    """Return code and message of an error of the protocol."""
    assert reply.status_code == status, reply.text
    error = strict_json(reply)["error"]
    return error["code"], error["message"]


def stateless(method: str, **params: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a request of the revision without a handshake, and its headers."""
    headers = {"MCP_Protocol_Version": mcp.STATELESS, "Mcp_Method": method}
    if name := params.get("name", params.get("uri")):
        headers["Mcp_Name"] = name
    return message(method, _meta=META, **params), headers


def test_off_by_default(client: FlaskClient) -> None:
    """Without the setting there is no such path."""
    assert post(client, message("ping")).status_code == 404


def test_no_stream(shared: FlaskClient) -> None:
    """GET and DELETE, which ask for a stream and end a session, are 405."""
    assert [shared.get("/mcp").status_code, shared.delete("/mcp").status_code] == [405, 405]


@pytest.mark.parametrize("revision", mcp.WITH_HANDSHAKE)
def test_handshake(shared: FlaskClient, revision: str) -> None:
    """A client gets the revision that it asks for, and its notification 202 without a body."""
    found = ask(shared, "initialize", protocolVersion=revision, capabilities={}, clientInfo={"name": "a"})
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    reply = post(shared, done, MCP_Protocol_Version=revision)

    assert (found["protocolVersion"], found["serverInfo"]["name"]) == (revision, "tabserve")
    assert (reply.status_code, reply.data) == (202, b"")
    assert ask(shared, "ping") == {}


@pytest.mark.parametrize("revision", ["2024-11-05", "2099-01-01", mcp.STATELESS, None, 1])
def test_handshake_with_another_revision(shared: FlaskClient, revision: Any) -> None:
    """A client that asks for any other revision is offered the newest one that has a handshake."""
    assert ask(shared, "initialize", protocolVersion=revision)["protocolVersion"] == "2025-11-25"


def test_unknown_revision_in_the_header(shared: FlaskClient) -> None:
    """A header with an unknown revision is 400, with the known ones."""
    reply = post(shared, message("ping"), MCP_Protocol_Version="2099-01-01")

    assert failure(reply, 400)[0] == mcp.UNSUPPORTED_REVISION
    assert reply.get_json()["error"]["data"] == {"supported": list(mcp.REVISIONS), "requested": "2099-01-01"}


def test_answer(agents: FlaskClient, log_lines: list[dict[str, Any]]) -> None:
    """A call gets the bits of any other request, with unit, version and interval, and is counted and logged as one."""
    result = call(agents, [HOUSE, HOUSE])
    structured = result["structuredContent"]
    (tool,) = ask(agents, "tools/list")["tools"]
    line = log_lines[0]
    found = series(agents.get("/metrics").text)

    assert [row["prediction"] for row in structured["predictions"]] == [ANSWER, ANSWER]
    assert [row["warnings"] for row in structured["predictions"]] == [[], []]
    about = {"target": "MEDV", "unit": "1,000 USD", "model": NAME, "version": 1}
    assert {key: structured[key] for key in about} == about
    interval = structured["predictions"][0]["interval"]
    assert interval["level"] == 0.9
    assert interval["lower"] < ANSWER < interval["upper"]
    assert not result["isError"]
    assert json.loads(result["content"][0]["text"]) == structured
    Draft202012Validator(tool["outputSchema"]).validate(structured)
    assert (line["route"], line["model"], line["rows"]) == ("/mcp", NAME, 2)
    assert line["request_id"] == structured["request_id"]
    assert value(found, "tabserve_rows_total", **MODEL) == 2
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="success") == 1
    bins = {"feature": "CHAS", "bin": "01"}
    assert value(found, "tabserve_feature_bin_total", **MODEL, **bins) == 2


def test_tools_describe_their_rows(shared: FlaskClient) -> None:
    """A tool has the name of its model, says what it predicts, and its schema takes a row that works and no other."""
    (tool,) = ask(shared, "tools/list")["tools"]
    check = Draft202012Validator(tool["inputSchema"]).is_valid
    described = shared.get("/openapi.json").get_json()["components"]["schemas"][f"{NAME}.row"]

    assert tool["name"] == NAME
    assert "MEDV, median value of owner-occupied homes, capped at 50 (1,000 USD)" in tool["description"]
    assert tool["inputSchema"]["properties"]["rows"]["items"] == described
    assert [check({"rows": rows}) for rows in ([HOUSE], [], [{**HOUSE, "RM": "x"}], HOUSE)] == [
        True,
        False,
        False,
        False,
    ]


def test_interval_of_another_level(shared: FlaskClient) -> None:
    """A call may name a level, and is refused one that the model does not keep."""
    (row,) = call(shared, [HOUSE], interval=0.5)["structuredContent"]["predictions"]

    assert row["interval"]["level"] == 0.5
    assert call(shared, [HOUSE], interval=2)["isError"]


def test_refused_values_say_why(agents: FlaskClient) -> None:
    """Rows that do not fit are an error that names each feature and why, counted as a failure; the next call works."""
    result = call(agents, [HOUSE, {**HOUSE, "RM": "six", "TAX": None}])
    text = result["content"][0]["text"]
    found = series(agents.get("/metrics").text)

    assert result["isError"]
    assert "structuredContent" not in result
    assert "row 1, column 'RM': not a number; row 1, column 'TAX': missing" in text
    assert value(found, "tabserve_rejected_rows_total", **MODEL, reason="missing", feature="TAX") == 1
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="failure") == 1
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="success") == 0
    assert not call(agents, [HOUSE])["isError"]


def test_contributions(shared: FlaskClient) -> None:
    """An answer says what each feature contributed, which adds up to the prediction, unless the call wants none."""
    structured = call(shared, [HOUSE])["structuredContent"]
    explanation = structured["predictions"][0]["explanation"]
    total = explanation["base"]
    for number in (*explanation["contributions"].values(), explanation["residual"]):
        total += number
    without = call(shared, [HOUSE], explain=False)["structuredContent"]

    assert structured["explained"] == "prediction"
    assert list(explanation["contributions"]) == list(HOUSE)
    assert total == explanation["value"] == ANSWER
    assert "explained" not in without
    assert "explanation" not in without["predictions"][0]
    assert call(shared, [HOUSE], explain="yes")["isError"]


def test_model_that_offers_no_contributions(store: Path, tmp_path: Path) -> None:
    """A version without explanations answers without them, and refuses a call that wants them, with the reason."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    rewrite(own / NAME / "1", lambda manifest: manifest.pop("explanations"))
    client = everywhere_client(own, lambda lines: None, mcp=True, models=(f"{NAME}@1",))
    (tool,) = ask(client, "tools/list")["tools"]

    assert "explain" not in tool["inputSchema"]["properties"]
    assert "explanation" not in call(client, [HOUSE])["structuredContent"]["predictions"][0]
    assert "not offered" in call(client, [HOUSE], explain=True)["content"][0]["text"]


def test_more_rows_than_are_explained_at_once(store: Path, tmp_path: Path) -> None:
    """A call of more rows than a model explains at once is answered without contributions, unless it wants them."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    rewrite(own / NAME / "1", lambda manifest: manifest["explanations"].update(max_rows={"path_dependent": 2}))
    client = everywhere_client(own, lambda lines: None, mcp=True, models=(f"{NAME}@1",))

    found = [call(client, [HOUSE] * n_rows)["structuredContent"]["predictions"][0] for n_rows in (2, 3)]
    assert ["explanation" in row for row in found] == [True, False]
    assert "send at most 2" in call(client, [HOUSE] * 3, explain=True)["content"][0]["text"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "rows, a list of objects"),
        ([HOUSE], "rows, a list of objects"),
        ({"rows": HOUSE}, "rows, a list of objects"),
        ({"rows": [HOUSE], "RM": 6}, "'RM' is not an argument"),
        ({"rows": []}, "no rows"),
        ({"rows": [[1, 2]]}, "not an object"),
        ({"rows": [HOUSE] * 21}, "more than 20 rows"),
    ],
)
def test_refused_arguments(store: Path, arguments: Any, reason: str) -> None:
    """Arguments of another form, and too many rows, are refused with the reason."""
    client = everywhere_client(store, lambda lines: None, mcp=True, max_rows=20)
    result = ask(client, "tools/call", name=NAME, arguments=arguments)

    assert result["isError"]
    assert reason in result["content"][0]["text"]


def test_warnings(gems_store: Path) -> None:
    """A row that is unlike the training has a warning for each feature that is missing, unseen or out of range."""
    client = everywhere_client(gems_store, lambda lines: None, mcp=True)
    strange = {**gems.GEM, "carat": 99.5, gems.DEPTH: None, "color": "Z", "origin": "Mars"}
    rows = call(client, [gems.GEM, strange], name=gems.NAME)["structuredContent"]["predictions"]

    assert rows[0]["warnings"] == []
    assert [text.partition(":")[0] for text in rows[1]["warnings"]] == [
        "carat is 99.5, outside of what training had",
        f"{gems.DEPTH} is missing",
        "color is a category that training did not have",
        "origin is missing, or a category that training did not have",
    ]


@pytest.mark.parametrize("name", classifiers.LABELS)
def test_labels(classifiers_store: Path, name: str) -> None:
    """A classifier answers a label of its own type, with the probabilities unless there are many classes."""
    client = everywhere_client(classifiers_store, lambda lines: None, mcp=True, models=(name,))
    structured = call(client, [classifiers.ROW], name=name)["structuredContent"]
    (row,) = structured["predictions"]
    (tool,) = ask(client, "tools/list")["tools"]

    assert row["prediction"] in classifiers.LABELS[name]
    assert type(row["prediction"]) is type(classifiers.LABELS[name][0])
    assert ("probabilities" in row) is (name != "many")
    assert "interval" not in row
    Draft202012Validator(tool["outputSchema"]).validate(structured)


def test_card(shared: FlaskClient) -> None:
    """Each model's card is a resource: the Markdown that /models/NAME/card has."""
    (resource,) = ask(shared, "resources/list")["resources"]
    (content,) = ask(shared, "resources/read", uri=resource["uri"])["contents"]

    assert content == {
        "uri": resource["uri"],
        "mimeType": "text/markdown",
        "text": shared.get(f"/models/{NAME}/card", headers={"Accept": "text/markdown"}).text,
    }
    assert ask(shared, "resources/templates/list") == {"resourceTemplates": []}
    assert failure(post(shared, message("resources/read", uri="tabserve://models/x/card")), 200)[0] == -32602


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("tools/call", {"name": "nothing"}, -32602),
        ("tools/call", {"name": ""}, -32602),
        ("tools/call", {"name": [1]}, -32602),
        ("tools/call", {}, -32602),
        ("tools/list", {"cursor": "2"}, -32602),
        ("prompts/list", {}, -32601),
        ("server/discover", {}, -32601),
        ("", {}, -32601),
    ],
)
def test_errors_of_the_protocol(shared: FlaskClient, method: str, params: Any, code: int) -> None:
    """An unknown tool, page or method is an error of JSON-RPC with the request's id."""
    reply = post(shared, message(method, id="é", **params))

    assert failure(reply, 200)[0] == code
    assert reply.get_json()["id"] == "é"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"[" * 200, -32700),
        (b"1", -32600),
        (b"{}", -32600),
        (b'{"jsonrpc": "1.0", "id": 1, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": 1}', -32600),
        (b'{"jsonrpc": "2.0", "id": null, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": NaN, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": true, "method": "ping"}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1, "method": "ping", "params": []}', -32600),
        (b'{"jsonrpc": "2.0", "id": 1}', -32600),
        (b"[]", -32600),
    ],
)
def test_malformed_messages(shared: FlaskClient, body: bytes, code: int) -> None:
    """What is no message is 400, with the code that JSON-RPC has for it."""
    assert failure(shared.post("/mcp", data=body, content_type="application/json"), 400)[0] == code


def test_limits(store: Path) -> None:
    """Bodies that are too long, of another type or compressed too well are refused, as those of predictions."""
    client = everywhere_client(store, lambda lines: None, mcp=True, max_body_bytes=100)
    long = client.post("/mcp", data=b"[" + b" " * 200, content_type="application/json")

    assert failure(long, 413)[0] == -32600
    assert failure(client.post("/mcp", data=b"{}", content_type="text/plain"), 415)[0] == -32600


def test_overload(agents: FlaskClient) -> None:
    """A call beyond the number of requests in flight is 503, and counted as overload."""
    cast(Service, agents.application).server.in_flight = lambda: 513
    reply = post(agents, message("tools/call", name=NAME, arguments={"rows": [HOUSE]}))
    found = series(agents.get("/metrics").text)

    assert failure(reply, 503)[0] == -32603
    assert reply.headers["Retry-After"] == "1"
    assert value(found, "tabserve_overload_rejections_total") == 1


def test_model_that_is_not_loaded(tmp_path: Path) -> None:
    """A configured model that could not be loaded is 503, and no tool."""
    client = everywhere_client(tmp_path, lambda lines: None, mcp=True, models=(NAME,))

    assert ask(client, "tools/list") == {"tools": []}
    assert failure(post(client, message("tools/call", name=NAME, arguments={"rows": [HOUSE]})), 503)[0] == -32603


@pytest.mark.parametrize("origin", ["http://localhost", "null", "https://agents.example.evil", ""])
def test_pages_of_other_origins(agents: FlaskClient, origin: str) -> None:
    """A browser's page is refused unless its origin is allowed, whatever the host: its name may point here by now."""
    assert failure(post(agents, message("ping"), Origin=origin), 403)[0] == -32600


def test_pages_of_allowed_origins(agents: FlaskClient) -> None:
    """The page of an allowed origin may send the protocol's headers, and read replies."""
    before = agents.options("/mcp", headers={"Origin": ORIGIN})
    reply = post(agents, message("ping"), Origin=ORIGIN)

    assert "MCP-Protocol-Version, Mcp-Method, Mcp-Name" in before.headers["Access-Control-Allow-Headers"]
    assert (reply.status_code, reply.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)


def test_batch(agents: FlaskClient, log_lines: list[dict[str, Any]]) -> None:
    """The messages of a batch are answered in order, notifications not; each call is counted and logged as its own."""
    arguments = {"name": NAME, "arguments": {"rows": [HOUSE]}}
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    wrong = message("tools/call", id=5, name=NAME, arguments={"rows": [{}]})
    batch = [message("tools/call", id=1, **arguments), done, message("ping", id=2), {"id": 3}]
    reply = post(agents, [*batch, message("initialize", id=4), wrong, message("tools/call", id=6, **arguments)])
    answers = strict_json(reply)
    ids = {answers[place]["result"]["structuredContent"]["request_id"] for place in (0, 5)}
    found = series(agents.get("/metrics").text)

    assert reply.status_code == 200
    assert [answer["id"] for answer in answers] == [1, 2, 3, 4, 5, 6]
    assert [answers[place]["error"]["code"] for place in (2, 3)] == [-32600, -32600]
    assert answers[4]["result"]["isError"]
    assert {line["request_id"] for line in log_lines if line.get("rows")} == ids
    assert len(ids) == 2
    assert value(found, "tabserve_rows_total", **MODEL) == 2
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="failure") == 1


def test_failures_in_a_batch(agents: FlaskClient) -> None:
    """Calls of a batch that fail are errors within it, and each counts as a failure."""
    cast(Service, agents.application).server.in_flight = lambda: 600
    calls = [message("tools/call", id=each, name=NAME, arguments={"rows": [HOUSE]}) for each in (1, 2)]
    answers = strict_json(post(agents, calls))
    found = series(agents.get("/metrics").text)

    assert [answer["error"]["code"] for answer in answers] == [-32603, -32603]
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="failure") == 2
    assert value(found, "tabserve_inference_duration_seconds_count", **MODEL, outcome="success") == 0


def test_batches_of_one_revision(shared: FlaskClient) -> None:
    """Later revisions have no batches, a batch of notifications gets 202, and one of too many messages is refused."""
    ping = message("ping")
    done = {"jsonrpc": "2.0", "method": "notifications/initialized"}

    assert failure(post(shared, [ping], MCP_Protocol_Version="2025-06-18"), 400)[0] == -32600
    assert post(shared, [ping], MCP_Protocol_Version="2025-03-26").status_code == 200
    assert post(shared, [done, done]).status_code == 202
    assert failure(post(shared, [ping] * 101), 400)[0] == -32600


def test_without_a_handshake(shared: FlaskClient) -> None:
    """A client of the newest revision discovers the server, lists and calls; each result says how it is to be read."""
    results = {}
    for method, params in [
        ("server/discover", {}),
        ("tools/list", {}),
        ("resources/list", {}),
        ("tools/call", {"name": NAME, "arguments": {"rows": [HOUSE]}}),
    ]:
        body, headers = stateless(method, **params)
        reply = post(shared, body, **headers)
        assert reply.status_code == 200, reply.text
        results[method] = reply.get_json()["result"]

    assert {result["resultType"] for result in results.values()} == {"complete"}
    assert mcp.STATELESS in results["server/discover"]["supportedVersions"]
    assert (results["tools/list"]["ttlMs"], results["tools/list"]["cacheScope"]) == (10_000, "private")
    assert results["tools/call"]["structuredContent"]["predictions"][0]["prediction"] == ANSWER


def test_name_in_base64(shared: FlaskClient) -> None:
    """The header that repeats a name may be in base64; malformed base64 is a mismatch."""
    body, headers = stateless("tools/call", name=NAME, arguments={"rows": [HOUSE]})
    encoded = f"=?base64?{base64.b64encode(NAME.encode()).decode()}?="

    assert post(shared, body, **{**headers, "Mcp_Name": encoded}).status_code == 200
    for wrong in ("=?base64?!?=", "=?base64?/w==?=", "other"):
        assert failure(post(shared, body, **{**headers, "Mcp_Name": wrong}), 400)[0] == mcp.HEADER_MISMATCH


@pytest.mark.parametrize(
    ("method", "params", "headers", "status", "code"),
    [
        ("ping", {}, {}, 404, -32601),
        ("initialize", {}, {}, 404, -32601),
        ("resources/read", {"uri": "x"}, {}, 400, -32602),
        ("tools/call", {"name": "nothing"}, {}, 400, -32602),
        ("tools/list", {}, {"Mcp_Method": "tools/call"}, 400, -32020),
        ("tools/list", {}, {"MCP_Protocol_Version": "2025-06-18"}, 400, -32020),
        ("tools/list", {"_meta": {}}, {}, 400, -32602),
        ("tools/list", {"_meta": 1}, {}, 400, -32602),
        (
            "tools/list",
            {"_meta": {**META, "io.modelcontextprotocol/protocolVersion": "2099-01-01"}},
            {"MCP_Protocol_Version": "2099-01-01"},
            400,
            -32022,
        ),
    ],
)
def test_errors_without_a_handshake(
    shared: FlaskClient, method: str, params: Any, headers: dict[str, str], status: int, code: int
) -> None:
    """The newest revision has a status for each error: 404 for an unknown method, 400 for what else is wrong."""
    meta = params.pop("_meta", META)
    body, sent = stateless(method, **params)
    body["params"]["_meta"] = meta

    assert failure(post(shared, body, **{**sent, **headers}), status)[0] == code


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
METHODS = ("initialize", "ping", "tools/list", "tools/call", "resources/list", "resources/read", "server/discover")
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | VALUES,
        "id": VALUES,
        "method": st.sampled_from(METHODS) | VALUES,
        "params": st.fixed_dictionaries(
            {},
            optional={
                "name": st.just(NAME) | VALUES,
                "uri": VALUES,
                "cursor": VALUES,
                "protocolVersion": VALUES,
                "_meta": st.just(META) | VALUES,
                "arguments": st.fixed_dictionaries({"rows": st.just([HOUSE]) | VALUES}) | VALUES,
            },
        )
        | VALUES,
        "result": VALUES,
        "error": VALUES,
    },
)


@settings(max_examples=300, deadline=None)
@given(body=MESSAGES | st.lists(MESSAGES, max_size=3) | VALUES, revision=st.none() | st.sampled_from(mcp.REVISIONS))
def test_any_json_is_answered(shared: FlaskClient, body: Any, revision: str | None) -> None:
    """Any JSON gets a reply of the protocol: a result, an error of the request's, or 202 without a body."""
    reply = post(shared, body, **({"MCP_Protocol_Version": revision} if revision else {}))

    assert reply.status_code in (200, 202, 400, 404), reply.text
    if reply.status_code == 202:
        assert reply.data == b""
        return
    found = strict_json(reply)
    for answer in found if isinstance(found, list) else [found]:
        assert answer["jsonrpc"] == "2.0"
        assert ("result" in answer) != ("error" in answer)
        assert "error" not in answer or answer["error"]["code"] in range(-32768, -31999)


def test_the_document_describes_it(store: Path) -> None:
    """The OpenAPI document has the path, and the example in it is answered."""
    client = create_app(Config(store=store, mcp=True, prediction_log=""), write_log=lambda pieces: None).test_client()
    operation = client.get("/openapi.json").get_json()["paths"]["/mcp"]["post"]
    example = operation["requestBody"]["content"]["application/json"]["example"]

    assert "tools" in post(client, example).get_json()["result"]
