"""One feature: its type, the cells that it accepts, and the float64 that each becomes.

In a matrix a number is itself, a boolean is 0 or 1, a date its seconds since 1970, and a category is its position among
the feature's categories. An unseen category that the model knows how to treat has the next position, and a missing
value is NaN.
"""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.schema import dates
from model.schema.numbers import is_number

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]
Category = str | int | float

NUMBER, INTEGER, BOOLEAN, CATEGORY, DATE = "number", "integer", "boolean", "category", "date"
TYPES = (NUMBER, INTEGER, BOOLEAN, CATEGORY, DATE)
ROUNDED = (INTEGER, DATE)
"""The types whose limits, and whose made-up values, are whole numbers: a date has whole seconds there."""
# What happens to a category that is not among the feature's.
ERROR, AS_MISSING, AS_OTHER = "error", "as missing", "as other"

MISSING = "missing"
NOT_A_NUMBER = "not a number"
NOT_FINITE = "not finite"
NOT_WHOLE = "not a whole number"
OUT_OF_RANGE = "out of range"
NOT_A_BOOLEAN = "not true or false"
NOT_A_STRING = "not a string"
UNKNOWN_CATEGORY = "unknown category"
NOT_A_DATE = "not a date"

# What the prediction log has for an unseen category: not a string or a number, which could be a known one.
UNSEEN = {"unseen": True}

MAX_CATEGORIES = 10_000
# A comparison of two texts takes time in proportion to the product of their lengths: so many characters of so many
# categories are compared with an unknown one, which takes milliseconds at most.
MAX_LISTED = 5  # categories for people
_MARKS = frozenset(",;'\"")  # between categories, and around them
_MAX_WRITTEN = 2**53  # whole numbers up to this have all their digits
_MAX_TEXT = 40
_MAX_COMPARED = 200
_NUMBERS = frozenset({int, float})  # not bool: it is an int, and True is not a measurement
_NUMBERS_OR_NONE = _NUMBERS | {type(None)}
_LARGEST = float(np.finfo(np.float64).max)
# What pandas, R and spreadsheets write for a missing value.
MISSING_TEXTS = frozenset({"", "na", "n/a", "nan", "null", "none"})
_MISSING_DATES = MISSING_TEXTS | {"nat"}
# What a table of text has for true and false beside 1 and 0.
TRUE_TEXTS, FALSE_TEXTS = ("true", "yes", "t", "y", "on"), ("false", "no", "f", "n", "off")
_BOOLEANS = {**dict.fromkeys(TRUE_TEXTS, True), **dict.fromkeys(FALSE_TEXTS, False)}
# No digit can be matched in two ways, since a long cell must not take quadratic time.
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?|[+-]?inf(inity)?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a model: its name, its type, its unit and its ranges.

    `minimum` and `maximum` are the training range; values outside it are accepted. `lowest` and `highest` are the
    limits outside which the trained model raises; the server rejects such values. `missing` says whether a missing
    value is accepted. A category has its list of `categories`, all strings or all numbers, and `unseen` says what
    happens to others. The ranges and limits of a date are in seconds, and its texts may have a `format` of `strptime`
    beside ISO 8601.
    """

    name: str
    unit: str = ""
    description: str = ""
    type: str = NUMBER
    minimum: float = -math.inf
    maximum: float = math.inf
    lowest: float = -math.inf
    highest: float = math.inf
    missing: bool = False
    categories: tuple[Category, ...] = ()
    unseen: str = ERROR
    format: str = ""

    @property
    def is_plain(self) -> bool:
        """Return whether only finite numbers are accepted."""
        return self.type == NUMBER and not self.missing

    @property
    def has_text(self) -> bool:
        """Return whether its cells are strings."""
        return self.type == DATE or (bool(self.categories) and isinstance(self.categories[0], str))

    @property
    def texts(self) -> list[str]:
        """Return the categories of a category, or both values of a boolean, as texts."""
        return list(map(to_text, self.categories or (False, True)))

    @property
    def cells(self) -> Cells:
        """Return what converts the feature's cells."""
        if self.type == CATEGORY:
            return _Categories(self)
        if self.type == DATE:
            return _Dates(self)
        return _Booleans(self) if self.type == BOOLEAN else _Numbers(self)


