"""Owns who is let in: which key each route needs, what a request without it is told, and how many are answered."""

from __future__ import annotations

import base64
import hmac
import json
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jwt
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from app.factory import Service, read_keys
from app.protocols.access import ANY_KEY, OPEN, SCOPES
from app.web.keys import Keys
from app.web.limits import Buckets
from model import KeyFileError
from model.keys import revoke_keys
from tests.support.classifiers import LABELS, ROW
from tests.support.keys import AUDIENCE, ISSUER, PRIVATE, bearer, make_key, token, write_jwks
from tests.support.metrics import series, value
from tests.support.service import HOUSE, PROTOCOLS, parsing

MODEL, OTHER = "mine", "grade"
DEFAULT = sorted(LABELS)[0]
NEEDS_ANY_KEY = {
    *("/models", "/v1/models", "/v2", "/v2/models", "/v2/repository/index", "/version", "/execution-parameters"),
    *("/openapi.json", "/feedback", "/mcp"),
}
IS_OPEN = {
    *("/livez", "/readyz", "/v2/health/live", "/v2/health/ready", "/ping", "/health", "/vertex/health"),
    *("/v2/models/<name>/ready", "/v2/models/<name>/versions/<version>/ready"),
    *("/v1/models/<name>", "/v1/models/<name>/versions/<version>", "/", "/static/<file>"),
    *("/docs/", "/docs/<path:path>"),
}
OF_DEFAULT = {"/predict", "/invocations", "/vertex/predict"}

Route = tuple[str, str, str]
"""Rule, method and path of a request."""


class Guarded:
    """A service of several models with a key for each kind of caller."""

    def __init__(self, store: Path, folder: Path) -> None:
        self._n_sent = 0
        self.file = folder / "keys.jsonl"
        self.of_model = make_key(self.file, "of-model", f"predict:{MODEL}")
        self.of_other = make_key(self.file, "of-other", f"predict:{OTHER}")
        self.of_default = make_key(self.file, "of-default", f"predict:{DEFAULT}")
        self.of_all = make_key(self.file, "of-all", "predict:*")
        self.feedback = make_key(self.file, "feedback", "feedback")
        self.metrics = make_key(self.file, "metrics", "metrics")
        self.admin = make_key(self.file, "admin", "admin")
        self.expired = make_key(self.file, "expired", "admin", days=-1)
        self.revoked = make_key(self.file, "revoked", "admin")
        self.config = Config(
            store=store,
            prediction_log="",
            keys=self.file,
            mcp=True,
            aip_health_route="/vertex/health",
            aip_predict_route="/vertex/predict",
            cors_origins=("https://example.org",),
        )
        self.lines: list[dict[str, Any]] = []
        keys = read_keys(self.config)
        assert keys
        self.app = create_app(self.config, write_log=parsing(self.lines.extend), keys=keys)
        revoke_keys(self.file, "revoked")
        keys.read_again()
        self.client = self.app.test_client()

    def status(self, method: str, path: str, key: str = "", **sent: Any) -> int:
        """Return the status of a request with a key, from an address of its own: wrong keys of an address are few."""
        self._n_sent += 1
        address = f"10.{self._n_sent >> 16}.{self._n_sent >> 8 & 255}.{self._n_sent & 255}"
        headers = bearer(key) if key else {}
        overrides = {"REMOTE_ADDR": address}
        with self.client.open(path, method=method, headers=headers, environ_overrides=overrides, **sent) as reply:
            return reply.status_code

    def routes(self) -> Iterator[Route]:
        """Yield every rule of Flask with each of its methods and a path."""
        values = {"name": MODEL, "version": "1", "path": "index.css", "file": "page.css"}
        for rule in self.app.url_map.iter_rules():
            built = rule.build({name: values[name] for name in rule.arguments})
            assert built
            for method in sorted(rule.methods or ()):
                yield rule.rule, method, built[1]


