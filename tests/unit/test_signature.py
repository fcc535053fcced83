"""A signed version loads only as it was signed: the same files, no other, by a key that is trusted."""

from __future__ import annotations

import base64
import json
import os
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from model import ArtifactError, Store
from model.cli.main import main
from model.errors import KeyFileError
from model.store import artifact
from model.store.signature import TrustedKeys, bundle, key_id, read_private_key, sign
from tests.support.service import ROOT, rewrite
from tests.support.signatures import key_pair, write_private, write_public

NAME = "boston-housing"
KEY, OTHER = (ec.derive_private_key(number, ec.SECP256R1()) for number in (17, 18))  # the same in every process
TRUSTED = TrustedKeys({key_id(KEY.public_key()): KEY.public_key()})
DIGESTS = {"manifest.json": "ab" * 32, "trees.npz": "cd" * 32, "plots/a.png": "ef" * 32}
BUNDLE = bundle(DIGESTS, "houses@1", KEY)
SIGNATURES = ROOT / "tests" / "unit" / "signatures"


def no_password() -> str:
    raise AssertionError("the key is not encrypted")


@pytest.fixture(scope="module")
def kept(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One signed copy of the trained version, for tests that undo their changes."""
    folder = Path(shutil.copytree(store / NAME / "1", tmp_path_factory.mktemp("kept") / "1"))
    sign(artifact.load(folder), KEY)
    return folder


@pytest.fixture
def folder(kept: Path, tmp_path: Path) -> Path:
    """A signed version, to break."""
    return Path(shutil.copytree(kept, tmp_path / "1"))


def refused(folder: Path, trusted: TrustedKeys = TRUSTED) -> ArtifactError:
    """Return why a folder is not loaded."""
    with pytest.raises(ArtifactError) as caught:
        artifact.load(folder, signed=trusted.digests)
    return caught.value


def verifies(content: bytes) -> bool:
    """Return whether a bundle verifies; anything but ValueError is raised."""
    try:
        return TRUSTED.verify(content) == DIGESTS
    except ValueError:
        return False


def edited(change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return the bundle after a change, as compact as before."""
    document = json.loads(BUNDLE)
    change(document)
    return json.dumps(document, separators=(",", ":")).encode()


def test_signed_version_loads_with_and_without_keys(folder: Path) -> None:
    """A signature changes nothing of the version: the same digest, and a reader without keys does not look at it."""
    loaded = artifact.load(folder, signed=TRUSTED.digests)

    assert loaded.manifest.digest == artifact.load(folder).manifest.digest
    assert "model.sig" not in loaded.manifest.files


def test_folder_may_be_renamed_and_moved(folder: Path) -> None:
    """The signature is of the files and not of where they are."""
    moved = folder.rename(folder.with_name("elsewhere"))

    assert artifact.load(moved, signed=TRUSTED.digests).version == 1


def test_same_version_and_key_give_the_same_signature(folder: Path) -> None:
    """Signing again replaces the signature by the same bytes, and leaves nothing else."""
    before = (folder / "model.sig").read_bytes()
    (folder / "model.sig").write_bytes(b"old")
    sign(artifact.load(folder), KEY)

    assert (folder / "model.sig").read_bytes() == before
    assert list(folder.parent.iterdir()) == [folder]


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()], ids=lambda curve: curve.name)
def test_every_curve(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    """Keys on the three curves sign and verify, with several public keys in a file and several files."""
    key = ec.generate_private_key(curve)
    read = read_private_key(write_private(tmp_path / "key.pem", key), no_password)
    both = write_public(tmp_path / "both.pem", KEY.public_key(), key.public_key())
    other = write_public(tmp_path / "other.pem", OTHER.public_key())

    assert TrustedKeys.read([other, both]).verify(bundle(DIGESTS, "houses@1", read)) == DIGESTS


def test_encrypted_key(tmp_path: Path) -> None:
    """The password of an encrypted key is asked for; a wrong one is an error that names the file."""
    path = write_private(tmp_path / "key.pem", KEY, b"secret")

    assert read_private_key(path, lambda: "secret").public_key() == KEY.public_key()
    with pytest.raises(KeyFileError, match=r"key\.pem: has no private key that can be read.*password"):
        read_private_key(path, lambda: "wrong")


def test_signature_of_model_signing_is_accepted() -> None:
    """What model_signing 1.1.1 signed with its defaults verifies, without that package."""
    trusted = TrustedKeys.read([SIGNATURES / "model_signing-1.1.1.pem"])
    digests = trusted.verify((SIGNATURES / "model_signing-1.1.1.sig").read_bytes())

    assert list(digests) == ["manifest.json", "plots/a.png", "trees.npz"]
    assert digests["manifest.json"] == "ca3d163bab055381827226140568f3bef7eaac187cebd76878e0b63e9e442356"


def test_no_changed_byte_loads(kept: Path) -> None:
    """A change of one byte at any of 1,000 random places is refused, in small files as often as in large ones."""
    chance = random.Random(17)
    files = sorted(path for path in kept.rglob("*") if path.is_file())
    accepted = []
    for path in chance.choices(files, k=1_000):
        with path.open("r+b", buffering=0) as file:
            place = chance.randrange(path.stat().st_size)
            (byte,) = os.pread(file.fileno(), 1, place)
            os.pwrite(file.fileno(), bytes([byte ^ chance.randrange(1, 256)]), place)
            try:
                artifact.load(kept, signed=TRUSTED.digests)
                accepted.append((path.name, place))
            except ArtifactError:
                pass
            os.pwrite(file.fileno(), bytes([byte]), place)

    assert accepted == []
    artifact.load(kept, signed=TRUSTED.digests)


def test_no_changed_byte_of_a_signature_verifies() -> None:
    """Every byte of a signature counts: any bit that changes, spelling included, is refused."""
    for place in range(len(BUNDLE)):
        changed = bytearray(BUNDLE)
        changed[place] ^= 1 << place % 8
        assert not verifies(bytes(changed)), place


@given(content=st.binary(max_size=30), place=st.integers(0, len(BUNDLE)), length=st.integers(0, 200))
def test_other_bytes_do_not_verify(content: bytes, place: int, length: int) -> None:
    """Whatever takes the place of a part of a signature, it does not verify, and nothing but ValueError is raised."""
    changed = BUNDLE[:place] + content + BUNDLE[place + length :]

    assert verifies(changed) == (changed == BUNDLE)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.just("sha256")
    | st.just("a" * 64),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "algorithm", "digest", "sha256", "hint"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def places_in(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the places of all values in a document of JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(found for key, inner in inside for found in places_in(inner, (*place, key)))]


def put(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """Return a document of JSON with another value at a place."""
    if not place:
        return value
    inner: Any = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return document


@given(data=st.data(), value=JSON)
def test_bundle_of_any_shape_is_an_error(data: st.DataObject, value: Any) -> None:
    """A bundle in which anything has another value does not verify, and nothing but ValueError is raised."""
    document = json.loads(BUNDLE)
    changed = put(document, data.draw(st.sampled_from(places_in(document))), value)

    assert verifies(json.dumps(changed, separators=(",", ":")).encode()) == (changed == json.loads(BUNDLE))


def signed_payload(payload: bytes) -> bytes:
    """Return a bundle whose payload is anything, with a valid signature (DSSE 1.0.0)."""
    content = b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)
    made = base64.b64encode(KEY.sign(content, ec.ECDSA(hashes.SHA256()))).decode()
    encoded = base64.b64encode(payload).decode()
    return edited(
        lambda document: document["dsseEnvelope"].update(payload=encoded, signatures=[{"sig": made, "keyid": ""}])
    )


@given(data=st.data(), value=JSON)
def test_statement_of_any_shape_gives_digests_or_an_error(data: st.DataObject, value: Any) -> None:
    """Even of a trusted key, a statement gives names with SHA-256, or ValueError, whatever is in it."""
    statement = json.loads(base64.b64decode(json.loads(BUNDLE)["dsseEnvelope"]["payload"]))
    changed = put(statement, data.draw(st.sampled_from(places_in(statement))), value)
    try:
        digests = TRUSTED.verify(signed_payload(json.dumps(changed).encode()))
    except ValueError:
        return
    assert all(isinstance(name, str) and len(bytes.fromhex(digests[name])) == 32 for name in digests)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "Expecting value"),
        (b"{}", "not a bundle"),
        (b"[" * 100_000, "too many levels"),
        (b"[" * 100_001, "more than 100000 lists"),
        (b" " * 2**20 + BUNDLE, "more than 1048576 bytes"),
        (BUNDLE + b"\n", "parts or spaces"),
        (json.dumps(json.loads(BUNDLE), indent=2).encode(), "parts or spaces"),
        (edited(lambda document: document.update(more=1)), "parts or spaces"),
        (edited(lambda document: document["dsseEnvelope"]["signatures"].append({})), "parts or spaces"),
        (edited(lambda document: document["dsseEnvelope"]["signatures"].clear()), "not a bundle"),
        (edited(lambda document: document.update(mediaType="application/vnd.dev.sigstore.bundle+json")), "media type"),
        (
            edited(lambda document: document.update(verificationMaterial={"certificate": {}})),
            "certificate or by Sigstore",
        ),
        (edited(lambda document: document["verificationMaterial"]["publicKey"].update(hint=None)), "1.1 or newer"),
        (edited(lambda document: document["verificationMaterial"]["publicKey"].update(hint="0" * 64)), "not trusted"),
        (edited(lambda document: document["dsseEnvelope"].update(payload="é")), "ASCII"),
        (edited(lambda document: document["dsseEnvelope"].update(payload="e30")), "Base64"),
        (edited(lambda document: document["dsseEnvelope"].update(payload="e30=")), "or was changed"),
        (bundle(DIGESTS, "houses@1", OTHER), "which is not trusted"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_a_signature_is_refused(content: bytes, reason: str) -> None:
    """Anything but the one spelling of a bundle by a trusted key is refused, with the reason."""
    with pytest.raises(ValueError, match=reason):
        TRUSTED.verify(content)


def test_another_key_under_the_id_of_a_trusted_one(folder: Path) -> None:
    """What a bundle says of its key is not believed: it only chooses which trusted key must have made it."""
    forged = json.loads(bundle(dict(TRUSTED.digests(folder)), "houses@1", OTHER))
    forged["verificationMaterial"]["publicKey"]["hint"] = key_id(KEY.public_key())
    (folder / "model.sig").write_bytes(json.dumps(forged, separators=(",", ":")).encode())

    assert refused(folder).reason == "does not verify: it was not made with this key for these files, or was changed"


def test_attacker_who_corrects_all_hashes_is_refused(folder: Path) -> None:
    """A version that is consistent in itself is refused where it is not the one that was signed, by its manifest."""
    rewrite(folder, lambda manifest: manifest.update(title="worse"), {"card.md": b"another card"})
    artifact.load(folder)

    error = refused(folder)
    assert (error.path, error.reason) == (folder / "manifest.json", "is not the file that was signed: its hash differs")


@pytest.mark.parametrize("name", ["manifest.json", "trees.npz", "card.md"])
def test_change_between_check_and_use(folder: Path, name: str) -> None:
    """A file that changes after the signature was verified is refused: its bytes are hashed as they are read."""

    def verified_then_changed(path: Path) -> Mapping[str, str]:
        digests = TRUSTED.digests(path)
        (path / name).write_bytes((path / name).read_bytes().swapcase())
        return digests

    with pytest.raises(ArtifactError) as caught:
        artifact.load(folder, signed=verified_then_changed)
    assert caught.value.path == folder / name


def test_nothing_of_a_manifest_is_read_before_it_is_verified(folder: Path) -> None:
    """A manifest that was not signed is refused as such, whatever is in it."""
    (folder / "manifest.json").write_bytes(b"[" * 100)

    assert refused(folder).reason == "is not the file that was signed: its hash differs"


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (lambda f: (f / "model.sig").unlink(), "model.sig", "is missing: the version is not signed"),
        (lambda f: (f / "extra.txt").write_text("x"), "extra.txt", "is not a file of this version"),
        (lambda f: (f / "plots" / ".hidden").write_text("x"), "plots/.hidden", "is not a file of this version"),
        (lambda f: (f / "empty").mkdir(), "empty", "is not a file of this version"),
        (lambda f: (f / "link").symlink_to(f / "card.md"), "link", "is a link"),
        (lambda f: (f / "more").symlink_to(f / "plots"), "more", "is a link"),
        (lambda f: os.mkfifo(f / "pipe"), "pipe", "is not a file of this version"),
        (lambda f: (f / "card.md").unlink(), "card.md", "is missing"),
        (lambda f: (f / "card.md").write_text("better"), "card.md", "has 6 bytes where the manifest says"),
    ],
)
def test_other_files_are_refused(folder: Path, change: Callable[[Path], object], name: str, reason: str) -> None:
    """Every file that was signed is there, unchanged, and nothing else: no file, folder, link or pipe."""
    change(folder)

    error = refused(folder)
    assert error.path == folder / name
    assert error.reason.startswith(reason)


