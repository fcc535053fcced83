"""A pulled version is the packed one, complete and verified; any error leaves the store unchanged."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from model import ArtifactError, ModelError, Store
from model.cli.main import main
from model.errors import ArchiveError
from model.store import artifact
from model.store.archive import pack, pull
from model.store.history import Aliased, encode, following
from model.store.signature import TrustedKeys
from tests.support.service import ROOT
from tests.support.signatures import key_pair

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A web server with its response for each path, and the headers of each request."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.headers: list[dict[str, str]] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.headers.append(dict(self.headers))
                site.answers[self.path.partition("?")[0]](self)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.url = f"http://{self.host}"

    def put(self, path: str, content: bytes) -> str:
        """Serve bytes at a path and return its URL."""
        self.answers[path] = lambda handler: send(handler, content)
        return self.url + path


def send(
    handler: BaseHTTPRequestHandler, content: bytes, *, status: int = 200, length: int | None = None, **headers: str
) -> None:
    """Send bytes with `length` as Content-Length, or their own."""
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(content) if length is None else length), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(content)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A web server without any paths."""
    monkeypatch.setenv("no_proxy", "*")
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield site
    site.server.shutdown()
    thread.join()
    site.server.server_close()


@pytest.fixture(scope="module")
def packed(store: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The archive of the trained model."""
    file = tmp_path_factory.mktemp("packed") / "model.tar.gz"
    pack(Store(store), "boston-housing", file)
    return file.read_bytes()


@pytest.fixture
def target(tmp_path: Path) -> Store:
    """An empty store."""
    (tmp_path / "target").mkdir()
    return Store(tmp_path / "target")


def tar(files: dict[str, bytes], *odd: tarfile.TarInfo) -> bytes:
    """Return a `.tar.gz` of files and of members without content."""
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for member in odd:
            archive.addfile(member)
    return written.getvalue()


def odd(name: str, kind: bytes, linkname: str = "") -> tarfile.TarInfo:
    """Return a member that is not a regular file."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, linkname
    return member


def files_of(folder: Path, prefix: str = "") -> dict[str, bytes]:
    """Return every file below a folder by its relative name with a prefix."""
    return {prefix + str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def other(store: Path, folder: Path, **facts: Any) -> dict[str, bytes]:
    """Return the trained artifact's files with other facts in the manifest and a right digest."""
    shutil.copytree(store / "boston-housing" / "1", folder)
    manifest = json.loads((folder / "manifest.json").read_bytes()) | facts
    digest = artifact.digest({key: value for key, value in manifest.items() if key not in ("digest", "created_at")})
    return {**files_of(folder), "manifest.json": artifact.to_json({**manifest, "digest": digest})}


def check_pulled(target: Store, store: Path) -> None:
    """Check that a store has the files of the packed version, one move that pulled it, and no other file."""
    pulled = files_of(target.root)
    assert pulled.pop("boston-housing/moves/1.json")
    assert pulled == files_of(store / "boston-housing" / "1", "boston-housing/1/")
    assert [(move.action, move.versions) for move in target.history("boston-housing")] == [("pull", {"champion": 1})]


def with_moves(files: dict[str, bytes], name: str, **aliases: int) -> dict[str, bytes]:
    """Return the files of a store with a history of one move, which set these aliases of a model."""
    manifests = {alias: files.get(f"{name}/{version}/manifest.json") for alias, version in aliases.items()}
    digests = {alias: json.loads(content)["digest"] if content else "0" * 64 for alias, content in manifests.items()}
    table = {alias: Aliased(version, digests[alias]) for alias, version in aliases.items()}
    others = {path: content for path, content in files.items() if not path.startswith(f"{name}/moves/")}
    return {**others, f"{name}/moves/1.json": encode(following(None, "pull", table))}


def refusal(target: Store, url: str, **settings: Any) -> str:
    """Return the error for a URL that is refused, after checking that the store is unchanged."""
    before = {path: path.stat().st_mtime_ns for path in target.root.rglob("*")}
    with pytest.raises(ModelError) as caught:
        pull(target, url, **settings)
    assert {path: path.stat().st_mtime_ns for path in target.root.rglob("*")} == before
    return str(caught.value)


def test_what_is_pulled_is_what_was_packed(store: Path, site: Site, packed: bytes, target: Store) -> None:
    """A packed and pulled version has every byte, its own number and the alias, and no other files."""
    url = site.put("/model.tar.gz", packed)
    path = target.root / "boston-housing" / "1"

    assert pull(target, url, sha256=hashlib.sha256(packed).hexdigest().upper()) == {path: True}
    check_pulled(target, store)
    assert target.load("boston-housing").path == path


def test_same_version_packs_to_the_same_bytes(store: Path, tmp_path: Path) -> None:
    """An archive depends neither on its time and name, nor on times and owners of the files."""
    copy = shutil.copytree(store, tmp_path / "copy")
    for path in copy.rglob("*"):
        os.utime(path, (1, 1))
        path.chmod(0o700)
    one, two = tmp_path / "one.tar.gz", tmp_path / "two.tar.gz"

    assert pack(Store(store), "boston-housing@1", one) == pack(Store(copy), "boston-housing", two)
    assert one.read_bytes() == two.read_bytes()
    with tarfile.open(one) as archive:
        members = archive.getmembers()
    assert [member.name for member in members] == sorted(files_of(store / "boston-housing" / "1"))
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}


def test_damaged_version_is_not_packed(store: Path, tmp_path: Path) -> None:
    """A version that does not verify is not packed: no file is written, and an existing one is kept."""
    copy = shutil.copytree(store, tmp_path / "copy")
    (copy / "boston-housing" / "1" / "card.md").write_text("better")
    file = tmp_path / "model.tar.gz"
    file.write_bytes(b"older")

    with pytest.raises(ArtifactError, match=r"card\.md: has 6 bytes"):
        pack(Store(copy), "boston-housing", file)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "model.tar.gz"]
    assert file.read_bytes() == b"older"


