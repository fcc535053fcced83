from typing import Any

import bentoml
import joblib
import pandas as pd


@bentoml.service
class Flights:
    def __init__(self) -> None:
        self.pipeline = joblib.load("flights.joblib")

    @bentoml.api
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        return self.pipeline.predict(pd.DataFrame(rows)).tolist()
