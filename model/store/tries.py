"""When to try again what was not possible, and may be later."""

from __future__ import annotations

_FIRST_PAUSE_SECONDS, _LAST_PAUSE_SECONDS = 10, 3_600  # a verification may take a minute of a core


def pause_seconds(n_tries: int) -> int:
    """Return how long to wait after so many tries in a row.

    It doubles from 10 s to an hour: what is not possible for long must keep neither a machine nor a network busy.
    """
    return min(_FIRST_PAUSE_SECONDS << min(n_tries - 1, 20), _LAST_PAUSE_SECONDS)
