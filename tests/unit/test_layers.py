"""The floors: which room may import from which, and what each may import from outside."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import model
from tests.support.service import ROOT

# Each room and the rooms that it may import from, from the lowest floor up. A module beside the rooms is a room.
ROOMS: dict[str, set[str]] = {
    "model.errors": set(),
    "model.keys": {"model.errors"},
    "model.metrics": set(),
    "model.task": {"model.metrics"},
    "model.version": set(),
    "model.schema": {"model.errors"},
    "model.engine": {"model.errors", "model.schema"},
    "model.store": {
        *("model.errors", "model.metrics", "model.task", "model.version", "model.schema", "model.engine"),
    },
    "model.plots": {"model.metrics", "model.store"},
    "model.live": {"model.errors", "model.metrics", "model.schema", "model.store", "model.plots"},
    "model.table": {"model.errors", "model.task", "model.schema", "model.engine", "model.plots"},
    "model.score": {"model.errors", "model.version", "model.schema", "model.engine", "model.store", "model.table"},
    "model.train": {
        *("model.errors", "model.metrics", "model.task", "model.schema", "model.engine", "model.store", "model.plots"),
        "model.table",
    },
    "model.cli": {
        *("model", "model.errors", "model.keys", "model.metrics", "model.schema", "model.store", "model.live"),
        *("model.table", "model.plots", "model.score", "model.train", "model.on_mlflow", "model.on_queue"),
    },
    "model.on_arrow": {"model.errors", "model.schema", "model.store"},
    "model.on_mlflow": {"model.errors", "model.schema", "model.store"},
    "model.on_queue": {"model.errors", "model.schema", "model.store"},
    "model.on_spark": {"model.errors", "model.schema", "model.store", "model.on_arrow"},
    "model.pyfunc": {"model.store"},
    "model.__main__": {"model.cli"},
    "app.config": set(),
    "app.version": {"model"},
    "app.errors": {"model"},
    "app.web": {"app.errors", "model"},
    "app.telemetry": {"app.config", "app.web", "model"},
    "app.serving": {"app.config", "app.errors", "app.web", "app.telemetry", "model"},
    "app.protocols": {
        *("app.config", "app.version", "app.errors", "app.web", "app.telemetry", "app.serving", "model"),
    },
    "app.routes": {
        *(
            "app.config",
            "app.version",
            "app.errors",
            "app.web",
            "app.telemetry",
            "app.serving",
            "app.protocols",
            "model",
        ),
    },
    "app.factory": {
        *("app.config", "app.web", "app.telemetry", "app.serving", "app.protocols", "app.routes", "model"),
    },
    "app.server": {"app.config", "app.web", "app.telemetry", "app.serving", "app.factory", "model"},
}
# What the service may import of the model beside its public names, each where it is needed and not before.
LATE = {
    *("model.engine.gpu", "model.engine.network", "model.live.comparison", "model.live.judge"),
    *("model.live.prediction_log", "model.schema.arrow", "model.store.device", "model.store.signature"),
}

HEAVY = {"sklearn", "pandas", "matplotlib", "joblib", "papermill", "onnx", "nbformat", "torch"}
HEAVY |= {"xgboost", "lightgbm", "catboost", "mlflow", "skl2onnx", "duckdb", "fsspec", "optuna", "tomlkit"}
HEAVY |= {"boto3", "botocore", "cryptography", "joblibspark", "jwt", "opentelemetry", "pyarrow", "pyspark"}
MAY_IMPORT = {
    "model.plots": {"matplotlib", "pandas"},
    "model.live": {"matplotlib"},
    "model.table": {"duckdb", "fsspec", "pandas", "pyarrow", "tomlkit"},
    "model.score": {"fsspec", "pyarrow"},
    "app.web.tokens": {"jwt"},
    "app.protocols.arrow_stream": {"pyarrow"},
    "app.protocols.long_csv": {"pyarrow"},
    "app.telemetry.tracing": {"opentelemetry"},
    "model.schema.arrow": {"pyarrow"},
    "model.train": HEAVY,
    "model.on_arrow": {"pyarrow"},
    "model.on_mlflow": {"mlflow"},
    "model.on_queue.sqs": {"boto3", "botocore"},
    "model.on_spark": {"pyarrow", "pyspark"},
    "model.engine.network": {"torch"},
    "model.engine.gpu": {"torch"},
    "model.store.device": {"torch"},
    "model.store.objects": {"fsspec"},
    "model.store.signature": {"cryptography"},
}
# What of gunicorn the worker and its hooks use, all of which gunicorn has had since 20.1 (`ssl_context` since 21.0).
GUNICORN_NAMES = {
    "gunicorn": {"SERVER", "util"},
    "gunicorn.config": {"Config"},
    "gunicorn.glogging": {"Logger"},
    "gunicorn.http": {"RequestParser"},
    "gunicorn.http.body": {"ChunkedReader"},
    "gunicorn.http.errors": {"NoMoreData"},
    "gunicorn.http.message": {"DEFAULT_MAX_HEADERFIELD_SIZE", "MAX_HEADERS"},
    "gunicorn.http.unreader": {"Unreader"},
    "gunicorn.http.wsgi": {"Response", "base_environ", "create"},
    "gunicorn.sock": {"TCP6Socket", "ssl_context"},
    "gunicorn.workers.base": {"Worker"},
}
# The one that reads one, of the servers, so that a command does not promote what they refuse.
READER = "model.cli.sign"
WEB = {"flask", "werkzeug", "gunicorn", "prometheus_client", "requests"}
# Modules that set an environment variable for a library.
SETTERS = {
    "model.engine.runtime": "ORT_DISABLE_TELEMETRY",
    "model.on_mlflow": "MLFLOW_DISABLE_TELEMETRY",
    "model.store.objects": "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT",
    "model.train": "OMP_WAIT_POLICY",
    "model.train.learners.mlp": "CUBLAS_WORKSPACE_CONFIG",
}


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for package in ("model", "app") for path in sorted((ROOT / package).rglob("*.py"))}


def imports(path: Path) -> set[tuple[str, str]]:
    """Return every import of a file, inside functions too, as (module, name); the name is empty in `import x`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            found |= {(node.module or "", alias.name) for alias in node.names}
    return found


