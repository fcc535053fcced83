"""Rules for the service and its models: objectives, outages, golden rows, live errors."""

from __future__ import annotations

from model.live.judge import LIVE_ERROR_DEVIATIONS, LIVE_ERROR_MARGIN, LIVE_LOG_LOSS_MARGIN, MINIMUM_TRUTHS
from monitoring.rule import VERSION, Rule, alert, record

# Every POST is a prediction, since platforms choose the path, except for the routes listed here. A probe's 503 is not
# an error.
PREDICTIONS = 'job="tabserve", method="POST", route!~"/feedback|/v2/repository/index|unmatched"'
SERVICE = "namespace, job, service"  # a canary is a Service of its own
NAMED = "{{ or $labels.service $labels.job }}"  # plain Prometheus has no Services

# Objectives: 99.9 % of the predictions without 5xx, 99 % within 50 ms.
ERROR_BUDGET = 0.001
SLOW_BUDGET = 0.01
SLOW = "0.05"  # seconds; a bucket of http_request_duration_seconds
# 2 % of the 30-day budget in one hour and 5 % in six (Site Reliability Workbook, chapter 5). The short window resolves
# the alert soon after its cause ends.
BURN_RATES = (("1h", 3600, "5m", 14.4, "2m", "critical"), ("6h", 21600, "30m", 6, "15m", "warning"))
WINDOWS = ("5m", "30m", "1h", "6h")
CHALLENGER_BUDGET = 0.01  # requests for a challenger that it may leave to the champion
# With few requests one failure is a large share, but not worth a page.
MINIMUM_FAILURES = 5


def rate(selector: str, window: str, by: str = SERVICE) -> str:
    """Return the requests per second of a selection of http_requests_total."""
    return f"sum by ({by}) (rate(http_requests_total{{{selector}}}[{window}]))"


def objectives() -> list[Rule]:
    """Return the rules of both objectives: the shares that failed or were slow in each window, and the alerts."""
    rules = []
    for window in WINDOWS:
        every = f"service:tabserve_predictions:rate{window}"
        failed = rate(f'{PREDICTIONS}, status=~"5.."', window)
        in_time = _durations(f'bucket{{job="tabserve", le="{SLOW}"}}', window)
        timed = _durations('count{job="tabserve"}', window)
        rules += [
            record(every, rate(PREDICTIONS, window)),
            record(
                f"service:tabserve_predictions_failed:ratio_rate{window}",
                f"({failed} or 0 * {every}) /\n({every} > 0)",
            ),
            record(f"service:tabserve_predictions_slow:ratio_rate{window}", f"1 - {in_time} /\n{timed}"),
        ]
    return [
        *rules,
        *_burning("TabserveErrors", "failed", ERROR_BUDGET, "with 5xx"),
        *_burning("TabserveSlow", "slow", SLOW_BUDGET, f"later than {float(SLOW) * 1000:.0f} ms"),
    ]


def _durations(series: str, window: str) -> str:
    """Return the rate of a series of the histogram, over the routes with predictions in the window.

    The histogram has no label for the method, and Vertex AI chooses the paths of predictions and health checks. Routes
    with predictions are therefore those with POST requests, which health checks do not use.
    """
    routes = f"{rate(PREDICTIONS, window, f'{SERVICE}, route')} > 0"
    return (
        f"sum by ({SERVICE}) (\n"
        f"  sum by ({SERVICE}, route) (rate(http_request_duration_seconds_{series}[{window}])) and\n  {routes}\n)"
    )


def _burning(name: str, kind: str, budget: float, how: str) -> list[Rule]:
    """Return the alerts of one objective: a critical one for a fast burn, and a warning for a slow one."""
    ratio = f"service:tabserve_predictions_{kind}:ratio_rate"
    return [
        alert(
            name,
            f"{ratio}{long} > {factor * budget:g} and {ratio}{short} > {factor * budget:g} and\n"
            f"{ratio}{long} * service:tabserve_predictions:rate{long} * {seconds} >= {MINIMUM_FAILURES}",
            hold=hold,
            severity=severity,
            summary=f"{NAMED} answers too many predictions {how}.",
            description=f"{{{{ $value | humanizePercentage }}}} of the predictions of the last {long}; the objective "
            f"allows {100 * budget:g} %. The budget of 30 days burns {factor:g} times as fast as allowed.",
        )
        for long, seconds, short, factor, hold, severity in BURN_RATES
    ]


