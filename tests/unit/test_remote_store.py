"""A store behind a URL: the same as a folder, with verified copies of what is read."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from pathlib import Path

import pytest

from app.serving.store_watch import fingerprint
from model import NotInStoreError, Store
from model.cli.main import main
from model.errors import MovedError, StoreError
from model.store import archive, artifact, history, life
from model.store.artifact import Draft
from model.store.files import MAX_JSON_BYTES
from model.store.location import open_store
from model.store.remote import RemoteStore, mirror
from model.store.urls import parse_location, shown
from model.store.versions import locked
from tests.support import remote as shared
from tests.support.remote import at, objects, put, remove
from tests.support.signatures import key_pair
from tests.support.store import SMALL

NAME = "boston-housing"

one = shared.one
other = shared.other


@pytest.fixture
def url() -> str:
    """A URL of an empty store in this process's memory."""
    return f"memory://{uuid.uuid4().hex}/models"


def test_store_is_read_elsewhere(one: RemoteStore, other: RemoteStore) -> None:
    """Another machine finds models, versions, aliases, history and every byte; and only what it asked for is here."""
    assert other.names() == ["m"]
    assert other.versions("m") == [1, 2, 3]
    assert other.aliases("m") == {"candidate": 3, "champion": 1}
    assert other.history("m") == one.history("m")
    assert other.history("m")[-1].aliases["candidate"].digest == artifact.read(one.find("m@3"))[0]["digest"]
    assert artifact.read(other.find("m")) == artifact.read(one.find("m@1"))
    assert sorted(path.name for path in (other.root / "m").iterdir()) == ["1", "moves"]
    with pytest.raises(NotInStoreError, match=rf"no model 'x' in the store {one.place}, which has m"):
        other.find("x")
    with pytest.raises(NotInStoreError, match="has no version or alias '4'"):
        other.find("m@4")


