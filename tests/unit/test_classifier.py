"""A version that classifies: what its files must be, and how far its answers may differ where they are replayed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier

from model import ArtifactError, GoldenRowsError, Store, export
from model.engine import steps
from model.engine.compare import differing, largest_difference, predict_by_batch_size
from model.store import artifact
from model.train import export as drafts
from model.train import proof
from tests.support.service import bits, rewrite

LABELS = ("ash", "elm", "oak")


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Two classifiers of trees: a forest, whose answers are equal everywhere, and a GBM, which takes exponentials."""
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 2))
    y = np.array(LABELS)[np.digitize(X[:, 0] + X[:, 1] ** 2, [0.3, 1])]
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "RANDOM_ROWS", 500)
        patch.setattr(drafts, "git_commit", lambda: None)  # which starts a process
        for name, learner in (
            ("forest", RandomForestClassifier(n_estimators=3, max_depth=3, random_state=0)),
            ("gbm", GradientBoostingClassifier(n_estimators=9, random_state=0)),
        ):
            export(learner.fit(X, y), X, y, name=name, store=store.root)
    return store


@pytest.fixture
def gbm(trees: Store, tmp_path: Path) -> Path:
    """A copy of the GBM, to break."""
    return shutil.copytree(trees.find("gbm"), tmp_path / "1")


@pytest.fixture
def forest(trees: Store, tmp_path: Path) -> Path:
    """A copy of the forest, to break."""
    return shutil.copytree(trees.find("forest"), tmp_path / "1")


def change_golden(folder: Path, change: Callable[[list[Any]], object]) -> None:
    """Change the golden answers of a version, and its manifest so that the file has its hash."""
    golden = json.loads((folder / artifact.GOLDEN).read_bytes())
    change(golden["y"])
    content = artifact.to_json(golden)
    (folder / artifact.GOLDEN).write_bytes(content)
    facts = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    rewrite(folder, lambda m: m["files"][artifact.GOLDEN].update(facts))


def test_a_version_knows_its_classes(trees: Store) -> None:
    """A loaded classifier has its labels in the order of its probabilities, and golden answers in its own form."""
    for name, decision, tolerance in (("forest", "", 0.0), ("gbm", "largest sum", 4 * 2**-52)):
        found = trees.load(name)

        assert (found.manifest.task.name, found.manifest.classes) == ("classification", LABELS)
        assert (found.manifest.decision, found.tolerance) == (decision, tolerance)
        assert found.golden_predictions.shape == (64, 4)
        assert np.array_equal(bits(found.predict(found.golden_rows)), bits(found.golden_predictions))
        assert found.reference.prediction.labels == ("=ash", "=elm", "=oak", "rest", "unseen", "missing")


def test_a_regression_has_no_classes(store: Path) -> None:
    """The manifest of a regression has neither classes nor a decision."""
    found = artifact.load(store / "boston-housing" / "1").manifest

    assert (tuple(found.classes), found.decision) == ((), None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m.update(task="regression"), "metrics.training.mse is missing"),
        (lambda m: m["target"].update(type="number", categories=[]), "its task is classification, and its target is"),
        (lambda m: m["engine"].pop("decision"), "it decides by None, which does not exist"),
        (lambda m: m["engine"].update(decision="lot"), "it decides by 'lot', which does not exist"),
        (lambda m: m["engine"].update(decision=["sum > 0"]), "it decides by ['sum > 0'], which does not exist"),
        (lambda m: m["engine"].update(kind="onnx"), "does not list model.onnx"),
        (lambda m: m["target"].update(categories=list(range(1_001))), "it has 1001 classes, more than 1000"),
        (lambda m: m["target"].update(categories=["ash", "ash", "oak"]), "has no list of 1 to 10000 different"),
        (lambda m: m["metrics"]["training"].pop("log_loss"), "metrics.training.log_loss is missing"),
        (lambda m: m["metrics"]["training"].update(auc="1"), "metrics.training.auc is not a finite number or null"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_manifest_of_a_classifier_has_a_schema(
    gbm: Path, change: Callable[[dict[str, Any]], object], reason: str
) -> None:
    """Task, target, decision and metrics fit each other, or the version is refused."""
    rewrite(gbm, change)

    with pytest.raises(ArtifactError) as caught:
        artifact.load(gbm)
    assert caught.value.path == gbm / "manifest.json"
    assert reason in caught.value.reason


def test_area_may_be_undefined(gbm: Path) -> None:
    """Rows of one class have no area under the ROC curve: the manifest has null."""
    rewrite(gbm, lambda m: m["metrics"]["training"].update(auc=None))

    assert getattr(artifact.load(gbm).manifest.metrics.training, "auc", 0) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda y: y[0].pop(), "not the position of a label and 3 probabilities for each row"),
        (lambda y: y[0].__setitem__(0, 3), "not the position of a label and 3 probabilities for each row"),
        (lambda y: y[0].__setitem__(0, 0.5), "not the position of a label and 3 probabilities for each row"),
        (lambda y: y.__setitem__(0, 1.0), "has no golden rows"),
        (lambda y: y[0].__setitem__(1, None), "not rows of finite numbers"),
    ],
)
def test_golden_answers_are_rows(gbm: Path, change: Callable[[list[Any]], object], reason: str) -> None:
    """A golden answer of a classifier is the position of a label and a probability for each class."""
    change_golden(gbm, change)

    with pytest.raises(ArtifactError, match=r".") as caught:
        artifact.load(gbm)
    assert reason in str(caught.value)


