"""A store in a real S3-compatible server, with failures: cut connections, late listings, two writers at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from model import Store
from model.cli.main import main
from model.errors import StoreError
from model.store import artifact, life
from model.store.artifact import Draft
from model.store.remote import RemoteStore
from tests.support import remote as shared
from tests.support.metrics import scrape, value
from tests.support.remote import at, put
from tests.support.s3 import BUCKET, Proxy, Request, environment, s3_server
from tests.support.server import serve, wait_until
from tests.support.service import HOUSE, ROOT
from tests.support.store import SMALL

pytest.importorskip("moto", reason="make dev installs it")
pytest.importorskip("s3fs", reason="make dev installs it")

NAME = "boston-housing"

one = shared.one
other = shared.other


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The server behind the proxy, for all tests of this module."""
    with s3_server(tmp_path_factory.mktemp("s3")) as proxy:
        yield proxy


@pytest.fixture
def proxy(s3: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy without faults, and the variables with which it is reached."""
    for name, text in environment(s3.port).items():
        monkeypatch.setenv(name, text)
    s3.seen.clear()
    yield s3
    s3.fault = lambda request: None


@pytest.fixture
def url(proxy: Proxy) -> str:
    """The URL of an empty store."""
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


def test_store_is_read_elsewhere(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """Another machine has the same bytes, history and aliases; a poll without a new move is one request."""
    assert (other.names(), other.versions("m")) == (["m"], [1, 2, 3])
    assert artifact.read(other.find("m@2")) == artifact.read(one.find("m@2"))
    one.move("m", life.PROMOTE, {"champion": 3}, after=one.last_move("m"))
    assert other.last_move("m") == one.last_move("m")
    proxy.seen.clear()
    other.last_move("m")
    assert [(each.method, each.path.rpartition("/")[2]) for each in proxy.seen] == [("GET", "5.json")]


@pytest.mark.parametrize("file", ["a.txt", "plots/b.png", "manifest.json"])
def test_half_an_upload(one: RemoteStore, other: RemoteStore, proxy: Proxy, file: str) -> None:
    """An upload whose connection is cut every time is an error that names the URL; nobody sees anything of it."""

    def cut(request: Request) -> int | None:
        return 3 if request.method == "PUT" and request.path.endswith(f"/4/{file}") else None

    big = Draft({"title": "x"}, {name: os.urandom(100_000) for name in SMALL.files})
    proxy.fault = cut
    with pytest.raises(StoreError, match=f"{one.place}: it did not answer"):
        one.add("m", big)
    assert other.versions("m") == [1, 2, 3]
    assert other.aliases("m") == {"candidate": 3, "champion": 1}
    proxy.fault = lambda request: None

    assert one.add("m", big).name == "5"
    other.last_move("m")
    assert artifact.read(other.find("m@candidate"))[1] == big.files


def test_upload_that_is_cut_once(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A connection that is lost once during an upload is made up for."""
    cuts = iter([3])
    proxy.fault = lambda request: next(cuts, None) if request.path.endswith("/4/a.txt") else None

    assert one.add("m", SMALL).name == "4"
    assert artifact.read(other.find("m@4"))[1] == SMALL.files


def test_connection_that_is_lost_while_reading(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A reply that is cut, at any place, leaves nothing here; the next try brings the whole version."""
    big = Draft({"title": "x"}, {"a.bin": os.urandom(300_000)})
    one.add("m", big)
    other.last_move("m")
    for n_bytes in (200, 250_000):  # each try takes half a minute, with all its retries

        def cut(request: Request, n_bytes: int = n_bytes) -> int | None:
            return -n_bytes if request.path.endswith("/a.bin") else None

        proxy.fault = cut
        with pytest.raises(StoreError, match=f"{one.place}"):
            other.find("m@4")
        assert not (other.root / "m" / "4").exists()
    proxy.fault = lambda request: None

    assert artifact.read(other.find("m@4"))[1] == big.files


def test_late_listing(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A listing that shows nothing, or what was before, hides no version, alias or move of a model that is named."""
    empty = (
        b'<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        b"<Name>bucket</Name><KeyCount>0</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
        b"</ListBucketResult>"
    )
    reply = b"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: %d\r\n\r\n%s" % (len(empty), empty)
    proxy.fault = lambda request: reply if "list-type=2" in request.path else None
    assert other.names() == []
    assert other.versions("m") == [1, 2, 3]
    one.move("m", life.PROMOTE, {"champion": 3}, after=one.last_move("m"))
    assert other.last_move("m") == one.last_move("m")
    assert artifact.read(other.find("m"))[0]["version"] == 3
    assert other.names() == ["m"]
    assert other.add("m", SMALL).name == "4"


PROMOTE = """
import sys
from pathlib import Path
from model.errors import MovedError
from model.store.remote import RemoteStore
store = RemoteStore.at(sys.argv[1], Path(sys.argv[2]))
after = store.last_move("m")
print("ready", flush=True)
sys.stdin.readline()
try:
    print(store.move("m", "promote", {"champion": int(sys.argv[3])}, after=after, by=sys.argv[3]).number)
except MovedError as error:
    print(error)
"""
ADD = """
import sys
from pathlib import Path
from model.store.artifact import Draft
from model.store.remote import RemoteStore
store = RemoteStore.at(sys.argv[1], Path(sys.argv[2]))
store.last_move("m")
print("ready", flush=True)
sys.stdin.readline()
print(store.add("m", Draft({"title": "x"}, {"a.txt": sys.argv[3].encode() * 1000})).name)
"""


def at_once(script: str, url: str, folder: Path, n_processes: int = 2) -> list[str]:
    """Run a script in several processes, each with a number from 2, which go on together; return what they print."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, str(folder / f"at-once-{number}"), str(number)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(2, 2 + n_processes)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert [process.returncode for process in processes] == [0] * n_processes
    return printed


def test_two_promotions_at_once(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """Of two processes that promote at the same moment one wins; the other is told of it, and changes nothing."""
    for number in (4, 6, 8):
        lines = at_once(PROMOTE, url, tmp_path / str(number))
        (winner,) = [version for version, line in zip((2, 3), lines) if line == str(number)]
        (told,) = [line for line in lines if line != str(number)]

        assert told.startswith(f"m was moved meanwhile, by {winner} at ")
        move = one.last_move("m")
        assert move is not None
        assert (move.number, move.by, move.versions["champion"]) == (number, str(winner), winner)
        one.move("m", life.PROMOTE, {"champion": 1}, after=move)


def test_two_additions_at_once(one: RemoteStore, other: RemoteStore, url: str, tmp_path: Path) -> None:
    """Three processes that add a version at once get three numbers, and each version has the files of one of them."""
    lines = at_once(ADD, url, tmp_path, n_processes=3)

    assert sorted(lines) == ["4", "5", "6"]
    assert other.versions("m") == [1, 2, 3, 4, 5, 6]
    contents = [artifact.read(other.find(f"m@{line}"))[1]["a.txt"] for line in lines]
    assert contents == [b"2" * 1000, b"3" * 1000, b"4" * 1000]
    assert len(other.history("m")) == 6


def test_reply_to_a_move_that_is_lost(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A move whose replies are all lost was made once, and its writer knows that it was made."""
    proxy.fault = lambda request: -1 if request.method == "PUT" and request.path.endswith("/4.json") else None
    move = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))

    assert other.last_move("m") == move
    assert len(other.history("m")) == 4