def test_objects_are_the_files_of_a_store(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """The objects have the names of a store's files, so that any tool that copies them makes one from the other."""
    copied = Store(tmp_path / "copied")
    for name, content in objects(url).items():
        path = copied.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    assert copied.versions("m") == [1, 2, 3]
    assert copied.history("m") == one.history("m")
    assert artifact.read(copied.find("m@2")) == artifact.read(one.find("m@2"))


def test_life_of_a_version(one: RemoteStore, other: RemoteStore, url: str) -> None:
    """Promotions, rollbacks, tags and pruning are seen elsewhere, and a pruned number is not given again."""

    def promote(store: RemoteStore, version: int) -> None:
        store.move("m", life.PROMOTE, {"champion": version}, after=store.last_move("m"))

    promote(one, 3)
    assert other.aliases("m")["champion"] == 3
    life.tag(other, "m@2", "challenger")
    assert one.last_move("m") == other.last_move("m")
    life.untag(one, "m", "challenger")
    promote(one, 3)
    assert one.add("m", SMALL).name == "4"
    assert life.prune(one, "m", keep=1) == (2,)
    assert not [name for name in objects(url) if name.startswith("m/2/")]
    other.last_move("m")
    assert other.versions("m") == [1, 3, 4]
    one.move("m", life.PRUNE, {"candidate": 3}, after=one.last_move("m"), removed=(4,))
    assert other.add("m", SMALL).name == "5"


def test_two_promotions(one: RemoteStore, other: RemoteStore) -> None:
    """Of two promotions that were decided at the same moment one wins, and the other is told who made it."""
    seen = other.last_move("m")
    mine = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"), by="ann")
    with pytest.raises(MovedError, match=r"m was moved meanwhile, by ann at .*: promote champion from 1 to 2"):
        other.move("m", life.PROMOTE, {"champion": 3}, after=seen)
    with pytest.raises(MovedError, match="by ann"):  # the last moment, behind every other check
        other._write_move("m", history.following(seen, life.PROMOTE, seen.aliases if seen else {}, by="bob"))

    assert other.last_move("m") == one.last_move("m") == mine


def test_two_versions_of_one_number(one: RemoteStore, other: RemoteStore, url: str) -> None:
    """A number that another writer has claimed is left to it, whether it ever completes its version or not."""
    put(url, "m/4/.claim", b"another")
    put(url, "m/4/a.txt", b"half")

    assert other.add("m", SMALL).name == "5"
    assert one.last_move("m") == other.last_move("m")
    assert one.versions("m") == [1, 2, 3, 5]
    assert objects(url)["m/4/a.txt"] == b"half"


def test_upload_that_ends_early_is_invisible(
    one: RemoteStore, other: RemoteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A version is not there before the move that names it, wherever its upload stopped."""
    for n_done in range(3):
        done: list[str] = []

        def upload(name: str, file: Path, done: list[str] = done, n_done: int = n_done) -> None:
            if len(done) == n_done:
                raise StoreError("memory://", "it did not answer")
            done.append(name)

        with monkeypatch.context() as patched:
            patched.setattr(type(one.objects), "upload", lambda _, name, file: upload(name, file))
            with pytest.raises(StoreError):
                one.add("m", SMALL)
        assert done == [f"m/{4 + n_done}/{name}" for name in ("a.txt", "plots/b.png", "manifest.json")][:n_done]
        assert other.versions("m") == [1, 2, 3]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("m/3/a.txt", b"b", "m/3/a.txt: was changed after it was written: its hash differs"),
        ("m/3/a.txt", b"", "m/3/a.txt: has 0 bytes where the manifest says 1"),
        ("m/3/manifest.json", b"{}", "m/3/manifest.json: is not a manifest"),
        ("m/3/manifest.json", b"", "m/3/manifest.json: is not a manifest"),
        ("m/3/a.txt", None, "m/3/a.txt: is missing"),
        ("m/3/manifest.json", None, "m/3/manifest.json: is missing"),
    ],
)
def test_damaged_object(other: RemoteStore, url: str, name: str, content: bytes | None, text: str) -> None:
    """What is damaged or missing is named with its URL, and nothing of it is left here; other versions are read."""
    if content is None:
        remove(url, name)
    else:
        put(url, name, content)
    with pytest.raises(StoreError, match=f"{other.place}/{text}"):
        other.find("m@3")

    assert sorted(path.name for path in other.root.rglob("*")) == sorted(
        ["m", "moves", *(f"{number}.json" for number in (1, 2, 3))]
    )
    assert artifact.read(other.find("m@2"))[1] == SMALL.files


def test_another_version_in_its_place(one: RemoteStore, other: RemoteStore, url: str, tmp_path: Path) -> None:
    """A whole version that is not the one that an alias was moved to is refused."""
    made = artifact.save(Draft({}, {"a.txt": b"other"}), tmp_path / "made", name="m", version=3)
    for file in ("a.txt", "manifest.json"):
        put(url, f"m/3/{file}", (made / file).read_bytes())
    with pytest.raises(StoreError, match=r"m/3/manifest.json: is another version than when an alias was moved to it"):
        other.find("m@3")


def test_version_is_fetched_while_its_model_is_written(other: RemoteStore) -> None:
    """Who holds the lock of a model's folder, as a merge does, brings a version here without waiting for itself."""
    other.last_move("m")
    with locked(other.root / "m"):
        assert artifact.read(other.find("m@2"))[1] == SMALL.files


def test_list_brings_no_version_here(
    one: RemoteStore, other: RemoteStore, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`list` reads manifests alone, and names the one that is damaged or missing beside all others."""
    put(url, "m/1/manifest.json", b"{}")
    remove(url, "m/2/manifest.json")
    assert main(["--store", url, "--cache", str(other.root.parent), "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)

    assert [each["digest"] for each in listed] == [None, None, one.last_move("m").aliases["candidate"].digest]  # type: ignore[union-attr]
    assert listed[0]["problem"].startswith(f"{one.place}/m/1/manifest.json: is not a manifest")
    assert listed[1]["problem"].startswith(f"{one.place}/m/2/manifest.json: is missing")
    assert [path.name for path in (other.root / "m").iterdir()] == ["moves"]


def test_manifest_that_leaves_its_folder(one: RemoteStore, other: RemoteStore, url: str, tmp_path: Path) -> None:
    """A manifest with a file outside its folder is refused before anything is written."""
    facts = {
        "format_version": artifact.FORMAT_VERSION,
        "name": "n",
        "version": 1,
        "files": {"../../../../evil": {"sha256": "0" * 64, "size": 4}},
    }
    digest = artifact.digest(facts)
    put(url, "n/1/manifest.json", json.dumps({**facts, "digest": digest, "created_at": "2026"}).encode())
    put(url, "evil", b"evil")
    put(
        url,
        "n/moves/1.json",
        history.encode(history.following(None, "register", {"champion": history.Aliased(1, digest)})),
    )
    with pytest.raises(StoreError, match=r"n/1/manifest.json: names a file outside its folder"):
        other.find("n")
    assert not list(tmp_path.rglob("evil"))


def test_damaged_copy_is_replaced(other: RemoteStore) -> None:
    """A copy that was damaged on this machine is noticed and downloaded again."""
    path = other.find("m@2")
    (path / "a.txt").write_bytes(b"b")

    assert artifact.read(other.find("m@2"))[1] == SMALL.files
    (path / "manifest.json").unlink()
    assert artifact.read(other.find("m@2"))[1] == SMALL.files


@pytest.mark.parametrize("content", [b"", b"{}", b'{"format_version":1}'])
def test_broken_move(one: RemoteStore, other: RemoteStore, url: str, content: bytes) -> None:
    """A next move that is none is named with its URL, and is not taken; nor is one that follows another."""
    put(url, "m/moves/4.json", content)
    with pytest.raises(StoreError, match=r"m/moves/4.json: is not a move of aliases"):
        one.last_move("m")
    put(url, "m/moves/4.json", objects(url)["m/moves/2.json"])
    with pytest.raises(StoreError, match=r"m/moves/4.json: does not follow the move before"):
        other.last_move("m")
    assert not (other.root / "m" / "moves").exists()
    remove(url, "m/moves/4.json")
    assert one.aliases("m") == other.aliases("m") == {"candidate": 3, "champion": 1}


@pytest.mark.parametrize("number", [1, 3])
def test_history_that_was_replaced(one: RemoteStore, url: str, tmp_path: Path, number: int) -> None:
    """A history that is another one than what is here, or that ends before it, is refused with what to do."""
    if number == 3:
        remove(url, "m/moves/3.json")
    else:
        remove(url, "m")
        at(url, tmp_path / "third").add("m", SMALL, by="somebody else")
    again = at(url, tmp_path / "one")
    with pytest.raises(StoreError, match=rf"has another history of m than when it was read last.*{again.root / 'm'}"):
        again.last_move("m")


def test_store_that_knows_no_conditions(one: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storage that lets a second writer write over the first is found out by the first write, and refused."""
    files = type(one.objects._fs)
    overwrite = files.pipe_file

    def ignore(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        overwrite(self, path, value)

    monkeypatch.setattr(files, "pipe_file", ignore)
    with pytest.raises(StoreError, match="does not refuse to write over an object"):
        one.add("m", SMALL)
    with pytest.raises(StoreError, match="does not refuse to write over an object"):
        one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))
    assert one.aliases("m") == {"candidate": 3, "champion": 1}


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ('no endpoint: "http://host/bucket?list-type=2&sig=secret"', 'no endpoint: "http://host/bucket"'),
        ("GET http://host/a?sig=sec\"ret'): reset (by peer).", "GET http://host/a'): reset (by peer)."),
        ("http://host/a?sig=secret", "http://host/a"),
    ],
)
def test_signatures_are_not_shown(one: RemoteStore, monkeypatch: pytest.MonkeyPatch, said: str, shown: str) -> None:
    """Of the URL in a provider's message what follows the path is left out, but not the quotation mark behind it."""

    def fail(*arguments: object, **named: object) -> None:
        raise OSError(said)

    monkeypatch.setattr(type(one.objects._fs), "ls", fail)
    with pytest.raises(StoreError) as caught:
        one.listed()
    assert caught.value.reason == f"it did not answer ({shown}); check the network and the URL, and try again"


