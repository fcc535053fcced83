"""Gauges about the loaded models, each with the question that it answers.

All workers have the same values, so any worker can answer a scrape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from model import Artifact

if TYPE_CHECKING:
    from model.engine.gpu import Usage
    from model.live.comparison import LiveComparison
    from model.live.prediction_log import LiveError


class Snapshot(Protocol):
    """The versions that are served at one moment."""

    @property
    def models(self) -> Mapping[str, Artifact]:
        """Return by name the version that answers."""

    @property
    def all_versions(self) -> Sequence[Artifact]:
        """Return every loaded version."""

    @property
    def requested(self) -> Sequence[str]:
        """Return the names of all configured models."""

    @property
    def absent(self) -> Mapping[str, str]:
        """Return the references to versions beside those that answer that could not be loaded, and why."""

    @property
    def shares(self) -> Mapping[tuple[str, int, str], float]:
        """Return by name, version and role the share of the requests that a version answers."""

    @property
    def golden(self) -> Mapping[tuple[str, int], bool]:
        """Return by version whether the golden rows were predicted as in training."""


class Served(Protocol):
    """What the metrics ask about the served models; `app/serving` implements it."""

    @property
    def loaded(self) -> Snapshot:
        """Return the snapshot that is served now."""

    @property
    def unready(self) -> str | None:
        """Return why the server is not ready."""

    def usage(self) -> Usage | None:
        """Return how full and busy the GPU is, if there is one."""

    def take_runs(self) -> Mapping[tuple[str, int], tuple[Sequence[int], Sequence[float]]]:
        """Return by version the rows of each batched run and the waits of its requests, since the last call."""


@dataclass(slots=True)
class LiveErrors:
    """The live errors, and the comparisons of versions, as the prediction log's writer last found them."""

    latest: Sequence[LiveError] = ()
    comparisons: Sequence[LiveComparison] = ()


