"""When to try again what was not possible, and may be later."""

from __future__ import annotations

_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 10, 3_600  # a verification may take a minute of a core


def pause_seconds(n_tries: int, *, first: int = _FIRST_PAUSE_SECONDS, last: int = _LAST_PAUSE_SECONDS) -> int:
    """Return how long to wait after so many tries in a row.

    It doubles from 10 s to an hour, or between other limits: what is not possible for long must keep neither a machine
    nor a network busy.
    """
    return min(first << min(n_tries - 1, 20), last)