@pytest.fixture(scope="module")
def guarded(classifiers_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Guarded:
    """A service that asks for keys. Tests share it: they must not change it."""
    return Guarded(classifiers_store, tmp_path_factory.mktemp("guarded"))


@pytest.fixture
def own(store: Path, tmp_path: Path) -> tuple[FlaskClient, Path, Config]:
    """A client of a service of its own that asks for keys, the file of keys, and the settings."""
    file, jwks = tmp_path / "keys.jsonl", tmp_path / "jwks.json"
    file.write_text("")
    write_jwks(jwks)
    config = Config(
        store=store, prediction_log="", keys=file, jwks=jwks, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, key_rate=0
    )
    return create_app(config, write_log=lambda pieces: None).test_client(), file, config


def client_of(config: Config) -> FlaskClient:
    """Return a client of a service that logs nothing."""
    return create_app(config, write_log=lambda pieces: None).test_client()


def both_ways(path: str) -> Iterable[str]:
    """Return a path as it is, by which known paths are answered before Flask, and with a slash, by which Flask is."""
    return (path,) if path.endswith("/") or "/docs/" in path else (path, f"{path}/")


def test_every_route_is_in_a_list_or_names_a_model(guarded: Guarded) -> None:
    """No route needs `admin` because somebody forgot it, and the lists name no route that is not there."""
    rules = {rule.rule: rule for rule in guarded.app.url_map.iter_rules()}
    listed = OPEN | ANY_KEY | SCOPES.keys()

    assert listed - rules.keys() == set()
    assert {name for name in rules if "<name>" not in name} - listed == {*OF_DEFAULT, *(IS_OPEN - OPEN)} - {
        name for name in IS_OPEN if "<name>" in name
    }


@pytest.mark.parametrize("how", ["missing", "wrong", "expired", "revoked"])
def test_no_route_but_the_open_ones_answers_without_a_key(guarded: Guarded, how: str) -> None:
    """Every route of Flask, by every method, refuses a missing, wrong, expired or revoked key; open ones are listed."""
    key = {"wrong": "tabserve_wrong", "expired": guarded.expired, "revoked": guarded.revoked}.get(how, "")
    found = set()
    for rule, method, path in guarded.routes():
        for each in both_ways(path):
            status = guarded.status(method, each, key)
            if status != 401:
                found.add(rule)
                assert status in (200, 308), (method, each)
    assert found == IS_OPEN


@pytest.mark.parametrize("key", ["", "tabserve_wrong"])
def test_no_path_of_the_document_is_forgotten(guarded: Guarded, key: str) -> None:
    """Every path of the OpenAPI document refuses a missing or wrong key, if the document says that it needs one."""
    document = guarded.client.get("/openapi.json", headers=bearer(guarded.admin)).json
    assert document
    checked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            status = guarded.status(method.upper(), path, key)
            assert (status == 401) is ("security" in operation), (method, path)
            assert ("401" in operation["responses"]) is ("security" in operation)
            checked += 1
    assert checked > 100


def test_key_of_every_scope_on_every_route(guarded: Guarded) -> None:
    """A key opens what its scope names and nothing else: a model's key its own model alone."""

    def needed(rule: str) -> str:
        if rule in OF_DEFAULT:
            return f"predict:{DEFAULT}"
        if "<name>" in rule:
            return f"predict:{MODEL}"
        return {"/metrics": "metrics", "/v2/models/stats": "predict:*"}.get(rule, "")

    keys = {
        guarded.of_model: {f"predict:{MODEL}"},
        guarded.of_other: {f"predict:{OTHER}"},
        guarded.of_default: {f"predict:{DEFAULT}"},
        guarded.of_all: {f"predict:{MODEL}", f"predict:{DEFAULT}", "predict:*"},
        guarded.feedback: {"feedback"},
        guarded.metrics: {"metrics"},
        guarded.admin: {f"predict:{MODEL}", f"predict:{DEFAULT}", "predict:*", "metrics"},
    }
    assert len(keys) == 7
    for rule, method, path in guarded.routes():
        for key, scopes in keys.items():
            for each in both_ways(path):
                status = guarded.status(method, each, key)
                is_let_in = rule in IS_OPEN or method == "OPTIONS" or needed(rule) in {"", *scopes}
                assert (status not in (401, 403)) is is_let_in, (method, each, scopes)


@pytest.mark.parametrize(
    "path", ["/nope", "/models//predict", "/v2/models/mine/nope", "//predict", "/PREDICT", "/a" * 99]
)
def test_unknown_path_needs_a_key_too(guarded: Guarded, path: str) -> None:
    """A path that does not exist is 401 without a key, and 404 with any."""
    assert [guarded.status("POST", path), guarded.status("POST", path, guarded.metrics)] == [401, 404]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "BREW"])
def test_wrong_method_needs_a_key_too(guarded: Guarded, method: str) -> None:
    """A method that a path does not have is 401 without a key, and 405 with any."""
    assert [guarded.status(method, "/predict"), guarded.status(method, "/predict", guarded.metrics)] == [401, 405]


