"""What is done to the sums of leaves, step by step, until they are predictions, and how a label follows.

Each step gives the bits of the library that it is named after in a comment, or numpy's own. A name that ends in 32
means that the library computes in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.schema.features import Matrix
from model.schema.numbers import is_number

Step = tuple[str, tuple[float, ...]]
"""The name of a step and its numbers."""

# The differences, as `engine.compare` measures them, that the exponentials of other processors and C libraries make: 4
# units in the last place of the steps that take them from the C library or from numpy.
_ELSEWHERE = {
    **dict.fromkeys(("exp", "exp2", "expm1", "libm exp", "logistic", "softmax"), 4 * 2.0**-52),
    **dict.fromkeys(("log", "log1p", "cbrt", "yeo-johnson back"), 4 * 2.0**-52),
    **dict.fromkeys(("numpy softmax", "numpy softmax by column"), 4 * 2.0**-52),
    "numpy softmax32": 4 * 2.0**-23,
    **dict.fromkeys(("sigmoids", "isotonic"), 4 * 2.0**-52),
}

# Of expf in glibc since 2.27, which is ARM's optimized routine: 2^(i/32), and a polynomial for the rest.
_POWERS = np.array([2.0 ** (i / 32) for i in range(32)])
EXP_32 = [float.fromhex(c) for c in ("0x1.c6af84b912394p-20", "0x1.ebfce50fac4f3p-13", "0x1.62e42ff0c52d6p-6")]
LOG2E_32 = float.fromhex("0x1.71547652b82fep+5")

# Of fmath, by which CatBoost computes exponentials: the fractions of 2^(i/2048), and a number whose sum is rounded to
# an integer in the lowest bits.
_FRACTIONS = np.array([2.0 ** (i / 2048) for i in range(2048)]).view(np.uint64) & np.uint64(2**52 - 1)
PER_EXPONENT, SHIFT = 2048 / math.log(2), 3.0 * 2**51
FAST_EXP_ENDS = -708.39641853226408, 709.78271289338397
_LARGEST_EXPONENT = 709.782712893384  # beyond which math.exp raises


def _float32(values: Matrix) -> Matrix:
    """Round to float32; a number that is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32).astype(np.float64)


