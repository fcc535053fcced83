"""How a request asks for the prediction intervals of a regression, and what it learns if it cannot have them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from app.errors import BodyError
from app.protocols.classification import has_classes
from model import Intervals, Schema

INTERVAL, LOWER, UPPER = "interval", "lower", "upper"
DEFAULT_LEVEL = 0.9


def level_of(sent: Any, intervals: Intervals | None, schema: Schema) -> float:
    """Return the level that a request asks for, which may be a number or its text. Raises `BodyError`."""
    if has_classes(schema):
        raise BodyError("the model is a classifier and has no prediction intervals; ask for its probabilities")
    if intervals is None:
        raise BodyError("the model has no prediction intervals, since no rows were held out when it was trained")
    try:
        level = float(sent) if type(sent) in (str, int, float) else math.nan
    except (ValueError, OverflowError):
        level = math.nan
    if level not in intervals.half_widths:
        raise BodyError(f"the {INTERVAL} is none of the model's levels: {offered(intervals.levels)}")
    return level


def offered(levels: Sequence[float]) -> str:
    """Return the levels for people: every hundredth as a range."""
    percents = [level * 100 for level in levels]
    if len(levels) > 1 and all(abs(high - low - 1) < 1e-6 for low, high in pairwise(percents)):
        return f"{levels[0]:g} to {levels[-1]:g}, in hundredths"
    return ", ".join(f"{level:g}" for level in levels)
