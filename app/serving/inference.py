"""From rows and a model to predictions: one run of the engine for all requests that may share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.serving.current import Serving
from app.serving.lane import Lane
from model import Artifact, DeviceError, Matrix

Rows = tuple[Artifact, Matrix]
"""A request's model, and its rows `(n_rows, n_features)`."""


class Outcome(NamedTuple):
    """A model's answers, as of `Artifact.predict`, or the engine's error, and the request's share of its seconds."""

    y: NDArray[np.float64] | None
    error: Exception | None
    seconds: float


class Inference:
    """Runs engines; stops serving the models of a lost device."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._lanes: dict[tuple[str, int], Lane] = {}  # made when they are needed: threads do not survive a fork
        self._making = threading.Lock()

    def run(self, requests: Sequence[Rows]) -> list[Outcome]:
        """Return the outcome of each request.

        Requests for the same model share a run of its engine if the other rows of a run change no bit of a prediction.
        """
        if len(requests) == 1:
            return self._run(requests)
        groups: dict[int, list[int]] = {}
        for number, (model, _) in enumerate(requests):
            key = id(model) if model.manifest.is_alike_in_every_batch else -number
            groups.setdefault(key, []).append(number)
        outcomes: dict[int, Outcome] = {}
        for numbers in groups.values():
            outcomes.update(zip(numbers, self._run([requests[number] for number in numbers])))
        return [outcomes[number] for number in range(len(requests))]

    def run_within(self, model: Artifact, X: Matrix, *, seconds: float) -> Outcome:
        """Return the outcome of rows that a version answers in a thread of its own, within so many seconds.

        Raises `BusyError` and `SlowError`, and `ValueError` if the answers cannot be right.
        """
        version = model.name, model.version
        with self._making:
            lane = self._lanes.get(version) or self._lanes.setdefault(version, Lane(f"{model.name}@{model.version}"))
        (outcome,) = lane.run(lambda: self._run([(model, X)]), seconds=seconds)
        if outcome.y is not None and not (len(outcome.y) == len(X) and np.isfinite(outcome.y).all()):
            raise ValueError("not a finite answer for each row")
        return outcome

    def _run(self, requests: Sequence[Rows]) -> list[Outcome]:
        """Run one engine once; if that fails for several requests, run each alone, so that only bad requests fail."""
        model, X = requests[0]
        started = time.perf_counter()
        try:
            X = np.concatenate([X for _, X in requests]) if len(requests) > 1 else X
            y = model.engine.predict(X)
            if len(y) != len(X):
                raise ValueError(f"{len(y)} answers to {len(X)} rows")
        except Exception as error:
            seconds = time.perf_counter() - started
            if len(requests) > 1:
                shares = _shares(seconds, requests)
                retried = [self._run([request])[0] for request in requests]
                return [outcome._replace(seconds=outcome.seconds + share) for outcome, share in zip(retried, shares)]
            if isinstance(error, DeviceError):
                self._serving.lose_device(error)
            return [Outcome(None, error, seconds)]
        seconds = time.perf_counter() - started
        if len(requests) == 1:
            return [Outcome(y, None, seconds)]
        outcomes, start = [], 0
        for (_, X), share in zip(requests, _shares(seconds, requests)):
            outcomes.append(Outcome(y[start : start + len(X)], None, share))
            start += len(X)
        return outcomes


def _shares(seconds: float, requests: Sequence[Rows]) -> list[float]:
    """Divide the time of a run among its requests, by rows."""
    n_rows = sum(len(X) for _, X in requests)
    return [seconds * len(X) / n_rows for _, X in requests]
