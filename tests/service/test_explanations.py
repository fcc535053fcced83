"""Owns explanations on request: what contributed to an answer, in every protocol that has a way to ask for it."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from app.factory import Service
from model import ArtifactError, Store
from model.store import manifest
from tests.support import classifiers
from tests.support.examples import BOSTON_HOUSING, rows_of
from tests.support.metrics import MODEL, Series, by_label, series, value
from tests.support.service import COLUMNS, HOUSE, bits, refused, rewrite, strict_json
from tests.support.v2 import INFER, JSON_LENGTH

NAME = "boston-housing"
EXPLAIN = f"/v1/models/{NAME}:explain"
SAGEMAKER = "X-Amzn-SageMaker-Enable-Explanations"
ROWS = [HOUSE, {**HOUSE, "RM": 5.0, "LSTAT": 30.81}, {**HOUSE, "TAX": 700.0}]


def added(row: Mapping[str, Any]) -> float:
    """Return base, contributions, others and residual, added from left to right."""
    total: float = row["base"]
    for number in (*row["contributions"].values(), *([row["others"]] if "others" in row else []), row["residual"]):
        total += number
    return total


def changed(
    store: Path, folder: Path, change: Callable[[dict[str, Any]], object], files: dict[str, bytes] | None = None
) -> FlaskClient:
    """Return a client of the first version with another manifest, and other files."""
    copy = Path(shutil.copytree(store, folder / "store"))
    rewrite(copy / NAME / "1", change, files)
    return create_app(Config(store=copy, models=(f"{NAME}@1",)), write_log=lambda pieces: None).test_client()


def infer(client: FlaskClient, **more: Any) -> Any:
    """Send the rows by V2."""
    inputs = [{"name": name, "shape": [3], "datatype": "FP64", "data": [row[name] for row in ROWS]} for name in COLUMNS]
    return client.post(INFER, data=json.dumps({"inputs": inputs, **more}))


@pytest.mark.parametrize("path", ["/predict", f"/models/{NAME}/predict"])
@pytest.mark.parametrize("method", ["true", "path_dependent", "interventional"])
def test_base_and_contributions_are_the_prediction_to_the_last_bit(client: FlaskClient, path: str, method: str) -> None:
    plain = strict_json(client.post(path, json=ROWS))
    reply = strict_json(client.post(f"{path}?explain={method}", json=ROWS))
    explained = reply["explanations"]

    assert list(reply) == ["prediction", "explained", "explanations", "model", "version", "request_id"]
    assert reply["explained"] == "prediction"
    assert np.array_equal(bits(reply["prediction"]), bits(plain["prediction"]))
    assert [list(row["contributions"]) for row in explained] == [COLUMNS] * len(ROWS)
    assert np.array_equal(bits([added(row) for row in explained]), bits(plain["prediction"]))
    assert [row["value"] for row in explained] == plain["prediction"]
    assert max(abs(row["residual"]) for row in explained) < 1e-12


def test_contributions_say_what_differs_between_rows(client: FlaskClient) -> None:
    """A house with few rooms among poor people is cheaper for these two reasons."""
    usual, poor, _ = strict_json(client.post("/predict?explain=true", json=ROWS))["explanations"]
    loss = {name: usual["contributions"][name] - poor["contributions"][name] for name in COLUMNS}
    assert set(sorted(loss, key=loss.__getitem__)[-2:]) == {"RM", "LSTAT"}


@pytest.mark.parametrize("top", [1, 3, 5])
def test_top_keeps_the_largest_and_adds_up_the_others(client: FlaskClient, top: int) -> None:
    whole = strict_json(client.post("/predict?explain=true", json=ROWS))["explanations"]
    for row, of_all in zip(
        strict_json(client.post(f"/predict?explain=true&top={top}", json=ROWS))["explanations"], whole
    ):
        numbers = of_all["contributions"]
        largest = sorted(numbers, key=lambda name: -abs(numbers[name]))[:top]
        assert list(row["contributions"]) == largest
        assert all(row["contributions"][name] == numbers[name] for name in largest)
        assert row["others"] == pytest.approx(sum(numbers[name] for name in numbers if name not in largest))
        assert added(row) == row["value"] == of_all["value"]


def test_top_of_all_leaves_nothing_out(client: FlaskClient) -> None:
    (row,) = strict_json(client.post("/predict?explain=true&top=6", json=HOUSE))["explanations"]
    assert "others" not in row
    assert list(row["contributions"]) == COLUMNS


def test_nothing_is_explained_unless_asked(client: FlaskClient) -> None:
    plain, refused_ = (strict_json(client.post(f"/predict{query}", json=HOUSE)) for query in ("", "?explain=false"))
    assert list(plain) == list(refused_) == ["prediction", "model", "version", "request_id"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("explain=yes", "explain in the query is none of: true, false, path_dependent, interventional"),
        ("explain=true&top=0", "top in the query is not a whole number of at least 1"),
        ("explain=true&top=1.5", "top in the query is not a whole number of at least 1"),
        ("top=3", "top in the query is a number of contributions; send explain=true with it"),
    ],
)
def test_what_a_query_cannot_mean_is_refused(client: FlaskClient, query: str, message: str) -> None:
    assert refused(client.post(f"/predict?{query}", json=HOUSE), 400, "native") == message


def test_intervals_and_explanations_go_together(client: FlaskClient) -> None:
    reply = strict_json(client.post("/predict?interval=0.9&explain=true", json=HOUSE))
    assert {"interval", "lower", "upper", "explained", "explanations"} <= reply.keys()


def test_arrow_has_them_as_columns(client: FlaskClient) -> None:
    accept = {"Accept": "application/vnd.apache.arrow.stream"}
    reply = client.post("/predict?explain=true", json=ROWS, headers=accept)
    table = pa.ipc.open_stream(reply.data).read_all()
    rows = strict_json(client.post("/predict?explain=true", json=ROWS))["explanations"]
    expected = {
        "base": [row["base"] for row in rows],
        **{f"contribution_{name}": [row["contributions"][name] for row in rows] for name in COLUMNS},
        "residual": [row["residual"] for row in rows],
        "explained": [row["value"] for row in rows],
    }
    assert table.drop_columns(["prediction"]).to_pydict() == expected


def test_numpy_has_no_place_for_them(client: FlaskClient) -> None:
    reply = client.post("/predict?explain=true", json=HOUSE, headers={"Accept": "application/x-npy"})
    message = refused(reply, 400, "native")
    assert message == "an array of NumPy has no place for intervals or explanations; accept JSON or Arrow"


def test_v1_explains_beside_its_predictions(client: FlaskClient) -> None:
    body = {"instances": ROWS}
    reply = strict_json(client.post(EXPLAIN, json=body))
    native = strict_json(client.post("/predict?explain=true", json=ROWS))
    assert reply == {
        "predictions": native["prediction"],
        "explained": "prediction",
        "explanations": native["explanations"],
    }
    assert "explanations" not in strict_json(client.post(f"/v1/models/{NAME}:predict", json=body))
    assert client.post(EXPLAIN.replace(NAME, f"{NAME}/versions/1"), json=body).json == reply


def test_v2_has_them_as_an_output_that_is_asked_for_by_name(client: FlaskClient) -> None:
    """The base is the last column, as in Triton's FIL backend; the metadata names them all."""
    rows = strict_json(client.post("/predict?explain=true", json=ROWS))["explanations"]
    expected = [number for row in rows for number in (*row["contributions"].values(), row["base"])]
    (prediction,) = strict_json(infer(client))["outputs"]
    names = [{"name": "prediction"}, {"name": "contributions"}]
    found = strict_json(infer(client, outputs=names))["outputs"]
    assert found[0] == prediction
    assert found[1] == {"name": "contributions", "datatype": "FP64", "shape": [3, 7], "data": expected}

    binary = infer(client, outputs=[{"name": "contributions", "parameters": {"binary_data": True}}])
    numbers = np.frombuffer(binary.data[int(binary.headers[JSON_LENGTH]) :])
    assert np.array_equal(bits(numbers), bits(expected))

    (output,) = strict_json(client.get(f"/v2/models/{NAME}"))["outputs"]
    assert json.loads(output["parameters"]["contributions"]) == [*COLUMNS, "base"]


