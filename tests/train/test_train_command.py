"""The command `train` on a table of one's own: its options and errors; the same command gives the same model."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from model import Store
from model.cli.main import main
from model.store import artifact, runs
from model.store.artifact import Artifact
from model.train import proof
from tests.support.service import ROOT

N_ROWS = 240
# What a test does without if its rule says nothing of dates or many categories, whose models take twice as long.
PLAIN = ("--as", "sold=ignore", "--as", "agent=ignore")


@pytest.fixture(scope="module")
def homes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of numbers, a category, dates, agents with several homes each, gaps, and two rows without a price."""
    draw = np.random.default_rng(0)
    sold = pd.Timestamp("2024-01-01") + pd.to_timedelta(draw.integers(0, 600, N_ROWS), "D")
    table = pd.DataFrame(
        {
            "area": draw.normal(80, 20, N_ROWS).round(1),
            "rooms": draw.integers(1, 7, N_ROWS),
            "zone": draw.choice(["east", "north", "west"], N_ROWS),
            "sold": sold.strftime("%Y-%m-%d"),
            "agent": draw.choice([f"agent {number}" for number in range(30)], N_ROWS),
        }
    )
    price = table["area"] * 3 + table["rooms"] * 20 + (table["zone"] == "west") * 50 + draw.normal(0, 5, N_ROWS)
    table["price"] = price.round(1)
    table["cheap"] = np.where(price < price.median(), "yes", "no")
    table.loc[::17, "area"] = np.nan
    table.loc[[3, 50], "price"] = np.nan
    path: Path = tmp_path_factory.mktemp("homes") / "homes.csv"
    table.to_csv(path, index=False)
    return path


