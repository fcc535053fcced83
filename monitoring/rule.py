"""One rule of Prometheus, as the mapping that its rule files hold."""

from __future__ import annotations

from typing import Any

Rule = dict[str, Any]

# Where docs/runbooks/ is to be read: yours, since whoever is called needs a link that opens.
RUNBOOKS = "https://tabserve.example.com/runbooks"

# What a model's figures are summed by: pods are left out, and labels that a Prometheus does not set stay empty.
VERSION = "namespace, job, model, version"
FEATURE = f"{VERSION}, feature"


def record(name: str, expr: str) -> Rule:
    """Return a rule that keeps the value of an expression under a name."""
    return {"record": name, "expr": expr}


def alert(name: str, expr: str, *, hold: str, severity: str, summary: str, description: str) -> Rule:
    """Return a rule that calls somebody when `expr` has had a value for `hold`.

    `critical` means that users are served wrongly or not at all now, `warning` that somebody should look today.
    """
    return {
        "alert": name,
        "expr": expr,
        "for": hold,
        "labels": {"severity": severity},
        "annotations": {"summary": summary, "description": description, "runbook_url": f"{RUNBOOKS}/{name}.md"},
    }
