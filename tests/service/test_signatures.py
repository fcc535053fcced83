"""With TABSERVE_TRUSTED_KEYS a service has only models whose signature verifies; /readyz says what is wrong."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from app import create_app
from app.config import Config
from model.cli.main import main
from tests.support.service import HOUSE, rewrite
from tests.support.signatures import key_pair

NAME = "boston-housing"


@pytest.fixture
def own_store(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, to sign and to damage."""
    return Path(shutil.copytree(store, tmp_path / "store"))


def reason(store: Path, *keys: Path) -> str:
    """Return why a service with these keys is not ready; it answers nothing then. Empty if it is and does."""
    client = create_app(Config(store=store, trusted_keys=keys, prediction_log="", log_requests=False)).test_client()
    ready = client.get("/readyz")
    assert client.get("/livez").status_code == 200
    assert client.post("/predict", json=HOUSE).status_code == ready.status_code
    return "" if ready.status_code == 200 else str(ready.get_json()["reason"])


def test_what_is_signed_by_a_trusted_key_is_served(own_store: Path, tmp_path: Path) -> None:
    """A version is served once one of the trusted keys signed it; another key does not count."""
    private, public = key_pair(tmp_path)
    _, other = key_pair(tmp_path, "other")
    path = own_store / NAME / "1" / "model.sig"

    assert reason(own_store, public).startswith(f"{path}: is missing: the version is not signed; sign it: ")
    assert main(["--store", str(own_store), "sign", NAME, "--key", str(private)]) == 0
    assert reason(own_store, other, public) == ""
    assert reason(own_store, other).startswith(f"{path}: does not verify: it was made with the key ")


def test_without_trusted_keys_signatures_are_not_looked_at(own_store: Path) -> None:
    """By default a version is served whatever its signature is."""
    (own_store / NAME / "1" / "model.sig").write_bytes(b"nonsense")

    assert reason(own_store) == ""


def test_what_an_artifact_says_is_no_trust(own_store: Path, tmp_path: Path) -> None:
    """A public key in the artifact or the store is not trusted, nor is a manifest that was corrected by hand."""
    private, public = key_pair(own_store / NAME)
    _, trusted = key_pair(tmp_path)
    folder = own_store / NAME / "1"
    rewrite(
        folder, lambda manifest: manifest.update(trusted_keys=[public.read_text()]), {"key.pem": public.read_bytes()}
    )
    assert main(["--store", str(own_store), "sign", f"{NAME}@1", "--key", str(private)]) == 0

    assert "which is not trusted" in reason(own_store, trusted)


def test_nothing_is_served_by_unusable_keys(own_store: Path, tmp_path: Path) -> None:
    """With a file of keys that cannot be used, no model is loaded, signed or not: the server is live and not ready."""
    private, public = key_pair(tmp_path)
    assert main(["--store", str(own_store), "sign", NAME, "--key", str(private)]) == 0

    assert reason(own_store, public, private).startswith(
        f"{private}: has a private key, which belongs to whoever signs"
    )
    assert reason(own_store, public, tmp_path / "gone.pem") == f"{tmp_path}/gone.pem: does not exist; name a PEM file"
