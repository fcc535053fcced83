"""The prediction log: a table of predictions by request and row, with the truths that arrive later.

It is kept in SQLite or PostgreSQL. This module imports SQLAlchemy (0.15 s, 14 MB), so the service imports it only if it
keeps a log.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from operator import itemgetter
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    case,
    collate,
    create_engine,
    delete,
    event,
    func,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DataError, IntegrityError, SQLAlchemyError

from model.errors import ImplausibleTruthsError, ModelError, PredictionLogError, Problem, RefusedRowsError
from model.live import classes, log_schema, sqlite_file
from model.live.log_schema import classes as _classes
from model.live.log_schema import predictions as _predictions
from model.live.log_schema import shadows as _shadows
from model.live.sqlite_file import SQLiteFile
from model.metrics import classification
from model.schema.feature import NOT_A_NUMBER, Category, Cells

T = TypeVar("T")

_log = logging.getLogger("tabserve.prediction_log")

# Longer than any statement should take; a database that hangs must not block a thread for ever.
_TIMEOUT_SECONDS = 5
_READ_TIMEOUT_SECONDS = 60  # read-only logs: only a person waits, and there may be a million rows
_ROWS_AT_ONCE = 10_000  # fetched rows: about 10 MB as objects before they become arrays
_LOCK = int.from_bytes(b"tabserve")  # an arbitrary advisory lock number, for the process that creates the table
_KEYS_PER_QUERY = 250  # two parameters each; SQLite allowed at most 999 in a statement for many years
_ROWS_PER_REMOVAL = 5_000  # about 50 ms in which no other process can write to SQLite
_ROWS_PER_STATEMENT = 1_000  # PostgreSQL's statement_timeout applies to each of these statements

# The last truths of a classifier that its live error is of: their log loss is known to about 2 %, and they are read in
# 60 ms, every 10 s in each worker. No database has the area under a ROC curve.
MAX_CLASSIFIED = 10_000
_MAX_PROBABILITIES = 500_000  # of these together: fewer truths of a classifier of more than 50 classes

# Wrong labels for which the nearest one is looked for: that takes up to 15 ms each, in which no one else can write.
_MAX_NEAREST = 10

_SMALLEST_ERROR, _LARGEST_ERROR = 1e-150, 2e150  # the squares and their sums are within double


class Outcome(StrEnum):
    """The outcome of storing a true value.

    It is new, replaces another, repeats the stored one, conflicts with it, or belongs to no known prediction.
    """

    ACCEPTED = "accepted"
    REPLACED = "replaced"
    REPEATED = "repeated"
    CONFLICTING = "conflicting"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class LiveError:
    """The error of a version's predictions by the truths of so many rows.

    `figures` has `rmse`, `mae` and `bias`, the mean of prediction minus truth; or those metrics of
    `ClassificationScores` that are defined, over the last `MAX_CLASSIFIED` truths at most.
    """

    model: str
    version: int
    rows: int
    figures: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class LoggedRows:
    """The logged rows of one version, oldest first; NaN is a missing truth or feature value.

    `answers` are in the form of `Artifact.predict`. The predictions and truths of a classifier are positions of labels.
    """

    times: NDArray[np.datetime64]  # UTC
    X: NDArray[np.float64]  # (n_rows, n_features); NaN in rows without features
    with_features: NDArray[np.bool_]  # of which rows the features are logged
    answers: NDArray[np.float64]  # (n_rows,) or (n_rows, 1 + n_classes)
    truths: NDArray[np.float64]

    @property
    def predictions(self) -> NDArray[np.float64]:
        """Return the predictions, `(n_rows,)`."""
        return self.answers if self.answers.ndim == 1 else self.answers[:, 0]

    def with_truths(self, rows: slice = slice(None)) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the truths, and the answers, of those rows that have a truth and a finite prediction."""
        y, answers = self.truths[rows], self.answers[rows]
        known = np.isfinite(self.predictions[rows] - y)
        if answers.ndim > 1:  # a class of another model that had this name and version
            known &= y < answers.shape[1] - 1
        return y[known], answers[known]


