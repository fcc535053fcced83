"""The tables of the prediction log, the version of its schema, and the steps from each version to the next.

The database keeps the version: SQLite as its `user_version`, PostgreSQL in the comment on the table, which is copied
and dropped with it. A log without a version is older than versions are: it is version 0, with the table of version 1.

To change the schema:

1. Change `predictions`, from which new logs are made, and append a step to `STEPS` that does the same to a log of the
   version before, in both databases. Never change or remove a step. All steps of an upgrade run in one transaction, so
   a crash leaves the log as it was.
2. While servers are updated one by one, those of the version before go on writing until they open the log anew, after a
   restart or an error: then they refuse it, and drop and count their rows. So only add what they need not know: columns
   that may be NULL, indexes. Remove a column a release after the code has stopped using it. A statement must end within
   the log's time limit, also for millions of rows.
3. If queries need the change, raise `OLDEST_READABLE`: a reader cannot upgrade the log.
4. Add the log of the version before to `OLD_LOGS` in tests/outside/test_log_schema.py, where it stays for ever, and
   describe the change in CHANGELOG.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    TypeDecorator,
    inspect,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ProgrammingError

from model.errors import PredictionLogError


class _Floats(TypeDecorator[NDArray[np.float64]]):
    """An array of float64 as its bytes, little-endian."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: NDArray[np.float64] | None, dialect: Dialect) -> bytes | None:
        return None if value is None else value.astype("<f8", copy=False).tobytes()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> NDArray[np.float64] | None:
        return None if value is None or len(value) % 8 else np.frombuffer(value, "<f8")


