"""Classifiers of one's own: labels and probabilities have the library's bits, whatever the labels are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_selector, make_column_transformer
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    ExtraTreesClassifier,
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.frozen import FrozenEstimator
from sklearn.impute import SimpleImputer
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, TargetEncoder
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier, ExtraTreeClassifier

from model import Artifact, Store, export
from model.cli.main import main
from model.errors import ExportError
from model.metrics import ClassificationScores
from model.train import labels, proof
from model.train.compile.compiled import in_one_job
from tests.support.real_tables import diamonds, flights, penguins
from tests.support.service import bits

N_ROWS = 600


@pytest.fixture(autouse=True)
def few_random_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prove with fewer random rows, but for the real tables."""
    if "real" not in request.node.name:
        monkeypatch.setattr(proof, "RANDOM_ROWS", 3_000)


def rows() -> pd.DataFrame:
    """Return numbers, whole numbers, booleans and categories, some of them missing."""
    random = np.random.default_rng(7)
    table = pd.DataFrame(
        {
            "area": random.normal(50, 20, N_ROWS),
            "rooms": random.integers(1, 9, N_ROWS),
            "garden": random.random(N_ROWS) < 0.4,
            "kind": pd.Categorical(random.choice(["flat", "house", "hut"], N_ROWS)),
        }
    )
    table.loc[random.random(N_ROWS) < 0.1, "area"] = np.nan
    return table


def numbered(table: pd.DataFrame, n_classes: int) -> NDArray[np.intp]:
    """Return a class of each row, from 0 on, all of about the same size."""
    random = np.random.default_rng(8)
    effect = table["area"].fillna(30) / 20 + table["rooms"] * 0.3 + table["kind"].cat.codes + table["garden"]
    score = effect + random.normal(size=len(table)) * 0.5
    return np.digitize(score, np.quantile(score, np.linspace(0, 1, n_classes + 1)[1:-1]))


NAMES = ["Ulm", "Köln", 'a "quoted", name', "NA", " ", "1", "nan", "日本", "x" * 50, "$a_b$", "é", "z"]
LABELS: Mapping[str, Callable[[NDArray[np.intp]], Any]] = {
    "strings": lambda numbers: np.array(NAMES)[numbers],
    "objects": lambda numbers: pd.Series([NAMES[number] for number in numbers], dtype=object),
    "categories": lambda numbers: pd.Series([NAMES[number] for number in numbers], dtype="category"),
    "whole": lambda numbers: pd.Series(numbers * 7 - 20),
    "small": lambda numbers: numbers.astype(np.int8),
    "floats": lambda numbers: numbers * 2.0,
    "booleans": lambda numbers: numbers > 0,
}


def behind_steps(learner: Any) -> Any:
    """Return a learner behind the usual steps."""
    numbers = make_pipeline(SimpleImputer(strategy="median", add_indicator=True), StandardScaler())
    texts = make_column_selector(dtype_include=["object", "string", "category"])
    steps = make_column_transformer(
        (numbers, make_column_selector(dtype_include="number")),
        (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts),
        remainder="passthrough",
    )
    return make_pipeline(steps, learner)


def of_library(package: str, learner: str, **options: Any) -> Any:
    """Return a learner of a library; skip where it is not installed."""
    library = pytest.importorskip(package, reason=f'needs {package}: make install EXTRAS="{package}"')
    return getattr(library, learner)(**options)


def catboost(**options: Any) -> Any:
    """Return a learner of CatBoost, behind one-hot columns, since it takes no missing category."""
    common = {"iterations": 12, "verbose": 0, "thread_count": 1, "allow_writing_files": False}
    return behind_steps(of_library("catboost", "CatBoostClassifier", **common, **options))