class Cells(ABC):
    """Converts the cells of one feature to float64 and back."""

    n_places = 0
    """How many values there are, with one for unseen categories if the model knows how to treat them; 0 for numbers."""

    def __init__(self, feature: Feature) -> None:
        self.missing = feature.missing

    @abstractmethod
    def number(self, cell: Any) -> float | None:
        """Return what a cell becomes in the matrix; None if it is refused."""

    @abstractmethod
    def numbers(self, cells: Sequence[Any]) -> Vector | None:
        """Return what the cells of many rows become, `(n_rows,)`; None if any of them is refused."""

    @abstractmethod
    def each_from_array(self, values: Vector) -> tuple[Vector, Flags]:
        """Return what numbers `(n_rows,)`, NaN for missing, become, and which of them are accepted."""

    def from_array(self, values: Vector) -> Vector | None:
        """Return what numbers `(n_rows,)`, NaN for missing, become; None if any of them is refused."""
        numbers, accepted = self.each_from_array(values)
        return numbers if accepted.all() else None

    @abstractmethod
    def reason(self, cell: Any) -> str | None:
        """Return the reason to refuse a cell; None if it is accepted."""

    @abstractmethod
    def parse(self, text: str) -> Any:
        """Return the cell that a text in a table of text means: None for a missing value."""

    @abstractmethod
    def cell(self, number: float) -> Any:
        """Return the cell of a number in the matrix, None for a missing value."""

    def to_log(self, number: float) -> Any:
        """Return the cell of a number in the matrix as the prediction log has it."""
        return self.cell(number)

    def from_log(self, cells: Sequence[Any]) -> Vector:
        """Return the numbers in the matrix, `(n_rows,)`, of cells that `to_log` wrote; NaN for any others."""
        try:
            return np.array(cells, dtype=np.float64)  # None becomes NaN
        except (TypeError, ValueError):  # of another model that had this name and version
            return np.array(
                [cell if type(cell) in (bool, int, float) else math.nan for cell in cells], dtype=np.float64
            )

    def accepted(self, reason: str) -> str:
        """Return what is accepted instead of a cell that is refused for a reason; empty where the reason says it."""
        return ""

    def nearest(self, cell: Any) -> Category | None:
        """Return the known category, or the limit of numbers or dates, that is most like a refused cell, if any is."""
        return None


class _Numbers(Cells):
    def __init__(self, feature: Feature) -> None:
        super().__init__(feature)
        self._whole = feature.type == INTEGER
        # Infinities are never accepted.
        self._lowest, self._highest = max(feature.lowest, -_LARGEST), min(feature.highest, _LARGEST)
        self._types = _NUMBERS_OR_NONE if feature.missing else _NUMBERS

    def number(self, cell: Any) -> float | None:
        if cell is None:
            return math.nan if self.missing else None
        if type(cell) not in _NUMBERS:
            return None
        try:
            value = float(cell)
        except OverflowError:  # an integer beyond float64
            return None
        if self._lowest <= value <= self._highest:
            if not self._whole:
                return value
            return value + 0.0 if value.is_integer() else None  # whole numbers have no -0
        return value if self.missing and value != value else None

    def numbers(self, cells: Sequence[Any]) -> Vector | None:
        if not self._types.issuperset(map(type, cells)):
            return None
        try:
            return self.from_array(np.array(cells, dtype=np.float64))  # None becomes NaN
        except OverflowError:
            return None

    def each_from_array(self, values: Vector) -> tuple[Vector, Flags]:
        accepted = (values >= self._lowest) & (values <= self._highest)
        if self._whole:
            accepted &= values == np.floor(values)
        if self.missing:
            accepted |= np.isnan(values)
        return values + 0.0 if self._whole else values, accepted

    def reason(self, cell: Any) -> str | None:
        if cell is None or (self.missing and type(cell) is float and math.isnan(cell)):
            return None if self.missing else MISSING
        if type(cell) not in _NUMBERS:
            return NOT_A_NUMBER
        try:
            value = float(cell)
        except OverflowError:
            return NOT_FINITE
        if not math.isfinite(value):
            return NOT_FINITE
        if self._whole and not value.is_integer():
            return NOT_WHOLE
        return None if self._lowest <= value <= self._highest else OUT_OF_RANGE

    def nearest(self, cell: Any) -> Category | None:
        limit = self._lowest if cell < self._lowest else self._highest
        return int(limit) if self._whole else limit

    def parse(self, text: str) -> Any:
        return parse_cell(text)

    def cell(self, number: float) -> Any:
        if math.isnan(number):
            return None
        return int(number) if self._whole else number


