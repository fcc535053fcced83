"""Connections to PostgreSQL that time out when the server hangs, and the size of a table.

A server that hangs does not apply its own `statement_timeout`, and TCP keeps the connection to a frozen process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

T = TypeVar("T")


def connector(*, timeout_seconds: float) -> Callable[..., psycopg.Connection[Any]]:
    """Return a listener for SQLAlchemy's event `do_connect` whose connections limit the time of each statement.

    A statement that takes longer raises `OperationalError`, and the connection is closed.
    """

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
            try:
                return super().wait(gen, interval, timeout_seconds)
            except psycopg.OperationalError:
                if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # a rollback would wait, too
                    self.close()
                raise

    def connect(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> psycopg.Connection[Any]:
        return Connection.connect(*arguments, **options)

    return connect


def count_excess(execute: Callable[[str], Any], table: str, max_bytes: int, *, with_rows_of: str) -> int:
    """Return the number of rows by which the prediction log's table exceeds `max_bytes`, indexes included.

    The rows of another table, which are removed with those of this one, are part of its size. Estimated from the live
    rows in the statistics and the width of the newest ones. The size of the table itself does not shrink when rows are
    removed; autovacuum makes their space reusable. `execute` runs a statement and returns its row.
    """
    if execute(f"SELECT pg_total_relation_size('{table}') + pg_total_relation_size('{with_rows_of}')")[0] <= max_bytes:
        return 0
    n_rows, bytes_a_row = _size(execute, table, "ORDER BY time DESC")
    n_others, bytes_of_other = _size(execute, with_rows_of, "")
    if execute("SELECT current_setting('server_version_num')::int")[0] >= 150_000:
        execute("SELECT pg_stat_force_next_flush()")  # so that the next estimate sees what this transaction removes
    if not (n_rows and bytes_a_row):
        return 0
    return max(0, math.ceil(n_rows - max_bytes / (bytes_a_row + bytes_of_other * n_others / n_rows)))


def _size(execute: Callable[[str], Any], table: str, order: str) -> tuple[int, float]:
    """Return the number of live rows of a table, and the bytes of one."""
    live = f"SELECT n_live_tup FROM pg_stat_user_tables WHERE relid = '{table}'::regclass"
    # Besides the row: 5 bytes in its page, and index entries of 110 bytes for an id of 32 characters.
    width = "avg(pg_column_size(newest) + 1.5 * pg_column_size(request_id) + 65)::float8"
    n_rows, bytes_a_row = execute(
        f"WITH newest AS (SELECT * FROM {table} {order} LIMIT 1000) SELECT ({live}), {width} FROM newest"
    )
    return n_rows or 0, bytes_a_row or 0.0
