"""The history of a model's aliases: nobody changes a move unseen, and a crash leaves all of a move or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import ArtifactError, Store
from model.errors import MovedError
from model.store import artifact, history
from model.store.history import Aliased, Change, Move, decode, encode, following
from tests.support import store as shared
from tests.support.store import SMALL

shelf = shared.shelf

names = st.sampled_from(["champion", "candidate", "a-1", "7-a", "x"])
lines = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=10)
digests = st.sampled_from(["0" * 64, "f" * 64])
versions = st.integers(1, 2**31 - 1)
tables = st.dictionaries(names, st.builds(Aliased, versions, digests), max_size=4)
steps = st.tuples(tables, lines, lines, st.lists(versions, max_size=2).map(tuple))


def chain_of(made: list[tuple[dict[str, Aliased], str, str, tuple[int, ...]]]) -> list[Move]:
    """Return moves, each after the one before."""
    moves: list[Move] = []
    for table, why, by, removed in made:
        moves.append(following(moves[-1] if moves else None, "tag", table, removed=removed, why=why, by=by))
    return moves


def write(folder: Path, moves: list[Move]) -> list[Path]:
    """Write moves into an empty folder and return their files."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = [folder / f"{move.number}.json" for move in moves]
    for file, move in zip(files, moves):
        file.write_bytes(encode(move))
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the moves of one example."""
    return tmp_path_factory.mktemp("history") / "moves"


@given(st.lists(steps, max_size=4))
def test_moves_are_read_back(folder: Path, made: list[tuple[dict[str, Aliased], str, str, tuple[int, ...]]]) -> None:
    """Every chain of moves is read back as it was made, and its last move has the table of aliases."""
    moves = chain_of(made)
    write(folder, moves)

    assert [decode(encode(move)) for move in moves] == moves == history.read(folder)
    assert history.last(folder) == (moves[-1] if moves else None)


@given(st.lists(steps, min_size=1, max_size=3), st.data())
def test_any_changed_byte_is_found(
    folder: Path, made: list[tuple[dict[str, Aliased], str, str, tuple[int, ...]]], data: st.DataObject
) -> None:
    """A byte that is changed, added or taken away in any move is found, and the error names that move."""
    files = write(folder, chain_of(made))
    file = data.draw(st.sampled_from(files))
    content = bytearray(file.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != content[place]))
    changed = data.draw(
        st.sampled_from(
            [
                bytes(content[:place]) + bytes([byte]) + bytes(content[place + 1 :]),
                bytes(content[:place]) + bytes(content[place + 1 :]),
                bytes(content[:place]) + bytes([byte]) + bytes(content[place:]),
            ]
        )
    )
    file.write_bytes(changed)

    with pytest.raises(ArtifactError, match="is not a move of aliases") as caught:
        history.read(folder)
    assert caught.value.path == file


@given(st.lists(steps, min_size=2, max_size=4), st.data())
def test_move_that_was_written_anew_is_found(
    folder: Path, made: list[tuple[dict[str, Aliased], str, str, tuple[int, ...]]], data: st.DataObject
) -> None:
    """A move with other facts and a right hash of its own is found by the move after it."""
    moves = chain_of(made)
    files = write(folder, moves)
    number = data.draw(st.integers(0, len(moves) - 2))
    before = moves[number - 1] if number else None
    files[number].write_bytes(encode(following(before, "forged", moves[number].aliases)))

    with pytest.raises(ArtifactError, match="does not follow the move before") as caught:
        history.read(folder)
    assert caught.value.path == files[number + 1]


def test_missing_and_misplaced_moves_are_found(folder: Path) -> None:
    """A move that was taken out of the middle, and one under another number, are named."""
    moves = chain_of([({"a": Aliased(number, "0" * 64)}, "", "", ()) for number in (1, 2, 3)])
    write(folder, moves)[1].unlink()
    with pytest.raises(ArtifactError, match=r"2\.json: is missing from the history"):
        history.read(folder)

    shutil.copy(write(folder, moves)[0], folder / "2.json")
    with pytest.raises(ArtifactError, match=r"2\.json: is the move 1, in another's place"):
        history.read(folder)


def test_changes_are_those_of_the_table(folder: Path) -> None:
    """A move whose changes do not lead to its table of aliases is refused, whatever its hashes are."""
    moves = chain_of([({"a": Aliased(1, "0" * 64)}, "", "", ()), ({"a": Aliased(2, "0" * 64)}, "", "", ())])
    lie = Move(2, moves[1].at, "x", "tag", (Change("a", 1, 3),), (), "", moves[1].aliases, moves[0].sha256)
    write(folder, [moves[0], lie])

    with pytest.raises(ArtifactError, match=r"2\.json: has a table of aliases that its changes do not give"):
        history.read(folder)


@pytest.mark.parametrize(
    ("fact", "value"),
    [
        ("number", 0),
        ("number", True),
        ("number", "1"),
        ("at", 1),
        ("why", "two\nlines"),
        ("why", "\u001b[31mred"),
        ("by", None),
        ("changes", 1),
        ("changes", [{"alias": "a", "from": None}]),
        ("changes", [{"alias": "../a", "from": None, "to": 1}]),
        ("changes", [{"alias": "a", "from": 1.5, "to": 1}]),
        ("removed", "abc"),
        ("removed", [-1]),
        ("aliases", []),
        ("aliases", {"7": {"version": 1, "digest": "0" * 64}}),
        ("aliases", {"a": {"version": True, "digest": "0" * 64}}),
        ("aliases", {"a": {"version": 1, "digest": "0"}}),
        ("aliases", {"a": {"version": 1, "digest": "0" * 64, "more": 1}}),
        ("before", "x"),
        ("format_version", 2),
        ("more", 1),
    ],
)
def test_facts_of_a_move_are_checked(fact: str, value: object) -> None:
    """A move whose facts are of other types or ranges is refused, though its own hash is right."""

    def written(facts: dict[str, object]) -> bytes:
        text = json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
        return text.encode()

    def signed(facts: dict[str, object]) -> bytes:
        return written({**facts, "sha256": hashlib.sha256(written(facts)).hexdigest()})

    move = following(None, "tag", {"a": Aliased(1, "0" * 64)})
    assert decode(signed(move.to_document())) == move
    with pytest.raises(ValueError, match=r"none|it is|it has|is not an alias|was changed"):
        decode(signed({**move.to_document(), fact: value}))


def test_second_writer_is_told_of_the_first(shelf: Store) -> None:
    """Of two moves that were decided on the same state one is made; the other is refused and says what came first."""
    seen = shelf.last_move("m")
    shelf.move("m", "promote", {"champion": 1}, after=seen, why="it is simpler", by="ann@desk")
    before = sorted((shelf.root / "m").rglob("*"))

    with pytest.raises(MovedError, match=r"by ann@desk at .*: promote champion from 3 to 1 \(it is simpler\); look at"):
        shelf.move("m", "promote", {"champion": 2}, after=seen)
    assert sorted((shelf.root / "m").rglob("*")) == before


def test_writer_without_the_lock_is_told_too(shelf: Store) -> None:
    """A move that appears at the last moment, by a machine that a lock does not reach, is neither lost nor replaced."""
    folder, seen = shelf.root / "m" / "moves", shelf.last_move("m")
    assert seen
    mine, theirs = (following(seen, action, seen.aliases, removed=(9,), by="ann") for action in ("mine", "theirs"))
    history.append(folder, theirs)

    with pytest.raises(MovedError, match=r"by ann at .*: theirs without version 9"):
        history.append(folder, mine)
    assert history.last(folder) == theirs
    assert len(shelf.history("m")) == 5


def test_training_goes_on_after_such_a_writer(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A version that is added while another writer moves an alias is registered after that move."""
    append = history.append
    done: list[Move] = []

    def late(folder: Path, move: Move) -> None:
        if not done:
            done.append(move)
            append(folder, following(shelf.last_move("m"), "tag", {}))
        append(folder, move)

    monkeypatch.setattr(history, "append", late)
    shelf.add("m", SMALL)
    assert [(each.action, each.versions) for each in shelf.history("m")[-2:]] == [
        ("tag", {}),
        ("register", {"candidate": 4, "champion": 4}),
    ]