def test_reply_that_was_lost(one: RemoteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A move that was made although its reply was lost counts as made, and is not made twice."""
    files = type(one.objects._fs)
    real = files.pipe_file

    def lost(self: object, path: str, value: bytes, mode: str = "overwrite") -> None:
        real(self, path, value, mode)
        raise OSError("connection reset")

    monkeypatch.setattr(files, "pipe_file", lost)
    move = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))

    assert (move.number, one.last_move("m")) == (4, move)


def test_pull_into_a_store_behind_a_url(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """The versions and aliases of another store are taken over; a version without an alias is refused by name."""
    source = Store(tmp_path / "source")
    source.add("n", SMALL)
    with one.incoming() as folder:
        source.root.rename(folder / "x")
        assert one.merge(Store(folder / "x"), why="because") == {one.root / "n" / "1": True}
    assert at(url, tmp_path / "third").aliases("n") == {"candidate": 1, "champion": 1}
    assert one.last_move("n").why == "because"  # type: ignore[union-attr]

    for _ in range(3):
        source.add("n", SMALL)
    source.move("n", life.PROMOTE, {"champion": 3}, after=source.last_move("n"))
    with one.incoming() as folder:
        source.root.rename(folder / "x")
        with pytest.raises(StoreError, match="n@2 has no alias"):
            one.merge(Store(folder / "x"))
    assert one.versions("n") == [1]


def test_commands_name_the_store_and_not_the_copy(
    store: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `pull` and `sign` have written is named by its URL, where all see it, and in a folder by its path."""
    private, _ = key_pair(tmp_path)
    archive.pack(Store(store), NAME, tmp_path / "version.tar.gz")
    for place in (url, str(tmp_path / "folder")):
        command = ["--store", place, "--cache", str(tmp_path / "cache")]
        assert main([*command, "pull", (tmp_path / "version.tar.gz").as_uri()]) == 0
        assert capsys.readouterr().out == f"{NAME} version 1: verified, now in {place}/{NAME}/1\n"
        assert main([*command, "sign", NAME, "--key", str(private)]) == 0
        assert capsys.readouterr().out.endswith(f", in {place}/{NAME}/1/model.sig\n")


def test_mirror(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """A mirror is a store in a folder with the champions, or what is named, and keeps up with the moves."""
    mirrored = at(url, tmp_path / "mirror")
    folder = Store(mirrored.root)
    assert mirror(mirrored, ()) == []
    assert (folder.names(), folder.versions("m"), folder.aliases("m")["champion"]) == (["m"], [1], 1)

    one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))
    assert mirror(mirrored, ()) == []
    assert (folder.versions("m"), folder.find("m").name) == ([1, 2], "2")
    named = at(url, tmp_path / "named")
    assert mirror(named, ["m@candidate", "m@1"]) == []
    assert Store(named.root).versions("m") == [1, 3]