FAMILIES: Mapping[str, Callable[[], Any]] = {
    "tree": lambda: behind_steps(DecisionTreeClassifier(max_depth=7, class_weight="balanced")),
    "extra tree": lambda: behind_steps(ExtraTreeClassifier(max_depth=7, random_state=0)),
    "forest": lambda: behind_steps(RandomForestClassifier(n_estimators=15, n_jobs=2, random_state=0)),
    "extra trees": lambda: behind_steps(ExtraTreesClassifier(n_estimators=15, max_depth=8, random_state=0)),
    "gbm": lambda: behind_steps(GradientBoostingClassifier(n_estimators=12, random_state=0)),
    "histograms": lambda: HistGradientBoostingClassifier(max_iter=12, categorical_features="from_dtype"),
    "xgboost": lambda: of_library("xgboost", "XGBClassifier", n_estimators=12, n_jobs=1, enable_categorical=True),
    "lightgbm": lambda: of_library("lightgbm", "LGBMClassifier", n_estimators=12, n_jobs=1, verbosity=-1),
    "catboost": catboost,
}
POSITIONS_ONLY = ("xgboost",)  # learners that take no labels but 0, 1 and so on


def calibrated(learner: Any, **options: Any) -> Any:
    """Return a calibrated learner."""
    return CalibratedClassifierCV(learner, **{"cv": 2, **options})


def vote(weights: list[float] | None, **options: Any) -> Any:
    """Return a vote of forests and gradient boosting."""
    members = [
        ("forest", RandomForestClassifier(6, n_jobs=2, random_state=0)),
        ("gbm", GradientBoostingClassifier(n_estimators=4)),
        ("tree", DecisionTreeClassifier(max_depth=5)),
    ]
    return VotingClassifier(members, **{"voting": "soft", "weights": weights, **options})


