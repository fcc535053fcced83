"""The file of access keys and its commands: what is accepted, and what a broken line is told."""

from __future__ import annotations

import json
import re
import stat
import zlib
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import KeyFileError, read_keys
from model.cli.main import main
from model.keys import AccessKey, add_key, digest_of, new_key, parse_rate

DIGEST = "0" * 64


def line(**fields: object) -> str:
    """Return a line of a file; None leaves a field out."""
    value = {"name": "shop", "sha256": DIGEST, "scopes": ["metrics"], **fields}
    return json.dumps({name: each for name, each in value.items() if each is not None})


def test_new_keys_are_recognisable_and_differ() -> None:
    """A key has the prefix, 256 bits, and a checksum over both, by which a program tells it from other texts."""
    key, other = new_key(), new_key()

    assert re.fullmatch(r"tabserve_[A-Za-z0-9_-]{43}[0-9a-f]{8}", key)
    assert int(key[-8:], 16) == zlib.crc32(key[:-8].encode())
    assert key != other


def test_commands_make_list_and_revoke_keys(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`key new` prints the key once and writes its hash alone; `key list` shows it, and `key revoke` removes it."""
    file = str(tmp_path / "keys.jsonl")
    scopes = ["--scope", "predict:prices", "--scope", "feedback"]
    assert main(["key", "new", "shop", *scopes, "--expires", "90d", "--rate", "500/h", "--file", file]) == 0
    key = capsys.readouterr().out.splitlines()[0]
    (read,) = read_keys(Path(file))

    assert key not in Path(file).read_text()
    assert stat.S_IMODE(Path(file).stat().st_mode) == 0o600
    assert (read.name, read.sha256, read.scopes) == ("shop", digest_of(key), ("predict:prices", "feedback"))
    assert read.rate == 500 / 3600
    assert read.expires is not None
    assert timedelta(days=89) < read.expires - datetime.now(UTC) < timedelta(days=90, seconds=1)

    assert main(["key", "new", "ops", "--scope", "admin", "--file", file]) == 0
    capsys.readouterr()
    assert main(["key", "list", "--file", file]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in shown] == ["name", "shop", "ops"]
    assert key not in "\n".join(shown)

    assert main(["key", "revoke", "shop", "--file", file]) == 0
    assert [each.name for each in read_keys(Path(file))] == ["ops"]
    assert main(["key", "revoke", "shop", "--file", file]) == 1


def test_one_key_of_a_name_is_revoked(tmp_path: Path) -> None:
    """Of two keys with a name the one whose hash is named goes, and comments and other lines stay as they were."""
    path = tmp_path / "keys.jsonl"
    path.write_text(f"# of the shop\n\n{line()}\n")
    add_key(path, AccessKey("shop", "1" * 64, ("metrics",)))

    assert main(["key", "revoke", "shop", "--sha256", "11", "--file", str(path)]) == 0
    assert path.read_text() == f"# of the shop\n\n{line()}\n"


def test_file_may_have_no_key(tmp_path: Path) -> None:
    """The last key can be revoked: a server then accepts none."""
    path = tmp_path / "keys.jsonl"
    path.write_text(f"{line()}\n")

    assert main(["key", "revoke", "shop", "--file", str(path)]) == 0
    assert read_keys(path) == []


def test_link_to_a_file_stays(tmp_path: Path) -> None:
    """A command that is given a link changes the file behind it."""
    (tmp_path / "link").symlink_to(tmp_path / "keys.jsonl")
    (tmp_path / "keys.jsonl").write_text("")
    add_key(tmp_path / "link", AccessKey("shop", DIGEST, ("metrics",)))

    assert (tmp_path / "link").is_symlink()
    assert len(read_keys(tmp_path / "keys.jsonl")) == 1


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("tabserve_secret", "line 2: not JSON"),
        ("[]", "line 2: not a JSON object"),
        (
            line(password="secret"),
            "line 2: an object with other fields than burst, expires, name, rate, scopes, sha256",
        ),
        (line(name=None), "line 2: without a name"),
        (line(name="a:b"), "line 2: without a name"),
        (line(sha256="secret"), "line 2: without sha256"),
        (line(sha256=digest_of("")), "line 2: with the SHA-256 of an empty text, which is no key"),
        (line(scopes=[]), "line 2: without scopes"),
        (line(scopes=["predict:"]), "line 2: without scopes, a list of admin, feedback, metrics, predict:"),
        (line(scopes="admin"), "line 2: without scopes"),
        (line(expires="2027-01-31"), "line 2: with expires that is no time with its zone"),
        (line(expires="2027-01-31T12:00:00"), "line 2: with expires that is no time with its zone"),
        (line(expires=5), "line 2: with expires that is no time with its zone"),
        (line(expires="9999-12-31T23:59:59-05:00"), "line 2: with expires that is no time with its zone"),
        (line(expires="0001-01-01T00:00:00+05:00"), "line 2: with expires that is no time with its zone"),
        (line(rate="fast"), "line 2: not a rate such as 100/s"),
        (line(rate=5), "line 2: with a rate that is not a text"),
        (line(burst=5), "line 2: with a burst that is not a whole number from 1 to 1000000 beside a rate"),
        (line(rate="1/s", burst=True), "line 2: with a burst"),
        (f"{line()}\n{line()}", "line 3: the key of line 2 again"),
        (f"{line()}\n{line(sha256='1' * 64, rate='1/s')}", "line 3: with another rate or burst than the other keys"),
        ("{\nx", "line 2: not JSON; line 3: not JSON"),
    ],
)
def test_broken_line_is_named_and_not_quoted(tmp_path: Path, text: str, fault: str) -> None:
    """The message names the file, the number of every broken line and what is wrong, and never what may be a key."""
    path = tmp_path / "keys.jsonl"
    path.write_text(f"# keys\n{text}\n")
    with pytest.raises(KeyFileError, match=re.escape(f"{path}: {fault}")) as caught:
        read_keys(path)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "fault"), [(None, "cannot be read (No such file"), (b"\xff", "is not a text in UTF-8")]
)
def test_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, fault: str) -> None:
    """A file that is missing, or is no text, is named with the reason."""
    path = tmp_path / "keys.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KeyFileError, match=re.escape(f"{path}: {fault}")):
        read_keys(path)


@given(text=st.text())
def test_any_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Any text is a file of keys or a `KeyFileError`, nothing else."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text(text, errors="replace")
    with suppress(KeyFileError):
        read_keys(path)


@pytest.mark.parametrize("rate", ["100/s", "6000/m", "500/h", "90/m", "1/h"])
@pytest.mark.parametrize("burst", [None, 7])
def test_written_key_is_read_as_it_was(tmp_path: Path, rate: str, burst: int | None) -> None:
    """What is added is what is read, to the second."""
    path = tmp_path / "keys.jsonl"
    key = AccessKey("a.b-c", DIGEST, ("predict:*",), datetime(2027, 1, 31, 12, tzinfo=UTC), parse_rate(rate), burst)
    add_key(path, key)

    assert read_keys(path) == [key]


@pytest.mark.parametrize(
    "words",
    [
        ["new", "a:b", "--scope", "admin"],
        ["new", "a"],
        ["new", "a", "--scope", "root"],
        ["new", "a", "--scope", "admin", "--expires", "0d"],
        ["new", "a", "--scope", "admin", "--rate", "1/d"],
    ],
)
def test_wrong_words_make_no_key(tmp_path: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A name, scope, expiry or rate that a server would refuse is refused, and no file is written."""
    with pytest.raises(SystemExit):
        main(["key", *words, "--file", str(tmp_path / "keys.jsonl")])

    assert not list(tmp_path.iterdir())
