"""Owns prediction intervals on request: the native query, V2's outputs, and what models without them answer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from model import ArtifactError
from model.store import artifact
from tests.support import classifiers, gems
from tests.support.service import COLUMNS, HOUSE, ROOT, bits, everywhere_client, refused, rewrite, strict_json
from tests.support.v2 import INFER, JSON_LENGTH

NAME = "boston-housing"
HALF_WIDTHS = {0.5: 1.25, 0.8: 2.5, 0.83: 3.1}
ROWS = [HOUSE, {**HOUSE, "RM": 5.0, "LSTAT": 30.81}]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def few(store: Path, tmp_path: Path) -> FlaskClient:
    """A client of a model with three levels, and without the default one."""
    copy = Path(shutil.copytree(store, tmp_path / "store"))
    facts = {"rows": 5, "levels": list(HALF_WIDTHS), "half_widths": list(HALF_WIDTHS.values())}
    rewrite(copy / NAME / "1", lambda manifest: manifest.update(intervals=facts))
    return create_app(Config(store=copy, models=(f"{NAME}@1",)), write_log=lambda pieces: None).test_client()


def half_widths(store: Path) -> dict[float, float]:
    """Return what the manifest keeps."""
    facts = json.loads((store / NAME / "1" / "manifest.json").read_bytes())["intervals"]
    return dict(zip(facts["levels"], facts["half_widths"]))


def infer(client: FlaskClient, **more: Any) -> Any:
    """Send both rows by V2."""
    inputs = [{"name": name, "shape": [2], "datatype": "FP64", "data": [row[name] for row in ROWS]} for name in COLUMNS]
    return client.post(INFER, data=json.dumps({"inputs": inputs, **more}))


@pytest.mark.parametrize("path", ["/predict", f"/models/{NAME}/predict"])
@pytest.mark.parametrize("sent", ["0.9", "0.90", "9e-1"])
def test_query_adds_the_ends(client: FlaskClient, store: Path, path: str, sent: str) -> None:
    """With a level in the query the reply has it, and the prediction less and plus its half width, to the bit."""
    plain = strict_json(client.post(path, json=ROWS))
    reply = strict_json(client.post(f"{path}?interval={sent}", json=ROWS))
    predictions, half_width = np.array(plain["prediction"]), half_widths(store)[0.9]

    assert list(reply) == ["prediction", "interval", "lower", "upper", "model", "version", "request_id"]
    assert reply["interval"] == 0.9
    assert np.array_equal(bits(reply["prediction"]), bits(predictions))
    assert np.array_equal(bits(reply["lower"]), bits(predictions - half_width))
    assert np.array_equal(bits(reply["upper"]), bits(predictions + half_width))


def test_csv_and_repeated_parameters(client: FlaskClient, store: Path) -> None:
    """CSV has intervals, too; of a repeated parameter the last value counts, and unknown ones are ignored."""
    text = (ROOT / "model" / "data" / "boston_housing.csv").read_text()
    reply = strict_json(client.post("/predict?interval=0.5&x=1&interval=0.99", data=text, content_type="text/csv"))

    assert reply["interval"] == 0.99
    assert len(reply["lower"]) == len(reply["upper"]) == len(reply["prediction"]) == 506
    assert reply["upper"][0] == reply["prediction"][0] + half_widths(store)[0.99]


@pytest.mark.parametrize("sent", ["", "x", "90", "0.995", "0.49", "nan", "inf", "-0.9", "true", "1e999", "0,9"])
def test_level_that_is_not_kept(client: FlaskClient, sent: str) -> None:
    """A level that the model does not have is 400, and says which it has."""
    message = refused(client.post(f"/predict?interval={sent}", json=ROWS), 400, "native")

    assert message == "the interval is none of the model's levels: 0.5 to 0.99, in hundredths"


def test_few_levels(few: FlaskClient) -> None:
    """A model with few held-out rows offers what it has, also where the default level is not among it."""
    assert strict_json(few.post("/predict?interval=0.83", json=ROWS))["interval"] == 0.83
    offered = "the interval is none of the model's levels: 0.5, 0.8, 0.83"
    assert refused(few.post("/predict?interval=0.9", json=ROWS), 400, "native") == offered
    assert refused(infer(few, outputs=[{"name": "lower"}]), 400) == offered
    assert few.get(f"/models/{NAME}/page").get_json()["levels"] == [0.5, 0.8, 0.83]


def test_bad_rows_are_reported_first(client: FlaskClient) -> None:
    """Rows that do not fit are 422 with every problem, whatever the query says."""
    reply = client.post("/predict?interval=7", json=[{**HOUSE, "RM": "x"}])

    assert reply.status_code == 422


def test_models_without_intervals(gems_everywhere: FlaskClient, classifiers_store: Path) -> None:
    """A model without held-out rows and a classifier refuse an interval and say why; without one nothing changes."""
    reply = gems_everywhere.post("/predict?interval=0.9", json=[gems.GEM])
    assert "no rows were held out" in refused(reply, 400, "native")
    client = everywhere_client(classifiers_store, lambda lines: None)
    for name in classifiers.LABELS:
        path = f"/models/{name}/predict"
        row = [{"carat": 1.0, "depth": 60.0, "pieces": 3}]
        assert "is a classifier" in refused(client.post(f"{path}?interval=0.9", json=row), 400, "native")
        assert "interval" not in strict_json(client.post(f"{path}?probabilities=true", json=row))


@pytest.mark.parametrize(
    ("parameters", "level"),
    [({}, 0.9), ({"interval": 0.8}, 0.8), ({"interval": "0.5"}, 0.5), ({"interval": None}, 0.9)],
)
def test_v2_outputs(client: FlaskClient, store: Path, parameters: dict[str, Any], level: float) -> None:
    """V2's outputs `lower` and `upper` are FP64, in the order of the request, of the level in its parameters."""
    names = ["upper", "prediction", "lower"]
    outputs = strict_json(infer(client, outputs=[{"name": name} for name in names], parameters=parameters))["outputs"]
    found = {output["name"]: np.array(output["data"]) for output in outputs}
    native = strict_json(client.post(f"/predict?interval={level}", json=ROWS))

    assert [(output["name"], output["datatype"], output["shape"]) for output in outputs] == [
        (name, "FP64", [2]) for name in names
    ]
    for name in names:
        assert np.array_equal(bits(found[name]), bits(native[name]))
    assert half_widths(store)[level] > 0


