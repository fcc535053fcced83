"""Signatures and a running server: what does not verify never replaces what is served."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import requests

from model.cli.main import main
from model.store import artifact
from tests.support.server import Server, serve, wait_until
from tests.support.service import HOUSE, rewrite
from tests.support.signatures import key_pair

NAME = "boston-housing"


def sign(store: Path, key: Path) -> None:
    """Sign the version by the command."""
    assert main(["--store", str(store), "sign", f"{NAME}@1", "--key", str(key)]) == 0


def reload(server: Server) -> None:
    """Send SIGHUP and wait until no worker of before is left."""
    old = set(server.workers())
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: bool(server.workers()) and not old & set(server.workers()))
    wait_until(lambda: requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200)


def test_reload_keeps_what_was_signed(store: Path, tmp_path: Path) -> None:
    """A version that another one took the place of is loaded at a reload only once it is signed; until then the old one
    answers, and the log names the file.
    """
    own = Path(shutil.copytree(store, tmp_path / "store"))
    folder = own / NAME / "1"
    private, public = key_pair(tmp_path)
    sign(own, private)
    before = artifact.read_manifest(folder)["digest"]
    settings = {"TABSERVE_MODELS": f"{NAME}@1", "TABSERVE_TRUSTED_KEYS": str(public)}
    with serve(own, tmp_path, WEB_CONCURRENCY="1", **settings) as server:
        rewrite(folder, lambda manifest: manifest.update(title="other"))
        after = artifact.read_manifest(folder)["digest"]
        reload(server)
        assert f'digest="{before}"' in requests.get(f"{server.url}/metrics", timeout=10).text
        lines = [json.loads(line)["message"] for line in server.stderr.read_text().splitlines()]
        reason = f"the models are not loaded again: {folder}/manifest.json: is not the file that was signed"
        assert [line for line in lines if line.startswith(reason)]

        sign(own, private)
        reload(server)
        assert f'digest="{after}"' in requests.get(f"{server.url}/metrics", timeout=10).text


def test_keys_that_come_later(store: Path, tmp_path: Path) -> None:
    """A server whose file of keys is not there yet serves nothing; once it is there, it serves without a restart."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    private, public = key_pair(tmp_path)
    sign(own, private)
    trusted = tmp_path / "keys" / "trusted.pem"
    trusted.parent.mkdir()
    with serve(own, tmp_path, wait="/livez", WEB_CONCURRENCY="1", TABSERVE_TRUSTED_KEYS=str(trusted)) as server:
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 503
        assert f"{trusted}: does not exist" in requests.get(f"{server.url}/readyz", timeout=10).json()["reason"]
        shutil.copy(public, trusted)
        wait_until(lambda: requests.get(f"{server.url}/readyz", timeout=10).status_code == 200)

        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200