_tables = MetaData()
predictions = Table(
    "predictions",
    _tables,
    Column("request_id", String(128), primary_key=True),
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("time", DateTime(timezone=True), nullable=False),
    Column("model", String, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("features", JSON(none_as_null=True)),  # cells by name, as clients send them, if they are logged
    # NaN is NULL in SQLite. Of a classifier the position of the label in the version's list of classes, from 0 on.
    Column("prediction", Double),
    Column("truth", Double),  # the same
    Column("truth_time", DateTime(timezone=True)),
    Column("probabilities", _Floats),  # of a classifier, in the order of the version's list of classes
    Column("caller", String),  # the name of the key that asked for it, if the server asks for keys
    Index("predictions_time", "time"),
    Index("predictions_truth_time", "truth_time"),
)
# The answers of other versions to the same rows, which no client got; features and truths are those of `predictions`. A
# table of its own, since neither database changes the primary key of a large table within the log's time limit.
shadows = Table(
    "shadow_predictions",
    _tables,
    Column("request_id", String(128), primary_key=True),
    Column("row", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("prediction", Double),  # these two as in `predictions`
    Column("probabilities", _Floats),
    # So that they go with their row, whichever program removes it.
    ForeignKeyConstraint(["request_id", "row"], [predictions.c.request_id, predictions.c.row], ondelete="CASCADE"),
)
# The labels of each version that is a classifier, a list of strings, numbers or booleans.
classes = Table(
    "prediction_classes",
    _tables,
    Column("model", String, primary_key=True),
    Column("version", BigInteger, primary_key=True, autoincrement=False),
    Column("labels", JSON, nullable=False),
)


def _add_version(connection: Connection) -> None:
    """From 0 to 1: the log gets a version, and its table stays as it is."""


def _add_classes(connection: Connection) -> None:
    """From 1 to 2: predictions get probabilities, and the classes of each classifier are kept."""
    kind = "BLOB" if connection.dialect.name == "sqlite" else "BYTEA"
    connection.exec_driver_sql(f"ALTER TABLE predictions ADD COLUMN probabilities {kind}")
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS prediction_classes (model VARCHAR NOT NULL, version BIGINT NOT NULL, "
        "labels JSON NOT NULL, PRIMARY KEY (model, version))"
    )


def _add_shadows(connection: Connection) -> None:
    """From 2 to 3: answers of other versions to the same rows, for all users that may use the predictions."""
    is_sqlite = connection.dialect.name == "sqlite"
    double, binary = ("DOUBLE", "BLOB") if is_sqlite else ("DOUBLE PRECISION", "BYTEA")
    connection.exec_driver_sql(
        "CREATE TABLE IF NOT EXISTS shadow_predictions (request_id VARCHAR(128) NOT NULL, row INTEGER NOT NULL, "
        f"version BIGINT NOT NULL, prediction {double}, probabilities {binary}, "
        "PRIMARY KEY (request_id, row, version), "
        "FOREIGN KEY(request_id, row) REFERENCES predictions (request_id, row) ON DELETE CASCADE)"
    )
    if not is_sqlite:
        privileges = connection.exec_driver_sql(
            "SELECT privilege_type, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END "
            "FROM pg_class, aclexplode(relacl) WHERE oid = 'predictions'::regclass AND grantee <> relowner"
        )
        for privilege, user in privileges.all():
            connection.exec_driver_sql(f"GRANT {privilege} ON shadow_predictions TO {user}")


def _add_caller(connection: Connection) -> None:
    """From 3 to 4: predictions get the name of the key that asked for them."""
    connection.exec_driver_sql("ALTER TABLE predictions ADD COLUMN caller VARCHAR")


STEPS: Sequence[Callable[[Connection], None]] = (_add_version, _add_classes, _add_shadows, _add_caller)
OLDEST_READABLE = 0
OLDEST_WITH_CLASSES = 2
OLDEST_WITH_SHADOWS = 3

_COMMENT = "tabserve prediction log, schema version {}"
_NO_PRIVILEGE = "42501"  # PostgreSQL's insufficient_privilege


def upgrade(connection: Connection) -> int | None:
    """Create the table, or upgrade an older one, and return the version that was upgraded.

    The caller holds a lock and commits the transaction. Raises `PredictionLogError` if the log is newer than this code,
    or if the user may not change it.
    """
    if not inspect(connection).has_table(predictions.name):
        shadows.drop(connection, checkfirst=True)  # of a table that somebody dropped
        _tables.create_all(connection)
        _set_version(connection)
        return None
    found = _version(connection)
    if found == len(STEPS):
        return None
    _refuse_newer(found)
    try:
        with nullcontext() if connection.dialect.name == "sqlite" else connection.begin_nested():
            for step in STEPS[found:]:
                step(connection)
            _set_version(connection)
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) != _NO_PRIVILEGE:
            raise
        raise PredictionLogError(
            f"the prediction log has schema version {found}, and its user may not upgrade it to version {len(STEPS)}; "
            f"start a server once with the user that owns the table {predictions.name}"
        ) from None
    return found


def check_readable(connection: Connection, oldest: int | None = None) -> None:
    """Raise `PredictionLogError` if there is no log, or one older than `oldest`, or newer than this code."""
    oldest = OLDEST_READABLE if oldest is None else oldest
    if not inspect(connection).has_table(predictions.name):
        file = connection.engine.url.database if connection.dialect.name == "sqlite" else None
        where = repr(file) if file else "this database"
        raise PredictionLogError(f"no prediction log is in {where}; name the one of the server")
    found = _version(connection)
    _refuse_newer(found)
    if found < oldest:
        raise PredictionLogError(
            f"the prediction log has schema version {found}, and version {oldest} or later can be read; "
            "start a server of this version of tabserve with it once, which upgrades it"
        )


def _refuse_newer(found: int) -> None:
    if found > len(STEPS):
        raise PredictionLogError(
            f"the prediction log has schema version {found}, and this version of tabserve knows versions up to "
            f"{len(STEPS)}; upgrade tabserve, or name another log"
        )


def _version(connection: Connection) -> int:
    """Return the version of a log that exists."""
    if connection.dialect.name == "sqlite":
        return int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
    comment = connection.exec_driver_sql(f"SELECT obj_description('{predictions.name}'::regclass, 'pg_class')").scalar()
    numbered = re.fullmatch(_COMMENT.format(r"(\d{1,9})"), comment or "")
    return int(numbered[1]) if numbered else 0


def _set_version(connection: Connection) -> None:
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(f"PRAGMA user_version = {len(STEPS)}")
    else:
        connection.exec_driver_sql(f"COMMENT ON TABLE {predictions.name} IS '{_COMMENT.format(len(STEPS))}'")
