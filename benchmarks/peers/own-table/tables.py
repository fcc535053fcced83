"""What the scripts beside this one share: their arguments, the table, and what they write."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

Fit = Callable[[pd.DataFrame, pd.Series, bool, float], Any]
"""Takes features, target, whether it is a classification, and seconds; returns what has `predict` and its like."""


def run(fit: Fit) -> None:
    """Fit the training table that is named on the command line, and write the answers for the test table.

    The arguments are: training table, test table, target, regression or classification, budget in seconds, output. The
    output is JSON: seconds that fitting took, and predictions, or labels with a list of probabilities a row.
    """
    training, test, target, task, budget, out = sys.argv[1:]
    rows, new = pd.read_csv(training), pd.read_csv(test)
    is_classification = task == "classification"
    rows = rows[rows[target].notna()]
    started = time.perf_counter()
    fitted = fit(rows.drop(columns=target), rows[target], is_classification, float(budget))
    seconds = time.perf_counter() - started
    features = new.drop(columns=target)
    answers: dict[str, Any] = {"seconds": seconds}
    if is_classification:
        answers["classes"] = [str(each) for each in fitted.classes_]
        answers["probability"] = fitted.predict_proba(features).tolist()
    else:
        answers["prediction"] = [float(each) for each in fitted.predict(features)]
    Path(out).write_text(json.dumps(answers))
