"""From the sums of a model to its answers. One row takes plain floats: a call of numpy takes longer than its work."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from model.engine import steps
from model.engine.steps import Step
from model.schema.features import Matrix

Row = list[float]


def _float32(value: float) -> float:
    """Round to float32; a number that is too large becomes infinite."""
    return ctypes.c_float(value).value


_LARGEST_EXPONENT_32 = _float32(88.7)
_INFINITE = 1_024 * 2_048
_POWERS, _FRACTIONS = ([2.0 ** (i / n) for i in range(n)] for n in (32, 2048))


class Answers:
    """Makes answers of sums: by the steps, and for a classifier by the decision on a label."""

    def __init__(self, n_sums: int, of_sums: Sequence[Step], decision: str | None) -> None:
        """Take parsed steps, and one of `steps.DECISIONS`, or None for a regression.

        Raises `ValueError` if the decision needs another number of sums or of probabilities.
        """
        self._steps, self._decision = tuple(of_sums), decision
        # Without a label, a single step is faster with numpy. Python divides by no zero.
        is_longer = decision is not None or len(self._steps) > 1
        self._of_row = is_longer and all(name in _OF_ROW and 0.0 not in numbers for name, numbers in self._steps)
        with np.errstate(all="ignore"):
            self._many(np.zeros((1, n_sums)))

    def __call__(self, sums: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` for sums `(n_rows, n_sums)`; of a classifier `(n_rows, 1 + n_classes)`."""
        if self._of_row and len(sums) == 1:
            row = sums[0].tolist()
            if all(map(math.isfinite, row)):
                return self._one(row)
        return self._many(sums)

    def _many(self, sums: Matrix) -> NDArray[np.float64]:
        outputs = steps.run(self._steps, sums)
        if self._decision is None:
            return outputs[:, 0]
        answers = np.empty((len(outputs), 1 + outputs.shape[1]))
        answers[:, 0] = steps.decide(self._decision, sums, outputs)
        answers[:, 1:] = outputs
        return answers

    def _one(self, sums: Row) -> NDArray[np.float64]:
        values = sums
        for name, numbers in self._steps:
            values = _OF_ROW[name](values, *numbers)
        if self._decision is None:
            return np.array(values[:1])
        return np.array([[_DECISIONS[self._decision](sums, values), *values]])


def _exp32(value: float) -> float:
    scaled = steps.LOG2E_32 * min(max(value, -200.0), 200.0)
    whole = round(scaled)
    rest = scaled - whole
    high, middle, low = steps.EXP_32
    power = math.ldexp(_POWERS[whole % 32], whole // 32)
    return _float32(((high * rest + middle) * (rest * rest) + (low * rest + 1)) * power)


def _logistic32(value: float) -> float:
    return _float32(1 / _float32(_exp32(min(-value, _LARGEST_EXPONENT_32)) + 1))


def _fast_exp(value: float) -> float:
    lowest, highest = steps.FAST_EXP_ENDS
    value = min(max(value, lowest), highest)
    whole = int(value * steps.PER_EXPONENT + steps.SHIFT - steps.SHIFT)
    rest = whole * (1 / steps.PER_EXPONENT) - value
    power = math.ldexp(_FRACTIONS[whole % 2048], whole // 2048) if whole < _INFINITE else math.inf
    return ((3.0000000027955394 - rest) * (rest * rest) * 0.16666666685227835064 - rest + 1.0) * power


def _softmax(values: Row, exp: Callable[[float], float]) -> Row:
    largest = max(values)
    powers = [exp(value - largest) for value in values]
    total = reduce(operator.add, powers)  # not `sum`, which may compensate what it rounds
    return [power / total for power in powers]


def _softmax32(values: Row) -> Row:
    largest = max(values)
    powers = [_exp32(_float32(value - largest)) for value in values]
    total = _float32(reduce(operator.add, powers))
    return [_float32(power / total) for power in powers]


def _numpy_softmax(values: Row, add: Callable[[NDArray[np.float64]], float]) -> Row:
    largest = max(values)
    powers = np.exp(np.array([value - largest for value in values]))
    row: Row = (powers / add(powers)).tolist()
    return row


_OF_ROW: Mapping[str, Callable[..., Row]] = {
    "add": lambda values, number: [value + number for value in values],
    "multiply": lambda values, number: [value * number for value in values],
    "divide": lambda values, number: [value / number for value in values],
    "square": lambda values: [value * value for value in values],
    "libm exp": lambda values: [steps.libm_exp(value) for value in values],
    "logistic": lambda values, slope: [1 / (1 + steps.libm_exp(-slope * value)) for value in values],
    "softmax": lambda values: _softmax(values, steps.libm_exp),
    "numpy softmax": lambda values: _numpy_softmax(values, np.add.reduce),
    "numpy softmax by column": lambda values: _numpy_softmax(values, lambda powers: reduce(operator.add, powers)),
    "two classes": lambda values: [*[1 - value for value in values], *values],
    "fast exp": lambda values: [_fast_exp(value) for value in values],
    "fast softmax": lambda values: _softmax(values, _fast_exp),
    "exp32": lambda values: [_exp32(value) for value in values],
    "logistic32": lambda values: [_logistic32(value) for value in values],
    "softmax32": _softmax32,
    "two classes32": lambda values: [*[_float32(1 - value) for value in values], *values],
    "above zero": lambda values: [float(value > 0) for value in values],
}
"""The steps of `steps.run` that one row takes in plain floats, with the same bits. The others take it as an array."""

_DECISIONS: Mapping[str, Callable[[Row, Row], int]] = {
    "": lambda sums, probabilities: probabilities.index(max(probabilities)),
    "largest sum": lambda sums, probabilities: sums.index(max(sums)),
    "sum > 0": lambda sums, probabilities: sums[0] > 0,
    "sum >= 0": lambda sums, probabilities: sums[0] >= 0,
    "probability > 0.5": lambda sums, probabilities: probabilities[1] > 0.5,
}