@pytest.mark.parametrize("name", ["model.sig", "card.md", "plots"])
def test_links_in_place_of_what_was_signed(folder: Path, tmp_path: Path, name: str) -> None:
    """A link to the very bytes that were signed is refused: they could change between one read and the next."""
    target = (folder / name).rename(tmp_path / "target")
    (folder / name).symlink_to(target)

    assert refused(folder).path == folder / name


@pytest.mark.parametrize(
    ("change", "name", "reason"),
    [
        (lambda digests: digests.pop("card.md"), "card.md", "is not covered by the signature"),
        (lambda digests: digests.pop("manifest.json"), "manifest.json", "is not covered by the signature"),
        (lambda digests: digests.update({"README.md": "ab" * 32}), "README.md", "is signed, but is not a file of"),
        (lambda digests: digests.update({"card.md": "ab" * 32}), "card.md", "is not the file that was signed"),
    ],
)
def test_signature_of_other_files_is_refused(
    folder: Path, change: Callable[[dict[str, str]], object], name: str, reason: str
) -> None:
    """A trusted key must have signed exactly the files of the version, by these hashes."""
    digests = dict(TRUSTED.digests(folder))
    change(digests)
    (folder / "model.sig").write_bytes(bundle(digests, "houses@1", KEY))

    error = refused(folder)
    assert error.path == folder / name
    assert error.reason.startswith(reason)


