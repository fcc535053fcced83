"""A version as an OCI layout: the forms of ModelPack and of an image, digests, and what is in the layers."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from model import Store
from model.cli.main import main
from model.store import artifact

NAME = "boston-housing"
# The schema of ModelPack's configuration, as v0.0.7 of the specification has it.
SCHEMA = Path(__file__).parent / "modelpack-config-schema.json"


def run(store: Path, *arguments: object) -> None:
    assert main(["--store", str(store), "pack", NAME, *map(str, arguments)]) == 0


def blob(layout: Path, descriptor: dict[str, Any]) -> bytes:
    """Return the blob of a descriptor, whose digest and size are right."""
    content: bytes = (layout / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")).read_bytes()
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
    assert len(content) == descriptor["size"]
    return content


def manifest_of(layout: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the only manifest of a layout, and its configuration."""
    assert json.loads((layout / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((layout / "index.json").read_bytes())
    (descriptor,) = index["manifests"]
    assert descriptor["annotations"] == {"org.opencontainers.image.ref.name": "1"}
    manifest = json.loads(blob(layout, descriptor))
    assert descriptor.get("artifactType") == manifest.get("artifactType")
    return manifest, json.loads(blob(layout, manifest["config"]))


def unpacked(layout: Path, manifest: dict[str, Any]) -> dict[str, bytes]:
    """Return the files of all layers by name."""
    files = {}
    for layer in manifest["layers"]:
        with tarfile.open(fileobj=io.BytesIO(blob(layout, layer))) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                if content := archive.extractfile(member):
                    files[member.name] = content.read()
    return files


def test_model_pack(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The layout has ModelPack's types, a configuration that its schema accepts, and every file as a layer."""
    layout = tmp_path / "layout"
    run(store, "--oci", layout)
    manifest, config = manifest_of(layout)
    path = Store(store).find(NAME)
    files = {each.relative_to(path).as_posix(): each.read_bytes() for each in path.rglob("*") if each.is_file()}

    assert manifest["artifactType"] == "application/vnd.cncf.model.manifest.v1+json"
    assert manifest["config"]["mediaType"] == "application/vnd.cncf.model.config.v1+json"
    assert unpacked(layout, manifest) == files
    assert [layer["annotations"]["org.cncf.model.filepath"] for layer in manifest["layers"]] == sorted(files)
    kinds = {each["annotations"]["org.cncf.model.filepath"]: each["mediaType"] for each in manifest["layers"]}
    prefix = "application/vnd.cncf.model."
    assert kinds["trees.npz"] == f"{prefix}weight.v1.tar"
    assert kinds["manifest.json"] == kinds["golden.json"] == f"{prefix}weight.config.v1.tar"
    assert kinds["card.md"] == f"{prefix}doc.v1.tar"
    Draft202012Validator(json.loads(SCHEMA.read_text())).validate(config)
    assert config["modelfs"]["diffIds"] == [layer["digest"] for layer in manifest["layers"]]
    assert (config["descriptor"]["name"], config["descriptor"]["version"]) == (NAME, "1")
    printed = capsys.readouterr().out.split()[0]
    assert printed == json.loads((layout / "index.json").read_bytes())["manifests"][0]["digest"]


def test_image(store: Path, tmp_path: Path) -> None:
    """With --image the files are in /models of an ordinary image, from where they load as they are."""
    layout, root = tmp_path / "layout", tmp_path / "root"
    run(store, "--oci", layout, "--image")
    manifest, config = manifest_of(layout)
    for name, content in unpacked(layout, manifest).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)

    assert "artifactType" not in manifest
    assert manifest["config"]["mediaType"] == "application/vnd.oci.image.config.v1+json"
    assert [layer["mediaType"] for layer in manifest["layers"]] == ["application/vnd.oci.image.layer.v1.tar"]
    assert config["rootfs"] == {"type": "layers", "diff_ids": [manifest["layers"][0]["digest"]]}
    assert Store(root / "models").load(NAME).manifest.document == artifact.read(Store(store).find(NAME))[0]


@pytest.mark.parametrize("form", [(), ("--image",)])
def test_same_version_gives_the_same_digests(store: Path, tmp_path: Path, form: tuple[str, ...]) -> None:
    """Two packings of a version are the same to the last byte."""
    for name in ("a", "b"):
        run(store, "--oci", tmp_path / name, *form)
    first, second = (
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert first == second


def test_wrong_arguments(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written over; an archive and a layout are not mixed."""
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").touch()
    for arguments, text in {
        ("--oci", full): f"{full} exists and is not empty; name a new folder",
        (): "name either the archive, or a folder with --oci",
        ("x.tar.gz", "--oci", tmp_path / "y"): "name either the archive, or a folder with --oci",
        ("x.tar.gz", "--image"): "--image is a form of --oci; name its folder",
    }.items():
        assert main(["--store", str(store), "pack", NAME, *map(str, arguments)]) == 1
        assert capsys.readouterr().err == f"error: {text}\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full"]
