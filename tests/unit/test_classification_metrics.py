"""The metrics of a classification are scikit-learn's, and their intervals cover the true values."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu, norm
from sklearn import metrics as reference
from sklearn.preprocessing import label_binarize

from model import metrics

Answers = tuple[NDArray[np.float64], NDArray[np.float64]]


@st.composite
def cases(draw: st.DrawFn) -> Answers:
    """Return true positions and answers of 2 to 5 classes, with many equal probabilities and with ones of 0 and 1."""
    n_classes = draw(st.integers(2, 5))
    weights = st.lists(st.integers(0, 4), min_size=n_classes, max_size=n_classes).filter(any)
    rows = draw(st.lists(st.tuples(st.integers(0, n_classes - 1), weights), min_size=1, max_size=40))
    y = np.array([float(truth) for truth, _ in rows])
    probabilities = np.array([np.array(weights) / sum(weights) for _, weights in rows])
    return y, np.column_stack([probabilities.argmax(axis=1), probabilities])


def simulated(n_rows: int, *, n_classes: int, seed: int) -> Answers:
    """Return answers of a model that knows the true probabilities, and classes drawn by them."""
    random = np.random.default_rng(seed)
    probabilities = random.dirichlet(np.ones(n_classes), n_rows)
    y = (random.random((n_rows, 1)) > probabilities.cumsum(axis=1)).sum(axis=1).astype(np.float64)
    return y, np.column_stack([probabilities.argmax(axis=1), probabilities])


@given(case=cases())
def test_metrics_are_those_of_scikit_learn(case: Answers) -> None:
    """Log loss, Brier score and accuracy equal scikit-learn's for any number of classes, with ties and certainty."""
    y, answers = case
    positions = list(range(answers.shape[1] - 1))
    scores = metrics.classification(y, answers)

    assert scores.rows == len(y)
    assert scores.log_loss == pytest.approx(reference.log_loss(y, answers[:, 1:], labels=positions))
    assert scores.brier == pytest.approx(reference.brier_score_loss(y, answers[:, 1:], labels=positions))
    assert scores.accuracy == pytest.approx(reference.accuracy_score(y, answers[:, 0]))


@given(case=cases())
def test_area_is_that_of_scikit_learn(case: Answers) -> None:
    """AUC is scikit-learn's: the second class's of two, else the mean over the classes that some rows are of."""
    y, answers = case
    n_classes = answers.shape[1] - 1
    present = np.unique(y).astype(int)
    auc = metrics.classification(y, answers).auc

    if len(present) == 1:
        assert auc is None
    elif n_classes == 2:
        assert auc == pytest.approx(reference.roc_auc_score(y, answers[:, 2]))
    elif len(present) == n_classes:
        truth = label_binarize(y, classes=np.arange(n_classes))
        assert auc == pytest.approx(reference.roc_auc_score(truth, answers[:, 1:], average="macro"))
    else:
        areas = [reference.roc_auc_score(y == position, answers[:, 1 + position]) for position in present]
        assert auc == pytest.approx(np.mean(areas))


def test_metrics_of_a_known_case() -> None:
    """Probabilities of 0.9, 0.2 and 0.6 for the second class of rows that are, are not and are not of it."""
    second = np.array([0.9, 0.2, 0.6])
    answers = np.column_stack([second > 0.5, 1 - second, second])
    losses = -np.log([0.9, 0.8, 0.4])

    assert asdict(metrics.classification(np.array([1.0, 0.0, 0.0]), answers)) == pytest.approx(
        {
            "rows": 3,
            "log_loss": losses.mean(),
            "log_loss_deviation": losses.std(),
            "brier": (0.1**2 + 0.2**2 + 0.6**2) / 3,
            "accuracy": 2 / 3,
            "auc": 1.0,
        }
    )


def test_accuracy_follows_the_label_that_was_answered() -> None:
    """Libraries break ties by rules of their own, so the label is not taken from the probabilities again."""
    answers = np.array([[1.0, 0.5, 0.5], [0.0, 0.5, 0.5]])

    assert metrics.classification(np.array([1.0, 1.0]), answers).accuracy == 0.5


def test_area_interval_is_that_of_delong() -> None:
    """For two classes, the variance is DeLong's: that of the Mann-Whitney comparisons by row of each class."""
    y, answers = simulated(80, n_classes=2, seed=5)
    positive, negative = answers[y == 1, 2], answers[y == 0, 2]
    wins = (positive[:, None] > negative) + (positive[:, None] == negative) / 2
    variance = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)
    auc = mannwhitneyu(positive, negative).statistic / wins.size
    half_width = norm.ppf(0.975) * variance**0.5

    assert metrics.classification_intervals(y, answers)["auc"] == pytest.approx((auc - half_width, auc + half_width))


def test_accuracy_interval_is_that_of_wilson() -> None:
    """81 right of 263 has Wilson's interval without correction as Newcombe (1998) prints it: 0.2553 to 0.3662."""
    assert metrics.share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.share_interval(0, 10)[0] == 0.0
    assert metrics.share_interval(10, 10)[1] == 1.0


@pytest.mark.parametrize("n_classes", [2, 4])
def test_intervals_cover_the_true_values(n_classes: int) -> None:
    """In at least 90 % of samples of 100 rows, each interval has the value of a very large sample."""
    truth = asdict(metrics.classification(*simulated(200_000, n_classes=n_classes, seed=0)))
    samples = [
        metrics.classification_intervals(*simulated(100, n_classes=n_classes, seed=seed)) for seed in range(1, 301)
    ]

    for name in ("log_loss", "brier", "accuracy", "auc"):
        found = [interval for interval in (sample[name] for sample in samples) if interval]
        covered = np.mean([low <= truth[name] <= high for low, high in found])
        assert len(found) == len(samples), name
        assert 0.9 <= covered <= 0.99, name


def test_what_is_not_defined_has_no_interval() -> None:
    """One row has an interval for its accuracy only; rows of one class, and a class of one row, have none for AUC."""
    y, answers = simulated(3, n_classes=2, seed=1)

    one = metrics.classification_intervals(y[:1], answers[:1])
    assert [name for name, interval in one.items() if interval] == ["accuracy"]
    assert metrics.classification_intervals(np.zeros(3), answers)["auc"] is None
    assert metrics.classification_intervals(np.array([0.0, 0.0, 1.0]), answers)["auc"] is None


def test_certain_and_right_answers_have_an_interval() -> None:
    """A model without an error has a log loss of almost 0, within its interval."""
    answers = np.array([[1.0, 0.0, 1.0]] * 5)

    low, high = metrics.classification_intervals(np.ones(5), answers)["log_loss"] or (1.0, -1.0)
    assert 0 <= low <= metrics.classification(np.ones(5), answers).log_loss <= high < 1e-12


def test_confusion_of_few_labels() -> None:
    """A row for each true label has the number of its rows that were given each label."""
    labels, counts = metrics.confusion(np.array([0.0, 0, 2]), np.array([[0.0], [1], [2]]), ["ash", "elm", "oak"])

    assert labels == ["ash", "elm", "oak"]
    assert counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_confusion_of_many_labels() -> None:
    """The most frequent labels have rows of their own in a confusion matrix, and all others share one."""
    y = np.repeat(np.arange(30.0), np.arange(30) + 1)
    labels, counts = metrics.confusion(y, y[:, np.newaxis], [str(number) for number in range(30)])

    assert labels == [*map(str, range(11, 30)), "others"]
    assert np.array_equal(counts, np.diag([*range(12, 31), sum(range(1, 12))]))