def test_only_what_a_server_loads_is_signed(folder: Path) -> None:
    """A version with other files beside its own is not signed, nor one that changed while it was signed."""
    before = (folder / "model.sig").read_bytes()
    loaded = artifact.load(folder)
    rewrite(folder, lambda manifest: manifest.update(title="other"))
    with pytest.raises(ArtifactError, match="has changed since it was verified"):
        sign(loaded, OTHER)
    loaded = artifact.load(folder)
    (folder / "notes.txt").write_text("x")
    with pytest.raises(ArtifactError, match=r"notes\.txt: is not a file of this version"):
        sign(loaded, OTHER)

    assert (folder / "model.sig").read_bytes() == before


def test_version_keeps_its_number(kept: Path, tmp_path: Path) -> None:
    """A signed version under another number or name is refused in a store, as any version is."""
    shutil.copytree(kept, tmp_path / NAME / "2")

    with pytest.raises(ArtifactError, match="is of boston-housing version 1, which belongs in another folder"):
        Store(tmp_path).load(f"{NAME}@2", signed=TRUSTED.digests)


RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
BITCOIN = ec.generate_private_key(ec.SECP256K1())


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: None, "does not exist; "),
        (lambda path: path.mkdir(), "is not a file; "),
        (lambda path: os.mkfifo(path), "is not a file; "),
        (lambda path: path.write_bytes(b""), "has no public key, or one that is cut off"),
        (lambda path: path.write_bytes(b"# none yet\n"), "has no public key, or one that is cut off"),
        (lambda path: path.write_bytes(write_public(path, KEY.public_key()).read_bytes()[:-30]), "cut off"),
        (lambda path: path.write_bytes(b"x" * 70_000), "has more than 65536 bytes"),
        (lambda path: write_private(path, KEY), "has a private key, which belongs to whoever signs"),
        (lambda path: write_private(path, KEY, b"secret"), "has a private key, which belongs to whoever signs"),
        (
            lambda path: write_public(path, RSA.public_key()),
            "has a key of the kind RSA, and signatures take ECDSA on P-256",
        ),
        (
            lambda path: write_public(path, ED25519.public_key()),
            "has a key of the kind Ed25519, and signatures take ECDSA",
        ),
        (
            lambda path: write_public(path, BITCOIN.public_key()),
            "has a key on the curve secp256k1, and signatures take",
        ),
        (lambda path: write_public(path, KEY.public_key(), RSA.public_key()), "has a key of the kind RSA"),
        (
            lambda path: path.write_bytes(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"),
            "has a public key that cannot be read",
        ),
        (
            lambda path: path.write_bytes(b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"),
            "has a CERTIFICATE, and not a public key",
        ),
    ],
)
def test_unusable_file_of_trusted_keys(tmp_path: Path, write: Callable[[Path], object], reason: str) -> None:
    """A file that is not one of usable public keys alone is an error that names it; no key of it is trusted."""
    path = tmp_path / "trusted.pem"
    write(path)

    with pytest.raises(KeyFileError) as caught:
        TrustedKeys.read([path])
    assert str(caught.value).startswith(f"{path}: ")
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("write", "reason"),
    [
        (lambda path: write_public(path, KEY.public_key()), "has a public key, and only a private key signs"),
        (lambda path: path.write_bytes(b""), "has no key, and only a private key signs"),
        (lambda path: write_private(path, RSA), "has a key of the kind RSA, and signatures take ECDSA on P-256"),
        (lambda path: write_private(path, ED25519), "has a key of the kind Ed25519, and signatures take ECDSA"),
        (lambda path: write_private(path, BITCOIN), "has a key on the curve secp256k1, and signatures take"),
    ],
)
def test_unusable_private_key(tmp_path: Path, write: Callable[[Path], object], reason: str) -> None:
    """A file without a private key on one of the curves is an error that names it."""
    path = tmp_path / "key.pem"
    write(path)

    with pytest.raises(KeyFileError) as caught:
        read_private_key(path, no_password)
    assert reason in str(caught.value)


