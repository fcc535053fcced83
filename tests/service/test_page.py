"""Owns the page for people: its files and headers, what it is told of a model, its plots and its notebook."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from markupsafe import Markup, escape

from app import create_app
from app.config import Config
from app.factory import Service
from app.routes import notebook
from app.routes.live_state import state_of
from app.telemetry.gauges import LiveErrors
from model import Store
from model.live.prediction_log import LiveError
from model.store.artifact import read_draft
from tests.support import gems
from tests.support.cards import Page
from tests.support.health import BROWSER
from tests.support.service import HOUSE, ROOT, refused, rewrite

NAME = "boston-housing"
PATH = f"/models/{NAME}/page"
FILES = sorted(path for path in (ROOT / "app" / "static").iterdir())
MAX_BYTES = 60_000
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "connect-src 'self'",
    "img-src 'self' data:",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
}
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
HOSTILE = ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", '"><svg onload=alert(1)>', "[x](javascript:1)"]
TEXTS = st.sampled_from(HOSTILE) | st.text(max_size=20)
OUTPUTS = st.fixed_dictionaries(
    {},
    optional={
        "output_type": st.sampled_from(["stream", "execute_result", "error"]),
        "text": TEXTS | st.lists(TEXTS, max_size=3),
        "traceback": JSON_VALUES | st.lists(TEXTS, max_size=3),
        "data": st.dictionaries(st.sampled_from(["text/html", "text/plain", "image/png", "image/svg+xml"]), TEXTS),
    },
)
CELLS = st.fixed_dictionaries(
    {"cell_type": st.sampled_from(["code", "markdown", "raw"])},
    optional={"source": TEXTS | st.lists(TEXTS, max_size=3) | JSON_VALUES, "outputs": st.lists(OUTPUTS, max_size=3)},
)


def page_of(client: FlaskClient, path: str = PATH) -> dict[str, Any]:
    """Return what a page is told."""
    reply = client.get(path)
    assert reply.status_code == 200, reply.text
    found: dict[str, Any] = reply.get_json()
    return found


def headers_of(reply: Any) -> tuple[set[str], str, str]:
    """Return the policy of a page, and what goes with it."""
    headers = reply.headers
    policy = set(headers["Content-Security-Policy"].split("; "))
    return policy, headers["X-Content-Type-Options"], headers["Referrer-Policy"]


def test_page_is_small() -> None:
    """The page for people, with all its scripts and styles, stays below 60 KB; there are no other kinds of files."""
    assert {path.suffix for path in FILES} == {".html", ".css", ".js"}
    assert sum(path.stat().st_size for path in FILES if path.stem != "docs") < MAX_BYTES


@pytest.mark.parametrize("path", ["/", "/docs/", *(f"/static/{file.name}" for file in FILES)])
def test_pages_may_run_their_own_files_alone(client: FlaskClient, path: str) -> None:
    """Each page, and each file of it, comes with a policy that allows the server's own files and nothing inline."""
    reply = client.get(path, headers=BROWSER)

    assert reply.status_code == 200
    assert headers_of(reply) == (POLICY, "nosniff", "no-referrer")


@pytest.mark.parametrize("path", ["/", "/docs/"])
def test_pages_have_nothing_inline(client: FlaskClient, path: str) -> None:
    """A page has no script, style or listener of its own, and links to nothing on another host."""
    page = Page(client.get(path, headers=BROWSER).text)

    assert not [names for _, names in page.tags if any(name == "style" or name.startswith("on") for name in names)]
    assert "style" not in {tag for tag, _ in page.tags}
    assert {"src"} <= set.union(*({*names} for tag, names in page.tags if tag == "script"))
    assert [link for link in page.links if re.match(r"(?!data:)[a-z]+:|//", link or "")] == []


def test_pages_know_no_model(client: FlaskClient) -> None:
    """The pages are the same for every store: what they show is asked for, with a key where one is needed."""
    for path in ("/", "/docs/"):
        assert NAME not in client.get(path, headers=BROWSER).text


