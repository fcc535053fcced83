"""Stores in real servers of objects, with failures: cut connections, late listings, two writers at once.

What needs many retries, which take a minute at some clients, is tried with S3 alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from model import Store
from model.cli.main import main
from model.errors import StoreError
from model.store import artifact, life
from model.store.artifact import Draft
from model.store.objects import Objects
from model.store.remote import RemoteStore
from tests.support import remote as shared
from tests.support.metrics import scrape, value
from tests.support.objects import AZURE, BUCKET, GCS, S3, Provider, Proxy, Request, object_server
from tests.support.remote import at, put
from tests.support.server import Server, serve, wait_until
from tests.support.service import HOUSE, ROOT
from tests.support.store import SMALL

NAME = "boston-housing"
# As S3 has it; the other clients look at the status alone.
ERROR = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
DENIED = b"HTTP/1.1 403 Forbidden\r\nContent-Length: %d\r\n\r\n%s" % (len(ERROR), ERROR)
EVERYWHERE = pytest.mark.parametrize("provider", [S3, GCS, AZURE], ids=lambda each: each.scheme, indirect=True)

one = shared.one
other = shared.other


@pytest.fixture(scope="module")
def provider(request: pytest.FixtureRequest) -> Provider:
    """S3, or what a test names."""
    provider: Provider = getattr(request, "param", S3)
    if reason := provider.missing():
        pytest.skip(reason)
    return provider


@pytest.fixture(scope="module")
def upstream(provider: Provider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """The server behind the proxy, for all tests of this module with that provider."""
    with object_server(provider, tmp_path_factory.mktemp(provider.scheme)) as proxy:
        yield proxy


@pytest.fixture
def proxy(provider: Provider, upstream: Proxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The proxy without faults, and the variables with which it is reached."""
    for name, text in provider.environment(upstream.port).items():
        monkeypatch.setenv(name, text)
    upstream.seen.clear()
    yield upstream
    upstream.fault = lambda request: None


@pytest.fixture
def url(provider: Provider, proxy: Proxy) -> str:
    """The URL of an empty store."""
    return f"{provider.scheme}://{BUCKET}/{uuid.uuid4().hex}"


@EVERYWHERE
def test_store_is_read_elsewhere(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """Another machine has the same bytes, history and aliases; a poll without a new move is one request."""
    assert (other.names(), other.versions("m")) == (["m"], [1, 2, 3])
    assert artifact.read(other.find("m@2")) == artifact.read(one.find("m@2"))
    one.move("m", life.PROMOTE, {"champion": 3}, after=one.last_move("m"))
    assert other.last_move("m") == one.last_move("m")
    proxy.seen.clear()
    other.last_move("m")
    assert [(each.method, each.object.rpartition("/")[2]) for each in proxy.seen] == [("GET", "5.json")]


@EVERYWHERE
def test_only_one_creates_an_object(url: str, proxy: Proxy) -> None:
    """Of eight writers of one object the provider lets one pass, which its request asks for; the others are refused."""
    objects = Objects(url)

    def create(writer: int) -> bool:
        with suppress(FileExistsError):
            objects.create("m/1", b"%d" % writer)
            return True
        return False

    for _ in range(3):
        with ThreadPoolExecutor(8) as pool:
            created = list(pool.map(create, range(8)))
        assert created.count(True) == 1
        assert objects.read("m/1", max_bytes=10) == b"%d" % created.index(True)
        objects.check_refuses("m/1", b"%d" % created.index(True))
        assert all(
            each.headers.get("if-none-match") == "*" or "ifGenerationMatch=0" in each.path
            for each in proxy.seen
            if each.writes
        )
        objects.remove("m/1")


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # of gcsfs, which users do not see
@EVERYWHERE
def test_what_is_empty_or_short(one: RemoteStore, other: RemoteStore, url: str) -> None:
    """A file of a version that is empty in the store, or shorter than it should be, is named; so is an empty move."""
    big = Draft({"title": "x"}, {"a.bin": os.urandom(2**24 + 1)})  # comes in two pieces
    one.add("m", big)
    for content in (b"", b"short"):
        put(url, "m/4/a.bin", content)
        with pytest.raises(StoreError, match=f"m/4/a.bin: has {len(content)} bytes where the manifest says 16777217"):
            other.find("m@4")
    put(url, "m/moves/5.json", b"")
    with pytest.raises(StoreError, match=r"moves/5.json: is not a move of aliases"):
        other.last_move("m")


@EVERYWHERE
def test_upload_that_is_refused(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """An upload that is refused at its last file is an error, of which nobody sees anything; it can be repeated."""
    proxy.fault = lambda request: DENIED if request.writes and request.object.endswith("/4/manifest.json") else None
    with pytest.raises(StoreError, match=f"{one.place}: access is denied"):
        one.add("m", SMALL)
    assert other.versions("m") == [1, 2, 3]
    proxy.fault = lambda request: None

    assert one.add("m", SMALL).name == "5"
    other.last_move("m")
    assert artifact.read(other.find("m@5"))[1] == SMALL.files


@pytest.mark.parametrize("file", ["a.txt", "plots/b.png", "manifest.json"])
def test_half_an_upload(one: RemoteStore, other: RemoteStore, proxy: Proxy, file: str) -> None:
    """An upload whose connection is cut every time is an error that names the URL; nobody sees anything of it."""

    def cut(request: Request) -> int | None:
        return 3 if request.writes and request.object.endswith(f"/4/{file}") else None

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


@EVERYWHERE
def test_upload_that_is_cut_once(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A connection that is lost once during an upload is made up for."""
    cuts = iter([3])
    proxy.fault = lambda request: next(cuts, None) if request.object.endswith("/4/a.txt") else None

    assert one.add("m", SMALL).name == "4"
    assert next(cuts, None) is None
    assert artifact.read(other.find("m@4"))[1] == SMALL.files


def test_connection_that_is_lost_while_reading(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A reply that is cut, at any place, leaves nothing here; the next try brings the whole version."""
    big = Draft({"title": "x"}, {"a.bin": os.urandom(300_000)})
    one.add("m", big)
    other.last_move("m")
    for n_bytes in (200, 250_000):  # each try takes half a minute, with all its retries

        def cut(request: Request, n_bytes: int = n_bytes) -> int | None:
            return -n_bytes if request.object.endswith("/a.bin") else None

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


@EVERYWHERE
def test_two_promotions_at_once(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """Of two processes that promote at the same moment one wins; the other is told of it, and changes nothing."""
    lines = at_once(PROMOTE, url, tmp_path)
    (winner,) = [version for version, line in zip((2, 3), lines) if line == "4"]
    (told,) = [line for line in lines if line != "4"]

    assert told.startswith(f"m was moved meanwhile, by {winner} at ")
    move = one.last_move("m")
    assert move is not None
    assert (move.number, move.by, move.versions["champion"]) == (4, str(winner), winner)


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
    proxy.fault = lambda request: -1 if request.writes and request.object.endswith("/4.json") else None
    move = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))

    assert other.last_move("m") == move
    assert len(other.history("m")) == 4


@EVERYWHERE
def test_reply_to_a_move_that_is_lost_once(one: RemoteStore, other: RemoteStore, proxy: Proxy) -> None:
    """A move whose first reply is lost is made once: what the client's second try is told is not taken for a loss."""
    cuts = iter([-1])
    proxy.fault = lambda request: next(cuts, None) if request.writes and request.object.endswith("/4.json") else None
    move = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))

    assert next(cuts, None) is None
    assert other.last_move("m") == move
    assert len(other.history("m")) == 4


