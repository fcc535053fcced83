"""Counts what happens in the service, for Prometheus and for V2's statistics; definitions.py says what each metric is.

Under gunicorn the values are in memory that the workers share (shared_values.py), so any worker can answer a scrape for
all of them. When a worker is killed, its exchanges of the last 0.2 s are lost: see recorder.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

from app.telemetry import definitions
from app.telemetry.gauges import LiveErrors, ModelCollector, Served, Snapshot
from app.telemetry.shared_values import SharedCollector, are_shared
from app.web.exchange import REFUSALS, Exchange
from model import MISSING, OUT_OF_RANGE, UNKNOWN_CATEGORY, AnyBins, Artifact, Bins, RowDifferences

DROPPED = ("queue_full", "refused", "repeated", "stopped")  # why a row is missing from the prediction log
REMOVED = ("age", "size")  # why a row was removed from it
COMPARED = ("equal", "different", "relabelled")  # how a challenger's answer compares with the champion's
MISSED = ("queue_full", "stopped", "failed", "columns", "answers")  # why it is not compared
OUTCOMES = ("accepted", "replaced", "repeated", "conflicting", "unknown")  # what happened to a true value

# Why the champion answered a request that was for a challenger.
FALLBACKS = REFUSED, FAILED, SLOW, BUSY = "refused", "failed", "slow", "busy"

_OPENMETRICS = "application/openmetrics-text"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

M = TypeVar("M", Counter, Gauge, Histogram, Summary)


@dataclass(slots=True)
class Statistics:
    """Counters of one version of a model: requests by outcome, runs of the engine, rows, and seconds."""

    rows: float = 0
    engine_runs: float = 0
    engine_seconds: float = 0
    successes: float = 0
    success_seconds: float = 0
    failures: float = 0
    failure_seconds: float = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """What one version answered since the start, over all workers: counters, and rows by bin.

    `features` and `prediction` have the rows in each of the bins' labels.
    """

    statistics: Statistics
    rejected_rows: float
    features: Mapping[str, NDArray[np.intp]]
    prediction: NDArray[np.intp]


# The field for each sample and outcome.
_STATISTICS = {
    ("tabserve_rows_total", None): "rows",
    ("tabserve_engine_duration_seconds_count", None): "engine_runs",
    ("tabserve_engine_duration_seconds_sum", None): "engine_seconds",
    ("tabserve_inference_duration_seconds_count", "success"): "successes",
    ("tabserve_inference_duration_seconds_sum", "success"): "success_seconds",
    ("tabserve_inference_duration_seconds_count", "failure"): "failures",
    ("tabserve_inference_duration_seconds_sum", "failure"): "failure_seconds",
}


class Metrics:
    """The metrics of one service: `served` tells about its models, `live_errors` about their predictions in use."""

    def __init__(self, served: Served, live_errors: LiveErrors) -> None:
        self._children: dict[tuple[object, ...], Any] = {}
        self._served = served
        self._models = ModelCollector(served, live_errors)
        registry = self._registry = CollectorRegistry()
        registry.register(self._models)
        self._requests = definitions.REQUESTS(registry=registry)
        self._durations = definitions.DURATIONS(registry=registry)
        self._inferences = definitions.INFERENCES(registry=registry)
        self._engine = definitions.ENGINE(registry=registry)
        self._batch_rows = definitions.BATCH_ROWS(registry=registry)
        self._batch_waits = definitions.BATCH_WAITS(registry=registry)
        self._in_flight = definitions.IN_FLIGHT(registry=registry)
        self._rows = definitions.ROWS(registry=registry)
        self._rejected = definitions.REJECTED_ROWS(registry=registry)
        self._challenger_requests = definitions.CHALLENGER_REQUESTS(registry=registry)
        self._fallbacks = definitions.FALLBACKS(registry=registry)
        self._reload_refused = definitions.RELOAD_REFUSED(registry=registry)
        self._overload = definitions.OVERLOAD(registry=registry)
        self._key_requests = definitions.KEY_REQUESTS(registry=registry)
        self._refused_requests = definitions.REFUSED_REQUESTS(registry=registry)
        self._feature_bins = definitions.FEATURE_BINS(registry=registry)
        self._prediction_bins = definitions.PREDICTION_BINS(registry=registry)
        self._contributions = definitions.CONTRIBUTIONS(registry=registry)
        self._explained_rows = definitions.EXPLAINED_ROWS(registry=registry)
        self._shadow_rows = definitions.SHADOW_ROWS(registry=registry)
        self._shadow_differences = definitions.SHADOW_DIFFERENCES(registry=registry)
        self._largest_shadow_difference = definitions.LARGEST_SHADOW_DIFFERENCE(registry=registry)
        self._missed_shadow_rows = definitions.MISSED_SHADOW_ROWS(registry=registry)
        self._logged = definitions.LOGGED_ROWS(registry=registry)
        self._logged_shadows = definitions.LOGGED_SHADOWS(registry=registry)
        self._dropped = definitions.DROPPED_ROWS(registry=registry)
        self._removed = definitions.REMOVED_ROWS(registry=registry)
        self._log_failures = definitions.LOG_FAILURES(registry=registry)
        self._feedback = definitions.FEEDBACK_ROWS(registry=registry)
        self._exemplars: dict[tuple[str, str], Exemplar] = {}  # by route, and the end of a bucket of durations
        for reason in DROPPED:
            self._child(self._dropped, reason)
        for reason in REMOVED:
            self._child(self._removed, reason)
        for outcome in OUTCOMES:
            self._child(self._feedback, outcome)
        self.count_versions_from_zero(served.loaded)

    def count_versions_from_zero(self, loaded: Snapshot) -> None:
        """Start the counters of every bin of these versions at 0, so that the first value in a bin is an increase.

        The same for values that are refused and are therefore in no bin, for contributions, and for requests for
        challengers.
        """
        for model in loaded.all_versions:
            if model is not loaded.models.get(model.name):
                self._child(self._challenger_requests, model.name, model.version)
                for reason in FALLBACKS:
                    self._child(self._fallbacks, model.name, model.version, reason)
            explains = model.manifest.explanations is not None
            for name, bins in model.reference.features.items():
                outside = OUT_OF_RANGE if isinstance(bins, Bins) else UNKNOWN_CATEGORY
                for reason in (MISSING, outside):
                    self._child(self._rejected, model.name, model.version, reason, name)
                for label in bins.labels:
                    self._child(self._feature_bins, model.name, model.version, name, label)
                if explains:
                    self._child(self._contributions, model.name, model.version, name)
            if explains:
                self._child(self._explained_rows, model.name, model.version)
            for label in model.reference.prediction.labels:
                self._child(self._prediction_bins, model.name, model.version, label)

    def count_shadows_from_zero(self, champion: Artifact, challenger: Artifact) -> None:
        """Start all counters of a challenger that answers behind the champion at 0."""
        pair = champion.name, challenger.version, champion.version
        for outcome in COMPARED:
            if outcome != "relabelled" or challenger.manifest.classes:
                self._child(self._shadow_rows, *pair, outcome)
        for reason in MISSED:
            self._child(self._missed_shadow_rows, *pair, reason)
        self._child(self._shadow_differences, *pair)
        self._child(self._largest_shadow_difference, *pair)

    def count_failures_from_zero(self, routes: Iterable[str]) -> None:
        """Start the counters of failed POSTs to these routes at 0, so that a first burst is an increase."""
        for route in routes:
            for status in (500, 503):
                self._child(self._requests, "POST", route, status)

    def count_refusals_from_zero(self) -> None:
        """Start the counters of requests that are refused for their keys at 0."""
        for reason in REFUSALS:
            self._child(self._refused_requests, reason)

    def count(self, exchanges: Iterable[Exchange]) -> None:
        """Count exchanges: many at once cost little more than one."""
        requests: dict[tuple[str, str, int], int] = {}
        durations: dict[str, list[float]] = {}
        by_version: dict[tuple[str, int], list[Exchange]] = {}
        by_key: dict[tuple[str, int], int] = {}
        refused: dict[str, int] = {}
        for exchange in exchanges:
            key = exchange.method, exchange.route, exchange.status
            requests[key] = requests.get(key, 0) + 1
            durations.setdefault(exchange.route, []).append(exchange.seconds)
            if exchange.caller:
                caller = exchange.caller.label, exchange.status
                by_key[caller] = by_key.get(caller, 0) + 1
            if exchange.refused:
                refused[exchange.refused] = refused.get(exchange.refused, 0) + 1
            if exchange.model:
                by_version.setdefault((exchange.model.name, exchange.model.version), []).append(exchange)
        for (method, route, status), n_requests in requests.items():
            self._child(self._requests, method if method in _METHODS else "other", route, status).inc(n_requests)
        for caller, n_requests in by_key.items():
            self._child(self._key_requests, *caller).inc(n_requests)
        for reason, n_requests in refused.items():
            self._child(self._refused_requests, reason).inc(n_requests)
        for route, seconds in durations.items():
            _observe_each(self._child(self._durations, route), seconds)
        for version, of_version in by_version.items():
            for outcome, seconds in (
                (
                    "success",
                    [exchange.seconds for exchange in of_version if exchange.status < 400 and not exchange.is_refused],
                ),
                (
                    "failure",
                    [exchange.seconds for exchange in of_version if exchange.status >= 400 or exchange.is_refused],
                ),
            ):
                if seconds:
                    _add(self._child(self._inferences, *version, outcome), seconds)
            answered = [exchange for exchange in of_version if exchange.rows]
            if answered:
                self._count_answered(answered)
            explained = [exchange for exchange in of_version if exchange.explained]
            if explained:
                self._count_explained(explained)
        for version, (rows, waits) in self._served.take_runs().items():
            _observe_each(self._child(self._batch_rows, *version), rows)
            _observe_each(self._child(self._batch_waits, *version), waits)

    def show(self, traced: Iterable[Exchange]) -> None:
        """Keep traced requests as examples of the durations of their routes, for OpenMetrics."""
        for exchange in traced:
            if exchange.trace:
                end = next(end for end in (*definitions.DURATION_BUCKETS, math.inf) if exchange.seconds <= end)
                found = Exemplar({"trace_id": exchange.trace.trace_id}, exchange.seconds, exchange.time)
                self._exemplars[exchange.route, floatToGoString(end)] = found  # type: ignore[no-untyped-call]

    def set_in_flight(self, requests: int) -> None:
        """Set how many requests this worker has accepted and not answered."""
        self._in_flight.set(requests)

    def count_rejected(self, model: Artifact, n_rows: int, reason: str, feature: str) -> None:
        """Count rows that were refused for one of `model.REASONS` or for their shape; `feature` may be empty."""
        self._child(self._rejected, model.name, model.version, reason, feature).inc(n_rows)

    def count_challenge(self, challenger: Artifact, fallback: str = "") -> None:
        """Count one request for a challenger; with one of `FALLBACKS`, that is why the champion answered it."""
        self._child(self._challenger_requests, challenger.name, challenger.version).inc()
        if fallback:
            self._child(self._fallbacks, challenger.name, challenger.version, fallback).inc()

    def set_reload_refused(self, refused: bool) -> None:
        """Set whether the store names versions that are not served; gunicorn's master does, for all its workers."""
        self._reload_refused.set(refused)

    def count_overload(self) -> None:
        """Count one request that was refused because too many wait."""
        self._overload.inc()

    def count_logged(self, n_rows: int) -> None:
        """Count rows written to the prediction log."""
        self._logged.inc(n_rows)

    def count_dropped(self, n_rows: int, reason: str) -> None:
        """Count rows that are missing from the prediction log."""
        self._child(self._dropped, reason).inc(n_rows)

    def count_logged_shadows(self, n_rows: int) -> None:
        """Count answers of challengers written to the prediction log."""
        self._logged_shadows.inc(n_rows)

    def count_shadows(
        self, champion: Artifact, challenger: Artifact, found: RowDifferences, y: NDArray[np.float64]
    ) -> None:
        """Count the answers `y` of a challenger, which differ from the champion's as `found` says, and their bins.

        One thread of a process calls this.
        """
        pair = champion.name, challenger.version, champion.version
        n_differing = int(found.differ.sum())
        n_relabelled = 0 if found.relabelled is None else int(found.relabelled.sum())
        for outcome, n_rows in zip(COMPARED, (len(y) - n_differing, n_differing - n_relabelled, n_relabelled)):
            if n_rows:
                self._child(self._shadow_rows, *pair, outcome).inc(n_rows)
        if n_differing:
            sizes = np.nan_to_num(found.sizes[found.differ], nan=np.inf, posinf=np.inf)
            histogram = self._child(self._shadow_differences, *pair)
            finite = sizes[np.isfinite(sizes)]
            _observe_each(histogram, finite.tolist())
            histogram._buckets[-1].inc(n_differing - len(finite))  # they would make the sum infinite for ever
            largest = self._child(self._largest_shadow_difference, *pair)
            largest.set(max(largest._value.get(), float(sizes.max())))
        predictions = y if y.ndim == 1 else y[:, 0]
        version = challenger.name, challenger.version
        self._count(self._prediction_bins, version, challenger.reference.prediction, predictions)

    def count_missed_shadows(self, champion: Artifact, challenger: Artifact, n_rows: int, reason: str) -> None:
        """Count rows that a challenger did not answer behind the champion, or not comparably."""
        self._child(self._missed_shadow_rows, champion.name, challenger.version, champion.version, reason).inc(n_rows)

    def count_removed(self, n_rows: int, reason: str) -> None:
        """Count rows that were removed from the prediction log."""
        self._child(self._removed, reason).inc(n_rows)

    def count_log_failure(self) -> None:
        """Count one failed access to the prediction log."""
        self._log_failures.inc()

    def count_feedback(self, outcome: str, n_rows: int) -> None:
        """Count true values by their outcome."""
        self._child(self._feedback, outcome).inc(n_rows)

    def _count_answered(self, exchanges: Sequence[Exchange]) -> None:
        """Count the predicted rows of one version, by the bins of its training data, and the engine's time."""
        model = exchanges[0].model
        assert model  # it made the predictions
        X = np.concatenate([exchange.X for exchange in exchanges if exchange.X is not None])
        y = np.concatenate([exchange.y for exchange in exchanges if exchange.y is not None])
        predictions = y if y.ndim == 1 else y[:, 0]
        version = model.name, model.version
        self._child(self._rows, *version).inc(len(y))
        _add(self._child(self._engine, *version), [exchange.engine_seconds for exchange in exchanges])
        for (name, bins), column in zip(model.reference.features.items(), X.T):
            self._count(self._feature_bins, (*version, name), bins, column)
        self._count(self._prediction_bins, version, model.reference.prediction, predictions)

    def _count_explained(self, exchanges: Sequence[Exchange]) -> None:
        """Count what contributed to the answers of one version, and drop it: the exchanges may wait elsewhere."""
        model = exchanges[0].model
        assert model
        sizes = [np.abs(exchange.explained.contributions) for exchange in exchanges if exchange.explained]
        for exchange in exchanges:
            exchange.explained = None
        finite = [rows[np.isfinite(rows).all(axis=1)] for rows in sizes]  # others would be in the sums for ever
        self._child(self._explained_rows, model.name, model.version).inc(sum(map(len, finite)))
        sums = model.explanations.by_feature(np.sum([rows.sum(axis=0) for rows in finite], axis=0))
        for feature, amount in zip(model.reference.features, sums.tolist()):
            self._child(self._contributions, model.name, model.version, feature).inc(amount)

    def _count(self, metric: Counter, labels: tuple[object, ...], bins: AnyBins, values: NDArray[np.float64]) -> None:
        for label, count in zip(bins.labels, bins.count(values).tolist()):
            if count:
                self._child(metric, *labels, label).inc(count)

    def _child(self, metric: M, *labels: object) -> M:
        """Return a metric's child from a cache: `labels` itself takes as long as counting."""
        child: M | None = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def statistics(self) -> dict[tuple[str, str], Statistics]:
        """Return the counters of all workers since the start, by model and version.

        What other workers answered within the last 0.2 s may be missing: each counts its own (recorder.py).
        """
        found: dict[tuple[str, str], Statistics] = {}
        for family in self._all_workers().collect():
            for sample in family.samples:
                field = _STATISTICS.get((sample.name, sample.labels.get("outcome")))
                if field:
                    one = found.setdefault((sample.labels["model"], sample.labels["version"]), Statistics())
                    setattr(one, field, sample.value)
        return found

    def usage(self, model: Artifact) -> Usage:
        """Return what a version answered since the start; as with `statistics`, the last 0.2 s may be missing."""
        statistics, rejected = Statistics(), 0.0
        features: dict[str, dict[str, float]] = {name: {} for name in model.reference.features}
        predictions: dict[str, float] = {}
        version = {"model": model.name, "version": str(model.version)}
        for family in self._all_workers().collect():
            for sample in family.samples:
                labels = sample.labels
                if not version.items() <= labels.items():
                    continue
                if field := _STATISTICS.get((sample.name, labels.get("outcome"))):
                    setattr(statistics, field, sample.value)
                elif sample.name == "tabserve_rejected_rows_total":
                    rejected += sample.value
                elif sample.name == "tabserve_feature_bin_total" and labels["feature"] in features:
                    features[labels["feature"]][labels["bin"]] = sample.value
                elif sample.name == "tabserve_prediction_bin_total":
                    predictions[labels["bin"]] = sample.value
        reference = model.reference
        return Usage(
            statistics,
            rejected,
            {name: _in_order(features[name], bins) for name, bins in reference.features.items()},
            _in_order(predictions, reference.prediction),
        )

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all workers' metrics and their content type, in the format that the scraper asks for.

        OpenMetrics has this worker's traced requests as examples.
        """
        encode, content_type = choose_encoder(accept)
        registry = self._all_workers()
        if self._exemplars and content_type.startswith(_OPENMETRICS):
            registry = _WithExemplars(registry, definitions.DURATIONS.args[0], dict(self._exemplars))
        return encode(registry), content_type

    def _all_workers(self) -> CollectorRegistry:
        """Return a registry of the metrics of all workers, or of this process if it is the only one."""
        if not are_shared():
            return self._registry
        registry = CollectorRegistry()
        registry.register(self._models)
        registry.register(SharedCollector())
        return registry


class _WithExemplars(CollectorRegistry):
    """The metrics of another registry, in which a histogram of routes has exemplars."""

    def __init__(self, inner: CollectorRegistry, name: str, exemplars: Mapping[tuple[str, str], Exemplar]) -> None:
        super().__init__()
        self._inner = inner
        self._name = name
        self._exemplars = exemplars

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        for metric in self._inner.collect():
            if metric.name == self._name:
                metric.samples = [
                    sample._replace(exemplar=self._exemplars.get((sample.labels["route"], sample.labels.get("le", ""))))
                    for sample in metric.samples
                ]
            yield metric


def _in_order(counts: Mapping[str, float], bins: AnyBins) -> NDArray[np.intp]:
    """Return counts by the label of their bin in the order of the labels."""
    return np.array([counts.get(label, 0) for label in bins.labels], dtype=np.intp)


# prometheus_client observes one value in a call, which takes several times as long as all counting here. So these do
# what its methods do, for many values at once.


def _add(summary: Summary, values: Sequence[float]) -> None:
    """Have a summary observe each of `values`."""
    summary._count.inc(len(values))
    summary._sum.inc(sum(values))


def _observe_each(histogram: Histogram, values: Sequence[float]) -> None:
    """Have a histogram observe each of `values`."""
    histogram._sum.inc(sum(values))
    for number, count in enumerate(np.bincount(np.searchsorted(histogram._upper_bounds, values)).tolist()):
        if count:
            histogram._buckets[number].inc(count)