def test_keys_behind_links(tmp_path: Path) -> None:
    """A file of keys may be a link, as Kubernetes mounts it; text around the keys is no key."""
    write_public(tmp_path / "real.pem", KEY.public_key(), OTHER.public_key())
    (tmp_path / "real.pem").write_text(f"# of the team\n{(tmp_path / 'real.pem').read_text()}\n")
    (tmp_path / "link.pem").symlink_to("real.pem")

    assert len(TrustedKeys.read([tmp_path / "link.pem"]).keys) == 2


@given(content=st.binary(max_size=200).map(lambda inner: b"-----BEGIN PUBLIC KEY-----\n" + inner))
def test_key_file_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Whatever is in a file, nothing but an error about the file is raised."""
    path = tmp_path_factory.getbasetemp() / "any.pem"
    for end in (b"", b"\n-----END PUBLIC KEY-----\n"):
        path.write_bytes(content + end)
        with pytest.raises(KeyFileError):
            TrustedKeys.read([path])


def nobody_answers(prompt: str) -> str:
    """Fail as a terminal that is closed."""
    raise EOFError


def test_commands(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sign` says what it signed with which key; `verify --key` asks for one of the keys that are named."""
    own = Path(shutil.copytree(store, tmp_path / "store"))
    private, public = key_pair(tmp_path)
    _, other = key_pair(tmp_path, "other")

    def command(*words: str | Path) -> int:
        return main(["--store", str(own), *map(str, words)])

    assert command("verify", NAME, "--key", public) == 1
    missing = f"error: {own}/{NAME}/1/model.sig: is missing: the version is not signed; sign it: python -m model sign "
    assert capsys.readouterr().err.startswith(missing)
    assert command("sign", NAME, "--key", private) == 0
    (name,) = TrustedKeys.read([public]).keys
    assert capsys.readouterr().out == (
        f"boston-housing version 1: 17 files signed with the key {name}, in {own}/{NAME}/1/model.sig\n"
    )
    assert command("verify", NAME, "--key", other, "--key", public) == 0
    assert capsys.readouterr().out.startswith(
        "verified boston-housing@1: 16 files unchanged, 64 golden rows answered to the last bit, "
        "signed by a trusted key\n"
    )
    assert command("verify", NAME, "--key", other) == 1
    assert f"it was made with the key {name}, which is not trusted" in capsys.readouterr().err
    encrypted = write_private(tmp_path / "encrypted.pem", KEY, b"secret")
    monkeypatch.setattr("getpass.getpass", nobody_answers)
    assert command("sign", NAME, "--key", encrypted) == 1
    assert (
        capsys.readouterr().err
        == f"error: {encrypted}: is encrypted; type its password, or pass it as a line of input\n"
    )
    assert command("sign", NAME, "--key", public) == 1
    assert "has a public key, and only a private key signs" in capsys.readouterr().err
