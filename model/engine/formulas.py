"""Derived features and rules as formulas: text in a small grammar, run as a program of `model.engine.columns`.

A formula takes columns by name and gives one number a row. Training and serving run the same operations, so the bits
are the same. Numbers, and dates as seconds since 1970-01-01T00:00:00 UTC, are float64; a category is its position.
A missing value is NaN, and so is what is not a finite number, such as 1 / 0 or log(-1), wherever in a formula it is.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from model.engine.columns import Columns, Operation
from model.errors import FormulaError
from model.schema.feature import BOOLEAN, CATEGORY, INTEGER, NUMBER

MAX_LENGTH = 1_000  # characters of a formula
MAX_DEPTH = 30  # of parentheses, functions and signs in each other
MAX_NODES = 200  # names, numbers, operators and functions of a formula
MAX_POWER = 8
DATE, RULE = "date", "rule"
"""What a formula can give beside numbers: seconds since 1970, and what a comparison gives: 1, 0 or missing."""

_SECONDS_A_DAY, _SECONDS_AN_HOUR = 86_400.0, 3_600.0
_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|`(?P<quoted>(?:[^`]|``)+)`"
    r"|'(?P<text>(?:[^']|'')*)'"
    r'|"(?P<other_text>(?:[^"]|"")*)"'
    r"|(?P<sign>\*\*|<=|>=|==|!=|[-+*/<>(),])",
)
_WORDS = ("and", "or", "not")
_COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")

_OF_NUMBERS = {
    **{name: name for name in ("sign", "sqrt", "cbrt", "exp", "expm1", "log", "log2", "log10", "log1p")},
    **{name: name for name in ("sin", "cos", "floor", "ceil", "trunc")},
    "abs": "absolute",
    "round": "rint",
}
_DATE_PARTS = ("year", "quarter", "month", "day", "day_of_year", "weekday", "hour", "minute")
_N_ARGUMENTS = {
    **dict.fromkeys((*_OF_NUMBERS, *_DATE_PARTS, "is_missing", "date"), 1),
    **dict.fromkeys(("min", "max", "days_since", "hours_since", "days_between"), 2),
    "where": 3,
}
"""The functions of a formula, and how many arguments each takes."""
_OF_TEXTS = ("date", "days_since", "hours_since")  # whose last argument is a date as a text
_OF_TWO = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_PLAIN_NAME = re.compile(r"[^\W\d]\w*")
_LARGEST_SHORT = 2.0**53  # whole numbers below it are written without an exponent
_MICROSECOND = timedelta(microseconds=1)
_MAX_COMPARED = 100  # characters of a name that is compared with others


@dataclass(frozen=True, slots=True)
class _Number:
    value: float


@dataclass(frozen=True, slots=True)
class _Text:
    value: str


@dataclass(frozen=True, slots=True)
class _Name:
    name: str


@dataclass(frozen=True, slots=True)
class _Call:
    """An operator or a function of other nodes; a sign is "negative"."""

    function: str
    arguments: tuple[_Node, ...]


_Node: TypeAlias = "_Number | _Text | _Name | _Call"


@dataclass(frozen=True, slots=True)
class Formula:
    """A formula that was parsed. `names` are the columns that it takes, in order of appearance."""

    text: str
    names: tuple[str, ...]
    root: _Node

    def __str__(self) -> str:
        """Return the formula in its canonical form, which parses to the same formula."""
        return _printed(self.root)

    def evaluate(
        self, columns: Mapping[str, ArrayLike], categories: Mapping[str, Sequence[str]] | None = None
    ) -> NDArray[np.float64]:
        """Return the formula's numbers `(n_rows,)` for columns `(n_rows,)` by name; others are ignored.

        A date is seconds, and a column of `categories` is positions among these. Raises `FormulaError` for a column
        that is not there.
        """
        absent = [name for name in self.names if name not in columns]
        if absent:
            raise FormulaError(self.text, f"there is no column {absent[0]!r}{_nearest(absent[0], columns)}")
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
    if len(text) > MAX_LENGTH:
        raise FormulaError(text[:MAX_LENGTH], f"it has {len(text):,} characters, more than {MAX_LENGTH:,}")
    return _Parser(text).formula()


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
    lowered = _Lowered(names, categories)
    results = [lowered.of(each) for each in formulas]
    made = _Scheduled(lowered.steps, results, add, block, len(names)).gathered(results)
    return add("finite", [made]) if any(lowered.is_infinite[each] for each in results) else made


class _Parser:
    """Reads a formula by recursive descent, a method for each level of precedence."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._names: dict[str, None] = {}
        self._n_nodes = self._depth = 0
        self._end = 0  # of the token
        self._next()

    def formula(self) -> Formula:
        """Return the whole text as a formula."""
        root = self._either()
        if self._kind:
            raise self._error(f"{self._token!r} does not continue the formula; an operator may stand here")
        if isinstance(root, _Text):
            raise FormulaError(self._text, "it is a text; write a column's name without quotes, or in backticks")
        if not self._names:
            raise FormulaError(self._text, "it takes no column; write the name of one")
        return Formula(self._text, tuple(self._names), root)

    def _next(self) -> None:
        """Go to the next token: its place, its kind ("" at the end) and its value."""
        space = _SPACE.match(self._text, self._end)
        assert space is not None  # it matches nothing, too
        self._place = space.end()
        found = _TOKEN.match(self._text, self._place)
        if found is None:
            self._kind = self._token = ""
            if self._place < len(self._text):
                raise self._error(_unknown(self._text[self._place :]))
            return
        self._end = found.end()
        kind = found.lastgroup or ""
        quote = {"quoted": "`", "text": "'", "other_text": '"'}.get(kind, "")
        self._token = found[kind].replace(2 * quote, quote) if quote else found[kind]
        self._kind = {"other_text": "text"}.get(kind, kind)
        if kind == "name" and self._token in _WORDS:
            self._kind = "sign"

    def _error(self, reason: str) -> FormulaError:
        return FormulaError(self._text, reason, self._place)

    def _takes(self, *signs: str) -> str:
        """Return one of these signs and go on, or "" if the token is none of them."""
        if self._kind != "sign" or self._token not in signs:
            return ""
        sign = self._token
        self._next()
        return sign

    def _made(self, node: _Node) -> _Node:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise FormulaError(self._text, f"it has more than {MAX_NODES} names, numbers, operators and functions")
        return node

    def _call(self, function: str, *arguments: _Node) -> _Node:
        texts = [each.value for each in arguments if isinstance(each, _Text)]
        is_compared = function in ("==", "!=") and any(isinstance(each, _Name) for each in arguments)
        if texts and not is_compared and function not in _OF_TEXTS:
            raise FormulaError(
                self._text,
                f"the text {texts[0]!r} stands where a number is expected; a text is the category that a column is "
                "compared with by == or !=, or a date in date('2020-01-01')",
            )
        return self._made(_Call(function, arguments))

    def _deeper(self, level: Callable[[], _Node]) -> _Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"parentheses, functions and signs stand more than {MAX_DEPTH} deep in each other")
        node = level()
        self._depth -= 1
        return node

    def _either(self) -> _Node:
        node = self._both()
        while self._takes("or"):
            node = self._call("or", node, self._both())
        return node

    def _both(self) -> _Node:
        node = self._denied()
        while self._takes("and"):
            node = self._call("and", node, self._denied())
        return node

    def _denied(self) -> _Node:
        return self._call("not", self._deeper(self._denied)) if self._takes("not") else self._compared()

    def _compared(self) -> _Node:
        node = self._sum()
        if not (sign := self._takes(*_COMPARISONS)):
            return node
        node = self._call(sign, node, self._sum())
        if self._kind == "sign" and self._token in _COMPARISONS:
            raise self._error("a comparison stands behind another; write a < b and b < c")
        return node

    def _sum(self) -> _Node:
        node = self._product()
        while sign := self._takes("+", "-"):
            node = self._call(sign, node, self._product())
        return node

    def _product(self) -> _Node:
        node = self._signed()
        while sign := self._takes("*", "/"):
            node = self._call(sign, node, self._signed())
        return node

    def _signed(self) -> _Node:
        if not self._takes("-"):
            return self._power()
        node = self._deeper(self._signed)
        return _Number(-node.value) if isinstance(node, _Number) else self._call("negative", node)

    def _power(self) -> _Node:
        node = self._atom()
        if not self._takes("**"):
            return node
        value = float(self._token) if self._kind == "number" else 0.0
        if not (value.is_integer() and 2 <= value <= MAX_POWER):
            raise self._error(f"the power is not a whole number from 2 to {MAX_POWER}")
        self._next()
        return self._call("**", node, self._made(_Number(value)))

    def _atom(self) -> _Node:
        kind, token = self._kind, self._token
        if kind == "number":
            if not math.isfinite(float(token)):
                raise self._error("the number is beyond float64")
            self._next()
            return self._made(_Number(float(token)))
        if kind == "text":
            self._next()
            return self._made(_Text(token))
        if kind in ("name", "quoted"):
            place = self._place
            self._next()
            if kind == "name" and self._kind == "sign" and self._token == "(":
                return self._function(token, place)
            self._names[token] = None
            return self._made(_Name(token))
        if self._takes("("):
            node = self._deeper(self._either)
            self._close()
            return node
        found = repr(token) if kind else "the end"
        raise self._error(f"{found} stands where a column, a number, a function or '(' is expected")

    def _close(self) -> None:
        if not self._takes(")"):
            raise self._error(
                f"{repr(self._token) if self._kind else 'the end'} stands where ')' or an operator is expected"
            )

    def _function(self, name: str, place: int) -> _Node:
        if name not in _N_ARGUMENTS:
            nearest = _nearest(name, _N_ARGUMENTS)
            raise FormulaError(
                self._text,
                f"there is no function {name!r}{nearest}; there are {', '.join(sorted(_N_ARGUMENTS))}",
                place,
            )
        self._takes("(")
        arguments = [self._deeper(self._either)]
        while self._takes(","):
            arguments.append(self._deeper(self._either))
        self._close()
        expected = _N_ARGUMENTS[name]
        if len(arguments) != expected:
            of = "1 argument" if expected == 1 else f"{expected} arguments"
            raise FormulaError(self._text, f"{name} takes {of}, not {len(arguments)}", place)
        if name in _OF_TEXTS:
            _check_date(self._text, name, arguments, place)
        return self._call(name, *arguments)


