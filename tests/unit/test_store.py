"""The store: versions are written atomically, numbered and found by reference; and the command line."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from model import ArtifactError, NotInStoreError, Store
from model.cli.main import main
from model.store import artifact
from model.store.artifact import Draft
from model.store.mounts import find_store
from tests.support import store as shared
from tests.support.store import SMALL

shelf = shared.shelf


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    """A copy of the trained store, to break."""
    return shutil.copytree(store, tmp_path / "copy")


def test_saved_draft_is_read_back(tmp_path: Path) -> None:
    """A draft is read back with the facts of its folder, and no other file is left beside it."""
    folder = artifact.save(SMALL, tmp_path / "3", name="m", version=3)
    manifest, files = artifact.read(folder)

    assert files == SMALL.files
    assert (manifest["name"], manifest["version"], manifest["format_version"]) == ("m", 3, artifact.FORMAT_VERSION)
    assert artifact.read_draft(folder) == SMALL
    assert [path.name for path in tmp_path.iterdir()] == ["3"]


@pytest.mark.parametrize("good_files", [0, 1, 2])
def test_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, good_files: int) -> None:
    """A disk that fails at any file leaves neither a version nor a temporary folder."""
    calls: list[int] = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) > good_files:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        artifact.save(SMALL, tmp_path / "1", name="m", version=1)
    assert list(tmp_path.iterdir()) == []


def test_failing_rename_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rename that fails leaves nothing behind."""

    def rename(path: Path, target: Path) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(OSError, match="Input/output"):
        artifact.save(SMALL, tmp_path / "1", name="m", version=1)
    assert list(tmp_path.iterdir()) == []


def test_version_is_never_overwritten(tmp_path: Path) -> None:
    """Saving over a version fails and leaves it unchanged."""
    folder = artifact.save(SMALL, tmp_path / "1", name="m", version=1)
    with pytest.raises(OSError, match="not empty"):
        artifact.save(Draft({}, {"a.txt": b"other"}), folder, name="m", version=1)

    assert artifact.read(folder)[1] == SMALL.files
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


def test_versions_count_up(shelf: Store) -> None:
    """Each draft becomes the next version and the candidate, and only the first one the champion."""
    shelf.add("n", SMALL)
    shelf.add("n", SMALL)
    assert shelf.aliases("n") == {"candidate": 2, "champion": 1}
    shutil.rmtree(shelf.root / "n")
    assert shelf.names() == ["m"]
    assert shelf.versions("m") == [1, 2, 3]
    assert shelf.aliases("m") == {"candidate": 3, "champion": 3, "challenger": 2}
    assert [artifact.read(shelf.find(f"m@{n}"))[0]["version"] for n in (1, 2, 3)] == [1, 2, 3]


def test_number_of_a_version_is_not_given_again(shelf: Store) -> None:
    """The next version is one above the highest, not the first free number, and is found among more than nine."""
    shutil.rmtree(shelf.root / "m" / "2")
    shutil.rmtree(shelf.root / "m" / "3")
    for expected in range(4, 12):
        assert shelf.add("m", SMALL).name == str(expected)
    assert shelf.versions("m") == [1, *range(4, 12)]


@pytest.mark.parametrize(
    ("reference", "version"), [("m", "3"), ("m@champion", "3"), ("m@challenger", "2"), ("m@1", "1"), ("m@3", "3")]
)
def test_reference_finds_its_version(shelf: Store, reference: str, version: str) -> None:
    """A model is found by its name, which means the champion, by alias and by version."""
    assert shelf.find(reference) == shelf.root / "m" / version


@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("x", "there is no model 'x' in the store .*, which has m; name one of those, or name another store"),
        (
            "m@4",
            "has no version or alias '4'; its versions are 1, 2, 3, its aliases candidate .3., challenger .2., champ",
        ),
        ("m@0", "has no version or alias '0'"),
        ("m@-1", "has no version or alias '-1'"),
        ("m@best", "has no version or alias 'best'; its versions are 1, 2, 3,"),
        ("m@1@2", "'m@1' is not a model's name; leave out '@1'"),
        ("m@../1", "has no version or alias '../1'"),
        ("m@٣", "has no version or alias '٣'"),
        ("m@" + "9" * 5000, "has no version or alias '9+'"),
        ("", "'' is not a model's name; use lower-case letters, digits and single dashes"),
        ("@1", "'' is not a model's name"),
        ("../m", "'../m' is not a model's name"),
        ("/m", "'/m' is not a model's name"),
        ("M", "'M' is not a model's name"),
        ("m--n", "'m--n' is not a model's name"),
        ("m\n", r"'m\\n' is not a model's name"),
    ],
    ids=lambda text: text[:12],
)
def test_wrong_reference_is_told_what_there_is(shelf: Store, reference: str, text: str) -> None:
    """An unknown reference is an error that lists what exists; no reference leaves the store."""
    with pytest.raises(NotInStoreError, match=text):
        shelf.find(reference)