def test_denied(url: str, one: RemoteStore, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the server refuses, a bucket that does not exist and a server that is gone are named, with what to do."""

    def failure(place: str = url) -> str:
        assert main(["--store", place, "--cache", str(tmp_path / "x"), "list", "m"]) == 1
        printed = capsys.readouterr().err
        assert "secret" not in printed
        return printed

    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    proxy.fault = lambda request: b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    assert failure().startswith(f"error: {url}: access is denied (Access Denied); check the credentials")
    proxy.fault = lambda request: None
    assert "does not exist (The specified bucket does not exist); make it, or correct" in failure("s3://nobody/models")
    proxy.close()
    try:
        assert failure().startswith(f"error: {url}: it did not answer (Could not connect to the endpoint URL")
    finally:
        proxy.open()


def test_server_follows_the_store(store: Path, url: str, proxy: Proxy, tmp_path: Path) -> None:
    """A server of two workers serves the champion behind a URL, and goes on without the store, also from its start.

    What the store has when it is back is served after a reload; a damaged version is refused, and the old one stays.
    The metric says whether the server follows its store.
    """
    remote = at(url, tmp_path / "writer")
    shutil.copytree(store, tmp_path / "trained")
    drafted = artifact.read_draft(Store(tmp_path / "trained").find(NAME))
    remote.add(NAME, drafted)
    settings = {
        **environment(proxy.port),
        "TABSERVE_STORE_CACHE": str(tmp_path / "cache"),
        "TABSERVE_RELOAD_SECONDS": "1",
        "WEB_CONCURRENCY": "2",
    }

    def answers(version: int) -> bool:
        replies = [requests.post(f"{server.url}/predict", json=HOUSE, timeout=10) for _ in range(4)]
        assert [reply.status_code for reply in replies] == [200] * 4
        return {reply.json()["version"] for reply in replies} == {version}

    def logged(text: str) -> bool:
        return text in server.stderr.read_text()

    def refused() -> float:
        return value(scrape(server), "tabserve_reload_refused")

    mirrored = Store(RemoteStore.at(url, tmp_path / "cache", is_mirror=True).root)
    with serve(url, tmp_path, **settings) as server:
        assert answers(1)
        remote.add(NAME, replace(drafted, manifest={**drafted.manifest, "title": "second"}))
        remote.move(NAME, life.PROMOTE, {"champion": 2}, after=remote.last_move(NAME))
        wait_until(lambda: mirrored.aliases(NAME).get("champion") == 2)
        server.process.send_signal(1)
        wait_until(lambda: answers(2))

        assert refused() == 0
        remote.add(NAME, drafted)
        put(url, f"{NAME}/3/golden.json", b"{}")
        remote.move(NAME, life.PROMOTE, {"champion": 3}, after=remote.last_move(NAME))
        wait_until(lambda: logged("3/golden.json: has 2 bytes where the manifest says"))
        wait_until(lambda: refused() == 1)
        assert answers(2)
        proxy.close()
        wait_until(lambda: logged("it did not answer"))
        assert answers(2)
    try:
        with serve(url, tmp_path, **settings) as server:
            assert answers(2)
            assert logged("not everything could be read from the store; what is here is served")
            assert refused() == 1
            assert "secret" not in server.stderr.read_text()
            proxy.open()
            put(url, f"{NAME}/3/golden.json", drafted.files["golden.json"])
            wait_until(lambda: mirrored.aliases(NAME).get("champion") == 3)
            server.process.send_signal(1)
            wait_until(lambda: answers(3))
            assert refused() == 0
            workers = server.workers()
        # The process that reads the store has ended, too.
        wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])
    finally:
        proxy.close()
        proxy.open()