def test_v2_outputs_in_binary(client: FlaskClient) -> None:
    """Binary outputs have the bits of those in JSON, one after the other."""
    asked = [{"name": "lower"}, {"name": "upper"}]
    expected = strict_json(infer(client, outputs=asked))["outputs"]
    reply = infer(client, outputs=asked, parameters={"binary_data_output": True})
    tail = np.frombuffer(reply.data[int(reply.headers[JSON_LENGTH]) :], "<f8")

    assert np.array_equal(bits(tail), bits([*expected[0]["data"], *expected[1]["data"]]))


def test_v2_default_outputs(client: FlaskClient) -> None:
    """A request that names no outputs gets the prediction alone, as the metadata list it."""
    forms: list[dict[str, Any]] = [{}, {"parameters": {"interval": 0.9}}, {"outputs": []}]
    for more in forms:
        outputs = strict_json(infer(client, **more))["outputs"]
        assert [output["name"] for output in outputs] == ["prediction"]
    (described,) = strict_json(client.get(f"/v2/models/{NAME}"))["outputs"]
    assert json.loads(described["parameters"]["intervals"])[-1] == 0.99


@pytest.mark.parametrize("level", [0.995, 1, 0, True, "x", [], {}, 10**400])
@pytest.mark.parametrize("outputs", [[{"name": "lower"}], []])
def test_v2_level_that_is_not_kept(client: FlaskClient, level: Any, outputs: list[Any]) -> None:
    """A level that the model does not have is 400, whether an output needs it or not."""
    assert "0.5 to 0.99" in refused(infer(client, outputs=outputs, parameters={"interval": level}), 400)