def test_alias_to_a_version_that_is_gone(shelf: Store) -> None:
    """An alias whose version was deleted finds nothing, and the message shows both."""
    shutil.rmtree(shelf.root / "m" / "3")
    with pytest.raises(
        NotInStoreError, match=r"has no version or alias 'champion'; its versions are 1, 2, its .*champion \(3\)"
    ):
        shelf.find("m")


def test_empty_store_says_so(tmp_path: Path) -> None:
    """A missing store has no models, and its error says so."""
    assert Store(tmp_path / "none").names() == []
    with pytest.raises(NotInStoreError, match="which has no model at all"):
        Store(tmp_path / "none").find("m")


def test_strangers_in_the_folder_are_ignored(shelf: Store) -> None:
    """Files, hidden folders, models without a version and folders that are not versions are ignored."""
    for name in (".incoming-1", "Other", "empty", "m/.incoming-2", "m/4x", "m/latest"):
        (shelf.root / name).mkdir()
    (shelf.root / "readme").write_text("")

    assert shelf.names() == ["m"]
    assert shelf.versions("m") == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[]", b"1", b"{}", b'{"format_version": 1}', b"[" * 90_000, b"[]," * 10**6],
    ids=lambda content: content[:20],
)
def test_broken_move_is_refused(shelf: Store, content: bytes) -> None:
    """A last move that is none is an `ArtifactError` that names it; a version is still found by its number."""
    path = shelf.root / "m" / "moves" / "4.json"
    path.write_bytes(content)

    with pytest.raises(ArtifactError, match="is not a move of aliases") as caught:
        shelf.find("m")
    assert caught.value.path == path
    assert shelf.find("m@2") == shelf.root / "m" / "2"


@pytest.mark.parametrize("target", [None, "/dev/zero", "elsewhere"])
def test_move_that_is_no_plain_file_is_refused(shelf: Store, target: str | None) -> None:
    """A FIFO, a device or a link instead of the last move is refused without blocking."""
    path = shelf.root / "m" / "moves" / "4.json"
    path.rename(path.with_name("elsewhere"))
    if target:
        path.symlink_to(target)
    else:
        os.mkfifo(path)

    with pytest.raises(ArtifactError, match="is not a move of aliases: it is not a regular file"):
        shelf.find("m")


def test_nothing_is_added_to_a_broken_history(shelf: Store) -> None:
    """Adding to a model whose last move is broken fails and writes no version."""
    path = shelf.root / "m" / "moves" / "4.json"
    path.write_bytes(b"{")

    with pytest.raises(ArtifactError, match="is not a move of aliases"):
        shelf.add("m", SMALL)
    assert (shelf.versions("m"), path.read_bytes()) == ([1, 2, 3], b"{")


def test_store_without_a_history_says_what_to_do(shelf: Store) -> None:
    """A store of a time before there was a history is refused with the way to one, which works."""
    shutil.rmtree(shelf.root / "m" / "moves")
    old = shelf.root / "m" / "aliases.json"
    old.write_text('{"champion": 2}')
    with pytest.raises(ArtifactError, match=r"kept no history; remove it and .* promote m@VERSION") as caught:
        shelf.find("m")
    assert caught.value.path == old

    old.unlink()
    shelf.move("m", "promote", {"champion": 2}, after=shelf.last_move("m"))
    assert shelf.find("m") == shelf.root / "m" / "2"