def test_agents_see_and_call_the_models_of_their_key(guarded: Guarded) -> None:
    """A key of one model lists its tool and its card alone, and is refused another model's by the scope that lacks."""

    def asked(key: str, method: str, **params: Any) -> Any:
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        reply = guarded.client.post("/mcp", json=message, headers=bearer(key))
        assert reply.status_code == 200
        return reply.json

    def names(key: str) -> tuple[list[str], list[str]]:
        tools = asked(key, "tools/list")["result"]["tools"]
        cards = asked(key, "resources/list")["result"]["resources"]
        return [each["name"] for each in tools], [each["name"] for each in cards]

    every = sorted(LABELS)
    assert names(guarded.of_model) == ([MODEL], [f"{MODEL}-card"])
    assert names(guarded.of_all) == names(guarded.admin) == (every, [f"{name}-card" for name in every])
    assert names(guarded.feedback) == ([], [])
    row = {"carat": 1.98, "depth": 57.6, "pieces": 5}
    assert asked(guarded.of_model, "tools/call", name=MODEL, arguments={"rows": [row]})["result"]["isError"] is False
    refused = asked(guarded.of_model, "tools/call", name=OTHER, arguments={"rows": [row]})["error"]["message"]
    assert refused == f"the key lacks the scope predict:{OTHER}"
    assert "error" in asked(guarded.of_model, "resources/read", uri=f"tabserve://models/{OTHER}/card")
    assert "result" in asked(guarded.of_model, "resources/read", uri=f"tabserve://models/{MODEL}/card")


def test_each_call_of_a_batch_counts_for_its_key(store: Path, tmp_path: Path) -> None:
    """Calls of a batch have the name of the key, and take of its rate; those beyond it are told how long to wait."""
    file, lines = tmp_path / "keys.jsonl", list[dict[str, Any]]()
    shop = make_key(file, "shop", "predict:*", rate=1 / 3600, burst=3)
    ops = make_key(file, "ops", "metrics")
    config = Config(store=store, prediction_log="", keys=file, mcp=True)
    client = create_app(config, write_log=parsing(lines.extend)).test_client()
    params = {"name": "boston-housing", "arguments": {"rows": [HOUSE]}}
    batch = [{"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": params} for number in range(5)]
    unknown = {**batch[0], "id": 5, "params": {"name": "none"}}
    answers = client.post("/mcp", json=[unknown, *batch], headers=bearer(shop)).get_json()

    assert [answer["id"] for answer in answers] == [5, 0, 1, 2, 3, 4]
    assert ["result" in answer for answer in answers] == [False, True, True, True, False, False]
    for answer in answers[4:]:
        assert answer["error"]["code"] == -32600
        assert re.search(r"shop has sent more than .* requests/s; try again in 3[56]\d\d s", answer["error"]["message"])
    assert [(line["key"], line["status"], line.get("refused")) for line in lines] == [
        *[("shop", 429, "rate")] * 2,
        *[("shop", 200, None)] * 3,
    ]
    found = series(client.get("/metrics", headers=bearer(ops)).text)
    assert value(found, "tabserve_key_requests_total", key="shop", status="200") == 3
    assert value(found, "tabserve_key_requests_total", key="shop", status="429") == 2
    assert value(found, "tabserve_refused_requests_total", reason="rate") == 2


def test_unknown_model_is_not_told_apart(guarded: Guarded) -> None:
    """A key of one model gets the same reply for another model and for one that does not exist."""
    replies = [
        guarded.client.post(f"/models/{name}/predict", json=ROW, headers=bearer(guarded.of_model))
        for name in (OTHER, "none")
    ]

    assert [reply.status_code for reply in replies] == [403, 403]
    assert [reply.text.replace(OTHER, "none") for reply in replies] == [replies[1].text] * 2


@pytest.mark.parametrize(
    "path", [f"/%6dodels/{OTHER}/predict", f"/models/{OTHER}/versions/1/predict", f"/models/{OTHER}%20/predict"]
)
def test_spelling_of_a_path_opens_nothing(guarded: Guarded, path: str) -> None:
    """However a path is written, it needs the key of the model that it reaches."""
    assert guarded.status("POST", path, guarded.of_model, json=ROW) == 403


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refusal_is_in_the_words_of_the_protocol(guarded: Guarded, protocol: str) -> None:
    """401 and 403 have each protocol's own form, and the headers of RFC 6750."""
    form = PROTOCOLS[protocol]
    path = form.path.replace("boston-housing", OTHER)
    missing, wrong = (guarded.client.post(path, headers=headers) for headers in ({}, {"X-API-Key": "tabserve_wrong"}))
    lacking = guarded.client.post(path, headers=bearer(guarded.feedback), data=b"{")

    assert [reply.status_code for reply in (missing, wrong, lacking)] == [401, 401, 403]
    for reply in (missing, wrong, lacking):
        assert tuple(reply.get_json()) == form.error
    challenge = 'Bearer realm="tabserve"'
    assert missing.headers["WWW-Authenticate"] == challenge
    assert wrong.headers["WWW-Authenticate"] == f'{challenge}, error="invalid_token"'
    scope = f"predict:{DEFAULT if path in OF_DEFAULT else OTHER}"
    assert lacking.headers["WWW-Authenticate"] == f'{challenge}, error="insufficient_scope", scope="{scope}"'
    assert scope in lacking.get_json()[form.message]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("grade", "grade"),
        ("any[1]~!", "any[1]~!"),
        ("%CE%BB", None),
        ("a%00b", None),
        ("a%0D%0AX-Injected:%201", None),
        ('a",%20error="none', None),
        ("a%5Cb", None),
        ("a%20b", None),
    ],
)
def test_scope_is_in_the_header_where_it_is_plain(guarded: Guarded, name: str, named: str | None) -> None:
    """`WWW-Authenticate` names only scopes that RFC 6749 allows, so no path writes into it; the message names any."""
    reply = guarded.client.get(f"/models/{name}/card", headers=bearer(guarded.of_model))
    challenge = 'Bearer realm="tabserve", error="insufficient_scope"'

    assert reply.status_code == 403
    assert reply.headers["WWW-Authenticate"] == challenge + (f', scope="predict:{named}"' if named else "")
    assert f"lacks the scope predict:{unquote(name)}" in reply.get_json()["error"]