def test_page_without_javascript(client: FlaskClient) -> None:
    """A browser without JavaScript reads how to ask the service itself; what wants no HTML gets JSON."""
    page = client.get("/", headers=BROWSER).text
    said = page[page.index("<noscript>") : page.index("</noscript>")]

    for path in ("models", "models/NAME/page", "models/NAME/card", "models/NAME/predict", "openapi.json"):
        assert f"http://HOST/{path}" in said
    assert client.get("/", headers={"Accept": "*/*"}).get_json() == {"status": "alive"}
    assert client.get("/").get_json() == {"status": "alive"}


def test_files_are_sent_again_only_if_they_changed(client: FlaskClient) -> None:
    """A browser that has a file gets 304, also where it takes compressed ones, which are a third as long."""
    first = client.get("/static/page.css")
    small = client.get("/static/page.css", headers={"Accept-Encoding": "gzip"})
    again = client.get("/static/page.css", headers={"If-None-Match": first.headers["ETag"]})

    assert (first.mimetype, first.headers["Cache-Control"]) == ("text/css", "no-cache")
    assert len(small.data) < len(first.data) / 2
    assert (again.status_code, again.data) == (304, b"")


@pytest.mark.parametrize("name", ["no.js", "..", "..%2Fconfig.py", "page.py", "%2e%2e%2ffactory.py", "."])
def test_other_files_are_not_found(client: FlaskClient, name: str) -> None:
    """Nothing but the files of the pages is sent."""
    assert client.get(f"/static/{name}").status_code == 404


def test_facts_of_a_model(client: FlaskClient, store: Path) -> None:
    """The page has what the manifest says of a version, its limits of requests and its golden rows."""
    page = page_of(client)
    facts = json.loads((store / NAME / "1" / "manifest.json").read_bytes())

    for name in ("title", "purpose", "limits", "digest", "created_at"):
        assert page[name] == facts[name]
    assert {each["name"]: each["value"] for each in page["validation"]["metrics"]} == {
        name: facts["metrics"]["validation"][name] for name in ("mse", "rmse", "mae", "bias", "r2")
    }
    assert page["examples"][0] == HOUSE
    assert [each["seen"] for each in page["features"]][:2] == ["0 to 1 in training", "3.561 to 8.725 in training"]
    assert page["limits_of_requests"] == {"rows": 10_000, "bytes": 8 * 2**20}
    assert "to the last bit" in page["exactness"]


def test_examples_are_answered(gems_everywhere: FlaskClient) -> None:
    """Every row that the page fills its form with is one that the model answers."""
    examples = page_of(gems_everywhere, f"/models/{gems.NAME}/page")["examples"]

    assert len(gems_everywhere.post("/predict", json=examples).get_json()["prediction"]) == len(examples) > 1


def test_distributions_are_those_of_training(client: FlaskClient, houses: Any, store: Path) -> None:
    """Each feature has its bins of training, and a median that half of the values do not exceed."""
    reference = json.loads((store / NAME / "1" / "reference.json").read_bytes())["features"]
    for feature in page_of(client)["features"]:
        bins = reference[feature["name"]]
        assert feature["bins"] == {**bins, "missing": 0.0}
        below = sum(share for edge, share in zip(bins["edges"], bins["shares"]) if edge < feature["median"])
        assert below < 0.5 <= below + bins["shares"][bins["edges"].index(feature["median"])] + 1e-9


def test_features_of_every_type(gems_everywhere: FlaskClient) -> None:
    """A category has its categories, and the positions of those that have a bin; what may be missing says so."""
    features = {each["name"]: each for each in page_of(gems_everywhere, f"/models/{gems.NAME}/page")["features"]}

    assert features["cut"]["categories"] == gems.CATEGORIES["cut"]
    assert features["grade"]["categories"] == gems.CATEGORIES["grade"]
    assert features["certified"]["categories"] == [False, True]
    assert features["cut"]["bins"]["codes"] == [0, 1, 2, 3]
    assert [name for name, each in features.items() if each["missing"]] == gems.MAY_BE_MISSING
    assert "categories" not in features["carat"]


def test_model_without_held_out_rows(gems_everywhere: FlaskClient) -> None:
    """Where no rows were held out, the page has no metrics, intervals or notebook."""
    page = page_of(gems_everywhere, f"/models/{gems.NAME}/page")

    assert (page["validation"], page["levels"], page["has_notebook"]) == (None, [], False)
    assert "This version has no notebook." in gems_everywhere.get(f"/models/{gems.NAME}/notebook").text