def _unknown(rest: str) -> str:
    """Return what is wrong with a text that no token matches."""
    if rest[0] in "`'\"":
        return f"the quote {rest[0]} has no end"
    instead = {"=": "write == to compare", "^": "write ** for a power", "%": "there is no remainder"}
    instead |= {"&": "write and", "|": "write or", "!": "write not", "[": "write a column's name in backticks"}
    return f"{rest[0]!r} is not part of a formula" + (f"; {instead[rest[0]]}" if rest[0] in instead else "")


def _check_date(text: str, name: str, arguments: Sequence[_Node], place: int) -> None:
    *first, last = arguments
    try:
        if not isinstance(last, _Text) or any(isinstance(each, _Text) for each in first):
            raise ValueError
        _seconds(last.value)
    except (ValueError, OverflowError):  # such as one before the year 1
        raise FormulaError(text, f"{name} takes a date as a text at its end, such as '2020-01-01'", place) from None


def _seconds(text: str) -> float:
    """Return a date, or a date and time, in ISO 8601 as seconds. Raises `ValueError` or `OverflowError`."""
    moment = datetime.fromisoformat(text)
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    microseconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // _MICROSECOND
    return microseconds / 1e6


def _nearest(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name[:_MAX_COMPARED], [each for each in names if len(each) <= _MAX_COMPARED], n=1)
    return f"; the nearest is {found[0]!r}" if found else ""


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
_TAKEN = {**dict.fromkeys((NUMBER, INTEGER, BOOLEAN), NUMBER), DATE: DATE, CATEGORY: CATEGORY}
_BINARY = {"+": ("plus", "add"), "-": ("minus", "subtract"), "*": ("product", "multiply"), "/": ("over", "divide")}
_COMPARED = {"<": "is less", "<=": "is at most", "==": "is equal", "!=": "is not equal"}
_PLAIN = {
    **{name: name.replace("_", " ") for name in (*_DATE_PARTS, "is_missing")},
    **_OF_NUMBERS,
    "negative": "negative",
    "min": "smaller",
    "max": "larger",
    "where": "where",
    "and": "both",
    "or": "either",
    "not": "not",
}