def test_mirror_of_what_there_is_not(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """A model, an alias or a version that the store does not have is a problem which names what there is, until it has.

    What there is comes all the same, and of no other model anything.
    """
    one.add("n", SMALL)
    mirrored = at(url, tmp_path / "mirror")
    wanted = ["m", "m@challenger", "m@1", "m@4", "x"]
    problems = [str(problem) for problem in mirror(mirrored, wanted)]
    has = "its versions are 1, 2, 3, its aliases candidate (3), champion (1)"
    assert problems == [
        f"the model 'm' in the store {mirrored.place} has no version or alias 'challenger'; {has}",
        f"the model 'm' in the store {mirrored.place} has no version or alias '4'; {has}",
        f"there is no model 'x' in the store {mirrored.place}, which has m, n; name one of those, or name another "
        "store",
    ]
    assert [str(problem) for problem in mirror(mirrored, wanted)] == problems
    assert [path.name for path in mirrored.root.iterdir()] == ["m"]

    life.tag(one, "m@2", "challenger")
    one.add("m", SMALL)
    one.add("x", SMALL)
    assert mirror(mirrored, wanted) == []
    assert Store(mirrored.root).versions("m") == [1, 2, 4]
    assert Store(mirrored.root).aliases("x")["champion"] == 1


def test_mirror_of_an_empty_store(url: str, tmp_path: Path) -> None:
    """A store without a model, which a misspelt URL may be, is a problem; a model without a version is none."""
    store = at(url, tmp_path / "one")
    mirrored = at(url, tmp_path / "mirror")
    store.keep("failed", "runs", "1.json", b"{}")
    for _ in range(2):
        (problem,) = mirror(mirrored, ())
        assert str(problem) == f"{mirrored.place}: there is no model; train one, or correct the URL"

    store.add("m", SMALL)
    assert mirror(mirrored, ()) == []


def test_mirror_command(one: RemoteStore, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints the folder with what it has brought there, or each problem in a line, with the status 1."""
    command = ["--store", url, "--cache", str(tmp_path / "cache"), "mirror"]
    assert main([*command, "x", "m@none", "M"]) == 1
    lines = capsys.readouterr().out.splitlines()
    starts = ["problem there is no model 'x' in", "problem the model 'm' in", "problem 'M' is not a model's name"]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts

    assert main([*command, "m"]) == 0
    folder = capsys.readouterr().out.strip().rpartition(" in ")[2]
    assert Store(Path(folder)).names() == ["m"]


def test_mirror_stays_small(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """A mirror has the versions that are wanted now, and those that were before the last moves; no others."""
    mirrored = at(url, tmp_path / "mirror")
    folder = Store(mirrored.root)
    for version, kept in ((1, [1]), (2, [1, 2]), (3, [2, 3]), (1, [1, 3])):
        one.move("m", life.PROMOTE, {"champion": version}, after=one.last_move("m"))
        assert mirror(mirrored, ["m"]) == []
        assert folder.versions("m") == kept
        assert artifact.read(folder.find("m"))[0]["version"] == version


def test_mirror_keeps_what_it_has(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """A move to a version that cannot be downloaded or verified is not taken before it can be."""
    mirrored = at(url, tmp_path / "mirror")
    folder = Store(mirrored.root)
    mirror(mirrored, ["m"])
    sound = objects(url)["m/2/a.txt"]
    put(url, "m/2/a.txt", b"b")
    move = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))
    for _ in range(2):
        (problem,) = mirror(mirrored, ["m"])
        assert str(problem).startswith(f"{mirrored.place}/m/2/a.txt: was changed after it was written")
        assert folder.find("m").name == "1"
    put(url, "m/2/a.txt", sound)

    assert mirror(mirrored, ["m"]) == []
    assert folder.last_move("m") == move
    assert artifact.read(folder.find("m"))[1] == SMALL.files


def test_damaged_challenger_holds_nothing_else_back(
    one: RemoteStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged version beside the one that answers is left out and named, and every move is taken; repaired, it comes.

    While it is left out the folder does not change, so that nobody loads the same again, and it is downloaded again
    after a pause, and after the next move.
    """
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    mirrored, wanted = at(url, tmp_path / "mirror"), ["m", "m@challenger"]
    folder = Store(mirrored.root)
    mirror(mirrored, wanted)
    sound = objects(url)["m/3/a.txt"]
    put(url, "m/3/a.txt", b"b")
    life.tag(one, "m@3", "challenger")
    (problem,) = mirror(mirrored, wanted)
    assert str(problem).startswith(f"{mirrored.place}/m/3/a.txt: was changed after it was written")
    move = one.move("m", life.PROMOTE, {"champion": 2}, after=one.last_move("m"))
    assert mirror(mirrored, wanted) != []
    before = fingerprint(folder.root)
    now += 10
    assert mirror(mirrored, wanted) != []

    assert fingerprint(folder.root) == before
    assert (folder.last_move("m"), folder.find("m").name, folder.versions("m")) == (move, "2", [1, 2])
    put(url, "m/3/a.txt", sound)
    now += 19
    assert mirror(mirrored, wanted) != []
    now += 1
    assert mirror(mirrored, wanted) == []
    assert artifact.read(folder.find("m@challenger"))[1] == SMALL.files

    remove(url, "m/1/a.txt")
    life.tag(one, "m@1", "challenger")
    shutil.rmtree(folder.root / "m" / "1")
    assert mirror(mirrored, wanted) != []
    put(url, "m/1/a.txt", sound)
    assert mirror(mirrored, wanted) != []
    life.tag(one, "m@2", "other")
    assert mirror(mirrored, wanted) == []


def test_folder_that_cannot_be_written(one: RemoteStore, url: str, tmp_path: Path) -> None:
    """What cannot be written here is named, and holds back neither the moves nor other models; no error ends it."""
    for name in ("a", "z"):
        for _ in range(2):
            one.add(name, SMALL)
    mirrored = at(url, tmp_path / "mirror")
    folder, wanted = Store(mirrored.root), ["a", "m", "m@3", "z"]
    (mirrored.root / "m").mkdir(parents=True)
    for blocked in ("a", "m/3"):
        (mirrored.root / blocked).write_bytes(b"")
    model, version = mirror(mirrored, wanted)
    assert str(model).startswith(f"{mirrored.root / 'a' / 'moves'}: is no folder of moves")
    assert str(version).startswith(f"{mirrored.place}/m/3: cannot be kept in {mirrored.root}")
    assert (folder.aliases("m"), folder.versions("m"), folder.versions("z")) == (one.aliases("m"), [1], [1])

    (mirrored.root / "a").unlink()
    (mirrored.root / "z" / "2").write_bytes(b"")
    before = folder.last_move("z")
    one.move("z", life.PROMOTE, {"champion": 2}, after=one.last_move("z"))
    *_, answering = mirror(mirrored, wanted)
    assert str(answering).startswith(f"{mirrored.place}/z: cannot be kept in")
    assert (folder.versions("a"), folder.last_move("z")) == ([1], before)


def test_signature_that_comes_later(one: RemoteStore, other: RemoteStore, url: str, tmp_path: Path) -> None:
    """A version that was signed after it was read has its signature the next time."""
    mirrored = at(url, tmp_path / "mirror")
    mirror(mirrored, ["m"], signatures=True)
    folder, mine = other.find("m"), one.find("m")
    artifact.write_signature(mine, b"signed")
    one.share_signature(mine)

    assert (other.find("m"), (folder / "model.sig").read_bytes()) == (folder, b"signed")
    mirror(mirrored, ["m"], signatures=True)
    assert (mirrored.root / "m" / "1" / "model.sig").read_bytes() == b"signed"


@pytest.mark.parametrize("is_remote", [False, True])
def test_records(url: str, tmp_path: Path, is_remote: bool) -> None:
    """Records beside versions are written once, in a folder and behind a URL, and read elsewhere by their keys."""
    store = at(url, tmp_path / "here") if is_remote else Store(tmp_path / "store")
    elsewhere = at(url, tmp_path / "elsewhere") if is_remote else store
    assert elsewhere.kept("m", "runs") == {}
    store.keep("m", "runs", "b.json", b"{}")
    store.keep("m", "runs", "a.json", b"1")
    with pytest.raises(FileExistsError):
        elsewhere.keep("m", "runs", "a.json", b"2")
    for kind, key in (("moves", "1.json"), ("1", "a.txt"), ("runs", "../x"), ("runs", ".claim"), ("../n", "x")):
        with pytest.raises(ValueError, match="is no name of a record"):
            store.keep("m", kind, key, b"")

    assert list(elsewhere.kept("m", "runs").items()) == [("a.json", b"1"), ("b.json", b"{}")]
    assert (elsewhere.versions("m"), elsewhere.aliases("m")) == ([], {})


def test_record_that_is_too_large_or_cannot_be_read(
    one: RemoteStore, other: RemoteStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a record only so much is read that its size shows, and one that fails to be read is not left out."""
    one.keep("m", "runs", "a.json", b"1")
    put(url, "m/runs/b.json", bytes(MAX_JSON_BYTES + 100))
    put(url, "m/runs/c.json", b"")
    kept = other.kept("m", "runs")
    assert {key: len(content) for key, content in kept.items() if isinstance(content, bytes)} == {
        "a.json": 1,
        "b.json": MAX_JSON_BYTES + 1,
        "c.json": 0,
    }

    files = type(one.objects._fs)
    real = files.cat_file

    def lost(self: object, path: str, start: int | None = None, end: int | None = None, **named: object) -> bytes:
        if path.endswith("a.json"):
            raise OSError("connection reset")
        content: bytes = real(self, path, start, end, **named)
        return content

    monkeypatch.setattr(files, "cat_file", lost)
    with pytest.raises(StoreError, match="it did not answer"):
        other.kept("m", "runs")


def test_places(tmp_path: Path) -> None:
    """A path and a URL of a file are a folder; what is neither a path nor a URL is refused."""
    assert open_store(tmp_path) == open_store(str(tmp_path)) == open_store(tmp_path.as_uri()) == Store(tmp_path)
    assert parse_location("file:///a%20b") == Path("/a b")
    assert parse_location("s3://bucket/models") == "s3://bucket/models"
    for text in ("", "s3://", "file://host/x", "http://[", "file://"):
        with pytest.raises(ValueError, match="not a "):
            parse_location(text)


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("s3://ann:secret@bucket/models/?key=secret#secret", "s3://bucket/models"),
        ("local:///models", "local:///models"),
        ("memory://models", "memory://models"),
        ("simplecache::s3://ann:secret@bucket/models", "simplecache::s3://bucket/models"),
        ("zip://a.zip::s3://ann:secret@bucket/x", "zip://a.zip::s3://bucket/x"),
        ("filecache://::s3://ann:secret@bucket/x?secret", "filecache://::s3://bucket/x"),
        ("https://ann:secret@[::1]:8000/x", "https://[::1]:8000/x"),
        ("https://host/x?from=ftp://ann:secret@y", "https://host/x"),
        ("s3://", "s3://"),
        ("http://[ann:secret", "the URL"),
    ],
)
def test_url_is_shown_as_it_was_written(url: str, text: str) -> None:
    """A URL is shown without user, password, query and fragment, and else as a person wrote it."""
    assert shown(url) == text


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("nonsense://ann:secret@x/y", "error: nonsense://x/y: cannot be opened: Protocol not known: nonsense"),
        ("dropbox://ann:secret@x/y?key=secret", "error: dropbox://x/y: needs a package that is not installed"),
    ],
)
def test_url_that_cannot_be_used(place: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command names the URL without credentials and says what is missing."""
    assert main(["--store", place, "--cache", str(tmp_path), "list"]) == 1
    printed = capsys.readouterr().err
    assert printed.startswith(text)
    assert "secret" not in printed


def test_url_that_can_only_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a second writer cannot be refused, nothing is written, and nothing is trained in vain."""
    url = f"local://{tmp_path / 'store'}"
    store = at(url, tmp_path / "cache")
    with pytest.raises(StoreError, match=r"can only be read: local cannot refuse a second writer; use .*s3"):
        store.add("m", SMALL)
    assert main(["--store", url, "--cache", str(tmp_path), "train", "m", "--data", "/no/table.csv"]) == 1
    assert "can only be read" in capsys.readouterr().err
    assert not (tmp_path / "store").exists()


def test_commands(one: RemoteStore, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands take a URL where they take a folder."""

    def run(*arguments: str) -> str:
        assert main(["--store", url, "--cache", str(tmp_path / "commands"), *arguments]) == 0
        return capsys.readouterr().out

    assert [each["version"] for each in json.loads(run("list", "--json"))] == [1, 2, 3]
    moved, served = run("tag", "m@2", "challenger").splitlines()
    assert "challenger to 2" in moved
    assert served.endswith("; from a store behind a URL, that of a download, too")
    assert json.loads(run("show", "m@challenger"))["title"] == "x"
    assert "tag challenger to 2" in run("history", "m")
    assert run("prune", "m", "--keep", "1", "--dry-run").startswith("nothing to take away")
    assert one.last_move("m").versions == {"candidate": 3, "challenger": 2, "champion": 1}  # type: ignore[union-attr]


def test_folder_here_is_named_by_the_url(tmp_path: Path) -> None:
    """Each URL has its own folder here, without credentials in its name."""
    first, second = (at(f"memory://user:secret@host/{name}", tmp_path) for name in ("a", "b"))

    assert first.root.parent == second.root.parent == tmp_path
    assert first.root != second.root
    assert "secret" not in f"{first.root} {first.place}"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("s3://user:secret@bucket/models/?token=secret#secret", "s3://bucket/models"),
        ("https://user@host/models", "https://host/models"),
        (
            "abfss://container@account.dfs.core.windows.net/models",
            "abfss://container@account.dfs.core.windows.net/models",
        ),
        ("abfs://user:secret@container/models", "abfs://container/models"),
    ],
)
def test_url_is_shown_without_credentials(url: str, expected: str) -> None:
    """What may be a credential is left out of a URL; the container of Azure, which stands where a user does, is not."""
    assert shown(url) == expected
