"""All rules in groups. Within a group, a rule sees what earlier rules recorded in the same evaluation."""

from __future__ import annotations

from typing import Any

from model.live.judge import MINIMUM_ROWS
from monitoring import comparison, drift, quality, service, shadow


def groups(
    *, window: str = "1h", hold: str = "10m", interval: str = "1m", minimum_rows: int = MINIMUM_ROWS
) -> list[dict[str, Any]]:
    """Return the groups of a rule file, evaluated every `interval`.

    Drift is judged over `window` if it has at least `minimum_rows`, since fewer show only gross drift. It must last for
    `hold`, so that one batch of unusual rows raises no alert.
    """
    return [
        {"name": "tabserve-objectives", "interval": interval, "rules": service.objectives()},
        {"name": "tabserve-outages", "interval": interval, "rules": service.outages()},
        {"name": "tabserve-live-error", "interval": interval, "rules": service.live_errors(hold=hold)},
        {"name": "tabserve-comparison", "interval": interval, "rules": comparison.rules(hold=hold)},
        {"name": "tabserve-shadow", "interval": interval, "rules": shadow.rules(window=window, hold=hold)},
        {
            "name": "tabserve-drift",
            "interval": interval,
            "rules": [
                *drift.rules(window=window, hold=hold, minimum_rows=minimum_rows),
                *quality.rules(window=window, hold=hold, minimum_rows=minimum_rows),
            ],
        },
    ]