class _Lowered:
    """Formulas as steps, each of which is there once."""

    def __init__(self, names: Sequence[str], categories: Mapping[str, Sequence[str]]) -> None:
        self._positions = {name: position for position, name in enumerate(names)}
        self._categories = categories
        self._known: dict[tuple[str, tuple[int, ...], str], int] = {}
        self._text = ""
        self.steps: list[_Step] = []
        self.is_infinite: list[bool] = []

    def of(self, formula: Formula) -> int:
        """Add the steps of a formula, and return the number of the last."""
        self._text = formula.text
        return self._of(formula.root)

    def _of(self, node: _Node) -> int:
        if isinstance(node, _Number):
            return self._add("number", number=node.value)
        if isinstance(node, _Name):
            if node.name not in self._positions:
                raise FormulaError(
                    self._text, f"there is no column {node.name!r}{_nearest(node.name, self._positions)}"
                )
            return self._add("column", number=float(self._positions[node.name]))
        assert isinstance(node, _Call)  # texts are arguments that are read below
        return self._of_call(node.function, node.arguments)

    def _of_call(self, function: str, arguments: Sequence[_Node]) -> int:
        if function in _BINARY:
            return self._arithmetic(function, *map(self._of, arguments))
        if function == "**":
            base, power = self._of(arguments[0]), arguments[1]
            assert isinstance(power, _Number)
            found = base
            for _ in range(int(power.value) - 1):
                found = self._add("product", found, base)
            return found
        if function in _COMPARISONS:
            return self._comparison(function, arguments)
        if function == "date":
            return self._add("number", number=_seconds(_text_of(arguments[0])))
        if function == "days_between":
            between = self._arithmetic("-", *map(self._of, arguments))
            return self._add("divide", between, number=_SECONDS_A_DAY)
        if function in ("days_since", "hours_since"):
            since = self._add("subtract", self._of(arguments[0]), number=_seconds(_text_of(arguments[1])))
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

    def _comparison(self, sign: str, arguments: Sequence[_Node]) -> int:
        texts = [each for each in arguments if isinstance(each, _Text)]
        if texts:
            (name,) = [each for each in arguments if isinstance(each, _Name)]
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
            raise FormulaError(self._text, f"{name!r} has no category {category!r}{_nearest(category, known)}")
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


