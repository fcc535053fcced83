"""FastAPI: a typed body and a typed reply; async, since a thread pool was slower."""

import os
from typing import Any

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()
pipeline: Any = joblib.load(os.environ["PIPELINE"])


class Houses(BaseModel):
    """Rows of features."""

    rows: list[list[float]]


class Prices(BaseModel):
    """One prediction per row."""

    prediction: list[float]


@app.post("/predict")
async def predict(houses: Houses) -> Prices:
    """Predict with the pipeline."""
    return Prices(prediction=pipeline.predict(np.array(houses.rows)).tolist())
