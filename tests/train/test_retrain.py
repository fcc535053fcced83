"""Owns `retrain`: a recipe repeated is the same model, and what is compared and promoted on new rows."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression

from model import Artifact, Store, export
from model.cli.main import main
from model.store import runs
from model.store.signature import TrustedKeys
from model.table import schema_file
from model.task import CLASSIFICATION, REGRESSION
from model.train import proof, recipe_file
from model.train.learners import LEARNERS, options_of
from tests.support import houses
from tests.support.feedback import opened
from tests.support.service import TABLE
from tests.support.signatures import key_pair

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove models on fewer random rows than a person's are."""
    monkeypatch.setattr(proof, "RANDOM_ROWS", 2_000)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table of 800 rows, all.csv, and two parts of it: old.csv, and new.csv with 100 rows of both."""
    folder = tmp_path_factory.mktemp("tables")
    houses.write(str(folder / "all.csv"))
    head, *lines = (folder / "all.csv").read_text().splitlines()
    for name, part in (("old", lines[:300]), ("new", lines[200:])):
        (folder / f"{name}.csv").write_text("\n".join([head, *part]) + "\n")
    return folder


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command on the test's store; return its exit status, its output and its errors."""

    def command(*arguments: object) -> tuple[int, str, str]:
        status = main(["--store", str(tmp_path / "store"), *map(str, arguments)])
        return status, *capsys.readouterr()

    return command


