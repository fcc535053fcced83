"""Owns `compare --data`: two trained versions on a table with the target."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from model import Artifact, Store
from model.cli.main import main
from model.store import fitted_rows
from model.store.artifact import read_draft
from tests.support import classifiers, houses


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of 800 rows in two files, and a store with two versions that are fitted on the first."""
    folder = tmp_path_factory.mktemp("compare")
    houses.write(str(folder / "houses.csv"))
    head, *lines = (folder / "houses.csv").read_text().splitlines()
    for name, part in (("train", lines[:400]), ("holdout", lines[400:])):
        (folder / f"{name}.csv").write_text("\n".join([head, *part]) + "\n")
    for learner in ("baseline", "linear"):
        train = ["train", "prices", "--data", str(folder / "train.csv"), "--target", "price", "--learner", learner]
        assert main(["--store", str(folder / "store"), *train]) == 0
    return folder


def compare(folder: Path, *arguments: str) -> int:
    return main(["--store", str(folder / "store"), "compare", "prices", *arguments])


def matrix(model: Artifact, table: pd.DataFrame) -> Any:
    """Return the rows of a table in the model's schema."""
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    return model.schema.matrix_from_records([{name: row[name] for name in model.schema.names} for row in rows])


def test_better_and_worse(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A linear model is better than the baseline, and the baseline is worse than it, on rows that neither saw."""
    holdout = str(folder / "holdout.csv")
    assert compare(folder, "1", "2", "--data", holdout) == 0
    assert capsys.readouterr().out.startswith("version 2 is better than version 1: its squared error is less by")
    assert compare(folder, "2", "1", "--data", holdout) == 3


def test_rows_that_a_version_was_fitted_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Rows that one of both was fitted on do not count, and the output says how many: what they held out does."""
    assert compare(folder, "1", "2", "--data", str(folder / "train.csv"), "--json") == 5
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["left_out"], found["may_have_seen"]) == (80, 320, [])
    assert compare(folder, "1", "2", "--data", str(folder / "houses.csv")) == 0
    _, *rest = capsys.readouterr().out.splitlines()
    assert rest[:2] == [
        "  480 rows that both answered",
        "  320 more rows are left out, as a version was fitted on them",
    ]


