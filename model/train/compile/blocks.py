"""The steps of scikit-learn that turn numbers into numbers, as array operations on a block of columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.feature_selection import SelectorMixin
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)

from model.engine.columns import FUNCTIONS, Columns, Operation, apply
from model.schema.features import Matrix

_MAX_NUMBERS = 2**27  # of all blocks, for the rows on which steps are asked: 1 GiB


class Refused(Exception):
    """Why a step cannot be repeated by array operations."""


class NoColumns(Exception):
    """A step makes no columns, such as an encoder that drops the only category."""


class Program:
    """Array operations, and what each block is for the rows on which the steps are asked."""

    def __init__(self, rows: Matrix) -> None:
        self._operations: list[Operation] = []
        self._n_numbers = 0
        self.values: list[Matrix] = [rows]

    def add(self, name: str, block: int, *parameters: ArrayLike) -> int:
        """Add an operation on one block, and return the number of its result."""
        if name == "take":
            return self._take(block, _parameter(parameters[0]))
        return self._added(Operation(name, (block,), tuple(map(_parameter, parameters))))

    def add_on(self, name: str, blocks: Sequence[int], *parameters: ArrayLike) -> int:
        """Add an operation on several blocks, and return the number of its result."""
        if len(blocks) == 1:
            return self.add(name, blocks[0], *parameters)
        return self._added(Operation(name, tuple(blocks), tuple(map(_parameter, parameters))))

    def join(self, blocks: Sequence[int]) -> int:
        """Put blocks side by side."""
        if len(blocks) == 1:
            return blocks[0]
        return self._added(Operation("join", tuple(blocks)))

    def product(self, first: int, second: int) -> int:
        """Multiply two blocks, number by number."""
        return self._added(Operation("product", (first, second)))

    def full(self, block: int, value: float) -> NDArray[np.float64]:
        """Return a number for each column of a block."""
        return np.full(self.values[block].shape[1], float(value))

    def columns(self, block: int) -> Columns:
        """Return the program of all operations that a block needs, which is the last of them."""
        needed = {block}
        for number in range(len(self._operations), 0, -1):
            if number in needed:
                needed.update(self._operations[number - 1].blocks)
        kept = sorted(needed - {0})
        number_of = {0: 0, **{old: new for new, old in enumerate(kept, 1)}}
        operations = [
            Operation(each.name, tuple(number_of[b] for b in each.blocks), each.parameters)
            for each in (self._operations[number - 1] for number in kept)
        ]
        return Columns(self.values[0].shape[1], operations)

    def _take(self, block: int, columns: NDArray[Any]) -> int:
        if block and self._operations[block - 1].name == "take":  # of what was taken itself
            before = self._operations[block - 1]
            block, columns = before.blocks[0], before.parameters[0][columns]
        if np.array_equal(columns, np.arange(self.values[block].shape[1])):
            return block
        return self._added(Operation("take", (block,), (columns,)))

    def _added(self, operation: Operation) -> int:
        taken = [self.values[block] for block in operation.blocks]
        self.values.append(apply(operation, taken))
        self._n_numbers += self.values[-1].size
        if self._n_numbers > _MAX_NUMBERS:
            raise Refused("it makes too many columns; group rare categories, or select the columns that matter")
        self._operations.append(operation)
        return len(self._operations)


def _parameter(values: ArrayLike) -> NDArray[Any]:
    array = np.asarray(values)
    return np.ascontiguousarray(array, dtype=np.int64 if array.dtype.kind in "iu" else np.float64)


def as_numbers(answers: Any) -> Matrix:
    """Return a step's answers as float64. Raises `TypeError` or `ValueError` for text."""
    return np.asarray(answers.toarray() if hasattr(answers, "toarray") else answers, dtype=np.float64)


def same(answers: Any, values: Matrix) -> bool:
    """Return whether a step's answers are these numbers, in every bit but the sign of 0."""
    expected = as_numbers(answers)
    return expected.shape == values.shape and bool(np.array_equal(expected, values, equal_nan=True))


def translate(program: Program, step: Any, block: int) -> int:
    """Add the operations of a fitted step on a block, and return the number of the result.

    Raises `Refused` for a step that is not known here, `NoColumns` for one that selects none.
    """
    if isinstance(step, SelectorMixin):
        chosen = np.flatnonzero(step.get_support())
        if not len(chosen):
            raise NoColumns
        return program.add("take", block, chosen)
    known = _STEPS.get(type(step))
    if known is None:
        raise Refused("it is not among the steps that can")
    return known(program, step, block)


def _impute(program: Program, step: SimpleImputer, block: int) -> int:
    statistics = np.asarray(step.statistics_, dtype=np.float64)
    filled = _replace(program, block, step.missing_values, np.where(np.isnan(statistics), 0.0, statistics))
    kept = np.flatnonzero(~np.isnan(statistics))
    if not step.keep_empty_features and len(kept) < len(statistics):
        if not len(kept):
            raise Refused("none of its columns has a value")
        filled = program.add("take", filled, kept)
    if step.indicator_ is None or not len(step.indicator_.features_):
        return filled
    return program.join([filled, _indicate(program, step.indicator_, block)])