def test_replaced_version_is_found(shelf: Store) -> None:
    """A version that is another one than when an alias was moved to it is named, though it is sound by itself."""
    folder = shelf.root / "m" / "2"
    shutil.rmtree(folder)
    artifact.save(artifact.Draft({"title": "another"}, {}), folder, name="m", version=2)

    with pytest.raises(ArtifactError, match="m/2: is another version than when an alias was moved to it"):
        shelf.history("m")


def test_reason_of_many_lines_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A reason, or a name of who moves, that no terminal shows in one line leaves the store as it was."""
    shelf = Store(tmp_path / "store")
    for texts in ({"why": "two\nlines"}, {"by": "\u001b[31mann"}, {"why": "x" * 1_001}, {"why": "\udcff"}):
        with pytest.raises(ValueError, match="write one line of at most 1000 characters"):
            shelf.add("m", SMALL, **texts)
    assert not shelf.root.exists()


def test_user_without_a_name_moves_by_number(shelf: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user may have no name: then the history has the number, and the machine."""

    def nameless() -> str:
        raise KeyError("uid not found")

    monkeypatch.setattr("getpass.getuser", nameless)
    shelf.add("m", SMALL)
    assert shelf.history("m")[-1].by == f"{os.getuid()}@{os.uname().nodename}"