VARIANTS: Mapping[str, tuple[int, Callable[[], Any]]] = {
    "gbm from zero": (3, lambda: behind_steps(GradientBoostingClassifier(n_estimators=9, init="zero"))),
    "gbm from equal": (
        12,
        lambda: behind_steps(GradientBoostingClassifier(n_estimators=5, init=DummyClassifier(strategy="uniform"))),
    ),
    "gbm exponential": (2, lambda: behind_steps(GradientBoostingClassifier(n_estimators=9, loss="exponential"))),
    "search": (
        3,
        lambda: GridSearchCV(behind_steps(RandomForestClassifier(5)), {"randomforestclassifier__max_depth": [2, 4]}),
    ),
    "xgboost softmax": (
        9,
        lambda: of_library(
            "xgboost", "XGBClassifier", n_estimators=9, objective="multi:softmax", enable_categorical=True
        ),
    ),
    "xgboost forest": (3, lambda: of_library("xgboost", "XGBRFClassifier", n_estimators=9, enable_categorical=True)),
    "lightgbm one against all": (
        3,
        lambda: of_library("lightgbm", "LGBMClassifier", n_estimators=9, objective="multiclassova", verbosity=-1),
    ),
    "sigmoid of forests": (12, lambda: calibrated(behind_steps(RandomForestClassifier(6, n_jobs=2, random_state=0)))),
    "isotonic of histograms": (2, lambda: calibrated(FAMILIES["histograms"](), method="isotonic")),
    "isotonic of xgboost": (3, lambda: calibrated(FAMILIES["xgboost"](), method="isotonic")),
    "sigmoid of lightgbm": (2, lambda: calibrated(FAMILIES["lightgbm"]())),
    "isotonic of a frozen tree": (
        3,
        lambda: calibrated(
            FrozenEstimator(FAMILIES["tree"]().fit(rows(), numbered(rows(), 3))), method="isotonic", ensemble=False
        ),
    ),
    "calibrated behind steps": (
        9,
        lambda: behind_steps(calibrated(GradientBoostingClassifier(n_estimators=3), ensemble=False)),
    ),
    "vote": (3, lambda: behind_steps(vote(None))),
    "weighted vote": (2, lambda: behind_steps(vote([1, 2, 0.3]))),
    "catboost one against all": (3, lambda: catboost(loss_function="MultiClassOneVsAll")),
    "catboost cross entropy": (2, lambda: catboost(loss_function="CrossEntropy")),
}


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the table as a client sends it."""
    names = list(map(str, table.columns))
    return [
        {
            name: None if pd.isna(cell) else cell.item() if isinstance(cell, np.generic) else cell
            for name, cell in zip(names, row)
        }
        for row in table.itertuples(index=False)
    ]


def plain(values: Any) -> list[Any]:
    """Return labels as they are in JSON."""
    return [value.item() if isinstance(value, np.generic) else value for value in np.asarray(values).reshape(-1)]


def check(found: Artifact, fitted: Any, table: pd.DataFrame) -> None:
    """Compare a version's answers for many rows and for single ones with the fitted model's."""
    matrix = found.schema.matrix_from_records(records(table))
    with in_one_job(fitted):
        expected, probabilities = plain(fitted.predict(table)), fitted.predict_proba(table)
    answers = found.predict(matrix)
    alone = np.vstack([found.predict(row[np.newaxis]) for row in matrix[:20]])
    cells = found.schema.target.cells

    assert plain(fitted.classes_) == list(found.manifest.classes)
    assert [cells.cell(position) for position in answers[:, 0]] == expected
    assert [cells.number(label) for label in expected] == answers[:, 0].tolist()
    assert np.array_equal(bits(answers[:, 1:]), bits(probabilities))
    assert np.array_equal(bits(alone), bits(answers[:20]))
    assert found.manifest.proof is not None
    assert found.manifest.proof.different_rows == 0


CASES = [
    (family, n_classes, kind)
    for number, family in enumerate(FAMILIES)
    for n_classes in (2, 3, 12)
    # Each family with some of the labels, so that every kind is tried with several families.
    for kind in (list(LABELS)[(number + n_classes) % len(LABELS)],)
]


@pytest.mark.parametrize(("family", "n_classes", "kind"), CASES)
def test_answers_have_the_models_bits(tmp_path: Path, family: str, n_classes: int, kind: str) -> None:
    """Every family with few and many classes: the label is that of `predict`, and probabilities have the same bits."""
    kind = "whole" if kind == "booleans" and n_classes > 2 else kind
    table = rows()
    numbers = numbered(table, n_classes)
    y = numbers if family in POSITIONS_ONLY else LABELS[kind](numbers)
    fitted = FAMILIES[family]().fit(table[:400], y[:400])

    found = export(fitted, table[:400], y[:400], name="m", holdout=(table[400:], y[400:]), store=tmp_path)

    check(found, fitted, table)
    assert isinstance(found.manifest.metrics.validation, ClassificationScores)
    assert found.manifest.metrics.validation.rows == 200


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_the_models_bits(tmp_path: Path, variant: str) -> None:
    """So have other losses, starts and objectives, and the best estimator of a search."""
    n_classes, make = VARIANTS[variant]
    table = rows()
    y = numbered(table, n_classes)
    fitted = make().fit(table, y)

    check(export(fitted, table, y, name="m", store=tmp_path), getattr(fitted, "best_estimator_", fitted), table)


@pytest.mark.parametrize("kind", LABELS)
def test_labels_are_answered_as_they_were_fitted(tmp_path: Path, kind: str) -> None:
    """The target is a boolean, or a category of strings or of numbers, and the version is the same when it is read."""
    table = rows()
    y = LABELS[kind](numbered(table, 2))
    found = export(FAMILIES["tree"]().fit(table, y), table, y, name="m", target="class", store=tmp_path)

    target = found.schema.target
    assert (target.name, target.type) == ("class", "boolean" if kind == "booleans" else "category")
    assert list(found.manifest.classes) == sorted(set(plain(y)))
    assert [type(each) for each in found.manifest.classes] == [type(plain(y)[0])] * 2
    assert found.reference.prediction.labels[-3:] == ("rest", "unseen", "missing")
    assert found.reference.prediction.expected.sum() == pytest.approx(1)


def tables() -> dict[str, Callable[[], tuple[pd.DataFrame, pd.Series]]]:
    """Real tables, each with a column to find out from the others."""

    def of(read: Callable[[], tuple[pd.DataFrame, pd.Series]], name: str) -> tuple[pd.DataFrame, pd.Series]:
        X, y = read()
        return X.drop(columns=name).assign(**{str(y.name): y}), X[name]

    def delayed() -> tuple[pd.DataFrame, pd.Series]:
        X, y = flights()
        return X, (y > 15).rename("delayed")

    return {
        "penguins": lambda: of(penguins, "species"),
        "flights": delayed,
        "carriers": lambda: of(flights, "carrier"),
        "diamonds": lambda: of(diamonds, "cut"),
    }


REAL: Mapping[str, Callable[[], Any]] = {
    "forest": lambda: behind_steps(RandomForestClassifier(n_estimators=20, max_depth=9, random_state=0)),
    "gbm": lambda: make_pipeline(
        make_column_transformer(
            (TargetEncoder(), make_column_selector(dtype_include=["object", "string", "category"])),
            (SimpleImputer(), make_column_selector(dtype_include="number")),
        ),
        GradientBoostingClassifier(n_estimators=10, random_state=0),
    ),
    "histograms": lambda: HistGradientBoostingClassifier(max_iter=10, categorical_features="from_dtype"),
    "lightgbm": FAMILIES["lightgbm"],
    "catboost": catboost,
}


@pytest.mark.filterwarnings("ignore:The least populated class")  # of the rarest carrier
@pytest.mark.parametrize("family", REAL)
@pytest.mark.parametrize("table", tables())
def test_real_tables(tmp_path: Path, table: str, family: str) -> None:
    """Species, delays, carriers and cuts: two to sixteen classes, categories and gaps, with 100,000 random rows."""
    X, y = tables()[table]()
    X = X.astype(dict.fromkeys(X.select_dtypes(["object", "string"]).columns, "category"))
    X, y = X[:1_000], y[:1_000]
    fitted = REAL[family]().fit(X, y)

    check(export(fitted, X, y, name="m", store=tmp_path), fitted, X)


def test_labels_are_the_librarys_at_ties(tmp_path: Path) -> None:
    """Of equal probabilities the library's own rule picks the label: two of them do not pick the first of two."""
    X = np.array([[0.0], [0.0], [1.0], [1.0]] * 30)
    y = np.array(["a", "b", "a", "b"] * 30)
    for number, learner in enumerate(
        [
            DecisionTreeClassifier(),
            GradientBoostingClassifier(n_estimators=2),
            HistGradientBoostingClassifier(max_iter=2),
        ]
    ):
        fitted = learner.fit(X, y)
        found = export(fitted, X, y, name=f"m{number}", store=tmp_path)

        assert found.predict(X[:1])[0, 1:].tolist() == [0.5, 0.5]
        assert found.manifest.classes[int(found.predict(X[:1])[0, 0])] == fitted.predict(X[:1])[0]


