"""Every counter and histogram of the service: its name, its help text, its labels, and the question that it answers.

A definition is called with a registry, in which it then has values. The order here is the order of `/metrics`.
gauges.py has the gauges about the loaded models.
"""

from __future__ import annotations

from functools import partial

from prometheus_client import Counter, Gauge, Histogram, Summary

# From well below a millisecond, the time of a single row, to where clients give up.
DURATION_BUCKETS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05),
    *(0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)

# Steps of about a half in order of magnitude, in the unit of any target.
DIFFERENCE_BUCKETS = tuple(float(f"{digit}e{power}") for power in range(-6, 7) for digit in (1, 3))

BATCH_BUCKETS = tuple(2**power for power in range(15))  # from a single row to more than a request may have by default

_VERSION = ["model", "version"]
_PAIR = [*_VERSION, "against"]

# Does the service answer, and with which status? Rate and errors, by route.
REQUESTS = partial(Counter, "http_requests_total", "Requests answered.", ["method", "route", "status"])

# How long does a reply take? Latency objectives and their burn rate, by route.
DURATIONS = partial(
    Histogram,
    "http_request_duration_seconds",
    "Time in the application, without the wait for it and without sending.",
    ["route"],
    buckets=DURATION_BUCKETS,
)

# Which model's requests are answered, and how long do they take, by outcome? Also for V2's statistics.
INFERENCES = partial(
    Summary,
    "tabserve_inference_duration_seconds",
    "Time in the application for prediction requests; outcome is success or failure.",
    [*_VERSION, "outcome"],
)

# How much of that is the engine?
ENGINE = partial(
    Summary,
    "tabserve_engine_duration_seconds",
    "Time in the engine: a request's share of a run, or the whole run where requests wait for each other.",
    _VERSION,
)

# Are requests run together, and is the limit on their rows reached?
BATCH_ROWS = partial(
    Histogram,
    "tabserve_batch_rows",
    "Rows of each run of an engine that runs requests together.",
    _VERSION,
    buckets=BATCH_BUCKETS,
)

# How long do they wait for each other: is the engine, or the GPU, the bottleneck?
BATCH_WAITS = partial(
    Histogram,
    "tabserve_batch_wait_seconds",
    "Time that a request waited for an engine that runs requests together.",
    _VERSION,
    buckets=DURATION_BUCKETS,
)

# How busy is the service now? For the autoscaler.
IN_FLIGHT = partial(
    Gauge,
    "tabserve_requests_in_flight",
    "Requests that all workers answer or keep waiting; at most about a second old.",
)

# How many rows are predicted? Capacity, and batches in one request.
ROWS = partial(Counter, "tabserve_rows_total", "Rows predicted.", _VERSION)

# Which rows do not fit the schema, and why? Also shows a value that is missing more often than before.
REJECTED_ROWS = partial(
    Counter,
    "tabserve_rejected_rows_total",
    "Rows refused because they do not fit the schema; a row counts for each feature and reason.",
    [*_VERSION, "reason", "feature"],
)

# Does a challenger answer what it is to answer? A request that it fails is answered by the champion.
CHALLENGER_REQUESTS = partial(
    Counter,
    "tabserve_challenger_requests_total",
    "Requests that a canary or an A/B test was to answer, whether it did or the champion had to.",
    _VERSION,
)
FALLBACKS = partial(
    Counter,
    "tabserve_challenger_fallbacks_total",
    "Requests for a challenger that the champion answered, by the reason.",
    [*_VERSION, "reason"],
)

# Does the server serve what the store names? A version that does not verify is refused, and the old one answers. So it
# does while a store behind a URL cannot be read.
RELOAD_REFUSED = partial(
    Gauge,
    "tabserve_reload_refused",
    "1 while the store names versions that the server refuses to load, or cannot be read behind its URL, else 0.",
)

# Is there more load than capacity? Then scale out.
OVERLOAD = partial(Counter, "tabserve_overload_rejections_total", "Requests refused because too many wait.")

# Whose requests are these? A token counts as jwt, whoever has it.
KEY_REQUESTS = partial(Counter, "tabserve_key_requests_total", "Requests with an accepted key.", ["key", "status"])

# Does somebody try keys, or has a client a wrong or an old one?
REFUSED_REQUESTS = partial(
    Counter,
    "tabserve_refused_requests_total",
    "Requests refused for their key: missing, unknown, expired, without the scope, too many (rate), or from an address "
    "that sent too many unknown ones (guesses).",
    ["reason"],
)

# Do features and predictions still look like the training data? Recording rules compute drift from these.
FEATURE_BINS = partial(
    Counter,
    "tabserve_feature_bin_total",
    "Feature values of answered rows, by the bins of the training distribution.",
    [*_VERSION, "feature", "bin"],
)
PREDICTION_BINS = partial(
    Counter,
    "tabserve_prediction_bin_total",
    "Predictions, by the bins of the predictions for the training rows.",
    [*_VERSION, "bin"],
)

# What moved the predictions? Of the rows whose explanations clients asked for.
CONTRIBUTIONS = partial(
    Counter,
    "tabserve_feature_contribution_total",
    "Absolute contributions to explained answers, by feature; what several contribute together counts evenly.",
    [*_VERSION, "feature"],
)
EXPLAINED_ROWS = partial(Counter, "tabserve_explained_rows_total", "Rows whose answers were explained.", _VERSION)

# What would change if a challenger were the champion, before any truth comes? The exact share of answers.
SHADOW_ROWS = partial(
    Counter,
    "tabserve_shadow_rows_total",
    "Rows that a challenger answered behind the champion; outcome is equal (in every bit), different or relabelled.",
    [*_PAIR, "outcome"],
)

# By how much?
SHADOW_DIFFERENCES = partial(
    Histogram,
    "tabserve_shadow_difference",
    "Differences of the answers that differ: of predictions, or for a classifier the largest one of a probability.",
    _PAIR,
    buckets=DIFFERENCE_BUCKETS,
)
LARGEST_SHADOW_DIFFERENCE = partial(
    Gauge,
    "tabserve_shadow_largest_difference",
    "The largest of these differences since the server started.",
    _PAIR,
    multiprocess_mode="max",
)

# Is that of all rows, or does a challenger answer too slowly, fail, or need other columns?
MISSED_SHADOW_ROWS = partial(
    Counter,
    "tabserve_shadow_missed_rows_total",
    "Rows that a challenger did not answer behind the champion, or not comparably, by reason.",
    [*_PAIR, "reason"],
)

# Is the prediction log complete, so that feedback finds its predictions?
LOGGED_ROWS = partial(Counter, "tabserve_prediction_log_rows_total", "Rows written to the prediction log.")
LOGGED_SHADOWS = partial(
    Counter,
    "tabserve_prediction_log_shadow_rows_total",
    "Answers of challengers written to the prediction log, beside the rows that clients got.",
)
DROPPED_ROWS = partial(
    Counter,
    "tabserve_prediction_log_dropped_rows_total",
    "Rows missing from the prediction log: it was slow or unavailable, or has rows of the same request id.",
    ["reason"],
)
REMOVED_ROWS = partial(
    Counter,
    "tabserve_prediction_log_removed_rows_total",
    "Rows removed from the prediction log: by age, or the oldest rows of a log that was too large.",
    ["reason"],
)
LOG_FAILURES = partial(
    Counter, "tabserve_prediction_log_failures_total", "Failed accesses to the prediction log; rows to be written wait."
)

# Are truths reported, and for known predictions?
FEEDBACK_ROWS = partial(Counter, "tabserve_feedback_rows_total", "True values received.", ["outcome"])
