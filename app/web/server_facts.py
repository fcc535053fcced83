"""The server that runs the service, as far as the service asks it anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True)
class ServerFacts:
    """What a worker sets before its first request; without a server, as in tests, there is none.

    `in_flight` returns how many requests this worker has accepted and not answered, `is_idle` whether it waits for the
    next one, `trusts_proxy` whether an address is that of a trusted proxy.
    """

    in_flight: Callable[[], int] = lambda: 0
    is_idle: Callable[[], bool] = lambda: True
    trusts_proxy: Callable[[str], bool] = lambda address: False
