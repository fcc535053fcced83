"""Formulas: what the grammar takes and refuses, and what formulas give, number by number."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import example, given, reject
from hypothesis import strategies as st

from model.engine.columns import Columns
from model.engine.formula_syntax import MAX_DEPTH, MAX_LENGTH
from model.engine.formulas import RULE, Derived, parse, program
from model.errors import FormulaError
from model.schema.feature import BOOLEAN, CATEGORY, DATE, NUMBER
from tests.support.service import bits

NAN = math.nan
NAMES = ("a", "b", "c")
Row = dict[str, float]
Expression = tuple[str, Callable[[Row], float]]


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def value(text: str, **row: float) -> float:
    """Return what a formula gives for one row."""
    return float(parse(text).evaluate({name: [number] for name, number in row.items()})[0])


@pytest.mark.parametrize(
    ("text", "row", "expected"),
    [
        ("a / b", {"a": 1, "b": 4}, 0.25),
        ("2 + 3 * a - b / 2", {"a": 5, "b": 8}, 13),
        ("10 - a - b", {"a": 5, "b": 8}, -3),
        ("-a ** 2", {"a": 3}, -9),
        ("(-a) ** 3", {"a": 3}, -27),
        ("(a + 1) * .5", {"a": 3}, 2),
        ("1e3 * a", {"a": 0.25}, 250),
        ("`price total` / rooms", {"price total": 9, "rooms": 3}, 3),
        ("`a``b` + `and`", {"a`b": 9, "and": 3}, 12),
        ("log + log(log)", {"log": 1}, 1),
        ("größe * 2", {"größe": 2}, 4),
        ("abs(a) + sign(a) + round(a)", {"a": -2.5}, -0.5),
        ("floor(a) * 100 + ceil(a) * 10 + trunc(a)", {"a": 1.5}, 121),
        ("sqrt(a) + cbrt(b) + exp(0 * a)", {"a": 9, "b": 8}, 6),
        ("min(a, b) * 10 + max(a, b)", {"a": 2, "b": 3}, 23),
        ("where(a > 1, b, 0)", {"a": 2, "b": 3}, 3),
        ("where(a > 1, b, 0)", {"a": 2, "b": NAN}, NAN),
        ("where(a > 1, b, 0)", {"a": 1, "b": NAN}, 0),
        ("where(a > 1, b, 0)", {"a": NAN, "b": 3}, NAN),
        ("where(is_missing(a), 0, a)", {"a": NAN}, 0),
        ("(a > 1) + (b > 1)", {"a": 2, "b": 3}, 2),
        ("a <= 1 and not b == 2", {"a": 1, "b": 3}, 1),
        ("a or b", {"a": NAN, "b": 3}, 1),
        ("a or b", {"a": NAN, "b": 0}, NAN),
        ("a and b", {"a": NAN, "b": 0}, 0),
        ("a and b", {"a": NAN, "b": 1}, NAN),
        ("not a", {"a": NAN}, NAN),
        ("a == b", {"a": NAN, "b": NAN}, NAN),
        ("a != 3", {"a": 2}, 1),
        ("a >= b", {"a": 2, "b": 2}, 1),
        ("a > b", {"a": 2, "b": 2}, 0),
    ],
)
def test_formula_gives(text: str, row: Row, expected: float) -> None:
    """Operators bind as in Python; a missing value makes a result missing unless the result is known without it."""
    assert value(text, **row) == pytest.approx(expected, nan_ok=True, abs=0, rel=1e-15)


@pytest.mark.parametrize(
    ("text", "row"),
    [
        ("a / b", {"a": 1, "b": 0}),
        ("a / b", {"a": 0, "b": 0}),
        ("log(a)", {"a": -1}),
        ("log(a)", {"a": 0}),
        ("sqrt(a)", {"a": -1}),
        ("exp(a)", {"a": 1e3}),
        ("a * b", {"a": 1e200, "b": 1e200}),
        ("1 / (1 / a)", {"a": 0}),
        ("max(log(a), 3)", {"a": 0}),
        ("exp(log(a))", {"a": 0}),
        ("1 / a > 5", {"a": 0}),
        ("sign(1 / a)", {"a": 0}),
        ("min(a ** 8, 1)", {"a": 1e100}),
        ("where(a == 0, 1 / a, a)", {"a": 0}),
        ("0 * a + 1 / 0", {"a": 0}),
        ("a", {"a": 3.5e38}),
        ("-a", {"a": 3.5e38}),
    ],
)
def test_what_is_not_finite_is_missing(text: str, row: Row) -> None:
    """Infinities and what is not defined are missing values, wherever they are; so is a result beyond float32."""
    assert math.isnan(value(text, **row))


def test_what_is_not_finite_is_seen_as_missing() -> None:
    """A ratio by 0 is missing to `is_missing`, too, and a branch that is not taken does not matter."""
    assert value("is_missing(1 / a)", a=0) == 1
    assert value("where(b == 0, 0, a / b)", a=3, b=0) == 0


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01T00:00:00",
        "2000-02-29T23:59:59.999999",
        "1900-03-01",
        "0001-01-01",
        "9999-12-31T23:59:59",
        "2024-12-31",
    ],
)
def test_parts_of_a_date_are_those_of_the_calendar(text: str) -> None:
    """Each part of a date is that of the Gregorian calendar, and missing for what is no date."""
    moment = datetime.fromisoformat(text)
    row = {"d": seconds(text)}
    expected = {
        "year": moment.year,
        "quarter": (moment.month + 2) // 3,
        "month": moment.month,
        "day": moment.day,
        "day_of_year": moment.timetuple().tm_yday,
        "weekday": moment.weekday(),
        "hour": moment.hour,
        "minute": moment.minute,
    }

    assert {part: value(f"{part}(d)", **row) for part in expected} == expected
    assert all(math.isnan(value(f"{part}(d)", d=number)) for part in expected for number in (NAN, 1e300, -1e12))


def test_differences_of_dates_have_units() -> None:
    """Days and hours since a date, and days between two, count parts of a day; an offset is converted to UTC."""
    row = {"d": seconds("2020-01-02T06:00:00"), "e": seconds("2020-01-01")}

    assert value("days_since(d, '2020-01-01')", **row) == 1.25
    assert value("hours_since(d, '2020-01-02T01:00+02:00')", **row) == 7
    assert value("days_between(d, e)", **row) == 1.25
    assert value('d >= date("2020-01-02") and e < date("2020-01-02")', **row) == 1


def test_category_is_compared_by_its_name() -> None:
    """A text is a category's position; an unseen category is none of them, and a missing one gives a missing value."""
    found = parse("region == 'Nord' or 'It''s' != region").evaluate(
        {"region": [0, 1, 2, NAN]}, {"region": ["It's", "Nord"]}
    )

    assert found.tolist()[:3] == [0, 1, 1]
    assert math.isnan(found[3])
    with pytest.raises(FormulaError, match=r"no category 'nord'; the nearest is 'Nord'"):
        parse("region == 'nord'").evaluate({"region": [0.0]}, {"region": ["It's", "Nord"]})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "the end stands where a column"),
        ("a +", "character 4: the end stands"),
        ("a b", "character 3: 'b' does not continue"),
        ("a = 3", "write == to compare"),
        ("a ^ 2", r"write \*\* for a power"),
        ("a ** b", "whole number from 2 to 8"),
        ("a ** 2 ** 2", "does not continue"),
        ("a ** 9", "whole number from 2 to 8"),
        ("0 < a < 3", "write a < b and b < c"),
        ("logg(a)", "no function 'logg'; the nearest is 'log'"),
        ("min(a)", "min takes 2 arguments, not 1"),
        ("sqrt(a, b)", "sqrt takes 1 argument, not 2"),
        ("(a", r"stands where '\)'"),
        ("`a", "the quote ` has no end"),
        ("1 + 2", "it takes no column"),
        ("'a'", "it is a text"),
        ("a + 'x'", "'x' stands where a number is expected"),
        ("days_since(d, '2020-13-01')", "takes a date as a text"),
        ("days_since(d, 2020)", "takes a date as a text"),
        ("date('0001-01-01T00:00+05:00') < d", "takes a date as a text"),
        ("1e999 * a", "beyond float64"),
        ("a.b", "'.' is not part of a formula"),
        ("__import__('os').system('x')", "no function '__import__'"),
        ("a if b else c", "does not continue"),
        ("lambda: a", "':' is not part"),
        ("a" * (MAX_LENGTH + 1), "more than 1,000"),
        ("(" * (MAX_DEPTH + 1) + "a" + ")" * (MAX_DEPTH + 1), "deep in each other"),
        ("-" * 900 + "a", "deep in each other"),
        ("a" + "+a" * 100, "more than 200 names"),
    ],
)
def test_what_is_no_formula_is_refused(text: str, reason: str) -> None:
    """An error says where a text stops being a formula, and what to write."""
    with pytest.raises(FormulaError, match=reason):
        parse(text)


