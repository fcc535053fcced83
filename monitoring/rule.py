"""One Prometheus rule as a mapping for a rule file."""

from __future__ import annotations

from typing import Any

Rule = dict[str, Any]

# The address of docs/runbooks/. Replace it by your own, so that the link in an alert works.
RUNBOOKS = "https://tabserve.example.com/runbooks"

# The labels by which a model's figures are aggregated, over all pods. A label that Prometheus does not set is empty.
VERSION = "namespace, job, model, version"
FEATURE = f"{VERSION}, feature"


def record(name: str, expr: str) -> Rule:
    """Return a rule that records an expression under a name."""
    return {"record": name, "expr": expr}


def alert(name: str, expr: str, *, hold: str, severity: str, summary: str, description: str) -> Rule:
    """Return a rule that fires when `expr` has had a value for `hold`.

    `critical` means that users get wrong or no predictions now, `warning` that somebody should look today.
    """
    return {
        "alert": name,
        "expr": expr,
        "for": hold,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description, "runbook_url": f"{RUNBOOKS}/{name}.md"},
    }
