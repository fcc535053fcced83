"""Formulas as operations of `model.engine.columns`: each part once, and those of one kind together."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from model.engine.formula_syntax import (
    COMPARISONS,
    DATE_PARTS,
    OF_NUMBERS,
    Call,
    Name,
    Node,
    Number,
    Text,
    nearest,
    seconds,
)
from model.errors import FormulaError

_SECONDS_A_DAY, _SECONDS_AN_HOUR = 86_400.0, 3_600.0
_OF_TWO = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


@dataclass(frozen=True, slots=True)
class _Step:
    """One column of a program before columns are computed together: an operation on earlier ones, by their numbers."""

    operation: str
    arguments: tuple[int, ...] = ()
    number: float | None = None


# Operations whose result may be infinite, and those that are so, or NaN, where an argument is infinite: the arguments
# by their positions. Others take finite numbers.
_MAKES_INFINITE = {"plus", "minus", "product", "over", "add", "subtract", "multiply", "divide"}
_MAKES_INFINITE |= {"exp", "expm1", "log", "log2", "log10", "log1p"}
_PASSES_INFINITE: Mapping[str, tuple[int, ...]] = {
    **dict.fromkeys(("plus", "minus", "product"), (0, 1)),
    **dict.fromkeys(("over", "add", "subtract", "multiply", "divide", "negative", "absolute", "sqrt", "cbrt"), (0,)),
    **dict.fromkeys(("log", "log2", "log10", "log1p", "sin", "cos", "floor", "ceil", "trunc", "rint"), (0,)),
    "where": (1, 2),
}
_BINARY = {"+": ("plus", "add"), "-": ("minus", "subtract"), "*": ("product", "multiply"), "/": ("over", "divide")}
_SMALL = {
    "is missing",
    "is less",
    "is at most",
    "is equal",
    "is not equal",
    "both",
    "either",
    "not",
    "sign",
    "sin",
    "cos",
}
_SMALL |= {part.replace("_", " ") for part in DATE_PARTS}
_COMPARED = {"<": "is less", "<=": "is at most", "==": "is equal", "!=": "is not equal"}
_PLAIN = {
    **{name: name.replace("_", " ") for name in (*DATE_PARTS, "is_missing")},
    **OF_NUMBERS,
    "negative": "negative",
    "min": "smaller",
    "max": "larger",
    "where": "where",
    "and": "both",
    "or": "either",
    "not": "not",
}


class Lowered:
    """Formulas as steps, each of which is there once."""

    def __init__(self, names: Sequence[str], categories: Mapping[str, Sequence[str]]) -> None:
        self._positions = {name: position for position, name in enumerate(names)}
        self._categories = categories
        self._known: dict[tuple[str, tuple[int, ...], str], int] = {}
        self._text = ""
        self.steps: list[_Step] = []
        self.is_infinite: list[bool] = []

    def of(self, root: Node, text: str) -> int:
        """Add the steps of a formula and its text, and return the number of the last. Raises `FormulaError`."""
        self._text = text
        return self._of(root)

    def is_large(self, step: int) -> bool:
        """Return whether a step's numbers may be beyond float32."""
        return self.steps[step].operation not in _SMALL

    def _of(self, node: Node) -> int:
        if isinstance(node, Number):
            return self._add("number", number=node.value)
        if isinstance(node, Name):
            if node.name not in self._positions:
                raise FormulaError(self._text, f"there is no column {node.name!r}{nearest(node.name, self._positions)}")
            return self._add("column", number=float(self._positions[node.name]))
        assert isinstance(node, Call)  # texts are arguments that are read below
        return self._of_call(node.function, node.arguments)

    def _of_call(self, function: str, arguments: Sequence[Node]) -> int:
        if function in _BINARY:
            return self._arithmetic(function, *map(self._of, arguments))
        if function == "**":
            base, power = self._of(arguments[0]), arguments[1]
            assert isinstance(power, Number)
            found = base
            for _ in range(int(power.value) - 1):
                found = self._add("product", found, base)
            return found
        if function in COMPARISONS:
            return self._comparison(function, arguments)
        if function == "date":
            return self._add("number", number=seconds(_text_of(arguments[0])))
        if function == "days_between":
            between = self._arithmetic("-", *map(self._of, arguments))
            return self._add("divide", between, number=_SECONDS_A_DAY)
        if function in ("days_since", "hours_since"):
            since = self._add("subtract", self._of(arguments[0]), number=seconds(_text_of(arguments[1])))
            unit = _SECONDS_A_DAY if function == "days_since" else _SECONDS_AN_HOUR
            return self._add("divide", since, number=unit)
        return self._add(_PLAIN[function], *map(self._of, arguments))

    def _arithmetic(self, sign: str, left: int, right: int) -> int:
        """Add a sum, difference, product or ratio; a number on its right is a parameter."""
        of_two, of_number = _BINARY[sign]
        if self._number(left) is not None and sign in "+*":
            left, right = right, left
        number = self._number(right)
        if number is None:
            return self._add(of_two, left, right)
        if (first := self._number(left)) is not None:
            with np.errstate(all="ignore"):
                value = float(_OF_TWO[sign](np.float64(first), np.float64(number)))
            if math.isfinite(value):
                return self._add("number", number=value)
            return self._add(of_two, left, right)
        return self._add(of_number, left, number=number)

    def _comparison(self, sign: str, arguments: Sequence[Node]) -> int:
        texts = [each for each in arguments if isinstance(each, Text)]
        if texts:
            (name,) = [each for each in arguments if isinstance(each, Name)]
            position = self._position(name.name, texts[0].value)
            return self._add(_COMPARED[sign], self._of(name), self._add("number", number=position))
        left, right = map(self._of, arguments)
        if sign in (">", ">="):
            sign, left, right = sign.replace(">", "<"), right, left
        return self._add(_COMPARED[sign], left, right)

    def _position(self, name: str, category: str) -> float:
        """Return the position of a category of a column."""
        known = self._categories.get(name, ())
        if not known:
            raise FormulaError(self._text, f"{name!r} is compared with the text {category!r}, and has no categories")
        if category not in known:
            raise FormulaError(self._text, f"{name!r} has no category {category!r}{nearest(category, known)}")
        return float(list(known).index(category))

    def _number(self, step: int) -> float | None:
        return self.steps[step].number if self.steps[step].operation == "number" else None

    def _add(self, operation: str, *arguments: int, number: float | None = None) -> int:
        """Add a step, unless it is there, and return its number; arguments that must be finite are made so."""
        passes = (0,) if operation == "finite" else _PASSES_INFINITE.get(operation, ())
        arguments = tuple(
            self._add("finite", each) if self.is_infinite[each] and position not in passes else each
            for position, each in enumerate(arguments)
        )
        key = (operation, arguments, "" if number is None else number.hex())
        if key not in self._known:
            self._known[key] = len(self.steps)
            self.steps.append(_Step(operation, arguments, number))
            is_infinite = any(self.is_infinite[each] for each in arguments)
            is_infinite = operation in _MAKES_INFINITE or (is_infinite and operation not in ("finite", "sin", "cos"))
            self.is_infinite.append(is_infinite)
        return self._known[key]


