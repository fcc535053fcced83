"""An artifact loads only if every byte and every prediction is right; otherwise the error states the remedy."""

from __future__ import annotations

import io
import json
import os
import shutil
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import ArtifactError
from model.store import artifact
from tests.support.service import bits, rewrite

FILES = [
    "card.md",
    "explanation.npz",
    "fitted-features.bin",
    "golden.json",
    "pipeline.joblib",
    "plots/calibration.png",
    "plots/correlations.png",
    "plots/distributions.png",
    "plots/groups.png",
    "plots/importance.png",
    "plots/partial_dependence.png",
    "plots/predicted_against_actual.png",
    "plots/residuals.png",
    "recipe.toml",
    "reference.json",
    "trees.npz",
]
ARTIFACTS = Path(__file__).parent / "artifacts"
Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def kept(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One copy of the trained artifact, for tests that undo their changes."""
    folder: Path = tmp_path_factory.mktemp("kept") / "1"
    yield shutil.copytree(store / "boston-housing" / "1", folder)
    artifact.load(folder)


@pytest.fixture
def folder(store: Path, tmp_path: Path) -> Path:
    """A copy of the trained artifact, to break."""
    return shutil.copytree(store / "boston-housing" / "1", tmp_path / "1")


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A copy of an artifact of format 2, which has a graph and a forest, to break."""
    return shutil.copytree(ARTIFACTS / "format-2", tmp_path / "1")


def refusal(folder: Path) -> ArtifactError:
    """Return the error for an artifact that is refused; it names a file, the reason and the remedy."""
    with pytest.raises(ArtifactError) as caught:
        artifact.load(folder)
    assert str(caught.value) == f"{caught.value.path}: {caught.value.reason}; {caught.value.remedy}"
    return caught.value


def test_good_artifact_predicts_like_the_pipeline(folder: Path, pipeline: Any, houses: pd.DataFrame) -> None:
    """A loaded artifact knows its name, version and schema, and gives the pipeline's bits."""
    found = artifact.load(folder)

    assert (found.name, found.version, found.path) == ("boston-housing", 1, folder)
    assert found.schema.names == tuple(houses.columns)
    assert found.golden_rows.shape == (64, 6)
    assert np.array_equal(bits(found.predict(houses.to_numpy())), bits(pipeline.predict(houses.to_numpy())))


def test_manifest_names_every_file(folder: Path) -> None:
    """Every file of the folder but the manifest is named in it, and the tests below break each of them."""
    there = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    manifest = json.loads((folder / "manifest.json").read_bytes())

    assert sorted(manifest["files"]) == FILES
    assert there == sorted([*FILES, "manifest.json"])


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (None, "is missing"),
        (lambda content: content[:-1], "bytes where the manifest says"),
        (lambda content: b"", "has 0 bytes where the manifest says"),
        (lambda content: content + b"\n", "bytes where the manifest says"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "was changed after it was written"),
    ],
    ids=["missing", "truncated", "emptied", "appended", "flipped"],
)
def test_damaged_file_is_named(folder: Path, name: str, damage: Callable[[bytes], bytes] | None, reason: str) -> None:
    """Whichever file is missing or changed, the error names it and says to restore the artifact."""
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if damage:
        path.write_bytes(damage(content))

    error = refusal(folder)
    assert (error.path, error.remedy) == (path, "restore the artifact from its source, or train the model again")
    assert reason in error.reason


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (None, "is missing"),
        (lambda text: "", "is not a manifest"),
        (lambda text: text[:-3], "is not a manifest"),
        (lambda text: "[]", "is not a manifest"),
        (lambda text: "{}", "is not a manifest"),
        (lambda text: text.replace('"n_estimators": 400', '"n_estimators": 401'), "was changed after it was written"),
        (lambda text: text.replace('"n_estimators": 400', '"n_estimators": NaN'), "was changed after it was written"),
        (lambda text: text.replace("e+37", "e937"), "was changed after it was written"),
        (lambda text: text.replace('"digest"', '"digets"'), "was changed after it was written"),
    ],
    ids=["missing", "empty", "truncated", "list", "no facts", "edited", "NaN", "infinite", "no digest"],
)
def test_damaged_manifest_is_named(folder: Path, damage: Callable[[str], str] | None, reason: str) -> None:
    """A manifest that is missing, invalid or edited is refused, and the error names it."""
    path = folder / "manifest.json"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if damage:
        assert damage(text) != text
        path.write_text(damage(text), encoding="utf-8")

    error = refusal(folder)
    assert (error.path, error.remedy) == (path, "restore the artifact from its source, or train the model again")
    assert reason in error.reason


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_changed_byte_loads(kept: Path, data: st.DataObject) -> None:
    """A byte changed anywhere is refused, unless only the manifest's time or its formatting differs."""
    path = kept / data.draw(st.sampled_from([*FILES, "manifest.json"]))
    content = path.read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytes([content[place] ^ data.draw(st.integers(1, 255))])
    path.write_bytes(content[:place] + changed + content[place + 1 :])
    try:
        found = artifact.load(kept)
    except ArtifactError:
        found = None
    finally:
        path.write_bytes(content)

    if found is not None:
        assert path.name == "manifest.json"
        assert {**found.manifest.document, "created_at": ""} == {**json.loads(content), "created_at": ""}


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, [1]])
def test_format_version_that_does_not_exist_is_refused(folder: Path, version: Any) -> None:
    """A format version is an integer of at least 1, and no other type."""
    rewrite(folder, lambda manifest: manifest.update(format_version=version))

    assert refusal(folder).reason == f"has the format version {version!r}, which does not exist"


