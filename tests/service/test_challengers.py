"""Owns several versions of a model in one process: reached by version, and the shares of canaries and A/B tests."""

from __future__ import annotations

import json
import logging
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from app.factory import Service
from app.serving.challengers import Challenger, Choice, Mode
from app.telemetry import log_lines
from model import Artifact, Matrix, Store
from model.store.artifact import read_draft
from tests.support import gems
from tests.support.metrics import series, value
from tests.support.service import ANSWER, HOUSE, PROTOCOLS, bits, everywhere_client, rewrite

NAME = "boston-housing"
WORSE = {"model": NAME, "version": "2"}
ROW = list(HOUSE.values())
CANARY = (NAME, f"{NAME}@challenger:canary=100%")


@pytest.fixture(scope="module")
def two(store: Path, worse_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store in which version 1 is the champion, and the worse version 2 the challenger. Tests must not change it."""
    both = Path(shutil.copytree(store, tmp_path_factory.mktemp("two") / "store"))
    shelf = Store(both)
    shelf.add(NAME, read_draft(worse_store / NAME / "1"))
    shelf.move(NAME, "tag", {"challenger": 2}, after=shelf.last_move(NAME))
    return both


@pytest.fixture(scope="module")
def worse(two: Path) -> float:
    """The answer of version 2."""
    (answer,) = Store(two).load(f"{NAME}@2").predict(np.array([ROW])).tolist()
    assert answer != ANSWER
    return float(answer)


def serve(store: Path, *models: str, **settings: Any) -> FlaskClient:
    """Return a client of a service of these entries at the paths of all protocols; a challenger has all the time."""
    patient = {"challenger_milliseconds": 60_000, **settings}
    return everywhere_client(store, lambda lines: None, models=models, **patient)


def service_of(client: FlaskClient) -> Service:
    """Return the service of a client."""
    return cast(Service, client.application)


def scrape(client: FlaskClient) -> Any:
    """Return the series of /metrics."""
    return series(client.get("/metrics").text)


def break_challenger(client: FlaskClient, predict: Callable[[Matrix], Any], version: str = "2") -> None:
    """Replace the engine of a version."""

    class Broken:
        def predict(self, X: Matrix) -> Any:
            return predict(X)

    service = service_of(client)
    model = service.serving.loaded.get(NAME, version)
    service.swap(service.serving.loaded.with_model(replace(model, engine=cast(Any, Broken()))))


@pytest.mark.parametrize(
    ("path", "protocol"),
    [
        (f"/models/{NAME}/versions/%s/predict", "native"),
        (f"/v2/models/{NAME}/versions/%s/infer", "V2"),
        (f"/v1/models/{NAME}/versions/%s:predict", "V1"),
    ],
)
@pytest.mark.parametrize("role", ["", ":shadow", ":canary=100%", ":ab=100%"])
def test_versions_are_reached_by_version(two: Path, worse: float, path: str, protocol: str, role: str) -> None:
    """Every loaded version answers at the paths that name it, on the fast path and in Flask, whatever the roles are."""
    client, form = serve(two, NAME, f"{NAME}@2{role}"), PROTOCOLS[protocol]

    for version, answer in (("1", ANSWER), ("2", worse)):
        for end in ("", "/"):
            reply = client.post(path % version + end, json=form.write([ROW]))
            assert bits(form.read(reply.get_json())).tolist() == bits([answer]).tolist()
            assert reply.headers["X-Model-Version"] == version
    assert client.post(path % 3, json=form.write([ROW])).status_code == 404


def test_further_version_takes_no_request(two: Path) -> None:
    """An entry without a role after the first one of its name answers no request without a version."""
    client = serve(two, NAME, f"{NAME}@2")

    for protocol in PROTOCOLS.values():
        assert client.post(protocol.path, json=protocol.write([ROW])).headers["X-Model-Version"] == "1"
    assert client.get("/readyz").status_code == 200
    assert service_of(client).serving.loaded.challengers == {}


def test_versions_are_listed(two: Path) -> None:
    """Every protocol's list of versions has all of them; the lists of models have each name once."""
    client = serve(two, NAME, f"{NAME}@challenger:canary=25%")

    assert client.get("/models").get_json()["models"] == [
        {
            "name": NAME,
            "version": 1,
            "versions": [{"version": 1, "role": "champion"}, {"version": 2, "role": "canary"}],
        }
    ]
    assert client.get(f"/v2/models/{NAME}").get_json()["versions"] == ["1", "2"]
    assert client.get(f"/v2/models/{NAME}/versions/2").get_json()["name"] == NAME
    assert client.get(f"/v2/models/{NAME}/versions/2/ready").status_code == 200
    assert client.get(f"/v2/models/{NAME}/versions/3/ready").status_code == 404
    assert [each["version"] for each in client.post("/v2/repository/index").get_json()] == ["1", "2"]
    assert [each["version"] for each in client.get(f"/v2/models/{NAME}/stats").get_json()["model_stats"]] == ["1", "2"]
    (one,) = client.get(f"/v2/models/{NAME}/versions/2/stats").get_json()["model_stats"]
    assert one["version"] == "2"
    statuses = client.get(f"/v1/models/{NAME}").get_json()["model_version_status"]
    assert [each["version"] for each in statuses] == ["1", "2"]
    assert client.get("/v2/models").json == client.get("/v1/models").json == {"models": [NAME]}
    assert client.get("/readyz").get_json()["models"] == {NAME: 1}
    versions = client.get(f"/models/{NAME}/page").get_json()["versions"]
    assert [(each["version"], each["role"], each["is_loaded"]) for each in versions] == [
        (2, "canary", True),
        (1, "champion", True),
    ]


def test_openapi_describes_versions(two: Path) -> None:
    """The document has the paths and schemas of each version; those of the champion are named by the model alone."""
    document = serve(two, NAME, f"{NAME}@2").get("/openapi.json").get_json()
    schemas = document["components"]["schemas"]

    for path in ("/models/{}/versions/{}/predict", "/v1/models/{}/versions/{}:predict"):
        for version, prefix in (("1", NAME), ("2", f"{NAME}.2")):
            text = json.dumps(document["paths"][path.format(NAME, version)]["post"])
            assert f'"#/components/schemas/{prefix}.' in text
    assert {f"{NAME}.row", f"{NAME}.2.row"} <= schemas.keys()
    assert len({operation["operationId"] for path in document["paths"].values() for operation in path.values()}) == sum(
        map(len, document["paths"].values())
    )


def choice(**shares: float) -> Choice:
    """Return a choice of a canary (version 2) and an A/B test (version 3)."""

    def version(number: int) -> Artifact:
        return cast(Artifact, type("Version", (), {"name": NAME, "version": number}))

    modes = {"canary": (Mode.CANARY, 2), "ab": (Mode.AB, 3)}
    challengers = [Challenger(version(modes[name][1]), modes[name][0], share) for name, share in shares.items()]
    return Choice(version(1), challengers)


IDS = [f"user-{number}" for number in range(100_000)]


def taken(of: Choice) -> dict[int, set[str]]:
    """Return the ids that each version gets."""
    found: dict[int, set[str]] = {}
    for key in IDS:
        challenger = of.pick(key)
        found.setdefault(challenger.model.version if challenger else 1, set()).add(key)
    return found


def test_shares_are_exact() -> None:
    """Of 100,000 ids a challenger gets its share within 0.3 points, alone and beside others."""
    for shares in ({"canary": 0.1}, {"ab": 0.1}, {"canary": 0.1, "ab": 0.5}, {"canary": 0.005, "ab": 0.995}):
        found = {version: len(ids) / len(IDS) for version, ids in taken(choice(**shares)).items()}
        expected = {2: shares.get("canary", 0.0), 3: shares.get("ab", 0.0)}
        assert all(abs(found.get(version, 0.0) - share) < 0.003 for version, share in expected.items())


def test_canary_is_nested() -> None:
    """An id that is in a canary of 10 % is in it at 20 %, and at 0 and 100 % none is and all are."""
    ten, twenty = taken(choice(canary=0.1))[2], taken(choice(canary=0.2))[2]

    assert ten < twenty
    assert taken(choice(canary=0.0)).keys() == {1}
    assert taken(choice(canary=1.0)).keys() == {2}


def test_experiments_are_independent() -> None:
    """Which ids an A/B test takes says nothing about which ids a canary takes, beside it or after it."""
    both = taken(choice(canary=0.5, ab=0.25))
    alone = taken(choice(ab=0.5))[3]

    assert abs(len(alone & both[2]) / len(both[2]) - 0.5) < 0.01


@pytest.mark.parametrize("header", ["X-Request-Id", "X-Sticky-Id"])
def test_clients_keep_their_version(two: Path, header: str) -> None:
    """Two services choose alike by the request's id or the sticky header, on the fast path and in Flask."""
    models = (NAME, f"{NAME}@challenger:canary=30%")
    one, other = serve(two, *models), serve(two, *models)
    keys = [f"client-{number}" for number in range(60)]

    def versions(client: FlaskClient, path: str) -> list[str]:
        return [client.post(path, json=HOUSE, headers={header: key}).headers["X-Model-Version"] for key in keys]

    expected = versions(one, "/predict")
    assert set(expected) == {"1", "2"}
    assert expected == versions(other, "/predict") == versions(other, "/predict/")


def test_sticky_header_outweighs_the_request_id(two: Path) -> None:
    """With the header of the setting, every request of a client is answered by one version, whatever its id."""
    client = serve(two, NAME, f"{NAME}@challenger:ab=50%", sticky_header="X-User")

    for key in ("a", "b", "c", "d"):
        replies = [client.post("/predict", json=HOUSE, headers={"X-User": key}) for _ in range(8)]
        assert len({reply.headers["X-Model-Version"] for reply in replies}) == 1


def test_every_protocol_is_shared(two: Path, worse: float) -> None:
    """A canary of all requests answers in every protocol, with its own bits, and its rows are counted as its own."""
    client = serve(two, *CANARY)

    for protocol in PROTOCOLS.values():
        reply = client.post(protocol.path, json=protocol.write([ROW]))
        assert bits(protocol.read(reply.get_json())).tolist() == bits([worse]).tolist()
        assert reply.headers["X-Model-Version"] == "2"
    found = scrape(client)
    assert value(found, "tabserve_rows_total", **WORSE) == len(PROTOCOLS)
    assert value(found, "tabserve_model_share", **WORSE, role="canary") == 1
    assert value(found, "tabserve_model_share", model=NAME, version="1", role="champion") == 0
    bins = [count for (name, labels), count in found.items() if name == "tabserve_prediction_bin_total"]
    assert sum(bins) == len(PROTOCOLS)


def test_requests_for_a_challenger_are_not_immediate(two: Path) -> None:
    """What a challenger may delay is answered in a thread; all else, and what names a version, in the loop."""
    client = serve(two, NAME, f"{NAME}@challenger:canary=30%")
    service = service_of(client)

    for number in range(40):
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/predict", "HTTP_X_STICKY_ID": f"client-{number}"}
        reply = client.post("/predict", json=HOUSE, headers={"X-Sticky-Id": f"client-{number}"})
        assert service.is_immediate(environ) == (reply.headers["X-Model-Version"] == "1")
        for version in ("1", "2"):
            assert service.is_immediate({**environ, "PATH_INFO": f"/models/{NAME}/versions/{version}/predict"})


def test_id_that_was_drawn_is_kept(two: Path) -> None:
    """A request without an id gets one when it is asked whether it is immediate, and keeps it in its reply."""
    client = serve(two, NAME, f"{NAME}@challenger:canary=30%")
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "PATH_INFO": "/predict"}
    immediate = service_of(client).is_immediate(environ)
    (key,) = [key for key in environ if key.startswith("tabserve.")]
    reply = client.post("/predict", json=HOUSE, environ_overrides={key: environ[key]})

    assert reply.get_json()["request_id"] == environ[key]
    assert (reply.headers["X-Model-Version"] == "1") == immediate


