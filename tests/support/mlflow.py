"""What the tests of mlflow share."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.support.service import COLUMNS, HOUSE

CSV = "text/csv"
ATTRIBUTES = "X-Amzn-SageMaker-Custom-Attributes"
ROW = list(HOUSE.values())
HEADER, LINE = ",".join(COLUMNS), ",".join(map(str, ROW))


headers = st.text(st.characters(max_codepoint=255), max_size=30)