def test_list_and_show(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`list` prints each version with its aliases and what it is, `show` the unchanged manifest."""
    assert main(["--store", str(store), "list"]) == 0
    _, line = capsys.readouterr().out.splitlines()
    assert re.split("  +", line) == [
        *(
            "boston-housing@1",
            "candidate champion",
            artifact.read_manifest(store / "boston-housing" / "1")["created_at"][:10],
        ),
        *("StandardScaler + GradientBoostingRegressor", "506", "rmse 5.134 (validation)"),
    ]
    assert main(["--store", str(store), "show", "boston-housing"]) == 0
    assert capsys.readouterr().out == (store / "boston-housing" / "1" / "manifest.json").read_text()


def test_verify(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`verify` prints what it checked; for a changed file, of the version or of the history, it exits with 1."""
    assert main(["--store", str(copy), "verify", "boston-housing@champion"]) == 0
    sha256 = hashlib.sha256((copy / "boston-housing" / "moves" / "1.json").read_bytes()).hexdigest()
    assert capsys.readouterr().out == (
        "verified boston-housing@1: 16 files unchanged, 64 golden rows answered to the last bit\n"
        f"history of boston-housing: 1 move, each follows the one before; the last is {sha256}\n"
    )
    path = copy / "boston-housing" / "1" / "card.md"
    card = path.read_text()
    path.write_text("better")
    assert main(["--store", str(copy), "verify", "boston-housing"]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith(f"error: {path}: has 6 bytes where the manifest says ")

    path.write_text(card)
    move = copy / "boston-housing" / "moves" / "1.json"
    move.write_text(move.read_text().replace("register", "promoted"))
    assert main(["--store", str(copy), "verify", "boston-housing@1"]) == 1
    assert capsys.readouterr().err.startswith(f"error: {move}: is not a move of aliases: it was changed")


@pytest.mark.parametrize("place", ["boston-housing/2", "other-model/1"])
def test_version_in_a_folder_that_is_not_its_own_is_refused(copy: Path, place: str) -> None:
    """A good artifact under another name or number is refused, since it would serve as another model."""
    shutil.copytree(copy / "boston-housing" / "1", copy / place)

    with pytest.raises(ArtifactError, match="is of boston-housing version 1, which belongs in another folder"):
        Store(copy).load(place.replace("/", "@"))


def test_one_artifact_is_a_store(store: Path, tmp_path: Path) -> None:
    """A root that is one artifact is a store of that version, its champion, whatever the folder is called."""
    shelf = Store(shutil.copytree(store / "boston-housing" / "1", tmp_path / "7"))

    assert (shelf.names(), shelf.versions("boston-housing")) == (["boston-housing"], [1])
    assert (shelf.aliases("boston-housing"), shelf.versions("m"), shelf.aliases("m")) == ({"champion": 1}, [], {})
    for reference in ("boston-housing", "boston-housing@champion", "boston-housing@1"):
        assert shelf.find(reference) == shelf.load(reference).path == tmp_path / "7"
    for reference, text in (("boston-housing@7", "has no version or alias '7'"), ("m", "which has boston-housing;")):
        with pytest.raises(NotInStoreError, match=text):
            shelf.find(reference)


def test_nothing_is_added_to_one_artifact(copy: Path) -> None:
    """Adding to a single artifact is an error that names it, and nothing is written."""
    root = copy / "boston-housing" / "1"
    before = sorted(root.rglob("*"))

    with pytest.raises(ArtifactError, match="1: is one artifact and not a store: it takes no models; name another"):
        Store(root).add("boston-housing", SMALL)
    assert sorted(root.rglob("*")) == before


def test_broken_artifact_as_a_store_is_named(copy: Path) -> None:
    """A root that is an artifact is verified: its digest to list its name, its files to load it."""
    root = copy / "boston-housing" / "1"
    (root / "card.md").write_text("better")
    with pytest.raises(ArtifactError, match=r"card\.md: has 6 bytes"):
        Store(root).load("boston-housing")

    (root / "manifest.json").write_text('{"name": "boston-housing", "version": 1, "format_version": 1}')
    with pytest.raises(ArtifactError, match=r"manifest\.json: was changed after it was written"):
        Store(root).names()


@pytest.mark.parametrize("facts", [{"name": "../x"}, {"name": None}, {"version": 0}, {"version": True}])
def test_artifact_that_names_no_model_is_refused(tmp_path: Path, facts: dict[str, Any]) -> None:
    """A manifest whose name or version cannot be a folder or URL is refused."""
    manifest = {"format_version": 1, "name": "m", "version": 1, "files": {}, **facts}
    (tmp_path / "manifest.json").write_bytes(artifact.to_json({**manifest, "digest": artifact.digest(manifest)}))

    with pytest.raises(ArtifactError, match="does not name its model and version"):
        Store(tmp_path).names()


def test_one_version_without_aliases_has_no_champion(copy: Path) -> None:
    """Without aliases there is no champion: a version is found only by its number, and the error says so."""
    shutil.rmtree(copy / "boston-housing" / "moves")

    assert Store(copy).find("boston-housing@1") == copy / "boston-housing" / "1"
    with pytest.raises(
        NotInStoreError, match=r"has no version or alias 'champion'; its versions are 1, its aliases none"
    ):
        Store(copy).find("boston-housing")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["m/1/manifest.json", "m/moves/1.json"], ""),
        (["m/1/manifest.json", "m/2/manifest.json"], ""),
        (["m/1/manifest.json", "n/1/manifest.json"], ""),
        (["m/1/manifest.json", "m/2/manifest.json", "lost+found/manifest.json"], ""),
        (["m/1/manifest.json", "m/moves/1.json", "lost+found/x"], ""),
        (["manifest.json"], ""),
        (["manifest.json", "1/manifest.json"], ""),
        (["1/manifest.json"], "1"),
        (["model/manifest.json", "other/x", "read.me"], "model"),
        (["model/7/manifest.json"], "model/7"),
        (["store/m/1/manifest.json", "store/m/moves/1.json"], "store"),
        (["store/m/1/manifest.json"], "store"),
        (["a/store/m/1/manifest.json", "a/store/m/moves/1.json"], "a/store"),
        ([".incoming-1/manifest.json", "m/.incoming-1/manifest.json"], None),
        (["a/manifest.json", "b/manifest.json"], None),
        (["a/b/c/manifest.json"], None),
        (["m/1/x", "m/moves/1.json"], None),
        (["x"], None),
        ([], None),
    ],
    ids=str,
)
def test_store_is_found(tmp_path: Path, files: list[str], expected: str | None) -> None:
    """A store with a model is found, or an artifact, or the only one of these at most two folders down."""
    root = tmp_path / "mounted"
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("{}")

    assert find_store([root]) == (None if expected is None else root / expected)