class ModelCollector(Collector):
    """Collects gauges of the models that are loaded at the time of the scrape."""

    def __init__(self, served: Served, live_errors: LiveErrors) -> None:
        self._served = served
        self._live_errors = live_errors

    def collect(self) -> Iterable[GaugeMetricFamily]:
        version = ["model", "version"]
        # Is the server ready for requests: is every configured model loaded?
        yield GaugeMetricFamily("tabserve_ready", "1 if /readyz answers 200, else 0.", self._served.unready is None)
        # Which version answers? Tells versions apart in other panels.
        info = GaugeMetricFamily(
            "tabserve_model_info",
            "1 for each model that is loaded and verified.",
            labels=[*version, "algorithm", "engine", "digest"],
        )
        # Did a version predict its golden rows as in training?
        golden = GaugeMetricFamily(
            "tabserve_golden_check_success",
            "1 if the golden rows had the predictions of training when the version was loaded, else 0.",
            labels=version,
        )
        # What is drift measured against, and from how many rows is that known?
        shares = GaugeMetricFamily(
            "tabserve_feature_bin_reference_ratio",
            "Share of the training rows in each bin.",
            labels=[*version, "feature", "bin"],
        )
        prediction_shares = GaugeMetricFamily(
            "tabserve_prediction_bin_reference_ratio",
            "Share of the predictions for the training rows in each bin.",
            labels=[*version, "bin"],
        )
        rows = GaugeMetricFamily(
            "tabserve_reference_rows", "Training rows behind the reference shares.", labels=version
        )
        # Which features does the model use? Drift of these is what matters.
        importance = GaugeMetricFamily(
            "tabserve_feature_importance_ratio",
            "Share of a feature in the mean absolute contributions to the answers for training rows.",
            labels=[*version, "feature"],
        )
        for (name, number), equal in self._served.loaded.golden.items():
            golden.add_metric([name, str(number)], equal)
        for model in self._served.loaded.all_versions:
            manifest, labels = model.manifest, [model.name, str(model.version)]
            info.add_metric([*labels, manifest.algorithm, manifest.engine, manifest.digest], 1)
            rows.add_metric(labels, manifest.metrics.training.rows)
            for feature, bins in model.reference.features.items():
                for label, share in zip(bins.labels, bins.all_shares):
                    shares.add_metric([*labels, feature, label], share)
            for feature, share in model.explanations.importance.items():
                importance.add_metric([*labels, feature], share)
            for label, share in zip(model.reference.prediction.labels, model.reference.prediction.all_shares):
                prediction_shares.add_metric([*labels, label], share)
        yield from (info, golden, shares, prediction_shares, rows, importance)
        yield from (*self._roles(), *self._errors(), *self._comparisons(), *self._gpu())

    def _roles(self) -> Iterable[GaugeMetricFamily]:
        """Which version is to answer which share of the requests, and is every challenger loaded?"""
        loaded = self._served.loaded
        shares = GaugeMetricFamily(
            "tabserve_model_share",
            "Share of the requests without a version that a version is to answer, by its role.",
            labels=["model", "version", "role"],
        )
        for (name, number, role), share in loaded.shares.items():
            shares.add_metric([name, str(number), role], share)
        absent = GaugeMetricFamily(
            "tabserve_versions_not_loaded",
            "Challengers and further versions of the settings that could not be loaded; another version answers.",
            labels=["model"],
        )
        for name in loaded.requested:
            absent.add_metric([name], sum(each.partition("@")[0] == name for each in loaded.absent))
        yield from (shares, absent)

    def _errors(self) -> Iterable[GaugeMetricFamily]:
        """Do the predictions match the reported truths as well as they matched the validation rows?"""
        labels = ["model", "version"]
        for name, meaning in (
            ("rmse", "Root mean square error"),
            ("mae", "Mean absolute error"),
            ("bias", "Mean signed error"),
            ("log_loss", "Mean of minus the logarithm of the true class's probability"),
            ("log_loss_deviation", "Standard deviation of a row's log loss"),
            ("brier", "Brier score: mean squared error of the probabilities"),
            ("accuracy", "Share of rows with the right label"),
            ("auc", "Area under the ROC curve"),
            ("rows", "True values behind the error: with few of them a difference means little"),
        ):
            validation = GaugeMetricFamily(f"tabserve_validation_{name}", f"{meaning}, in validation.", labels=labels)
            for model in self._served.loaded.all_versions:
                value = getattr(model.manifest.metrics.validation, name, None)  # each task has metrics of its own
                if value is not None:
                    validation.add_metric([model.name, str(model.version)], value)
            live = GaugeMetricFamily(f"tabserve_live_error_{name}", f"{meaning}, by feedback.", labels=labels)
            for error in self._live_errors.latest:
                value = error.rows if name == "rows" else error.figures.get(name)
                if value is not None:
                    live.add_metric([error.model, str(error.version)], value)
            yield from (validation, live)

    def _comparisons(self) -> Iterable[GaugeMetricFamily]:
        """Is one of two versions better where both answered? The rules make an interval of these sums."""
        labels = ["model", "version", "against"]
        of_difference = "the loss of the version it is compared with, less its own"
        requests = GaugeMetricFamily(
            "tabserve_comparison_requests", "Requests with true values that both versions answered.", labels=labels
        )
        differing = GaugeMetricFamily(
            "tabserve_comparison_differing_requests", "Those in which the losses differ.", labels=labels
        )
        difference = GaugeMetricFamily("tabserve_comparison_difference", f"Sum of {of_difference}.", labels=labels)
        squares = GaugeMetricFamily(
            "tabserve_comparison_difference_squares", f"Sum of the squares of {of_difference}.", labels=labels
        )
        loss = GaugeMetricFamily(
            "tabserve_comparison_loss", "Sum of the losses of the version it is compared with.", labels=labels
        )
        for each in self._live_errors.comparisons:
            if sums := each.losses.differences:
                pair = [each.model, str(each.second), str(each.first)]
                requests.add_metric(pair, sums.n)
                differing.add_metric(pair, sums.n_nonzero)
                difference.add_metric(pair, sums.total)
                squares.add_metric(pair, sums.squares)
                loss.add_metric(pair, each.losses.first.total)
        yield from (requests, differing, difference, squares, loss)

    def _gpu(self) -> Iterable[GaugeMetricFamily]:
        """Is the GPU full, and is it the bottleneck? Only the worker that has the GPU knows."""
        used = GaugeMetricFamily("tabserve_gpu_memory_used_bytes", "GPU memory in use, by any process.")
        total = GaugeMetricFamily("tabserve_gpu_memory_total_bytes", "GPU memory in all.")
        busy = GaugeMetricFamily(
            "tabserve_gpu_busy_ratio", "Share of the last moments in which the GPU was busy, by its driver."
        )
        usage = self._served.usage()
        if usage:
            used.add_metric([], usage.memory_used_bytes)
            total.add_metric([], usage.memory_total_bytes)
            if usage.busy is not None:
                busy.add_metric([], usage.busy)
        yield from (used, total, busy)
