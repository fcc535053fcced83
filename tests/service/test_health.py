"""Owns /livez and /readyz, which platforms request first."""

from __future__ import annotations

import shutil
import zlib
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from model import Store
from model.store.artifact import read_draft
from tests.support.health import BROWSER
from tests.support.service import HOUSE, rewrite

NAME = "boston-housing"


@pytest.fixture
def own_store(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, for tests that damage it."""
    return Path(shutil.copytree(store, tmp_path / "store"))


def damage(path: Path) -> None:
    """Change one byte in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_livez(client: FlaskClient) -> None:
    """A process that answers is live."""
    reply = client.get("/livez")

    assert (reply.status_code, reply.get_json()) == (200, {"live": True})


def test_readyz(client: FlaskClient) -> None:
    """A service with a verified model is ready, and /readyz has its version."""
    reply = client.get("/readyz")

    assert (reply.status_code, reply.get_json()) == (200, {"ready": True, "models": {NAME: 1}})


@pytest.mark.parametrize("name", ["trees.npz", "golden.json", "manifest.json", "pipeline.joblib", "card.md"])
def test_damaged_artifact(own_store: Path, name: str) -> None:
    """A model with a changed file is not served; /readyz names the file, and liveness does not depend on it."""
    path = own_store / NAME / "1" / name
    damage(path)
    client = create_app(Config(store=own_store)).test_client()

    ready = client.get("/readyz")
    assert ready.status_code == 503
    assert ready.headers["Retry-After"] == "1"
    assert ready.get_json()["ready"] is False
    assert str(path) in ready.get_json()["reason"]
    assert client.get("/livez").status_code == 200
    assert client.post("/predict", json=HOUSE).status_code == 503
    assert client.get("/", headers=BROWSER).status_code == 200


def test_missing_file(own_store: Path) -> None:
    """A model with a missing file is not served, and /readyz names the file."""
    path = own_store / NAME / "1" / "trees.npz"
    path.unlink()
    ready = create_app(Config(store=own_store)).test_client().get("/readyz")

    assert ready.status_code == 503
    assert str(path) in ready.get_json()["reason"]


@pytest.mark.parametrize("reference", ["titanic", f"{NAME}@7", f"{NAME}@challenger", "../store", ""])
def test_model_that_is_not_in_the_store(store: Path, reference: str) -> None:
    """With a reference to an unknown version the service is live and not ready, and /readyz names the reference."""
    client = create_app(Config(store=store, models=(reference,))).test_client()
    wanted = reference.partition("@")[2] or reference

    assert client.get("/livez").status_code == 200
    assert client.get("/readyz").status_code == 503
    assert repr(wanted) in client.get("/readyz").get_json()["reason"]
    assert client.post("/predict", json=HOUSE).status_code == 503


@pytest.mark.parametrize(("damaged", "sound"), [(NAME, "other"), ("other", NAME)])
def test_one_of_two_models_is_damaged(own_store: Path, damaged: str, sound: str) -> None:
    """If one of two models is damaged, the other is served under its own name only, and the service is not ready."""
    Store(own_store).add("other", read_draft(own_store / NAME / "1"))
    damage(own_store / damaged / "1" / "trees.npz")
    client = create_app(Config(store=own_store, models=(NAME, "other"))).test_client()

    assert client.get("/readyz").status_code == 503
    assert client.post(f"/models/{sound}/predict", json=HOUSE).status_code == 200
    assert client.post(f"/models/{damaged}/predict", json=HOUSE).status_code == 503
    assert client.post("/predict", json=HOUSE).status_code == (503 if damaged == NAME else 200)


def test_two_versions_of_one_model(own_store: Path) -> None:
    """The first configured model answers /predict, or none does, even if two are versions of one model."""
    Store(own_store).add(NAME, read_draft(own_store / NAME / "1"))
    client = create_app(Config(store=own_store, models=(f"{NAME}@2", f"{NAME}@1"))).test_client()
    reply = client.post("/predict", json=HOUSE)

    assert reply.headers.get("X-Model-Version", "2") == "2"


def test_folder_of_another_version(own_store: Path) -> None:
    """A version is served only from its own folder: version 1 in the folder of 2 is not served as 2."""
    shutil.copytree(own_store / NAME / "1", own_store / NAME / "2")
    client = create_app(Config(store=own_store, models=(f"{NAME}@2",))).test_client()

    assert client.get("/readyz").status_code == 503
    assert client.post("/predict", json=HOUSE).status_code == 503


def test_alias_of_another_version(own_store: Path) -> None:
    """A version whose manifest is not the one that its alias was moved to is refused, however valid it is."""
    rewrite(own_store / NAME / "1", lambda manifest: manifest.update(title="Another"))
    reply = create_app(Config(store=own_store)).test_client().get("/readyz")

    assert create_app(Config(store=own_store, models=(f"{NAME}@1",))).test_client().get("/readyz").status_code == 200
    assert reply.status_code == 503
    assert "is of another version than the alias was moved to" in reply.get_json()["reason"]


@pytest.mark.parametrize("path", ["/metrics", "/openapi.json"])
@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_long_pages_are_compressed(client: FlaskClient, path: str, coding: str) -> None:
    """Long pages are compressed if the client accepts that, and have Vary."""
    plain, small = client.get(path), client.get(path, headers={"Accept-Encoding": f"{coding}, br"})
    refused = client.get(path, headers={"Accept-Encoding": f"{coding};q=0"})

    assert [reply.headers.get("Content-Encoding") for reply in (plain, small, refused)] == [None, coding, None]
    assert all("Accept-Encoding" in reply.vary for reply in (plain, small, refused))
    assert len(small.data) < len(plain.data) / 3
    assert small.content_length == len(small.data)
    text = zlib.decompress(small.data, 15 + 32).decode()
    assert small.content_type == plain.content_type
    assert text == plain.text if path == "/openapi.json" else "tabserve_ready 1.0" in text