def _text_of(node: _Node) -> str:
    assert isinstance(node, _Text)  # as the parser checks
    return node.value


class _Scheduled:
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


class _Types:
    """What each part of a formula is, for columns of given types."""

    def __init__(self, text: str, types: Mapping[str, str]) -> None:
        self._text, self._types = text, types

    def of(self, node: _Node) -> str:
        """Return the type of what a part gives. Raises `FormulaError` for an argument of another type."""
        if isinstance(node, _Number):
            return NUMBER
        if isinstance(node, _Name):
            if node.name not in self._types:
                raise FormulaError(self._text, f"there is no column {node.name!r}{_nearest(node.name, self._types)}")
            found = self._types[node.name]
            if found not in _TAKEN:
                raise FormulaError(
                    self._text, f"the column {node.name!r} is of the type {found}, which no formula takes"
                )
            return _TAKEN[found]
        assert isinstance(node, _Call)  # texts are arguments that are passed over below
        return self._of_call(node)

    def _of_call(self, node: _Call) -> str:
        function, arguments = node.function, node.arguments
        if function == "is_missing" and isinstance(arguments[0], _Name) and arguments[0].name in self._types:
            return RULE  # of any column
        is_text = any(isinstance(each, _Text) for each in arguments)
        found = [self.of(each) for each in arguments if not isinstance(each, _Text)]
        if function == "is_missing":
            return RULE
        if function == "date":
            return DATE
        if function in _COMPARISONS and is_text:
            if found != [CATEGORY]:
                raise self._error(node, "compares a text with a column that is no category; write date('…') for a date")
            return RULE
        if CATEGORY in found:
            raise self._error(node, "takes a category; it can be compared with a text by == and !=, or be missing")
        if function in (*_DATE_PARTS, "days_since", "hours_since", "days_between"):
            if set(found) != {DATE}:
                raise self._error(node, "takes dates, and a column of it is none")
            return NUMBER
        if function in _COMPARISONS:
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
        return RULE if function in _WORDS else NUMBER

    def _error(self, node: _Call, reason: str) -> FormulaError:
        return FormulaError(self._text, f"{_printed(node)} {reason}")


# How tightly operators bind.
_LEVELS = {"or": 1, "and": 2, "not": 3, **dict.fromkeys(_COMPARISONS, 4), "+": 5, "-": 5, "*": 6, "/": 6}
_LEVELS |= {"negative": 7, "**": 8}
_ATOM = 9


def _printed(node: _Node, least: int = 0) -> str:
    """Return a part of a formula as text, in parentheses if it binds less tightly than is needed."""
    text, level = _text_and_level(node)
    return text if level >= least else f"({text})"


def _shown(number: float) -> str:
    is_short = number.is_integer() and 0 < abs(number) < _LARGEST_SHORT
    return f"{int(number)}" if is_short else repr(number)


def _text_and_level(node: _Node) -> tuple[str, int]:
    if isinstance(node, _Number):
        return _shown(node.value), _ATOM if math.copysign(1.0, node.value) > 0 else _LEVELS["negative"]
    if isinstance(node, _Text):
        return "'{}'".format(node.value.replace("'", "''")), _ATOM
    if isinstance(node, _Name):
        is_plain = _PLAIN_NAME.fullmatch(node.name) and node.name not in _WORDS
        return (node.name if is_plain else "`{}`".format(node.name.replace("`", "``"))), _ATOM
    level = _LEVELS.get(node.function)
    if level is None:
        return f"{node.function}({', '.join(map(_printed, node.arguments))})", _ATOM
    if node.function in ("not", "negative"):
        sign = "not " if node.function == "not" else "-"
        return sign + _printed(node.arguments[0], level), level
    left, right = node.arguments
    of_left = level + 1 if node.function in (*_COMPARISONS, "**") else level
    return f"{_printed(left, of_left)} {node.function} {_printed(right, level + 1)}", level
