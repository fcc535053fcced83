"""The OCI layouts in the hands of ordinary tools: a real registry, skopeo and umoci."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from model import Store
from model.cli.main import main
from tests.support.server import end, wait_until

NAME = "boston-housing"

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("skopeo", "umoci", "docker-registry"))), reason="needs skopeo, umoci and docker-registry"
)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """The address of an empty registry."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = tmp_path / "registry.yml"
    settings.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {tmp_path / 'registry'}\nhttp:\n  addr: {address}\n"
    )
    with (tmp_path / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", str(settings)], stdout=log, stderr=log)

    def is_up() -> bool:
        assert process.poll() is None, (tmp_path / "registry.log").read_text()
        try:
            return requests.get(f"http://{address}/v2/", timeout=10).ok
        except requests.ConnectionError:
            return False

    try:
        wait_until(is_up)
        yield address
    finally:
        end(process)


def copy(source: str, target: str) -> None:
    """Have skopeo copy what a source names to a target."""
    command = [
        "skopeo",
        "copy",
        "--preserve-digests",
        "--insecure-policy",
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
    ]
    done = subprocess.run([*command, source, target], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def blobs(layout: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}


@pytest.mark.parametrize("form", [(), ("--image",)], ids=["modelpack", "image"])
def test_registry_and_back(store: Path, tmp_path: Path, registry: str, form: tuple[str, ...]) -> None:
    """A registry takes the layout, names its manifest by the digest that was printed, and gives back every blob."""
    packed, pulled = tmp_path / "packed", tmp_path / "pulled"
    assert main(["--store", str(store), "pack", NAME, "--oci", str(packed), *form]) == 0
    copy(f"oci:{packed}:1", f"docker://{registry}/models/{NAME}:1")
    accepted = {"Accept": "application/vnd.oci.image.manifest.v1+json"}
    reply = requests.get(f"http://{registry}/v2/models/{NAME}/manifests/1", headers=accepted, timeout=10)
    copy(f"docker://{registry}/models/{NAME}:1", f"oci:{pulled}:1")

    assert f'"digest":"{reply.headers["Docker-Content-Digest"]}"' in (packed / "index.json").read_text()
    assert blobs(pulled) == blobs(packed)


def test_image_as_a_runtime_unpacks_it(store: Path, tmp_path: Path) -> None:
    """An unpacked image has the version's folder at /models, which loads as it is."""
    packed, bundle = tmp_path / "packed", tmp_path / "bundle"
    assert main(["--store", str(store), "pack", NAME, "--oci", str(packed), "--image"]) == 0
    command = ["umoci", "unpack", "--rootless", "--image", f"{packed}:1", str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert done.returncode == 0, done.stderr
    assert Store(bundle / "rootfs" / "models").load(NAME).version == 1
