"""Owns the page of a model card: what it has of every model, and that nothing in a card is more than text."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from app.factory import Service
from model.store.artifact import MAX_CARD_BYTES
from tests.support import classifiers, gems, sales
from tests.support.cards import SECTIONS, Page, sections
from tests.support.health import BROWSER
from tests.support.service import rewrite

NAME = "boston-housing"
PATH = f"/models/{NAME}/card"
NAMES = [NAME, gems.NAME, sales.NAME, *classifiers.LABELS]
# What CommonMark makes of text, and what is around it on the page.
TAGS = {
    "p",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "ul",
    "ol",
    "li",
    "blockquote",
    "pre",
    "code",
    "em",
    "strong",
    "hr",
    "br",
}
TAGS |= {
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "html",
    "head",
    "meta",
    "title",
    "link",
    "body",
    "header",
    "main",
    "a",
}
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "[x](javascript:alert(1))",
    "[x]: javascript:alert(1)\n\n[x]",
    "![x](http://tracker.example/a.png)",
    "<http://example.com>",
    "http://example.com",
    "<style>body{display:none}</style>",
    "<!-- ",
    "</main></body>",
    "{{ 7 * 7 }}",
    "```<b>\n<iframe src=x>\n```",
    "| a |\n|---|\n| <svg onload=alert(1)> |\n",
    "&lt;script&gt;",
    '" onmouseover="alert(1)',
    "\n\n",
    "\x00\x1b[2J",
    "    ",
    "> - # ",
]


@pytest.mark.parametrize("name", NAMES)
def test_card_of_every_kind_has_every_section(
    store: Path, gems_store: Path, sales_store: Path, classifiers_store: Path, name: str
) -> None:
    """Whatever the model, and whether rows were held out or not, the card has all sections; its request works."""
    found = next(each for each in (store, gems_store, sales_store, classifiers_store) if (each / name).exists())
    client = create_app(Config(store=found)).test_client()
    reply = client.get(f"/models/{name}/card")

    assert (reply.status_code, reply.mimetype) == (200, "text/markdown")
    assert sections(reply.text) == [*SECTIONS, "Version"]
    command = re.findall(r"^curl .*$", reply.text, re.MULTILINE)[0]
    words = shlex.split(command)
    answer = client.post(words[2].partition("8000")[2], data=words[-1], content_type="application/json").get_json()
    told = re.findall(r"^It answers (.*?)\. The reply", reply.text, re.MULTILINE)[0]
    [predicted] = answer["prediction"]
    assert told == (json.dumps(predicted) if not isinstance(predicted, str) else predicted)


def test_card_says_what_is_not_known(gems_everywhere: FlaskClient) -> None:
    """Of a model that was fitted elsewhere, without rows held out, the card says what is not known, and why."""
    card = gems_everywhere.get(f"/models/{gems.NAME}/card").text

    assert "Nobody said what it is for" in card
    assert "its table was not checked" in card
    assert card.count("Not known, since it takes rows that were held out.") == 2
    assert "what else was tried is not known" in card
    assert "A category that training did not see is refused: cut" in card
    assert "counts as a missing one: origin, grade" in card


def test_card_has_the_faults_and_the_comparison(client: FlaskClient) -> None:
    """The card has what the checks found, the errors by group, and the comparison with the mean and a linear model."""
    card = client.get(PATH).text

    assert "far from most values (the first of 48 such rows)" in card
    assert re.search(r"^\| LSTAT \| up to .* \| 34 \| ", card, re.MULTILINE)
    assert re.search(r"^\| the mean \| 8\.989 \| .* \| better \|$", card, re.MULTILINE)
    assert re.search(r"^\| a linear model \| 6\.319 \| ", card, re.MULTILINE)


def test_page(client: FlaskClient) -> None:
    """A browser gets the card as HTML that may load nothing but its style sheet, under both paths."""
    for path in (PATH, f"/models/{NAME}/versions/1/card"):
        reply = client.get(path, headers=BROWSER)
        page = Page(reply.text)
        assert (reply.status_code, reply.mimetype) == (200, "text/html")
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert "Beside simpler models" in page.text
        assert ("td", ()) in page.tags
        assert page.links[-1] == "../" * (path.count("/") - 1)


@pytest.mark.parametrize(
    "path", ["/models/no/card", f"/models/{NAME}/versions/2/card", f"/models/{NAME}/versions/x/card"]
)
def test_other_models_have_none(client: FlaskClient, path: str) -> None:
    """A model or version that is not loaded is not found."""
    assert client.get(path).status_code == 404


def test_no_model(tmp_path: Path) -> None:
    """Where a configured model is not loaded, its card is not there yet."""
    client = create_app(Config(store=tmp_path, models=(NAME,))).test_client()

    assert client.get(PATH).status_code == 503


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.lists(st.sampled_from(HOSTILE) | st.text(max_size=20), max_size=6).map("".join))
@example("".join(f"{each}\n\n" for each in HOSTILE))
def test_nothing_in_a_card_is_more_than_text(everywhere: FlaskClient, text: str) -> None:
    """Whatever a card says, its page has no element or attribute that could run, load or lead anywhere."""
    service = cast(Service, everywhere.application)
    before = service.serving.loaded
    try:
        service.swap(before.with_model(replace(before.models[NAME], card=text)))
        page = Page(everywhere.get(PATH, headers=BROWSER).text)
    finally:
        service.swap(before)

    assert {tag for tag, _ in page.tags} <= TAGS
    own = [(tag, names) for tag, names in page.tags if tag not in ("html", "meta", "link", "a")]
    assert {names for _, names in own} <= {(), ("class",), ("style",), ("start",), ("tabindex",)}
    assert page.links == ["data:,", "../../static/page.css", "../../"]


def test_card_is_kept_in_memory(store: Path, tmp_path: Path) -> None:
    """The card of a served version is there after its folder is gone."""
    shutil.copytree(store, tmp_path / "store")
    client = create_app(Config(store=tmp_path / "store")).test_client()
    expected = client.get(PATH).text
    shutil.rmtree(tmp_path / "store" / NAME / "1")

    assert client.get(PATH).text == expected


@pytest.mark.parametrize("size", [MAX_CARD_BYTES, MAX_CARD_BYTES + 1])
def test_large_card_is_not_kept(store: Path, tmp_path: Path, size: int) -> None:
    """A card that is larger than a page may be is left out, and the model is served."""
    shutil.copytree(store, tmp_path / "store")
    rewrite(tmp_path / "store" / NAME / "1", lambda facts: None, {"card.md": b"x" * size})
    client = create_app(Config(store=tmp_path / "store", models=(f"{NAME}@1",))).test_client()

    assert client.get("/readyz").status_code == 200
    assert ("no card.md" in client.get(PATH).text) is (size > MAX_CARD_BYTES)


def test_version_without_a_card(store: Path, tmp_path: Path) -> None:
    """A version whose manifest lists no card, and a card that is not UTF-8, have a page."""
    shutil.copytree(store, tmp_path / "store")
    folder = tmp_path / "store" / NAME / "1"
    rewrite(folder, lambda facts: None, {"card.md": b"# \xff"})
    assert (
        "# \ufffd" in create_app(Config(store=tmp_path / "store", models=(f"{NAME}@1",))).test_client().get(PATH).text
    )

    rewrite(folder, lambda facts: facts["files"].pop("card.md"))
    page = (
        create_app(Config(store=tmp_path / "store", models=(f"{NAME}@1",)))
        .test_client()
        .get(PATH, headers=BROWSER)
        .text
    )
    assert "This version has no card.md" in page
    assert "Digest: " in page