def _exp32(values: Matrix) -> Matrix:
    """Return the float32 exponential, as XGBoost gets it from the C library."""
    scaled = LOG2E_32 * values.clip(-200, 200)  # beyond these the result is 0 or infinite
    nearest = np.rint(scaled)
    rest, whole = scaled - nearest, nearest.astype(np.int64)
    powers = np.ldexp(_POWERS[whole % 32], whole // 32)
    return _float32(((EXP_32[0] * rest + EXP_32[1]) * (rest * rest) + (EXP_32[2] * rest + 1)) * powers)


def _logistic32(values: Matrix) -> Matrix:
    """Return XGBoost's float32 sigmoid, `(n_rows, 1)`."""
    one = _float32(_exp32(np.minimum(-values, np.float64(np.float32(88.7)))) + 1)
    return _float32(1 / one)


def _softmax32(values: Matrix) -> Matrix:
    """Return XGBoost's float32 softmax, with a sum in float64."""
    powers = _exp32(_float32(values - values.max(axis=1, keepdims=True)))
    total = np.add.accumulate(powers, axis=1)[:, -1:]
    return _float32(powers / _float32(total))


def _two_classes32(values: Matrix) -> Matrix:
    """Return the float32 probabilities of both classes, `(n_rows, 2)`, from that of the second."""
    return np.hstack([_float32(1 - values), values])


def libm_exp(value: float) -> float:
    """Return the C library's exponential."""
    return math.exp(value) if value <= _LARGEST_EXPONENT else math.inf


def _libm_exp(values: Matrix) -> Matrix:
    """Return the C library's exponentials, as LightGBM does, which numpy's differ from in the last bit."""
    return np.array([libm_exp(each) for each in values.flat]).reshape(values.shape)


def _logistic(values: Matrix, slope: float) -> Matrix:
    """Return the sigmoid of scikit-learn and LightGBM of each value."""
    return 1 / (1 + _libm_exp(-slope * values))


def _softmax(values: Matrix) -> Matrix:
    """Return LightGBM's softmax, whose sum is added class after class."""
    powers = _libm_exp(values - values.max(axis=1, keepdims=True))
    return powers / np.add.accumulate(powers, axis=1)[:, -1:]


def _numpy_softmax(values: Matrix) -> Matrix:
    """Return the softmax of scikit-learn and scipy of rows that lie one after the other, whose sums numpy pairs."""
    powers = np.exp(np.ascontiguousarray(values - values.max(axis=1, keepdims=True)))
    found: Matrix = powers / powers.sum(axis=1, keepdims=True)
    return found


def _numpy_softmax32(values: Matrix) -> Matrix:
    """Return scipy's float32 softmax, as XGBoost's estimator computes it of the sums of multi:softmax."""
    return _numpy_softmax(values.astype(np.float32)).astype(np.float64)


def _numpy_softmax_by_column(values: Matrix) -> Matrix:
    """Return scikit-learn's softmax of columns that lie one after the other, whose sums numpy adds class after class.

    So does scikit-learn's HistGradientBoosting for several rows; for a single row it adds in pairs.
    """
    powers: Matrix = np.exp(values - values.max(axis=1, keepdims=True))
    return powers / np.add.accumulate(powers, axis=1)[:, -1:]


def _fast_exp(values: Matrix) -> Matrix:
    """Return CatBoost's exponential: a table of 2^(i/2048), and a polynomial of the third degree for the rest."""
    values = values.clip(*FAST_EXP_ENDS)
    shifted = values * PER_EXPONENT + SHIFT
    bits = shifted.view(np.uint64)
    rest = (shifted - SHIFT) * (1 / PER_EXPONENT) - values
    exponent = ((bits + np.uint64((2**10 - 1) << 11)) >> np.uint64(11)) << np.uint64(52)
    powers = (exponent | _FRACTIONS[(bits % np.uint64(2048)).astype(np.intp)]).view(np.float64)
    found: Matrix = ((3.0000000027955394 - rest) * (rest * rest) * 0.16666666685227835064 - rest + 1.0) * powers
    return found


def _fast_softmax(values: Matrix) -> Matrix:
    """Return CatBoost's softmax."""
    powers = _fast_exp(values - values.max(axis=1, keepdims=True))
    return powers / np.add.accumulate(powers, axis=1)[:, -1:]


def _yeo_johnson_back(values: Matrix, exponent: float) -> Matrix:
    """Return scikit-learn's inverse of the Yeo-Johnson transform."""
    epsilon, other = np.spacing(1.0), 2 - exponent
    above, below = np.maximum(values, 0.0), np.minimum(values, 0.0)
    up = np.exp(above) - 1 if abs(exponent) < epsilon else np.power(above * exponent + 1, 1 / exponent) - 1
    down = 1 - np.power(-other * below + 1, 1 / other) if abs(exponent - 2) > epsilon else 1 - np.exp(-below)
    return np.where(values >= 0, up, down)


def _sigmoids(values: Matrix, *numbers: float) -> Matrix:
    """Return scikit-learn's sigmoid calibration of each column, with two numbers for each."""
    slopes, intercepts = np.reshape(numbers, (values.shape[1], 2)).T
    return 1 / (1 + _libm_exp(slopes * values + intercepts))


def _isotonic(values: Matrix, column: float, *numbers: float) -> Matrix:
    """Return one column interpolated between points: first their `x`, then their `y`, equally many."""
    x, y = np.reshape(numbers, (2, -1))
    values, place = values.copy(), int(column)
    values[:, place] = np.interp(values[:, place].clip(x[0], x[-1]), x, y)
    return values


def _isotonic32(values: Matrix, column: float, *numbers: float) -> Matrix:
    """Do what `_isotonic` does in float32, as scipy does it of float32."""
    x, y = np.reshape(numbers, (2, -1)).astype(np.float32)
    values, place = values.copy(), int(column)
    given = values[:, place].astype(np.float32).clip(x[0], x[-1])
    if len(x) == 1:
        values[:, place] = y[0]
        return values
    above = x.searchsorted(given).clip(1, len(x) - 1)
    slopes = (y[above] - y[above - 1]) / (x[above] - x[above - 1])
    values[:, place] = slopes * (given - x[above - 1]) + y[above - 1]
    return values


def _shares(values: Matrix) -> Matrix:
    """Return each number's share of its row, as scikit-learn's calibration does; equal ones where all are zero."""
    total = np.ascontiguousarray(values).sum(axis=1, keepdims=True)
    shares = np.full_like(values, 1 / values.shape[1], order="C")
    np.divide(values, total, out=shares, where=total != 0)
    shares[(shares > 1) & (shares <= 1 + 1e-5)] = 1
    return shares


_STEPS: Mapping[str, tuple[int | None, Callable[..., Matrix]]] = {
    "add": (1, np.add),
    "multiply": (1, np.multiply),
    "divide": (1, np.divide),
    "exp": (0, np.exp),
    "expm1": (0, np.expm1),
    "square": (0, np.square),
    "exp2": (0, np.exp2),
    "log": (0, np.log),
    "log1p": (0, np.log1p),
    "sqrt": (0, np.sqrt),
    "cbrt": (0, np.cbrt),
    "yeo-johnson back": (1, _yeo_johnson_back),
    "signed square": (0, lambda values: np.sign(values) * values * values),
    "libm exp": (0, _libm_exp),
    "logistic": (1, _logistic),
    "softmax": (0, _softmax),
    "numpy softmax": (0, _numpy_softmax),
    "numpy softmax32": (0, _numpy_softmax32),
    "numpy softmax by column": (0, _numpy_softmax_by_column),
    "two classes": (0, lambda values: np.concatenate([1 - values, values], axis=1)),
    "fast exp": (0, _fast_exp),
    "fast softmax": (0, _fast_softmax),
    "exp32": (0, _exp32),
    "logistic32": (0, _logistic32),
    "softmax32": (0, _softmax32),
    "two classes32": (0, _two_classes32),
    "above zero": (0, lambda values: (values > 0).astype(np.float64)),
    "sigmoids": (None, _sigmoids),
    "isotonic": (None, _isotonic),
    "isotonic32": (None, _isotonic32),
    "shares": (0, _shares),
}
"""The steps by name: how many numbers each takes, and its function of the values `(n_rows, n_outputs)` and these."""

# Steps of models that are made of several: the sums from one number up to another, instead of the values so far; and
# the values so far added to those of the members before.
_MAX_STEPS = 5_000  # of a thousand members; each takes some microseconds
_TAKE, _TOTAL = "take", "total"
_N_NUMBERS: Mapping[str, int | None] = {_TAKE: 2, _TOTAL: 0, **{name: number for name, (number, _) in _STEPS.items()}}


def parse(facts: Any) -> tuple[Step, ...]:
    """Return the steps in a manifest. Raises `ValueError` for anything else."""
    if isinstance(facts, list) and len(facts) > _MAX_STEPS:
        raise ValueError(f"it has {len(facts)} steps, more than {_MAX_STEPS}")
    steps = []
    for fact in facts if isinstance(facts, list) else [None]:
        name, *numbers = fact if isinstance(fact, list) and fact else [None]
        if not isinstance(name, str) or not all(map(is_number, numbers)):
            raise ValueError("its steps are not a list of names with numbers")
        if name not in _N_NUMBERS or _N_NUMBERS[name] not in (None, len(numbers)):
            raise ValueError(f"it has the step {name!r} with {len(numbers)} numbers, which does not exist")
        steps.append((name, tuple(map(float, numbers))))
    return tuple(steps)


def run(steps: Sequence[Step], sums: Matrix) -> Matrix:
    """Return what the steps make of `(n_rows, n_outputs)` sums."""
    values, total = sums, None
    for name, numbers in steps:
        if name == _TAKE:
            values = sums[:, int(numbers[0]) : int(numbers[1])]
        elif name == _TOTAL:
            values = total = values if total is None else total + values
        else:
            values = _STEPS[name][1](values, *numbers)
    return values


def tolerance(steps: Sequence[Step]) -> float:
    """Return how far the answers of another machine may be from this one's: 0 if they have the same bits."""
    return max((_ELSEWHERE.get(name, 0.0) for name, _ in steps), default=0.0)


DECISIONS: Mapping[str, Callable[[Matrix, Matrix], NDArray[np.intp]]] = {
    "": lambda sums, probabilities: probabilities.argmax(axis=1),
    "largest sum": lambda sums, probabilities: sums.argmax(axis=1),
    "sum > 0": lambda sums, probabilities: (sums[:, 0] > 0).astype(np.intp),
    "sum >= 0": lambda sums, probabilities: (sums[:, 0] >= 0).astype(np.intp),
    "probability > 0.5": lambda sums, probabilities: (probabilities[:, 1] > 0.5).astype(np.intp),
}
"""How a library finds a row's class from its sums and its probabilities; among equal ones the first is the largest."""


def decide(decision: str, sums: Matrix, probabilities: Matrix) -> NDArray[np.intp]:
    """Return the position of each row's class, `(n_rows,)`. Raises `ValueError` for sums that are none of classes."""
    n_classes = probabilities.shape[1]
    if n_classes != (sums.shape[1] if decision == "largest sum" else n_classes if not decision else 2):
        raise ValueError(f"it decides on {n_classes} classes by {decision!r} of {sums.shape[1]} sums")
    return DECISIONS[decision](sums, probabilities)