@given(text=st.text(max_size=60) | st.text("ab1.+-*/<>=!()`'\", eandortlog", max_size=40))
@example("a\x00")
@example("\ud800")
@example("9" * 400)
def test_any_text_is_a_formula_or_an_error(text: str) -> None:
    """Any text parses to a formula that runs, or raises `FormulaError`."""
    try:
        formula = parse(text)
        found = formula.evaluate({name: [0.0, 1.0, NAN] for name in formula.names})
    except FormulaError:
        return
    assert found.shape == (3,)
    assert not np.isinf(found).any()


def finite(number: float) -> float:
    return number if math.isfinite(number) else NAN


def divided(first: float, second: float) -> float:
    return finite(first / second) if second else NAN


def both(first: float, second: float) -> float:
    if first == 0 or second == 0:
        return 0.0
    return NAN if math.isnan(first) or math.isnan(second) else 1.0


def either(first: float, second: float) -> float:
    if any(number != 0 and not math.isnan(number) for number in (first, second)):
        return 1.0
    return NAN if math.isnan(first) or math.isnan(second) else 0.0


def known(function: Callable[..., float]) -> Callable[..., float]:
    """Return a function that gives a missing value for one."""
    return lambda *numbers: NAN if any(map(math.isnan, numbers)) else finite(float(function(*numbers)))


