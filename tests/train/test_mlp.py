"""The MLP: as good as least squares and scikit-learn's, reproducible by its seed, and robust."""

from __future__ import annotations

import json
import logging
import shutil
import signal
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from model import Matrix, Store, metrics
from model.cli.main import main
from model.engine.compare import predict_by_batch_size
from model.engine.runtime import Engine
from model.errors import ArtifactError, CheckpointError, DeviceError, GoldenRowsError
from model.metrics import Scores
from model.store import artifact
from tests.support.examples import BOSTON_HOUSING, HEIGHT_WEIGHT, Rows, rows_of
from tests.support.server import serve
from tests.support.service import ROOT, bits, rewrite

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install -r requirements-torch.txt")

from sklearn.base import clone  # noqa: E402
from sklearn.exceptions import ConvergenceWarning  # noqa: E402
from sklearn.linear_model import LinearRegression  # noqa: E402
from sklearn.neural_network import MLPRegressor  # noqa: E402
from sklearn.pipeline import make_pipeline  # noqa: E402
from sklearn.preprocessing import StandardScaler  # noqa: E402

from model.engine import network  # noqa: E402
from model.train.compile.network import to_graph  # noqa: E402
from model.train.learners import mlp  # noqa: E402
from model.train.learners.mlp import NetworkRegressor  # noqa: E402

gpu = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")]


def small(**chosen: Any) -> NetworkRegressor:
    """Return a regressor that is fitted in a moment."""
    return NetworkRegressor(**{"hidden": (8,), "max_epochs": 6, "batch_size": 32, **chosen})


@pytest.fixture(scope="module")
def people() -> Rows:
    """The split of the drawn heights and weights."""
    return rows_of(HEIGHT_WEIGHT)


@pytest.fixture(scope="module")
def X() -> Matrix:
    """Rows of three features: of usual size, tiny, and constant."""
    random = np.random.default_rng(0)
    return np.column_stack([random.normal(50, 9, 400), random.normal(0, 1e-6, 400), np.full(400, 3.0)])


@pytest.fixture(scope="module")
def y(X: Matrix) -> NDArray[np.float64]:
    """A non-linear target in the millions."""
    answers: NDArray[np.float64] = 1e6 * np.sin(X[:, 0] / 9) + 1e11 * X[:, 1] + 5e6
    return answers


