"""The table of the examples on training: sales of houses, with an identifier, categories, gaps, dates and a target."""

from __future__ import annotations

import numpy as np
import pandas as pd


def write(path: str) -> None:
    """Write 800 rows as CSV, as a European spreadsheet does."""
    random = np.random.default_rng(0)
    area = random.uniform(30, 180, 800).round(1)
    district = random.choice(["Altstadt", "Hafen", "Nord", "West"], 800)
    days = random.integers(0, 700, 800)
    worth = (3 + 0.9 * (district == "Altstadt")) * (1 + days / 3_000) * random.normal(1, 0.1, 800)
    built = np.where(random.random(800) < 0.1, np.nan, random.integers(1890, 2024, 800))
    table = {
        "id": range(1, 801),
        "area": area,
        "rooms": (area // 25).astype(int),
        "district": district,
        "built": pd.array(built, dtype="Int64"),
        "sold": (pd.Timestamp("2024-01-01") + pd.to_timedelta(days, unit="D")).strftime("%d.%m.%Y"),
        "price": (area * worth).round(1),
    }
    pd.DataFrame(table).to_csv(path, index=False, sep=";", decimal=",")
