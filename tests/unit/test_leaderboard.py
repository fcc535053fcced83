"""The leaderboard of a search in a manifest, on the card and on the page: whatever a manifest says, nothing fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import create_app
from app.config import Config
from model.store import artifact, manifest
from model.store.artifact import Draft
from model.store.manifest import MAX_STANDINGS, Leaderboard
from tests.support.service import rewrite

NAME = "boston-housing"
ANYTHING: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


def entry(family: str = "linear", **changes: Any) -> dict[str, Any]:
    """Return a family as a search writes it."""
    score = {"mean": 2.5, "low": 2.0, "high": 3.0}
    return {"family": family, "trial": 1, "score": score, "parameters": {}, "n_trials": 3, "n_failed": 0, **changes}


def board(*entries: Any, metric: Any = "RMSE") -> dict[str, Any]:
    return {"metric": metric, "trials": 9, "stopped_early": 0, "left_out": {}, "entries": list(entries)}


MEASURED = {"linear": {"fit_seconds": 0.25, "microseconds_one_row": 12.5, "bytes": 2048}}


@pytest.fixture
def folder(store: Path, tmp_path: Path) -> Path:
    """A copy of the trained artifact, in a store, to change."""
    shutil.copytree(store / NAME, tmp_path / "store" / NAME)
    return tmp_path / "store" / NAME / "1"


@pytest.fixture(scope="module")
def document(store: Path) -> dict[str, Any]:
    """The manifest of the trained artifact."""
    return artifact.read_manifest(store / NAME / "1")


def written(folder: Path, search: Any) -> Leaderboard | None:
    """Return the leaderboard of an artifact whose manifest has these facts of a search."""

    def change(facts: dict[str, Any]) -> None:
        facts["search"] = search
        facts["observed"] = {"leaderboard": MEASURED}

    rewrite(folder, change)
    return artifact.load(folder).manifest.leaderboard


def page_of(folder: Path) -> dict[str, Any]:
    """Return what the page for people shows of a version."""
    client = create_app(
        Config(store=folder.parents[1], models=(f"{folder.parent.name}@{folder.name}",)), write_log=lambda pieces: None
    ).test_client()
    reply = client.get(f"/models/{folder.parent.name}/page")
    assert reply.status_code == 200
    found: dict[str, Any] = reply.get_json()
    return found


def test_leaderboard_is_read_and_shown(folder: Path) -> None:
    """The families are in the order of the manifest, with what was measured; the page has them."""
    found = written(
        folder, {"leaderboard": board(entry(), entry("baseline", score={"mean": 9, "low": None, "high": 9}))}
    )

    assert found is not None
    assert [(each.family, each.mean, each.low, each.high) for each in found.standings] == [
        ("linear", 2.5, 2.0, 3.0),
        ("baseline", 9.0, None, 9),
    ]
    assert found.standings[0].measured == {"fit_seconds": 0.25, "microseconds_one_row": 12.5, "bytes": 2048.0}
    assert found.standings[1].measured == {}
    assert page_of(folder)["leaderboard"] == {
        "metric": "RMSE",
        "standings": [
            {"family": "linear", "mean": 2.5, "low": 2.0, "high": 3.0, **MEASURED["linear"]},
            {"family": "baseline", "mean": 9.0, "low": None, "high": 9},
        ],
    }


def test_model_without_a_search_has_no_leaderboard(folder: Path) -> None:
    """A model that was not searched for has none, and its page no table of learners."""
    assert artifact.load(folder).manifest.leaderboard is None
    assert page_of(folder)["leaderboard"] is None


@pytest.mark.parametrize(
    "search",
    [
        None,
        [],
        "leaderboard",
        {},
        {"leaderboard": None},
        {"leaderboard": board()},
        {"leaderboard": board(entry(), metric=3)},
        {"leaderboard": {**board(), "entries": {"a": 1}}},
        {"leaderboard": board("linear")},
        {"leaderboard": board({**entry(), "family": ["a"]})},
        {"leaderboard": board(entry(n_trials=-1))},
        {"leaderboard": board(entry(score={"mean": "good", "low": 1, "high": 2}))},
        {"leaderboard": board(entry(score={"mean": 10**400, "low": 1, "high": 2}))},
        {"leaderboard": board(entry(score={"mean": 1, "low": 10**400, "high": 2}))},
        {"leaderboard": board(entry(score={"mean": 1}))},
    ],
)
def test_broken_leaderboard_is_none(folder: Path, search: Any) -> None:
    """A manifest that does not have a leaderboard completely is served without one."""
    assert written(folder, search) is None
    assert page_of(folder)["leaderboard"] is None


@given(facts=ANYTHING, observed=ANYTHING)
def test_any_facts_are_no_error(document: dict[str, Any], facts: Any, observed: Any) -> None:
    """Whatever a manifest says of a search, and of what was observed, it is read, without a leaderboard."""
    for search in (facts, {"leaderboard": facts}, {"leaderboard": board(facts)}):
        assert manifest.parse({**document, "search": search, "observed": observed}).leaderboard is None


@given(observed=ANYTHING, measured=ANYTHING)
def test_what_was_measured_is_numbers(document: dict[str, Any], observed: Any, measured: Any) -> None:
    """What is no number among what was measured is left out."""
    for each in (observed, {"leaderboard": measured}, {"leaderboard": {"linear": measured}}):
        search = {"leaderboard": board(entry())}
        found = manifest.parse({**document, "search": search, "observed": each}).leaderboard
        assert found is None or all(type(value) is float for value in found.standings[0].measured.values())


def test_hostile_leaderboard_is_bounded(folder: Path) -> None:
    """A page has so many families at most."""
    hostile = [entry(f"<script>{number}</script>") for number in range(1_000)]
    found = written(folder, {"leaderboard": board(*hostile, metric="<b>RMSE</b>")})

    assert found is not None
    assert len(found.standings) == MAX_STANDINGS
    assert len(page_of(folder)["leaderboard"]["standings"]) == MAX_STANDINGS


def test_what_is_observed_is_no_part_of_the_digest(store: Path, tmp_path: Path) -> None:
    """Two versions that differ in what was observed alone have the same digest, and a draft keeps it."""
    draft = artifact.read_draft(store / NAME / "1")
    paths = []
    for number, seconds in enumerate((1.5, 2.5), 1):
        other = Draft(draft.manifest, draft.files, {"leaderboard": {"linear": {"fit_seconds": seconds}}})
        paths.append(artifact.save(other, tmp_path / str(number), name=NAME, version=1))
    one, two = (json.loads((path / "manifest.json").read_bytes()) for path in paths)

    assert one["digest"] == two["digest"]
    assert one["observed"]["leaderboard"]["linear"]["fit_seconds"] == 1.5
    assert artifact.read_draft(paths[1]).observed == two["observed"]
    assert artifact.load(paths[0]).manifest.digest == one["digest"]
    assert draft.observed == {}