def moved(place: int, by: Callable[[float], float]) -> Callable[[list[Any]], object]:
    """Return a change of one number of the first golden answer."""
    return lambda y: y[0].__setitem__(place, by(y[0][place]))


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        (moved(1, lambda p: p + 3 * 2**-52), True),
        (moved(1, lambda p: p + 6 * 2**-52), False),
        (moved(0, lambda position: (position + 1) % 3), False),
    ],
    ids=["near", "far", "label"],
)
def test_replay_of_exponentials(gbm: Path, change: Callable[[list[Any]], object], accepted: bool) -> None:
    """A replayed probability may differ by four units in the last place of one, a label never."""
    change_golden(gbm, change)

    if accepted:
        artifact.load(gbm)
        return
    with pytest.raises(GoldenRowsError, match="1 of 64 golden rows are answered differently"):
        artifact.load(gbm)


def test_replay_without_exponentials(forest: Path) -> None:
    """A forest's replayed probabilities have the same bits."""
    change_golden(forest, moved(1, lambda p: float(np.nextafter(p, 2))))

    with pytest.raises(GoldenRowsError, match="1 of 64 golden rows are answered differently"):
        artifact.load(forest)


def test_engine_with_other_outputs_is_refused(forest: Path) -> None:
    """Steps that give another number of probabilities than there are classes are refused."""
    rewrite(forest, lambda m: m["engine"].update(steps=[["two classes"]]))

    with pytest.raises(ArtifactError, match=r"it gives answers of the shape \(64, 7\), not \(64, 4\)"):
        artifact.load(forest)


@pytest.mark.parametrize(
    ("names", "tolerance"),
    [
        ([], 0),
        (["divide", "exp32", "logistic32", "softmax32", "fast exp", "fast softmax", "two classes"], 0),
        *(([name], 4 * 2**-52) for name in ("exp", "expm1", "libm exp", "logistic", "softmax")),
        *((["add", name], 4 * 2**-52) for name in ("numpy softmax", "numpy softmax by column")),
        (["numpy softmax32"], 4 * 2**-23),
    ],
)
def test_tolerance_of_steps(names: list[str], tolerance: float) -> None:
    """Steps that take exponentials from numpy or the C library may differ elsewhere, those of our own may not."""
    assert steps.tolerance([(name, ()) for name in names]) == tolerance


@pytest.mark.parametrize(
    ("fact", "sentence"),
    [
        (["take", 1], "it has the step 'take' with 1 numbers, which does not exist"),
        (["sigmoids", "1"], "its steps are not a list of names with numbers"),
        (["isotonics"], "it has the step 'isotonics' with 0 numbers, which does not exist"),
    ],
)
def test_steps_of_members_are_checked(fact: list[Any], sentence: str) -> None:
    """A step that does not exist, or that has other numbers, is refused when the manifest is read."""
    with pytest.raises(ValueError, match=sentence):
        steps.parse([fact])


def test_average_of_members() -> None:
    """Each member takes its own sums, calibrates them, and its answers are averaged with those of the others."""
    sums = np.array([[0.0, 1.0, 3.0, 8.0], [0.0, 0.0, 3.0, 1.0]])
    of_members = steps.parse(
        [
            *(["take", 0, 2], ["isotonic", 1, 0, 2, 0, 1], ["shares"], ["total"]),
            *(["take", 2, 4], ["shares"], ["total"]),
            ["divide", 2],
        ]
    )

    expected = [[(0 + 3 / 11) / 2, (1 + 8 / 11) / 2], [(0.5 + 0.75) / 2, (0.5 + 0.25) / 2]]
    assert np.allclose(steps.run(of_members, sums), expected, rtol=1e-15)


def test_differing_answers() -> None:
    """A row differs if any of its numbers does; probabilities are compared with one, not with themselves."""
    expected = np.array([[1.0, 1e-20, 1.0], [0.0, 0.75, 0.25]])
    label, small, large = expected.copy(), expected.copy(), expected.copy()
    label[1, 0], small[0, 1], large[1, 1] = 1, 3e-17, 0.75 + 1e-9

    actual = np.stack([expected, label, small, large])
    assert differing(expected, actual, 0).tolist() == [[False, False], [False, True], [True, False], [False, True]]
    assert differing(expected, actual, 1e-15).tolist() == [
        *([False, False], [False, True], [False, False], [False, True]),
    ]
    assert largest_difference(expected, np.stack([small, large])) == pytest.approx(1e-9)


def test_answers_by_batch_size() -> None:
    """The answers of a classifier for each batch size have its width."""
    X = np.arange(6.0).reshape(3, 2)
    found = predict_by_batch_size(lambda rows: np.column_stack([rows, rows[:, :1]]), X)

    assert found.shape[1:] == (3, 3)
    assert (found == np.column_stack([X, X[:, :1]])).all()