def test_newer_format_asks_for_an_upgrade(folder: Path) -> None:
    """An artifact of a later format is refused with its version and the advice to upgrade."""
    rewrite(folder, lambda manifest: manifest.update(format_version=4))

    error = refusal(folder)
    assert error.path == folder / "manifest.json"
    assert (error.reason, error.remedy) == (
        "is of format 4; this version of tabserve reads formats up to 3",
        "upgrade tabserve, or train the model again with this version",
    )


@pytest.mark.parametrize("folder_of_format", sorted(ARTIFACTS.iterdir()), ids=lambda p: p.name)
def test_older_formats_are_read(folder_of_format: Path) -> None:
    """An artifact of each older format loads, and predicts the same bits as when it was written."""
    found = artifact.load(folder_of_format)

    assert found.manifest.format_version == int(folder_of_format.name.removeprefix("format-"))
    assert found.manifest.format_version < artifact.FORMAT_VERSION
    assert found.tolerance == 0
    assert np.array_equal(bits(found.predict(found.golden_rows)), bits(found.golden_predictions))


@pytest.mark.parametrize("row", [0, 31, -1])
def test_golden_answer_off_by_one_bit_is_refused(folder: Path, row: int) -> None:
    """A golden prediction that differs by one bit is refused, although every hash is right."""
    golden = json.loads((folder / "golden.json").read_bytes())
    golden["y"][row] = float(np.nextafter(golden["y"][row], np.inf))
    rewrite(folder, lambda manifest: None, {"golden.json": artifact.to_json(golden)})

    error = refusal(folder)
    assert error.path == folder / "golden.json"
    assert error.reason == "1 of 64 golden rows are answered differently than by the trained model"
    assert error.remedy.startswith("do not serve it")


@pytest.mark.parametrize(
    ("X", "y"),
    [([], []), ([[0.0] * 6] * 2, [1.0]), ([[0.0] * 6] * 2, [1.0] * 3), ([[0.0]], [1.0]), ([[0.0], [0.0, 1.0]], [1.0])],
    ids=["no rows", "one answer too few", "one answer too many", "narrow rows", "ragged rows"],
)
def test_golden_rows_that_prove_nothing_are_refused(folder: Path, X: Any, y: Any) -> None:
    """Golden rows that are missing, not as many as predictions, or of another width are an `ArtifactError`."""
    rewrite(folder, lambda manifest: None, {"golden.json": artifact.to_json({"X": X, "y": y})})

    assert refusal(folder).remedy != ""


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x08\x0a" * 50])
def test_graph_that_does_not_run_is_refused(older: Path, content: bytes) -> None:
    """A graph that the runtime cannot load is refused by name, although every hash is right."""
    rewrite(older, lambda manifest: None, {"model.onnx": content})

    error = refusal(older)
    assert error.path == older / "model.onnx"
    assert error.reason.startswith("cannot be served: ")


