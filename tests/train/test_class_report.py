"""Owns the report on a classifier: its figures are scikit-learn's, and it is judged by its log loss."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as reference

from model import Artifact, Store
from model.cli.main import main
from model.live.judge import Verdict, judge
from model.live.prediction_log import PredictionLog
from model.metrics import ClassificationScores, classification_intervals
from tests.support import classifiers
from tests.support.classifiers import LABELS
from tests.train.test_report import NOW, Page, render

Matrix = NDArray[np.float64]


@pytest.fixture
def load(classifiers_store: Path) -> Callable[[str], Artifact]:
    """What loads a classifier by its name."""
    return lambda name: Store(classifiers_store).load(name)


def rows_of(model: Artifact, n_rows: int, *, seed: int = 5) -> tuple[Matrix, list[Any]]:
    """Return rows like those of training `(n_rows, n_features)`, and their true labels."""
    stones = classifiers.table(n_rows, seed=seed).fillna(57.0)
    return stones.to_numpy(dtype=np.float64), classifiers.labels(model.name, stones, seed=seed).tolist()


def log_answers(
    where: Path, model: Artifact, X: Matrix, truths: list[Any], *, days: float = 20, now: Any = NOW
) -> tuple[str, Matrix]:
    """Write a log of a model's answers with their true labels, None for none; return its URL and the answers."""
    answers = model.predict(X)
    log = PredictionLog(f"sqlite:///{where}")
    ages = np.linspace(days, 0.01, len(X))
    log.write(
        [
            {
                "request_id": f"r{number}",
                "row": 0,
                "time": now - timedelta(days=float(ages[number])),
                "model": model.name,
                "version": 1,
                "features": dict(zip(model.schema.names, cells)),
                "prediction": float(answers[number, 0]),
                "probabilities": answers[number, 1:],
            }
            for number, cells in enumerate(model.schema.to_log(X))
        ],
        {(model.name, 1): model.manifest.classes},
    )
    known = [(f"r{number}", 0, truth) for number, truth in enumerate(truths) if truth is not None]
    log.add_truths(known, oldest=now - timedelta(days=900))
    log.close()
    return f"sqlite:///{where}", answers


def positions(name: str, truths: list[Any]) -> Matrix:
    """Return the positions of labels."""
    return np.array([float(LABELS[name].index(truth)) for truth in truths])


@pytest.mark.parametrize("name", LABELS)
def test_figures_are_those_of_scikit_learn(load: Callable[[str], Artifact], tmp_path: Path, name: str) -> None:
    """The table has scikit-learn's metrics of the rows with a truth, their intervals, and those of validation."""
    model = load(name)
    X, truths = rows_of(model, 300)
    url, answers = log_answers(tmp_path / "log.db", model, X, [*truths[:200], *[None] * 100])
    page = render(model, url, tmp_path)
    y, of_known = positions(name, truths[:200]), answers[:200]
    validation = model.manifest.metrics.validation
    assert isinstance(validation, ClassificationScores)
    places = list(range(len(LABELS[name])))
    expected = {
        "log loss": reference.log_loss(y, of_known[:, 1:], labels=places),
        "Brier score": reference.brier_score_loss(y, of_known[:, 1:], labels=places),
        "accuracy, share of right labels": reference.accuracy_score(y, of_known[:, 0]),
    }
    if len(places) == 2:
        expected["AUC, area under the ROC curve"] = reference.roc_auc_score(y, of_known[:, 2])

    assert page.rows["rows"][0] == "200"
    for label, value in expected.items():
        assert float(page.rows[label][0]) == pytest.approx(value, rel=5e-4), label
    intervals = classification_intervals(y, of_known)
    low, high = map(float, page.rows["log loss"][1].split(" to "))
    assert (low, high) == pytest.approx(intervals["log_loss"], rel=5e-4)
    assert float(page.rows["log loss"][-1]) == pytest.approx(validation.log_loss, rel=5e-4)
    assert "RMSE" not in page.text
    assert page.rows["prediction"][0] == "300"


def test_pictures_are_those_of_a_classifier(load: Callable[[str], Artifact], tmp_path: Path) -> None:
    """The page has a confusion matrix and how often probabilities came true, and no scatter plot of numbers."""
    model = load("mine")
    X, truths = rows_of(model, 200)
    page = render(model, log_answers(tmp_path / "log.db", model, X, truths)[0], tmp_path)

    assert "rows of each true class by label" in page.pictures
    assert "how often probabilities came true" in page.pictures
    assert "share of the predictions in each bin, live and in training" in page.pictures
    assert any(picture.startswith("log loss of each period") for picture in page.pictures)
    assert not any(
        "predicted against true" in picture or "errors by prediction" in picture for picture in page.pictures
    )


