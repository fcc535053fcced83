"""Shared definitions: what a file may have, what words stand for, and which models use them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from model import Store
from model.cli.main import main
from model.engine.formula_syntax import FUNCTIONS
from model.engine.formulas import Derived, parse
from model.errors import FeatureFileError, FormulaError
from model.store.artifact import Draft
from model.train import feature_file
from model.train.feature_file import resolve
from tests.support.readme import PAGES

PER_ROOM = Derived("per_room", "price / rooms", "Ada", "price of a room")
SHARED = {"per_room": PER_ROOM, "log area": Derived("log area", "log(area)")}
TEXT = """
[features.per_room]
formula = "price / rooms"
owner = "Ada"
description = "price of a room"

[features."log area"]
formula = "log(area)"
"""


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_file_has_definitions(tmp_path: Path) -> None:
    """A file has a table for each definition, with or without a byte order mark."""
    assert feature_file.read(written(tmp_path / "a.toml", TEXT)) == SHARED
    assert feature_file.read(written(tmp_path / "a.toml", b"\xef\xbb\xbf" + TEXT.encode())) == SHARED


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "has no features"),
        ("features = 3", "has no features"),
        ("[features]", "has no features"),
        ("x = 1\n[features.a]\nformula = 'x'", "has 'x' beside its features"),
        ("[features]\na = 'x'", "'a', which is not a table of strings"),
        ("[features.a]\nformula = 3", "'a', which is not a table of strings"),
        ("[features.a]\nowner = 'x'", "'a' without a formula"),
        ("[features.a]\nformula = 'x'\nunit = 'm'", "'unit' in the feature 'a', which has formula, owner, description"),
        ("[features.a]\nformula = 'x +'", "the feature 'a': the formula 'x \\+' at character 4"),
        ("[features.a", "is not TOML"),
        (b"\xff", "is not TOML in UTF-8"),
        ("x = " + "[" * 5_000, "is not TOML"),
        ("#" * (2**20 + 1), "more than 1048576 bytes"),
    ],
)
def test_file_that_is_none(tmp_path: Path, text: str | bytes, reason: str) -> None:
    """What is no file of definitions is one error that names the file and what to write."""
    with pytest.raises(FeatureFileError, match=reason) as caught:
        feature_file.read(written(tmp_path / "a.toml", text))

    assert str(tmp_path / "a.toml") in str(caught.value)


def test_words_stand_for_definitions() -> None:
    """A word is a definition of its own, or the name of a shared one; `==` belongs to a formula."""
    specs = ["per_room", "big = area == 3", " log area ", "per_area=price/area"]

    assert resolve(specs, SHARED) == (
        PER_ROOM,
        Derived("big", "area == 3"),
        SHARED["log area"],
        Derived("per_area", "price/area"),
    )


@pytest.mark.parametrize(
    ("specs", "reason"),
    [
        (["per_rom"], "no shared definition 'per_rom'; the nearest is 'per_room'"),
        (["= area"], "it has no name"),
        (["a = "], "the end stands where"),
        (["per_room", "per_room = area / rooms"], "defined more than once"),
    ],
)
def test_words_that_stand_for_nothing(specs: list[str], reason: str) -> None:
    """A word that is neither is an error, and so is a name that is there twice."""
    with pytest.raises(FormulaError, match=reason):
        resolve(specs, SHARED)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with a file of definitions, and three versions: one uses a definition, one has another of its name."""
    for formula in ("price/rooms", "price / area", None):
        derived = {"derived": [{"name": "per_room", "formula": formula}]} if formula else {}
        Store(tmp_path).add("homes", Draft({"title": "x", **derived}, {}))
    written(tmp_path / "features.toml", TEXT)
    return tmp_path


def test_command_lists_who_uses_what(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints each definition with the versions that use it, and those that have another of its name."""
    assert main(["--store", str(store), "features"]) == 0

    assert capsys.readouterr().out == (
        "per_room = price / rooms\n"
        "    price of a room; owner: Ada\n"
        "    used by homes@1\n"
        "    other in homes@2: price / area\n"
        "log area = log(area)\n"
        "    used by no model\n"
    )


def test_command_prints_json(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same as JSON; a version that is damaged is named and left out."""
    (store / "homes" / "1" / "manifest.json").write_text("{}")
    assert main(["--store", str(store), "features", str(store / "features.toml"), "--json"]) == 0

    printed = capsys.readouterr()
    assert json.loads(printed.out)["features"][0] == {
        "name": "per_room",
        "formula": "price / rooms",
        "owner": "Ada",
        "description": "price of a room",
        "used_by": [],
        "other_in": [{"model": "homes@2", "formula": "price / area"}],
    }
    assert printed.err.startswith("homes@1 is left out: ")


def test_command_says_that_there_is_no_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file the command says what to write, and ends with 1."""
    assert main(["--store", str(tmp_path), "features"]) == 1

    assert "features.toml: cannot be read: No such file" in capsys.readouterr().err


def test_page_has_the_grammar(tmp_path: Path) -> None:
    """The page of derived features names every function; its formulas are formulas, and its file is one."""
    page = PAGES["features.md"]
    (table,) = re.findall(r"^\| write \|.*?\n\n", page, re.DOTALL | re.MULTILINE)
    rows = [line.split(" | ") for line in table.strip().splitlines()[2:]]
    formulas = [
        text.replace("\\|", "|")
        for row in rows
        for text in re.findall(r"`` (.+?) ``|`([^`]+)`", row[0])
        for text in text
        if text
    ]

    assert [text for text in formulas if not parse(text).names] == []
    assert [name for name in FUNCTIONS if not any(f"{name}(" in text for text in formulas)] == []
    (text,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    assert "per_room" in feature_file.read(written(tmp_path / "features.toml", text))