def packed(arrays: Arrays) -> bytes:
    """Return arrays as an .npz file."""
    file = io.BytesIO()
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def compressed(arrays: Arrays) -> bytes:
    """Return arrays as an .npz file that is compressed."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def arrays_of(path: Path) -> Arrays:
    """Return the arrays of an .npz file."""
    with np.load(path) as found:
        return dict(found)


def splits_of(forest: Arrays, some: NDArray[np.bool_]) -> Arrays:
    """Return some of the splits of a forest, by name."""
    return {name: forest[name][some] for name in ("feature", "threshold", "tree", "excluded")}


@pytest.mark.parametrize(
    "change",
    [
        lambda forest: {"leaves": forest["leaves"] + np.spacing(64.0)},
        lambda forest: {"threshold": np.nextafter(forest["threshold"], -np.inf)},
        lambda forest: {"excluded": forest["excluded"] * np.uint64(2)},
        lambda forest: {"feature": forest["feature"][::-1].copy()},
        lambda forest: {**splits_of(forest, forest["tree"] == 1), "leaves": forest["leaves"][:2] + 1e9},
    ],
    ids=["leaves", "thresholds", "excluded leaves", "features", "one tree"],
)
def test_forest_that_predicts_differently_is_refused(older: Path, change: Callable[[Arrays], Arrays]) -> None:
    """A forest that is not the graph's is refused by the golden rows, although every hash is right."""
    forest = arrays_of(older / "forest.npz")
    rewrite(older, lambda manifest: None, {"forest.npz": packed({**forest, **change(forest)})})

    assert refusal(older).path == older / "golden.json"


@pytest.mark.parametrize(
    "change",
    [
        lambda forest: b"",
        lambda forest: b"garbage",
        lambda forest: packed({**forest, "tree": forest["tree"][1:]}),
        lambda forest: packed({**forest, "tree": forest["tree"] + np.int32(400)}),
        lambda forest: packed({**forest, "tree": forest["tree"].astype(np.int64)}),
        lambda forest: packed({**forest, "leaves": forest["leaves"][:0]}),
        lambda forest: packed({**forest, "leaves": forest["leaves"][0]}),
        lambda forest: packed({**forest, "leaves": np.zeros((2, 65))}),
        lambda forest: packed({**forest, "leaves": np.zeros((10**6, 8))}),
        lambda forest: packed({**forest, "leaves": np.zeros((10**9, 0))}),
        lambda forest: packed({**forest, "feature": forest["feature"] + np.int32(1)}),
        lambda forest: packed({**forest, "feature": forest["feature"] - np.int32(6)}),
        compressed,
    ],
    ids=[
        "empty",
        "garbage",
        "ragged",
        "no such tree",
        "another type",
        "no trees",
        "one tree",
        "too many leaves",
        "too many trees",
        "no leaves",
        "no such feature",
        "negative feature",
        "compressed",
    ],
)
def test_invalid_forest_is_refused(older: Path, change: Callable[[Arrays], bytes]) -> None:
    """A forest for which bit vectors cannot be computed, or are too large, is refused by name."""
    rewrite(older, lambda manifest: None, {"forest.npz": change(arrays_of(older / "forest.npz"))})

    error = refusal(older)
    assert error.path == older / "forest.npz"
    assert error.reason.startswith("cannot be served: ") or error.reason.endswith("more than are allowed")