def _text_of(node: Node) -> str:
    assert isinstance(node, Text)  # as the parser checks
    return node.value


class Scheduled:
    """The operations of steps: those of one kind that can be computed at once are one operation on several columns."""

    def __init__(
        self, steps: Sequence[_Step], results: Sequence[int], add: Callable[..., int], block: int, width: int
    ) -> None:
        self._add = add
        self._widths = {block: width}
        self._places: dict[int, tuple[int, int]] = {}  # block and column of each step
        self._gathered: dict[tuple[int, ...], int] = {}
        needed, levels = set(results), [0] * len(steps)
        for number in range(len(steps) - 1, -1, -1):
            if number in needed:
                needed.update(steps[number].arguments)
        groups: dict[tuple[int, str], list[int]] = {}
        for number, step in enumerate(steps):
            if number not in needed:
                continue
            if step.operation == "column":
                assert step.number is not None
                self._places[number] = (block, int(step.number))
                continue
            levels[number] = 1 + max((levels[each] for each in step.arguments), default=-1)
            groups.setdefault((levels[number], step.operation), []).append(number)
        for (_, operation), numbers in sorted(groups.items()):
            self._run(operation, numbers, [steps[number] for number in numbers], block)

    def _run(self, operation: str, numbers: Sequence[int], steps: Sequence[_Step], block: int) -> None:
        parameters = [step.number for step in steps if step.number is not None]
        given = [np.array(parameters, dtype=np.float64)] if parameters else []
        if operation == "number":
            made = self._add("numbers", [block], *given)
        else:
            arguments = zip(*(step.arguments for step in steps))
            made = self._add(operation, [self.gathered(each) for each in arguments], *given)
        self._widths[made] = len(numbers)
        self._places.update({number: (made, column) for column, number in enumerate(numbers)})

    def gathered(self, steps: Sequence[int]) -> int:
        """Return the number of a block with the columns of these steps."""
        key = tuple(steps)
        if key not in self._gathered:
            places = [self._places[each] for each in steps]
            blocks = list(dict.fromkeys(block for block, _ in places))
            parts, order = [], []
            for block in blocks:
                positions = [number for number, place in enumerate(places) if place[0] == block]
                parts.append(self._take(block, [places[number][1] for number in positions]))
                order += positions
            found = parts[0]
            if len(parts) > 1:
                found = self._add("join", parts)
                self._widths[found] = len(places)
            self._gathered[key] = self._take(found, np.argsort(order).tolist())
        return self._gathered[key]

    def _take(self, block: int, columns: Sequence[int]) -> int:
        if list(columns) == list(range(self._widths[block])):
            return block
        taken = self._add("take", [block], np.array(columns, dtype=np.int64))
        self._widths[taken] = len(columns)
        return taken
