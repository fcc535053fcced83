"""The prediction log's schema: old logs are upgraded without loss, whole or not at all, and newer ones are refused."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Connection

from model import PredictionLogError
from model.live import log_schema
from model.live.prediction_log import Outcome, PredictionLog
from tests.support.postgres import Postgres
from tests.support.service import ROOT

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
INDEXES = [
    "CREATE INDEX predictions_time ON predictions (time)",
    "CREATE INDEX predictions_truth_time ON predictions (truth_time)",
]
ROW = "INSERT INTO predictions VALUES ('old', {}, '2026-03-01 11:00:00+00', 'm', 1, '{{\"a\": 0.1}}', {}.5, {}, {})"
ROWS = [ROW.format(0, 1, 3.25, "'2026-03-01 12:00:00+00'"), ROW.format(1, 2, "NULL", "NULL")]
# How each older version wrote its log, by database.
OLD_LOGS = {
    "sqlite": {
        0: [
            "CREATE TABLE predictions (request_id VARCHAR(128) NOT NULL, row INTEGER NOT NULL, time DATETIME NOT NULL, "
            "model VARCHAR NOT NULL, version BIGINT NOT NULL, features JSON, prediction DOUBLE, truth DOUBLE, "
            "truth_time DATETIME, PRIMARY KEY (request_id, row))",
            *INDEXES,
            *(row.replace("+00'", ".000000'") for row in ROWS),
        ]
    },
    "postgresql": {
        0: [
            "CREATE TABLE predictions (request_id VARCHAR(128) NOT NULL, row INTEGER NOT NULL, "
            "time TIMESTAMP WITH TIME ZONE NOT NULL, model VARCHAR NOT NULL, version BIGINT NOT NULL, features JSON, "
            "prediction DOUBLE PRECISION, truth DOUBLE PRECISION, truth_time TIMESTAMP WITH TIME ZONE, "
            "PRIMARY KEY (request_id, row))",
            *INDEXES,
            *ROWS,
        ]
    },
}
OLD_LOGS["sqlite"][1] = [*OLD_LOGS["sqlite"][0], "PRAGMA user_version = 1"]
OLD_LOGS["postgresql"][1] = [
    *OLD_LOGS["postgresql"][0],
    "COMMENT ON TABLE predictions IS 'tabserve prediction log, schema version 1'",
]
CLASSES = [
    "CREATE TABLE prediction_classes (model VARCHAR NOT NULL, version BIGINT NOT NULL, labels JSON NOT NULL, "
    "PRIMARY KEY (model, version))",
    "INSERT INTO prediction_classes VALUES ('c', 1, '[\"no\", \"yes\"]')",
]
OLD_LOGS["sqlite"][2] = [
    *OLD_LOGS["sqlite"][0],
    "ALTER TABLE predictions ADD COLUMN probabilities BLOB",
    *CLASSES,
    "PRAGMA user_version = 2",
]
OLD_LOGS["postgresql"][2] = [
    *OLD_LOGS["postgresql"][0],
    "ALTER TABLE predictions ADD COLUMN probabilities BYTEA",
    *CLASSES,
    "COMMENT ON TABLE predictions IS 'tabserve prediction log, schema version 2'",
]
OLD_LOGS["sqlite"][3] = [
    *OLD_LOGS["sqlite"][2],
    "CREATE TABLE shadow_predictions (request_id VARCHAR(128) NOT NULL, row INTEGER NOT NULL, version BIGINT NOT NULL, "
    "prediction DOUBLE, probabilities BLOB, PRIMARY KEY (request_id, row, version), FOREIGN KEY(request_id, row) "
    "REFERENCES predictions (request_id, row) ON DELETE CASCADE)",
    "PRAGMA user_version = 3",
]
OLD_LOGS["postgresql"][3] = [
    *OLD_LOGS["postgresql"][2],
    "CREATE TABLE shadow_predictions (request_id VARCHAR(128) NOT NULL, row INTEGER NOT NULL, version BIGINT NOT NULL, "
    "prediction DOUBLE PRECISION, probabilities BYTEA, PRIMARY KEY (request_id, row, version), "
    "FOREIGN KEY(request_id, row) REFERENCES predictions (request_id, row) ON DELETE CASCADE)",
    "COMMENT ON TABLE predictions IS 'tabserve prediction log, schema version 3'",
]
# Opens a log with steps that change its table, and is killed before the last of them where it is told so.
UPGRADE = """
import os, signal, sys
from model.live import log_schema
from model.live.prediction_log import PredictionLog

def add_note(connection):
    connection.exec_driver_sql("ALTER TABLE predictions ADD COLUMN note VARCHAR")

def number_notes(connection):
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    connection.exec_driver_sql("UPDATE predictions SET note = COALESCE(note, 'n') || row")