@pytest.mark.parametrize(
    "change",
    [
        lambda trees: {"leaves": trees["leaves"] + np.spacing(64.0)},
        lambda trees: {"threshold": np.nextafter(trees["threshold"], -np.inf)},
        lambda trees: {"left": trees["right"], "right": trees["left"]},
        lambda trees: {"feature": np.where(trees["feature"] < 0, -1, 5 - trees["feature"]).astype(np.int32)},
    ],
    ids=["leaves", "thresholds", "sides", "features"],
)
def test_trees_that_predict_differently_are_refused(folder: Path, change: Callable[[Arrays], Arrays]) -> None:
    """Trees that predict other bits are refused by the golden rows, although every hash is right."""
    trees = arrays_of(folder / "trees.npz")
    rewrite(folder, lambda manifest: None, {"trees.npz": packed({**trees, **change(trees)})})

    assert refusal(folder).path == folder / "golden.json"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda trees: b"", "not a file of these arrays"),
        (lambda trees: b"garbage", "not a file of these arrays"),
        (lambda trees: packed({**trees, "roots": np.array([{}])}), "not a file of these arrays"),
        (compressed, "not a file of these arrays"),
        (lambda trees: packed({**trees, "left": trees["left"].astype(np.int64)}), "its arrays are of the types"),
        (lambda trees: packed({**trees, "left": trees["left"][1:]}), "its arrays are of different lengths"),
        (lambda trees: packed({**trees, "roots": trees["roots"][:0], "output": trees["roots"][:0]}), "it has 0 trees"),
        (lambda trees: packed({**trees, "leaves": trees["leaves"][1:]}), "its leaves are not those of its nodes"),
        (lambda trees: packed({**trees, "leaves": trees["leaves"] * np.inf}), "a leaf is not finite"),
        (lambda trees: packed({**trees, "threshold": trees["threshold"] * np.nan}), "a threshold is not a number"),
        (lambda trees: packed({**trees, "output": trees["output"] + np.int32(2**10)}), "name an output that does not"),
        (lambda trees: packed({**trees, "feature": trees["feature"] + np.int32(9)}), "its leaves are not those"),
        (lambda trees: packed({**trees, "feature": trees["feature"] * np.int32(3)}), "name a feature that does not"),
        (lambda trees: packed({**trees, "codes": np.array([1], np.int32)}), "its categories are not those of its"),
        (lambda trees: packed({**trees, "roots": trees["roots"][::-1].copy()}), "its trees do not follow each other"),
        (lambda trees: packed({**trees, "left": trees["left"] + np.int32(2**20)}), "name a child that does not exist"),
        (lambda trees: packed({**trees, "left": trees["right"]}), "its nodes are not trees"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_invalid_trees_are_refused(folder: Path, change: Callable[[Arrays], bytes], reason: str) -> None:
    """Arrays that are not trees of the model's features are refused by name before anything runs them."""
    rewrite(folder, lambda manifest: None, {"trees.npz": change(arrays_of(folder / "trees.npz"))})

    error = refusal(folder)
    assert error.path == folder / "trees.npz"
    assert error.reason.startswith("cannot be served: ")
    assert reason in error.reason


@pytest.mark.parametrize(
    "steps",
    [
        None,
        "exp",
        [["pickle"]],
        [["add"]],
        [["add", 1, 2]],
        [["add", "x"]],
        [["divide", 10**400]],
        [7],
        [[]],
        [[["add"]]],
    ],
)
def test_steps_that_do_not_exist_are_refused(folder: Path, steps: Any) -> None:
    """A manifest whose steps are not known ones with their numbers is refused."""
    rewrite(folder, lambda manifest: manifest["engine"].update(steps=steps))

    assert refusal(folder).path == folder / "manifest.json"


@pytest.mark.parametrize("name", ["../x", "plots/../../x", "/etc/hostname", "a/../../x"])
def test_file_outside_the_folder_is_not_read(folder: Path, name: str) -> None:
    """A manifest that names a file outside its folder is refused, and that file is not read."""
    rewrite(folder, lambda manifest: manifest["files"].update({name: {"sha256": "", "size": 0}}))

    error = refusal(folder)
    assert error.path == folder / "manifest.json"
    assert error.reason == f"names a file outside its folder: {name!r}"


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest.pop("files"),
        lambda manifest: manifest.update(files=[]),
        lambda manifest: manifest["files"].update({"card.md": {}}),
        lambda manifest: manifest["files"].pop("trees.npz"),
        lambda manifest: manifest.pop("features"),
        lambda manifest: manifest["features"][0].update(colour="red"),
    ],
    ids=["no files", "files as a list", "no size", "no trees", "no features", "unknown key"],
)
def test_manifest_that_does_not_describe_a_model_is_refused(
    folder: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """A manifest with the right digest that lacks a required fact is an `ArtifactError` that names it."""
    rewrite(folder, change)

    assert refusal(folder).path == folder / "manifest.json"


def swap(values: list[Any]) -> None:
    """Swap the first two of a list."""
    values[0], values[1] = values[1], values[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: swap(manifest["features"]),
        lambda manifest: manifest["features"].pop(),
        lambda manifest: manifest["features"][0].update(name="RM"),
        lambda manifest: manifest["features"][0].update(type="category"),
        lambda manifest: manifest["features"][0].update(lowest="x"),
        lambda manifest: manifest.update(version="x"),
        lambda manifest: manifest.pop("metrics"),
        lambda manifest: manifest.pop("algorithm"),
    ],
    ids=["swapped", "one fewer", "one twice", "category", "limit", "version", "no metrics", "no algorithm"],
)
def test_manifest_that_does_not_fit_the_model_is_refused(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """A manifest that describes another model than the graph and the golden rows is refused."""
    rewrite(folder, change)

    assert refusal(folder).path.name in ("manifest.json", "golden.json")


def test_golden_rows_nested_without_end_are_refused(folder: Path) -> None:
    """Golden rows that no parser can read are refused like any other damage."""
    rewrite(folder, lambda manifest: None, {"golden.json": b"[" * 100_000})

    assert refusal(folder).remedy == "restore the artifact from its source, or train the model again"


def test_graph_of_another_precision_is_refused(older: Path) -> None:
    """A graph that returns float32 is refused, and not compared bit for bit with float64."""
    model = onnx.load_from_string((older / "model.onnx").read_bytes())
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    rewrite(older, lambda manifest: None, {"model.onnx": model.SerializeToString()})

    assert refusal(older).reason == "cannot be served: its output is tensor(float) and not tensor(double)"


BOMBS = {
    "lists": b'{"a":[' + b"[]," * 1_000_000 + b"[]]}",
    "objects": b'{"a":[' + b"{}," * 1_000_000 + b"{}]}",
    "bytes": b'{"a":"' + bytes([97]) * 9_000_000 + b'"}',
    "levels": b"[" * 90_000 + b"]" * 90_000,
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("name", ["manifest.json", "golden.json", "reference.json"])
def test_json_bombs_are_refused(folder: Path, name: str, bomb: bytes) -> None:
    """JSON with too many bytes, lists or levels is refused by name before it takes memory."""
    if name == "manifest.json":
        (folder / name).write_bytes(bomb)
    else:
        rewrite(folder, lambda manifest: None, {name: bomb})
    tracemalloc.start()
    try:
        assert refusal(folder).path == folder / name
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


def fifo(path: Path, elsewhere: Path) -> None:
    os.mkfifo(path)


def link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def zero(path: Path, elsewhere: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [fifo, link, zero])
@pytest.mark.parametrize("name", [*FILES, "manifest.json"])
def test_only_regular_files_are_opened(
    folder: Path, tmp_path: Path, name: str, make: Callable[[Path, Path], None]
) -> None:
    """A FIFO, a link or a device instead of a file is refused by name, without blocking."""
    path = folder / name
    elsewhere = path.rename(tmp_path / "elsewhere")
    make(path, elsewhere)

    error = refusal(folder)
    assert error.path == path
    assert error.reason == "cannot be read: it is not a regular file"


def test_linked_folder_is_not_entered(folder: Path, tmp_path: Path) -> None:
    """A linked folder inside an artifact is refused; the artifact's own folder may be a link."""
    (tmp_path / "link").symlink_to(folder)
    assert artifact.load(tmp_path / "link").version == 1
    (folder / "plots").rename(tmp_path / "plots")
    (folder / "plots").symlink_to(tmp_path / "plots")

    assert refusal(folder).reason == "cannot be read: its folder is a link"


def test_size_is_bounded_before_a_file_is_read(folder: Path) -> None:
    """A file that is too large by its manifest is refused without reading it, whatever its hash."""
    sizes = {"golden.json": 2**23 + 1, "trees.npz": 2**28 + 1, "model.onnx": 2**26 + 1, "forest.npz": 2**25 + 1}
    for name, size in sizes.items():
        kept = (folder / "manifest.json").read_bytes()
        fact = {name: {"size": size, "sha256": ""}}
        rewrite(folder, lambda manifest, fact=fact: manifest["files"].update(fact))  # type: ignore[misc]
        assert refusal(folder).reason == f"has {size} bytes, more than are allowed"
        (folder / "manifest.json").write_bytes(kept)
    rewrite(folder, lambda manifest: manifest["files"].update({"a": {"size": 2**31, "sha256": ""}}))
    assert refusal(folder).reason == "names files of more than 2147483648 bytes"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: m["metrics"]["validation"].update(rmse="3"), "metrics.validation.rmse is not a finite number"),
        (lambda m: m["metrics"]["validation"].update(r2=10**400), "metrics.validation.r2 is not a finite number"),
        (lambda m: m["metrics"]["validation"].update(mae=True), "metrics.validation.mae is not a finite number"),
        (lambda m: m["metrics"]["training"].pop("mse"), "metrics.training.mse is missing"),
        (lambda m: m["metrics"]["training"].update(rows=0), "metrics.training.rows is not a whole number of at"),
        (lambda m: m["metrics"]["training"].update(rows=404.0), "metrics.training.rows is not a whole number"),
        (lambda m: m.update(metrics=[]), "metrics.validation.bias is missing"),
        (lambda m: m.update(title=["x"]), "title is not a string"),
        (lambda m: m.update(title="\ud800"), "surrogates not allowed"),
        (lambda m: m["features"][0].update({"\ud800": 1}), "surrogates not allowed"),
        (lambda m: m.update(algorithm=None), "algorithm is missing"),
        (lambda m: m.update(task="ranking"), "task is not one of: regression"),
        (lambda m: m.update(task=["regression"]), "task is not one of: regression"),
        (lambda m: m.update(version=2**31), "version is not a whole number from 1 to 2147483647"),
        (lambda m: m.update(version=True), "version is not a whole number"),
        (lambda m: m.update(limits=1), "limits is not a string"),
        (lambda m: m.update(tags={"owner": 1}), "tags is not an object of strings"),
        (lambda m: m.pop("created_at"), "created_at is missing"),
        (lambda m: m.update(network="x"), "network is not an object"),
        (
            lambda m: m.update(network={"file": "w", "n_features": 1, "activation": "relu", "hidden": [10**9]}),
            "network.hidden is not a list of at most 1000 widths up to 8192",
        ),
        (lambda m: m.update(derived={}), "derived is not a list of at most 1000 features"),
        (lambda m: m.update(derived=[{"name": "a"}]), "derived[0] has no formula"),
        (lambda m: m.update(derived=[{"name": "a", "formula": 3}]), "derived[0] has no name and formula"),
        (
            lambda m: m.update(derived=[{"name": "a", "formula": "RM / TAX"}, {"name": "b", "formula": "("}]),
            "derived[1]",
        ),
        (lambda m: m["features"][0].update(name=1), "is not of a type in number"),
        (lambda m: m["features"][0].update(unit=None), "is not of a type in number"),
        (lambda m: m["features"][0].update(lowest=10**400), "limits that are not two numbers in order"),
        (lambda m: m["features"][0].update(minimum=9.0), "limits that are not two numbers in order"),
        (lambda m: m["target"].update(maximum="50"), "limits that are not two numbers in order"),
        (lambda m: m["target"].update(description={}), "is not of a type in number"),
        (lambda m: m.update(features=[]), "there are no features"),
        (lambda m: m["engine"].update(tolerance="0"), "does not describe a model"),
        (lambda m: m["files"].pop("reference.json"), "does not list reference.json"),
    ],
    ids=lambda value: value[:50] if isinstance(value, str) else "",
)
def test_manifest_has_a_schema(folder: Path, change: Callable[[dict[str, Any]], object], reason: str) -> None:
    """An artifact is refused unless the facts that pages and metrics show exist, are finite and have their types."""
    rewrite_escaped(folder, change)

    error = refusal(folder)
    assert error.path == folder / "manifest.json"
    assert reason in error.reason


