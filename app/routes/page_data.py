"""What the page of a model shows, as JSON: facts of the artifact, and how the version does in use.

No value of a request is in it: its rows are the artifact's golden rows, its live state is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from app.config import Config
from app.protocols.describe import JSON
from app.routes.live_state import state_of
from app.serving.loaded import Loaded
from app.telemetry.gauges import LiveErrors
from app.telemetry.metrics import Metrics
from model import AnyBins, Artifact, Bins, Feature, ModelError, Store, described

_EXAMPLES = 8  # golden rows, of which the first are of the table
_MAX_CATEGORIES = 500  # that a choice offers; of more, those with a bin
_MAX_VERSIONS = 20  # the newest ones of the store
_HALF = 0.5 - 1e-9  # shares are rounded
_LOSSES = {"rmse": "RMSE", "log_loss": "log loss"}  # the metric by which versions of a task are compared

SCHEMA: JSON = {
    "type": "object",
    "required": [
        "name",
        "version",
        "title",
        "target",
        "features",
        "examples",
        "versions",
        "state",
        "limits_of_requests",
    ],
}


def page_data(model: Artifact, loaded: Loaded, config: Config, metrics: Metrics, live_errors: LiveErrors) -> JSON:
    """Return everything that the page of a loaded version shows."""
    manifest = model.manifest
    document = manifest.document
    names = [name for name in manifest.files if name.startswith("plots/") and name.endswith(".png")]
    return {
        "name": model.name,
        "version": model.version,
        "role": loaded.role(model),
        "is_only_model": len(loaded.models) == 1,
        "title": manifest.title,
        "purpose": _text(document.get("purpose")),
        "owner": manifest.tags.get("owner", ""),
        "limits": manifest.limits,
        "algorithm": manifest.algorithm,
        "summary": _text(document.get("summary")),
        "exactness": _exactness(model),
        "created_at": manifest.created_at,
        "digest": manifest.digest,
        "target": {**_facts(manifest.schema.target), "classes": manifest.classes},
        "features": [
            {**_facts(feature), **_distribution(feature, model.reference.features[feature.name])}
            for feature in model.schema.features
        ],
        "prediction": _bins(model.reference.prediction),
        "derived": [
            {"name": each.name, "formula": each.formula, "description": each.description, "owner": each.owner}
            for each in manifest.derived
        ],
        "examples": [
            {name: kind.cell(number) for name, kind, number in zip(model.schema.names, model.schema.cells, row)}
            for row in model.golden_rows[:_EXAMPLES].tolist()
        ],
        "levels": manifest.intervals.levels if manifest.intervals else [],
        "validation": _validation(model),
        "leaderboard": _leaderboard(model),
        "versions": _versions(model, loaded, config.folder),
        "plots": len(names),
        "has_notebook": "notebook.ipynb" in manifest.files,
        "limits_of_requests": {"rows": config.max_rows, "bytes": config.max_body_bytes},
        "state": state_of(model, metrics, live_errors),
    }


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _exactness(model: Artifact) -> str:
    """Return how near the answers are to those of the trained model, as a sentence."""
    manifest = model.manifest
    if manifest.engine == "converted":
        tried = f"; this was tried on {manifest.proof.n_rows:,} rows" if manifest.proof else ""
        return (
            f"This model is not compiled by Tabserve, but a graph of {manifest.document['engine'].get('converter')}. "
            f"Its answers differ from the fitted model's by at most {manifest.allowed_difference:.1e}{tried}."
        )
    if manifest.engine == "linear":
        return (
            f"Its sums are added in a stated order, {manifest.document['engine'].get('order')}, and are within the "
            "rounding of the library's, whose own bits depend on the batch."
        )
    if manifest.tolerance:
        return f"Its answers are within {manifest.tolerance:.0e} of the trained model's."
    return "Its answers are those of the trained model, to the last bit."


def _facts(feature: Feature) -> JSON:
    """Return what is known of a feature; limits that are infinite are null in JSON."""
    return {
        "name": feature.name,
        "type": feature.type,
        "unit": feature.unit,
        "description": feature.description,
        "minimum": feature.minimum,
        "maximum": feature.maximum,
        "missing": feature.missing,
        "unseen": feature.unseen,
        "seen": described(feature),
    }


def _distribution(feature: Feature, bins: AnyBins) -> JSON:
    """Return the training distribution of a feature, and its categories."""
    found: JSON = {"bins": _bins(bins)}
    if isinstance(bins, Bins):
        if feature.type != "date":  # whose values are all in one bin
            found["median"] = _median(bins)
        return found
    categories = list(feature.categories or (False, True))
    if len(categories) > _MAX_CATEGORIES:
        categories = [categories[code] for code in bins.codes.tolist()]
    return {**found, "categories": categories, "n_categories": bins.n_categories}


def _median(bins: Bins) -> float | None:
    """Return the median of the training values, which is an edge; None if all were missing."""
    reached = np.cumsum(bins.expected) >= _HALF
    return float(bins.edges[int(reached.argmax())]) if reached.any() else None


def _bins(bins: AnyBins) -> JSON:
    if isinstance(bins, Bins):
        return {"minimum": bins.minimum, "edges": bins.edges, "shares": bins.shares, "missing": bins.missing}
    return {"codes": bins.codes, "shares": bins.shares, "rest": bins.rest, "missing": bins.missing}


def _validation(model: Artifact) -> JSON | None:
    """Return the metrics of the held-out rows, each with its interval; None if there were none."""
    scores, intervals = model.manifest.metrics.validation, model.manifest.metric_intervals
    if scores is None:
        return None
    listed = [
        {"name": name, "label": label, "value": getattr(scores, name), "interval": intervals.get(name)}
        for name, label in model.manifest.task.labels.items()
    ]
    return {"rows": scores.rows, "metrics": [each for each in listed if each["value"] is not None]}


def _leaderboard(model: Artifact) -> JSON | None:
    board = model.manifest.leaderboard
    if board is None:
        return None
    return {
        "metric": board.metric,
        "standings": [
            {"family": each.family, "mean": each.mean, "low": each.low, "high": each.high, **each.measured}
            for each in board.standings
        ],
    }


def _versions(model: Artifact, loaded: Loaded, folder: Path) -> list[JSON]:
    """Return the versions that are loaded and the newest of the store, the newest first, each with metric and date."""
    documents: dict[int, Mapping[str, Any]] = {
        each.version: each.manifest.document for each in loaded.versions(model.name)
    }
    roles = {each.version: loaded.role(each) for each in loaded.versions(model.name)}
    aliases: Mapping[str, int] = {}
    store = Store(folder)
    try:
        aliases = store.aliases(model.name)
        for version in store.versions(model.name)[-_MAX_VERSIONS:]:
            if version not in documents:
                documents[version] = store.document(model.name, version)
    except (ModelError, OSError):  # what is loaded is known without the store
        pass
    return [
        {
            "version": version,
            "is_loaded": version in roles,
            "role": roles.get(version, ""),
            "aliases": sorted(alias for alias, of in aliases.items() if of == version),
            "created_at": _text(document.get("created_at")),
            **_loss(document),
        }
        for version, document in sorted(documents.items(), reverse=True)
    ]


def _loss(document: Mapping[str, Any]) -> JSON:
    """Return the metric of a manifest by which versions are compared, if it has one."""
    try:
        scores = document["metrics"]["validation"] or {}
        found = [(label, float(scores[name])) for name, label in _LOSSES.items() if name in scores]
    except (KeyError, OverflowError, TypeError, ValueError):
        found = []
    return {"metric": found[0][0], "value": found[0][1]} if found else {"metric": "", "value": None}
