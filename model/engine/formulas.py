"""Derived features and rules as formulas: text in a small grammar, run as a program of `model.engine.columns`.

A formula takes columns by name and gives one number a row. Training and serving run the same operations, so the bits
are the same. Numbers, and dates as seconds since 1970-01-01T00:00:00 UTC, are float64; a category is its position.
A missing value is NaN. So is what is not a finite number, such as 1 / 0 or log(-1), wherever in a formula it is, and a
result beyond float32, about 3.4e38, which many models refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.engine.columns import Columns, Operation
from model.engine.formula_steps import Lowered, Scheduled
from model.engine.formula_syntax import (
    COMPARISONS,
    DATE_PARTS,
    WORDS,
    Call,
    Name,
    Node,
    Number,
    Text,
    nearest,
    printed,
    read,
)
from model.errors import FormulaError
from model.schema.feature import BOOLEAN, CATEGORY, DATE, INTEGER, NUMBER

RULE = "rule"
"""What a comparison gives: 1, 0 or missing."""

_TAKEN = {**dict.fromkeys((NUMBER, INTEGER, BOOLEAN), NUMBER), DATE: DATE, CATEGORY: CATEGORY}


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula that was parsed. `names` are the columns that it takes, in order of appearance."""

    text: str
    names: tuple[str, ...]
    root: Node

    def __str__(self) -> str:
        """Return the formula in its canonical form, which parses to the same formula."""
        return printed(self.root)

    def evaluate(
        self, columns: Mapping[str, ArrayLike], categories: Mapping[str, Sequence[str]] | None = None
    ) -> NDArray[np.float64]:
        """Return the formula's numbers `(n_rows,)` for columns `(n_rows,)` by name; others are ignored.

        A date is seconds, and a column of `categories` is positions among these. Raises `FormulaError` for a column
        that is not there.
        """
        absent = [name for name in self.names if name not in columns]
        if absent:
            raise FormulaError(self.text, f"there is no column {absent[0]!r}{nearest(absent[0], columns)}")
        X = np.column_stack([np.asarray(columns[name], dtype=np.float64) for name in self.names])
        found: NDArray[np.float64] = program([self], self.names, categories).run(X)[:, 0]
        return found

    def operations(
        self, names: Sequence[str], categories: Mapping[str, Sequence[str]] | None = None
    ) -> Sequence[Operation]:
        """Return the operations that make the formula's column, the last of them, of features with these names."""
        return program([self], names, categories).operations

    def check(self, types: Mapping[str, str]) -> str:
        """Return what the formula gives, `NUMBER`, `DATE` or `RULE`, of columns of these types.

        Raises `FormulaError` for a column that does not exist, or for an operator or a function that does not take it.
        """
        return _Types(self.text, types).of(self.root)


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived feature: its name, its formula, and who answers for it."""

    name: str
    formula: str
    owner: str = ""
    description: str = ""

    @property
    def parsed(self) -> Formula:
        """Return the formula. Raises `FormulaError`."""
        return parse(self.formula)


@lru_cache(maxsize=1_000)
def parse(text: str) -> Formula:
    """Return the formula that a text is. Raises `FormulaError`, which says where and what is allowed."""
    root, names = read(text)
    return Formula(text, names, root)


def program(
    formulas: Sequence[Formula], names: Sequence[str], categories: Mapping[str, Sequence[str]] | None = None
) -> Columns:
    """Return the program that makes a column of each formula of features with these names.

    `categories` are those of the features that have some. Raises `FormulaError` for a column that is not among the
    features, or a text that is none of the categories.
    """
    operations: list[Operation] = []

    def add(name: str, blocks: Sequence[int], *parameters: NDArray[Any]) -> int:
        operations.append(Operation(name, tuple(blocks), parameters))
        return len(operations)

    assemble(formulas, names, categories or {}, add, 0)
    return Columns(len(names), operations)


def assemble(
    formulas: Sequence[Formula],
    names: Sequence[str],
    categories: Mapping[str, Sequence[str]],
    add: Callable[..., int],
    block: int,
) -> int:
    """Add the operations of formulas on a block whose columns have these names; return the number of the result.

    `add` takes an operation's name, blocks and parameters, and returns the number of the block that it makes.
    """
    lowered = Lowered(names, categories)
    results = [lowered.of(each.root, each.text) for each in formulas]
    made = Scheduled(lowered.steps, results, add, block, len(names)).gathered(results)
    return add("in float32", [made]) if any(lowered.is_large(each) for each in results) else made


class _Types:
    """What each part of a formula is, for columns of given types."""

    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        self._text, self._types = text, types

    def of(self, node: Node) -> str:
        """Return the type of what a part gives. Raises `FormulaError` for an argument of another type."""
        if isinstance(node, Number):
            return NUMBER
        if isinstance(node, Name):
            if node.name not in self._types:
                raise FormulaError(self._text, f"there is no column {node.name!r}{nearest(node.name, self._types)}")
            found = self._types[node.name]
            if found not in _TAKEN:
                raise FormulaError(
                    self._text, f"the column {node.name!r} is of the type {found}, which no formula takes"
                )
            return _TAKEN[found]
        assert isinstance(node, Call)  # texts are arguments that are passed over below
        return self._of_call(node)

    def _of_call(self, node: Call) -> str:
        function, arguments = node.function, node.arguments
        if function == "is_missing" and isinstance(arguments[0], Name) and arguments[0].name in self._types:
            return RULE  # of any column
        is_text = any(isinstance(each, Text) for each in arguments)
        found = [self.of(each) for each in arguments if not isinstance(each, Text)]
        if function == "is_missing":
            return RULE
        if function == "date":
            return DATE
        if function in COMPARISONS and is_text:
            if found != [CATEGORY]:
                raise self._error(node, "compares a text with a column that is no category; write date('…') for a date")
            return RULE
        if CATEGORY in found:
            raise self._error(node, "takes a category; it can be compared with a text by == and !=, or be missing")
        if function in (*DATE_PARTS, "days_since", "hours_since", "days_between"):
            if set(found) != {DATE}:
                raise self._error(node, "takes dates, and a column of it is none")
            return NUMBER
        if function in COMPARISONS:
            if (found[0] == DATE) != (found[1] == DATE):
                raise self._error(node, "compares a date with a number; write date('2020-01-01') for a date")
            return RULE
        if function in ("min", "max", "where"):
            if function == "where" and found[0] == DATE:
                raise self._error(node, "takes a comparison first, not a date")
            same = found[-2:]
            if (same[0] == DATE) != (same[1] == DATE):
                raise self._error(node, "takes two dates or two numbers")
            return same[0] if same[0] == same[1] else NUMBER
        if DATE in found:
            days = "; write days_between(later, earlier) for days" if function == "-" else ""
            raise self._error(node, f"takes numbers, not dates{days}")
        return RULE if function in WORDS else NUMBER

    def _error(self, node: Call, reason: str) -> FormulaError:
        return FormulaError(self._text, f"{printed(node)} {reason}")