def test_manifest_is_a_value(folder: Path) -> None:
    """A loaded manifest has the facts of its document as typed values, and the document unchanged."""
    found = artifact.load(folder).manifest
    document = json.loads((folder / "manifest.json").read_bytes())

    assert found.document == document
    assert (found.name, found.version, found.digest) == ("boston-housing", 1, document["digest"])
    assert asdict(found.metrics) == document["metrics"]
    assert found.data is not None
    assert asdict(found.data) == document["data"]
    assert found.proof is not None
    assert asdict(found.proof) == document["engine"]["parity"]
    assert {name: asdict(file) for name, file in found.files.items()} == document["files"]
    assert found.task.name == document["task"]
    assert (found.tags, found.limits, found.network) == (document["tags"], document["limits"], None)


def test_unknown_facts_are_kept(folder: Path) -> None:
    """Facts that this version does not know, at any depth, are written back as they were read."""
    rewrite(folder, lambda m: [part.update(novel=[1.0, {"a": None}]) for part in (m, m["metrics"], m["engine"])])
    found = artifact.load(folder).manifest

    assert artifact.to_json(found.document) == (folder / "manifest.json").read_bytes()
    assert found.metrics.validation
    assert found.metrics.validation.rows == 102


@pytest.mark.parametrize(
    ("change", "has_data", "has_proof"),
    [
        (lambda m: m.pop("data"), False, True),
        (lambda m: m["data"].update(rows="506"), False, True),
        (lambda m: m["data"].update(split=7), False, True),
        (lambda m: m["engine"].pop("parity"), True, False),
        (lambda m: m["engine"]["parity"].update(split_rows=None), True, False),
    ],
)
def test_what_serving_does_not_need_may_be_missing(
    folder: Path, change: Callable[[dict[str, Any]], object], has_data: bool, has_proof: bool
) -> None:
    """A manifest that does not describe its data or its proof completely is served, and has None in their places."""
    rewrite(folder, change)
    found = artifact.load(folder).manifest

    assert (found.data is not None, found.proof is not None) == (has_data, has_proof)