def test_sagemaker_gets_them_in_the_form_of_clarify(client: FlaskClient) -> None:
    """Only rows whose answers the expression chooses are explained."""
    body = {"dataframe_records": ROWS}
    plain = strict_json(client.post("/invocations", json=body))
    rows = strict_json(client.post("/predict?explain=true", json=ROWS))["explanations"]
    reply = strict_json(client.post("/invocations", json=body, headers={SAGEMAKER: "[0]>`20`"}))
    assert reply["version"] == "1.0"
    assert reply["predictions"]["content_type"] == "application/json"
    assert json.loads(reply["predictions"]["data"]) == plain
    for prediction, row, attributed in zip(plain["predictions"], rows, reply["explanations"]["kernel_shap"]):
        if prediction <= 20:
            assert attributed is None
            continue
        assert {each["feature_header"]: each["attributions"][0]["attribution"][0] for each in attributed} == (
            row["contributions"]
        )
        assert {each["feature_type"] for each in attributed} == {"numerical"}
    assert [each is None for each in reply["explanations"]["kernel_shap"]] == [False, True, False]


def test_sagemaker_gets_csv_within_json(client: FlaskClient) -> None:
    plain = client.post("/invocations", json={"dataframe_records": ROWS}, headers={"Accept": "text/csv"})
    headers = {"Accept": "text/csv", SAGEMAKER: "`false`"}
    reply = strict_json(client.post("/invocations", json={"dataframe_records": ROWS}, headers=headers))
    assert reply["predictions"] == {"content_type": "text/csv", "data": plain.text}
    assert reply["explanations"] == {"kernel_shap": [None] * len(ROWS)}


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[0", "is not an expression of JMESPath that can be evaluated"),
        ("abs('a')", "is not an expression of JMESPath that can be evaluated"),
        ("[0]", "is not a condition that is true or false for a row"),
        ("[@,@,@,@][]|[@,@,@,@][]", "is not a condition that is true or false for a row"),
        ("map(&@, @)", "is not a condition that is true or false for a row"),
        ("x" * 65, "has 65 characters, not 1 to 64"),
        ("", "has 0 characters, not 1 to 64"),
    ],
)
def test_expressions_that_choose_nothing_are_refused(client: FlaskClient, expression: str, message: str) -> None:
    reply = client.post("/invocations", json={"dataframe_records": ROWS}, headers={SAGEMAKER: expression})
    assert f"{SAGEMAKER} {message}" in refused(reply, 400, "MLflow")


