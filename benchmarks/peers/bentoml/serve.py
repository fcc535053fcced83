"""BentoML: a service of two workers with typed input and output.

With an array as output it computes the output's JSON schema anew for each request, and is slower. Adaptive batching
was slower, too.
"""

import os
from typing import Any

import bentoml
import joblib
import numpy as np
from pydantic import BaseModel


class Prices(BaseModel):
    """One prediction per row."""

    prediction: list[float]


@bentoml.service(workers=2)
class Houses:
    """The pipeline as a service."""

    def __init__(self) -> None:
        self.pipeline: Any = joblib.load(os.environ["PIPELINE"])

    @bentoml.api
    async def predict(self, rows: list[list[float]]) -> Prices:
        """Predict with the pipeline."""
        return Prices(prediction=self.pipeline.predict(np.array(rows)).tolist())
