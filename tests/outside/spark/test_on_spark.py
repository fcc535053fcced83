"""Predictions on a cluster of Spark are those of the version itself, whatever happens to a worker or a stream."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark import InheritableThread
from pyspark.errors import PythonException
from pyspark.sql import DataFrame, Row, SparkSession
from pyspark.sql.types import DecimalType

from model import Artifact, SchemaError, Store, on_spark
from model.on_spark import predict
from model.store import life
from model.store.artifact import read_draft
from tests.support import classifiers, gems
from tests.support.service import ROOT
from tests.support.spark import ENVIRON, SECONDS, Cluster

STORE = Path(os.environ["GEMS_STORE"])
HOUSES = Path(os.environ["HOUSES_STORE"])
CLASSIFIERS = Path(os.environ["CLASSIFIERS_STORE"])
(EXAMPLE,) = re.findall(r"```python\n(.*?pyspark.*?)```", (ROOT / "docs" / "spark.md").read_text(), re.DOTALL)
N_ROWS, N_PARTITIONS = 12_000, 12


@pytest.fixture(scope="module")
def model() -> Artifact:
    return Store(STORE).load(gems.NAME)


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Gems as JSON has them, with columns that are no features: an id, a text, a partition."""
    rows = gems.rows(gems.table(N_ROWS, seed=5))
    return [
        {"id": number, "note": f'{number} 💎, "é"\n', **row, "month": 1 + number % 3} for number, row in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def expected(model: Artifact, records: list[dict[str, Any]]) -> dict[int, float]:
    """The version's own prediction of each id."""
    columns = {name: [record[name] for record in records] for name in gems.COLUMNS}
    answers = model.predict(model.schema.matrix_from_columns(columns)).tolist()
    return dict(enumerate(answers))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]]) -> Path:
    """The same as Parquet, in a folder for each month, carats as decimals and pieces as 16-bit integers."""
    folder = tmp_path_factory.mktemp("table")
    found = pa.Table.from_pylist(records)
    carats = pa.array([Decimal(str(record["carat"])) for record in records], pa.decimal128(6, 2))
    found = found.set_column(found.column_names.index("carat"), "carat", carats)
    found = found.set_column(found.column_names.index("pieces"), "pieces", found["pieces"].cast(pa.int16()))
    pq.write_to_dataset(found, folder / "in", partition_cols=["month"])
    return folder / "in"


def by_id(rows: list[Row], column: str = "prediction") -> dict[int, Any]:
    """Return a column by id, of which each comes once."""
    found = {row["id"]: row[column] for row in rows}
    assert len(found) == len(rows)
    return found


def test_a_frame_gets_the_bits_of_the_version(
    spark: SparkSession, table: Path, records: list[dict[str, Any]], expected: dict[int, float]
) -> None:
    """Every row has the version's own prediction to the last bit, and every other column as it was."""
    frame = spark.read.parquet(str(table))
    rows = predict(frame, gems.NAME, store=STORE).collect()

    assert frame.schema["carat"].dataType == DecimalType(6, 2)
    assert by_id(rows) == expected
    assert by_id(rows, "note") == {record["id"]: record["note"] for record in records}
    assert rows[0].asDict().keys() == {*records[0], "prediction"}


@pytest.mark.parametrize("name", ["precious", "mine", "stars"])
def test_labels_and_probabilities(spark: SparkSession, name: str) -> None:
    """A classifier's prediction is a label of its own type, with the probability of each by name."""
    model = Store(CLASSIFIERS).load(name)
    stones = classifiers.rows(classifiers.table(200, seed=3))
    X = model.schema.matrix_from_columns({key: [stone[key] for stone in stones] for key in classifiers.COLUMNS})
    answers = model.predict(X).tolist()
    frame = spark.createDataFrame(pd.DataFrame(stones).assign(id=range(len(stones))))
    rows = predict(frame, name, store=CLASSIFIERS, probabilities=True).collect()

    labels = classifiers.LABELS[name]
    assert by_id(rows) == {number: labels[int(answer[0])] for number, answer in enumerate(answers)}
    assert {type(row["prediction"]) for row in rows} <= {type(label) for label in labels}
    shares = [dict(zip(model.manifest.class_names, answer[1:])) for answer in answers]
    assert by_id(rows, "probabilities") == {number: Row(**share) for number, share in enumerate(shares)}


def run(*words: str | Path) -> int:
    """Run a job by the session of this process and return its exit status."""
    return on_spark.main(list(map(str, words)))