@dataclass(frozen=True, slots=True)
class Answers:
    """Logged rows of whole requests to one model, oldest first, with the answers of every version to them.

    `replied` is the version whose answer the client got. `answers` are by version in the form of `Artifact.predict`,
    NaN in rows that the version did not answer. Truths of classifiers are positions among the labels of the version
    that replied, of which `labels` has a list for each version; NaN is a missing truth. `cells` are those of one
    feature, as they are logged.
    """

    requests: NDArray[np.intp]  # (n_rows,) numbers of the requests, from 0
    times: NDArray[np.datetime64]  # (n_rows,) UTC
    truths: NDArray[np.float64]  # (n_rows,)
    replied: NDArray[np.int64]  # (n_rows,)
    answers: Mapping[int, NDArray[np.float64]]  # (n_rows,) or (n_rows, 1 + n_classes)
    labels: Mapping[int, Sequence[Category]]
    cells: Sequence[Any]


class PredictionLog:
    """The table in the database at `url`, created or upgraded on first use; with `read_only` nothing is written.

    Every method raises `PredictionLogError` if the database cannot be used. Threads may share a log. A process may open
    it, fork and then use it. Raises `ModelError` for an invalid URL.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        creator: dict[str, Any] = {}
        try:
            address = make_url(url)
            kind = address.get_backend_name()
            if kind == "sqlite":
                if address.database in (None, "", ":memory:"):
                    raise ArgumentError
                address = address.set(drivername="sqlite+pysqlite")
                options: dict[str, Any] = {"timeout": _TIMEOUT_SECONDS}
                if read_only:
                    creator["creator"] = sqlite_file.read_only_connector(
                        Path(address.database or ""), timeout_seconds=_TIMEOUT_SECONDS
                    )
            elif kind == "postgresql":
                address = address.set(drivername="postgresql+psycopg")
                timeout_seconds = _READ_TIMEOUT_SECONDS if read_only else _TIMEOUT_SECONDS
                limits = f"-c statement_timeout={timeout_seconds}s -c lock_timeout={_TIMEOUT_SECONDS}s"
                limits += " -c default_transaction_read_only=on" if read_only else ""
                options = {"connect_timeout": _TIMEOUT_SECONDS, "options": limits}
            else:
                raise ArgumentError
        except (ArgumentError, ValueError):  # a ValueError may contain part of a password with a slash
            raise ModelError(
                "the prediction log's URL is not sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME"
            ) from None
        self._lock = "BEGIN IMMEDIATE" if kind == "sqlite" else f"SELECT pg_advisory_xact_lock({_LOCK})"
        insert = (sqlite if kind == "sqlite" else postgresql).insert
        kept = {"preserve_rowcount": True}  # psycopg loses it with its cursor
        self._insert = insert(_predictions).on_conflict_do_nothing().execution_options(**kept)
        self._insert_shadows = insert(_shadows).on_conflict_do_nothing().execution_options(**kept)
        self._engine = create_engine(
            address,
            connect_args=options,
            pool_timeout=_TIMEOUT_SECONDS,
            pool_pre_ping=kind == "postgresql",  # an idle connection may have died
            hide_parameters=True,  # an error must not contain a feature's value
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            **creator,
        )
        if kind == "sqlite" and not read_only:
            event.listen(self._engine, "connect", sqlite_file.configurer(timeout_seconds=_TIMEOUT_SECONDS))
        if kind == "postgresql":
            from model.live.postgresql import connector  # here, since SQLite does not need it

            # A second longer than the server's own limit, which should apply first.
            event.listen(self._engine, "do_connect", connector(timeout_seconds=timeout_seconds + 1))
        self._is_sqlite = kind == "sqlite"
        upsert = (sqlite if kind == "sqlite" else postgresql).insert(_classes)
        self._keep_classes = upsert.on_conflict_do_update(
            index_elements=[_classes.c.model, _classes.c.version], set_={"labels": upsert.excluded.labels}
        )
        self._kept: dict[tuple[str, int], Sequence[Category]] = {}  # in the database that is open
        self._read_only = read_only
        # For a person, who may have several. A server's error goes to its clients, and a URL may contain a password.
        self._shown = f"{address.database!r} " if read_only and self._is_sqlite else ""
        self._ready = False
        self._file: SQLiteFile | None = None  # opened for writing
        self._reopening = threading.Lock()

    def write(
        self,
        rows: Sequence[Mapping[str, Any]],
        labels: Mapping[tuple[str, int], Sequence[Category]] = MappingProxyType({}),
    ) -> int:
        """Insert rows and return their number; `labels` are those of each version among them that is a classifier.

        All rows of a request id must be in one call: rows with an id that the table already has are skipped. Raises
        `RefusedRowsError` if the database rejects their contents.
        """
        written = 0
        with self._transaction(writes=True) as connection:
            new = self._keep_labels(connection, labels)
            existing = self._find_requests(connection, rows)
            fresh = [row for row in rows if row["request_id"] not in existing]
            fresh.sort(key=itemgetter("request_id"))  # in one order, so that transactions cannot deadlock
            for chunk in _chunks(fresh, _ROWS_PER_STATEMENT):
                written += connection.execute(self._insert, chunk).rowcount
        self._kept.update(new)
        return written

    def write_shadows(
        self,
        rows: Sequence[Mapping[str, Any]],
        labels: Mapping[tuple[str, int], Sequence[Category]] = MappingProxyType({}),
    ) -> int:
        """Insert answers of versions whose answer was not the reply, and return their number.

        A row has `request_id`, `row`, `version`, `prediction` and, for a classifier, `probabilities`; `labels` are as
        in `write`. Rows of requests that the log does not have are skipped, as are those that it has for this version.
        Raises `RefusedRowsError` if the database rejects their contents, or if a request is removed meanwhile.
        """
        written = 0
        with self._transaction(writes=True) as connection:
            new = self._keep_labels(connection, labels)
            existing = self._find_requests(connection, rows)
            known = [row for row in rows if row["request_id"] in existing]
            known.sort(key=itemgetter("request_id", "row"))  # in the order in which feedback locks them
            for chunk in _chunks(known, _ROWS_PER_STATEMENT):
                written += connection.execute(self._insert_shadows, chunk).rowcount
        self._kept.update(new)
        return written

    def times(self, request_ids: Collection[str]) -> dict[str, datetime]:
        """Return the time, in UTC, of those of these requests that the log has."""
        table = _predictions.c
        found: dict[str, datetime] = {}
        with self._transaction() as connection:
            for chunk in _chunks(sorted(request_ids), _KEYS_PER_QUERY):
                query = select(table.request_id, func.min(table.time)).where(table.request_id.in_(chunk))
                for request_id, time in connection.execute(query.group_by(table.request_id)):
                    found[request_id] = _naive_utc(time).replace(tzinfo=UTC)
        return found

    def _keep_labels(
        self, connection: Connection, labels: Mapping[tuple[str, int], Sequence[Category]]
    ) -> Mapping[tuple[str, int], Sequence[Category]]:
        """Store the labels that are not stored yet, and return them."""
        new = {key: list(labels[key]) for key in sorted(labels) if self._kept.get(key) != labels[key]}
        if new:
            found = [{"model": name, "version": version, "labels": new[name, version]} for name, version in new]
            connection.execute(self._keep_classes, found)
        return {key: labels[key] for key in new}

    def _find_requests(self, connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[str]:
        """Return the ids of those requests of these rows that the log has."""
        request_id = _predictions.c.request_id
        ids = list(dict.fromkeys(row["request_id"] for row in rows))
        found: set[str] = set()
        for chunk in _chunks(ids, _KEYS_PER_QUERY):
            found.update(connection.scalars(select(request_id).where(request_id.in_(chunk)).distinct()))
        return found

    def add_truths(
        self,
        truths: Sequence[tuple[str, int, Any]],
        *,
        oldest: datetime,
        replace: Collection[tuple[str, int]] = (),
        ranges: Mapping[str, tuple[float, float]] = MappingProxyType({}),
        caller: str | None = None,
    ) -> list[Outcome]:
        """Store true values (request id, row, value) with their predictions; return the outcome of each.

        The value is a number, or a label of the classifier that made the prediction. A stored value is kept unless its
        (request id, row) is in `replace`. A prediction from before `oldest` counts as unknown even if it is not removed
        yet, and with `caller`, the name of a key, so does one that another key asked for. Raises
        `ImplausibleTruthsError` and stores nothing if a value is no label of its prediction's version, no number, or
        outside the entry of `ranges` for its model.
        """
        table = _predictions.c
        keys = sorted({(request_id, row) for request_id, row, _ in truths})
        now = datetime.now(UTC)
        outcomes, changes = [], {}
        problems: dict[int, Problem] = {}
        with self._transaction(writes=True) as connection:
            known = self._find_truths(connection, keys, oldest, caller)
            labels: Mapping[tuple[str, int], Cells] = {}
            if known:  # again under a lock, which unknown ids do not take
                if self._is_sqlite:
                    connection.exec_driver_sql(self._lock)
                known = self._find_truths(connection, sorted(known), oldest, caller, lock=True)
                labels = _labels_of(connection, {version for version, is_class, _ in known.values() if is_class})
            for number, (request_id, row, sent) in enumerate(truths):
                key = request_id, row
                if key not in known:
                    outcomes.append(Outcome.UNKNOWN)
                    continue
                version, is_class, before = known[key]
                cells = labels.get(version) if is_class else None
                value = _truth(sent, cells, with_nearest=len(problems) < _MAX_NEAREST)
                if isinstance(value, Problem):
                    problems[number] = value
                    continue
                if before == value:
                    outcomes.append(Outcome.REPEATED)
                    continue
                if before is not None and key not in replace:
                    outcomes.append(Outcome.CONFLICTING)
                    continue
                model = version[0]
                low, high = (value, value) if is_class else ranges.get(model, (value, value))
                if not low <= value <= high:
                    reason = f"outside the range of the target of {model}: {low:g} to {high:g}"
                    problems[number] = Problem(None, "truth", reason)
                known[key] = version, is_class, value
                outcomes.append(Outcome.ACCEPTED if before is None else Outcome.REPLACED)
                changes[key] = {"its_id": request_id, "its_row": row, "truth": value, "truth_time": now}
            if problems:
                raise ImplausibleTruthsError(problems)
            if changes:
                matches = (table.request_id == bindparam("its_id")) & (table.row == bindparam("its_row"))
                for chunk in _chunks(list(changes.values()), _ROWS_PER_STATEMENT):
                    connection.execute(update(_predictions).where(matches), chunk)
        return outcomes

    def _find_truths(
        self,
        connection: Connection,
        keys: Sequence[tuple[str, int]],
        oldest: datetime,
        caller: str | None,
        *,
        lock: bool = False,
    ) -> dict[tuple[str, int], tuple[tuple[str, int], bool, float | None]]:
        """Return of the known rows the model's name and version, whether it is a classifier, and the truth.

        `lock` locks the rows in PostgreSQL.
        """
        table = _predictions.c
        is_class = table.probabilities.is_not(None).label("is_class")
        query = select(table.request_id, table.row, table.model, table.version, is_class, table.truth)
        query = query.where(table.time >= oldest)
        if caller is not None:
            query = query.where(table.caller == caller)
        if lock:  # in Python's order, so that transactions cannot deadlock
            order = collate(table.request_id, "BINARY" if self._is_sqlite else "C")
            query = query.order_by(order, table.row).with_for_update()
        known = {}
        for chunk in _chunks(keys, _KEYS_PER_QUERY):
            for row in connection.execute(query.where(tuple_(table.request_id, table.row).in_(chunk))):
                known[row.request_id, row.row] = (row.model, row.version), bool(row.is_class), row.truth
        return known

    def live_errors(self, *, since: datetime) -> list[LiveError]:
        """Return the errors of each version over the truths stored since a time."""
        table = _predictions.c
        error = table.prediction - table.truth
        absolute = func.abs(error)
        # PostgreSQL raises for a product that overflows or underflows a double. NaN is larger than any number there,
        # and NULL in SQLite.
        square = case((absolute < _SMALLEST_ERROR, 0.0), else_=error * error)
        # Sums, since PostgreSQL's averages also compute the variance, which overflows sooner.
        figures = func.count(), func.sum(square), func.sum(absolute), func.sum(error)
        is_recent, is_class = table.truth_time >= since, table.probabilities.is_not(None)
        query = select(table.model, table.version, *figures).where(is_recent & ~is_class & (absolute < _LARGEST_ERROR))
        classifiers = select(table.model, table.version).where(is_recent & is_class).distinct()
        with self._transaction() as connection:
            rows_by_version = connection.execute(query.group_by(table.model, table.version)).all()
            found = [
                self._classified(connection, *version, since=since) for version in connection.execute(classifiers).all()
            ]
        errors = [
            LiveError(
                model, version, rows, {"rmse": (squares / rows) ** 0.5, "mae": absolutes / rows, "bias": errors / rows}
            )
            for model, version, rows, squares, absolutes, errors in rows_by_version
        ]
        return [*errors, *filter(None, found)]

    def _classified(self, connection: Connection, model: str, version: int, *, since: datetime) -> LiveError | None:
        """Return the metrics of a classifier over its last truths; None if no row can be judged."""
        labels = _labels_of(connection, {(model, version)}).get((model, version))
        if labels is None:
            return None
        table = _predictions.c
        query = (
            select(table.prediction, table.probabilities, table.truth)
            .where(table.model == model, table.version == version, table.truth_time >= since)
            .order_by(table.truth_time.desc())
            .limit(min(MAX_CLASSIFIED, _MAX_PROBABILITIES // labels.n_places))
        )
        found = connection.execute(query).all()
        if not found:  # removed meanwhile
            return None
        predictions, probabilities, truths = zip(*found)
        answers = classes.answers(predictions, probabilities, labels.n_places)
        y = np.array(truths, dtype=np.float64)
        is_known = ~np.isnan(answers[:, 0]) & (y < labels.n_places)
        if not is_known.any():
            return None
        figures = asdict(classification(y[is_known], answers[is_known]))
        rows = figures.pop("rows")
        return LiveError(model, version, rows, {name: value for name, value in figures.items() if value is not None})

    def read(
        self,
        model: str,
        version: int,
        *,
        features: Sequence[str],
        since: datetime,
        from_log: Sequence[Callable[[Sequence[Any]], NDArray[np.float64]]] | None = None,
        n_classes: int = 0,
    ) -> LoggedRows:
        """Return the rows of a version logged since a time, with `features` in this order.

        `from_log` has for each feature what turns its logged cells into numbers; without it they are numbers. A
        classifier has `n_classes`.
        """
        table = _predictions.c
        columns_read = [table.time, table.features, table.prediction, table.truth]
        query = (
            select(*columns_read, *([table.probabilities] if n_classes else []))
            .where(table.model == model, table.version == version, table.time >= since)
            .order_by(table.time, table.request_id, table.row)
        )
        nothing: dict[str, float] = {}
        no_rows = np.empty(0, dtype=bool)
        no_answers = np.empty((0, 1 + n_classes)) if n_classes else np.empty(0)
        parts = [
            LoggedRows(np.empty(0, "datetime64[us]"), np.empty((0, len(features))), no_rows, no_answers, np.empty(0))
        ]
        with self._transaction() as connection:
            if n_classes:
                log_schema.check_readable(connection, log_schema.OLDEST_WITH_CLASSES)
            for rows in connection.execute(query, execution_options={"yield_per": _ROWS_AT_ONCE}).partitions():
                records = [row.features or nothing for row in rows]
                columns: list[Any] = [[record.get(name) for record in records] for name in features]
                if from_log:
                    columns = [numbers(column) for numbers, column in zip(from_log, columns)]
                predictions = [row.prediction for row in rows]
                parts.append(
                    LoggedRows(
                        times=np.array([_naive_utc(row.time) for row in rows], dtype="datetime64[us]"),
                        X=np.array(columns, dtype=np.float64).reshape(len(features), len(rows)).T,  # None becomes NaN
                        with_features=np.array([row.features is not None for row in rows]),
                        answers=classes.answers(predictions, [row.probabilities for row in rows], n_classes)
                        if n_classes
                        else np.array(predictions, dtype=np.float64),
                        truths=np.array([row.truth for row in rows], dtype=np.float64),  # None becomes NaN
                    )
                )
        return LoggedRows(
            times=np.concatenate([chunk.times for chunk in parts]),
            X=np.concatenate([chunk.X for chunk in parts]),
            with_features=np.concatenate([chunk.with_features for chunk in parts]),
            answers=np.concatenate([chunk.answers for chunk in parts]),
            truths=np.concatenate([chunk.truths for chunk in parts]),
        )

    def answers(
        self, model: str, *, since: datetime, feature: str | None = None, rows_at_once: int = _ROWS_AT_ONCE
    ) -> Iterator[Answers]:
        """Yield the rows of a model logged since a time with the answers of every version, about so many at once.

        Each part is read in a transaction of its own. With `feature` the parts have its cells.
        """
        table = _predictions.c
        after: datetime | None = None
        while True:
            begins = table.time >= since if after is None else table.time > after
            chosen = (table.model == model) & begins
            with self._transaction() as connection:
                log_schema.check_readable(connection, log_schema.OLDEST_WITH_SHADOWS)
                times = select(table.time).where(chosen).order_by(table.time)
                # All rows of a request have its time.
                after = connection.scalar(times.offset(rows_at_once - 1).limit(1))
                if after is not None:
                    chosen &= table.time <= after
                found = self._read_answers(connection, model, chosen, feature)
            if found:
                yield found
            if after is None:
                return

    def _read_answers(
        self, connection: Connection, model: str, chosen: ColumnElement[bool], feature: str | None
    ) -> Answers | None:
        table, shadow = _predictions.c, _shadows.c
        columns = [table.request_id, table.row, table.time, table.version, table.prediction, table.truth]
        columns += [table.probabilities, *([table.features] if feature else [])]
        ordered = select(*columns).where(chosen).order_by(table.time, table.request_id, table.row)
        rows = connection.execute(ordered).all()
        if not rows:
            return None
        same = (shadow.request_id == table.request_id) & (shadow.row == table.row)
        shadows = select(*_shadows.c).join_from(_predictions, _shadows, same).where(chosen)
        places = {(row.request_id, row.row): place for place, row in enumerate(rows)}
        of_version: dict[int, list[tuple[int, Any]]] = {}
        for row in [*rows, *connection.execute(shadows)]:
            if (place := places.get((row.request_id, row.row))) is not None:
                of_version.setdefault(row.version, []).append((place, row))
        known = select(_classes.c.version, _classes.c.labels).where(_classes.c.model == model)
        labels = {version: found for version, found in connection.execute(known) if version in of_version}
        ids: dict[str, int] = {}
        return Answers(
            requests=np.array([ids.setdefault(row.request_id, len(ids)) for row in rows], dtype=np.intp),
            times=np.array([_naive_utc(row.time) for row in rows], dtype="datetime64[us]"),
            truths=np.array([row.truth for row in rows], dtype=np.float64),  # None becomes NaN
            replied=np.array([row.version for row in rows], dtype=np.int64),
            answers={
                version: _answers(found, len(rows), len(labels.get(version, ())))
                for version, found in sorted(of_version.items())
            },
            labels=labels,
            cells=[(row.features or {}).get(feature) for row in rows] if feature else (),
        )

    def versions(self, model: str, *, since: datetime) -> list[int]:
        """Return the versions of a model that answered rows logged since a time, as the reply or beside it."""
        table, shadow = _predictions.c, _shadows.c
        chosen = (table.model == model) & (table.time >= since)
        same = (shadow.request_id == table.request_id) & (shadow.row == table.row)
        replied = select(table.version).where(chosen).distinct()
        beside = select(shadow.version).join_from(_predictions, _shadows, same).where(chosen).distinct()
        with self._transaction() as connection:
            log_schema.check_readable(connection, log_schema.OLDEST_WITH_SHADOWS)
            return sorted({*connection.scalars(replied), *connection.scalars(beside)})

    def feature_names(self, model: str, *, since: datetime) -> list[str]:
        """Return the features that have a value in the last row of a model that is logged with them, by their names.

        Rows from before a time do not count.
        """
        table = _predictions.c
        chosen = (table.model == model) & (table.time >= since) & table.features.is_not(None)
        with self._transaction() as connection:
            last = connection.scalar(select(table.features).where(chosen).order_by(table.time.desc()).limit(1))
        return [name for name, cell in (last or {}).items() if cell is not None]

    def has_shadows(self) -> bool:
        """Return whether the log has answers of versions whose answer was not the reply."""
        with self._transaction() as connection:
            return connection.scalar(select(_shadows.c.version).limit(1)) is not None

    def rows_by_version(self, model: str, *, since: datetime) -> dict[int, int]:
        """Return the number of rows logged since a time for each version of a model."""
        table = _predictions.c
        query = select(table.version, func.count().label("rows")).where(table.model == model, table.time >= since)
        with self._transaction() as connection:
            rows = connection.execute(query.group_by(table.version).order_by(table.version)).all()
        return {row.version: row.rows for row in rows}

    def prune(self, *, before: datetime) -> int:
        """Remove predictions older than a time with their truths, at most 5,000; return their number."""
        with self._transaction(writes=True) as connection:
            return self._remove_oldest(connection, _ROWS_PER_REMOVAL, _predictions.c.time < before)

    def trim(self, *, max_bytes: int) -> int:
        """Remove the oldest predictions, at most 5,000, if the log exceeds `max_bytes`; return their number.

        In SQLite the size is that of the used pages, since free pages are reused. In PostgreSQL, whose tables do not
        shrink, it is estimated from the statistics, and only one process at a time removes rows.
        """
        with self._transaction(writes=True) as connection:
            if not self._count_excess(connection, max_bytes):
                return 0
            if self._is_sqlite:
                connection.exec_driver_sql(self._lock)
            elif not connection.scalar(select(func.pg_try_advisory_xact_lock(_LOCK + 1))):
                return 0
            # Again under the lock, since another process may have removed rows before.
            n_rows = self._count_excess(connection, max_bytes)
            return self._remove_oldest(connection, min(n_rows, _ROWS_PER_REMOVAL))

    def _count_excess(self, connection: Connection, max_bytes: int) -> int:
        """Return the number of rows in excess of `max_bytes`; for SQLite the largest number removed at once."""
        if self._is_sqlite:
            return _ROWS_PER_REMOVAL if sqlite_file.used_bytes(_executor(connection)) > max_bytes else 0
        from model.live.postgresql import count_excess  # here, since SQLite does not need it

        return count_excess(_executor(connection), _predictions.name, max_bytes, with_rows_of=_shadows.name)

    def _remove_oldest(self, connection: Connection, n_rows: int, *conditions: ColumnElement[bool]) -> int:
        table = _predictions.c
        oldest = select(table.request_id, table.row).where(*conditions).order_by(table.time).limit(n_rows)
        # Rows that feedback has locked are removed another time.
        matches = tuple_(table.request_id, table.row).in_(oldest.with_for_update(skip_locked=True))
        return connection.execute(delete(_predictions).where(matches)).rowcount

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _reopen(self, gone: SQLiteFile) -> None:
        """Switch from a file that was removed or replaced to the file of that name now."""
        with self._reopening:
            if self._file is not gone:  # another thread has done it
                return
            _log.warning("the file of the prediction log was removed or replaced; a new log is started")
            gone.remove_wal_and_shm()  # while open connections keep their inodes from being reused
            self._ready, self._file = False, None
            self._engine.dispose()

    def _prepare(self) -> None:
        """Create or upgrade the tables; with `read_only` only check that they can be read."""
        self._kept = {}
        if self._read_only:
            with self._engine.connect() as connection:
                log_schema.check_readable(connection)
            return
        with self._engine.begin() as connection:
            connection.exec_driver_sql(self._lock)
            upgraded = log_schema.upgrade(connection)
            if self._is_sqlite:
                self._file = SQLiteFile(_executor(connection))
        if upgraded is not None:
            _log.info("the schema of the prediction log was upgraded from version %d", upgraded)

    @contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        """Run a transaction in a database with the table. A write fails if the file was replaced meanwhile."""
        try:
            file = self._file
            if file and not file.is_in_place():
                self._reopen(file)
            if not self._ready:
                self._prepare()
                self._ready = True
            file = self._file  # another thread may reopen meanwhile
            with self._engine.begin() as connection:
                if file and writes:
                    file.bound_wal(_executor(connection))
                yield connection
            if file and writes and not file.is_in_place():
                raise PredictionLogError("the file of the prediction log was removed or replaced while it was written")
        except SQLAlchemyError as error:
            self._ready = False  # the database may return without the table
            cause = getattr(error, "orig", None) or error
            # The class and the database's error code, which contain neither a password nor a value.
            code = getattr(cause, "sqlite_errorname", None) or getattr(cause, "sqlstate", None)
            cause_name = " ".join(filter(None, [type(cause).__name__, code]))
            if isinstance(error, (DataError, IntegrityError)):
                raise RefusedRowsError(f"the prediction log rejects these rows: {cause_name}") from None
            raise PredictionLogError(f"the prediction log {self._shown}cannot be used: {cause_name}") from None


def _answers(found: Sequence[tuple[int, Any]], n_rows: int, n_classes: int) -> NDArray[np.float64]:
    """Return answers with the numbers of their rows as `Answers` has them."""
    places, rows = zip(*found)
    predictions = [row.prediction for row in rows]
    dense = np.full((n_rows, 1 + n_classes) if n_classes else n_rows, np.nan)
    dense[np.array(places)] = (
        classes.answers(predictions, [row.probabilities for row in rows], n_classes)
        if n_classes
        else np.array(predictions, dtype=np.float64)
    )
    return dense


def _labels_of(connection: Connection, versions: Collection[tuple[str, int]]) -> dict[tuple[str, int], Cells]:
    """Return what converts the labels of each of these versions that is a classifier."""
    table = _classes.c
    found: dict[tuple[str, int], Cells] = {}
    for chunk in _chunks(sorted(versions), _KEYS_PER_QUERY):
        query = select(table.model, table.version, table.labels)
        for model, version, labels in connection.execute(query.where(tuple_(table.model, table.version).in_(chunk))):
            found[model, version] = classes.cells_of(labels)
    return found


def _truth(sent: Any, labels: Cells | None, *, with_nearest: bool) -> float | Problem:
    """Return a true value as the log has it, or what is wrong with it."""
    if labels:
        return classes.position_of(sent, labels, with_nearest=with_nearest)
    if type(sent) not in (int, float):
        return Problem(None, "truth", NOT_A_NUMBER)
    return float(sent)


def _executor(connection: Connection) -> Callable[[str], Any]:
    """Return a function that runs a statement and returns its first row."""
    return lambda statement: connection.exec_driver_sql(statement).first()


def _chunks(items: Sequence[T], length: int) -> Iterator[Sequence[T]]:
    """Yield a sequence in parts of at most `length`."""
    return (items[start : start + length] for start in range(0, len(items), length))


def _naive_utc(moment: datetime) -> datetime:
    """Return a time of the database in UTC without zone; PostgreSQL returns the session's zone, SQLite none."""
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
