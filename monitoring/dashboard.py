"""The Grafana dashboard: health of the service, models, batches, drift, contributions, data, versions, live errors."""

from __future__ import annotations

import json
from collections.abc import Sequence

from grafana_foundation_sdk.builders import common, stat, table, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    Dashboard,
    DatasourceVariable,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    Threshold,
    ThresholdsMode,
    VariableOption,
    VariableRefresh,
)

from monitoring.panels import SOURCE, Panel, Query, bars, flat, graph, instant_query, range_query, stacked, titled
from monitoring.service import BURN_RATES, ERROR_BUDGET, PREDICTIONS, SLOW_BUDGET

SERVICE = 'namespace=~"$namespace", job=~"$job"'
MODEL = f'{SERVICE}, model=~"$model", version=~"$version"'
ROUTES = f"http_requests_total{{{SERVICE}, {PREDICTIONS}}}"
VERSION = "{{model}} {{version}}"
FEATURE = f"{VERSION} {{{{feature}}}}"
PAIR = f"{VERSION} against {{{{against}}}}"


def to_json() -> str:
    """Return the dashboard in Grafana's JSON."""
    dashboard = (
        Dashboard("Tabserve")
        .uid("tabserve")
        .description("Made by python -m monitoring write.")
        .tags(["tabserve"])
        .time("now-3h", "now")
        .refresh("1m")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .with_variable(DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(choice("namespace", "tabserve_model_info"))
        .with_variable(choice("job", 'tabserve_model_info{namespace=~"$namespace"}'))
        .with_variable(choice("model", f"tabserve_model_info{{{SERVICE}}}"))
        .with_variable(choice("version", f'tabserve_model_info{{{SERVICE}, model=~"$model"}}'))
        .with_variable(choice("feature", f"tabserve_feature_bin_total{{{MODEL}}}", include_all=False))
    )
    for title, panels in (
        ("Service", service()),
        ("Model", model()),
        ("Batches", batches()),
        ("Drift", drift()),
        ("Contributions", contributions()),
        ("Data quality", quality()),
        ("Versions", versions()),
        ("Truth", truth()),
    ):
        dashboard.with_row(Row(title))
        for panel in panels:
            dashboard.with_panel(panel)
    built = dashboard.build()
    for number, panel_ in enumerate(built.panels or [], start=1):
        panel_.id_val = number
    return json.dumps(built, cls=JSONEncoder, indent=1, sort_keys=True) + "\n"


def choice(name: str, series: str, *, include_all: bool = True) -> QueryVariable:
    """Return a variable with the values of a label; "All" also matches series without the label."""
    variable = (
        QueryVariable(name)
        .label(name.capitalize())
        .datasource(SOURCE)
        .query({"query": f"label_values({series}, {name})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
    )
    if include_all:
        variable.include_all(True).all_value(".*").multi(True).current(VariableOption(True, "All", "$__all"))
    return variable


def service() -> Sequence[Panel]:
    """Return the panels on rate, errors, duration and saturation."""
    burning = " or ".join(f"{factor:g} times for {long}" for long, _, _, factor, _, _ in BURN_RATES)
    durations = f"rate(http_request_duration_seconds_bucket{{{SERVICE}}}[$__rate_interval])"
    has_predictions = f"rate({ROUTES}[$__rate_interval]) > 0"
    predictions = f"sum by (le) ({durations} and on (namespace, job, instance, route) {has_predictions})"
    return [
        stacked(
            graph(
                "Requests by status",
                "Every request, including probes and scrapes.",
                "reqps",
                (f"sum by (status) (rate(http_requests_total{{{SERVICE}}}[$__rate_interval]))", "{{status}}"),
            )
        ),
        graph(
            "Predictions answered with 5xx",
            f"Share over the last 5 minutes. The objective allows {ERROR_BUDGET:.1%}.",
            "percentunit",
            (f"service:tabserve_predictions_failed:ratio_rate5m{{{SERVICE}}}", "{{job}} {{service}}"),
            (f"vector({ERROR_BUDGET})", "limit"),
        ),
        graph(
            "Time of predictions in the application",
            "Without queueing and sending. 99 % should take at most 50 ms.",
            "s",
            *((f"histogram_quantile({q}, {predictions})", f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)),
        ),
        graph(
            "Burn rates of the error budgets",
            f"Consumption over the last hour relative to the budget of 30 days. Alerts: {burning}.",
            "none",
            (f"service:tabserve_predictions_failed:ratio_rate1h{{{SERVICE}}} / {ERROR_BUDGET}", "errors {{service}}"),
            (f"service:tabserve_predictions_slow:ratio_rate1h{{{SERVICE}}} / {SLOW_BUDGET}", "slow {{service}}"),
            ("vector(14.4)", "limit"),
        ),
        graph(
            "Requests in flight",
            "Being answered or waiting, by instance.",
            "short",
            (f"tabserve_requests_in_flight{{{SERVICE}}}", "{{instance}}"),
        ),
        graph(
            "Refused for overload",
            "Predictions answered with 503 because too many were waiting.",
            "reqps",
            (
                f"sum by (instance) (rate(tabserve_overload_rejections_total{{{SERVICE}}}[$__rate_interval]))",
                "{{instance}}",
            ),
        ),
    ]


def model() -> Sequence[Panel]:
    """Return the panels on versions, throughput, engine time and rejected rows."""
    engine = "tabserve_engine_duration_seconds"
    equal = [Threshold(None, "red"), Threshold(1, "green")]
    return [
        flat(
            titled(table.Panel(), "Versions loaded", "Verified on loading; number of instances.", 12)
            .show_header(True)
            .with_target(
                instant_query(f"sum by (model, version, algorithm, engine, digest) (tabserve_model_info{{{MODEL}}})")
            ),
            {"Value": "instances"},
        ),
        titled(stat.Panel(), "Golden rows", "1 if every instance predicts them as in training.", 4)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(equal))
        .with_target(range_query(f"min by (model, version) (tabserve_golden_check_success{{{MODEL}}})", VERSION)),
        graph(
            "Rows predicted",
            "By version.",
            "rowsps",
            (f"sum by (model, version) (rate(tabserve_rows_total{{{MODEL}}}[$__rate_interval]))", VERSION),
        ),
        stacked(
            graph(
                "Rows refused",
                "Rows that do not fit the schema, by reason and feature.",
                "rowsps",
                (
                    f"sum by (reason, feature) (rate(tabserve_rejected_rows_total{{{MODEL}}}[$__rate_interval]))",
                    "{{reason}} {{feature}}",
                ),
            )
        ),
        graph(
            "Time in the engine for a row",
            "The model's part of the time of a request.",
            "s",
            (
                f"sum by (model, version) (rate({engine}_sum{{{MODEL}}}[$__rate_interval])) /\n"
                f"sum by (model, version) (rate(tabserve_rows_total{{{MODEL}}}[$__rate_interval]))",
                VERSION,
            ),
        ),
    ]


def batches() -> Sequence[Panel]:
    """Return the panels on batches, their waiting times and the GPU."""

    def increase(name: str) -> str:
        return f"rate(tabserve_batch_{name}{{{MODEL}}}[$__rate_interval])"

    runs = f"sum by (model, version) ({increase('rows_count')})"
    waits = f"sum by (le) ({increase('wait_seconds_bucket')})"
    gpu = "tabserve_gpu"
    return [
        graph(
            "Rows and requests of a run",
            "Means. At one request per run nothing is batched; at TABSERVE_BATCH_ROWS batches are full.",
            "short",
            (f"sum by (model, version) ({increase('rows_sum')}) / {runs}", f"{VERSION} rows"),
            (f"sum by (model, version) ({increase('wait_seconds_count')}) / {runs}", f"{VERSION} requests"),
        ),
        graph(
            "Wait for a run",
            "The time that batched requests wait for the engine.",
            "s",
            *((f"histogram_quantile({q}, {waits})", f"p{100 * q:g}") for q in (0.5, 0.95, 0.99)),
        ),
        graph(
            "GPU busy",
            "Share of the time in which the GPU was active, by instance.",
            "percentunit",
            (f"{gpu}_busy_ratio{{{SERVICE}}}", "{{instance}}"),
        ),
        graph(
            "GPU memory",
            "Memory used by all processes, by instance, and the total.",
            "bytes",
            (f"{gpu}_memory_used_bytes{{{SERVICE}}}", "{{instance}}"),
            (f"max({gpu}_memory_total_bytes{{{SERVICE}}})", "limit"),
        ),
    ]


def drift() -> Sequence[Panel]:
    """Return the panels on the drift of features and predictions."""
    feature_bins = f'{MODEL}, feature="$feature"'
    return [
        graph(
            "How near to an alert",
            "PSI or KS over its threshold, whichever is larger, for a feature times its weight. Above 1 for 10 minutes "
            "raises an alert.",
            "none",
            (f"tabserve:feature_drift_weighted:ratio{{{MODEL}}}", FEATURE),
            (f"tabserve:prediction_drift:ratio{{{MODEL}}}", f"{VERSION} predictions"),
            ("vector(1)", "limit"),
        ),
        graph(
            "PSI",
            "Population stability index of the last hour, from 100 rows on. Its threshold falls to 0.1 with more rows.",
            "none",
            (f"tabserve:feature_psi{{{MODEL}}}", f"{VERSION} {{{{feature}}}}"),
            (f"tabserve:prediction_psi{{{MODEL}}}", f"{VERSION} predictions"),
            (f"max(tabserve:feature_psi_threshold{{{MODEL}}})", "limit"),
        ),
        graph(
            "KS",
            "The largest distance between the two distribution functions at the edges of the bins, for numbers.",
            "percentunit",
            (f"tabserve:feature_ks{{{MODEL}}}", f"{VERSION} {{{{feature}}}}"),
            (f"tabserve:prediction_ks{{{MODEL}}}", f"{VERSION} predictions"),
            (f"max(tabserve:feature_ks_threshold{{{MODEL}}})", "limit"),
        ),
        bars(
            "Bins of $feature",
            "Shares of the last hour and of training.",
            f"avg by (bin) (tabserve:feature_bin:ratio{{{feature_bins}}})",
            f"avg by (bin) (tabserve:feature_bin_reference:ratio{{{feature_bins}}})",
        ),
        bars(
            "Bins of the predictions",
            "Shares of the last hour and of training.",
            f"avg by (bin) (tabserve:prediction_bin:ratio{{{MODEL}}})",
            f"avg by (bin) (tabserve:prediction_bin_reference:ratio{{{MODEL}}})",
        ),
    ]


def contributions() -> Sequence[Panel]:
    """Return the panels on what moved the predictions that clients had explained."""
    importance = f"tabserve:feature_importance:max{{{MODEL}}}"
    mean = (
        f"sum by (model, version, feature) (rate(tabserve_feature_contribution_total{{{MODEL}}}[$__rate_interval])) /\n"
        "on (model, version) group_left ()\n"
        f"(sum by (model, version) (rate(tabserve_explained_rows_total{{{MODEL}}}[$__rate_interval])) > 0)"
    )
    return [
        stacked(
            graph(
                "What moved the predictions",
                "Share of each feature in the absolute contributions of the last hour, of rows that were explained.",
                "percentunit",
                (f"tabserve:feature_contribution:ratio{{{MODEL}}}", FEATURE),
            )
        ),
        bars(
            "Importance against training",
            "The same shares of the last hour and of training rows.",
            f"avg by (feature) (tabserve:feature_contribution:ratio{{{MODEL}}})",
            f"avg by (feature) ({importance})",
            by="feature",
        ),
        graph(
            "Mean absolute contribution",
            "By how much a feature moved an explained answer, up or down: in the target's unit, or that of the score.",
            "none",
            (mean, FEATURE),
        ),
    ]


def quality() -> Sequence[Panel]:
    """Return the panels on broken data."""

    def share(title: str, name: str, description: str) -> timeseries.Panel:
        return graph(
            title,
            f"Share of the rows of the last hour {description}, refused or answered.",
            "percentunit",
            (f"tabserve:feature_{name}:ratio{{{MODEL}}}", FEATURE),
            (f"max(tabserve:feature_{name}_threshold{{{MODEL}}})", "limit"),
        )

    return [
        graph(
            "Missing",
            "Share of the rows of the last hour in which a feature was missing, refused or answered.",
            "percentunit",
            (f"tabserve:feature_missing:ratio{{{MODEL}}}", FEATURE),
            (f"tabserve:feature_missing_threshold{{{MODEL}}}", f"{FEATURE} limit"),
        ),
        share("Outside the training range", "outside", "in which a number was below or above all of training"),
        share("Unseen categories", "unseen", "in which a category was one that training did not have"),
        graph(
            "Shares of one bin",
            "The largest share of a bin of the feature in the last hour. A feature that is at 1 and varied in training "
            "raises an alert.",
            "percentunit",
            (f"max by (model, version, feature) (tabserve:feature_bin:ratio{{{MODEL}}})", FEATURE),
        ),
    ]


def versions() -> Sequence[Panel]:
    """Return the panels on challengers that answer behind the champion."""
    pair = "model, version, against"
    answered = f"sum by ({pair}, outcome) (rate(tabserve_shadow_rows_total{{{MODEL}}}[$__rate_interval]))"
    missed = f"sum by ({pair}, reason) (rate(tabserve_shadow_missed_rows_total{{{MODEL}}}[$__rate_interval]))"
    sizes = f"sum by ({pair}, le) (rate(tabserve_shadow_difference_bucket{{{MODEL}}}[$__rate_interval]))"
    return [
        graph(
            "Answers that would change",
            "Share of the champion's answers of the last hour to which a challenger's differ in any bit, and of a "
            "classifier those with another label.",
            "percentunit",
            (f"tabserve:shadow_differing:ratio{{{MODEL}}}", PAIR),
            (f"tabserve:shadow_relabelled:ratio{{{MODEL}}}", f"{PAIR} label"),
        ),
        graph(
            "By how much",
            "Of the answers that differ, in the target's unit, or in probability; the largest is since the start.",
            "none",
            *((f"histogram_quantile({q}, {sizes})", f"{PAIR} p{100 * q:g}") for q in (0.5, 0.99)),
            (f"max by ({pair}) (tabserve_shadow_largest_difference{{{MODEL}}})", f"{PAIR} largest"),
        ),
        stacked(
            graph(
                "Rows behind the champion",
                "Compared, by outcome, and missed, by reason: a full queue drops shadows first when there is no time.",
                "rowsps",
                (answered, f"{PAIR} {{{{outcome}}}}"),
                (missed, f"{PAIR} missed: {{{{reason}}}}"),
            )
        ),
    ]


def truth() -> Sequence[Panel]:
    """Return the panels on feedback, live errors and the prediction log."""

    def error(title: str, kind: str, description: str, *more: Query) -> timeseries.Panel:
        return graph(
            f"Live {title}",
            description,
            "none",
            (f"avg by (model, version) (tabserve_live_error_{kind}{{{MODEL}}})", f"{VERSION} live"),
            (f"max by (model, version) (tabserve_validation_{kind}{{{MODEL}}})", f"{VERSION} in validation"),
            *more,
        )

    written = f"rate(tabserve_prediction_log_rows_total{{{SERVICE}}}[$__rate_interval])"
    dropped = f"rate(tabserve_prediction_log_dropped_rows_total{{{SERVICE}}}[$__rate_interval])"
    removed = f"rate(tabserve_prediction_log_removed_rows_total{{{SERVICE}}}[$__rate_interval])"
    failures = f"rate(tabserve_prediction_log_failures_total{{{SERVICE}}}[$__rate_interval])"
    return [
        error(
            "RMSE",
            "rmse",
            "Regressions, compared with validation. Above the limit for 10 minutes raises an alert.",
            (f"tabserve:live_error_rmse_threshold{{{MODEL}}}", "limit"),
        ),
        error("MAE", "mae", "Regressions, compared with validation. Less sensitive to a few large errors than RMSE."),
        error(
            "bias",
            "bias",
            "Regressions: mean of prediction minus truth. Above 0 predictions are too high on average.",
        ),
        error(
            "log loss",
            "log_loss",
            "Classifiers, compared with validation. Above the limit for 10 minutes raises an alert.",
            (f"tabserve:live_error_log_loss_threshold{{{MODEL}}}", "limit"),
        ),
        error("Brier score", "brier", "Classifiers: mean squared error of the probabilities, lower is better."),
        error("accuracy", "accuracy", "Classifiers: share of right labels."),
        error("AUC", "auc", "Classifiers: how well probabilities order the rows; 0.5 is no better than chance."),
        graph(
            "Versions on the same requests",
            "By how much the loss of a version is less than that of the other one, and the interval, which holds at "
            "every look. A difference beyond the margin for 10 minutes raises an alert.",
            "none",
            *(
                (f"tabserve:comparison_{name}{{{MODEL}}}", f"{PAIR} {what}")
                for name, what in (("difference:mean", "less loss"), ("low", "at least"), ("high", "at most"))
            ),
            (f"tabserve:comparison_margin{{{MODEL}}}", "margin"),
        ),
        graph(
            "Truths in the window",
            "Rows in the live errors; an alert needs 30.",
            "short",
            (f"tabserve:live_error_rows:max{{{MODEL}}}", VERSION),
        ),
        graph(
            "Truths coming in",
            "True values by outcome; unknown ones belong to no stored prediction.",
            "rowsps",
            (f"sum by (outcome) (rate(tabserve_feedback_rows_total{{{SERVICE}}}[$__rate_interval]))", "{{outcome}}"),
        ),
        graph(
            "Prediction log",
            "Rows written, rows dropped, and rows removed because of their age or the log's size.",
            "rowsps",
            (f"sum({written})", "written"),
            (f"sum by (reason) ({dropped})", "dropped: {{reason}}"),
            (f"sum by (reason) ({removed})", "removed: {{reason}}"),
        ),
        graph(
            "Prediction log fails",
            "Failed attempts to write; rows wait until an attempt succeeds.",
            "ops",
            (f"sum by (instance) ({failures})", "{{instance}}"),
        ),
    ]
