"""The DAG of Airflow is loaded, and its tasks run: they train two versions and promote the better one, or stop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PYTHON = str(ROOT / ".venv" / "bin" / "python")


@pytest.fixture(scope="module", autouse=True)
def database() -> None:
    """Make Airflow's database, in the folder that AIRFLOW_HOME names."""
    subprocess.run([*airflow(), "db", "migrate"], check=True, capture_output=True, timeout=600)


def airflow() -> list[str]:
    return [str(Path(sys.executable).parent / "airflow")]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a table to train on and one to compare on: the rows of a line."""
    folder = tmp_path_factory.mktemp("tables")
    for name, start, count in (("train", 0, 200), ("holdout", 1000, 1200)):
        rows = [f"{x / 7},{x % 5},{3 * x / 7 + x % 5 + (x * 37 % 11) / 9}" for x in range(start, start + count)]
        (folder / f"{name}.csv").write_text("\n".join(["area,rooms,price", *rows]) + "\n")
    return folder


def states(tables: Path, store: Path, **given: str) -> dict[str, str]:
    """Run the DAG's tasks in this process and return the state of each."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(str(ROOT / "workflows"))
    assert bag.import_errors == {}
    conf = {
        "model": "prices",
        "data": str(tables / "train.csv"),
        "holdout": str(tables / "holdout.csv"),
        "target": "price",
        "store": str(store),
        "python": PYTHON,
        "folder": str(ROOT),
        **given,
    }
    run = bag.dags["tabserve_train"].test(run_conf=conf)
    return {found.task_id: str(found.state) for found in run.get_task_instances()}


def aliases(store: Path) -> dict[str, int]:
    listed = subprocess.run(
        [PYTHON, "-m", "model", "--store", str(store), "list", "--json"], cwd=ROOT, capture_output=True, check=True
    )
    return {alias: each["version"] for each in json.loads(listed.stdout) for alias in each["aliases"]}


def test_better_is_promoted_or_it_stops(tables: Path, tmp_path: Path) -> None:
    """Of two versions the better one becomes the champion; a run with none better skips the promotion, and succeeds."""
    store = tmp_path / "store"
    train = ["train", "prices", "--data", str(tables / "train.csv"), "--target", "price", "--learner", "baseline"]
    subprocess.run([PYTHON, "-m", "model", "--store", str(store), *train], cwd=ROOT, check=True, capture_output=True)
    done = dict.fromkeys(["check", "train_a", "train_b", "compare", "promote"], "success")
    assert states(tables, store, learner_a="baseline", learner_b="linear") == done
    found = aliases(store)
    assert found["champion"] == found["b"]

    again = states(tables, store, learner_a="baseline", learner_b="baseline")
    assert again == {**done, "compare": "skipped", "promote": "skipped"}
    assert aliases(store)["champion"] == found["champion"]


def test_a_table_with_errors_stops_before_training(tables: Path, tmp_path: Path) -> None:
    """A failed check fails the run, and nothing is trained."""
    (tmp_path / "bad.csv").write_text("area,rooms\n1,2\n")
    found = states(tables, tmp_path / "store", data=str(tmp_path / "bad.csv"))

    assert found["check"] == "failed"
    assert {found[name] for name in ("train_a", "train_b", "compare", "promote")} == {"upstream_failed"}
    assert not (tmp_path / "store").exists()
