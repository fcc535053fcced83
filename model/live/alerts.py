"""Which alerts of a model fire, asked from Prometheus."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from model.errors import ModelError
from model.store.download import ask
from model.store.files import MAX_JSON_BYTES, parse_json

ALERTS = ("TabserveFeatureDrift", "TabserveLiveErrorHigh")
"""Those for which a model is trained again, unless others are named."""


def firing(url: str, model: str, version: int, names: Collection[str] = ALERTS) -> list[str]:
    """Return the names of those alerts that fire for a version of a model, by the Prometheus at `url`.

    An alert without a version is of every version. Raises `ModelError` if Prometheus cannot be asked.
    """
    content, shown = ask(f"{url.rstrip('/')}/api/v1/alerts", "Prometheus", max_bytes=MAX_JSON_BYTES)
    try:
        reply = parse_json(content)
        alerts = reply["data"]["alerts"]
        found = {_name(alert, model, version) for alert in alerts}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ModelError(f"{shown} is no list of alerts of a Prometheus") from None
    return sorted(found & {*names})


def _name(alert: Any, model: str, version: int) -> str:
    """Return an alert's name if it fires for this version, else an empty text."""
    labels = alert["labels"]
    is_its = labels.get("model") == model and labels.get("version", str(version)) == str(version)
    return str(labels["alertname"]) if alert["state"] == "firing" and is_its else ""