def test_long_name_of_a_path_is_cut_off(guarded: Guarded) -> None:
    """The message of a 403 does not repeat a path of any length."""
    reply = guarded.client.get(f"/models/{'a' * 5_000}/card", headers=bearer(guarded.of_model))

    assert reply.status_code == 403
    assert len(reply.get_json()["error"]) < 500


def test_key_is_checked_before_the_body(guarded: Guarded) -> None:
    """A body that would be refused itself is 401 or 403: too long, malformed, of another type."""
    bodies: list[dict[str, Any]] = [
        {"data": b"x" * (guarded.config.max_body_bytes + 1), "content_type": "application/json"},
        {"data": b"{", "content_type": "application/json"},
        {"data": b"", "content_type": "text/html"},
    ]
    path = f"/models/{MODEL}/predict"

    assert [guarded.status("POST", path, "", **body) for body in bodies] == [401] * 3
    assert [guarded.status("POST", path, guarded.of_other, **body) for body in bodies] == [403] * 3
    assert [guarded.status("POST", path, guarded.of_model, **body) for body in bodies] == [413, 400, 415]


def test_headers_of_a_key(guarded: Guarded) -> None:
    """A key comes as `X-API-Key`, or as `Authorization: Bearer` in any case; the first counts where both are sent."""
    good, bad = guarded.of_model, "tabserve_wrong"
    sent = [
        ({"X-API-Key": good}, 200),
        ({"Authorization": f"bearer {good}"}, 200),
        ({"Authorization": f"Bearer  {good}"}, 200),
        ({"X-API-Key": good, "Authorization": f"Bearer {bad}"}, 200),
        ({"X-API-Key": bad, "Authorization": f"Bearer {good}"}, 401),
        ({"Authorization": good}, 401),
        ({"Authorization": f"Basic {good}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"Bearer {good} {good}"}, 401),
        ({"Authorization": f"Bearer {good[:-1]}"}, 401),
        ({"Authorization": f"Bearer {good.lower()}"}, 401),
    ]
    path = f"/models/{MODEL}/predict"
    for number, (headers, status) in enumerate(sent):
        reply = guarded.client.post(
            path, json=ROW, headers=headers, environ_overrides={"REMOTE_ADDR": f"192.0.2.{number}"}
        )
        assert reply.status_code == status, headers


@given(text=st.text(max_size=60))
def test_any_text_is_no_key(guarded: Guarded, text: str) -> None:
    """Whatever is sent as a key is refused, and nothing of it is repeated."""
    sent = text.encode().decode("latin-1").replace("\r", "").replace("\n", "").strip()
    reply = guarded.client.get(
        "/models", environ_overrides={"HTTP_X_API_KEY": sent, "REMOTE_ADDR": f"203.0.{len(sent)}.{hash(sent) % 256}"}
    )

    assert reply.status_code in (401, 429)
    assert len(sent) < 12 or sent not in reply.text


def test_preflight_of_an_allowed_origin_is_open(guarded: Guarded) -> None:
    """A browser sends no key before it asks; the reply allows both headers, and that of a refusal can be read."""
    origin = {"Origin": "https://example.org"}
    asks = {**origin, "Access-Control-Request-Method": "POST"}
    preflight = guarded.client.options("/predict", headers=asks)

    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Headers"].startswith("Authorization, X-API-Key, ")
    assert guarded.client.options("/predict", headers={**asks, "Origin": "https://other.example"}).status_code == 401
    assert guarded.client.options("/predict", headers=origin).status_code == 401
    assert guarded.client.options("/nope", headers=asks).status_code == 401
    refused = guarded.client.post("/predict", headers=origin)
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "https://example.org")


def test_document_describes_the_models_of_its_key(guarded: Guarded) -> None:
    """`/openapi.json` has the paths, schemas and labels of the models that the key may use, and of no other."""
    document = guarded.client.get("/openapi.json", headers=bearer(guarded.of_model)).json
    assert document
    names = {name.partition(".")[0] for name in document["components"]["schemas"]}

    assert names & set(LABELS) == {MODEL}
    assert "/predict" not in document["paths"]  # of the default model
    assert OTHER not in str(document)
    everything = guarded.client.get("/openapi.json", headers=bearer(guarded.of_all)).json
    assert everything
    assert {name.partition(".")[0] for name in everything["components"]["schemas"]} >= set(LABELS)


def test_name_of_a_key_is_recorded_and_never_the_key(guarded: Guarded) -> None:
    """The log line has the key's name and why a request was refused; metrics count both; neither has a key."""
    guarded.lines.clear()
    client = guarded.client
    before = series(client.get("/metrics", headers=bearer(guarded.admin)).text)
    client.post(f"/models/{MODEL}/predict", json=ROW, headers=bearer(guarded.of_model))
    client.post(f"/models/{OTHER}/predict", json=ROW, headers=bearer(guarded.of_model))
    client.post(f"/models/{OTHER}/predict", json=ROW)
    text = client.get("/metrics", headers=bearer(guarded.admin)).text
    after = series(text)

    lines = [line for line in guarded.lines if line["method"] == "POST"]
    assert [(line["status"], line.get("key"), line.get("refused")) for line in lines] == [
        (200, "of-model", None),
        (403, "of-model", "scope"),
        (401, None, "missing"),
    ]
    assert {line["route"] for line in lines} == {"/models/<name>/predict"}

    def counted(name: str, **labels: str) -> float:
        return value(after, name, **labels) - value(before, name, **labels)

    assert counted("tabserve_key_requests_total", key="of-model", status="200") == 1
    assert counted("tabserve_key_requests_total", key="of-model", status="403") == 1
    assert counted("tabserve_refused_requests_total", reason="scope") == 1
    assert counted("tabserve_refused_requests_total", reason="missing") == 1
    for key in (guarded.of_model, guarded.admin):
        assert key not in text + str(guarded.lines)


def test_refusals_start_at_0(own: tuple[FlaskClient, Path, Config]) -> None:
    """Each reason has a series before the first refusal, so that the first is an increase."""
    _, file, config = own
    key = make_key(file, "ops", "metrics")
    found = series(client_of(config).get("/metrics", headers=bearer(key)).text)

    for reason in ("missing", "unknown", "expired", "scope", "rate", "guesses"):
        assert found["tabserve_refused_requests_total", frozenset({("reason", reason)})] == 0


def test_guesses_are_counted_and_limited(own: tuple[FlaskClient, Path, Config]) -> None:
    """Of 1,000 wrong keys from an address the first 20 are looked at, the rest is 429; a right key is let in."""
    _, file, config = own
    key = make_key(file, "shop", "admin")
    client = client_of(config)
    started = time.monotonic()
    replies = [client.get("/models", headers=bearer(f"tabserve_{number}")) for number in range(1_000)]
    elapsed = time.monotonic() - started
    statuses = [reply.status_code for reply in replies]

    assert statuses[:20] == [401] * 20
    assert statuses.count(401) <= 20 + elapsed / 5 + 1
    assert statuses.count(401) + statuses.count(429) == 1_000
    assert 1 <= int(replies[-1].headers["Retry-After"]) <= 5
    assert client.get("/models", headers=bearer("x"), environ_overrides={"REMOTE_ADDR": "192.0.2.1"}).status_code == 401
    assert client.get("/models").status_code == 401  # without a key is no guess
    found = series(client.get("/metrics", headers=bearer(key)).text)  # let in from the same address
    assert value(found, "tabserve_refused_requests_total", reason="unknown") == statuses.count(401) + 1
    assert value(found, "tabserve_refused_requests_total", reason="guesses") == statuses.count(429)


def test_guesses_are_by_network_and_behind_a_proxy_by_its_client(own: tuple[FlaskClient, Path, Config]) -> None:
    """An IPv6 client has one limit for its network or its IPv4 address; only a trusted proxy says whose a guess is."""
    _, _, config = own
    app: Service = create_app(config, write_log=lambda pieces: None)
    app.server.trusts_proxy = lambda address: address == "10.0.0.1"
    client = app.test_client()

    def status(address: str, forwarded: str = "") -> int:
        headers = {**bearer("wrong"), **({"X-Forwarded-For": forwarded} if forwarded else {})}
        return client.get("/models", headers=headers, environ_overrides={"REMOTE_ADDR": address}).status_code

    assert [status(f"2001:db8::{number:x}") for number in range(25)][-1] == 429
    assert status("2001:db8:0:1::1") == 401
    assert [status(f"::ffff:203.0.113.{number}") for number in range(25)] == [401] * 25
    assert [status("203.0.113.100") for _ in range(25)][-1] == 429
    assert status("::ffff:203.0.113.100") == status("::ffff:cb00:7164") == 429
    assert [status("10.0.0.1", f"{number}, 192.0.2.7") for number in range(25)][-1] == 429
    assert status("10.0.0.1", "192.0.2.7, 192.0.2.8") == 401
    assert [status("192.0.2.9", f"198.51.100.{number}") for number in range(25)][-1] == 429


def test_rate_of_a_key(own: tuple[FlaskClient, Path, Config]) -> None:
    """A key with a rate gets its burst, then 429 with the time to wait; the keys of a name share it."""
    _, file, config = own
    limits: dict[str, Any] = {"rate": 1 / 3600, "burst": 3}
    first, second = (make_key(file, "shop", "predict:*", **limits) for _ in range(2))
    free = make_key(file, "free", "predict:*")
    client = client_of(config)

    replies = [client.post("/predict", json=HOUSE, headers=bearer(key)) for key in (first, second, first, second)]
    assert [reply.status_code for reply in replies] == [200, 200, 200, 429]
    assert 3500 < int(replies[-1].headers["Retry-After"]) <= 3600
    assert replies[-1].get_json()["status"] == 429
    assert "shop has sent more than" in replies[-1].get_json()["error"]
    assert client.post("/v2/models/boston-housing/infer", headers=bearer(first)).get_json().keys() == {"error"}
    assert [client.post("/predict", json=HOUSE, headers=bearer(free)).status_code for _ in range(9)] == [200] * 9


def test_refused_requests_take_nothing_of_the_rate(own: tuple[FlaskClient, Path, Config]) -> None:
    """What a key may not do does not count towards what it may."""
    _, file, config = own
    key = make_key(file, "shop", "predict:boston-housing", rate=1 / 3600, burst=1)
    client = client_of(config)

    assert [client.get("/metrics", headers=bearer(key)).status_code for _ in range(3)] == [403] * 3
    assert client.post("/predict", json=HOUSE, headers=bearer(key)).status_code == 200


def test_default_rate_is_for_keys_and_tokens_without_their_own(store: Path, tmp_path: Path) -> None:
    """`TABSERVE_KEY_RATE` limits each key and each subject of tokens by itself."""
    file, jwks = tmp_path / "keys.jsonl", tmp_path / "jwks.json"
    key = make_key(file, "shop", "predict:*")
    fast = make_key(file, "fast", "predict:*", rate=1_000_000.0)
    write_jwks(jwks)
    config = Config(
        store=store, prediction_log="", keys=file, jwks=jwks, jwt_issuer=ISSUER, jwt_audience=AUDIENCE, key_rate=1
    )
    client = client_of(config)

    def statuses(*keys: str) -> set[int]:
        return {client.get("/models", headers=bearer(each)).status_code for each in keys}

    assert statuses(*[key] * 50) == {200, 429}
    assert statuses(*[fast] * 50) == {200}
    assert statuses(*[token(sub="ann"), token(sub="ann", jti="2")] * 25) == {200, 429}
    assert statuses(token(sub="bob")) == {200}


def test_bucket_fills_with_time() -> None:
    """A bucket of 100 a second and 5 at once gives 5, and one more for each 10 ms that have passed."""
    buckets = Buckets(4)
    started = time.monotonic()
    n_given = 0
    while (elapsed := time.monotonic() - started) < 0.2:
        n_given += not buckets.take(1, rate=100, burst=5)

    assert 5 <= n_given <= 5 + 100 * (time.monotonic() - started) + 1
    assert n_given >= min(5 + 100 * elapsed * 0.5, n_given)
    assert buckets.wait(0, rate=100, burst=1) == 0


@pytest.mark.parametrize("algorithm", PRIVATE)
def test_token_of_the_issuer_is_a_key(own: tuple[FlaskClient, Path, Config], algorithm: str) -> None:
    """A token signed by a key of the JWKS has the scopes of `scope` or `scp`, and its subject's name in the log."""
    _, _, config = own
    lines: list[dict[str, Any]] = []
    client = create_app(config, write_log=parsing(lines.extend)).test_client()
    in_list = token(algorithm, scope=None, scp=["openid", "predict:boston-housing"])
    for each in (token(algorithm), token(algorithm, scope="openid predict:boston-housing x:y"), in_list):
        for _ in range(2):  # verified, then remembered
            assert client.post("/predict", json=HOUSE, headers=bearer(each)).status_code == 200
        assert client.get("/metrics", headers=bearer(each)).status_code == 403
    assert {line["key"] for line in lines} == {"jwt:ann"}
    admin = token(algorithm, scope="admin")
    found = series(client.get("/metrics", headers=bearer(admin)).text)
    assert value(found, "tabserve_key_requests_total", key="jwt", status="200") == 6


def unsigned() -> str:
    """Return a token that says of itself that it needs no signature."""
    return jwt.encode({"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60}, "", "none")


def signed_by_all(path: Path) -> str:
    """Return a token whose signature is an HMAC with the file of public keys, which everyone knows."""
    claims = {"sub": "ann", "iss": ISSUER, "aud": AUDIENCE, "exp": time.time() + 60, "scope": "admin"}
    parts = [json.dumps({"alg": "HS256", "typ": "JWT", "kid": "RS256"}), json.dumps(claims)]
    signed = ".".join(base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)
    signature = hmac.digest(path.read_bytes(), signed.encode(), "sha256")
    return f"{signed}.{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "other"},
        {"aud": None},
        {"sub": None},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 129},
        {"nbf": 2**40},
        {"key_id": "RS256"},
        {"key_id": "none"},
    ],
)
def test_token_that_is_not_for_this_service(own: tuple[FlaskClient, Path, Config], claims: dict[str, Any]) -> None:
    """A token that has expired, is of another issuer or audience, names nobody or another key is refused."""
    client, _, _ = own

    assert client.get("/models", headers=bearer(token())).status_code == 200
    assert client.get("/models", headers=bearer(token(**claims))).status_code == 401