def test_pulled_twice_exists_once(site: Site, packed: bytes, target: Store) -> None:
    """An init container may run twice: the second run changes nothing, but still sets another alias."""
    url = site.put("/model.tar.gz", packed)
    path = target.root / "boston-housing" / "1"
    pull(target, url)
    before = {found: found.stat().st_mtime_ns for found in target.root.rglob("*")}

    assert pull(target, url) == {path: False}
    assert {found: found.stat().st_mtime_ns for found in target.root.rglob("*")} == before
    assert pull(target, url, alias="challenger") == {path: False}
    assert target.aliases("boston-housing") == {"champion": 1, "challenger": 1}


@pytest.mark.parametrize("folder", ["", "./", "1/", "model/1/", "boston-housing/7/"])
def test_artifact_may_be_deeper(store: Path, site: Site, target: Store, folder: str) -> None:
    """An artifact is found by its manifest, at most two folders down, whatever these are called."""
    files = files_of(store / "boston-housing" / "1", folder)

    assert pull(target, site.put("/x", tar(files))) == {target.root / "boston-housing" / "1": True}
    assert target.aliases("boston-housing") == {"champion": 1}


def test_whole_store_is_pulled(store: Path, site: Site, packed: bytes, target: Store, tmp_path: Path) -> None:
    """Every model and version of a store is pulled with its aliases; other aliases are kept."""
    files = {
        **files_of(store),
        **{f"boston-housing/2/{name}": content for name, content in other(store, tmp_path / "b", version=2).items()},
        **{
            f"boats/4/{name}": content
            for name, content in other(store, tmp_path / "c", name="boats", version=4).items()
        },
        "read.me": b"is not a model",
    }
    files = with_moves(files, "boston-housing", champion=2, candidate=2, shadow=1)
    files = with_moves(files, "boats", champion=4)
    pull(target, site.put("/own", packed), alias="own")
    packed = tar(files)

    found = pull(target, site.put("/x", packed))
    assert found == {target.root / f"boston-housing/{n}": n == 2 for n in (1, 2)} | {target.root / "boats/4": True}
    assert target.aliases("boston-housing") == {"candidate": 2, "champion": 2, "shadow": 1, "own": 1}
    assert [move.action for move in target.history("boston-housing")] == ["pull", "pull"]
    assert target.history("boats")[0].why == f"{site.url}/x with the SHA-256 {hashlib.sha256(packed).hexdigest()}"
    assert [target.load(name).version for name in ("boats", "boston-housing", "boston-housing@shadow")] == [4, 2, 1]
    assert sorted(path.name for path in target.root.iterdir()) == ["boats", "boston-housing"]
    assert "its own aliases" in refusal(target, site.url + "/x", alias="champion")


