"""Every Prometheus metric of the service, each with the question that it answers.

Under gunicorn, `PROMETHEUS_MULTIPROC_DIR` is set and prometheus_client keeps the values in files there, one
set a worker slot (see gunicorn.conf.py): whichever worker is scraped answers for all of them, and a worker that
takes a dead one's slot counts on from where that one stopped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary, values
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.values import MultiProcessValue

from model import Artifact

# From well below a millisecond, where a single row is answered, to where callers give up.
DURATION_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
UNMATCHED = "unmatched"  # the route of a path that is none: junk paths must not make series

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


M = TypeVar("M", Counter, Histogram, Summary)

_slot = "master"


def use_worker_slots() -> None:
    """Keep values in files named by a worker's slot instead of its process id; before any `Metrics` is made.

    Slots are used again where process ids are not, so the files do not grow in number as workers come and go.
    """
    values.ValueClass = MultiProcessValue(lambda: _slot)  # type: ignore[no-untyped-call]


def take_slot(slot: int) -> None:
    """Count in the files of `slot` from now on: in a new worker, before it answers a request."""
    global _slot
    _slot = str(slot)


@dataclass(slots=True)
class Statistics:
    """What was counted for one version of a model: requests by outcome, runs of the engine, rows; times in seconds."""

    rows: float = 0
    engine_runs: float = 0
    engine_seconds: float = 0
    successes: float = 0
    success_seconds: float = 0
    failures: float = 0
    failure_seconds: float = 0


# Which sample, of which outcome, is which field.
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
    """The metrics of one service.

    >>> metrics = Metrics(models=lambda: [])
    >>> metrics.observe_request("/predict", "POST", 200, seconds=0.0004)
    """

    def __init__(self, models: Callable[[], Iterable[Artifact]]) -> None:
        self._children: dict[tuple[object, ...], Any] = {}
        self._models = _ModelCollector(models)
        self._registry = CollectorRegistry()
        self._registry.register(self._models)
        # Is the service answering, and how: rate and errors, by route.
        self._requests = Counter(
            "http_requests_total", "Requests answered.", ["method", "route", "status"], registry=self._registry
        )
        # How long does an answer take to make: latency objectives and their burn rate, by route.
        self._durations = Histogram(
            "http_request_duration_seconds",
            "Time in the application, without waiting for a thread and without sending.",
            ["route"],
            buckets=DURATION_BUCKETS,
            registry=self._registry,
        )
        # Which model's requests are answered, how long they take, and V2's statistics: by outcome.
        self._inferences = Summary(
            "tabserve_inference_duration_seconds",
            "Time in the application of requests for predictions; outcome is success or failure.",
            ["model", "version", "outcome"],
            registry=self._registry,
        )
        # How much of that is the model: is the engine slow, or what is around it?
        self._engine = Summary(
            "tabserve_engine_duration_seconds", "Time in the engine.", ["model", "version"], registry=self._registry
        )
        # How busy is it just now: what an autoscaler goes by.
        self._in_flight = Gauge(
            "tabserve_requests_in_flight",
            "Requests that all workers answer or keep waiting, each as it was about a second ago at most.",
            multiprocess_mode="livesum",
            registry=self._registry,
        )
        # How much work is that: capacity, and batches behind one request.
        self._rows = Counter("tabserve_rows_total", "Rows predicted.", ["model", "version"], registry=self._registry)
        # Which clients' rows do not fit the schema, and why.
        self._rejected = Counter(
            "tabserve_rejected_rows_total",
            "Rows refused because they do not fit the schema.",
            ["model", "version", "reason"],
            registry=self._registry,
        )

    def observe_request(self, route: str, method: str, status: int, *, seconds: float) -> None:
        """Count one answered request. `route` is a route's pattern, never a path that a client made up."""
        self._child(self._requests, method if method in _METHODS else "other", route, status).inc()
        self._child(self._durations, route).observe(seconds)

    def set_in_flight(self, requests: int) -> None:
        """Say how many requests this worker has taken on."""
        self._in_flight.set(requests)

    def observe_inference(self, model: Artifact, *, succeeded: bool, seconds: float) -> None:
        """Count one request for predictions."""
        outcome = "success" if succeeded else "failure"
        self._child(self._inferences, model.name, model.version, outcome).observe(seconds)

    def observe_engine(self, model: Artifact, n_rows: int, *, seconds: float) -> None:
        """Count the rows of one prediction, and the time that the engine took for it."""
        self._child(self._rows, model.name, model.version).inc(n_rows)
        self._child(self._engine, model.name, model.version).observe(seconds)

    def count_rejected(self, model: Artifact, n_rows: int, reason: str) -> None:
        """Count rows refused for one of `model.REASONS`, or for their shape."""
        self._child(self._rejected, model.name, model.version, reason).inc(n_rows)

    def _child(self, metric: M, *labels: object) -> M:
        """Return a metric's child, kept: `labels` itself takes as long as counting does."""
        child: M | None = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def statistics(self) -> dict[tuple[str, str], Statistics]:
        """Return what all workers counted since the start, by model and version."""
        found: dict[tuple[str, str], Statistics] = {}
        for family in self._all_workers().collect():
            for sample in family.samples:
                field = _STATISTICS.get((sample.name, sample.labels.get("outcome")))
                if field:
                    one = found.setdefault((sample.labels["model"], sample.labels["version"]), Statistics())
                    setattr(one, field, sample.value)
        return found

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return all workers' metrics and their content type, in the format that the scraper asks for."""
        encode, content_type = choose_encoder(accept)
        return encode(self._all_workers()), content_type

    def _all_workers(self) -> CollectorRegistry:
        """Return a registry of all workers' metrics, where there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self._registry
        registry = CollectorRegistry()
        registry.register(self._models)
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return registry


class _ModelCollector(Collector):
    """Says which models are loaded, from what is loaded: every worker has the same, so no file is needed."""

    def __init__(self, models: Callable[[], Iterable[Artifact]]) -> None:
        self._models = models

    def collect(self) -> Iterable[GaugeMetricFamily]:
        labels = ["model", "version", "algorithm", "digest"]
        # Which version answers: to tell one from another in every other panel.
        info = GaugeMetricFamily("tabserve_model_info", "Models loaded and verified, each 1.", labels=labels)
        for model in self._models():
            facts = model.manifest
            info.add_metric([model.name, str(model.version), facts["algorithm"], facts["digest"]], 1)
        yield info
