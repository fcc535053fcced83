"""The textbook service: a data frame in, and a new scaler fitted on each payload."""

import os
from typing import Any

import joblib
import pandas as pd
from flask import Flask, jsonify, request
from flask.typing import ResponseReturnValue
from sklearn.preprocessing import StandardScaler

app = Flask(__name__)
trees: Any = joblib.load(os.environ["PIPELINE"])[-1]


@app.post("/predict")
def predict() -> ResponseReturnValue:
    """Fit a scaler on the rows of the request, which is the mistake, and predict."""
    frame = pd.DataFrame(request.get_json())
    app.logger.info("%s", frame)
    return jsonify(prediction=trees.predict(StandardScaler().fit_transform(frame)).tolist())