def test_v2_models_without_intervals(gems_everywhere: FlaskClient) -> None:
    """A model without intervals has no outputs `lower` and `upper`, and no levels in its metadata."""
    inputs = [{"name": "x", "shape": [1], "datatype": "FP64", "data": [1.0]}]
    path = f"/v2/models/{gems.NAME}"
    sent = json.dumps({"inputs": inputs, "outputs": [{"name": "lower"}]})

    message = refused(gems_everywhere.post(f"{path}/infer", data=sent), 400)
    assert message == "the model has no output 'lower'; it has 'prediction' and 'contributions'"
    assert "intervals" not in strict_json(gems_everywhere.get(path))["outputs"][0]["parameters"]
    sent = json.dumps({"inputs": inputs, "parameters": {"interval": 0.9}})
    assert "no rows were held out" in refused(gems_everywhere.post(f"{path}/infer", data=sent), 400)


def test_documents(client: FlaskClient, gems_everywhere: FlaskClient) -> None:
    """The OpenAPI document has the query and the fields of models with intervals only, and the page an example."""
    with_intervals, without = (strict_json(each.get("/openapi.json"))["paths"] for each in (client, gems_everywhere))
    operation = with_intervals["/predict"]["post"]
    properties = operation["responses"]["200"]["content"]["application/json"]["schema"]["properties"]
    parameter = operation["parameters"][0]

    assert (parameter["name"], parameter["schema"]["enum"][-1]) == ("interval", 0.99)
    assert {"interval", "lower", "upper"} <= set(properties)
    assert parameter not in without["/predict"]["post"]["parameters"]
    assert "lower" in json.dumps(with_intervals[INFER])
    assert "lower" not in json.dumps(without)
    page = client.get(f"/models/{NAME}/page").get_json()
    assert page["levels"] == parameter["schema"]["enum"]
    assert all(each["interval"] for each in page["validation"]["metrics"])


@pytest.mark.parametrize("name", ["format-1", "format-2"])
def test_old_artifacts_have_none(name: str) -> None:
    """An artifact from before there were intervals is loaded and has none."""
    manifest = artifact.load(ROOT / "tests" / "unit" / "artifacts" / name).manifest

    assert manifest.intervals is None
    assert manifest.metric_intervals == {}


def put(**facts: Any) -> Change:
    """Return a change of the manifest's intervals."""
    return lambda manifest: manifest["intervals"].update(facts)


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.update(intervals=[]),
        put(rows=0),
        put(levels=[]),
        put(levels=[0.5], half_widths=[1.0, 2.0]),
        put(levels=[0.5, "0.6"], half_widths=[1, 2]),
        put(levels=[0.6, 0.5], half_widths=[1, 2]),
        put(levels=[0.5, 0.6], half_widths=[2, 1]),
        put(levels=[0.5], half_widths=[-1]),
        put(levels=[0.0], half_widths=[1]),
        put(levels=[1.0], half_widths=[1]),
        put(levels=[0.5], half_widths=[True]),
        put(levels=[number / 200 for number in range(1, 150)], half_widths=[1] * 149),
    ],
)
def test_intervals_that_cannot_be_served(store: Path, tmp_path: Path, change: Change) -> None:
    """A manifest with other intervals than a server can answer by is refused before it is served."""
    folder = Path(shutil.copytree(store / NAME / "1", tmp_path / "1"))
    rewrite(folder, change)

    with pytest.raises(ArtifactError, match=r"intervals|levels"):
        artifact.load(folder)


def test_evaluation_of_another_kind_is_ignored(store: Path, tmp_path: Path) -> None:
    """The page shows a confidence interval only if the manifest has two numbers for it."""
    folder = Path(shutil.copytree(store / NAME / "1", tmp_path / "1"))
    assert set(artifact.load(folder).manifest.metric_intervals) == {"mse", "rmse", "mae", "bias", "r2"}
    rewrite(folder, lambda manifest: manifest.update(evaluation={"metrics": {"rmse": {"low": 1, "high": None}}}))

    assert artifact.load(folder).manifest.metric_intervals == {}
