"""The grammar of formulas: text -> nodes, and nodes -> text. Knows nothing of columns and their types."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from model.errors import FormulaError
from model.schema import dates

MAX_LENGTH = 1_000  # characters of a formula
MAX_DEPTH = 30  # of parentheses, functions and signs in each other
MAX_NODES = 200  # names, numbers, operators and functions of a formula
MAX_POWER = 8

_SPACE = re.compile(r"\s*")
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)"
    r"|(?P<name>[^\W\d]\w*)"
    r"|`(?P<quoted>(?:[^`]|``)+)`"
    r"|'(?P<text>(?:[^']|'')*)'"
    r'|"(?P<other_text>(?:[^"]|"")*)"'
    r"|(?P<sign>\*\*|<=|>=|==|!=|[-+*/<>(),])",
)
WORDS = ("and", "or", "not")
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")

OF_NUMBERS = {
    **{name: name for name in ("sign", "sqrt", "cbrt", "exp", "expm1", "log", "log2", "log10", "log1p")},
    **{name: name for name in ("sin", "cos", "floor", "ceil", "trunc")},
    "abs": "absolute",
    "round": "rint",
}
DATE_PARTS = ("year", "quarter", "month", "day", "day_of_year", "weekday", "hour", "minute")
FUNCTIONS = {
    **dict.fromkeys((*OF_NUMBERS, *DATE_PARTS, "is_missing", "date"), 1),
    **dict.fromkeys(("min", "max", "days_since", "hours_since", "days_between"), 2),
    "where": 3,
}
"""The functions of a formula, and how many arguments each takes."""
_OF_TEXTS = ("date", "days_since", "hours_since")  # whose last argument is a date as a text
_PLAIN_NAME = re.compile(r"[^\W\d]\w*")
_LARGEST_SHORT = 2.0**53  # whole numbers below it are written without an exponent
_MAX_COMPARED = 100  # characters of a name that is compared with others
# How tightly operators bind.
_LEVELS = {"or": 1, "and": 2, "not": 3, **dict.fromkeys(COMPARISONS, 4), "+": 5, "-": 5, "*": 6, "/": 6}
_LEVELS |= {"negative": 7, "**": 8}
_ATOM = 9


@dataclass(frozen=True, slots=True)
class Number:
    """A number of a formula."""

    value: float


@dataclass(frozen=True, slots=True)
class Text:
    """A date, or a category that a column is compared with."""

    value: str


@dataclass(frozen=True, slots=True)
class Name:
    """A column."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """An operator or a function of other nodes; a sign is "negative"."""

    function: str
    arguments: tuple[Node, ...]


Node: TypeAlias = "Number | Text | Name | Call"


def read(text: str) -> tuple[Node, tuple[str, ...]]:
    """Return a formula as a node, and the columns that it takes, in order of appearance. Raises `FormulaError`."""
    if len(text) > MAX_LENGTH:
        raise FormulaError(text, f"it has {len(text):,} characters, more than {MAX_LENGTH:,}")
    return _Parser(text).whole()


class _Parser:
    """Reads a formula by recursive descent, a method for each level of precedence."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._names: dict[str, None] = {}
        self._n_nodes = self._depth = 0
        self._end = 0  # of the token
        self._next()

    def whole(self) -> tuple[Node, tuple[str, ...]]:
        """Return the whole text as a node, and the columns that it takes."""
        root = self._either()
        if self._kind:
            raise self._error(f"{self._token!r} does not continue the formula; an operator may stand here")
        if isinstance(root, Text):
            raise FormulaError(self._text, "it is a text; write a column's name without quotes, or in backticks")
        if not self._names:
            raise FormulaError(self._text, "it takes no column; write the name of one")
        return root, tuple(self._names)

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
        if kind == "name" and self._token in WORDS:
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

    def _made(self, node: Node) -> Node:
        self._n_nodes += 1
        if self._n_nodes > MAX_NODES:
            raise FormulaError(self._text, f"it has more than {MAX_NODES} names, numbers, operators and functions")
        return node

    def _call(self, function: str, *arguments: Node) -> Node:
        texts = [each.value for each in arguments if isinstance(each, Text)]
        is_compared = function in ("==", "!=") and any(isinstance(each, Name) for each in arguments)
        if texts and not is_compared and function not in _OF_TEXTS:
            raise FormulaError(
                self._text,
                f"the text {texts[0]!r} stands where a number is expected; a text is the category that a column is "
                "compared with by == or !=, or a date in date('2020-01-01')",
            )
        return self._made(Call(function, arguments))

    def _deeper(self, level: Callable[[], Node]) -> Node:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error(f"parentheses, functions and signs stand more than {MAX_DEPTH} deep in each other")
        node = level()
        self._depth -= 1
        return node

    def _either(self) -> Node:
        node = self._both()
        while self._takes("or"):
            node = self._call("or", node, self._both())
        return node

    def _both(self) -> Node:
        node = self._denied()
        while self._takes("and"):
            node = self._call("and", node, self._denied())
        return node

    def _denied(self) -> Node:
        return self._call("not", self._deeper(self._denied)) if self._takes("not") else self._compared()

    def _compared(self) -> Node:
        node = self._sum()
        if not (sign := self._takes(*COMPARISONS)):
            return node
        node = self._call(sign, node, self._sum())
        if self._kind == "sign" and self._token in COMPARISONS:
            raise self._error("a comparison stands behind another; write a < b and b < c")
        return node

    def _sum(self) -> Node:
        node = self._product()
        while sign := self._takes("+", "-"):
            node = self._call(sign, node, self._product())
        return node

    def _product(self) -> Node:
        node = self._signed()
        while sign := self._takes("*", "/"):
            node = self._call(sign, node, self._signed())
        return node

    def _signed(self) -> Node:
        if not self._takes("-"):
            return self._power()
        node = self._deeper(self._signed)
        return Number(-node.value) if isinstance(node, Number) else self._call("negative", node)

    def _power(self) -> Node:
        node = self._atom()
        if not self._takes("**"):
            return node
        value = float(self._token) if self._kind == "number" else 0.0
        if not (value.is_integer() and 2 <= value <= MAX_POWER):
            raise self._error(f"the power is not a whole number from 2 to {MAX_POWER}")
        self._next()
        return self._call("**", node, self._made(Number(value)))

    def _atom(self) -> Node:
        kind, token = self._kind, self._token
        if kind == "number":
            if not math.isfinite(float(token)):
                raise self._error("the number is beyond float64")
            self._next()
            return self._made(Number(float(token)))
        if kind == "text":
            self._next()
            return self._made(Text(token))
        if kind in ("name", "quoted"):
            place = self._place
            self._next()
            if kind == "name" and self._kind == "sign" and self._token == "(":
                return self._function(token, place)
            self._names[token] = None
            return self._made(Name(token))
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

    def _function(self, name: str, place: int) -> Node:
        if name not in FUNCTIONS:
            known = ", ".join(sorted(FUNCTIONS))
            reason = f"there is no function {name!r}{nearest(name, FUNCTIONS)}; there are {known}"
            raise FormulaError(self._text, reason, place)
        self._takes("(")
        arguments = [self._deeper(self._either)]
        while self._takes(","):
            arguments.append(self._deeper(self._either))
        self._close()
        expected = FUNCTIONS[name]
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