log_schema.STEPS = (*log_schema.STEPS, add_note, number_notes)
print("here", flush=True)
input()
PredictionLog(sys.argv[1]).write([])
"""


def execute(url: str, *statements: str) -> list[Any]:
    """Run statements in the database, and return the rows of the last one."""
    if url.startswith("postgresql"):
        with psycopg.connect(url) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
        for statement in statements:
            found = file.execute(statement).fetchall()
        return found


def version(url: str) -> int:
    """Return the version that the database has."""
    if url.startswith("sqlite"):
        return int(execute(url, "PRAGMA user_version")[0][0])
    (comment,) = execute(url, "SELECT obj_description('predictions'::regclass, 'pg_class')")[0]
    return int(comment.rpartition(" ")[2]) if comment else 0


def set_version(url: str, number: int) -> None:
    """Make a log one of another version."""
    comment = f"COMMENT ON TABLE predictions IS 'tabserve prediction log, schema version {number}'"
    execute(url, f"PRAGMA user_version = {number}" if url.startswith("sqlite") else comment)


def found_in(url: str, *, read_only: bool = False) -> list[list[float]]:
    """Return the features, predictions and truths of version 1 of `m`."""
    with closing(PredictionLog(url, read_only=read_only)) as log:
        found = log.read("m", 1, features=("a",), since=LONG_AGO)
    return [found.X[:, 0].tolist(), found.predictions.tolist(), found.truths[:1].tolist()]


OLD = [[0.1, 0.1], [1.5, 2.5], [3.25]]


@pytest.fixture(params=[0, 1, 2, 3])
def old(url: str, request: pytest.FixtureRequest) -> str:
    """The URL of a log of an older version, with two rows and a truth."""
    execute(url, *OLD_LOGS[url.partition(":")[0]][request.param])
    return url


def test_new_log_has_the_newest_version(url: str) -> None:
    """A log that is created has the newest version, so that no step runs on it."""
    with closing(PredictionLog(url)) as log:
        log.write([])

    assert version(url) == len(log_schema.STEPS)


def test_old_log_is_upgraded_without_loss(old: str) -> None:
    """A log of an older version is upgraded when it is opened, keeps its rows, and takes new ones and truths."""
    row = {"request_id": "new", "row": 0, "time": NOON, "model": "m", "version": 1, "features": {"a": 0.2}}
    with closing(PredictionLog(old)) as log:
        assert log.write([{**row, "prediction": 7.5}]) == 1
        outcomes = log.add_truths([("old", 0, 3.25), ("old", 1, 4.0), ("new", 0, 1.0)], oldest=NOON - timedelta(days=1))

    assert outcomes == [Outcome.REPEATED, Outcome.ACCEPTED, Outcome.ACCEPTED]
    assert found_in(old) == [[0.1, 0.1, 0.2], [1.5, 2.5, 7.5], [3.25]]
    assert version(old) == len(log_schema.STEPS)


def test_old_log_is_read_without_an_upgrade(old: str) -> None:
    """A reader reads an older log, and changes nothing."""
    before = version(old)

    assert found_in(old, read_only=True) == OLD
    assert version(old) == before


def test_classifier_needs_a_log_that_has_classes(old: str) -> None:
    """A reader of a classifier says which version of the log has its answers, and what upgrades an older one."""
    with closing(PredictionLog(old, read_only=True)) as log:
        if version(old) >= 2:
            assert len(log.read("m", 1, features=(), since=LONG_AGO, n_classes=2).times) == 2
            return
        with pytest.raises(PredictionLogError, match=f"schema version {version(old)}, and version 2 or later can be"):
            log.read("m", 1, features=(), since=LONG_AGO, n_classes=2)


@pytest.mark.parametrize("old", [0, 1, 2], indirect=True)
def test_comparison_needs_a_log_that_has_shadows(old: str) -> None:
    """A reader of several versions' answers says which version of the log has them; an upgraded one takes them."""
    with (
        closing(PredictionLog(old, read_only=True)) as log,
        pytest.raises(PredictionLogError, match=f"schema version {version(old)}, and version 3 or later can be"),
    ):
        list(log.answers("m", since=LONG_AGO))

    with closing(PredictionLog(old)) as log:
        shadows = [{"request_id": "old", "row": row, "version": 2, "prediction": row + 0.5} for row in range(2)]
        assert log.write_shadows(shadows) == 2
        (part,) = log.answers("m", since=LONG_AGO)
        assert part.answers[2].tolist() == [0.5, 1.5]
        assert log.prune(before=NOON) == 2
        assert not log.has_shadows()