BINARY: dict[str, Callable[[float, float], float]] = {
    "+": lambda x, y: finite(x + y),
    "-": lambda x, y: finite(x - y),
    "*": lambda x, y: finite(x * y),
    "/": divided,
    "<": known(lambda x, y: x < y),
    "<=": known(lambda x, y: x <= y),
    ">": known(lambda x, y: x > y),
    ">=": known(lambda x, y: x >= y),
    "==": known(lambda x, y: x == y),
    "!=": known(lambda x, y: x != y),
    "and": both,
    "or": either,
}
UNARY: dict[str, Callable[[float], float]] = {
    "-{}": lambda x: -x,
    "not {}": lambda x: NAN if math.isnan(x) else float(x == 0),
    "abs({})": abs,
    "floor({})": known(math.floor),
    "ceil({})": known(math.ceil),
    "round({})": known(round),
    "sqrt({})": known(lambda x: math.sqrt(x) if x >= 0 else NAN),
    "sign({})": known(lambda x: (x > 0) - (x < 0)),
    "is_missing({})": lambda x: float(math.isnan(x)),
}


def larger(inner: st.SearchStrategy[Expression]) -> st.SearchStrategy[Expression]:
    """Return expressions that are made of others, as texts in parentheses and as plain functions of a row."""

    def unary(key: str, each: Expression) -> Expression:
        return f"({key.format(each[0])})", lambda row: UNARY[key](each[1](row))

    def binary(sign: str, left: Expression, right: Expression) -> Expression:
        return f"({left[0]} {sign} {right[0]})", lambda row: BINARY[sign](left[1](row), right[1](row))

    def chosen(condition: Expression, first: Expression, second: Expression) -> Expression:
        def run(row: Row) -> float:
            is_first = condition[1](row)
            return NAN if math.isnan(is_first) else (first if is_first else second)[1](row)

        return f"where({condition[0]}, {first[0]}, {second[0]})", run

    def powered(base: Expression, power: int) -> Expression:
        def run(row: Row) -> float:
            number = found = base[1](row)
            for _ in range(power - 1):
                found = finite(found * number)
            return found

        return f"({base[0]} ** {power})", run

    return (
        st.builds(unary, st.sampled_from(sorted(UNARY)), inner)
        | st.builds(binary, st.sampled_from(sorted(BINARY)), inner, inner)
        | st.builds(chosen, inner, inner, inner)
        | st.builds(powered, inner, st.integers(2, 4))
    )