@pytest.mark.parametrize("name", list(classifiers.LABELS))
def test_a_classifier_explains_the_number_of_a_class(classifiers_store: Path, name: str) -> None:
    """Of several sums that of the label; a single sum is that of the second class."""
    app = create_app(Config(store=classifiers_store), write_log=lambda pieces: None)
    rows = classifiers.rows(classifiers.table(20, seed=3).fillna(60.0))
    reply = strict_json(app.test_client().post(f"/models/{name}/predict?explain=true&probabilities=true", json=rows))
    model = app.serving.loaded.get(name)
    classes, offer = model.manifest.classes, model.manifest.explanations
    assert offer is not None
    is_single = len(classes) == 2 and offer.explains == "score"
    expected = [classes[1]] * len(rows) if is_single else reply["prediction"]
    assert [row["class"] for row in reply["explanations"]] == expected
    for row, of_row in zip(reply["explanations"], reply["probability"]):
        assert added(row) == row["value"]
        if offer.explains == "probability":
            assert row["value"] == of_row[str(row["class"])]


def test_a_version_without_them_says_so(store: Path, tmp_path: Path) -> None:
    """So do those that say why; the predictions are answered as ever."""
    client = changed(store, tmp_path, lambda manifest: manifest.pop("explanations"))
    message = "explanations are not offered: this version has none; train or export it again"
    assert refused(client.post("/predict?explain=true", json=HOUSE), 400, "native") == message
    assert refused(client.post(EXPLAIN, json={"instances": [HOUSE]}), 400, "V1") == message
    assert refused(infer(client, outputs=[{"name": "contributions"}]), 400, "V2") == message
    assert client.post("/predict", json=HOUSE).status_code == 200
    (output,) = strict_json(client.get(f"/v2/models/{NAME}"))["outputs"]
    assert "contributions" not in output["parameters"]


def test_why_a_version_has_none_is_told(store: Path, tmp_path: Path) -> None:
    client = changed(store, tmp_path, lambda manifest: manifest.update(explanations={"reason": "too deep"}))
    message = refused(client.post("/predict?explain=true", json=HOUSE), 400, "native")
    assert message == "explanations are not offered: too deep"