def test_token_with_a_false_signature(own: tuple[FlaskClient, Path, Config]) -> None:
    """No signature, one by the public key as a secret, one of another token, and text with two dots are refused."""
    client, _, config = own
    assert config.jwks
    head, body, _ = token().split(".")
    other = token(sub="bob").split(".")[2]
    for each in (
        unsigned(),
        signed_by_all(config.jwks),
        f"{head}.{body}.{other}",
        f"{head}.{body}.",
        "a.b.c",
    ):
        assert client.get("/models", headers=bearer(each)).status_code == 401


def test_token_may_not_name_its_key(own: tuple[FlaskClient, Path, Config]) -> None:
    """A token whose header names no key is verified by the only key of its algorithm."""
    client, _, _ = own

    assert client.get("/models", headers=bearer(token(key_id=None))).status_code == 200


def test_remembered_token_expires(own: tuple[FlaskClient, Path, Config]) -> None:
    """A token is remembered until it expires, and no longer."""
    _, _, config = own
    keys = read_keys(config)
    assert keys
    text = token(exp=int(time.time()) - 29)  # accepted for the last second of the leeway
    keys.verify(text)
    while caller := keys.find(text):
        assert caller.expires > time.time() - 0.1

    assert keys.find(text) is None


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("", "is no JWKS that can be used"),
        ("[]", "is no JWKS that can be used"),
        ('{"keys": []}', "has no key that can be used"),
        ('{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', "has no key that can be used"),
        ('{"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}', "is no JWKS that can be used"),
        ('{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "d": "AA"}]}', "a private key is in it"),
    ],
)
def test_jwks_that_cannot_be_used(own: tuple[FlaskClient, Path, Config], content: str, fault: str) -> None:
    """A file without a public key for a known algorithm, or with a private or weak one, is refused with the reason."""
    _, _, config = own
    assert config.jwks
    config.jwks.write_text(content)
    with pytest.raises(KeyFileError, match=fault):
        read_keys(config)