def _replace(program: Program, block: int, missing: Any, values: NDArray[np.float64]) -> int:
    if not _is_nan(missing):
        raise Refused(f"it takes {missing!r} for missing; make these cells NaN in the table")
    return program.add("fill", block, values)


def _indicate(program: Program, step: MissingIndicator, block: int) -> int:
    if not _is_nan(step.missing_values):
        raise Refused(f"it takes {step.missing_values!r} for missing; make these cells NaN in the table")
    return program.add("is missing", program.add("take", block, np.asarray(step.features_, dtype=np.int64)))


def _is_nan(value: Any) -> bool:
    return bool(value != value)


def _standard(program: Program, step: StandardScaler, block: int) -> int:
    if step.with_mean:
        block = program.add("subtract", block, step.mean_)
    return program.add("divide", block, step.scale_) if step.with_std else block


def _min_max(program: Program, step: MinMaxScaler, block: int) -> int:
    block = program.add("add", program.add("multiply", block, step.scale_), step.min_)
    if not step.clip:
        return block
    low, high = step.feature_range
    return program.add("clip", block, program.full(block, low), program.full(block, high))


def _max_abs(program: Program, step: MaxAbsScaler, block: int) -> int:
    block = program.add("divide", block, step.scale_)
    if not getattr(step, "clip", False):
        return block
    return program.add("clip", block, program.full(block, -1.0), program.full(block, 1.0))


def _robust(program: Program, step: RobustScaler, block: int) -> int:
    if step.with_centering:
        block = program.add("subtract", block, step.center_)
    return program.add("divide", block, step.scale_) if step.with_scaling else block


def _bins(program: Program, step: KBinsDiscretizer, block: int) -> int:
    inner = [np.asarray(edges[1:-1], dtype=np.float64) for edges in step.bin_edges_]
    block = program.add("bins", block, np.concatenate(inner), np.array([len(each) for each in inner]))
    if step.encode == "ordinal":
        return block
    counts = np.asarray(step.n_bins_, dtype=np.int64)
    repeated = program.add("take", block, np.repeat(np.arange(len(counts)), counts))
    return program.add("equal", repeated, np.concatenate([np.arange(n, dtype=np.float64) for n in counts]))


def _polynomial(program: Program, step: PolynomialFeatures, block: int) -> int:
    """Multiply as scikit-learn does: a product of several columns is the product of the later ones by the first."""
    powers = np.asarray(step.powers_)
    terms = [tuple(np.repeat(np.arange(len(row)), row).tolist()) for row in powers]
    wanted: dict[int, dict[tuple[int, ...], None]] = {}  # the products of each degree, in order
    for term in terms:
        while len(term) > 1 and term not in wanted.setdefault(len(term), {}):
            wanted[len(term)][term] = None
            term = term[1:]
    n_columns = powers.shape[1]
    position: dict[tuple[int, ...], int] = {(number,): number for number in range(n_columns)}
    made, width, level, before = [block], n_columns, block, dict(position)
    for degree in sorted(wanted):
        later = program.add("take", level, np.array([before[term[1:]] for term in wanted[degree]]))
        first = program.add("take", block, np.array([term[0] for term in wanted[degree]]))
        level = program.product(later, first)
        before = {term: number for number, term in enumerate(wanted[degree])}
        position |= {term: width + number for term, number in before.items()}
        made.append(level)
        width += len(before)
    if () in terms:
        made.append(program.add("one", block))
        position[()] = width
    return program.add("take", program.join(made), np.array([position[term] for term in terms]))


def _power(program: Program, step: PowerTransformer, block: int) -> int:
    if step.method != "yeo-johnson":
        raise Refused(f"its method is {step.method!r}; 'yeo-johnson' can")
    block = program.add("yeo-johnson", block, step.lambdas_)
    return _standard(program, step._scaler, block) if step.standardize else block


def _quantiles(program: Program, step: QuantileTransformer, block: int) -> int:
    if step.output_distribution != "uniform":
        raise Refused(f"its output is {step.output_distribution!r}; 'uniform' can")
    return program.add("quantiles", block, step.quantiles_.T, step.references_)


def _binarize(program: Program, step: Binarizer, block: int) -> int:
    return program.add("above", block, program.full(block, step.threshold))


def _function(program: Program, step: FunctionTransformer, block: int) -> int:
    if step.func is None:
        return block
    name = getattr(step.func, "__name__", type(step.func).__name__)
    if FUNCTIONS.get(name) is not step.func or step.kw_args:
        raise Refused(
            f"it calls the function {name!r}; those of numpy that take one number can, such as numpy.log1p and "
            "numpy.sqrt"
        )
    return program.add(name, block)


_STEPS: Mapping[type, Callable[[Program, Any, int], int]] = {
    SimpleImputer: _impute,
    MissingIndicator: _indicate,
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    RobustScaler: _robust,
    KBinsDiscretizer: _bins,
    PolynomialFeatures: _polynomial,
    PowerTransformer: _power,
    QuantileTransformer: _quantiles,
    Binarizer: _binarize,
    FunctionTransformer: _function,
}