def rmse(y: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    return metrics.regression(y, predicted).rmse


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_without_hidden_layers_it_is_least_squares(people: Rows, device: str) -> None:
    """Depth 0 reaches the validation RMSE of least squares to four digits, in fewer than 20 epochs."""
    line = LinearRegression().fit(people.X_train, people.y_train)
    fitted = NetworkRegressor(hidden=(), max_epochs=19, device=device).fit(people.X_train, people.y_train)

    expected = rmse(people.y_validation, line.predict(people.X_validation))
    assert len(fitted.epochs_) < 20
    assert rmse(people.y_validation, fitted.predict(people.X_validation)) == pytest.approx(expected, rel=5e-4)


@pytest.mark.parametrize("random_state", [1, 3, 7])
def test_it_is_no_worse_than_scikit_learn(random_state: int) -> None:
    """On each split of the Boston table, over five seeds, depth 2 is at most 0.5% worse than MLPRegressor.

    With the same rows, part held out, widths, passes, batches and patience.
    """
    rows = rows_of(BOSTON_HOUSING, random_state=random_state)
    ours, theirs = [], []
    for seed in range(5):
        our = NetworkRegressor(hidden=(64, 64), max_epochs=200, batch_size=32, patience=20, random_state=seed)
        regressor = MLPRegressor(
            hidden_layer_sizes=(64, 64),
            max_iter=200,
            batch_size=32,
            early_stopping=True,
            n_iter_no_change=20,
            random_state=seed,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the budget is the same for both
            their = make_pipeline(StandardScaler(), regressor).fit(rows.X_train, rows.y_train)
        ours.append(rmse(rows.y_validation, our.fit(rows.X_train, rows.y_train).predict(rows.X_validation)))
        theirs.append(rmse(rows.y_validation, their.predict(rows.X_validation)))

    assert np.mean(ours) <= 1.005 * np.mean(theirs), (ours, theirs)


def test_same_seed_gives_the_same_bytes(X: Matrix, y: NDArray[np.float64]) -> None:
    """The same rows and seed give the same weights, another seed others. The caller's random numbers do not change."""
    torch.manual_seed(5)
    one, two, other = small().fit(X, y), small().fit(X, y), small(random_state=8).fit(X, y)
    drawn = torch.rand(1)

    assert one.weights_ == two.weights_ != other.weights_
    assert torch.equal(drawn, torch.rand(1, generator=torch.Generator().manual_seed(5)))


def test_it_stops_when_it_gets_worse() -> None:
    """Training stops `patience` epochs after the last one within a standard error of the best, which it keeps."""
    random = np.random.default_rng(0)
    X, y = random.normal(size=(300, 20)), random.normal(size=300)  # nothing but noise to learn by heart
    fitted = NetworkRegressor(hidden=(64,), max_epochs=500, learning_rate=0.01, patience=5).fit(X, y)
    held_out = [epoch.validation_loss for epoch in fitted.epochs_]

    assert len(held_out) - 1 - 5 == fitted.best_epoch_ < 50
    assert max(held_out[-5:]) > held_out[fitted.best_epoch_] >= min(held_out)
    assert metrics.regression(y, fitted.predict(X)).r2 < 0.9


@settings(max_examples=60, deadline=None)
@given(
    n_features=st.integers(1, 7),
    hidden=st.lists(st.integers(1, 40), max_size=4),
    n_outputs=st.integers(1, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_graph_equals_network(n_features: int, hidden: list[int], n_outputs: int, seed: int) -> None:
    """The compiled graph gives the network's outputs for any widths and depth; a row alone as among others."""
    random = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = network.Network(n_features, hidden, n_outputs)
    made.x_mean.copy_(torch.from_numpy(random.normal(0, 1e3, n_features)))
    made.x_scale.copy_(torch.from_numpy(random.uniform(1e-3, 1e3, n_features)))
    made.y_mean.copy_(torch.tensor(random.normal(0, 1e3)))
    made = network.load(made.architecture, network.save(made), n_outputs)
    rows = random.normal(0, 2e3, (50, n_features))
    decision = "largest sum" if n_outputs > 1 else None
    engine = Engine(to_graph(network.save(made), n_outputs).content, n_outputs=n_outputs, decision=decision)

    answers, expected = engine.predict(rows), made(torch.from_numpy(rows)).numpy()
    found = answers[:, 1:] if n_outputs > 1 else answers[:, np.newaxis]
    assert np.allclose(found, expected, rtol=1e-11, atol=1e-9)
    if n_outputs > 1:
        assert (answers[:, 0] == found.argmax(axis=1)).all()
    assert (bits(predict_by_batch_size(engine.predict, rows)) == bits(answers)).all()


def test_weights_of_another_architecture_are_refused(X: Matrix, y: NDArray[np.float64]) -> None:
    """Weights that do not fit or are invalid raise a `ValueError` with the reason."""
    fitted = small().fit(X, y)
    known, weights = fitted.architecture_, fitted.weights_

    for architecture in ({**known, "hidden": [9]}, {**known, "activation": "tanh"}, {}):
        with pytest.raises(ValueError, match=r"activation|do not fit"):
            network.load(architecture, weights)
    with pytest.raises(ValueError, match="do not fit"):
        network.load(known, weights[:-9])
    with pytest.raises(ValueError, match="do not fit"):
        network.load(known, weights, 2)


def test_weights_are_read_exactly(X: Matrix, y: NDArray[np.float64]) -> None:
    """A saved network is read to the last bit of float64. The caller's random numbers do not change."""
    fitted = small().fit(X, y)
    made = network.load(fitted.architecture_, fitted.weights_)
    for tensor in made.state_dict().values():
        tensor *= 1 + 1e-12
    torch.manual_seed(5)
    found = network.load(made.architecture, network.save(made))
    drawn = torch.rand(1)

    assert network.save(found) == network.save(made)
    assert torch.equal(drawn, torch.rand(1, generator=torch.Generator().manual_seed(5)))


KILLED = """
import sys
from pathlib import Path
import numpy as np
from model.train.learners.mlp import NetworkRegressor
rows = np.load(sys.argv[1])
NetworkRegressor(hidden=(8,), max_epochs=400, patience=400, batch_size=32, device="cpu",
                 checkpoint=Path(sys.argv[2]), checkpoint_seconds=0).fit(rows["X"], rows["y"])
"""


def test_killed_run_resumes_to_the_same_weights(X: Matrix, y: NDArray[np.float64], tmp_path: Path) -> None:
    """A killed run resumes from its checkpoint and ends with the same bytes as an uninterrupted one."""
    np.savez(tmp_path / "rows.npz", X=X, y=y)
    checkpoint = tmp_path / "run.pt"
    process = subprocess.Popen([sys.executable, "-c", KILLED, tmp_path / "rows.npz", checkpoint], cwd=ROOT)
    deadline = time.monotonic() + 300
    while not checkpoint.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()

    n_done = len(torch.load(checkpoint, weights_only=True)["epochs"])
    assert 0 < n_done < 400
    whole = small(max_epochs=400, patience=400, device="cpu").fit(X, y)
    resumed = clone(whole).set_params(checkpoint=checkpoint, checkpoint_seconds=60).fit(X, y)

    assert resumed.weights_ == whole.weights_
    assert resumed.epochs_ == whole.epochs_


def test_checkpoint_of_another_training_is_refused(X: Matrix, y: NDArray[np.float64], tmp_path: Path) -> None:
    """A checkpoint of other rows or settings, or an invalid one, is refused by name and left unchanged."""
    path = tmp_path / "run.pt"
    small(checkpoint=path, checkpoint_seconds=0).fit(X, y)
    kept = path.read_bytes()

    with pytest.raises(CheckpointError, match=r"run\.pt is of a training with other data; remove it"):
        small(checkpoint=path).fit(X + 1, y)
    with pytest.raises(CheckpointError, match="with other hidden, batch_size; remove"):
        small(hidden=(9,), batch_size=64, checkpoint=path).fit(X, y)
    assert path.read_bytes() == kept
    with pytest.raises(CheckpointError, match="there is no folder"):
        small(checkpoint=tmp_path / "none" / "run.pt").fit(X, y)
    for content in (b"", kept[: len(kept) // 2], b"garbage" * 100):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"(?s)run\.pt is not a checkpoint .*; remove it"):
            small(checkpoint=path).fit(X, y)


@pytest.mark.parametrize("most", [1, 5, 31])
def test_out_of_memory_uses_micro_batches(
    X: Matrix, y: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, most: int
) -> None:
    """A batch too large for memory is split with a warning; the result is equal except for rounding."""
    whole = small().fit(X, y)
    roomy = network.Network.scaled

    def cramped(self: network.Network, Z: Any) -> Any:
        if len(Z) > most and Z.dtype == torch.float32:
            raise torch.OutOfMemoryError("out of memory")
        return roomy(self, Z)

    monkeypatch.setattr(network.Network, "scaled", cramped)
    with caplog.at_level(logging.WARNING):
        in_parts = small().fit(X, y)

    assert caplog.messages[0] == "out of memory: continuing with micro-batches of 16 rows"
    assert np.allclose(in_parts.predict(X), whole.predict(X), rtol=1e-3)


def test_out_of_memory_for_one_row_is_an_error(
    X: Matrix, y: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If a single row does not fit into memory, training ends with an error."""

    def full(self: network.Network, Z: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(network.Network, "scaled", full)
    with pytest.raises(DeviceError, match="out of memory even for a single row"):
        small().fit(X, y)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_missing_device_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """If CUDA is chosen but missing, training states the remedy and writes nothing: no silent run on the CPU."""
    command = ["--store", str(tmp_path / "store"), "train", "height-weight", "--device", "cuda"]

    assert main(command) == 1
    error = capsys.readouterr().err
    assert "there is no cuda here: PyTorch" in error
    assert "use cpu" in error
    assert Store(tmp_path / "store").names() == []


@pytest.mark.parametrize("name", ["tpu", "gpu0", "cpu:x", ""])
def test_unknown_device_is_refused(name: str) -> None:
    """An unknown name of a device is refused with the list of known ones."""
    with pytest.raises(DeviceError, match="auto, cpu, cuda, cuda:N or mps"):
        network.find_device(name)


def test_all_invalid_parameters_are_reported_at_once(X: Matrix, y: NDArray[np.float64]) -> None:
    """Every invalid parameter is named with its allowed values."""
    with pytest.raises(ValueError, match=r"hidden is \(0,\); .*; max_epochs is 0; .*; learning_rate is 0; .*precision"):
        NetworkRegressor(hidden=(0,), max_epochs=0, learning_rate=0, precision="float8").fit(X, y)


def test_infinite_loss_is_reported(X: Matrix, y: NDArray[np.float64]) -> None:
    """A learning rate at which the weights diverge is an error that names it, not a model of NaN."""
    with pytest.raises(ValueError, match="no longer finite after 1 epochs; set a learning rate below 1e"):
        NetworkRegressor(max_epochs=3, learning_rate=1e30).fit(X, y)


def test_too_few_rows_are_refused(X: Matrix, y: NDArray[np.float64]) -> None:
    """A table from which no row can be held out is refused."""
    with pytest.raises(ValueError, match=r"2 rows are too few to hold out 0\.1 of them and fit"):
        NetworkRegressor().fit(X[:2], y[:2])


@pytest.mark.filterwarnings("ignore:TensorFloat32")  # of the compiler, on a GPU that has it
@pytest.mark.filterwarnings("ignore:`torch.jit")  # PyTorch's compiler uses what PyTorch gives up
@pytest.mark.parametrize("chosen", [{"precision": "bfloat16"}, {"deterministic": True}, {"compile": True}])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=gpu)])
def test_other_modes_fit_too(X: Matrix, y: NDArray[np.float64], chosen: dict[str, Any], device: str) -> None:
    """Mixed precision, deterministic algorithms and compiled layers fit a model that explains the target, too."""
    if chosen.get("compile") and not shutil.which("c++"):
        pytest.skip("torch.compile needs a C++ compiler")
    fitted = small(hidden=(32,), max_epochs=60, device=device, **chosen).fit(X, y)

    assert metrics.regression(y, fitted.predict(X)).r2 > 0.9
    assert not torch.are_deterministic_algorithms_enabled()
    if not chosen.get("compile"):
        assert clone(fitted).fit(X, y).weights_ == fitted.weights_


def test_rows_that_do_not_fit_are_copied_by_batches(
    X: Matrix, y: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the rows do not fit into the device's memory, batches are copied to it, with the same model as result."""
    whole = small(device="cpu").fit(X, y)
    honest = torch.Tensor.to

    def cramped(self: Any, *arguments: Any, **settings: Any) -> Any:
        if len(self.shape) == 2 and len(self) == len(X):
            raise torch.OutOfMemoryError("out of memory")
        return honest(self, *arguments, **settings)

    monkeypatch.setattr(torch.Tensor, "to", cramped)
    copied = small(device="cpu").fit(X, y)

    assert caplog.messages == ["the 400 rows do not fit into the memory of cpu: batches are copied to it"]
    assert copied.weights_ == whole.weights_


def test_gpu_is_described_by_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The manifest describes a GPU by nvidia-smi; without nvidia-smi by PyTorch."""
    uuid = "ffc79498-8ff3-4b4a-9d1e-0e7a0d1ab2c3"
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30, uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setenv("PATH", str(tmp_path))
    known = {"kind": "cuda", "name": "NVIDIA H100", "memory_mib": 81920, "cuda": torch.version.cuda}
    without = mlp.describe_device(torch.device("cuda"))
    program = tmp_path / "nvidia-smi"
    program.write_text(f'#!/bin/sh\n[ "$1" = --id=GPU-{uuid} ] && echo "570.10, 1980, 2619, 700.00, 1755, [N/A]"\n')
    program.chmod(0o755)

    assert without == known
    assert mlp.describe_device(torch.device("cuda")) == {
        **known,
        "driver_version": "570.10",
        "clocks.max.sm": "1980",
        "clocks.max.mem": "2619",
        "power.limit": "700.00",
        "clocks.applications.graphics": "1755",
    }


@pytest.fixture(scope="module")
def people_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with only version 1 of height-weight, trained by the command line."""
    root: Path = tmp_path_factory.mktemp("people")
    assert main(["--store", str(root), "train", "height-weight", "--max-epochs", "10"]) == 0
    return root


def test_artifact_keeps_weights_and_history(people_store: Path) -> None:
    """The artifact has the weights, the architecture, the losses, the device and the graph's difference."""
    found = artifact.load(Store(people_store).find("height-weight"))
    facts = found.manifest.document
    weights = (found.path / facts["network"]["file"]).read_bytes()
    made = network.load(facts["network"], weights)

    assert found.tolerance == facts["engine"]["tolerance"] == 1e-6
    assert facts["engine"]["parity"]["largest_relative_difference"] < 1e-12
    assert facts["network"]["hidden"] == facts["hyperparameters"]["hidden"] == [64, 64]
    assert len(facts["training"]["epochs"]) == 10
    assert facts["environment"]["device"]["kind"] == network.find_device("auto").type
    assert facts["environment"]["packages"]["torch"] == version("torch")
    assert np.array_equal(bits(made(torch.tensor(found.golden_rows)).numpy()[:, 0]), bits(found.golden_predictions))
    assert "within a relative difference of 1e-06" in (found.path / "card.md").read_text()


def test_both_engines_agree_on_all_rows(people_store: Path) -> None:
    """The served graph predicts all 25,000 rows within 1e-6 of PyTorch, with the same bits one by one and together."""
    found = artifact.load(Store(people_store).find("height-weight"))
    rows = rows_of(HEIGHT_WEIGHT).X
    made = network.load(found.manifest.document["network"], (found.path / "weights.safetensors").read_bytes())
    expected = made(torch.tensor(rows)).numpy()[:, 0]
    together = found.predict(rows)

    assert len(rows) == 25_000
    assert np.abs(together / expected - 1).max() <= 1e-6
    assert (bits(predict_by_batch_size(found.predict, rows)) == bits(together)).all()


def test_served_under_load_it_agrees_with_torch(people_store: Path, store: Path, tmp_path: Path) -> None:
    """With 64 clients and mixed sizes, 25,000 rows are predicted as by PyTorch; the default model is the other one."""
    both = tmp_path / "both"
    both.mkdir()
    (both / "height-weight").symlink_to(people_store / "height-weight")
    (both / "boston-housing").symlink_to(store / "boston-housing")
    found = artifact.load(Store(people_store).find("height-weight"))
    made = network.load(found.manifest.document["network"], (found.path / "weights.safetensors").read_bytes())
    rows = rows_of(HEIGHT_WEIGHT).X
    expected = made(torch.tensor(rows)).numpy()[:, 0]
    sizes = np.random.default_rng(0).choice([1, 2, 7, 64, 500, 2000], 400)
    ends = np.minimum(np.cumsum(sizes), len(rows))

    with serve(both, tmp_path) as server, ThreadPoolExecutor(64) as clients:

        def ask(start: int, end: int) -> float:
            body = {"columns": ["Height-Inches"], "data": rows[start:end].tolist()}
            reply = requests.post(f"{server.url}/models/height-weight/predict", json=body, timeout=60)
            assert reply.status_code == 200, reply.text
            return float(np.abs(np.array(reply.json()["prediction"]) / expected[start:end] - 1).max(initial=0))

        parts = [(int(end - size), int(end)) for end, size in zip(ends, sizes) if end > end - size]
        furthest = max(clients.map(ask, *zip(*parts)))
        default = requests.get(f"{server.url}/models", timeout=10).json()

    assert ends[-1] == len(rows)
    assert furthest <= 1e-6
    assert default["default"] == "boston-housing"


def test_tolerance_is_enforced(people_store: Path, tmp_path: Path) -> None:
    """A golden prediction off by more than the tolerance is refused, and so is a tolerance above 1e-6."""
    folder = shutil.copytree(people_store / "height-weight" / "1", tmp_path / "1")
    golden = json.loads((folder / "golden.json").read_bytes())
    for factor, accepted in ((1 + 5e-7, True), (1 + 2e-6, False)):
        changed = {**golden, "y": [golden["y"][0] * factor, *golden["y"][1:]]}
        rewrite(folder, lambda manifest: None, {"golden.json": artifact.to_json(changed)})
        if accepted:
            artifact.load(folder)
        else:
            with pytest.raises(GoldenRowsError, match="1 of 64 golden rows"):
                artifact.load(folder)
    rewrite(folder, lambda manifest: manifest["engine"].update(tolerance=0.01))
    with pytest.raises(ArtifactError, match="tolerance"):
        artifact.load(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["boston-housing", "--hidden", "3"], "--hidden is an option of the mlp; leave it out for the gbm"),
        (["height-weight", "--n-estimators", "3"], "--n-estimators is an option of the gbm; leave it out for the mlp"),
        (
            ["boston-housing", "--learner", "linear", "--n-estimators", "3"],
            "--n-estimators is an option of the gbm; leave it out for the linear",
        ),
        (["height-weight", "--max-epochs", "0"], "max_epochs is 0; set it to at least 1"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[str], message: str
) -> None:
    """An option of another algorithm, or an invalid one, is named; nothing is trained."""
    assert main(["--store", str(tmp_path / "store"), "train", *arguments]) == 1

    assert message in capsys.readouterr().err
    assert Store(tmp_path / "store").names() == []


def test_any_table_can_have_an_mlp(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--learner mlp` fits one to the Boston table: the next version of the same model."""
    checkpoint = tmp_path / "run.pt"
    command = ["--store", str(tmp_path), "train", "boston-housing", "--learner", "mlp"]

    assert main([*command, "--hidden", "16", "--max-epochs", "30", "--checkpoint", str(checkpoint)]) == 0
    assert not checkpoint.exists()
    found = artifact.load(Store(tmp_path).find("boston-housing"))
    assert found.manifest.document["network"]["hidden"] == [16]
    assert isinstance(found.manifest.metrics.validation, Scores)
    assert found.manifest.metrics.validation.r2 > 0.5


def test_original_table_can_be_trained_on(tmp_path: Path, people: Rows) -> None:
    """`--data` accepts a table like the original: a byte order mark, an Index column, carriage returns."""
    n_rows = 200
    table = pd.DataFrame(
        {
            "Index": range(1, n_rows + 1),
            "Height-Inches": people.X_train[:n_rows, 0],
            "Weight-Pounds": people.y_train[:n_rows],
        }
    )
    path = tmp_path / "original.csv"
    table.to_csv(path, index=False, encoding="utf-8-sig", lineterminator="\r\n")

    assert main(["--store", str(tmp_path / "s"), "train", "height-weight", "--data", str(path), "--hidden"]) == 0
    facts = artifact.read_manifest(Store(tmp_path / "s").find("height-weight"))
    assert facts["data"]["rows"] == n_rows
    assert facts["network"]["hidden"] == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device here")
def test_gpu_is_described(X: Matrix, y: NDArray[np.float64]) -> None:
    """The manifest of a model trained on a GPU has its name, memory, driver and clocks."""
    found = small(device="cuda").fit(X, y).device_

    assert found["kind"] == "cuda"
    assert {"name", "memory_mib", "cuda", "driver_version", "clocks.max.sm"} <= found.keys()