def rewrite_escaped(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a manifest like `rewrite`, and write characters that UTF-8 lacks as escapes."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    change(manifest)
    facts = {key: value for key, value in manifest.items() if key not in ("digest", "created_at")}
    (folder / "manifest.json").write_text(json.dumps({**manifest, "digest": artifact.digest(facts)}))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("golden.json", lambda found: found["y"].__setitem__(0, None)),
        ("golden.json", lambda found: found["y"].__setitem__(0, float("nan"))),
        ("golden.json", lambda found: found["y"].__setitem__(0, float("inf"))),
        ("golden.json", lambda found: found["y"].__setitem__(0, "24.0")),
        ("golden.json", lambda found: found["X"][0].__setitem__(0, "0")),
        ("golden.json", lambda found: found["X"][0].__setitem__(0, 10**400)),
        ("golden.json", lambda found: found["X"][0].__setitem__(0, True)),
        ("golden.json", lambda found: found.update(X=found["X"] * 20, y=found["y"] * 20)),
        ("golden.json", lambda found: found.update(X="x")),
        ("reference.json", lambda found: found["prediction"].update(minimum=float("-inf"))),
        ("reference.json", lambda found: found["prediction"]["edges"].__setitem__(-1, float("inf"))),
        ("reference.json", lambda found: found["prediction"]["edges"].__setitem__(-1, 10**400)),
        ("reference.json", lambda found: found["prediction"].update(edges=[1, 2], shares=[-1, 2])),
        ("reference.json", lambda found: found["prediction"].update(edges=[[1]], shares=[[1]])),
        ("reference.json", lambda found: found.pop("prediction")),
    ],
)
def test_numbers_are_finite_numbers(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Golden rows and the reference consist of finite JSON numbers, not strings or null; else their file is named."""
    found = json.loads((folder / name).read_bytes())
    change(found)
    rewrite(folder, lambda manifest: None, {name: json.dumps(found).encode()})

    assert refusal(folder).path == folder / name