def _check_date(text: str, name: str, arguments: Sequence[Node], place: int) -> None:
    *first, last = arguments
    try:
        if not isinstance(last, Text) or any(isinstance(each, Text) for each in first):
            raise ValueError
        seconds(last.value)
    except ValueError:
        raise FormulaError(text, f"{name} takes a date as a text at its end, such as '2020-01-01'", place) from None


def seconds(text: str) -> float:
    """Return a date, or a date and time, in ISO 8601 as seconds since 1970. Raises `ValueError` for any other text."""
    found = dates.parse(text)
    if found is None or not dates.LOWEST <= found <= dates.HIGHEST:
        raise ValueError(f"{text!r} is not a date in ISO 8601")
    return found


def nearest(name: str, names: Iterable[str]) -> str:
    """Return which of the names is most like a name, as the end of a sentence; nothing if none is like it."""
    found = difflib.get_close_matches(name[:_MAX_COMPARED], [each for each in names if len(each) <= _MAX_COMPARED], n=1)
    return f"; the nearest is {found[0]!r}" if found else ""


def printed(node: Node, least: int = 0) -> str:
    """Return a part of a formula as text, in parentheses if it binds less tightly than is needed."""
    text, level = _text_and_level(node)
    return text if level >= least else f"({text})"


def _shown(number: float) -> str:
    is_short = number.is_integer() and 0 < abs(number) < _LARGEST_SHORT
    return f"{int(number)}" if is_short else repr(number)


def _text_and_level(node: Node) -> tuple[str, int]:
    if isinstance(node, Number):
        return _shown(node.value), _ATOM if math.copysign(1.0, node.value) > 0 else _LEVELS["negative"]
    if isinstance(node, Text):
        return "'{}'".format(node.value.replace("'", "''")), _ATOM
    if isinstance(node, Name):
        is_plain = _PLAIN_NAME.fullmatch(node.name) and node.name not in WORDS
        return (node.name if is_plain else "`{}`".format(node.name.replace("`", "``"))), _ATOM
    level = _LEVELS.get(node.function)
    if level is None:
        return f"{node.function}({', '.join(map(printed, node.arguments))})", _ATOM
    if node.function in ("not", "negative"):
        sign = "not " if node.function == "not" else "-"
        return sign + printed(node.arguments[0], level), level
    left, right = node.arguments
    of_left = level + 1 if node.function in (*COMPARISONS, "**") else level
    return f"{printed(left, of_left)} {node.function} {printed(right, level + 1)}", level
