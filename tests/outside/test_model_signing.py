"""Signatures and the OpenSSF's model_signing, which runs in its own environment: each accepts what the other signed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from model import ArtifactError
from model.store import artifact
from model.store.signature import TrustedKeys, sign
from tests.support.service import ROOT, rewrite
from tests.support.signatures import write_private, write_public

PYTHON = ROOT / ".venv-clients" / "bin" / "python"

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="there is no .venv-clients; `make test-all` makes it")


def model_signing(*words: str | Path) -> str:
    """Run a command of model_signing and return what it prints, with its exit status."""
    done = subprocess.run([PYTHON, "-m", "model_signing", *words], capture_output=True, text=True, timeout=120)
    return f"{done.returncode} {done.stdout}{done.stderr}"


@pytest.fixture
def folder(store: Path, tmp_path: Path) -> Path:
    """A copy of the trained version."""
    return Path(shutil.copytree(store / "boston-housing" / "1", tmp_path / "1"))


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_both_ways(folder: Path, tmp_path: Path, curve: ec.EllipticCurve) -> None:
    """Ours verifies there, and not after a change; theirs, made with its defaults, verifies here, and not after one.

    Both are of the same files, and name them in the same order with the same digest of all.
    """
    key = ec.generate_private_key(curve)
    private = write_private(tmp_path / "key.pem", key)
    public = write_public(tmp_path / "key.pub.pem", key.public_key())
    trusted, path = TrustedKeys.read([public]), folder / "model.sig"
    verify = ("verify", "key", folder, "--public_key", public, "--signature", path)

    sign(artifact.load(folder), key)
    ours = trusted.digests(folder)
    assert model_signing(*verify) == "0 Verification succeeded\n"
    for change in (lambda: (folder / "notes.txt").touch(), lambda: (folder / "card.md").write_text("better")):
        change()
        assert "Signature mismatch" in model_signing(*verify)
    (folder / "notes.txt").unlink()

    path.unlink()
    rewrite(folder, lambda manifest: None, {"card.md": b"better"})
    signed = model_signing("sign", "key", folder, "--private_key", private, "--signature", path)
    assert signed == "0 Signing succeeded\n"
    assert artifact.load(folder, signed=trusted.digests).name == "boston-housing"
    assert list(trusted.digests(folder)) == list(ours)
    assert json.loads(path.read_bytes()).keys() == {"mediaType", "verificationMaterial", "dsseEnvelope"}
    (folder / "card.md").write_text("worse")
    with pytest.raises(ArtifactError, match=r"card\.md"):
        artifact.load(folder, signed=trusted.digests)