def test_live_state(client: FlaskClient) -> None:
    """The lights say what was answered and refused, and whether it drifts; before that, that they do not know."""
    before = page_of(client)["state"]
    client.post("/predict", json=[{**HOUSE, "LSTAT": 90 + number} for number in range(200)])
    client.post("/predict", json=[{**HOUSE, "RM": None}])
    after = page_of(client)["state"]

    assert [each["name"] for each in before] == ["Requests", "Drift", "Live error"]
    assert {each["verdict"] for each in before} == {"unknown"}
    assert after[0] == {"name": "Requests", "verdict": "fine", "text": "1 answered with 200 rows, 1 refused"}
    assert (after[1]["verdict"], "LSTAT" in after[1]["text"]) == ("attention", True)
    assert after[2]["text"] == "not known, no true values came"


def test_no_drift(client: FlaskClient, houses: Any) -> None:
    """The rows of training do not drift."""
    client.post("/predict", json=houses.to_dict("records"))

    assert page_of(client)["state"][1]["verdict"] == "fine"


@pytest.mark.parametrize(
    ("rows", "rmse", "verdict", "text"),
    [
        (500, 5.0, "fine", "RMSE 5 of 500 true values, within its limit of 8.01"),
        (500, 9.0, "attention", "RMSE 9 of 500 true values, above its limit of 8.01"),
        (29, 9.0, "unknown", "not known before 30 true values, 29 came"),
    ],
)
def test_live_error(client: FlaskClient, rows: int, rmse: float, verdict: str, text: str) -> None:
    """With true values the light says whether the error is within the limit of the report and the alerts."""
    service = cast(Service, client.application)
    model = service.serving.loaded.models[NAME]
    found = LiveErrors(latest=[LiveError(NAME, 1, rows, {"rmse": rmse, "mae": rmse, "bias": 0.0})])

    assert state_of(model, service.metrics, found)[2] == {"name": "Live error", "verdict": verdict, "text": text}


def test_no_request_is_shown(client: FlaskClient) -> None:
    """What a client sent is not on the page."""
    client.post("/predict", json=[{**HOUSE, "LSTAT": 12.34567}])

    assert "12.34567" not in client.get(PATH).text


def test_versions_of_the_store(store: Path, tmp_path: Path) -> None:
    """The page lists the versions of the store with metric and date, the newest first, and which are served."""
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    Store(copy).add(NAME, read_draft(copy / NAME / "1"))
    client = create_app(Config(store=copy), write_log=lambda pieces: None).test_client()
    versions = page_of(client)["versions"]

    assert [(each["version"], each["is_loaded"], each["aliases"]) for each in versions] == [
        (2, False, ["candidate"]),
        (1, True, ["champion"]),
    ]
    assert [each["metric"] for each in versions] == ["RMSE", "RMSE"]
    assert versions[0]["value"] == versions[1]["value"] > 0
    assert client.get(f"/models/{NAME}/versions/2/page").status_code == 404
    shutil.rmtree(copy / NAME)
    assert [each["version"] for each in page_of(client)["versions"]] == [1]


@pytest.mark.parametrize("view", ["page", "plots", "notebook"])
def test_other_models_have_none(client: FlaskClient, tmp_path: Path, view: str) -> None:
    """A model that is not configured is not found; one that is not loaded is not there yet."""
    absent = create_app(Config(store=tmp_path, models=(NAME,))).test_client()

    assert client.get(f"/models/no/{view}").status_code == 404
    assert absent.get(f"/models/{NAME}/{view}").status_code == 503


def test_plots(client: FlaskClient, store: Path) -> None:
    """The plots of a version are on one page, with their bytes and names."""
    reply = client.get(f"/models/{NAME}/plots")
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="([^"]+)">', reply.text)

    assert "script-src 'self'" not in headers_of(reply)[0]
    assert [base64.b64decode(content) for content, _ in pictures] == [
        path.read_bytes() for path in sorted((store / NAME / "1" / "plots").iterdir())
    ]
    assert [title for _, title in pictures][:2] == ["Calibration", "Correlations"]


