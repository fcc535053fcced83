"""The same FastAPI as `fastapi`, with Tabserve's compiled engine in place of the pipeline."""

import os
from pathlib import Path

import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel

from model import Store

app = FastAPI()
artifact = Store(Path(os.environ["TABSERVE_STORE"])).load("boston-housing")


class Houses(BaseModel):
    """Rows of features."""

    rows: list[list[float]]


class Prices(BaseModel):
    """One prediction per row."""

    prediction: list[float]


@app.post("/predict")
async def predict(houses: Houses) -> Prices:
    """Predict with the engine."""
    return Prices(prediction=artifact.predict(np.array(houses.rows)).tolist())
