"""POST /feedback: true values that are known later, matched to their predictions by request id.

The true value of a regression is a number, that of a classification a label of the model.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from math import isfinite
from typing import TYPE_CHECKING, Any

from flask import Blueprint, request

from app.config import Config
from app.errors import OverloadedError, UnknownPredictionsError
from app.protocols import tables
from app.protocols.views import Views
from app.routes.describe_feedback import describe_feedback
from app.serving.current import Serving
from app.telemetry import prediction_writer, recorder
from app.telemetry.metrics import OUTCOMES, Metrics
from app.telemetry.prediction_writer import LogWriter
from app.web import body
from app.web.caller import FEEDBACK
from app.web.exchange import REQUEST_ID, exchange_of
from app.web.refusal import MAX_DETAILS
from app.web.reply import JSON_TYPE, Reply, to_json
from model import (
    MAX_PROBLEMS,
    MISSING,
    NOT_A_NUMBER,
    NOT_FINITE,
    OUT_OF_RANGE,
    UNKNOWN,
    Feature,
    ImplausibleTruthsError,
    Problem,
    SchemaError,
    TooManyRowsError,
    shortened,
)

if TYPE_CHECKING:
    from model.live.prediction_log import PredictionLog

_FIELDS = ("request_id", "row", "truth", "replace")
PATH = "/feedback"
Truth = float | str | bool
MAX_ROW = 2**31 - 1  # what a database's integer holds
_MAX_VALUES_A_ROW = 10  # a truth's three fields, and as many again that a client adds
_MAX_UNKNOWN = 20  # unknown fields that are reported for an object: a reply need not list all that a client made up
MAX_TRUTH = 1e150  # the square of a larger error would overflow, and with it the mean over all rows
# How far beyond the training range a truth may be, in widths of that range: an honest truth is hardly ever so far out,
# and this bounds what a false one does to the live error.
TRUTH_WIDTHS = 10
# Of a worker's four threads two may use the database, which may be slow, and a third may wait for predictions to be
# written: the fourth answers long predictions.
_MAX_CONCURRENT = 2
# A prediction waits in the recorder, then in the writer's queue, and takes a moment to be written.
_MAX_WAIT_SECONDS = recorder.INTERVAL_SECONDS + prediction_writer.INTERVAL_SECONDS + 0.5
# Ids of requests whose predictions are not written yet. For more the reply does not wait: to find them takes long.
_MAX_LATE_IDS = 250


def blueprint(
    config: Config,
    metrics: Metrics,
    log: PredictionLog | None,
    writer: LogWriter | None,
    serving: Serving,
    views: Views,
) -> Blueprint:
    """Return the route for feedback, to a log and its writer in this process if there are any."""
    routes = Blueprint("feedback", __name__)
    database_slots, wait_slots = threading.Semaphore(_MAX_CONCURRENT), threading.Semaphore(1)

    @contextmanager
    def slot_of(slots: threading.Semaphore) -> Iterator[None]:
        if not slots.acquire(blocking=False):
            raise OverloadedError("too many feedback requests are in progress here; try again")
        try:
            yield
        finally:
            slots.release()

    @routes.post(PATH)
    @views.describe(partial(describe_feedback, config, max_row=MAX_ROW, max_truth=MAX_TRUTH, outcomes=OUTCOMES))
    def feedback() -> Reply:
        """Write true values beside their predictions, and report the outcome of each.

        The first truth of a row stays, unless another one has `replace`. If predictions of few requests are unknown,
        one feedback request at a time waits for them to be written: until this worker has written its own, and for
        those of other workers and pods until they must be there. To a key without the scope `feedback` the predictions
        of other keys are unknown.
        """
        body.content_type(request.environ, (JSON_TYPE,))
        content = body.read(request.environ, max_bytes=config.max_body_bytes)
        value = body.parse_json(content, max_values=_MAX_VALUES_A_ROW * config.max_rows)
        models = serving.loaded.models
        truths = decode(
            value, max_rows=config.max_rows, labels=any(model.manifest.classes for model in models.values())
        )
        items = value if isinstance(value, list) else [value]
        item_numbers = _item_numbers(items)
        replace = {truth[:2] for truth, number in zip(truths, item_numbers) if items[number].get("replace")}
        ranges = {
            name: plausible_range(model.schema.target) for name, model in models.items() if not model.manifest.classes
        }
        if log is None or writer is None:
            raise UnknownPredictionsError("no prediction log is kept; set TABSERVE_PREDICTION_LOG to a database")
        oldest = datetime.now(UTC) - timedelta(days=config.prediction_log_days)
        caller = exchange_of(request.environ).caller
        its_name = None if caller is None or caller.may(FEEDBACK) else caller.name

        def add(indexes: Sequence[int]) -> list[str]:
            try:
                sent = [truths[index] for index in indexes]
                return [*log.add_truths(sent, oldest=oldest, replace=replace, ranges=ranges, caller=its_name)]
            except ImplausibleTruthsError as error:
                problems = {
                    dataclasses.replace(problem, row=item_numbers[indexes[index]]): None
                    for index, problem in error.problems.items()
                }
                raise SchemaError([*problems], n_rows=len(items)) from None

        n_writes = writer.n_writes
        with slot_of(database_slots):
            outcomes = add(range(len(truths)))
        late = [index for index, outcome in enumerate(outcomes) if outcome == "unknown"]
        if late and len({truths[index][0] for index in late}) <= _MAX_LATE_IDS:
            with suppress(OverloadedError), slot_of(wait_slots):
                deadline = time.monotonic() + _MAX_WAIT_SECONDS
                while late and (seconds := deadline - time.monotonic()) > 0:
                    n_writes = writer.wait_for_write(n_writes, seconds)
                    try:
                        with slot_of(database_slots):
                            retried = add(late)
                    except OverloadedError:
                        continue  # until the next write
                    except SchemaError:
                        if len(late) == len(truths):
                            raise
                        break  # The others are written. These stay unknown; if they are sent again they are refused.
                    for index, outcome in zip(late, retried):
                        outcomes[index] = outcome
                    late = [index for index in late if outcomes[index] == "unknown"]
        counts = Counter(outcomes)
        for outcome in OUTCOMES:
            metrics.count_feedback(outcome, counts[outcome])
        if counts["unknown"] == len(truths):
            raise UnknownPredictionsError(
                "none of these predictions is known: they are not in this server's log, or older than "
                f"{config.prediction_log_days} days" + (", or another key asked for them" if its_name else "")
            )

        def rows_with(outcome: str) -> list[dict[str, Any]]:
            found = (truth for truth, its_outcome in zip(truths, outcomes) if its_outcome == outcome)
            return [{"request_id": request_id, "row": row} for request_id, row, _ in islice(found, MAX_DETAILS)]

        return to_json(
            {
                **{outcome: counts[outcome] for outcome in OUTCOMES},
                "conflicting_rows": rows_with("conflicting"),
                "unknown_rows": rows_with("unknown"),
            }
        )

    return routes


def decode(value: Any, *, max_rows: int, labels: bool = False) -> list[tuple[str, int, Truth]]:
    """Return (request id, row, truth) of each true value in a body, which is an object or a list of objects.

    An object is `{"request_id": "…", "row": 0, "truth": 24.0}`, where the row is 0 by default, or `{"request_id": "…",
    "truth": [24.0, null, 21.6]}` with a truth for each row from 0, null if it is not known. Either may have `"replace":
    true`. With `labels`, a truth may also be a string, true or false. Raises `SchemaError` with every problem.
    """
    items = value if isinstance(value, list) else [value]
    tables.check_rows(len(items), max_rows)
    truths: list[tuple[str, int, Truth]] = []
    problems: list[Problem] = []
    for number, item in enumerate(items):
        if len(problems) > MAX_PROBLEMS:
            break
        if not isinstance(item, dict):
            problems.append(Problem(number, None, "not an object"))
            continue
        unknown = (name for name in item if name not in _FIELDS)
        problems += [Problem(number, shortened(name), UNKNOWN) for name in islice(unknown, _MAX_UNKNOWN)]
        problems += [Problem(number, name, MISSING) for name in ("request_id", "truth") if name not in item]
        request_id, truth = item.get("request_id", "none"), item.get("truth", 0)
        row = body.whole_number(item.get("row", 0))
        if not isinstance(request_id, str):
            problems.append(Problem(number, "request_id", "not a string"))
        elif not REQUEST_ID.fullmatch(request_id):
            problems.append(Problem(number, "request_id", "not 1 to 128 visible ASCII characters"))
        if not isinstance(item.get("replace", False), bool):
            problems.append(Problem(number, "replace", "neither true nor false"))
        if isinstance(truth, list) and "row" in item:
            problems.append(Problem(number, "row", "not allowed beside a list of truths, which is for all rows"))
        elif row is None or not 0 <= row <= MAX_ROW:
            problems.append(Problem(number, "row", f"not a whole number from 0 to {MAX_ROW}"))
        if isinstance(truth, list):
            if len(truths) + len(truth) > max_rows:  # before lists of them are made
                raise TooManyRowsError(max_rows)
            known = [pair for pair in enumerate(truth) if pair[1] is not None]
        else:
            known = [(row or 0, truth)]  # a row of None is a problem already
        reasons = {reason for _, known_truth in known if (reason := _reason(known_truth, labels=labels))}
        problems += [Problem(number, "truth", reason) for reason in sorted(reasons)]
        if not problems:
            truths += [
                (request_id, row, float(known_truth) if type(known_truth) is int else known_truth)
                for row, known_truth in known
            ]
    if problems:
        raise SchemaError(problems[:MAX_PROBLEMS], n_rows=len(items), more=len(problems) > MAX_PROBLEMS)
    tables.check_rows(len(truths), max_rows)
    return truths


def plausible_range(target: Feature) -> tuple[float, float]:
    """Return the smallest and largest truth that is accepted: the training range, extended by ten times its width."""
    width = target.maximum - target.minimum or max(abs(target.maximum), 1.0)
    reach = TRUTH_WIDTHS * width
    return max(target.minimum - reach, -MAX_TRUTH), min(target.maximum + reach, MAX_TRUTH)


def _item_numbers(items: Sequence[dict[str, Any]]) -> list[int]:
    """Return for each truth that `decode` returns the number of the object that contains it."""
    counts = (
        len(item["truth"]) - item["truth"].count(None) if isinstance(item["truth"], list) else 1 for item in items
    )
    return [number for number, count in enumerate(counts) for _ in range(count)]


def _reason(truth: Any, *, labels: bool) -> str | None:
    """Return what is wrong with a true value, or None."""
    if labels and type(truth) in (str, bool):
        return None
    if type(truth) not in (int, float):
        return NOT_A_NUMBER
    if isinstance(truth, float) and not isfinite(truth):
        return NOT_FINITE
    return OUT_OF_RANGE if abs(truth) > MAX_TRUTH else None
