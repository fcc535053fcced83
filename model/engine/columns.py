"""Preprocessing as a list of array operations: a row's features to the columns that a model computes with.

Each operation gives the bits of the step that it stands for: it does the same floating-point operations in the same
order. Needs numpy only. Knows no step of any library.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.engine.chunks import in_chunks
from model.engine.runtime import Predictor
from model.engine.trees import unpack_arrays
from model.schema.features import Matrix

MAX_COLUMNS_BYTES = 2**26  # of the file
MAX_OPERATIONS = 2**13
MAX_WIDTH = 2**16  # of all blocks together
_COLUMN_BY_COLUMN = ("places", "bins", "quantiles", "yeo-johnson")
_MAX_LOOPED = 2**11  # columns of these operations, each of which takes some microseconds
_NUMBERS_PER_CHUNK = 2**18  # of all blocks together: 2 MiB of float64
_FIRST_SECOND, _END_SECOND = -62_135_596_800.0, 253_402_300_800.0  # of the years 1 to 9999, from 1970 on
_LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
_PROGRAM = "program"  # the array that has the operations as JSON

Block = NDArray[np.float64]
Run = Callable[..., Block]
Numbers = NDArray[Any]

FUNCTIONS: Mapping[str, np.ufunc] = {
    function.__name__: function
    for function in (
        *(np.absolute, np.negative, np.sign, np.square, np.sqrt, np.cbrt, np.reciprocal),
        *(np.exp, np.exp2, np.expm1, np.log, np.log2, np.log10, np.log1p),
        *(np.sin, np.cos, np.tan, np.arcsin, np.arccos, np.arctan, np.sinh, np.cosh, np.tanh, np.arcsinh),
        *(np.floor, np.ceil, np.trunc, np.rint, np.deg2rad, np.rad2deg),
    )
}
"""numpy's functions of one number that a column may be sent through."""