def own(path: Path) -> set[str]:
    """Return the modules of this project that a file imports."""
    modules = {f"{module}.{name}" if f"{module}.{name}" in MODULES else module for module, name in imports(path)}
    return modules & MODULES.keys()


def packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {module.split(".")[0] for module, _ in imports(path)}


def room_of(name: str) -> str:
    """Return the room of a module."""
    return ".".join(name.split(".")[:2])


def test_every_module_has_a_room() -> None:
    """Every module belongs to a room of the table, and every room has a module."""
    assert {room_of(name) for name in MODULES} - {"model", "app"} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_imports_go_down(room: str) -> None:
    """A room imports only from the rooms that its line in the table names."""
    for name, path in MODULES.items():
        if room_of(name) == room:
            found = {room_of(module) for module in own(path) - (LATE if name.startswith("app.") else set())}
            assert found - {room} <= ROOMS[room], name


@pytest.mark.parametrize("package", ["model", "app"])
def test_no_circles(package: str) -> None:
    """No module imports one that imports it, directly or through others."""
    left = {name: own(path) - {name} for name, path in MODULES.items() if name.startswith(f"{package}.")}
    while free := [name for name, needed in left.items() if not needed & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


@pytest.mark.parametrize("name", MODULES)
def test_training_packages_stay_in_training(name: str) -> None:
    """Heavy packages are imported only where training, drawing or a GPU needs them."""
    allowed: set[str] = set().union(*(found for room, found in MAY_IMPORT.items() if f"{name}.".startswith(f"{room}.")))

    assert packages(MODULES[name]) & HEAVY <= allowed


def test_compiling_knows_no_learner() -> None:
    """No compiler knows a learner, and steps are folded into trees without the library of either."""
    compilers = [path for name, path in MODULES.items() if name.startswith("model.train.compile")]

    assert packages(MODULES["model.train.compile.fold"]) & HEAVY == set()
    assert packages(MODULES["model.train.compile.fitted"]) & HEAVY == set()
    assert not any(module.startswith("model.train.learners") for module in set().union(*map(own, compilers)))


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("model")])
def test_model_knows_nothing_of_the_service(name: str) -> None:
    """The model imports nothing of the web; one module reads an environment variable, five set one for a library."""
    source = MODULES[name].read_text()
    uses = [line.strip() for line in source.splitlines() if "os.environ" in line]

    assert packages(MODULES[name]) & {"app", *WEB} == set()
    assert "getenv" not in source
    if name in SETTERS:
        assert [SETTERS[name] in line for line in uses] == [True]
    elif name == READER:
        assert ["get(_TRUSTED_KEYS" in line for line in uses] == [True]
    else:
        assert uses == []


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("app")])
def test_service_uses_the_public_model(name: str) -> None:
    """The service imports of the model only what its `__all__` names, and `LATE`."""
    found = imports(MODULES[name])

    assert {module for module, _ in found if module.startswith("model.")} <= LATE
    assert ("model", "") not in found
    assert {imported for module, imported in found if module == "model"} <= set(model.__all__)


def test_gunicorn_names() -> None:
    """Only these names of gunicorn are used: any other may be gone in its next release."""
    found: dict[str, set[str]] = {}
    for path in [*MODULES.values(), ROOT / "gunicorn.conf.py"]:
        for module, name in imports(path):
            if module.split(".")[0] == "gunicorn":
                found.setdefault(module, set()).add(name)

    assert found == GUNICORN_NAMES


def test_public_names_exist() -> None:
    """Every name of `model.__all__` is one that the package has."""
    assert [name for name in model.__all__ if not hasattr(model, name)] == []