class _Booleans(Cells):
    n_places = 2
    _CODES: Mapping[Any, float] = {False: 0.0, True: 1.0}  # 0, 1, 0.0 and 1.0 are equal to them

    def number(self, cell: Any) -> float | None:
        if cell is None or cell != cell:
            return math.nan if self.missing else None
        return self._CODES.get(cell) if type(cell) in (bool, int, float) else None

    def numbers(self, cells: Sequence[Any]) -> Vector | None:
        return _each(self, cells)

    def each_from_array(self, values: Vector) -> tuple[Vector, Flags]:
        accepted = (values == 0) | (values == 1)
        if self.missing:
            accepted |= np.isnan(values)
        return values + 0.0, accepted  # neither value is -0

    def reason(self, cell: Any) -> str | None:
        if self.number(cell) is not None:
            return None
        return MISSING if cell is None else NOT_A_BOOLEAN

    def parse(self, text: str) -> Any:
        return _BOOLEANS.get(text.strip().lower(), parse_cell(text))

    def cell(self, number: float) -> Any:
        return None if math.isnan(number) else bool(number)


class _Categories(Cells):
    def __init__(self, feature: Feature) -> None:
        super().__init__(feature)
        self.categories = feature.categories
        self._of_text = feature.has_text
        self._types = {str} if self._of_text else _NUMBERS
        self._codes = {category: float(code) for code, category in enumerate(feature.categories)}
        n_categories = len(feature.categories)
        self._unseen = {AS_MISSING: math.nan, AS_OTHER: float(n_categories)}.get(feature.unseen)
        self.n_places = n_categories + (feature.unseen == AS_OTHER)
        if not self._of_text:
            self._order = np.argsort(np.array(feature.categories, dtype=np.float64), kind="stable")
            self._sorted = np.array(feature.categories, dtype=np.float64)[self._order]

    def number(self, cell: Any) -> float | None:
        if cell is None or cell != cell:
            return math.nan if self.missing else None
        return self._codes.get(cell, self._unseen) if type(cell) in self._types else None

    def numbers(self, cells: Sequence[Any]) -> Vector | None:
        if self._types.issuperset(map(type, cells)):
            codes = list(map(self._codes.get, cells))
            if None not in codes:
                return np.array(codes, dtype=np.float64)
        return _each(self, cells)

    def each_from_array(self, values: Vector) -> tuple[Vector, Flags]:
        missing = np.isnan(values)
        if self._of_text:  # no number is one of them
            return values, missing & self.missing
        place = self._sorted.searchsorted(values).clip(max=len(self._sorted) - 1)
        known = self._sorted[place] == values
        codes = self._order[place].astype(np.float64)
        unseen = self._unseen if self._unseen is not None else 0
        accepted = np.where(missing, self.missing, known | (self._unseen is not None))
        return np.where(known, codes, np.where(missing, math.nan, unseen)), accepted

    def reason(self, cell: Any) -> str | None:
        if self.number(cell) is not None:
            return None
        if cell is None:
            return MISSING
        if type(cell) not in self._types:
            return NOT_A_STRING if self._of_text else NOT_A_NUMBER
        return NOT_FINITE if cell != cell else UNKNOWN_CATEGORY

    def parse(self, text: str) -> Any:
        if not self._of_text:
            return parse_cell(text)
        if text in self._codes:
            return text
        stripped = text.strip()
        return None if stripped.lower() in MISSING_TEXTS and stripped not in self._codes else stripped

    def cell(self, number: float) -> Any:
        if math.isnan(number) or not 0 <= number < len(self.categories):
            return None
        return self.categories[int(number)]

    def to_log(self, number: float) -> Any:
        return UNSEEN if number == len(self.categories) else self.cell(number)

    def from_log(self, cells: Sequence[Any]) -> Vector:
        unseen = float(len(self.categories))
        codes = [
            self._codes.get(cell, math.nan) if type(cell) in self._types else unseen if cell == UNSEEN else math.nan
            for cell in cells
        ]
        return np.array(codes, dtype=np.float64)

    def nearest(self, cell: Any) -> Category | None:
        if not self._of_text:
            if not is_number(cell):
                return None
            return min(self.categories, key=lambda category: abs(float(category) - float(cell)))
        if type(cell) is not str:
            return None
        text = cell.strip().casefold()
        if text in self._folded:
            return self._folded[text]
        compared: Iterable[str] = self._folded
        if len(self._folded) > _MAX_COMPARED:
            compared = islice((known for known in self._folded if known[:1] == text[:1]), _MAX_COMPARED)
        cut = {known[:_MAX_TEXT]: known for known in compared}
        found = difflib.get_close_matches(text[:_MAX_TEXT], cut, n=1, cutoff=0.5)
        return self._folded[cut[found[0]]] if found else None

    @cached_property
    def _folded(self) -> dict[str, Category]:
        """The categories by what they are without spaces around them and without upper case."""
        return {str(category).strip().casefold(): category for category in self.categories}