# Those whose bits are given by IEEE 754, and are therefore the same on every machine.
_EXACT_FUNCTIONS = {"absolute", "negative", "sign", "square", "sqrt", "reciprocal", "floor", "ceil", "trunc", "rint"}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation: its name, the numbers of the blocks that it takes, and its parameters.

    Block 0 are the features, and block n is the result of the n-th operation.
    """

    name: str
    blocks: tuple[int, ...]
    parameters: tuple[Numbers, ...] = ()


def _table(values: Numbers, counts: Numbers) -> Run:
    last, first = counts - 1.0, np.cumsum(counts) - counts

    def run(block: Block) -> Block:
        # fmin ignores NaN: a missing value gets the last place.
        found: Block = values.take(np.fmin(block, last).astype(np.intp) + first, mode="clip")
        return found

    return run


def _places(values: Numbers, counts: Numbers) -> Run:
    known = np.split(values, np.cumsum(counts)[:-1])

    def run(block: Block) -> Block:
        found = np.empty_like(block)
        for number, of_column in enumerate(known):
            cells = block[:, number]
            place = of_column.searchsorted(cells)
            is_known = of_column.take(place, mode="clip") == cells
            found[:, number] = np.where(np.isnan(cells), np.nan, np.where(is_known, place, len(of_column)))
        return found

    return run


def _bins(edges: Numbers, counts: Numbers) -> Run:
    of_columns = np.split(edges, np.cumsum(counts)[:-1])

    def run(block: Block) -> Block:
        found = np.empty_like(block)
        for number, of_column in enumerate(of_columns):
            found[:, number] = of_column.searchsorted(block[:, number], side="right")
        return found

    return run


def _quantiles(quantiles: Numbers, references: Numbers) -> Run:
    backwards = [-each[::-1] for each in quantiles]
    references_backwards = -references[::-1]

    def run(block: Block) -> Block:
        found = np.empty_like(block)
        for number, of_column in enumerate(quantiles):
            cells = block[:, number]
            up = np.interp(cells, of_column, references)
            place = 0.5 * (up - np.interp(-cells, backwards[number], references_backwards))
            place = np.where(cells == of_column[-1], 1.0, place)
            place = np.where(cells == of_column[0], 0.0, place)
            found[:, number] = np.where(np.isnan(cells), np.nan, place)
        return found

    return run


def _yeo_johnson(exponents: Numbers) -> Run:
    epsilon = np.finfo(np.float64).eps

    def run(block: Block) -> Block:
        found = np.empty_like(block)
        for number, exponent in enumerate(exponents.tolist()):
            cells = block[:, number]
            above, below = np.log1p(np.maximum(cells, 0.0)), np.log1p(np.maximum(-cells, 0.0))
            if abs(exponent) >= epsilon:
                above = np.expm1(exponent * above) / exponent
            other = 2 - exponent
            below = -np.expm1(other * below) / other if abs(exponent - 2) > epsilon else -below
            found[:, number] = np.where(cells >= 0, above, below)
        return found

    return run


def _fill(numbers: Numbers) -> Run:
    def run(block: Block) -> Block:
        return np.where(np.isnan(block), numbers, block)

    return run


def _numbers(numbers: Numbers) -> Run:
    def run(block: Block) -> Block:
        return np.repeat(numbers[np.newaxis], len(block), axis=0)

    return run


def _finite(block: Block) -> Block:
    return np.where(np.isfinite(block), block, np.nan)


def _in_float32(block: Block) -> Block:
    return np.where(np.abs(block) <= _LARGEST_FLOAT32, block, np.nan)


def _compared(compare: np.ufunc) -> Run:
    def run(first: Block, second: Block) -> Block:
        return np.where(np.isnan(first) | np.isnan(second), np.nan, compare(first, second))

    return run


def _both(first: Block, second: Block) -> Block:
    unknown = np.where(np.isnan(first) | np.isnan(second), np.nan, 1.0)
    return np.where((first == 0) | (second == 0), 0.0, unknown)


def _either(first: Block, second: Block) -> Block:
    no_first, no_second = np.isnan(first), np.isnan(second)
    is_true = (~no_first & (first != 0)) | (~no_second & (second != 0))
    return np.where(is_true, 1.0, np.where(no_first | no_second, np.nan, 0.0))


def _not(block: Block) -> Block:
    return np.where(np.isnan(block), np.nan, block == 0)


def _where(condition: Block, first: Block, second: Block) -> Block:
    return np.where(np.isnan(condition), np.nan, np.where(condition != 0, first, second))


def _of_date(part: Callable[[Numbers], Numbers]) -> Run:
    """Return what runs `part`, of whole seconds since 1970 as `int64`; what is no date is missing."""

    def run(block: Block) -> Block:
        is_date = (block >= _FIRST_SECOND) & (block < _END_SECOND)
        seconds = np.floor(np.where(is_date, block, 0.0)).astype(np.int64)
        return np.where(is_date, part(seconds), np.nan)

    return run


def _days(seconds: Numbers) -> Numbers:
    return seconds // 86_400


def _months(seconds: Numbers) -> Numbers:
    return _days(seconds).view("M8[D]").astype("M8[M]").view(np.int64)


def _day(seconds: Numbers) -> Numbers:
    days = _days(seconds)
    return days - days.view("M8[D]").astype("M8[M]").astype("M8[D]").view(np.int64) + 1


def _day_of_year(seconds: Numbers) -> Numbers:
    days = _days(seconds)
    return days - days.view("M8[D]").astype("M8[Y]").astype("M8[D]").view(np.int64) + 1


def _missing(block: Block) -> Block:
    return np.isnan(block).astype(np.float64)


def _one(block: Block) -> Block:
    return np.ones((len(block), 1))


def _float32(block: Block) -> Block:
    return block.astype(np.float32).astype(np.float64)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How an operation runs, how many blocks it takes (None: any number), and how its parameters are checked.

    `width` takes the parameters and the widths of the blocks and returns the width of the result; it raises
    `ValueError` for parameters that do not fit. `prepare` takes the parameters and returns the function of the blocks.
    """

    n_blocks: int | None
    kinds: tuple[str, ...]
    width: Callable[[Sequence[Numbers], Sequence[int]], int]
    prepare: Callable[..., Run]
    is_portable: bool = True


def _same(parameters: Sequence[Numbers], widths: Sequence[int]) -> int:
    """Return the width of an operation on each column, with a number of each parameter for each."""
    if any(len(each) != widths[0] for each in parameters) or len(set(widths)) != 1:
        raise ValueError("its parameters are of another length than its columns")
    return widths[0]


def _chosen(parameters: Sequence[Numbers], widths: Sequence[int]) -> int:
    columns = parameters[0]
    if len(columns) and not 0 <= columns.min() <= columns.max() < widths[0]:
        raise ValueError("it takes a column that does not exist")
    return len(columns)


def _ragged(least: int) -> Callable[[Sequence[Numbers], Sequence[int]], int]:
    """Return the check of an operation with a list of numbers for each column, one list after the other."""

    def width(parameters: Sequence[Numbers], widths: Sequence[int]) -> int:
        values, counts = parameters
        fits = len(counts) == widths[0] and (counts >= least).all() and (counts <= len(values)).all()
        if not fits or counts.sum(dtype=np.int64) != len(values):
            raise ValueError("its lists are not those of its columns")
        return widths[0]

    return width