def outages() -> list[Rule]:
    """Return the alerts for a service that is down, lacks a version, gets no traffic or is overloaded."""
    predictions = f"sum by ({SERVICE}) (increase(http_requests_total{{{PREDICTIONS}}}"
    challenger = f"{SERVICE}, model, version"
    failing, challenged = (
        f'sum by ({challenger}) (rate(tabserve_challenger_{each}_total{{job="tabserve"}}[5m]))'
        for each in ("fallbacks", "requests")
    )
    return [
        alert(
            "TabserveDown",
            f'absent(up{{job="tabserve"}}) or sum by ({SERVICE}) (up{{job="tabserve"}}) == 0',
            hold="2m",  # longer than a rollout is unavailable, also on a single GPU
            severity="critical",
            summary=f"No instance of {NAMED} answers Prometheus.",
            description="None has answered /metrics for two minutes, so its predictions are not monitored either.",
        ),
        alert(
            "TabserveNotReady",
            'tabserve_ready{job="tabserve"} == 0',
            hold="2m",  # longer than a drain
            severity="critical",
            summary="{{ or $labels.pod $labels.instance }} runs, but not all configured models are loaded.",
            description="It gets no requests from its Service; its /readyz says why.",
        ),
        alert(
            "TabserveGoldenRowsFail",
            'tabserve_golden_check_success{job="tabserve"} == 0',
            hold="1m",
            severity="critical",
            summary="{{ $labels.model }} version {{ $labels.version }} does not predict as it did in training.",
            description="On {{ or $labels.pod $labels.instance }}, golden rows are predicted differently; not served.",
        ),
        alert(
            "TabserveReloadRefused",
            f'max by ({SERVICE}) (tabserve_reload_refused{{job="tabserve"}}) > 0',
            hold="2m",  # longer than it takes to write a version's files
            severity="warning",
            summary=f"{NAMED} does not serve what its store names: it does not verify or cannot be read.",
            description="The versions of before answer; the log says why the new ones are refused.",
        ),
        alert(
            "TabserveVersionsNotLoaded",
            f'max by ({SERVICE}, model) (tabserve_versions_not_loaded{{job="tabserve"}}) > 0',
            hold="2m",
            severity="warning",
            summary="{{ $labels.model }} lacks {{ $value }} of the versions beside its champion.",
            description=f"On {NAMED} they are missing or do not verify; the champion answers in their place.",
        ),
        # Of the requests that were for it: others may name its version, which no champion answers for it.
        alert(
            "TabserveChallengerFails",
            f"{failing} /\n{challenged} > {CHALLENGER_BUDGET:g} and\n{failing} * 300 >= {MINIMUM_FAILURES}",
            hold="5m",
            severity="warning",
            summary="The champion answers requests for {{ $labels.model }} version {{ $labels.version }}.",
            description=f"On {NAMED}, {{{{ $value | humanizePercentage }}}} of the requests for this challenger were "
            "too slow, failed or were refused by it.",
        ),
        # At the rate of the hour before there would be 15 requests; none arrives by chance once in 3 million quarter
        # hours. If yesterday was as quiet at this time, it is the end of a working day.
        alert(
            "TabserveNoTraffic",
            f'count by ({SERVICE}) (up{{job="tabserve"}} == 1)\n'
            f"unless {predictions}[15m])) > 0\n"
            f"and {predictions}[1h] offset 15m)) > 60\n"
            f"unless {predictions}[15m] offset 1d)) == 0",
            hold="1m",
            severity="warning",
            summary=f"{NAMED} has had no prediction request for 15 minutes.",
            description="There was more than one a minute in the hour before.",
        ),
        alert(
            "TabserveOverloaded",
            f'sum by ({SERVICE}) (rate(tabserve_overload_rejections_total{{job="tabserve"}}[5m])) /\n'
            f"service:tabserve_predictions:rate5m > {ERROR_BUDGET:g}",
            hold="5m",
            severity="warning",
            summary=f"{NAMED} is overloaded and refuses predictions.",
            description="{{ $value | humanizePercentage }} of the predictions of the last 5m were refused with 503.",
        ),
        alert(
            "TabservePredictionLogFails",
            f'sum by ({SERVICE}) (increase(tabserve_prediction_log_failures_total{{job="tabserve"}}[2m])) > 0',
            hold="5m",  # longer than a restart of the database, which loses nothing
            severity="warning",
            summary=f"{NAMED} cannot use its prediction log.",
            description="{{ $value | humanize }} attempts of the last 2m failed. Rows wait until there are too many.",
        ),
        alert(
            "TabservePredictionLogLosesRows",
            f"sum by ({SERVICE}, reason)\n"
            '  (increase(tabserve_prediction_log_dropped_rows_total{job="tabserve", reason!="repeated"}[10m])) > 0',
            hold="0s",  # dropped rows are lost
            severity="warning",
            summary=f"{NAMED} lost rows of its prediction log: their true values cannot be matched.",
            description="{{ $value | humanize }} rows of the last 10m are not in the log: {{ $labels.reason }}.",
        ),
    ]