@pytest.mark.parametrize(("rows", "kind"), [(29, "unknown"), (30, "attention")])
def test_log_loss_is_judged_from_thirty_truths(
    load: Callable[[str], Artifact], tmp_path: Path, rows: int, kind: str
) -> None:
    """Labels that are the least probable ones are more than chance explains, from 30 truths on."""
    model = load("precious")
    X, _ = rows_of(model, 60)
    wrong = [LABELS["precious"][int(place)] for place in model.predict(X)[:, 1:].argmin(axis=1)]
    page = render(
        model, log_answers(tmp_path / "log.db", model, X, [*wrong[:rows], *[None] * (60 - rows)])[0], tmp_path
    )

    assert page.verdict("live error") == kind


def test_labels_like_those_of_validation_are_in_order(load: Callable[[str], Artifact], tmp_path: Path) -> None:
    """Rows and labels that are drawn as in training are neither drift nor a larger error."""
    model = load("stars")
    X, truths = rows_of(model, 400)
    page = render(model, log_answers(tmp_path / "log.db", model, X, truths)[0], tmp_path)

    assert page.verdict("The live error is within what validation and chance explain: log loss") == "fine"
    assert page.verdict("The distribution of the predictions has not drifted") == "fine"


def test_shift_of_the_labels_is_told(load: Callable[[str], Artifact], tmp_path: Path) -> None:
    """Labels that are answered in other shares than in training are a drift by PSI; categories have no KS."""
    model = load("stars")
    X, _ = rows_of(model, 400)
    X[:, 0] += 1.5
    page = render(model, log_answers(tmp_path / "log.db", model, X, [None] * 400)[0], tmp_path)

    assert page.verdict("Predictions are distributed differently than in training: prediction (PSI") == "attention"
    assert page.rows["prediction"][5] == "–"
    assert '"truth": 1}' in page.text


@pytest.mark.parametrize(("factor", "verdict"), [(0.999, Verdict.FINE), (1.001, Verdict.ATTENTION)])
def test_limit_of_the_log_loss(
    load: Callable[[str], Artifact], tmp_path: Path, factor: float, verdict: Verdict
) -> None:
    """The limit is validation's log loss, 10 % and 0.01 more, and three deviations of the larger of both spreads."""
    n, model = 200, load("precious")
    validation = model.manifest.metrics.validation
    assert isinstance(validation, ClassificationScores)
    spread = validation.log_loss_deviation * (1 / n + 1 / validation.rows) ** 0.5
    limit = validation.log_loss * 1.1 + 0.01 + 3 * spread
    probability = np.exp(-limit * factor)  # of the true class, in every row: no spread of the live loss
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    common = {"row": 0, "time": NOW, "model": "precious", "version": 1, "features": None, "prediction": 0.0}
    probabilities = np.array([1 - probability, probability])
    rows = [{**common, "request_id": f"r{number}", "probabilities": probabilities} for number in range(n)]
    log.write(rows, {("precious", 1): (False, True)})
    log.add_truths([(f"r{number}", 0, True) for number in range(n)], oldest=NOW - timedelta(days=1))
    logged = log.read("precious", 1, features=(), since=NOW - timedelta(days=1), n_classes=2)
    log.close()
    errors = judge(model, logged).whole.errors

    assert errors
    assert errors.limit == pytest.approx(limit, rel=1e-12)
    assert errors.verdict == verdict


def test_truths_of_one_class(load: Callable[[str], Artifact], tmp_path: Path) -> None:
    """Where all true labels are the same, AUC is a dash."""
    model = load("precious")
    X, _ = rows_of(model, 50)
    page = render(model, log_answers(tmp_path / "log.db", model, X, [True] * 50)[0], tmp_path)

    assert page.rows["AUC, area under the ROC curve"][:2] == ["–", ""]


def test_answers_of_another_model_of_this_name(load: Callable[[str], Artifact], tmp_path: Path) -> None:
    """Rows of a model with other classes that had this name and version are not judged, and nothing fails."""
    model = load("stars")
    X, truths = rows_of(model, 60)
    log = PredictionLog(f"sqlite:///{tmp_path / 'log.db'}")
    common = {"row": 0, "time": NOW - timedelta(days=2), "model": "stars", "version": 1, "features": None}
    many = [
        {**common, "request_id": f"old{number}", "prediction": 6.0, "probabilities": np.full(7, 1 / 7)}
        for number in range(40)
    ]
    log.write(many, {("stars", 1): tuple("abcdefg")})
    log.add_truths([(f"old{number}", 0, "g") for number in range(40)], oldest=NOW - timedelta(days=9))
    log.close()
    page = render(model, log_answers(tmp_path / "log.db", model, X, truths, days=1)[0], tmp_path)

    assert page.rows["rows"][0] == "60"


def test_command_reports_on_a_classifier(
    load: Callable[[str], Artifact], classifiers_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m model report` writes the page of a classifier and prints its verdicts."""
    model = load("grade")
    X, truths = rows_of(model, 150)
    url, _ = log_answers(tmp_path / "log.db", model, X, truths, now=datetime.now(UTC))
    output = tmp_path / "page.html"

    assert main(["--store", str(classifiers_store), "report", "grade", "--log", url, "--output", str(output)]) == 0
    assert "log loss" in capsys.readouterr().out
    assert "log loss" in Page(output.read_text()).rows