def test_broken_file_keeps_the_keys(own: tuple[FlaskClient, Path, Config], caplog: pytest.LogCaptureFixture) -> None:
    """A file that is broken when it is read again is reported with its line, and the keys from before are accepted."""
    _, file, config = own
    key = make_key(file, "shop", "predict:*")
    keys = read_keys(config)
    assert keys
    file.write_text(file.read_text() + "broken\n")
    keys.read_again()

    assert keys.find(key)
    assert "line 2: not JSON" in caplog.text
    file.write_text("")
    keys.read_again()
    assert keys.find(key) is None


def test_keys_overlap_while_one_replaces_another(own: tuple[FlaskClient, Path, Config]) -> None:
    """Two keys of a name are accepted until the old one is revoked; the name's bucket stays the same."""
    _, file, config = own
    old = make_key(file, "shop", "predict:*")
    keys = read_keys(config)
    assert isinstance(keys, Keys)
    bucket = getattr(keys.find(old), "bucket", None)
    new = make_key(file, "shop", "predict:*")
    keys.read_again()

    assert [getattr(keys.find(each), "bucket", None) for each in (old, new)] == [bucket, bucket]


def test_truths_are_of_the_key_that_asked(store: Path, tmp_path: Path) -> None:
    """A key gives truths of its own predictions; those of another key take the scope `feedback`."""
    file, url = tmp_path / "keys.jsonl", f"sqlite:///{tmp_path / 'log.db'}"
    shop, other = (make_key(file, name, "predict:boston-housing") for name in ("shop", "other"))
    renewed = make_key(file, "shop", "predict:boston-housing")
    judge = make_key(file, "judge", "feedback")
    app: Service = create_app(Config(store=store, prediction_log=url, keys=file), write_log=lambda pieces: None)
    app.recorder.start()
    try:
        client = app.test_client()

        def sent(key: str, truth: float) -> Any:
            return client.post("/feedback", json={"request_id": "a", "truth": truth}, headers=bearer(key))

        asked = client.post("/predict", json=HOUSE, headers={**bearer(shop), "X-Request-Id": "a"})
        assert asked.status_code == 200
        assert sent(shop, 20.0).get_json()["accepted"] == 1
        refused = sent(other, 21.0)
        assert (refused.status_code, refused.get_json()["error"].endswith("or another key asked for them")) == (
            404,
            True,
        )
        assert sent(renewed, 20.0).get_json()["repeated"] == 1
        assert sent(judge, 21.0).get_json()["conflicting"] == 1
    finally:
        app.recorder.close()