def test_files_that_no_manifest_lists_are_left_out(store: Path, site: Site, target: Store) -> None:
    """A file that is not in the manifest, such as a desktop's, is not added to the store."""
    files = files_of(store / "boston-housing" / "1") | {"._card.md": b"x", "plots/Thumbs.db": b"x", "a/b/c": b"x"}
    pull(target, site.put("/x", tar(files)))

    assert files_of(target.root / "boston-housing" / "1") == files_of(store / "boston-housing" / "1")


def test_signature_travels(store: Path, target: Store, tmp_path: Path) -> None:
    """A signed version is packed and pulled with its signature; a version that is there already takes a new one."""
    own = Store(shutil.copytree(store, tmp_path / "own"))
    pairs = [key_pair(tmp_path, name) for name in ("old", "new")]
    signed = [TrustedKeys.read([public]).digests for _, public in pairs]
    file = tmp_path / "model.tar.gz"
    pack(own, "boston-housing", file)
    pull(target, file.as_uri())

    for number, (private, _) in enumerate(pairs):
        assert main(["--store", str(own.root), "sign", "boston-housing", "--key", str(private)]) == 0
        pack(own, "boston-housing", file)
        assert pull(target, file.as_uri()) == {target.root / "boston-housing" / "1": False}
        assert target.load("boston-housing", signed=signed[number]).version == 1
    assert files_of(target.find("boston-housing")) == files_of(own.find("boston-housing"))
    with pytest.raises(ArtifactError, match="which is not trusted"):
        target.load("boston-housing", signed=signed[0])
    elsewhere = Store(tmp_path / "elsewhere")
    pull(elsewhere, file.as_uri())
    assert elsewhere.load("boston-housing", signed=signed[1]).version == 1


def test_signature_of_another_manifest_is_not_taken(store: Path, target: Store, tmp_path: Path) -> None:
    """A version that was trained again at another time has the same digest, but its signature is not of these bytes."""
    own = Store(shutil.copytree(store, tmp_path / "own"))
    file = tmp_path / "model.tar.gz"
    pack(own, "boston-housing", file)
    pull(target, file.as_uri())
    folder = own.root / "boston-housing" / "1"
    manifest = json.loads((folder / "manifest.json").read_bytes()) | {"created_at": "2001-01-01T00:00:00+00:00"}
    (folder / "manifest.json").write_bytes(artifact.to_json(manifest))
    private, _ = key_pair(tmp_path)
    assert main(["--store", str(own.root), "sign", "boston-housing", "--key", str(private)]) == 0
    pack(own, "boston-housing", file)

    assert pull(target, file.as_uri()) == {target.root / "boston-housing" / "1": False}
    assert files_of(target.find("boston-housing")) == files_of(Store(store).find("boston-housing"))


def test_other_version_of_the_same_number_is_refused(
    store: Path, site: Site, packed: bytes, target: Store, tmp_path: Path
) -> None:
    """If the store has another artifact of that name and number, nothing changes."""
    pull(target, site.put("/x", packed))
    files = other(store, tmp_path / "other", title="another")
    more = {
        **{f"boston-housing/1/{name}": content for name, content in files.items()},
        **{f"boats/1/{name}": content for name, content in other(store, tmp_path / "boats", name="boats").items()},
    }
    more = with_moves(more, "boats", champion=1)

    for content in (tar(files), tar(more)):
        assert refusal(target, site.put("/x", content)) == (
            f"{target.root / 'boston-housing' / '1'}: is in the store already, with other contents; "
            "remove it to take the new one"
        )


def test_existing_damaged_version_is_an_error(site: Site, packed: bytes, target: Store) -> None:
    """An existing version that was damaged is an error that names the file."""
    pull(target, site.put("/x", packed))
    (target.root / "boston-housing" / "1" / "card.md").write_text("better")

    assert "card.md: has 6 bytes" in refusal(target, site.url + "/x")


def test_wrong_sha256_is_refused(site: Site, packed: bytes, target: Store) -> None:
    """An archive with another SHA-256 is refused before it is opened; an invalid SHA-256 before the download."""
    url = site.put("/x", packed)
    message = refusal(target, url, sha256="0" * 64)

    assert message == f"{url}: has the SHA-256 {hashlib.sha256(packed).hexdigest()} where {'0' * 64} is expected"
    assert "not 64 hexadecimal digits" in refusal(target, url, sha256="0" * 63)
    assert len(site.headers) == 1
    assert pull(target, url, sha256="") != {}


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        ("card.md", lambda content: b"better", "card.md: has 6 bytes where the manifest says"),
        ("trees.npz", lambda content: content[:-1] + b"\1", "trees.npz: was changed after it was written"),
        ("manifest.json", lambda content: content.replace(b"400", b"401"), "manifest.json: was changed"),
        ("manifest.json", lambda content: b"{}", "manifest.json: is not a manifest"),
        ("manifest.json", None, "is neither an artifact nor a store with a model"),
        ("golden.json", None, "golden.json: is missing"),
    ],
)
def test_damaged_artifact_is_refused(
    store: Path, site: Site, target: Store, name: str, change: Callable[[bytes], bytes] | None, reason: str
) -> None:
    """Every downloaded artifact is verified as by a server, and the wrong file is named."""
    files = files_of(store / "boston-housing" / "1")
    content = files.pop(name)
    if change:
        files[name] = change(content)

    assert refusal(target, site.put("/x", tar(files))).startswith(f"{site.url}/x: {reason}")