def test_no_row_is_unseen(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table of nothing but rows that a version was fitted on is refused, and so is a promotion by it."""
    store = shutil.copytree(folder / "store", tmp_path / "store")
    model = Store(store).load("prices@1")
    train = pd.read_csv(folder / "train.csv", sep=";", decimal=",")
    seen = fitted_rows.has_seen(model, matrix(model, train), model.schema)
    assert seen is not None
    table = tmp_path / "seen.csv"
    train[seen].to_csv(table, index=False)

    assert main(["--store", str(store), "promote", "prices@2", "--if-better", "--data", str(table)]) == 1
    assert "version 1 or 2 was fitted on every row of" in capsys.readouterr().err
    assert Store(store).aliases("prices")["champion"] == 1


@pytest.mark.parametrize(
    ("content", "doubt"),
    [
        (None, "does not say which rows it was fitted on"),
        (bytes(160), "was fitted on many equal rows, so that no row tells whether it was one of them"),
    ],
    ids=["as one that was exported", "of few different rows"],
)
def test_a_version_of_which_nobody_knows_the_rows(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, doubt: str
) -> None:
    """Where no row tells whether a version was fitted on it, none is left out for it, and the output says why; so does
    a promotion.
    """
    store = Store(shutil.copytree(folder / "store", tmp_path / "store"))
    draft = read_draft(store.find("prices@2"))
    files = {**draft.files, fitted_rows.FILE: content}
    store.add("prices", replace(draft, files={name: each for name, each in files.items() if each is not None}))
    holdout = str(folder / "holdout.csv")

    assert main(["--store", str(store.root), "compare", "prices", "1", "3", "--data", holdout]) == 0
    line = f"version 3 {doubt}; with some of them here it looks better than it is"
    assert f"\n  {line}\n" in capsys.readouterr().out
    assert main(["--store", str(store.root), "promote", "prices@3", "--if-better", "--data", holdout]) == 0
    assert f"\n         {line}\n" in capsys.readouterr().out


def test_texts_that_mean_missing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table is read with the texts that mean missing values to each version, so that the rows are found again."""
    table = pd.read_csv(folder / "houses.csv", sep=";", decimal=",")
    table["area"] = table["area"].where(table.index % 7 != 0, -999)
    table.to_csv(tmp_path / "houses.csv", index=False)
    data = ("--data", str(tmp_path / "houses.csv"))
    for learner in ("baseline", "linear"):
        train = ["train", "prices", *data, "--target", "price", "--learner", learner, "--missing=-999.0"]
        assert main(["--store", str(tmp_path / "store"), *train]) == 0
    capsys.readouterr()

    assert main(["--store", str(tmp_path / "store"), "compare", "prices", "1", "2", *data, "--json"]) in (0, 5)
    (found,) = json.loads(capsys.readouterr().out)
    assert (found["requests"], found["left_out"]) == (160, 640)


def test_versions_with_other_targets(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Versions that predict different columns are not compared."""
    store = shutil.copytree(folder / "store", tmp_path / "store")
    train = ["train", "prices", "--data", str(folder / "train.csv"), "--target", "area", "--learner", "baseline"]
    assert main(["--store", str(store), *train]) == 0
    capsys.readouterr()

    assert main(["--store", str(store), "compare", "prices", "1", "3", "--data", str(folder / "holdout.csv")]) == 1
    assert "the versions predict area and price, which cannot be compared" in capsys.readouterr().err


def test_a_version_and_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A version is not compared with itself, under whatever name; the others have the whole of alpha."""
    holdout = ("--data", str(folder / "holdout.csv"), "--json")
    assert compare(folder, "1", "2", *holdout) == 0
    alone = capsys.readouterr().out
    assert compare(folder, "1", "champion", "2", "candidate", *holdout) == 0
    assert capsys.readouterr().out == alone
    assert compare(folder, "1", "champion", *holdout) == 1
    assert "only version 1 is named, which cannot be compared with itself" in capsys.readouterr().err


def test_figures_are_those_of_the_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The losses are those of each version's own predictions of the table, which another dialect may have."""
    table = pd.read_csv(folder / "holdout.csv", sep=";", decimal=",")
    table.to_csv(folder / "holdout.tsv", sep="\t", index=False)
    means = []
    for version in (1, 2):
        model = Store(folder / "store").load(f"prices@{version}")
        means.append(float(np.mean((model.predict(matrix(model, table)) - table["price"]) ** 2)))

    for name in ("holdout.csv", "holdout.tsv"):
        compare(folder, "1", "2", "--data", str(folder / name), "--json")
        (found,) = json.loads(capsys.readouterr().out)
        assert [found["loss_of_first"], found["loss_of_second"]] == pytest.approx(means)
        assert found["requests"] == found["with_truths"] == 400


def test_the_champion_and_the_newest_other_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without versions the champion is compared with the newest other version; slices are of any column."""
    champion = Store(folder / "store").aliases("prices")["champion"]
    compare(folder, "--data", str(folder / "holdout.csv"), "--by", "district", "--json")
    (found,) = json.loads(capsys.readouterr().out)

    assert (found["first"], found["second"]) == (f"version {champion}", f"version {3 - champion}")
    assert set(found["slices"]) == {"Altstadt", "Hafen", "Nord", "West"}
    compare(folder, "--data", str(folder / "holdout.csv"), "--by", "area")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-5:-3]] == ["slice", "below"]
    compare(folder, "--data", str(folder / "holdout.csv"), "--by", "price")
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[-5:-3]] == ["slice", "below"]
    compare(folder, "--data", str(folder / "holdout.csv"), "--by", "rooms", "--json")
    (found,) = json.loads(capsys.readouterr().out)
    assert all(name.isdecimal() for name in found["slices"])


def without(column: str) -> Any:
    return lambda table: table.drop(columns=column)


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (without("price"), [], "has no column 'price'"),
        (without("area"), [], "has no column 'area'"),
        (lambda table: table, ["--by", "distric"], "has no column 'distric'"),
        (lambda table: table.assign(price="x"), [], "price"),
        (lambda table: table.assign(area="x"), [], "area"),
        (lambda table: table, ["--loss", "brier"], "--loss brier is no loss of this model; choose squared or absolute"),
    ],
)
def test_tables_that_cannot_be_compared(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Any,
    arguments: Sequence[str],
    message: str,
) -> None:
    """A table without a column, or with cells of another kind, is an error that names it."""
    path = tmp_path / "table.csv"
    change(pd.read_csv(folder / "holdout.csv", sep=";", decimal=",")).to_csv(path, index=False)

    assert compare(folder, "1", "2", "--data", str(path), *arguments) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("data", [True, False], ids=["table", "log"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["price"], "there is no model 'price' in the store {}, which has prices; name one of those"),
        (["prices", "challenger"], "has no version or alias 'challenger'; its versions are 1, 2, its aliases candid"),
    ],
)
def test_what_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str], data: bool, arguments: list[str], message: str
) -> None:
    """A model or an alias that the store does not have is an error that says what it has."""
    source = ["--data", str(folder / "holdout.csv")] if data else []

    assert main(["--store", str(folder / "store"), "compare", *arguments, *source]) == 1
    assert message.format(folder / "store") in capsys.readouterr().err


def test_a_classifier_on_a_table(classifiers_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels of every kind are read from a table; two versions with the same answers have the same loss."""
    store = Store(shutil.copytree(classifiers_store, tmp_path / "store"))
    for name in classifiers.LABELS:
        stones = classifiers.table(60, seed=3).fillna(57.0)
        target = store.load(name).schema.target.name
        labels = classifiers.labels(name, stones, seed=3)
        stones.assign(**{target: labels}).to_csv(tmp_path / "stones.csv", index=False)
        store.add(name, read_draft(store.find(name)))
        arguments = ["compare", name, "1", "2", "--data", str(tmp_path / "stones.csv"), "--json"]
        assert main(["--store", str(store.root), *arguments]) == 5
        (found,) = json.loads(capsys.readouterr().out)
        assert found["loss"] == "log loss"
        assert found["difference"] == 0
        assert 0 < found["loss_of_first"] < 5