def column(name: str) -> Expression:
    return name, lambda row: row[name]


def constant(number: float) -> Expression:
    return repr(number), lambda row: number


CELLS = st.sampled_from([NAN, 0.0, -0.0, 1.0, -2.5, 1e-300, 1e300]) | st.floats(allow_infinity=False)
EXPRESSIONS = st.recursive(
    st.builds(column, st.sampled_from(NAMES)) | st.builds(constant, st.floats(0, 1e6)), larger, max_leaves=12
)


@given(
    expressions=st.lists(EXPRESSIONS, min_size=1, max_size=4),
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=5),
)
def test_formulas_give_the_bits_of_plain_floats(expressions: list[Expression], rows: list[tuple[float, ...]]) -> None:
    """Several formulas together give, row by row, the numbers of Python's own float64; printed and read, too."""
    try:
        formulas = [parse(text) for text, _ in expressions]
    except FormulaError:  # without a column, or too deep
        reject()
    X = np.array(rows)
    expected = np.array([[run(dict(zip(NAMES, row))) for _, run in expressions] for row in rows])
    expected[np.abs(expected) > np.finfo(np.float32).max] = NAN
    found = program(formulas, NAMES)

    assert np.array_equal(found.run(X), expected, equal_nan=True)
    assert np.array_equal(bits(Columns.unpack(found.pack(), 3).run(X)), bits(found.run(X)))
    for formula in formulas:
        again = parse(str(formula))
        assert again.root == formula.root
        assert str(again) == str(formula)


def test_alike_operations_are_done_at_once() -> None:
    """Ratios of several formulas are one operation, and the same part of two formulas is computed once."""
    found = program([parse(text) for text in ("a / b", "b / c", "log(a / b)", "c / a")], NAMES)
    counts = Counter(each.name for each in found.operations)

    assert (counts["over"], counts["log"], counts["in float32"]) == (1, 1, 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a / 2", NUMBER),
        ("a > 1", RULE),
        ("max(d, e)", DATE),
        ("month(d)", NUMBER),
        ("r == 'x' and is_missing(t)", RULE),
    ],
)
def test_type_of_a_formula(text: str, expected: str) -> None:
    """A formula gives a number, a rule or a date, by the types of its columns."""
    types = {"a": BOOLEAN, "d": DATE, "e": DATE, "r": CATEGORY, "t": "text"}

    assert parse(text).check(types) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("d - e", r"d - e takes numbers, not dates; write days_between"),
        ("month(a)", "takes dates"),
        ("d > 3", "compares a date with a number"),
        ("r + 1", "takes a category"),
        ("r == 1", "takes a category"),
        ("a == 'x'", "compares a text with a column that is no category"),
        ("log(t)", "'t' is of the type text"),
        ("where(a, d, a)", "takes two dates or two numbers"),
        ("where(d, a, a)", "takes a comparison first"),
        ("aa + 1", "no column 'aa'; the nearest is 'a'"),
    ],
)
def test_types_that_do_not_fit_are_refused(text: str, reason: str) -> None:
    """An operator or a function of columns that it does not take is an error that names it."""
    with pytest.raises(FormulaError, match=reason):
        parse(text).check({"a": NUMBER, "d": DATE, "e": DATE, "r": CATEGORY, "t": "text"})


def test_derived_feature_has_its_formula() -> None:
    """A definition is read when it is asked for its formula, whose columns are in order of appearance."""
    assert Derived("per_room", "price / rooms + price").parsed.names == ("price", "rooms")
    with pytest.raises(FormulaError, match="no column 'b'"):
        parse("a / b").evaluate({"a": [1.0]})