def test_truths_need_the_key_that_asked(old: str) -> None:
    """An upgraded log keeps truths of a key from the predictions of another, and from those of before keys."""
    row = {"request_id": "new", "time": NOON, "model": "m", "version": 1, "prediction": 7.5}
    truths = [("old", 1, 4.0), ("new", 0, 1.0), ("new", 1, 2.0)]
    with closing(PredictionLog(old)) as log:
        assert log.write([{**row, "row": 0, "caller": "shop"}, {**row, "row": 1, "caller": "other"}]) == 2

        assert log.add_truths(truths, oldest=LONG_AGO, caller="shop") == ["unknown", "accepted", "unknown"]
        assert log.add_truths(truths, oldest=LONG_AGO) == ["accepted", "repeated", "accepted"]


def test_log_that_is_too_old_to_be_read(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the queries need a newer schema, a reader says which, and what upgrades the log."""
    monkeypatch.setattr(log_schema, "OLDEST_READABLE", 4)
    before = version(old)
    with pytest.raises(PredictionLogError, match=f"schema version {before}, and version 4 or later can be read; start"):
        found_in(old, read_only=True)

    assert found_in(old) == OLD
    assert found_in(old, read_only=True) == OLD


@pytest.mark.parametrize("read_only", [False, True])
def test_newer_log_is_refused(old: str, read_only: bool) -> None:
    """A log of a version that this code does not know is neither read nor written, and stays as it is."""
    newer = len(log_schema.STEPS) + 1
    set_version(old, newer)
    with pytest.raises(PredictionLogError, match=f"has schema version {newer}, .* up to {newer - 1}; upgrade tabserve"):
        found_in(old, read_only=read_only)

    assert version(old) == newer


def opened(url: str, how: str) -> subprocess.Popen[str]:
    """Start a process that opens the log with two more steps when it is sent a line."""
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", UPGRADE, url, how], cwd=ROOT, text=True, **pipes)


def test_processes_upgrade_once(old: str) -> None:
    """Processes that open an old log at the same moment run each step once."""
    with ExitStack() as stack:
        processes = [stack.enter_context(opened(old, "whole")) for _ in range(3)]
        assert [process.stdout and process.stdout.readline() for process in processes] == ["here\n"] * 3
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        assert [process.communicate(timeout=60)[1] for process in processes] == [""] * 3

    assert execute(old, "SELECT note FROM predictions ORDER BY row") == [("n0",), ("n1",)]
    assert version(old) == len(log_schema.STEPS) + 2


def test_crash_between_steps_changes_nothing(old: str) -> None:
    """If a process is killed between two steps, the log is as it was, and the next process upgrades it."""
    before = version(old)
    with opened(old, "killed") as process:
        process.communicate("\n", timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert version(old) == before
    assert found_in(old, read_only=True) == OLD

    with opened(old, "whole") as process:
        assert process.communicate("\n", timeout=60)[1] == ""
    assert execute(old, "SELECT note FROM predictions ORDER BY row") == [("n0",), ("n1",)]
    assert version(old) == len(log_schema.STEPS) + 2


def add_note(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE predictions ADD COLUMN note VARCHAR")


def fail(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE no_such_table ADD COLUMN note VARCHAR")


def test_step_that_fails_changes_nothing(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that the database refuses undoes those before it."""
    monkeypatch.setattr(log_schema, "STEPS", (*log_schema.STEPS, add_note, fail))
    before = version(old)
    with pytest.raises(PredictionLogError, match="cannot be used"):
        found_in(old)
    monkeypatch.undo()

    assert version(old) == before
    assert found_in(old) == OLD


def test_user_that_may_not_upgrade(postgres: Postgres) -> None:
    """A user of PostgreSQL that does not own the table reads an older log, is told how to upgrade it, then uses it.

    Its rights on the predictions are rights on the answers of other versions, too.
    """
    execute(
        postgres.url(),
        "DROP TABLE IF EXISTS predictions, prediction_classes, shadow_predictions",
        *OLD_LOGS["postgresql"][1],
        "CREATE ROLE writer LOGIN",
    )
    execute(postgres.url(), "GRANT SELECT, INSERT, UPDATE, DELETE ON predictions TO writer")
    url = postgres.url().replace("tabserve:", "writer:")
    try:
        assert found_in(url, read_only=True) == OLD
        with pytest.raises(PredictionLogError, match="its user may not upgrade it to version 4; start a server"):
            found_in(url)
        assert found_in(postgres.url()) == OLD
        assert found_in(url) == OLD
        with closing(PredictionLog(url)) as log:
            assert log.add_truths([("old", 1, 4.0)], oldest=NOON - timedelta(days=1)) == [Outcome.ACCEPTED]
            assert log.write_shadows([{"request_id": "old", "row": 0, "version": 2, "prediction": 1.0}]) == 1
            assert log.prune(before=NOON) == 2
            assert not log.has_shadows()
            assert log.trim(max_bytes=1) == 0
    finally:
        execute(postgres.url(), "DROP OWNED BY writer", "DROP ROLE writer")