def _of_quantiles(parameters: Sequence[Numbers], widths: Sequence[int]) -> int:
    quantiles, references = parameters
    if quantiles.shape != (widths[0], len(references)) or not len(references):
        raise ValueError("its quantiles are not those of its columns")
    return widths[0]


def _function(name: str, function: np.ufunc) -> tuple[str, _Kind]:
    is_exact = name in _EXACT_FUNCTIONS
    return name, _Kind(1, (), _same, lambda: function, is_portable=is_exact)


_KINDS: Mapping[str, _Kind] = {
    "take": _Kind(1, ("int64",), _chosen, lambda columns: lambda block: block.take(columns, axis=1)),
    "join": _Kind(None, (), lambda _, widths: sum(widths), lambda: lambda *blocks: np.concatenate(blocks, axis=1)),
    "one": _Kind(1, (), lambda *_: 1, lambda: _one),
    "add": _Kind(1, ("float64",), _same, lambda numbers: lambda block: block + numbers),
    "subtract": _Kind(1, ("float64",), _same, lambda numbers: lambda block: block - numbers),
    "multiply": _Kind(1, ("float64",), _same, lambda numbers: lambda block: block * numbers),
    "divide": _Kind(1, ("float64",), _same, lambda numbers: lambda block: block / numbers),
    "numbers": _Kind(1, ("float64",), lambda parameters, _: len(parameters[0]), _numbers),
    "plus": _Kind(2, (), _same, lambda: np.add),
    "minus": _Kind(2, (), _same, lambda: np.subtract),
    "product": _Kind(2, (), _same, lambda: np.multiply),
    "over": _Kind(2, (), _same, lambda: np.divide),
    "smaller": _Kind(2, (), _same, lambda: np.minimum),
    "larger": _Kind(2, (), _same, lambda: np.maximum),
    "is less": _Kind(2, (), _same, lambda: _compared(np.less)),
    "is at most": _Kind(2, (), _same, lambda: _compared(np.less_equal)),
    "is equal": _Kind(2, (), _same, lambda: _compared(np.equal)),
    "is not equal": _Kind(2, (), _same, lambda: _compared(np.not_equal)),
    "both": _Kind(2, (), _same, lambda: _both),
    "either": _Kind(2, (), _same, lambda: _either),
    "not": _Kind(1, (), _same, lambda: _not),
    "where": _Kind(3, (), _same, lambda: _where),
    "finite": _Kind(1, (), _same, lambda: _finite),
    "in float32": _Kind(1, (), _same, lambda: _in_float32),
    "year": _Kind(1, (), _same, lambda: _of_date(lambda seconds: _months(seconds) // 12 + 1970)),
    "quarter": _Kind(1, (), _same, lambda: _of_date(lambda seconds: _months(seconds) % 12 // 3 + 1)),
    "month": _Kind(1, (), _same, lambda: _of_date(lambda seconds: _months(seconds) % 12 + 1)),
    "day": _Kind(1, (), _same, lambda: _of_date(_day)),
    "day of year": _Kind(1, (), _same, lambda: _of_date(_day_of_year)),
    "weekday": _Kind(1, (), _same, lambda: _of_date(lambda seconds: (_days(seconds) + 3) % 7)),
    "hour": _Kind(1, (), _same, lambda: _of_date(lambda seconds: seconds // 3_600 % 24)),
    "minute": _Kind(1, (), _same, lambda: _of_date(lambda seconds: seconds // 60 % 60)),
    "clip": _Kind(1, ("float64",) * 2, _same, lambda low, high: lambda block: np.clip(block, low, high)),
    "fill": _Kind(1, ("float64",), _same, _fill),
    "is missing": _Kind(1, (), _same, lambda: _missing),
    "equal": _Kind(1, ("float64",), _same, lambda numbers: lambda block: (block == numbers).astype(np.float64)),
    "above": _Kind(1, ("float64",), _same, lambda numbers: lambda block: (block > numbers).astype(np.float64)),
    "float32": _Kind(1, (), _same, lambda: _float32),
    "table": _Kind(1, ("float64", "int64"), _ragged(1), _table),
    "places": _Kind(1, ("float64", "int64"), _ragged(1), _places),
    "bins": _Kind(1, ("float64", "int64"), _ragged(0), _bins),
    "quantiles": _Kind(1, ("float64",) * 2, _of_quantiles, _quantiles),
    "yeo-johnson": _Kind(1, ("float64",), _same, _yeo_johnson, is_portable=False),
    **dict(_function(name, function) for name, function in FUNCTIONS.items()),
}
"""The operations by name, where k is the number of columns of their blocks.

- `take`: columns by number. `join`: several blocks side by side. `one`: a column of 1.
- `numbers`: k numbers, the same in each row.
- `add`, `subtract`, `multiply`, `divide`, `clip`: with k numbers.
- `plus`, `minus`, `product`, `over`, `smaller`, `larger`: two blocks, number by number; missing where one is.
- `is less`, `is at most`, `is equal`, `is not equal`: two blocks, 1 or 0, or missing where one is.
- `both`, `either`, `not`: of what is true (not 0), false (0) or missing, 1, 0 or missing, as SQL has them.
- `where`: three blocks; the second where the first is true, the third where it is false.
- `finite`, `in float32`: missing where a number is infinite, or beyond what float32 has.
- `year`, `quarter`, `month`, `day`, `day of year`, `weekday` (0 is Monday), `hour`, `minute`: of seconds since 1970 in
  UTC; missing outside the years 1 to 9999.
- `fill`: k numbers for missing values. `is missing`, `equal`, `above`: 1 or 0.
- `float32`: rounded to float32 and back.
- `table`: k lists of what stands for the places 0, 1 and so on, and last for a missing value.
- `places`: k sorted lists; where in its list a number is, or the list's length for another number.
- `bins`: k sorted lists of edges; how many of them are not above a number.
- `quantiles`: (k, n) quantiles and their n references; scikit-learn's QuantileTransformer.
- `yeo-johnson`: k exponents; SciPy's transform.
- a function of numpy in `FUNCTIONS`.
"""


class Columns:
    """A program that makes columns of features: operations, each on the results of earlier ones."""

    def __init__(self, n_features: int, operations: Sequence[Operation]) -> None:
        """Check the operations and prepare them. Raises `ValueError` for ones that cannot be run in bounded time."""
        if len(operations) > MAX_OPERATIONS:
            raise ValueError(f"it has {len(operations)} operations, more than {MAX_OPERATIONS}")
        self.n_features, self.operations = n_features, tuple(operations)
        self._runs: list[tuple[Run, tuple[int, ...]]] = []
        widths, n_looped = [n_features], 0
        for operation in operations:
            widths.append(_width(operation, widths))
            if sum(widths) - n_features > MAX_WIDTH:
                raise ValueError(f"it makes more than {MAX_WIDTH} columns")
            n_looped += widths[-1] if operation.name in _COLUMN_BY_COLUMN else 0
            if n_looped > _MAX_LOOPED:
                raise ValueError(f"it computes more than {_MAX_LOOPED:,} columns one by one")
            run = _KINDS[operation.name].prepare(*operation.parameters)
            self._runs.append((run, operation.blocks))
        self._widths = widths[1:]
        self.n_columns = widths[-1]
        self._chunk_rows = max(1, _NUMBERS_PER_CHUNK // max(1, sum(widths)))

    @property
    def is_portable(self) -> bool:
        """Return whether the bits are the same on every machine: without functions such as a logarithm."""
        return all(_KINDS[operation.name].is_portable for operation in self.operations)

    def as_taken(self, of_features: Sequence[int]) -> list[int]:
        """Return for each column the number that its feature has in `of_features`; 0 for one that is computed."""
        found: list[list[int]] = [list(of_features)]
        for operation, width in zip(self.operations, self._widths):
            if operation.name == "take":
                of_block = found[operation.blocks[0]]
                found.append([of_block[column] for column in operation.parameters[0].tolist()])
            elif operation.name == "join":
                found.append([number for block in operation.blocks for number in found[block]])
            else:
                found.append([0] * width)
        return found[-1]

    def sources(self) -> list[frozenset[int]]:
        """Return for each column the numbers of the features that it is made of."""
        found = [[frozenset([number]) for number in range(self.n_features)]]
        for operation, width in zip(self.operations, self._widths):
            blocks = [found[number] for number in operation.blocks]
            if operation.name == "take":
                found.append([blocks[0][column] for column in operation.parameters[0].tolist()])
            elif operation.name == "join":
                found.append([column for block in blocks for column in block])
            elif operation.name in ("one", "numbers"):
                found.append([frozenset()] * width)
            else:
                found.append([frozenset().union(*columns) for columns in zip(*blocks)])
        return found[-1]

    def run(self, X: Matrix) -> Block:
        """Return the columns `(n_rows, n_columns)` of `X` `(n_rows, n_features)`, both float64."""
        # numpy's functions may have other bits for numbers that are apart in memory.
        X = np.ascontiguousarray(X)
        with np.errstate(all="ignore"):
            return in_chunks(self._run, X, self._chunk_rows)

    def _run(self, X: Matrix) -> Block:
        blocks = [X]
        for run, numbers in self._runs:
            blocks.append(run(*[blocks[number] for number in numbers]))
        return blocks[-1]

    def arrays(self) -> dict[str, Numbers]:
        """Return the program as arrays by name, from which `from_arrays` makes it again."""
        parameters = [each for operation in self.operations for each in operation.parameters]
        facts = [[each.name, list(each.blocks), len(each.parameters)] for each in self.operations]
        program = np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8)
        return {_PROGRAM: program, **{f"parameter{n}": each for n, each in enumerate(parameters)}}

    def pack(self) -> bytes:
        """Return the program in numpy's .npz format; equal programs give equal bytes."""
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **self.arrays())
        return file.getvalue()

    @classmethod
    def unpack(cls, content: bytes, n_features: int) -> Columns:
        """Return the program that `pack` wrote, or that is among the arrays of another file.

        Raises `ValueError` for anything else.
        """
        facts = _facts(unpack_arrays(content, [_PROGRAM])[_PROGRAM])
        n_parameters = sum(n for _, _, n in facts)
        names = [f"parameter{number}" for number in range(n_parameters)]
        parameters = iter(unpack_arrays(content, names).values())
        operations = [
            Operation(name, tuple(blocks), tuple(next(parameters) for _ in range(n))) for name, blocks, n in facts
        ]
        return cls(n_features, operations)


def apply(operation: Operation, blocks: Sequence[Block]) -> Block:
    """Return what one operation makes of the blocks that it takes. Raises `ValueError` if they do not fit."""
    widths = [block.shape[1] for block in blocks]
    _width(Operation(operation.name, tuple(range(len(blocks))), operation.parameters), widths)
    with np.errstate(all="ignore"):
        return _KINDS[operation.name].prepare(*operation.parameters)(*blocks)


def _facts(array: Numbers) -> list[tuple[str, list[int], int]]:
    """Return names, blocks and numbers of parameters of the operations. Raises `ValueError` for anything else."""
    if array.dtype != np.uint8 or array.ndim != 1:
        raise ValueError("its program is not text")
    try:
        facts = json.loads(array.tobytes())
        facts = [(name, blocks, n) for name, blocks, n in facts]
    except (TypeError, ValueError, RecursionError):
        raise ValueError("its program is not a list of operations") from None
    if len(facts) > MAX_OPERATIONS:
        raise ValueError(f"it has {len(facts)} operations, more than {MAX_OPERATIONS}")
    for name, blocks, n in facts:
        is_list = isinstance(blocks, list) and all(type(each) is int for each in blocks)
        if not (isinstance(name, str) and is_list and type(n) is int and 0 <= n <= 2):
            raise ValueError("its program is not a list of operations")
    return facts


def _width(operation: Operation, widths: Sequence[int]) -> int:
    """Return how many columns an operation makes of blocks of these widths. Raises `ValueError` for one that cannot."""
    kind = _KINDS.get(operation.name)
    if kind is None:
        raise ValueError(f"it has the operation {operation.name!r}, which does not exist")
    blocks, parameters = operation.blocks, operation.parameters
    is_known = blocks and all(0 <= block < len(widths) for block in blocks) and len(blocks) <= MAX_OPERATIONS
    if not is_known or kind.n_blocks not in (None, len(blocks)):
        raise ValueError(f"its operation {operation.name!r} takes blocks that do not exist")
    dimensions = [2 if operation.name == "quantiles" and number == 0 else 1 for number in range(len(kind.kinds))]
    found = [(each.dtype.name, each.ndim) for each in parameters]
    if found != list(zip(kind.kinds, dimensions)):
        raise ValueError(f"its operation {operation.name!r} has other parameters than it takes")
    width = kind.width(parameters, [widths[block] for block in blocks])
    if width == 0:
        raise ValueError(f"its operation {operation.name!r} makes no columns")
    return width


class ColumnsEngine:
    """Runs an engine on the columns that a program makes of features."""

    def __init__(self, columns: Columns, engine: Predictor) -> None:
        """Take an engine for rows of the program's columns."""
        self.columns, self.engine = columns, engine

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return the engine's answers for `X` of shape `(n_rows, n_features)`, float64."""
        return self.engine.predict(self.columns.run(X))