def test_golden_rows_are_replayed(store: Path, site: Site, target: Store, tmp_path: Path) -> None:
    """An artifact with right hashes and wrong predictions is refused."""
    files = files_of(store / "boston-housing" / "1")
    golden = json.loads(files["golden.json"])
    golden["y"][0] += 1.0
    changed = artifact.to_json(golden)
    hashes = json.loads(files["manifest.json"])["files"]
    hashes["golden.json"] = {"sha256": hashlib.sha256(changed).hexdigest(), "size": len(changed)}
    files = {**other(store, tmp_path / "other", files=hashes), "golden.json": changed}

    assert "1 of 64 golden rows are answered differently" in refusal(target, site.put("/x", tar(files)))


@pytest.mark.parametrize("facts", [{"name": "../x"}, {"name": "X"}, {"name": 1}, {"version": 0}, {"version": "1"}])
def test_manifest_cannot_name_a_place_outside(
    store: Path, site: Site, target: Store, tmp_path: Path, facts: dict[str, Any]
) -> None:
    """A manifest whose name or version cannot be a folder of the store is refused."""
    files = other(store, tmp_path / "other", **facts)

    assert "does not name its model and version" in refusal(target, site.put("/x", tar(files)))


@pytest.mark.parametrize("move", [b"{", b"[]", None])
def test_store_with_wrong_aliases_is_refused(store: Path, site: Site, target: Store, move: bytes | None) -> None:
    """A store whose moves are invalid, or whose aliases point to a missing version, is refused."""
    files = files_of(store)
    files = files | {"boston-housing/moves/1.json": move} if move else with_moves(files, "boston-housing", champion=2)

    assert f"{site.url}/x: boston-housing" in refusal(target, site.put("/x", tar(files)))


@pytest.mark.parametrize("alias", ["candidate", "7", "A b"])
def test_alias_that_none_may_have_is_refused(site: Site, packed: bytes, target: Store, alias: str) -> None:
    """An alias that is a version's number, no name, or the store's own is refused before the download."""
    assert "alias" in refusal(target, site.put("/x", packed), alias=alias)
    assert site.headers == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is not a complete .tar.gz"),
        (b"garbage", "is not a complete .tar.gz"),
        (gzip.compress(b"garbage"), "is not a complete .tar.gz"),
        (gzip.compress(b""), "is not a complete .tar.gz"),
        (tar({}), "is neither an artifact nor a store"),
        (tar({"a": b"", "a/b": b""}), "has a file name twice: 'a/b'"),
        (tar({"a": b"", "./a": b""}), "has a file name twice: './a'"),
        (tar({"a/b": b"", "a": b""}), "has a file name twice: 'a'"),
        (tar({"../a": b""}), "has a file outside its folder: '../a'"),
        (tar({"a/../../b": b""}), "has a file outside its folder"),
        (tar({"/tmp/a": b""}), "has a file outside its folder: '/tmp/a'"),
        (tar({}, odd("../a", tarfile.DIRTYPE)), "has a file outside its folder"),
        (tar({}, odd("a", tarfile.SYMTYPE, "/etc")), "neither a folder nor a regular file: 'a'"),
        (tar({}, odd("a", tarfile.SYMTYPE, "b")), "neither a folder nor a regular file"),
        (tar({}, odd("a", tarfile.LNKTYPE, "../../x")), "neither a folder nor a regular file"),
        (tar({"b": b""}, odd("a", tarfile.LNKTYPE, "b")), "neither a folder nor a regular file"),
        (tar({}, odd("a", tarfile.CHRTYPE)), "neither a folder nor a regular file"),
        (tar({}, odd("a", tarfile.FIFOTYPE)), "neither a folder nor a regular file"),
        (tar({str(number): b"" for number in range(10_001)}), "has more than 10000 files"),
        (tar({"a" * 2_000_000: b""}), "has a header of more than 1048576 bytes"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value[:40],
)
def test_hostile_archive_is_refused(site: Site, target: Store, content: bytes, reason: str) -> None:
    """Only folders and regular files below the archive's root are unpacked, up to a limit."""
    message = refusal(target, site.put("/x", content))
    assert message.startswith(f"{site.url}/x: ")
    assert reason in message
    assert list(target.root.parent.iterdir()) == [target.root]


