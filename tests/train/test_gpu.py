"""Owns the engine of networks: predictions on every device, verification before serving, and lost devices."""

from __future__ import annotations

import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
import requests
from flask.testing import FlaskClient
from sklearn.ensemble import GradientBoostingRegressor

from app import create_app
from app.config import Config
from app.serving.loaded import load
from model import Artifact, ArtifactError, DeviceError, GoldenRowsError, Matrix, Store
from tests.support import networks as some
from tests.support.server import serve
from tests.support.service import HOUSE, TABLE, refused, rewrite, strict_json

torch = pytest.importorskip("torch", reason="needs PyTorch (requirements-cuda.txt)")
pytest.importorskip("safetensors", reason="needs safetensors (requirements-cuda.txt)")

from model import export as own_export  # noqa: E402
from model.engine import network  # noqa: E402
from model.engine.columns import ColumnsEngine  # noqa: E402
from model.engine.compare import differing  # noqa: E402
from model.engine.gpu import TorchEngine  # noqa: E402
from model.engine.network import Network  # noqa: E402
from model.store import device as on_device  # noqa: E402
from model.train import frames, proof  # noqa: E402
from model.train.learners import fitted, mlp  # noqa: E402

NAME = "boston-housing"
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu])]


@pytest.fixture(scope="module")
def networks(houses: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of boston-housing as a network. Tests must not change it."""
    root: Path = tmp_path_factory.mktemp("networks")
    y = pd.read_csv(TABLE)["MEDV"]
    regressor = mlp.NetworkRegressor(hidden=(32, 16), max_epochs=2, device="cpu").fit(houses, y)
    own_export(regressor, houses, y, name=NAME, store=root)
    return root


@pytest.fixture(scope="module")
def trees(houses: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of a model without a network. Tests must not change it."""
    root: Path = tmp_path_factory.mktemp("trees")
    y = pd.read_csv(TABLE)["MEDV"]
    forest = GradientBoostingRegressor(n_estimators=5, random_state=7).fit(houses, y)
    own_export(forest, houses, y, name="trees", store=root)
    return root


@pytest.fixture(scope="module")
def model(networks: Path) -> Artifact:
    """The network as the CPU serves it."""
    return Store(networks).load(NAME)


@pytest.fixture(scope="module", params=DEVICES)
def any_table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a network for each target of a table with categories and gaps, trained on each available device."""
    root: Path = tmp_path_factory.mktemp("any-table")
    table = some.rows()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(proof, "RANDOM_ROWS", 2_000)
        for name in some.TARGETS:
            y = some.target(name, table)
            found = own_export(some.pipeline(name, device=request.param).fit(table, y), table, y, name=name, store=root)
            assert found.manifest.document["environment"]["device"]["kind"] == request.param
    return root


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> Any:
    """Every available device."""
    return network.find_device(request.param)


def random_network(*hidden: int) -> Network:
    """Return a network of two features with arbitrary weights."""
    torch.manual_seed(7)
    return network.load(
        {"n_features": 2, "hidden": list(hidden), "activation": "relu"}, network.save(Network(2, hidden))
    )


def random_rows(n_rows: int) -> Matrix:
    """Return rows of two features, always the same for the same number."""
    return np.random.default_rng(n_rows).normal(size=(n_rows, 2))


def failing(error: Exception) -> tuple[Network, list[int]]:
    """Return a network that fails, and the list that grows with each attempt."""
    one, attempts = random_network(4), list[int]()

    def fail(module: object, inputs: tuple[Any]) -> None:
        attempts.append(len(inputs[0]))
        raise error

    one.register_forward_pre_hook(fail)
    return one, attempts


@pytest.mark.parametrize("hidden", [(), (3,), (64, 64)])
def test_predictions(device: Any, hidden: tuple[int, ...]) -> None:
    """The engine predicts like the network in float64, for any number of rows and any memory order."""
    truth = random_network(*hidden)
    engine = TorchEngine(random_network(*hidden), device)
    for n_rows in (0, 1, 2, 1_000, engine.max_rows + 1):
        for X in (random_rows(n_rows), np.asfortranarray(random_rows(n_rows)), random_rows(2 * n_rows)[::2]):
            y = engine.predict(X)

            assert y.dtype == np.float64
            assert y.shape == (n_rows,)
            np.testing.assert_allclose(y, truth(torch.from_numpy(X.copy())).numpy()[:, 0], rtol=1e-12, atol=1e-12)


def test_rows_of_other_calls(device: Any) -> None:
    """What an earlier call left behind has no effect on a prediction."""
    engine = TorchEngine(random_network(8), device)
    alone = engine.predict(random_rows(3))
    engine.predict(np.full((20, 2), np.nan))

    assert engine.predict(random_rows(3)).tolist() == alone.tolist()


def test_chunks() -> None:
    """A long input goes to the device in as few chunks as its memory limit allows."""
    one, pieces = random_network(65_536), list[int]()
    one.register_forward_pre_hook(lambda module, inputs: pieces.append(len(inputs[0])))
    engine = TorchEngine(one, torch.device("cpu"))
    X = random_rows(2 * engine.max_rows + 1)
    y = engine.predict(X)

    assert 8 * 65_536 * engine.max_rows <= 2**25
    assert pieces == [engine.max_rows, engine.max_rows, 1]
    np.testing.assert_allclose(
        y, np.concatenate([engine.predict(X[i : i + 1]) for i in range(len(X))]), rtol=1e-12, atol=1e-12
    )


def test_threads(device: Any) -> None:
    """Concurrent threads get their own predictions, which later calls do not overwrite."""
    engine = TorchEngine(random_network(8), device)
    parts = [random_rows(n_rows) for n_rows in range(1, 60)]
    expected = [engine.predict(X) for X in parts]
    copies = [y.copy() for y in expected]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(engine.predict, parts))

    for y, kept, copy in zip(found, expected, copies):
        np.testing.assert_allclose(y, copy, rtol=1e-12, atol=1e-12)
        assert kept.tolist() == copy.tolist()


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered\nCompile with …"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling …\nmore"),
    ],
)
def test_lost_device(error: Exception) -> None:
    """A lost device is reported in one line and not used again."""
    one, attempts = failing(error)
    engine = TorchEngine(one, torch.device("cpu"))
    messages = []
    for _ in range(3):
        with pytest.raises(DeviceError) as caught:
            engine.predict(random_rows(2))
        messages.append(str(caught.value))

    assert messages == [f"cpu was lost: {str(error).splitlines()[0]}"] * 3
    assert attempts == [2]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"),
        RuntimeError("shapes"),
        KeyError(),
    ],
)
def test_failure_that_loses_no_device(error: Exception) -> None:
    """Any other error concerns only its rows, and the next rows are tried."""
    one, attempts = failing(error)
    engine = TorchEngine(one, torch.device("cpu"))
    for _ in range(2):
        with pytest.raises(type(error)):
            engine.predict(random_rows(2))

    assert attempts == [2, 2]


def test_device_that_hangs() -> None:
    """A device that does not answer in time counts as lost, and later calls do not wait for it."""
    one, release = random_network(4), threading.Event()
    one.register_forward_pre_hook(lambda module, inputs: release.wait(10) and None)
    engine = TorchEngine(one, torch.device("cpu"), max_run_seconds=0.05)
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"cpu did not answer within 0\.05 s"):
            engine.predict(random_rows(2))
    release.set()


def test_missing_device() -> None:
    """A missing GPU is an error that lists the available ones; the CPU is never used instead."""
    with pytest.raises(DeviceError, match=r"there is no cuda:99 here: (PyTorch \S+ |the GPUs are cuda:0)"):
        network.find_device("cuda:99")
    assert network.find_device("cpu") == torch.device("cpu")


def test_load(model: Artifact, device: Any, houses: pd.DataFrame) -> None:
    """A network on a device predicts as on the CPU within the tolerance, and is otherwise the same version."""
    found = on_device.load(model, device)
    expected = model.predict(houses.to_numpy())

    assert isinstance(found.engine, TorchEngine)
    assert (found.name, found.version, found.manifest) == (model.name, model.version, model.manifest)
    np.testing.assert_allclose(found.predict(houses.to_numpy()), expected, rtol=model.tolerance)


@pytest.mark.parametrize("name", some.TARGETS)
def test_load_for_any_table(any_table: Path, device: Any, name: str) -> None:
    """Behind categories and gaps, and for classes, a network on a device answers as the pipeline and as on the CPU."""
    on_cpu = Store(any_table).load(name)
    found, table = on_device.load(on_cpu, device), some.rows(seed=5)
    table["zone"] = table["zone"].cat.rename_categories({"east": "unseen"})
    X = frames.read(some.rows()).matrix(table)
    expected = some.answers_of(joblib.load(on_cpu.path / fitted.PIPELINE), table)

    for n_rows in (1, 2, 3, len(X)):
        answers = found.predict(X[:n_rows])
        assert not differing(expected[:n_rows], answers, found.tolerance).any()
        assert not differing(on_cpu.predict(X[:n_rows]), answers, found.tolerance).any()


def damage(folder: Path) -> None:
    (folder / fitted.WEIGHTS).write_bytes(b"damaged")


def exchange(folder: Path) -> None:
    """Replace the weights by others of the same shapes, with right hashes."""
    tensors = Network(6, (32, 16))
    rewrite(folder, lambda manifest: None, {fitted.WEIGHTS: network.save(tensors)})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (exchange, GoldenRowsError, "golden rows are answered differently"),
        (lambda folder: rewrite(folder, lambda m: m.pop("network")), ArtifactError, "does not describe a network"),
        (lambda folder: rewrite(folder, lambda m: m["network"].update(hidden=[32])), ArtifactError, "do not fit"),
        (lambda folder: rewrite(folder, lambda m: m["network"].update(file="x")), ArtifactError, "does not describe"),
    ],
    ids=["exchanged", "no network", "another network", "no file"],
)
def test_load_refuses(
    networks: Path, tmp_path: Path, change: Callable[[Path], object], error: type[Exception], message: str
) -> None:
    """An artifact that loads on the CPU, but has no network or one that predicts differently, is refused."""
    own = Path(shutil.copytree(networks, tmp_path / "store"))
    change(own / NAME / "1")
    found = Store(own).load(f"{NAME}@1")

    with pytest.raises(error, match=message):
        on_device.load(found, torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "message"),
    [(damage, "bytes where the manifest says"), (exchange, "has changed since it was verified")],
    ids=["damaged", "exchanged"],
)
def test_load_is_of_what_was_verified(
    networks: Path, tmp_path: Path, change: Callable[[Path], object], message: str
) -> None:
    """A network on a device is of the version that was verified on the CPU, whatever took its place meanwhile."""
    own = Path(shutil.copytree(networks, tmp_path / "store"))
    found = Store(own).load(NAME)
    change(own / NAME / "1")

    with pytest.raises(ArtifactError, match=message):
        on_device.load(found, torch.device("cpu"))


# Rows with gaps and categories that were not seen in training, as JSON and as numbers.
UNCERTAIN = [
    {"area": 70.5, "rooms": 3, "garden": True, "zone": "west", "heating": "gas"},
    {"area": None, "rooms": 8, "garden": False, "zone": None, "heating": "coal"},
    {"area": 20.0, "rooms": 1, "garden": False, "zone": "moon", "heating": None},
]
UNCERTAIN_ROWS = np.array([[70.5, 3, 1, 2, 0], [np.nan, 8, 0, np.nan, 3], [20.0, 1, 0, 3, np.nan]])

# PyTorch's own name of the CPU: what a GPU's way through the service is tested with where there is none.
ON_CPU = "cpu:0"


def service(store: Path, **settings: Any) -> FlaskClient:
    """Return a client of a service before its networks are on their device."""
    return create_app(Config(store=store, device=ON_CPU, **settings), write_log=lambda pieces: None).test_client()


def opened(store: Path, **settings: Any) -> FlaskClient:
    """Return a client of a service as it runs in a worker."""
    client = service(store, **settings)
    application(client).serving.open()
    return client


def application(client: FlaskClient) -> Any:
    return client.application


def test_not_before_it_is_open(networks: Path) -> None:
    """Until its device is open a network is not served, and the service is not ready."""
    client = service(networks)

    assert client.get("/readyz").json == {"ready": False, "reason": "the models are still loading on cpu:0"}
    refused(client.post("/predict", json=HOUSE), 503, "native")
    assert client.get("/livez").status_code == 200

    application(client).serving.open()
    assert client.get("/readyz").json == {"ready": True, "models": {NAME: 1}}


def test_answers_of_the_service(networks: Path, model: Artifact, houses: pd.DataFrame) -> None:
    """A network is served on its device in every protocol; each run is measured, and none blocks the server's loop."""
    client = opened(networks)
    replies = [client.post("/predict", json=houses[:n].to_dict("records")) for n in (1, 7, 500)]
    metrics = client.get("/metrics").text

    for reply in replies:
        y = strict_json(reply)["prediction"]
        np.testing.assert_allclose(y, model.predict(houses.to_numpy()[: len(y)]), rtol=model.tolerance)
    labels = f'{{model="{NAME}",version="1"}}'
    for name, value in (("batch_rows_count", 3), ("batch_rows_sum", 508), ("batch_wait_seconds_count", 3)):
        assert f"tabserve_{name}{labels} {value}.0" in metrics
    is_immediate = application(client).fast_path.is_immediate
    assert is_immediate("GET", "/readyz")
    assert not is_immediate("POST", "/predict")
    assert application(opened(networks, batch_rows=1)).fast_path.is_immediate("POST", "/predict")


def test_classes_of_the_service(any_table: Path) -> None:
    """A classifier with categories and gaps is served on its device: its labels, and their probabilities."""
    client, found = opened(any_table), Store(any_table).load("class")
    reply = strict_json(client.post("/models/class/predict", json=UNCERTAIN))
    expected = found.predict(UNCERTAIN_ROWS)

    assert isinstance(application(client).serving.loaded.models["class"].engine._engine, ColumnsEngine)
    assert reply["prediction"] == [found.manifest.classes[int(place)] for place in expected[:, 0]]
    np.testing.assert_allclose([[*each.values()] for each in reply["probability"]], expected[:, 1:], atol=1e-6)


def test_model_without_a_network(trees: Path, networks: Path, tmp_path: Path) -> None:
    """A model without a network still uses ONNX Runtime beside one on the device, in the loop and to the last bit."""
    shutil.copytree(networks, tmp_path / "store")
    shutil.copytree(trees / "trees", tmp_path / "store" / "trees")
    client, fitted_trees = opened(tmp_path / "store"), joblib.load(trees / "trees" / "1" / fitted.PIPELINE)
    expected = fitted_trees.predict(pd.DataFrame([HOUSE], dtype=float)).tolist()

    assert strict_json(client.post("/models/trees/predict", json=HOUSE))["prediction"] == expected
    assert strict_json(client.post(f"/models/{NAME}/predict", json=HOUSE))["prediction"] != expected
    is_immediate = application(client).fast_path.is_immediate
    assert is_immediate("POST", "/models/trees/predict")
    assert not is_immediate("POST", f"/models/{NAME}/predict")


def test_service_that_loses_its_device(networks: Path) -> None:
    """A lost device gives 503 and ends readiness permanently; the process stays alive."""
    client = opened(networks)
    serving = application(client).serving
    engine = serving.loaded.models[NAME].engine._engine
    engine._network, attempts = failing(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    lost = refused(client.post("/predict", json=HOUSE), 503, "native")
    after = refused(client.post("/predict", json=HOUSE), 503, "native")

    assert lost == "cpu:0 was lost: CUDA error: unspecified launch failure"
    assert after == "no verified model is loaded; see /readyz for the reason"
    assert attempts == [1]
    assert client.get("/readyz").json == {"ready": False, "reason": f"{lost}; restart the server"}
    assert client.get("/livez").status_code == 200
    assert "tabserve_ready 0.0" in client.get("/metrics").text

    application(client).swap(load(networks, [], device=ON_CPU))  # the device is as lost as before
    assert client.get("/readyz").json == {"ready": False, "reason": f"{lost}; restart the server"}


def test_device_that_predicts_differently(networks: Path, tmp_path: Path) -> None:
    """A network that does not reproduce its golden rows on the device is not served, and the metrics report it."""
    own = Path(shutil.copytree(networks, tmp_path / "store"))
    exchange(own / NAME / "1")
    client = service(own, models=(f"{NAME}@1",))
    application(client).serving.open()

    assert "golden rows are answered differently" in strict_json(client.get("/readyz"))["reason"]
    refused(client.post("/predict", json=HOUSE), 503, "native")
    assert f'tabserve_golden_check_success{{model="{NAME}",version="1"}} 0.0' in client.get("/metrics").text


def test_service_without_its_device(networks: Path) -> None:
    """If the chosen GPU is missing, the service is alive and states the remedy; it does not use the CPU."""
    client = create_app(Config(store=networks, device="cuda:99"), write_log=lambda pieces: None).test_client()
    application(client).serving.open()
    reason = strict_json(client.get("/readyz"))["reason"]

    assert re.match(r"TABSERVE_DEVICE is 'cuda:99': there is no cuda:99 here: .*; give the container a GPU", reason)
    refused(client.post("/predict", json=HOUSE), 503, "native")
    assert client.get("/livez").status_code == 200

    application(client).swap(load(networks, [], device="cuda:99"))
    assert strict_json(client.get("/readyz"))["reason"] == reason


def test_swap_counts_every_run(networks: Path) -> None:
    """Runs of a model that a swap has replaced meanwhile are counted."""
    client = opened(networks)
    strict_json(client.post("/predict", json=HOUSE))
    old = application(client).serving.loaded.models[NAME].engine
    application(client).swap(load(networks, [], device=ON_CPU, max_batch_rows=4_096))
    old.predict(np.array([list(HOUSE.values())]))  # of a request that had the old snapshot
    strict_json(client.post("/predict", json=HOUSE))

    assert f'tabserve_batch_rows_count{{model="{NAME}",version="1"}} 3.0' in client.get("/metrics").text


@pytest.mark.gpu
@needs_gpu
def test_server_on_a_gpu(networks: Path, tmp_path: Path, model: Artifact, houses: pd.DataFrame) -> None:
    """One worker uses the GPU; after SIGHUP, or when it is killed, the next one does. Its utilization is measured."""

    def ask() -> None:
        reply = requests.post(f"{server.url}/predict", json=houses.to_dict("records"), timeout=60)
        np.testing.assert_allclose(
            strict_json(reply)["prediction"], model.predict(houses.to_numpy()), rtol=model.tolerance
        )

    def next_worker(old: list[int]) -> list[int]:
        deadline = time.monotonic() + 60
        while server.workers() == old or len(server.workers()) != 1:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        return server.workers()

    with serve(networks, tmp_path, TABSERVE_DEVICE="cuda") as server:
        first = server.workers()
        assert len(first) == 1
        assert "libtorch" not in Path(f"/proc/{server.process.pid}/maps").read_text()
        with ThreadPoolExecutor(16) as pool:
            for future in [pool.submit(ask) for _ in range(200)]:
                future.result()
        metrics = requests.get(f"{server.url}/metrics", timeout=10).text
        found = dict(re.findall(r"^tabserve_gpu_(\w+) (\S+)$", metrics, re.MULTILINE))
        assert 0 < float(found["memory_used_bytes"]) < float(found["memory_total_bytes"])
        server.process.send_signal(signal.SIGHUP)
        second = next_worker(first)
        ask()
        os.kill(second[0], signal.SIGKILL)
        next_worker(second)
        ask()


@pytest.mark.gpu
@needs_gpu
def test_classifier_on_a_gpu(any_table: Path, tmp_path: Path) -> None:
    """A server on a GPU answers for classes behind categories and gaps: the pipeline's labels and probabilities."""
    expected = Store(any_table).load("class").predict(UNCERTAIN_ROWS)
    with serve(any_table, tmp_path, TABSERVE_DEVICE="cuda") as server:
        reply = requests.post(f"{server.url}/models/class/predict", json=UNCERTAIN, timeout=60)
        answers = strict_json(reply)

    assert answers["prediction"] == [
        Store(any_table).load("class").manifest.classes[int(place)] for place in expected[:, 0]
    ]
    np.testing.assert_allclose([[*each.values()] for each in answers["probability"]], expected[:, 1:], atol=1e-6)