def test_changed_file_is_not_shown(store: Path, tmp_path: Path) -> None:
    """A picture that has changed since the version was verified is refused."""
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    client = create_app(Config(store=copy), write_log=lambda pieces: None).test_client()
    (copy / NAME / "1" / "plots" / "calibration.png").write_bytes(b"\x89PNG\r\n\x1a\n<svg>")

    message = refused(client.get(f"/models/{NAME}/plots"), 503, "native")
    assert message == f"plots/calibration.png of {NAME} version 1 has changed since it was verified"


def test_notebook(store: Path, tmp_path: Path) -> None:
    """The notebook has its texts, code, output and pictures; what is no notebook says so."""
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    folder = copy / NAME / "1"
    png = base64.b64encode(b"\x89PNG\r\n\x1a\nx").decode()
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "some *text*"]},
        {
            "cell_type": "code",
            "source": "1 < 2",
            "outputs": [
                {"output_type": "stream", "text": ["a < b\n"]},
                {"data": {"image/png": png, "text/plain": "x"}},
            ],
        },
        {"cell_type": "code", "source": "1 / 0", "outputs": [{"traceback": ["\x1b[31mZeroDivisionError\x1b[0m"]}]},
    ]
    for content, expected in (
        (json.dumps({"cells": cells}).encode(), "<h1>Title</h1>\n<p>some <em>text</em></p>"),
        (b"no notebook", "The notebook of this version cannot be read."),
        (b"[" * 1_000_000, "The notebook of this version cannot be read."),
    ):
        rewrite(folder, lambda facts: None, {"notebook.ipynb": content})
        client = create_app(Config(store=copy, models=(f"{NAME}@1",)), write_log=lambda pieces: None).test_client()
        reply = client.get(f"/models/{NAME}/notebook")
        assert (reply.status_code, reply.mimetype) == (200, "text/html")
        assert expected in reply.text
        assert "script-src 'self'" not in headers_of(reply)[0]
    page = str(notebook.to_html(json.dumps({"cells": cells}).encode(), lambda text: escape(text)))
    for part in ("1 &lt; 2", "a &lt; b", f"data:image/png;base64,{png}", ">ZeroDivisionError<"):
        assert part in page


def test_long_notebook_is_not_rendered_for_ever() -> None:
    """Of a notebook with more Markdown than a card may have, the rest is shown as it is written."""
    cells = [{"cell_type": "markdown", "source": "*" * 40_000} for _ in range(2)]
    rendered: list[int] = []

    def markdown(text: str) -> Markup:
        rendered.append(len(text))
        return Markup("<p></p>")

    page = notebook.to_html(json.dumps({"cells": cells}).encode(), markdown)
    assert rendered == [40_000]
    assert "*" * 40_000 in page


class Tags(HTMLParser):
    """The tags of a text of HTML, each with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag."""
        self.found.append((tag, dict(attrs)))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({"cells": st.lists(CELLS, max_size=4)}) | JSON_VALUES)
@example({"cells": [{"cell_type": "code", "source": text, "outputs": [{"text": text}]} for text in HOSTILE]})
@example({"cells": [{"cell_type": "code", "outputs": [{"data": {"text/html": HOSTILE[0], "image/png": "####"}}]}]})
def test_nothing_in_a_notebook_is_more_than_text(document: Any) -> None:
    """Whatever a notebook has, its HTML has texts and pictures alone."""
    html = notebook.to_html(json.dumps(document).encode(), lambda text: Markup("<p>{}</p>").format(text))

    for tag, attributes in Tags(str(html)).found:
        assert tag in ("p", "pre", "img")
        assert attributes.keys() <= {"class", "tabindex", "src", "alt"}
        assert str(attributes.get("src", "data:image/")).startswith("data:image/")


def test_page_is_described(client: FlaskClient) -> None:
    """The OpenAPI document has the page's route of each model, and lists no kind of routes that there are none of."""
    document = client.get("/openapi.json").get_json()
    schema = document["paths"][PATH]["get"]["responses"]["200"]["content"]["application/json"]["schema"]

    assert set(schema["required"]) <= page_of(client).keys()
    assert "Vertex AI" not in [tag["name"] for tag in document["tags"]]