def stream(source: Path, target: Path, checkpoint: Path, *options: str) -> list[str | Path]:
    """Return the words of a job that streams from one folder to another."""
    return ["stream", gems.NAME, source, target, "--store", STORE, "--checkpoint", checkpoint, *options]


def spoilt(spark: SparkSession) -> DataFrame:
    """Return four gems of which two are bad, one of them twice over."""
    bad = {**gems.GEM, "cut": "Excellent", "pieces": None}
    rows = [gems.GEM, bad, {**gems.GEM, "carat": None}, gems.GEM]
    return spark.createDataFrame([Row(id=number, **row) for number, row in enumerate(rows)]).repartition(1)


def test_bad_rows_are_kept_with_their_reasons(spark: SparkSession) -> None:
    """With "column", a row that does not fit has no prediction and every reason; the others have no reason."""
    rows = predict(spoilt(spark), gems.NAME, store=STORE, on_bad_rows="column").collect()

    reasons = by_id(rows, "rejected")
    assert [number for number, value in sorted(by_id(rows).items()) if value is None] == [1, 2]
    assert reasons[0] is None
    assert reasons[3] is None
    assert "column 'pieces': missing" in reasons[1]
    assert "column 'cut': unknown category" in reasons[1]
    assert reasons[2].startswith("column 'carat': missing")


def test_a_bad_row_ends_the_job(spark: SparkSession) -> None:
    """Without that, the job ends, and its error says how many rows, which columns and why."""
    with pytest.raises(PythonException, match=r"2 of the 4 rows of a batch do not fit the model: .*'cut': unknown"):
        predict(spoilt(spark), gems.NAME, store=STORE).collect()


def test_what_is_wrong_with_a_frame_is_said_at_once(spark: SparkSession) -> None:
    """A frame without a feature, or with a column of the new one's name, is refused before anything runs."""
    frame = spoilt(spark)

    with pytest.raises(SchemaError, match="column 'boxed': missing"):
        predict(frame.drop("boxed"), gems.NAME, store=STORE)
    with pytest.raises(ValueError, match="has a column 'prediction' already"):
        predict(frame.withColumnRenamed("id", "Prediction"), gems.NAME, store=STORE)
    with pytest.raises(ValueError, match="has no probabilities"):
        predict(frame, gems.NAME, store=STORE, probabilities=True)


def test_an_alias_that_moves_changes_no_frame(spark: SparkSession, tmp_path: Path) -> None:
    """A frame keeps the version that the alias named when it was made; one that is made later has the new one."""
    store = Store(Path(shutil.copytree(CLASSIFIERS, tmp_path / "store")))
    other = shutil.copytree(store.find("stars"), tmp_path / "other")
    frame = spark.createDataFrame([Row(**classifiers.ROW)])
    before = predict(frame, "stars", store=store.root)
    draft = read_draft(other)
    store.add("stars", draft)
    life.promote(store, store.load("stars@2"), after=store.last_move("stars"))
    after = predict(frame, "stars", store=store.root)
    shutil.rmtree(store.root)  # which the workers do not need

    assert before.collect() == after.collect()


