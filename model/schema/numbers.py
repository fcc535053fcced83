"""Numbers in JSON."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """Return whether a JSON value is a number within float64. A boolean is not, although it is an int in Python."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False