class _Dates(Cells):
    """A date is at most a few microseconds from its text: `model.schema.dates` says which."""

    def __init__(self, feature: Feature) -> None:
        super().__init__(feature)
        self._format = feature.format
        self._lowest, self._highest = limits_of_dates(feature)

    def number(self, cell: Any) -> float | None:
        if cell is None or cell != cell:
            return math.nan if self.missing else None
        if type(cell) is not str:
            return None
        seconds = dates.parse(cell, self._format)
        return seconds if seconds is not None and self._lowest <= seconds <= self._highest else None

    def numbers(self, cells: Sequence[Any]) -> Vector | None:
        try:
            distinct = set(cells)  # many rows are of the same days
        except TypeError:  # a list or an object
            return None
        numbers = {cell: self.number(cell) for cell in distinct}
        return None if None in numbers.values() else np.array([numbers[cell] for cell in cells], dtype=np.float64)

    def each_from_array(self, values: Vector) -> tuple[Vector, Flags]:
        return values, np.isnan(values) & self.missing  # no number says since when and in what it counts

    def reason(self, cell: Any) -> str | None:
        if self.number(cell) is not None:
            return None
        if cell is None:
            return MISSING
        if type(cell) is not str or dates.parse(cell, self._format) is None:
            return NOT_A_DATE
        return OUT_OF_RANGE

    def parse(self, text: str) -> Any:
        text = text.strip()
        return None if text.lower() in _MISSING_DATES else text

    def cell(self, number: float) -> Any:
        return None if math.isnan(number) else dates.text_of(number)

    def accepted(self, reason: str) -> str:
        return dates.accepted(self._format) if reason == NOT_A_DATE else ""

    def from_log(self, cells: Sequence[Any]) -> Vector:
        seconds = (dates.parse(cell) if type(cell) is str else None for cell in cells)
        return np.array([math.nan if each is None else each for each in seconds], dtype=np.float64)

    def nearest(self, cell: Any) -> Category | None:
        seconds = dates.parse(cell, self._format) if type(cell) is str else None
        if seconds is None:
            return None
        return dates.text_of(self._lowest if seconds < self._lowest else self._highest)


def limits_of_dates(feature: Feature) -> tuple[float, float]:
    """Return the lowest and highest seconds of a feature of dates, at most those of the years 1 and 9999."""
    return max(feature.lowest, dates.LOWEST), min(feature.highest, dates.HIGHEST)


def _each(cells: Cells, values: Iterable[Any]) -> Vector | None:
    """Return what each value becomes; None if any is refused."""
    numbers = [cells.number(value) for value in values]
    return None if None in numbers else np.array(numbers, dtype=np.float64)


def to_text(category: Category) -> str:
    """Return a category as a text, false and true as JSON has them."""
    return str(category).lower() if isinstance(category, bool) else str(category)


def listed(categories: Sequence[Category], most: int = MAX_LISTED) -> str:
    """Return the first categories, or classes, for people; in quotes where they could be misread."""
    known = ", ".join(repr(each) if _is_ambiguous(each) else to_text(each) for each in categories[:most])
    more = len(categories) - most
    return f"{known} and {more:,} more" if more > 0 else known


def _is_ambiguous(category: Category) -> bool:
    return isinstance(category, str) and (category.strip() != category or not category or bool(_MARKS & set(category)))


