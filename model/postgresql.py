"""Connections to PostgreSQL that give up a server that hangs.

The server's own limits, as `statement_timeout`, are of no use then, and TCP's do not see a process that is frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus

T = TypeVar("T")


def connector(*, patience_seconds: float) -> Callable[..., psycopg.Connection[Any]]:
    """Return what SQLAlchemy's event `do_connect` calls; a server that takes longer for one statement is given up.

    What waits for it then gets an `OperationalError`, and the connection is closed.
    """

    class Connection(psycopg.Connection[Any]):
        def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
            try:
                return super().wait(gen, interval, patience_seconds)
            except psycopg.OperationalError:
                if self.pgconn.transaction_status == TransactionStatus.ACTIVE:  # there is no answer to roll back after
                    self.close()
                raise

    def connect(_: object, __: object, arguments: list[Any], options: dict[str, Any]) -> psycopg.Connection[Any]:
        return Connection.connect(*arguments, **options)

    return connect