@pytest.fixture(scope="module")
def linear_store(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of prices, a linear model of old.csv. Tests must not change it."""
    root = tmp_path_factory.mktemp("linear") / "store"
    words = ["train", "prices", "--data", str(tables / "old.csv"), "--target", "price", "--learner", "linear"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "RANDOM_ROWS", 2_000)
        assert main(["--store", str(root), *words]) == 0
    return root


@pytest.fixture
def linear(linear_store: Path, tmp_path: Path) -> None:
    """Have the test's store begin as a copy of `linear_store`."""
    shutil.copytree(linear_store, tmp_path / "store")


def train(run: Command, table: Path, *options: str) -> None:
    status, _, errors = run("train", "prices", "--data", table, *options)
    assert status == 0, errors


def version(tmp_path: Path, number: int) -> Artifact:
    return Store(tmp_path / "store").load(f"prices@{number}")


def same(one: Artifact, other: Artifact) -> bool:
    """Return whether two versions accept the same, and have the same golden rows and answers, to the last bit."""
    rows = np.array_equal(one.golden_rows, other.golden_rows, equal_nan=True)
    return one.schema == other.schema and rows and np.array_equal(one.golden_predictions, other.golden_predictions)


@pytest.mark.parametrize(
    "options",
    [
        [
            "--target",
            "price",
            "--trials",
            "3",
            "--owner",
            "ann",
            "--limits",
            "none",
            "--title",
            "Homes",
            "--unit",
            "EUR",
        ],
        ["--target", "price", "--learner", "linear", "--time", "sold", "--feature", "per_room = area / rooms"],
        ["--target", "district", "--learner", "linear", "--group", "rooms", "--missing", "1967", "--random-state", "3"],
        ["--target", "price", "--learner", "mlp", "--hidden", "4", "--max-epochs", "3", "--as", "sold=ignore"],
    ],
    ids=lambda options: " ".join(options[2:]),
)
def test_the_same_rows_give_the_same_model(tables: Path, tmp_path: Path, run: Command, options: Sequence[str]) -> None:
    """A recipe repeated on its own table gives the same answers, metrics and words: nothing of it was lost.

    So does the recipe of what was retrained.
    """
    train(run, tables / "all.csv", *options)
    for number in (1, 2):
        status, _, errors = run("retrain", f"prices@{number}", "--data", tables / "all.csv")
        assert status == 0, errors
    one, other = version(tmp_path, 1), version(tmp_path, 3)

    assert same(one, other)
    assert one.manifest.metrics == other.manifest.metrics
    for part in ("title", "limits", "tags", "target", "derived", "hyperparameters", "features", "reading"):
        assert one.manifest.document.get(part) == other.manifest.document.get(part), part
    assert (one.path / recipe_file.FILE).read_text() == (other.path / recipe_file.FILE).read_text()
    assert "search" not in other.manifest.document


def test_the_example_is_retrainable(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recipe of boston-housing, whose table comes with the project, gives the same model from that table."""
    shutil.copytree(store, tmp_path / "store")
    assert main(["--store", str(tmp_path / "store"), "retrain", "boston-housing", "--data", str(TABLE)]) == 0
    found = [Store(tmp_path / "store").load(f"boston-housing@{number}") for number in (1, 2)]

    assert same(*found)
    assert "of 102 held-out rows 102 are new, and a version was fitted on 0 of these" in capsys.readouterr().out


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("task", [REGRESSION, CLASSIFICATION], ids=lambda task: task.name)
def test_what_a_search_finds_is_an_option(name: str, task: Any) -> None:
    """Whatever parameters a search may find, a schema file has them and gives them back, of the same types."""
    family = LEARNERS[name].family()
    suggest = family.suggest
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    found = [family.defaults(task), *((suggest(study.ask(), task) for _ in range(10)) if suggest else ())]
    column = schema_file.parse('target = "y"\n[columns.y]\ntype = "number"\n[columns.x]\ntype = "number"\n')
    for parameters in found:
        content = recipe_file.render(
            column,
            name="m",
            learner=name,
            parameters=parameters,
            derived=(),
            task=task.name,
            title="",
            limits="",
            unit="",
        )
        read = options_of(name, schema_file.parse(content.decode()).options)
        assert read == dict(parameters)
        assert list(map(type, read.values())) == list(map(type, parameters.values()))


def test_a_better_version_is_promoted(tables: Path, tmp_path: Path, run: Command) -> None:
    """Of rows that neither version saw, a better version is promoted, and the history says why; a worse one is not."""
    train(run, tables / "old.csv", "--target", "price", "--learner", "baseline")
    train(run, tables / "old.csv", "--target", "price", "--learner", "linear")
    joined = ["--data", tables / "new.csv", "--with", tables / "old.csv", "--key", "id", "--promote", "if-better"]
    status, output, _ = run("retrain", "prices@2", *joined)
    lines = {line.split(" ")[0]: line for line in output.splitlines()}
    store = Store(tmp_path / "store")

    assert status == 0
    assert "200 of old.csv, without 100: a new row replaced those with the same id" in output
    assert lines["table"].startswith("table    new.csv with old.csv: ")
    assert version(tmp_path, 3).manifest.metrics.training.rows == 640
    assert "compare  version 3 is better than version 1: its squared error is less by" in output
    assert "and a version was fitted on" in lines["unseen"]
    assert lines["servers"].startswith("servers  that load it follow within TABSERVE_RELOAD_SECONDS")
    assert [line.partition(":")[0] for line in output.splitlines() if line.startswith("serve ")] == [
        "serve    in a clone of Tabserve"
    ]
    assert store.aliases("prices") == {"candidate": 3, "champion": 3}
    assert store.history("prices")[-1].why.startswith("retrain --promote if-better: version 3 is better than version 1")
    assert store.history("prices")[-2].why == "retrain of prices@2 on new.csv with old.csv"

    runs = json.loads(run("runs", "prices", "--json")[1])
    assert [each["facts"]["learner"] for each in runs] == ["baseline", "linear", "linear"]

    status, output, _ = run("retrain", "prices@1", *joined)
    assert status == 0
    assert "compare  version 4 is worse than version 3" in output
    assert "promote  no: version 3 stays the champion" in output
    assert store.aliases("prices") == {"candidate": 4, "champion": 3}


def test_rows_of_the_comparison_are_unseen(tables: Path, tmp_path: Path, run: Command) -> None:
    """Rows that the champion was fitted on are not compared on, though nobody says which they are."""
    train(run, tables / "all.csv", "--target", "price", "--learner", "linear", "--random-state", "1")
    train(run, tables / "all.csv", "--target", "price", "--learner", "linear", "--random-state", "2")
    _, output, _ = run("retrain", "prices@2", "--data", tables / "all.csv")
    (unseen,) = [line for line in output.splitlines() if line.startswith("unseen")]
    n_rows = int(unseen.split()[1])

    assert 15 < n_rows < 55  # about a fifth of the 160 rows that are held out
    assert unseen.endswith(f"of 160 held-out rows 160 are new, and a version was fitted on {160 - n_rows} of these")


@pytest.mark.usefixtures("linear")
def test_rows_twice_are_not_compared_on(tables: Path, tmp_path: Path, run: Command) -> None:
    """A held-out row that is among the rows to fit on, too, does not count for the new version."""
    head, *lines = (tables / "new.csv").read_text().splitlines()
    (tmp_path / "twice.csv").write_text("\n".join([head, *lines, *lines]) + "\n")
    _, output, _ = run("retrain", "prices", "--data", tmp_path / "twice.csv")
    (unseen,) = [line for line in output.splitlines() if line.startswith("unseen")]

    assert int(unseen.split()[1]) < 0.35 * 240  # a row and its copy are both held out in a fifth of the cases


def log_rows(url: str, model: Artifact, table: pd.DataFrame, *, truths: int, name: str) -> None:
    """Log rows as a server does, each a request, of which the first have true values."""
    kept = [*model.schema.names]
    records = table.astype(object).where(table.notna(), None).to_dict("records")
    now = datetime.now(UTC) - timedelta(hours=1)
    rows = [
        {
            "request_id": f"{name}{number}",
            "row": 0,
            "time": now,
            "model": model.name,
            "version": model.version,
            "features": {column: record[column] for column in kept},
            "prediction": 1.0,
        }
        for number, record in enumerate(records)
    ]
    with opened(url) as log:
        log.write(rows)
        known = [(f"{name}{number}", 0, records[number]["price"]) for number in range(truths)]
        log.add_truths(known, oldest=now - timedelta(days=1))


def test_logged_rows(tables: Path, tmp_path: Path, run: Command) -> None:
    """Rows of the log with features and true values are trained on, of every version with the same columns."""
    options = ["--target", "price", "--as", "id=ignore"]
    train(run, tables / "old.csv", *options, "--learner", "baseline")
    train(run, tables / "old.csv", *options, "--learner", "linear")
    train(run, tables / "old.csv", *options, "--learner", "linear", "--as", "built=ignore")
    table = pd.read_csv(tables / "all.csv", sep=";", decimal=",")[300:]
    table["sold"] = pd.to_datetime(table["sold"], format="%d.%m.%Y").dt.strftime("%Y-%m-%d")
    url = f"sqlite:///{tmp_path / 'log.db'}"
    for number, part in ((1, table[:300]), (2, table[300:400]), (3, table[400:])):
        log_rows(url, version(tmp_path, number), part, truths=len(part) - 10, name=f"v{number}-")
    status, output, errors = run("retrain", "prices@2", "--from-log", url, "--days", "7d", "--with", tables / "old.csv")

    assert status == 0, errors
    listed = [line[9:] for line in output.splitlines()[1:7]]
    assert listed[:4] == [
        "290 rows of version 1",
        "90 rows of version 2",
        "100 rows are of versions that are gone or have other columns",
        "20 rows have no true value",
    ]
    assert "380 of the prediction log's last 7 days" in listed
    assert "300 of old.csv, without 0: all are kept" in output
    assert version(tmp_path, 4).manifest.metrics.training.rows == 544
    assert re.search(r"unseen   \d+ rows to compare on: of 136 held-out rows \d+ are new", output)
    exact = pd.read_csv(tables / "old.csv", sep=";", decimal=",")["area"].tolist() + table["area"].tolist()
    assert {*version(tmp_path, 4).golden_rows[:1, 0]} <= {*exact}


@pytest.mark.usefixtures("linear")
def test_a_log_without_true_values(tables: Path, tmp_path: Path, run: Command) -> None:
    """A log from which nothing can be learned is an error that says why, and nothing is written."""
    table = pd.read_csv(tables / "old.csv", sep=";", decimal=",")[:20]
    log_rows(f"sqlite:///{tmp_path / 'log.db'}", version(tmp_path, 1), table, truths=0, name="a")
    status, _, errors = run("retrain", "prices", "--from-log", f"sqlite:///{tmp_path / 'log.db'}")

    assert status == 1
    assert "no row of prices to train on in this time: 20 rows have no true value" in errors
    assert Store(tmp_path / "store").versions("prices") == [1]


def test_a_new_search(tables: Path, tmp_path: Path, run: Command) -> None:
    """With --search learners are compared again, on the columns of the recipe; --tag gives the version an alias.

    With --if-older nothing is done as long as the last version is younger.
    """
    train(run, tables / "old.csv", "--target", "price", "--learner", "baseline", "--as", "built=ignore")
    search = ["retrain", "prices", "--data", tables / "new.csv", "--search", "--trials", "2", "--tag", "challenger"]
    status, output, _ = run(*search, "--if-older", "24h")
    assert status == 0
    assert output.startswith("due      nothing: version 1 was written ")
    assert Store(tmp_path / "store").versions("prices") == [1]

    status, output, _ = run(*search, "--if-older", "0.1s")
    assert status == 0
    assert output.startswith("due      version 1 was written ")
    assert Store(tmp_path / "store").aliases("prices") == {"candidate": 2, "challenger": 2, "champion": 1}
    assert version(tmp_path, 2).manifest.document["search"]["leaderboard"]["trials"] == 2
    assert version(tmp_path, 1).schema.names == version(tmp_path, 2).schema.names


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"price": "x"}, [], "price"),
        ({}, ["--key", "ident"], "the key 'ident' is no column"),
        ({}, ["--trials", "2"], "--budget and --trials are of a search"),
        ({}, ["--tag", "champion"], "champion is an alias of the store's own"),
        ({}, ["--margin", "x"], "--margin 'x' is no share"),
        ({"area": None}, [], "has no column 'area', which the recipe needs"),
    ],
)
@pytest.mark.usefixtures("linear")
def test_a_run_that_fails_writes_nothing(
    tables: Path, tmp_path: Path, run: Command, change: dict[str, Any], options: Sequence[str], message: str
) -> None:
    """Rows that cannot be trained on, and options that cannot be, are errors before anything is written."""
    table = pd.read_csv(tables / "new.csv", sep=";", dtype=str)
    for name, value in change.items():
        table = table.drop(columns=name) if value is None else table.assign(**{name: value})
    table.to_csv(tmp_path / "bad.csv", index=False, sep=";")
    before = sorted(path.name for path in (tmp_path / "store" / "prices").iterdir())
    status, _, errors = run("retrain", "prices", "--data", tmp_path / "bad.csv", *options)

    assert status == 1
    assert message in errors
    assert sorted(path.name for path in (tmp_path / "store" / "prices").iterdir()) == before


@pytest.mark.usefixtures("linear")
def test_every_run_is_recorded(tables: Path, tmp_path: Path, run: Command) -> None:
    """A run that fails leaves its record alone, with the reason; one that finishes has data, version and metrics."""
    store = Store(tmp_path / "store")
    before = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert run("retrain", "prices", "--data", tables / "new.csv", "--key", "ident")[0] == 1
    failed = runs.read(store, "prices")[0][-1]
    after = {path: path.read_bytes() for path in store.root.rglob("*") if path.is_file()}
    assert after.pop(store.root / "prices" / "runs" / f"{failed.id}.json")
    assert after == before
    assert (failed.kind, failed.outcome, failed.version) == ("retrain", "failed", None)
    assert failed.error.startswith("the key 'ident' is no column")
    assert failed.parameters["key"] == ["ident"]

    assert run("retrain", "prices", "--data", tables / "new.csv")[0] == 0
    finished, made = runs.read(store, "prices")[0][-1], version(tmp_path, 2).manifest
    assert (finished.kind, finished.outcome, finished.version) == ("retrain", "finished", 2)
    assert finished.facts["digest"] == made.digest
    assert finished.part("data") == {"source": "new.csv", "sha256": made.document["data"]["sha256"], "rows": 600}
    assert finished.part("metrics") == made.document["metrics"]


@pytest.mark.usefixtures("linear")
def test_nothing_to_do_is_no_run(tables: Path, tmp_path: Path, run: Command) -> None:
    """A trigger that finds nothing to do leaves no record; one that cannot be asked is a run that failed, with why."""
    store = Store(tmp_path / "store")
    before = runs.read(store, "prices")
    retrain = ["retrain", "prices", "--data", tables / "new.csv"]
    assert run(*retrain, "--if-older", "1000h")[0] == 0
    assert runs.read(store, "prices") == before

    status, _, errors = run(*retrain, "--if-alert", "http://user:secret@127.0.0.1:1")
    failed = runs.read(store, "prices")[0][-1]
    assert (status, failed.kind, failed.outcome, failed.version) == (1, "retrain", "failed", None)
    assert failed.error.startswith("Prometheus cannot be asked at http://127.0.0.1:1/api/v1/alerts: ")
    assert errors == f"error: {failed.error}\n"


def test_a_signed_version_is_promoted(
    tables: Path, tmp_path: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where servers trust keys, `train` and `retrain` sign what they write, by one of these keys, and promote it.

    Without that key a promotion is refused before the work.
    """
    (private, public), (other, _) = (key_pair(tmp_path, name) for name in ("key", "other"))
    monkeypatch.setenv("TABSERVE_TRUSTED_KEYS", str(public))
    linear = ["--target", "price", "--learner", "linear"]
    status, _, errors = run("train", "prices", "--data", tables / "old.csv", *linear)
    assert (status, "add --sign PRIVATE.pem" in errors) == (1, True)  # the first version is the champion
    train(run, tables / "old.csv", *linear, "--sign", str(private))
    store, signed = Store(tmp_path / "store"), TrustedKeys.read([public]).digests
    assert store.load("prices", signed=signed).version == 1
    again = ["retrain", "prices", "--data", tables / "new.csv"]
    always = ["--promote", "always"]
    for command in (again, ["train", "prices", "--data", tables / "new.csv", *linear]):
        status, _, errors = run(*command, *always)
        assert (status, store.versions("prices")) == (1, [1])
        assert "the new version would be the champion, and no server would load it" in errors
        status, _, errors = run(*command, *always, "--sign", other)
        assert (status, store.versions("prices")) == (1, [1])
        assert f"{other}: is the private key of none of those in TABSERVE_TRUSTED_KEYS" in errors
    status, output, errors = run(*again, *always, "--sign", private)

    assert status == 0, errors
    assert re.search(r"^signed   prices@2, by the key [0-9a-f]{64}$", output, re.MULTILINE)
    assert store.load("prices", signed=signed).version == 2
    assert run(*again)[0] == 0
    assert store.aliases("prices") == {"candidate": 3, "champion": 2}


def test_a_foreign_model_has_no_recipe(tables: Path, tmp_path: Path, run: Command) -> None:
    """A model that was exported is refused, with what to do; as the champion it is not compared, nor replaced."""
    X = pd.DataFrame({"area": np.arange(40.0), "rooms": np.arange(40.0) % 7})
    y = 3 * X["area"] + X["rooms"]
    export(LinearRegression().fit(X, y), X, y.rename("price"), name="prices", store=tmp_path / "store")
    status, _, errors = run("retrain", "prices", "--data", tables / "new.csv")
    assert status == 1
    assert "prices@1 has no recipe to repeat: it was imported or exported" in errors
    assert "python -m model train prices --data TABLE --target price" in errors

    train(run, tables / "old.csv", "--target", "price", "--learner", "linear")
    _, output, _ = run("retrain", "prices@2", "--data", tables / "new.csv", "--promote", "if-better")
    assert "compare  not with the champion prices@1: prices@1 does not say which rows it was fitted on" in output
    assert Store(tmp_path / "store").aliases("prices")["champion"] == 1


def test_promote_if_better(tables: Path, tmp_path: Path, run: Command) -> None:
    """A version is promoted if compare says that it is better, and the exit status is compare's if it does not."""
    for learner in ("baseline", "linear"):
        train(run, tables / "old.csv", "--target", "price", "--learner", learner)
    store = Store(tmp_path / "store")
    data = ["--if-better", "--data", tables / "new.csv"]
    status, output, _ = run("promote", "prices@2", *data, "--margin", "99%")
    assert (status, store.aliases("prices")["champion"]) == (5, 1)
    assert "moved    nothing: version 1 stays the champion" in output

    status, output, _ = run("promote", "prices@2", *data)
    assert (status, store.aliases("prices")["champion"]) == (0, 2)
    assert store.history("prices")[-1].why.startswith("--if-better: version 2 is better than version 1: its squared")
    assert run("promote", "prices@1", *data)[0] == 3
    assert run("promote", "prices@1", "--if-better")[0] == 1
    assert store.aliases("prices")["champion"] == 2
    assert json.loads(run("history", "prices", "--json")[1])[-1]["action"] == "promote"