def fail(X: Matrix) -> Any:
    raise RuntimeError("the inside")


@pytest.mark.parametrize(
    "predict",
    [fail, lambda X: np.full(len(X), np.nan), lambda X: np.zeros(len(X) + 1), lambda X: None],
    ids=["raises", "no number", "too many", "nothing"],
)
def test_challenger_that_fails(two: Path, predict: Callable[[Matrix], Any], caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a challenger's engine does, the champion answers, in every protocol; the first failure is logged."""
    client = serve(two, *CANARY)
    break_challenger(client, predict)

    with caplog.at_level(logging.ERROR):
        for protocol in PROTOCOLS.values():
            reply = client.post(protocol.path, json=protocol.write([ROW]))
            assert (reply.status_code, reply.headers["X-Model-Version"]) == (200, "1")
            assert protocol.read(reply.get_json()) == [ANSWER]
    (record,) = caplog.records
    assert record.getMessage() == "a challenger failed; the champion answers, and later failures are only counted"
    assert record.exc_info
    line = json.loads(log_lines.JSONFormatter().format(record))
    assert (line["model"], line["version"], "the inside" in str(line)) == (NAME, 2, False)
    assert line["request_id"]
    found = scrape(client)
    assert value(found, "tabserve_challenger_fallbacks_total", **WORSE, reason="failed") == len(PROTOCOLS)
    assert value(found, "tabserve_rows_total", model=NAME, version="1") == len(PROTOCOLS)


@pytest.fixture
def hanging() -> Iterator[Callable[[Matrix], Any]]:
    """An engine that hangs until the end of the test."""
    end = threading.Event()
    yield lambda X: end.wait(60)
    end.set()


def test_failures_of_each_challenger_are_logged(two: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A version that fails hides no failure of another one, and a failed request for a version is logged as ever."""
    with caplog.at_level(logging.ERROR):
        client = serve(two, f"{NAME}@2", f"{NAME}@1:canary=100%")
        for version in ("1", "2"):
            break_challenger(client, fail, version)
        for _ in range(2):
            assert client.post("/predict", json=HOUSE).status_code == 500
            assert client.post(f"/models/{NAME}/versions/1/predict", json=HOUSE).status_code == 500

    messages = [record.getMessage().partition(";")[0] for record in caplog.records]
    assert messages == ["a challenger failed", *["request failed"] * 4]


def test_requests_for_a_challenger_are_counted(two: Path) -> None:
    """Those that it was to answer count, whoever did; those that name its version, or that both refuse, do not."""
    client = serve(two, *CANARY)
    assert value(scrape(client), "tabserve_challenger_requests_total", **WORSE) == 0

    for protocol in PROTOCOLS.values():
        client.post(protocol.path, json=protocol.write([ROW]))
        client.post(protocol.path, json=protocol.write([["a", *ROW[1:]]]))
    client.post(f"/models/{NAME}/versions/2/predict", json=HOUSE)
    assert value(scrape(client), "tabserve_challenger_requests_total", **WORSE) == len(PROTOCOLS)
    break_challenger(client, fail)
    client.post("/predict", json=HOUSE)
    found = scrape(client)
    assert value(found, "tabserve_challenger_requests_total", **WORSE) == len(PROTOCOLS) + 1
    assert value(found, "tabserve_challenger_fallbacks_total", **WORSE, reason="failed") == 1


def test_challenger_that_hangs(two: Path, hanging: Callable[[Matrix], Any]) -> None:
    """A request waits for the deadline once; while the run hangs, others go to the champion at once."""
    client = serve(two, *CANARY, challenger_milliseconds=500)
    break_challenger(client, hanging)

    for _ in range(5):
        assert client.post("/predict", json=HOUSE).get_json()["prediction"] == [ANSWER]
    found = scrape(client)
    assert value(found, "tabserve_challenger_fallbacks_total", **WORSE, reason="slow") == 1
    assert value(found, "tabserve_challenger_fallbacks_total", **WORSE, reason="busy") == 4


def test_challenger_with_other_columns(two: Path, gems_store: Path, tmp_path: Path) -> None:
    """Rows that a challenger refuses are answered by the champion; what both refuse is the champion's refusal alone."""
    own = Path(shutil.copytree(two, tmp_path / "store"))
    Store(own).add(NAME, read_draft(gems_store / gems.NAME / "1"))
    client, plain = serve(own, NAME, f"{NAME}@3:ab=100%"), serve(two, NAME)
    same = {"X-Request-Id": "same"}

    for protocol in PROTOCOLS.values():
        assert client.post(protocol.path, json=protocol.write([ROW])).headers["X-Model-Version"] == "1"
        bad = protocol.write([["a", *ROW[1:]]])
        expected = plain.post(protocol.path, json=bad, headers=same)
        refused = client.post(protocol.path, json=bad, headers=same)
        assert (refused.status_code, refused.data) == (expected.status_code, expected.data)
    fallbacks = value(scrape(client), "tabserve_challenger_fallbacks_total", model=NAME, version="3", reason="refused")
    assert fallbacks == len(PROTOCOLS)


def test_challenger_that_cannot_answer_as_asked(two: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a challenger finds wrong with a request only when it writes the reply is refused by it, and no failure."""
    own = Path(shutil.copytree(two, tmp_path / "store"))
    rewrite(own / NAME / "2", lambda manifest: manifest.pop("explanations"))
    client = serve(own, NAME, f"{NAME}@2:canary=100%")

    with caplog.at_level(logging.ERROR):
        reply = client.post("/predict?explain=true", json=HOUSE)
    found = scrape(client)
    assert (reply.status_code, reply.headers["X-Model-Version"]) == (200, "1")
    assert "explanations" in reply.get_json()
    assert value(found, "tabserve_challenger_fallbacks_total", **WORSE, reason="refused") == 1
    assert value(found, "tabserve_challenger_fallbacks_total", **WORSE, reason="failed") == 0
    assert not caplog.records


def test_challenger_that_cannot_be_loaded(two: Path, tmp_path: Path) -> None:
    """A damaged challenger, or one that does not exist, leaves the server ready; metrics and V2's index name it."""
    own = Path(shutil.copytree(two, tmp_path / "store"))
    (own / NAME / "2" / "trees.npz").write_bytes(b"damaged")
    client = serve(own, NAME, f"{NAME}@challenger:canary=100%", f"{NAME}@7:shadow")

    assert client.get("/readyz").status_code == 200
    assert client.post("/predict", json=HOUSE).get_json()["prediction"] == [ANSWER]
    assert value(scrape(client), "tabserve_versions_not_loaded", model=NAME) == 2
    states = [(each["version"], each["state"]) for each in client.post("/v2/repository/index").get_json()]
    assert states == [("1", "READY"), ("challenger", "UNAVAILABLE"), ("7", "UNAVAILABLE")]


def test_challenger_that_its_device_refuses(two: Path) -> None:
    """A challenger that is lost with its device is named as one that is not loaded, and the champion answers."""
    client = serve(two, *CANARY)
    service = service_of(client)
    loaded = service.serving.loaded
    service.swap(loaded.without([loaded.get(NAME, "2")], "the device is lost"))

    assert client.get("/readyz").status_code == 200
    assert client.post("/predict", json=HOUSE).get_json()["prediction"] == [ANSWER]
    assert value(scrape(client), "tabserve_versions_not_loaded", model=NAME) == 1
    states = [(each["name"], each["version"]) for each in client.post("/v2/repository/index").get_json()]
    assert states == [(NAME, "1"), (NAME, "2")]


def test_version_that_is_named_twice(two: Path) -> None:
    """Two entries of one version are one shadow, and the shares of a canary are added."""
    client = serve(two, NAME, f"{NAME}@challenger:shadow", f"{NAME}@2:shadow")
    assert len(service_of(client).serving.loaded.challengers[NAME]) == 1

    client = serve(two, NAME, f"{NAME}@challenger:canary=20%", f"{NAME}@2:canary=30%")
    assert value(scrape(client), "tabserve_model_share", **WORSE, role="canary") == 0.5


def test_version_with_two_roles(two: Path) -> None:
    """A version that is a canary and a shadow is listed with both roles, each once, as the metric has it."""
    client = serve(two, NAME, f"{NAME}@challenger:canary=10%", f"{NAME}@2:shadow", f"{NAME}@2:canary=5%")

    (model,) = client.get("/models").get_json()["models"]
    assert model["versions"] == [{"version": 1, "role": "champion"}, {"version": 2, "role": "canary, shadow"}]
    assert client.get(f"/models/{NAME}/page").get_json()["versions"][0]["role"] == "canary, shadow"
    found = scrape(client)
    assert value(found, "tabserve_model_share", **WORSE, role="canary") == pytest.approx(0.15)
    assert value(found, "tabserve_model_share", **WORSE, role="shadow") == 0


def test_champion_that_cannot_be_loaded(two: Path, tmp_path: Path) -> None:
    """Without its champion a name is not ready, and no challenger takes its place; versions still answer by number."""
    own = Path(shutil.copytree(two, tmp_path / "store"))
    (own / NAME / "1" / "trees.npz").write_bytes(b"damaged")
    client = serve(own, NAME, f"{NAME}@challenger:canary=100%")

    assert client.get("/readyz").status_code == 503
    assert client.post("/predict", json=HOUSE).status_code == 503
    assert client.post(f"/models/{NAME}/versions/2/predict", json=HOUSE).status_code == 200


def test_challenger_that_is_the_champion(two: Path) -> None:
    """A role of the version that answers does nothing: so it is after a challenger was promoted."""
    client = serve(two, NAME, f"{NAME}@champion:canary=50%", f"{NAME}@1:shadow")

    assert client.get("/readyz").status_code == 200
    assert not any(service_of(client).serving.loaded.challengers.values())
    assert value(scrape(client), "tabserve_versions_not_loaded", model=NAME) == 0


def test_challengers_are_batched(two: Path) -> None:
    """With batching, every version runs batches of its own, challengers, too."""
    client = serve(two, *CANARY, batch_rows=8)
    service = service_of(client)

    assert {type(model.engine).__name__ for model in service.serving.loaded.all_versions} == {"Batcher"}
    assert client.post("/predict", json=HOUSE).headers["X-Model-Version"] == "2"
    assert value(scrape(client), "tabserve_batch_rows_count", **WORSE) == 1


def test_defaults_cost_nothing(store: Path) -> None:
    """A service without challengers has none of their parts: no choice, no thread, and all paths immediate."""
    before = threading.active_count()
    client = create_app(Config(store=store), write_log=lambda pieces: None).test_client()
    client.post("/predict", json=HOUSE)
    service = service_of(client)

    assert service.serving.loaded.choices == {}
    assert threading.active_count() == before


def test_calls_of_agents_are_for_challengers_too(two: Path, worse: float) -> None:
    """A call of a model's tool is answered by its canary, as any request without a version."""
    client = serve(two, *CANARY, mcp=True)
    call = {"name": NAME, "arguments": {"rows": [HOUSE]}}
    reply = client.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
    found = reply.get_json()["result"]["structuredContent"]

    assert (found["predictions"][0]["prediction"], found["version"]) == (worse, 2)
    assert reply.headers["X-Model-Version"] == "2"