def test_a_method_that_is_not_offered_is_refused(store: Path, tmp_path: Path) -> None:
    client = changed(store, tmp_path, lambda manifest: manifest["explanations"].update(methods=["interventional"]))
    assert client.post("/predict?explain=interventional", json=HOUSE).status_code == 200
    message = refused(client.post("/predict?explain=path_dependent", json=HOUSE), 400, "native")
    assert message == "'path_dependent' is not offered; choose one of: interventional"


def test_more_rows_than_large_trees_explain_at_once_are_refused(store: Path, tmp_path: Path) -> None:
    client = changed(store, tmp_path, lambda manifest: manifest["explanations"].update(max_rows={"path_dependent": 2}))
    assert client.post("/predict?explain=true", json=ROWS[:2]).status_code == 200
    message = refused(client.post("/predict?explain=true", json=ROWS), 400, "native")
    assert message == "3 rows are too many to explain at once with this model; send at most 2"


def test_more_numbers_than_a_reply_may_have_are_refused(client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of rows times names bounds the size of a reply, of any model."""
    monkeypatch.setattr(manifest, "MAX_NUMBERS", 2 * len(COLUMNS))
    assert client.post("/predict?explain=true", json=ROWS[:2]).status_code == 200
    message = refused(client.post("/predict?explain=true&top=1", json=ROWS), 400, "native")
    assert message == "3 rows are too many to explain at once with this model; send at most 2"


def test_explanations_are_made_in_threads(client: FlaskClient) -> None:
    """The first makes tables, which takes long: no request that asks for one is answered in the server's event loop."""
    service = cast(Service, client.application)

    def is_immediate(path: str, body: bytes = b"{}", **facts: str) -> bool:
        environ = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "CONTENT_TYPE": "application/json", **facts}
        return service.is_immediate({**environ, "wsgi.input": io.BytesIO(body)})

    v1 = f"/v1/models/{NAME}"
    asking = b'{"outputs": [{"name": "contributions"}]}'
    assert [is_immediate(path) for path in ("/predict", "/invocations", f"{v1}:predict", INFER)] == [True] * 4
    assert not is_immediate("/predict", QUERY_STRING="explain=true")
    assert not is_immediate(f"/models/{NAME}/predict", QUERY_STRING="top=1&explain=interventional")
    assert not is_immediate("/invocations", HTTP_X_AMZN_SAGEMAKER_ENABLE_EXPLANATIONS="`true`")
    assert not is_immediate(f"{v1}:explain")
    assert not is_immediate(INFER, asking)


@pytest.mark.parametrize("how", [1.0, np.inf])
@pytest.mark.parametrize("array", ["cover", "path_dependent", "background"])
def test_nothing_is_explained_that_differs_from_the_export(store: Path, tmp_path: Path, array: str, how: float) -> None:
    """The contributions of the golden rows are computed again before the first explanation is given."""
    path = store / NAME / "1" / "explanation.npz"
    with np.load(path) as arrays:
        damaged = {name: arrays[name].copy() for name in arrays}
    damaged[array][5] += 1.0 if array == "background" else how
    written = io.BytesIO()
    np.savez(written, **damaged)
    client = changed(store, tmp_path, lambda manifest: None, {"explanation.npz": written.getvalue()})
    for _ in range(2):
        message = refused(client.post("/predict?explain=true", json=HOUSE), 400, "native")
        assert re.search("golden rows are explained differently|are not finite|its cover is not", message)
    assert client.post("/predict", json=HOUSE).status_code == 200