def test_a_worker_that_dies_loses_and_doubles_nothing(
    spark: SparkSession, cluster: Cluster, table: Path, expected: dict[int, float], tmp_path: Path
) -> None:
    """One of two workers is killed when half of the parts are done: every row is written once, with the same bits."""
    opened, target = str(tmp_path / "opened"), tmp_path / "out"

    def wait(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Pass on what has small ids, and the rest when there is a file."""
        for batch in batches:
            while batch["id"][0].as_py() >= N_ROWS // 2 and not os.path.exists(opened):
                time.sleep(0.01)
            yield batch

    frame = spark.read.parquet(str(table)).repartitionByRange(N_PARTITIONS, "id")
    scored = predict(frame.mapInArrow(wait, frame.schema), gems.NAME, store=STORE)
    writing = InheritableThread(target=lambda: scored.write.parquet(str(target)), session=spark)
    writing.start()
    tracker = spark.sparkContext.statusTracker()
    end = time.monotonic() + SECONDS
    stages: list[Any] = []
    while not any(each and 0 < each.numCompletedTasks >= N_PARTITIONS // 2 - 2 for each in stages):
        assert time.monotonic() < end
        stages = [tracker.getStageInfo(number) for number in tracker.getActiveStageIds()]
        time.sleep(0.05)
    cluster.kill_worker(1)
    Path(opened).touch()
    writing.join(SECONDS)

    assert not writing.is_alive()
    assert by_id(spark.read.parquet(str(target)).collect()) == expected


def test_a_stream_goes_on_where_it_was_killed(
    spark: SparkSession, cluster: Cluster, records: list[dict[str, Any]], expected: dict[int, float], tmp_path: Path
) -> None:
    """10,000 records come in as JSON lines; the job is killed in the middle and started again: 10,000 are out, once."""
    source, target, checkpoint = (tmp_path / name for name in ("in", "out", "checkpoint"))
    source.mkdir()
    for start in range(0, 10_000, 500):
        lines = [json.dumps(record, ensure_ascii=False) for record in records[start : start + 500]]
        (source / f"{start:05}.jsonl").write_text("\n".join(lines))
    words = stream(source, target, checkpoint, "--columns", "id BIGINT, note STRING, month INT")
    first = subprocess.Popen(
        cluster.submit(*words, "--max-files", "1"),
        env={**ENVIRON, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        start_new_session=True,
    )
    end = time.monotonic() + SECONDS
    while len(list((checkpoint / "commits").glob("[0-9]*"))) < 3:
        assert first.poll() is None
        assert time.monotonic() < end
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    n_done = len(list((checkpoint / "commits").glob("[0-9]*")))
    status = run(*words, "--once")
    rows = spark.read.json(str(target)).collect()

    assert n_done < 20
    assert status == 0
    assert by_id(rows) == {number: expected[number] for number in range(10_000)}
    assert by_id(rows, "note") == {record["id"]: record["note"] for record in records[:10_000]}


def test_lines_that_are_no_json_are_kept(spark: SparkSession, tmp_path: Path) -> None:
    """A stream that keeps bad rows keeps lines that are no JSON, or have a text for a number, with their text."""
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    bad = ['{"carat": 1', json.dumps({**gems.GEM, "carat": "1.5"})]
    (source / "a.jsonl").write_text("\n".join([json.dumps(gems.GEM), *bad]))
    status = run(*stream(source, target, tmp_path / "checkpoint", "--once", "--on-bad-rows", "column"))
    rows = spark.read.json(str(target)).collect()

    assert status == 0
    assert [row["prediction"] is None for row in sorted(rows, key=lambda row: str(row["rejected"]))] == [
        False,
        True,
        True,
    ]
    assert {row["rejected_line"] for row in rows} == {None, *bad}


def test_a_job_writes_the_partitions_that_it_reads(
    spark: SparkSession, table: Path, expected: dict[int, float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The output of a batch job has the folders of its input; the job says what it did, or its error in one line."""
    words: list[str | Path] = ["batch", gems.NAME, table, tmp_path / "out", "--store", STORE]
    statuses = [run(*words), run(*words)]
    shown = capsys.readouterr()
    written = pq.read_table(tmp_path / "out")

    assert statuses == [0, 1]
    assert shown.out == f"rows {N_ROWS:,}, gems@1\n"
    assert shown.err.splitlines()[-1].startswith("error: [PATH_ALREADY_EXISTS]")
    assert "Traceback" not in shown.err
    assert sorted(path.name for path in (tmp_path / "out").glob("month=*")) == ["month=1", "month=2", "month=3"]
    assert dict(zip(written["id"].to_pylist(), written["prediction"].to_pylist())) == expected
    assert written["month"].to_pylist() == [1 + number % 3 for number in written["id"].to_pylist()]


def test_a_job_names_the_reason_in_one_line(
    spark: SparkSession, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bad row ends a job with what is wrong, without the traceback of the worker that found it."""
    spoilt(spark).write.parquet(str(tmp_path / "in"))
    status = run("batch", gems.NAME, tmp_path / "in", tmp_path / "out", "--store", STORE)

    assert status == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: 2 of the 4 rows of a batch do not fit the model: column '")
    assert "column 'cut': unknown category" in last


def test_the_example_prints_as_shown(spark: SparkSession, capsys: pytest.CaptureFixture[str]) -> None:
    """The example of the documentation prints what the comment of its last line says."""
    here = EXAMPLE.replace('"store"', repr(str(HOUSES))).replace('"model/', f'"{ROOT}/model/')
    exec(here, {})

    assert capsys.readouterr().out.strip() == EXAMPLE.strip().rpartition("  # ")[2]