def test_without_keys_nothing_changes(store: Path, tmp_path: Path) -> None:
    """A reply to a right key is, byte for byte, the one of a service that asks for none, which ignores what is sent."""
    file = tmp_path / "keys.jsonl"
    key = make_key(file, "shop", "predict:*")
    guarded, free = (
        client_of(Config(store=store, prediction_log="", keys=file)),
        client_of(Config(store=store, prediction_log="")),
    )
    headers = {**bearer(key), "X-Request-Id": "the-same"}
    for path in ("/predict", "/predict/", "/nope", "/models"):
        replies = [client.post(path, json=HOUSE, headers=headers) for client in (guarded, free)]
        assert [replies[0].status, [*replies[0].headers], replies[0].data] == [
            replies[1].status,
            [*replies[1].headers],
            replies[1].data,
        ]
    assert "security" not in str(free.get("/openapi.json").get_json())


def test_metrics_on_a_port_of_their_own(store: Path) -> None:
    """With a port for metrics they are there alone, and nothing else is but health checks."""
    origins = ("https://example.org",)
    client = client_of(Config(store=store, prediction_log="", metrics_port=9100, cors_origins=origins))

    def status(path: str, port: str, address: str = "10.0.0.1") -> int:
        overrides = {"SERVER_PORT": port, "REMOTE_ADDR": address}
        return client.open(path, method="POST" if "predict" in path else "GET", environ_overrides=overrides).status_code

    assert [status(path, "9100") for path in ("/metrics", "/livez", "/predict", "/models")] == [200, 200, 404, 404]
    assert [status(path, "9100") for path in ("/", "/docs/", "/docs/index.css", "/static/page.css")] == [404] * 4
    assert [status(path, "9100") for path in ("/v2/health/ready", "/ping", "/health")] == [200] * 3
    assert [status(path, "8000") for path in ("/metrics", "/livez", "/models", "/")] == [404, 200, 200, 200]
    preflight = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    for port, expected in (("9100", 404), ("8000", 200)):
        overrides = {"SERVER_PORT": port, "REMOTE_ADDR": "10.0.0.1"}
        reply = client.options("/predict", headers=preflight, environ_overrides=overrides)
        assert reply.status_code == expected
    assert status("/metrics", "9100", address="") == 404  # a Unix socket's client, who chose the port in its Host


def test_own_port_of_metrics_needs_no_key(store: Path, tmp_path: Path) -> None:
    """On their own port metrics need no key, on the main port they are not there, whatever the key."""
    file = tmp_path / "keys.jsonl"
    key = make_key(file, "ops", "admin")
    client = client_of(Config(store=store, prediction_log="", keys=file, metrics_port=9100))

    for port, status in (("9100", 200), ("8000", 404)):
        assert client.get("/metrics", environ_overrides={"SERVER_PORT": port}).status_code == status
        assert (
            client.get("/metrics", headers=bearer(key), environ_overrides={"SERVER_PORT": port}).status_code == status
        )


def test_refusals_are_as_the_document_says(guarded: Guarded) -> None:
    """The 401 of every operation that needs a key has the fields that the document requires of it, and no others."""
    document = guarded.client.get("/openapi.json", headers=bearer(guarded.admin)).get_json()
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "security" in operation:
                schema = operation["responses"]["401"]["content"]["application/json"]["schema"]
                described = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                reply = guarded.client.open(path, method=method.upper())
                assert sorted(reply.get_json()) == sorted(described["required"]), path