def test_a_version_that_was_removed_after_loading_is_explained(store: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    client = create_app(Config(store=copy), write_log=lambda pieces: None).test_client()
    shutil.rmtree(copy)
    assert client.post("/predict?explain=true", json=HOUSE).status_code == 200


def test_the_document_describes_them(client: FlaskClient) -> None:
    paths = strict_json(client.get("/openapi.json"))["paths"]
    names = [each["name"] for each in paths["/predict"]["post"]["parameters"]]
    assert {"explain", "top"} <= set(names)
    assert EXPLAIN in paths
    assert paths["/invocations"]["post"]["parameters"][0]["name"] == SAGEMAKER


def contributed(found: Series) -> dict[str, float]:
    """Return the sum of the absolute contributions of each feature."""
    by_feature = by_label(found, "tabserve_feature_contribution_total", "feature")
    return {feature: amount for (feature,), amount in by_feature.items()}


def test_contributions_are_counted_for_what_is_explained(client: FlaskClient) -> None:
    """In every protocol, and in whichever form, also where a reply shows only the largest; others count nothing."""
    rows = strict_json(client.post("/predict?explain=true&top=2", json=ROWS))["explanations"]
    whole = strict_json(client.post("/predict?explain=true", json=ROWS))["explanations"]
    client.post("/predict", json=ROWS)
    client.post("/predict?explain=true", json={"RM": 1})
    client.post(EXPLAIN, json={"instances": ROWS})
    infer(client, outputs=[{"name": "contributions"}])
    chosen = client.post("/invocations", json={"dataframe_records": ROWS}, headers={SAGEMAKER: "[0]>`20`"})
    found = series(client.get("/metrics").text)

    assert len(rows) == len(whole) == 3
    explained = strict_json(chosen)["explanations"]["kernel_shap"]
    counted = [row for row, each in zip(whole, explained) if each is not None] + 4 * whole
    assert value(found, "tabserve_explained_rows_total", **MODEL) == len(counted) == 14
    sums = {name: sum(abs(row["contributions"][name]) for row in counted) for name in COLUMNS}
    assert contributed(found) == pytest.approx(sums)


def test_importance_is_the_share_of_the_contributions_in_training(client: FlaskClient, store: Path) -> None:
    means = json.loads((store / NAME / "1" / "manifest.json").read_text())["explanations"]["mean_absolute"]
    found = series(client.get("/metrics").text)
    shares = {name: share for (name,), share in by_label(found, "tabserve_feature_importance_ratio", "feature").items()}

    assert shares == pytest.approx({name: means[name] / sum(means.values()) for name in COLUMNS})
    assert sum(shares.values()) == pytest.approx(1)


def test_means_over_the_table_are_those_of_its_rows(client: FlaskClient, store: Path) -> None:
    """Up to 1,000 rows they are of all."""
    offer = json.loads((store / NAME / "1" / "manifest.json").read_text())["explanations"]
    rows = rows_of(BOSTON_HOUSING).X_train
    body = {"columns": COLUMNS, "data": rows.tolist()}
    explained = strict_json(client.post("/predict?explain=true", json=body))["explanations"]

    assert offer["mean_absolute_rows"] == len(rows)
    sums = {name: np.mean([abs(row["contributions"][name]) for row in explained]) for name in COLUMNS}
    assert offer["mean_absolute"] == pytest.approx(sums)


@pytest.mark.parametrize(
    "means", [None, dict.fromkeys(COLUMNS, 0.0)], ids=["a version of before", "one answer for all"]
)
def test_no_importance_is_told_where_none_is_known(store: Path, tmp_path: Path, means: dict[str, float] | None) -> None:
    def change(manifest: dict[str, Any]) -> None:
        del manifest["explanations"]["mean_absolute"]
        if means is not None:
            manifest["explanations"]["mean_absolute"] = means

    client = changed(store, tmp_path, change)
    assert client.post("/predict?explain=true", json=HOUSE).status_code == 200
    found = series(client.get("/metrics").text)

    assert by_label(found, "tabserve_feature_importance_ratio", "feature") == {}
    assert value(found, "tabserve_explained_rows_total", **MODEL) == 1


@pytest.mark.parametrize(
    "means",
    [
        [],
        {},
        dict.fromkeys(COLUMNS[1:], 1.0),
        dict.fromkeys([*COLUMNS, "ZN"], 1.0),
        {**dict.fromkeys(COLUMNS, 1.0), "RM": -1.0},
        {**dict.fromkeys(COLUMNS, 1.0), "RM": "1"},
        {**dict.fromkeys(COLUMNS, 1.0), "RM": None},
    ],
)
def test_means_that_are_no_numbers_for_the_names_are_refused(store: Path, tmp_path: Path, means: Any) -> None:
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    rewrite(copy / NAME / "1", lambda manifest: manifest["explanations"].update(mean_absolute=means))
    with pytest.raises(ArtifactError, match=r"explanations\.mean_absolute is not a number of at least 0 for each"):
        Store(copy).load(f"{NAME}@1")
