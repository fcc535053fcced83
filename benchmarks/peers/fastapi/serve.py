"""FastAPI: a typed body and a typed reply; async, since handing the call to a thread took longer than it."""

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
    """One prediction a row."""

    prediction: list[float]


@app.post("/predict")
async def predict(houses: Houses) -> Prices:
    """Ask the pipeline."""
    return Prices(prediction=pipeline.predict(np.array(houses.rows)).tolist())