def test_checklist_and_card(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The checklist has the labels with their shares and the scores; the card has them and the confusion matrix."""
    table = rows()
    y = pd.Series(np.array(["low", "middle", "high|er"])[numbered(table, 3)], name="price")
    fitted = FAMILIES["histograms"]().fit(table[:400], y[:400])
    found = export(fitted, table[:400], y[:400], name="m", holdout=(table[400:], y[400:]), store=tmp_path)
    lines = {line.split(" ")[0]: line for line in capsys.readouterr().out.splitlines()}
    card = (found.path / "card.md").read_text()

    share = (y[:400] == "high|er").mean()
    assert lines["target"].startswith(f"target   price: 'high|er' {share:.1%}, 'low' ")
    assert lines["proof"].endswith(": 0 differ in any bit")
    for line in ("training", "holdout"):
        assert ": log loss " in lines[line]
        assert ", accuracy " in lines[line]
        assert ", AUC 0." in lines[line]
    assert "Predicts price, one of 3 classes." in card
    assert "| log loss | " in card
    right = int(((fitted.predict(table[400:]) == "low") & (y[400:] == "low")).sum())
    cells = next(line for line in card.splitlines() if line.startswith("| low |")).split(" | ")
    assert cells[2] == str(right)
    assert "| high\\|er | low | middle |" in card
    assert {path.name for path in (found.path / "plots").iterdir()} == {
        f"{name}.png" for name in ("confusion", "groups", "importance", "partial_dependence", "reliability")
    }


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (["a"], "there are 1 targets for 600 rows"),
        ([None] * N_ROWS, "600 targets are missing"),
        ([np.nan, *["a"] * 599], "1 targets are missing"),
        (["c", *["a"] * 599], "'c' is not among the labels that the model was fitted on, 'a', 'b'"),
        ([0, 1] * 300, "0, 1 are not among the labels that the model was fitted on, 'a', 'b'"),
        ([["a", "b"]] * N_ROWS, "there are 1200 targets for 600 rows"),
        ([{}] * N_ROWS, "a target is no label but a list or an object"),
    ],
)
def test_labels_are_checked(tmp_path: Path, y: Any, sentence: str) -> None:
    """Labels that are missing, of another number, unknown, or positions instead of labels are refused by name."""
    X = rows()[["rooms"]]
    fitted = DecisionTreeClassifier().fit(X, ["a", "b"] * 300)

    with pytest.raises(ExportError, match=sentence):
        export(fitted, X, y, name="m", store=tmp_path / "store")
    with pytest.raises(ExportError, match=sentence):
        export(fitted, X, ["a", "b"] * 300, name="m", holdout=(X, y), store=tmp_path / "store")
    assert Store(tmp_path / "store").names() == []


def with_labels(found: Sequence[Any]) -> Any:
    """Return a classifier that says that these are its labels."""
    fitted = DecisionTreeClassifier().fit(rows()[["rooms"]], ["a", "b"] * 300)
    fitted.classes_ = np.array(found, dtype=object)
    return fitted


@pytest.mark.parametrize(
    ("fit", "sentence"),
    [
        (lambda X: DecisionTreeClassifier().fit(X, ["a"] * N_ROWS), "has 1 classes; 2 to 50 can be served"),
        (lambda X: DecisionTreeClassifier().fit(X, np.arange(N_ROWS) % 51), "has 51 classes; 2 to 50 can be served"),
        (lambda X: DecisionTreeClassifier().fit(X, np.zeros((N_ROWS, 2))), "gives 2 labels a row; fit and export one"),
        (lambda X: KNeighborsClassifier().fit(X, ["a", "b"] * 300), "cannot be compiled exactly; choose one of Dec"),
        (lambda X: LinearSVC().fit(X, ["a", "b"] * 300), "LinearSVC gives no probabilities; choose one of Decision"),
        (lambda X: with_labels(["a", 1]), "the labels 'a', 1 are neither all strings, nor all numbers"),
        (lambda X: with_labels([2**53, 2**53 + 1]), "are neither all strings, nor all numbers"),
        (lambda X: with_labels([0.0, np.inf]), "the labels 0.0, inf are neither all strings, nor all numbers"),
        (lambda X: with_labels([True, False]), "are neither all strings, nor all numbers, nor true and false"),
        (lambda X: with_labels([b"a", b"b"]), "are neither all strings, nor all numbers"),
        (lambda X: with_labels(["a", "\ud800"]), "a label cannot be written in UTF-8"),
        (
            lambda X: GradientBoostingClassifier(n_estimators=2, init=DecisionTreeClassifier()).fit(
                X, ["a", "b"] * 300
            ),
            "GradientBoostingClassifier starts from another model (DecisionTreeClassifier); fit it with init=None",
        ),
        (
            lambda X: calibrated(GaussianNB()).fit(X, ["a", "b"] * 300),
            "CalibratedClassifierCV has the member GaussianNB, which cannot be compiled exactly in it",
        ),
        (
            lambda X: calibrated(DecisionTreeClassifier(), method="temperature").fit(X, ["a", "b"] * 300),
            "CalibratedClassifierCV with method='temperature' cannot be compiled exactly; fit it with 'sigmoid'",
        ),
        (
            lambda X: vote(None, voting="hard").fit(X, ["a", "b"] * 300),
            "VotingClassifier with voting='hard' gives no probabilities; fit it with voting='soft'",
        ),
        (
            lambda X: VotingClassifier(
                [("a", DecisionTreeClassifier()), ("b", HistGradientBoostingClassifier(max_iter=2))], voting="soft"
            ).fit(X, ["a", "b"] * 300),
            "VotingClassifier has members whose trees compare or add in other precisions",
        ),
        (
            lambda X: VotingClassifier([("a", of_library("xgboost", "XGBClassifier"))], voting="soft").fit(
                X, ["a", "b"] * 300
            ),
            "VotingClassifier averages XGBoost's answers in float32; fit it with members of other libraries",
        ),
    ],
)
def test_classifier_that_cannot_be_served_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fit: Callable[[pd.DataFrame], Any], sentence: str
) -> None:
    """Other models, too many classes, several labels a row and labels of other types are refused in one sentence."""
    monkeypatch.setattr(labels, "MAX_CLASSES", 50)
    X = rows()[["rooms"]]

    with pytest.raises(ExportError, match=r".") as caught:
        export(fit(X), X, ["a", "b"] * 300, name="m", store=tmp_path / "store")
    assert sentence in str(caught.value)
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize("kind", ["joblib", "skops", "xgboost", "lightgbm", "catboost"])
def test_files(tmp_path: Path, kind: str) -> None:
    """`python -m model import` takes classifiers from files; a file without the labels has 0, 1 and so on."""
    table = rows().drop(columns="kind").fillna({"area": 1.0}).astype(float)
    numbers = numbered(rows(), 3)
    names = np.array(["1", "NA", "z"])[numbers]
    y: Any = numbers if kind in ("xgboost", "lightgbm") else names
    table.assign(label=y).to_csv(tmp_path / "table.csv", index=False)
    if kind == "joblib":
        path, fitted = tmp_path / "m.joblib", RandomForestClassifier(5, random_state=0).fit(table, y)
        joblib.dump(fitted, path)
    elif kind == "skops":
        io = pytest.importorskip("skops.io", reason='needs skops: make install EXTRAS="skops"')
        path, fitted = tmp_path / "m.skops", HistGradientBoostingClassifier(max_iter=5).fit(table, y)
        io.dump(fitted, path)
    elif kind == "xgboost":
        path = tmp_path / "m.json"
        fitted = of_library("xgboost", "XGBClassifier", n_estimators=5, n_jobs=1).fit(table, y)
        fitted.save_model(path)
    elif kind == "lightgbm":
        path = tmp_path / "m.txt"
        fitted = of_library("lightgbm", "LGBMClassifier", n_estimators=5, n_jobs=1, verbosity=-1).fit(table, names)
        fitted.booster_.save_model(path)
    else:
        path = tmp_path / "m.cbm"
        fitted = of_library("catboost", "CatBoostClassifier", iterations=5, verbose=0, allow_writing_files=False)
        fitted.fit(table, y).save_model(str(path))
    arguments = ["import", str(path), "--name", "m", "--data", str(tmp_path / "table.csv"), "--target", "label"]

    assert main(["--store", str(tmp_path / "store"), *arguments]) == 0
    found = Store(tmp_path / "store").load("m")
    answers = found.predict(table.to_numpy())
    assert found.manifest.classes == ((0, 1, 2) if kind in ("xgboost", "lightgbm") else ("1", "NA", "z"))
    assert np.array_equal(bits(answers[:, 1:]), bits(fitted.predict_proba(table)))
    assert np.array_equal(answers[:, 0], np.searchsorted(fitted.classes_, np.asarray(fitted.predict(table)).ravel()))


def test_label_has_no_unit(tmp_path: Path) -> None:
    """A unit of what is predicted is refused for a classifier, before the work."""
    fitted = DecisionTreeClassifier().fit([[0.0], [1.0]], ["a", "b"])
    with pytest.raises(ExportError, match="a label has no unit, such as 'USD'; leave it out"):
        export(fitted, [[0.0], [1.0]], ["a", "b"], name="labels", unit="USD", store=tmp_path)


def test_categories_beside_classes_that_start_equally(tmp_path: Path) -> None:
    """Classes that are equally frequent start from equal sums, which ONNX Runtime must not mix up beside categories."""
    known = "ae-fccdfd-faccba-bcfaccfebea-fe-eabe-ba-eeabddfe-cfb-e--cdafa-fadfdcfc-aaba-beeb"
    letters = pd.DataFrame({"letter": [None if letter == "-" else letter for letter in known]})
    y = [int(digit) for digit in "0120120" * 11 + "012"]
    fitted = make_pipeline(
        make_column_transformer((OneHotEncoder(drop="first", sparse_output=False), ["letter"])),
        HistGradientBoostingClassifier(max_iter=4, min_samples_leaf=3),
    ).fit(letters, y)
    found = export(fitted, letters, y, name="letters", store=tmp_path)
    rows = [{"letter": letter} for letter in letters["letter"]]

    assert np.array_equal(
        bits(found.predict(found.schema.matrix_from_records(rows))[:, 1:]), bits(fitted.predict_proba(letters))
    )