class Crash(BaseException):
    """The end of the process."""


FUNCTIONS = ("fsync", "link", "unlink", "rename", "rmdir", "mkdir")


@pytest.fixture
def crash_after(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many changes of the disk are still made; after them each raises, also those that clean up."""
    left = [10**9]

    for name in FUNCTIONS:
        real = getattr(os, name)

        def counted(*arguments: object, real: object = real, **options: object) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise Crash
            return real(*arguments, **options)  # type: ignore[operator]

        monkeypatch.setattr(os, name, counted)
    yield left
    left[0] = 10**9


@pytest.mark.parametrize("what", ["add", "move", "prune"])
def test_crash_at_any_point_leaves_a_sound_store(tmp_path: Path, crash_after: list[int], what: str) -> None:
    """After a crash at any change of the disk the old or the new aliases hold, and the next version is written."""
    outcomes = set()
    for n_changes in range(200):
        shelf = Store(tmp_path / str(n_changes))
        shelf.add("m", SMALL)
        shelf.add("m", SMALL)
        old = shelf.aliases("m")
        seen = shelf.last_move("m")
        crash_after[0] = n_changes
        try:
            if what == "add":
                shelf.add("m", SMALL)
            elif what == "move":
                shelf.move("m", "promote", {"champion": 2}, after=seen)
            else:
                shelf.move("m", "prune", {"champion": 2}, after=seen, removed=(1,))
            finished = True
        except Crash:
            finished = False
        crash_after[0] = 10**9

        found = shelf.aliases("m")
        new = {"candidate": 3, "champion": 1} if what == "add" else {"candidate": 2, "champion": 2}
        assert found in (old, new)
        assert len(shelf.history("m")) == 2 + (found == new)
        assert {shelf.version(f"m@{alias}") for alias in found} == {*found.values()}  # no alias to nothing
        assert all(artifact.read(shelf.root / "m" / str(version)) for version in shelf.versions("m"))
        outcomes.add((finished, found == new))
        last = int(shelf.add("m", SMALL).name)
        assert shelf.aliases("m") == {**found, "candidate": last}
        assert not list(shelf.root.rglob(".incoming-*"))
        if finished:
            break

    assert {(False, False), (False, True), (True, True)} == outcomes