@EVERYWHERE
def test_denied(
    url: str,
    one: RemoteStore,
    proxy: Proxy,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What the server refuses and a bucket that does not exist are named, with what to do, in one line alone."""

    def failure(place: str = url) -> str:
        assert main(["--store", place, "--cache", str(tmp_path / "x"), "list", "m"]) == 1
        printed = capsys.readouterr().err
        assert "secret" not in printed
        return printed

    proxy.fault = lambda request: DENIED
    assert failure().startswith(f"error: {url}: access is denied (")
    proxy.fault = lambda request: None
    nobody = f"{url.partition('://')[0]}://nobody/models"
    assert failure(nobody) == f"error: {nobody}: there is no bucket or container nobody; make it, or correct the URL\n"
    assert [record.message for record in caplog.records if record.name == "gcsfs"] == []


@pytest.mark.parametrize("provider", [AZURE], ids=lambda each: each.scheme, indirect=True)
def test_wrong_key(
    url: str, proxy: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A key that the server does not know is told from a server that does not answer. The others check none here."""
    variable = "AZURE_STORAGE_CONNECTION_STRING"
    monkeypatch.setenv(variable, re.sub("AccountKey=....", "AccountKey=AAAA", os.environ[variable]))
    for command in (["list"], ["verify", "m"]):
        assert main(["--store", url, "--cache", str(tmp_path), *command]) == 1
        assert capsys.readouterr().err.startswith(f"error: {url}: access is denied (Server failed to authenticate")


def test_server_is_gone(url: str, proxy: Proxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A server that does not take connections is named."""
    proxy.close()
    try:
        assert main(["--store", url, "--cache", str(tmp_path), "list", "m"]) == 1
        error = capsys.readouterr().err
        assert error.startswith(f'error: {url}: it did not answer (Could not connect to the endpoint URL: "http://')
        assert re.search(r'/[^ "?]*"\); check the network', error)
    finally:
        proxy.open()


@EVERYWHERE
def test_server_follows_the_store(provider: Provider, store: Path, url: str, proxy: Proxy, tmp_path: Path) -> None:
    """A server of two workers serves the champion behind a URL, and the next one when the alias has moved."""
    remote = at(url, tmp_path / "writer")
    shutil.copytree(store, tmp_path / "trained")
    drafted = artifact.read_draft(Store(tmp_path / "trained").find(NAME))
    remote.add(NAME, drafted)
    mirrored = Store(RemoteStore.at(url, tmp_path / "cache", is_mirror=True).root)
    with serve(url, tmp_path, **following(provider, proxy, tmp_path)) as server:
        assert answers(server, 1)
        remote.add(NAME, replace(drafted, manifest={**drafted.manifest, "title": "second"}))
        remote.move(NAME, life.PROMOTE, {"champion": 2}, after=remote.last_move(NAME))
        wait_until(lambda: mirrored.aliases(NAME).get("champion") == 2)
        server.process.send_signal(1)
        wait_until(lambda: answers(server, 2))
        assert value(scrape(server), "tabserve_reload_refused") == 0


def following(provider: Provider, proxy: Proxy, folder: Path) -> dict[str, str]:
    """Return the settings of a server that looks at its store every second."""
    return {
        **provider.environment(proxy.port),
        "TABSERVE_STORE_CACHE": str(folder / "cache"),
        "TABSERVE_RELOAD_SECONDS": "1",
        "WEB_CONCURRENCY": "2",
    }


def answers(server: Server, version: int) -> bool:
    """Return whether a version answers, and no other."""
    replies = [requests.post(f"{server.url}/predict", json=HOUSE, timeout=10) for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200] * 4
    return {reply.json()["version"] for reply in replies} == {version}


def test_server_waits_for_what_the_store_has_not(
    provider: Provider, store: Path, url: str, proxy: Proxy, tmp_path: Path
) -> None:
    """A server that starts before its first model, and before its challenger, serves each when it is there.

    Until then the log names what is missing, and the metric is 1.
    """
    remote = at(url, tmp_path / "writer")
    drafted = artifact.read_draft(Store(store).find(NAME))
    settings = {**following(provider, proxy, tmp_path), "TABSERVE_MODELS": f"{NAME},{NAME}@challenger:shadow"}
    with serve(url, tmp_path, wait="/livez", **settings) as server:
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 503
        assert value(scrape(server), "tabserve_reload_refused") == 1
        assert f"there is no model '{NAME}' in the store {url}, which has no model at all" in server.stderr.read_text()

        remote.add(NAME, drafted)
        wait_until(lambda: requests.get(f"{server.url}/readyz", timeout=10).status_code == 200)
        wait_until(lambda: "has no version or alias 'challenger'; its versions are 1," in server.stderr.read_text())
        assert value(scrape(server), "tabserve_reload_refused") == 1

        remote.add(NAME, replace(drafted, manifest={**drafted.manifest, "title": "second"}))
        life.tag(remote, f"{NAME}@2", "challenger")
        wait_until(lambda: value(scrape(server), "tabserve_reload_refused") == 0)
        wait_until(lambda: '"role":"shadow"' in requests.get(f"{server.url}/models", timeout=10).text)


def test_server_goes_on_without_the_store(
    provider: Provider, store: Path, url: str, proxy: Proxy, tmp_path: Path
) -> None:
    """A server serves what it has when a version is damaged or the store is gone, also from its start.

    What the store has when it is back is served after a reload; a damaged version is refused, and the old one stays.
    The metric says whether the server follows its store.
    """
    remote = at(url, tmp_path / "writer")
    shutil.copytree(store, tmp_path / "trained")
    drafted = artifact.read_draft(Store(tmp_path / "trained").find(NAME))
    remote.add(NAME, drafted)
    settings = following(provider, proxy, tmp_path)

    def logged(text: str) -> bool:
        return text in server.stderr.read_text()

    def refused() -> float:
        return value(scrape(server), "tabserve_reload_refused")

    mirrored = Store(RemoteStore.at(url, tmp_path / "cache", is_mirror=True).root)
    with serve(url, tmp_path, **settings) as server:
        assert answers(server, 1)
        assert refused() == 0
        remote.add(NAME, replace(drafted, manifest={**drafted.manifest, "title": "second"}))
        put(url, f"{NAME}/2/golden.json", b"{}")
        remote.move(NAME, life.PROMOTE, {"champion": 2}, after=remote.last_move(NAME))
        wait_until(lambda: logged("2/golden.json: has 2 bytes where the manifest says"))
        wait_until(lambda: refused() == 1)
        assert answers(server, 1)
        proxy.close()
        wait_until(lambda: logged("it did not answer"))
        assert answers(server, 1)
    try:
        with serve(url, tmp_path, **settings) as server:
            assert answers(server, 1)
            assert logged("not everything could be read from the store; what is here is served")
            assert refused() == 1
            assert "secret" not in server.stderr.read_text()
            proxy.open()
            put(url, f"{NAME}/2/golden.json", drafted.files["golden.json"])
            wait_until(lambda: mirrored.aliases(NAME).get("champion") == 2)
            server.process.send_signal(1)
            wait_until(lambda: answers(server, 2))
            assert refused() == 0
            workers = server.workers()
        # The process that reads the store has ended, too.
        wait_until(lambda: not [pid for pid in workers if Path(f"/proc/{pid}").exists()])
    finally:
        proxy.close()
        proxy.open()