def live_errors(*, hold: str) -> list[Rule]:
    """Return the rules that compare the live RMSE, or the log loss of a classifier, with that of validation.

    Pods that share a database all report the same figures, so they are not summed.
    """
    return [
        record("tabserve:live_error_rmse:avg", f"avg by ({VERSION}) (tabserve_live_error_rmse)"),
        record("tabserve:live_error_rows:max", f"max by ({VERSION}) (tabserve_live_error_rows)"),
        record(
            "tabserve:live_error_rmse_threshold",
            f"max by ({VERSION}) (tabserve_validation_rmse) * ({LIVE_ERROR_MARGIN} + {LIVE_ERROR_DEVIATIONS} * sqrt(\n"
            f"  2 / (tabserve:live_error_rows:max >= {MINIMUM_TRUTHS}) +\n"
            f"  2 / max by ({VERSION}) (tabserve_validation_rows)\n))",
        ),
        record("tabserve:live_error_log_loss:avg", f"avg by ({VERSION}) (tabserve_live_error_log_loss)"),
        record(
            "tabserve:log_loss_deviation:max",
            f"max by ({VERSION}) (\n"
            '  label_replace(tabserve_live_error_log_loss_deviation, "of", "live", "", "") or\n'
            "  tabserve_validation_log_loss_deviation\n)",
        ),
        record(
            "tabserve:live_error_log_loss_threshold",
            f"max by ({VERSION}) (tabserve_validation_log_loss) * {LIVE_ERROR_MARGIN} + {LIVE_LOG_LOSS_MARGIN} +\n"
            f"{LIVE_ERROR_DEVIATIONS} * tabserve:log_loss_deviation:max * sqrt(\n"
            f"  1 / (tabserve:live_error_rows:max >= {MINIMUM_TRUTHS}) +\n"
            f"  1 / max by ({VERSION}) (tabserve_validation_rows)\n)",
        ),
        alert(
            "TabserveLiveErrorHigh",
            "tabserve:live_error_rmse:avg > tabserve:live_error_rmse_threshold or\n"
            "tabserve:live_error_log_loss:avg > tabserve:live_error_log_loss_threshold",
            hold=hold,
            severity="critical",
            summary="{{ $labels.model }} has a larger error than in validation.",
            description="The error of {{ $labels.model }} version {{ $labels.version }} on the true values, its RMSE "
            "or a classifier's log loss, is {{ $value | humanize }}, more than chance explains compared with "
            "validation.",
        ),
    ]