def described(feature: Feature, most: int = MAX_LISTED) -> str:
    """Return in a few words what was seen of a feature in training, and what else is accepted."""
    if feature.type == CATEGORY:
        others = {AS_MISSING: "counts as missing", AS_OTHER: "counts as one more"}.get(feature.unseen, "is refused")
        seen = f"{listed(feature.categories, most)}; any other {others}"
    elif feature.type == BOOLEAN:
        seen = "true or false"
    elif math.isfinite(feature.minimum) and math.isfinite(feature.maximum):
        ends = (feature.minimum, feature.maximum)
        seen = f"{' to '.join(dates.shown(*ends) if feature.type == DATE else map(_shown, ends))} in training"
    else:
        seen = "any date" if feature.type == DATE else "any number"
    if feature.type == DATE and (feature.lowest > dates.LOWEST or feature.highest < dates.HIGHEST):
        seen += f", accepted from {' to '.join(map(dates.text_of, limits_of_dates(feature)))}"
    if feature.format:
        seen += f"; also written as {feature.format}"
    return f"{seen}; may be missing" if feature.missing else seen


def _shown(number: float) -> str:
    return str(int(number)) if number.is_integer() and abs(number) < _MAX_WRITTEN else f"{number:g}"


def parse_cell(text: str) -> float | str | None:
    """Return the number in a cell of text, None for a missing value, the text itself for anything else.

    Rounds correctly, like `float`. `1_000` and digits of other scripts, which `float` accepts, are not numbers.
    """
    text = text.strip()
    if text.lower() in MISSING_TEXTS:
        return None
    return float(text) if _NUMBER.fullmatch(text) else text


def to_document(feature: Feature) -> dict[str, Any]:
    """Return a feature for the manifest. JSON has no infinity, so an infinite limit is absent."""
    facts = asdict(feature)
    if not feature.missing:
        del facts["missing"]
    if not feature.format:
        del facts["format"]
    if feature.type == CATEGORY:
        facts["categories"] = list(feature.categories)
    else:
        del facts["categories"], facts["unseen"]
    return {name: value for name, value in facts.items() if value not in (math.inf, -math.inf)}


def from_document(facts: Mapping[str, Any]) -> Feature:
    """Return the feature that `to_document` wrote. Raises `TypeError` or `ValueError` for anything else."""
    if not isinstance(facts, Mapping):
        raise TypeError("a feature is not an object")
    categories = facts.get("categories", [])
    feature = Feature(**{**facts, "categories": tuple(categories)})
    texts = (feature.name, feature.unit, feature.description)
    if not all(isinstance(text, str) for text in texts) or feature.type not in TYPES:
        raise ValueError(
            f"the feature {feature.name!r} is not of a type in {', '.join(TYPES)} with string descriptions"
        )
    if type(feature.missing) is not bool or feature.unseen not in (ERROR, AS_MISSING, AS_OTHER):
        raise ValueError(f"the feature {feature.name!r} does not say how missing and unseen values are treated")
    for low, high in ((feature.minimum, feature.maximum), (feature.lowest, feature.highest)):
        # An absent limit is infinite; others must be within float64.
        if not all(limit in (-math.inf, math.inf) or is_number(limit) for limit in (low, high)) or not low <= high:
            raise ValueError(f"the feature {feature.name!r} has limits that are not two numbers in order")
    if feature.type == CATEGORY:
        is_text = isinstance(categories, list) and all(isinstance(category, str) for category in categories)
        is_numeric = isinstance(categories, list) and all(map(is_number, categories))
        different = set(map(float, categories)) if is_numeric else set(categories) if is_text else set()
        if not (is_text or is_numeric) or not len(different) == len(categories) <= MAX_CATEGORIES or not categories:
            raise ValueError(
                f"the feature {feature.name!r} has no list of 1 to {MAX_CATEGORIES} different categories, all of them "
                "strings or all of them numbers"
            )
    elif categories:
        raise ValueError(f"the feature {feature.name!r} is of type {feature.type} and has categories")
    if not isinstance(feature.format, str) or (feature.format and feature.type != DATE):
        raise ValueError(f"the feature {feature.name!r} is of type {feature.type} and has a format of dates")
    if feature.format:
        dates.check_format(feature.format)
    if feature.type == DATE:
        finite = [each for each in (feature.minimum, feature.maximum, *limits_of_dates(feature)) if math.isfinite(each)]
        if not all(dates.LOWEST <= each <= dates.HIGHEST for each in finite):
            raise ValueError(f"the feature {feature.name!r} has dates beyond the years 1 to 9999")
    return feature