@pytest.fixture(autouse=True)
def quick_proof(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove models on fewer random rows than a person's are."""
    monkeypatch.setattr(proof, "RANDOM_ROWS", 2_000)


def command(store: Path, table: Path, *options: str) -> list[str]:
    return ["--store", str(store), "train", "homes", "--data", str(table), *options]


def trained(store: Path, table: Path, *options: str) -> Artifact:
    """Return the version that a command adds, as a server loads it."""
    assert main(command(store, table, *options)) == 0
    return Store(store).load("homes@candidate")


def alone(store: Path, table: Path, *options: str) -> Artifact:
    """Return the version that a command in a process of its own adds; which strings are one object is then the same."""
    subprocess.run([sys.executable, "-m", "model", *command(store, table, *options)], cwd=ROOT, check=True, timeout=600)
    return Store(store).load("homes@candidate")


def names_of(found: Artifact) -> list[str]:
    return list(found.schema.names)


def test_own_regression(homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table and a target are enough: the leaderboard is printed and kept, and rows without a target are set aside."""
    found = trained(tmp_path, homes, "--target", "price", "--as", "cheap=ignore", "--trials", "3")
    output, facts = capsys.readouterr().out, found.manifest.document

    assert names_of(found) == ["area", "rooms", "zone", "sold", "agent"]
    assert (facts["task"], facts["target"]["name"]) == ("regression", "price")
    assert facts["rows"]["set_aside"] == {"price is missing": 2}
    assert (facts["rows"]["read"], facts["rows"]["used"]) == (N_ROWS, N_ROWS - 2)
    assert "2 rows are set aside: price is missing" in output
    assert "in its time" not in output
    assert f"split    190 rows to fit on, 48 held out: {facts['rows']['parted']}" in output
    board = found.manifest.leaderboard
    assert board is not None
    assert {each.family for each in board.standings} == {"baseline", "linear", "lightgbm"}
    assert all(each.family in output for each in board.standings)
    assert facts["search"]["learner"] != "baseline"
    assert facts["search"]["leaderboard"]["trials"] == 3
    assert facts["observed"]["leaderboard"][facts["search"]["learner"]]["fit_seconds"] > 0
    assert "## How it was found" in (found.path / "card.md").read_text()
    assert found.manifest.intervals is not None
    ((run,), _) = runs.read(Store(tmp_path), "homes")
    assert (run.outcome, run.version, run.facts["digest"]) == ("finished", 1, found.manifest.digest)
    assert run.parameters["trials"] == 3
    assert run.part("data") == {"source": str(homes), "sha256": facts["data"]["sha256"], "rows": N_ROWS - 2}
    assert run.part("metrics") == facts["metrics"]
    assert [(each["learner"], each["state"]) for each in run.part("search")["trials"]] == [
        (family, "complete") for family in ("baseline", "linear", "lightgbm")
    ]
    assert {each["learner"] for each in run.part("search")["leaderboard"]} == {each.family for each in board.standings}


def test_own_classification(homes: Path, tmp_path: Path) -> None:
    """A target of two labels gives a classifier of these, whichever learner is best."""
    found = trained(tmp_path, homes, "--target", "zone", "--trials", "3")

    assert found.manifest.classes == ("east", "north", "west")
    assert found.manifest.document["search"]["leaderboard"]["metric"] == "log loss"
    assert found.golden_predictions.shape[1] == 4


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_ask_line_can_be_pasted(homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A shell makes of the printed request the first row of the table, whatever is in its names and categories."""
    table = pd.read_csv(homes).rename(columns={"zone": 'Ort "und" $HOME', "rooms": "it's `rooms`"})
    table['Ort "und" $HOME'] = 'Köln\'s \\ "Süd"! ' + table['Ort "und" $HOME']
    own = tmp_path / "own.csv"
    table.to_csv(own, index=False)
    store = tmp_path / "a store's"
    found = trained(store, own, "--target", "price", "--learner", "linear", "--as", "agent=ignore")
    lines = {line.split(" ")[0]: line for line in capsys.readouterr().out.splitlines()}
    request = lines["ask"].removeprefix("ask").strip().replace("curl", "printf '%s\\n'", 1)
    words = subprocess.run(["bash", "-c", request], capture_output=True, text=True, check=True).stdout.splitlines()

    assert words[1] == "localhost:8000/models/homes/predict"
    X = found.schema.matrix_from_records([json.loads(words[-1])])
    assert np.array_equal(X, found.golden_rows[:1], equal_nan=True)
    assert shlex.split(lines["serve"])[-1] == f"STORE={store}"


def predicted(store: Path, table: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[float]:
    """Return what the command `predict` prints for a table."""
    capsys.readouterr()
    command = ["--store", str(store), "predict", "homes", str(table), *options, "--only", "prediction", "--jobs", "1"]
    assert main(command) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header == "prediction"
    return [float(line.replace(",", ".")) for line in lines]


def without_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the packages that read tables of any kind be absent, as in the serving image."""
    monkeypatch.setitem(sys.modules, "duckdb", None)
    monkeypatch.delattr("model.table.reader", raising=False)
    monkeypatch.delitem(sys.modules, "model.table.reader", raising=False)


def test_predict_reads_the_table_of_the_training(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that a model was trained on gets the same answers as its rows over HTTP, in whichever dialect it is.

    It needs no package of training. Another form is plain CSV, of which `--plain` says so.
    """
    table = pd.read_csv(homes)
    written = table.assign(sold=pd.to_datetime(table["sold"]).dt.strftime("%d.%m.%Y"), zone=table["zone"] + " Straße")
    own, plain = tmp_path / "Häuser.csv", tmp_path / "plain.csv"
    written.to_csv(own, index=False, sep=";", decimal=",", encoding="cp1252")
    written.to_csv(plain, index=False)
    options = ("--target", "price", "--learner", "linear", "--as", "agent=ignore")
    found = trained(tmp_path / "store", own, *options)
    rows = written[names_of(found)].assign(cheap=table["cheap"] == "yes").astype(object)
    records = rows.where(rows.notna(), None).to_dict("records")
    expected = found.predict(found.schema.matrix_from_records(records)).tolist()  # type: ignore[arg-type]
    of_plain = trained(tmp_path / "other", plain, *options)
    stated = ("--separator", ";", "--decimal", ",", "--encoding", "cp1252")

    assert predicted(tmp_path / "store", own, capsys) == expected
    assert predicted(tmp_path / "store", plain, capsys, "--plain") == expected
    assert predicted(tmp_path / "other", own, capsys, *stated) == expected
    without_duckdb(monkeypatch)
    assert predicted(tmp_path / "other", plain, capsys) == expected
    assert predicted(tmp_path / "store", own, capsys) == expected
    assert names_of(of_plain) == names_of(found)


def test_learner_and_its_options(homes: Path, tmp_path: Path) -> None:
    """A named learner is fitted with its options and the defaults of the others, without a search."""
    options = ("--target", "price", "--learner", "gbm", "--n-estimators", "5", "--title", "Homes", "--unit", "kEUR")
    found = trained(tmp_path, homes, *options, *PLAIN, "--owner", "sales", "--limits", "For no home.")
    facts = found.manifest.document

    assert facts["hyperparameters"]["n_estimators"] == 5
    assert "search" not in facts
    assert "observed" not in facts
    assert (facts["title"], facts["target"]["unit"], facts["limits"]) == ("Homes", "kEUR", "For no home.")
    assert facts["tags"] == {"dataset": "homes", "task": "regression", "owner": "sales", "license": ""}
    assert not (tmp_path / "homes" / "runs" / "journal.jsonl").exists()


def test_derived_feature_is_served(homes: Path, tmp_path: Path) -> None:
    """A derived feature, and a shared one, are computed by the served model and named in the manifest."""
    shared = tmp_path / "features.toml"
    shared.write_text('[features.is_large]\nformula = "area > 100"\nowner = "sales"\ndescription = "a large home"\n')
    features = ("--feature", "per_room = area / rooms", "--feature", "is_large", "--features", str(shared))
    found = trained(tmp_path / "store", homes, "--target", "price", "--learner", "linear", *features)

    derived = {each["name"]: each["formula"] for each in found.manifest.document["derived"]}
    assert {name: derived[name] for name in ("per_room", "is_large")} == {
        "per_room": "area / rooms",
        "is_large": "area > 100",
    }
    assert not {"per_room", "is_large"} & set(names_of(found))


def test_groups_and_times(homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--group` keeps rows of a group together, and `--time` holds out the latest; the manifest says how."""
    fixed = ("--target", "price", "--learner", "linear")
    by_group = trained(tmp_path, homes, *fixed, "--group", "agent").manifest.document
    by_time = trained(tmp_path, homes, *fixed, "--time", "sold").manifest.document

    assert by_group["rows"]["parted"] == "all rows of a group are on the same side"
    assert "agent" not in [feature["name"] for feature in by_group["features"]]
    assert by_time["rows"]["parted"].startswith("the latest rows are held out")
    assert by_time["rows"]["parted"] in capsys.readouterr().out


def test_sample_of_a_large_table(homes: Path, tmp_path: Path) -> None:
    """`--max-rows` takes a sample, which the manifest states."""
    options = ("--target", "price", "--learner", "baseline", *PLAIN)
    rows = trained(tmp_path, homes, *options, "--max-rows", "100").manifest.document

    assert rows["rows"]["used"] == 100
    assert rows["rows"]["read"] == N_ROWS


def test_schema_file(homes: Path, tmp_path: Path) -> None:
    """A schema file says what to predict and how; what is named beside it on the command line comes first."""
    schema = tmp_path / "homes.toml"
    assert main(["describe", str(homes), "--target", "price", "--as", "agent=ignore", "--out", str(schema)]) == 0
    found = trained(tmp_path / "store", homes, "--schema", str(schema), "--learner", "baseline")
    other = trained(tmp_path / "store", homes, "--schema", str(schema), "--learner", "baseline", "--as", "rooms=ignore")

    assert names_of(found) == ["area", "rooms", "zone", "sold", "cheap"]
    assert names_of(other) == ["area", "zone", "sold", "cheap"]


def test_same_command_gives_the_same_bytes(homes: Path, tmp_path: Path) -> None:
    """A search of so many trials gives the same version again, but for when it was made and what was measured."""
    found = [alone(tmp_path / name, homes, "--target", "price", "--trials", "3") for name in ("one", "two")]
    (one, files), (two, others) = (artifact.read(each.path) for each in found)

    assert files == others
    changing = {"created_at": "", "observed": {}}
    assert {**one, **changing} == {**two, **changing}
    assert one["digest"] == two["digest"]


def test_search_in_a_time_says_how_many_trials_repeat_it(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The number of trials that a search in a time did is printed, and gives the same model."""
    options = ("--target", "price", "--learner", "linear", *PLAIN)
    in_time = trained(tmp_path / "one", homes, *options, "--budget", "15s").manifest.document
    said = re.search(r"^search   .* --trials (\d+) repeats them$", capsys.readouterr().out, re.MULTILINE)
    assert said is not None
    again = trained(tmp_path / "two", homes, *options, "--trials", said[1]).manifest.document

    assert in_time["search"]["leaderboard"]["trials"] == int(said[1])
    assert again["search"] == in_time["search"]
    assert again["hyperparameters"] == in_time["hyperparameters"]


def test_interrupted_command_says_how_to_go_on(homes: Path, tmp_path: Path) -> None:
    """Ctrl-C behind a finished trial says that the same command goes on, which then says how many it found."""
    words = command(tmp_path, homes, "--target", "price", "--trials", "4", *PLAIN)
    with subprocess.Popen(
        [sys.executable, "-m", "model", *words],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        journal, deadline = tmp_path / "homes" / "runs" / "journal.jsonl", time.monotonic() + 300
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3:  # its head and two trials
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        lines = process.stderr.read().splitlines()
    n_trials = journal.read_bytes().count(b"\n") - 1
    ((stopped,), _) = runs.read(Store(tmp_path), "homes")
    again = subprocess.run(
        [sys.executable, "-m", "model", *words], cwd=ROOT, check=True, capture_output=True, text=True, timeout=600
    )

    assert lines[-1] == "interrupted; finished trials are kept, and the same command goes on behind them"
    assert (stopped.outcome, stopped.version) == ("interrupted", None)
    assert len(stopped.part("search")["trials"]) == stopped.part("search")["n_trials"] == n_trials
    assert f"search   goes on behind {n_trials} trials that were finished" in again.stderr.splitlines()


def test_killed_command_goes_on(homes: Path, tmp_path: Path) -> None:
    """After kill -9 the store has no version; the same command goes on from its trials to the same digest."""
    options = ("--target", "price", "--trials", "4", *PLAIN)
    expected = alone(tmp_path / "whole", homes, *options).manifest.digest
    store = tmp_path / "killed"
    with subprocess.Popen(
        [sys.executable, "-m", "model", *command(store, homes, *options)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        journal, deadline = store / "homes" / "runs" / "journal.jsonl", time.monotonic() + 300
        while not journal.exists() or journal.read_bytes().count(b"\n") < 3:  # its head and two trials
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)

    assert not list(store.glob("homes/*/manifest.json"))
    assert runs.read(Store(store), "homes") == ([], [])
    kept = journal.read_bytes().splitlines()[:3]
    found = alone(store, homes, *options)
    assert journal.read_bytes().splitlines()[:3] == kept
    assert found.manifest.digest == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "no target is named; say --target COLUMN, one of area, rooms, zone, sold, agent, price, cheap"),
        (["--target", "nope"], "has no column 'nope'"),
        (["--target", "sold"], "the target 'sold' is of the type date, which cannot be predicted"),
        (["--target", "zone", "--task", "regression"], "the target 'zone' is a category"),
        (["--target", "price", "--group", "nope"], "has no column 'nope' (group)"),
        (["--target", "price", "--time", "zone"], "the time 'zone' is of the type category, which has no order"),
        (["--target", "price", "--as", "zone=colour"], "'zone' cannot be 'colour'"),
        (["--target", "price", "--as", "nope=number"], "has no column 'nope' (--as)"),
        (["--target", "price", "--feature", "x = area /"], "the formula 'area /' at character 7"),
        (["--target", "price", "--feature", "nope"], "there is no shared definition 'nope'"),
        (["--target", "price", "--learner", "linear", "--feature", "x = nope + 1"], "'nope'"),
        (["--target", "price", "--learner", "linear", "--feature", "x = price * 2"], "'price'"),
        (["--target", "price", "--schema", "none.toml"], "none.toml cannot be read"),
        (["--target", "price", "--n-estimators", "5"], "--n-estimators is an option of the gbm"),
        (["--target", "price", "--learner", "gbm", "--n-estimators", "5", "--trials", "3"], "a search chooses these"),
        (["--target", "price", "--learner", "gbm", "--n-estimators", "0"], "n_estimators"),
        (["--target", "price", "--max-rows", "3"], "there are 3 rows with a target"),
        (["--target", "price", "--separator", ";"], "has no column 'price'"),
        (["--data", "none.csv", "--target", "price"], "none.csv cannot be read"),
    ],
)
def test_bad_input_is_one_line(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    """What cannot be done is one line with exit status 1; the store is as it was, but for the record of the run."""
    store = tmp_path / "store"
    (store / "homes" / "1").mkdir(parents=True)

    assert main(command(store, homes, *options)) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("error: ")
    assert message in error
    ((run,), damaged) = runs.read(Store(store), "homes")
    assert (run.outcome, f"error: {run.error}\n", damaged) == ("failed", error, [])
    assert {str(path.relative_to(store)) for path in store.rglob("*")} == {
        *("homes", "homes/1", "homes/runs", f"homes/runs/{run.id}.json"),
    }


@pytest.mark.parametrize(
    "option", [["--trials", "0"], ["--max-rows", "0"], ["--budget", "soon"], ["--random-state", "-1"], ["--as", "zone"]]
)
def test_option_that_cannot_be(
    homes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    """An option that is no number, time or type is refused with status 2 before the table is read."""
    with pytest.raises(SystemExit) as caught:
        main(command(tmp_path, homes, "--target", "price", *option))

    assert caught.value.code == 2
    assert option[1] in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_better_version_is_promoted(tmp_path: Path, homes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--promote if-better` moves the champion only to a version that is better on the held-out rows, and says why."""
    store = Store(tmp_path)

    def add(learner: str, *options: str) -> tuple[int, str]:
        trained(tmp_path, homes, "--target", "price", "--learner", learner, *PLAIN, *options)
        output = capsys.readouterr().out
        return store.aliases("homes")["champion"], output

    assert add("baseline")[0] == 1
    champion, output = add("linear")
    assert champion == 1
    assert (
        "champion is still version 1, which is served and asked below; to change that: python -m model --store "
        f"{tmp_path} promote homes@2\nserve " in output
    )
    champion, output = add("linear", "--promote", "if-better")
    assert champion == 3
    assert "promote  better than the champion homes@1: mean squared error lower by " in output
    assert "champion version 3, which a server loads\n" in output
    champion, output = add("baseline", "--promote", "if-better")
    assert champion == 3
    assert (
        "promote  no: not better than the champion homes@3 beyond the interval: mean squared error higher by " in output
    )
    assert add("baseline", "--promote", "always")[0] == 5
    assert [move.why.split(":")[0] for move in store.history("homes") if move.action == "promote"] == [
        *("--promote if-better", "--promote always"),
    ]


def test_champion_of_another_kind_stays(tmp_path: Path, homes: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A champion that answers otherwise, or needs columns that the table lacks, cannot be compared and stays."""
    trained(tmp_path, homes, "--target", "cheap", "--learner", "baseline", *PLAIN)
    trained(tmp_path, homes, "--target", "price", "--learner", "linear", *PLAIN, "--promote", "if-better")

    assert Store(tmp_path).aliases("homes") == {"candidate": 2, "champion": 1}
    assert "promote  no: it cannot be compared with the champion homes@1: " in capsys.readouterr().out
    arguments = command(tmp_path, homes, "--target", "price", "--notebook", "--promote", "if-better")
    assert main(arguments) == 1
    assert "--promote if-better needs the held-out rows" in capsys.readouterr().err