def test_first_store_is_found(shelf: Store, copy: Path) -> None:
    """The first of several candidates with a model is found; missing and empty ones are skipped."""
    empty = copy / "empty"
    empty.mkdir()

    assert find_store([copy / "none", empty, shelf.root / "m" / "3", shelf.root]) == shelf.root / "m" / "3"
    assert find_store([]) is None


def test_find_prints_the_store(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`find` prints the path to serve from, or an error with what it searched."""
    shutil.rmtree(copy / "boston-housing" / "moves")
    assert main(["find", "/none", str(copy)]) == 0
    found = capsys.readouterr().out
    assert found == f"{copy / 'boston-housing' / '1'}\n"
    assert main(["--store", found.strip(), "verify", "boston-housing"]) == 0
    capsys.readouterr()
    assert main(["find", "/none", "/none/either"]) == 1
    output = capsys.readouterr()
    assert (output.out, output.err.count("\n")) == ("", 1)
    assert output.err.startswith("error: there is no model in /none, /none/either: one of them should be a store")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "boston"], "there is no model 'boston' in the store"),
        (["verify", "boston-housing@2"], "the model 'boston-housing' in the store .* has no version or alias '2'"),
        (["predict", "../x", "-"], "'../x' is not a model's name"),
        (["predict", "boston-housing", "/no/table.csv"], "table.csv cannot be read: No such file or directory"),
        (["train", "iris"], "there is no table for the model 'iris'; name it by --data"),
        (["train", "boston-housing", "--data", "/no/table.csv"], "/no/table.csv cannot be read: No such file"),
    ],
)
def test_error_is_one_message(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    """Every error exits with 1 and one message on standard error, without a traceback and without output."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x\n1\n")))

    own = shutil.copytree(store, tmp_path / "store")  # a failed training leaves its record

    assert main(["--store", str(own), *arguments]) == 1
    output = capsys.readouterr()
    assert re.match(f"error: .*{message}", output.err)
    assert (output.out, output.err.count("\n")) == ("", 1)