def test_bombs_are_refused(site: Site, target: Store) -> None:
    """An archive that unpacks to more than is allowed is refused, in a file's content and after the end."""
    bomb = tar({"a": bytes(50_000_000)})
    huge = odd("a", tarfile.REGTYPE)
    huge.size = 2**40
    announced = gzip.compress(huge.tobuf(tarfile.GNU_FORMAT) + bytes(50_000_000))
    for content in (bomb, announced, gzip.compress(bytes(50_000_000)), tar({}) + bomb):
        message = refusal(target, site.put("/x", content), max_unpacked_bytes=1_000_000)
        assert message == f"{site.url}/x: unpacks to more than 1000000 bytes"


def test_header_that_points_back_is_refused(site: Site, target: Store) -> None:
    """A file of a negative size, which would cause an endless loop, is refused."""
    negative = odd("a", tarfile.REGTYPE)
    negative.size = -1024
    content = gzip.compress(tarfile.TarInfo("b").tobuf() + negative.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))

    assert refusal(target, site.put("/x", content)).startswith(f"{site.url}/x: is ")


def test_damaged_archive_is_refused(site: Site, packed: bytes, target: Store) -> None:
    """A truncated archive, or one with a changed byte, is one error without a traceback."""
    draw = random.Random(7)
    plain = gzip.decompress(packed)
    for _ in range(60):
        place, value = draw.randrange(0, len(plain), 512) + draw.randrange(0, 160), draw.randrange(256)
        if place >= len(plain) or plain[place] == value:
            continue
        changed = gzip.compress(plain[:place] + bytes([value]) + plain[place + 1 :], 1)
        try:
            pull(target, site.put("/x", changed))
        except ModelError:
            assert list(target.root.iterdir()) == []
        else:  # an owner, a mode or padding: nothing that comes into the store
            target.load("boston-housing")
            shutil.rmtree(target.root / "boston-housing")
    for length in (1, 10, 1000, len(packed) // 2, len(packed) - 1):
        assert refusal(target, site.put("/x", packed[:length])).startswith(f"{site.url}/x: is not a complete .tar.gz")


def test_connection_that_ends_early(site: Site, packed: bytes, target: Store) -> None:
    """A reply that ends before its Content-Length is refused; the next attempt succeeds."""
    site.answers["/x"] = lambda handler: send(handler, packed[:1000], length=len(packed))

    assert refusal(target, site.url + "/x") == f"{site.url}/x: ended after 1000 of {len(packed)} bytes"
    pull(target, site.put("/x", packed))
    assert target.load("boston-housing").version == 1


def test_slow_senders_are_cut_off(site: Site, packed: bytes, target: Store) -> None:
    """A sender that stops, or sends a byte now and then, times out."""

    def silent(handler: BaseHTTPRequestHandler) -> None:
        send(handler, packed[:1000], length=len(packed))
        time.sleep(1)

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        send(handler, b"", length=len(packed))
        try:
            for byte in packed[:40]:
                handler.wfile.write(bytes([byte]))
                time.sleep(0.05)
        except OSError:
            pass

    site.answers |= {"/silent": silent, "/trickle": trickle}
    assert refusal(target, site.url + "/silent", stall_seconds=0.2).endswith("could not be downloaded: timed out")
    assert refusal(target, site.url + "/trickle", max_seconds=0.3).endswith("was not complete after 0.3 seconds")


@pytest.mark.parametrize(
    ("before", "endless"),
    [
        (b"", b"H"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1", b";x"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"x: y\r\n"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (b"HTTP/1.1 404 Not Found\r\n", b"x"),
        (b"HTTP/1.1 302 Found\r\nLocation: /\r\n", b"x"),
    ],
    ids=["status", "continue", "headers", "chunk's length", "trailers", "chunks", "error", "redirect"],
)
def test_one_deadline_for_the_whole_download(target: Store, before: bytes, endless: bytes) -> None:
    """Whatever part of a reply is endless, the download ends at its deadline."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def trickle() -> None:
            with suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(2**16)
                    connection.sendall(before)
                    for _ in range(400):
                        connection.sendall(endless)
                        time.sleep(0.05)

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        message = refusal(target, f"http://127.0.0.1:{listener.getsockname()[1]}/x", max_seconds=0.5)
        took = time.monotonic() - began
    thread.join()

    assert message.endswith("/x: was not complete after 0.5 seconds")
    assert took < 10  # the sender goes on for 20 s


def test_silence_in_a_tls_handshake_is_cut_off(target: Store) -> None:
    """The deadline also applies to the TLS handshake, before the first byte of HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        message = refusal(target, f"https://127.0.0.1:{listener.getsockname()[1]}/x", max_seconds=0.5)

    assert message.endswith("/x: was not complete after 0.5 seconds")


IN_A_NETWORK = """if True:
    import sys, threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from pathlib import Path
    from model import ModelError, Store
    from model.store.archive import pull

    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers["Host"])
            self.send_response(302 if "?" in self.path else 404)
            self.send_header("Location", self.path.partition("?")[2])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("", 8000), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for start, place in [pair.split(">") for pair in sys.argv[2:]]:
        asked.clear()
        try:
            pull(Store(Path(sys.argv[1])), f"http://{start}:8000/x?http://{place}:8000/secret")
        except ModelError as error:
            print(start, place, len(asked), str(error).partition("/x: ")[2])
"""


def test_redirects_from_the_internet_do_not_lead_inside(target: Store) -> None:
    """A redirect from a public address is followed only to public addresses; one from a private address to any."""
    network = ["unshare", "-rn", "sh", "-c", 'ip link set lo up && ip addr add 9.9.9.9 dev lo && "$@"', "sh"]
    if subprocess.run([*network, "true"], capture_output=True).returncode:
        pytest.skip("needs a network of its own, as unshare and ip make it where that is allowed")
    pairs = {
        "9.9.9.9>9.9.9.9": "2 was answered with status 404",
        "127.0.0.1>127.0.0.1": "2 was answered with status 404",
        "127.0.0.1>9.9.9.9": "2 was answered with status 404",
        **dict.fromkeys(
            (
                "9.9.9.9>127.0.0.1",
                "9.9.9.9>localhost",
                "9.9.9.9>127.1",
                "9.9.9.9>2130706433",
                "9.9.9.9>0.0.0.0",
                "9.9.9.9>10.0.0.1",
                "9.9.9.9>169.254.169.254",
                "9.9.9.9>100.64.0.1",
                "9.9.9.9>[::1]",
                "9.9.9.9>[fe80::1]",
                "9.9.9.9>[fd00::1]",
                "9.9.9.9>[::ffff:127.0.0.1]",
                "9.9.9.9>[64:ff9b::7f00:1]",
            ),
            "1 redirects to a private or link-local address; if that is right, pull from there",
        ),
    }
    command = [*network, sys.executable, "-c", IN_A_NETWORK, str(target.root), *pairs]
    environ = {**os.environ, "no_proxy": "*"}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120)

    assert done.stdout.splitlines() == [f"{pair.replace('>', ' ')} {result}" for pair, result in pairs.items()]


def test_proxy_is_not_led_inside(site: Site, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a proxy, a redirect from a name to a private address is refused, too."""
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", site.url)
    for place in ("http://127.0.0.1:1/x", "http://169.254.169.254/x", "http://localhost/x"):
        url = "http://models.example.com/x"
        site.answers[url] = lambda handler, place=place: send(handler, b"", status=302, Location=place)  # type: ignore[misc]

        assert "redirects to a private or link-local address" in refusal(target, url)


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), Path.mkdir])
def test_file_url_of_no_regular_file_is_refused(target: Store, tmp_path: Path, make: Callable[[Path], None]) -> None:
    """A FIFO, a device or a folder is refused without blocking."""
    make(tmp_path / "x")

    assert refusal(target, (tmp_path / "x").as_uri()).endswith("could not be downloaded: it is not a regular file")


def test_longer_than_allowed_is_cut_off(site: Site, packed: bytes, target: Store) -> None:
    """A download stops at its limit, whatever its Content-Length is."""
    assert (
        refusal(target, site.put("/x", packed), max_download_bytes=1000) == f"{site.url}/x: is longer than 1000 bytes"
    )


@pytest.mark.parametrize("status", [204, 401, 403, 404, 500, 503])
def test_other_status_is_refused(site: Site, target: Store, status: int) -> None:
    """A status other than 200 is an error that names it, or the body is not an archive."""
    site.answers["/x"] = lambda handler: send(handler, b"", status=status)

    assert refusal(target, site.url + "/x").startswith(
        f"{site.url}/x: " + ("is not a complete" if status == 204 else f"was answered with status {status}")
    )


def test_redirects_stay_within_the_scheme(site: Site, packed: bytes, target: Store, tmp_path: Path) -> None:
    """A redirect is followed without reading its body; one to another scheme or in a loop is an error."""
    file = tmp_path / "model.tar.gz"
    file.write_bytes(packed)
    site.put("/x", packed)

    def redirect(path: str, place: str, *, length: int = 0) -> None:
        def answer(handler: BaseHTTPRequestHandler) -> None:
            send(handler, b"", status=302, length=length, Location=place)
            time.sleep(0.5 if length else 0)

        site.answers[path] = answer

    redirect("/file", file.as_uri())
    redirect("/ftp", "ftp://127.0.0.1/x?sig=secret")
    redirect("/tls", "https://127.0.0.1:1/x")
    redirect("/circle", "/circle")
    redirect("/good", "/x")
    redirect("/endless", "/x", length=10**9)
    assert refusal(target, site.url + "/file") == f"{site.url}/file: was answered with status 302"
    assert (
        refusal(target, site.url + "/ftp")
        == f"{site.url}/ftp: redirects from http to another scheme; if that is right, pull from there"
    )
    assert "redirects from http to another scheme" in refusal(target, site.url + "/tls")
    assert refusal(target, site.url + "/circle") == f"{site.url}/circle: was answered with status 302"
    assert pull(target, site.url + "/good") != {}
    assert pull(target, site.url + "/endless", stall_seconds=0.2) != {}


def test_credentials_are_sent_and_not_shown(
    site: Site, packed: bytes, target: Store, capfd: pytest.CaptureFixture[str]
) -> None:
    """User and password are sent only to the URL's host and are in no message; nor is a query."""
    elsewhere = site.url.replace("127.0.0.1", "localhost")
    site.put("/there", packed)
    site.answers["/moved"] = lambda handler: send(handler, b"", status=302, Location=elsewhere + "/there")
    site.answers["/none"] = lambda handler: send(handler, b"", status=403)
    site.answers["/odd"] = lambda handler: send(handler, b"", status=302, Location="http://x:s3cret@[/y?sig=s3cret")
    base = f"http://me:s3cret%21@{site.host}"
    command = ["--store", str(target.root), "pull"]

    for path in ("/none?sig=s3cret#s3cret", "/odd?sig=s3cret", "/there x?sig=s3cret", "/ä?sig=s3cret"):
        assert main([*command, base + path]) == 1
    for url in ("http://me:s3cret@127.0.0.1:1/?s3cret", "http://me:s3/cret@host/", "ftp://me:s3cret@host/", "s3cret:x"):
        assert main([*command, url]) == 1
    assert main([*command, base + "/moved?sig=s3cret"]) == 0
    output = capfd.readouterr()
    assert "cret" not in output.out + output.err
    assert f"error: {site.url}/none: was answered with status 403\n" in output.err
    expected = "Basic " + base64.b64encode(b"me:s3cret!").decode()
    sent = [headers.get("Authorization") for headers in site.headers]
    assert (sent[0], sent[-2:]) == (expected, [expected, None])


@pytest.mark.parametrize("url", ["model.tar.gz", "/tmp/model.tar.gz", "ftp://host/x", "data:,x", "http://[::1", ""])
def test_other_urls_are_refused(target: Store, url: str) -> None:
    """Only http, https and file URLs are allowed."""
    assert "URL" in refusal(target, url)


def test_file_url(packed: bytes, target: Store, tmp_path: Path) -> None:
    """A file URL is pulled like any other; a missing file is an error."""
    file = tmp_path / "model.tar.gz"
    file.write_bytes(packed)

    assert refusal(target, f"{file.as_uri()}.old").endswith(".old: could not be downloaded: No such file or directory")
    assert pull(target, file.as_uri(), alias="shadow") == {target.root / "boston-housing" / "1": True}
    assert target.aliases("boston-housing") == {"shadow": 1}


def test_full_disk_leaves_nothing(site: Site, packed: bytes, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that is full at any file leaves no model and no temporary file in the store."""
    url, fsync = site.put("/x", packed), os.fsync
    for n_good in (0, 5, 12):  # the first file, one in the middle, the table of aliases
        calls: list[int] = []

        def full(descriptor: int, calls: list[int] = calls, n_good: int = n_good) -> None:
            calls.append(descriptor)
            if len(calls) > n_good:
                raise OSError(28, "No space left on device")
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            pull(target, url)
        assert (target.names(), files_of(target.root)) == ([], {})


def test_killed_in_the_middle(site: Site, packed: bytes, target: Store, store: Path) -> None:
    """A killed pull leaves the models of the store unchanged; the next one removes its temporary folder."""
    arrived = threading.Event()

    def stall(handler: BaseHTTPRequestHandler) -> None:
        send(handler, packed[:1000], length=len(packed))
        arrived.set()
        time.sleep(0.5)

    site.answers["/stall"] = stall
    with start(target, site.url + "/stall") as process:
        assert arrived.wait(20)
        process.send_signal(signal.SIGKILL)
    left = list(target.root.iterdir())

    assert [path.name.startswith(".incoming-") for path in left] == [True]
    assert target.names() == []
    pull(target, site.put("/x", packed))
    check_pulled(target, store)


def test_pulls_at_once(site: Site, packed: bytes, target: Store, store: Path) -> None:
    """Of several concurrent pulls of the same version one adds it; none removes another's temporary folder."""
    gate = threading.Barrier(3)

    def together(handler: BaseHTTPRequestHandler) -> None:
        gate.wait(20)
        send(handler, packed)

    site.answers["/x"] = together
    running = [start(target, site.url + "/x") for _ in range(3)]
    outputs = [process.communicate(timeout=300)[0] for process in running]

    place = target.root / "boston-housing" / "1"
    assert [process.returncode for process in running] == [0, 0, 0]
    assert sorted(outputs) == [
        f"boston-housing version 1: already in {place}\n",
        f"boston-housing version 1: already in {place}\n",
        f"boston-housing version 1: verified, now in {place}\n",
    ]
    check_pulled(target, store)


def start(target: Store, url: str) -> subprocess.Popen[str]:
    """Start `python -m model pull` and return its process."""
    command = [sys.executable, "-m", "model", "--store", str(target.root), "pull", url]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_nothing_is_pulled_into_an_artifact(store: Path, site: Site, target: Store) -> None:
    """A mounted artifact is not a store to pull into, and nothing is downloaded."""
    with pytest.raises(ArtifactError, match="is one artifact and not a store"):
        pull(Store(store / "boston-housing" / "1"), site.url + "/x")
    assert site.headers == []


def test_pulling_loads_no_training_package(packed: bytes, target: Store, tmp_path: Path) -> None:
    """`pull` runs in the serving image: it needs no training package."""
    file = tmp_path / "model.tar.gz"
    file.write_bytes(packed)
    script = """if True:
        import sys
        from model.cli.main import main
        status = main(["--store", sys.argv[1], "pull", sys.argv[2]])
        training = {"joblib", "matplotlib", "onnx", "pandas", "papermill", "scipy", "sklearn"}
        print(status, sorted(training & set(sys.modules)))"""
    command = [sys.executable, "-c", script, str(target.root), file.as_uri()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0 []"


def test_commands(store: Path, target: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`pack` prints the line of sha256sum, and `pull` prints the versions; an error is one line and status 1."""
    file = tmp_path / "model.tar.gz"
    assert main(["--store", str(store), "pack", "boston-housing@champion", str(file)]) == 0
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert capsys.readouterr().out == f"{sha256}  {file}\n"

    command = ["--store", str(target.root), "pull", file.as_uri(), "--sha256"]
    assert main([*command, sha256, "--max-unpacked-bytes", "1000"]) == 1
    assert capsys.readouterr().err == f"error: {file.as_uri()}: unpacks to more than 1000 bytes\n"
    assert main([*command, sha256]) == 0
    place = target.root / "boston-housing" / "1"
    assert capsys.readouterr().out == f"boston-housing version 1: verified, now in {place}\n"
    assert main(["--store", str(store), "pack", "boston-housing@2", str(file)]) == 1
    assert capsys.readouterr().err.startswith("error: the model 'boston-housing' in the store")


def test_errors_are_of_their_kind(target: Store) -> None:
    """Errors of the download and the archive are `ArchiveError`, unlike errors of the store."""
    with pytest.raises(ArchiveError):
        pull(target, "http://127.0.0.1:1/x")
