"""Owns the floors: which module may import which, and what importing the service loads, starts and leaves behind."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import model
from tests.support.service import ROOT

HEAVY = {"sklearn", "pandas", "matplotlib", "joblib", "papermill", "onnx"}

# From the lowest floor up; a module imports only from floors that stand before its own.
MODEL_FLOORS = [
    {"errors", "files", "graph"},
    {"manifest", "download"},
    {"schema", "postgresql", "sqlite_file", "network"},
    {"bit_vectors", "drift", "prediction_log"},
    {"engine"},
    {"parity", "artifact"},
    {"store", "torch_engine"},
    {"transfer"},
]
TRAINING = {
    "gbm",
    "mlp",
    "trained",
    "training",
    "evaluate",
    "datasets",
    "plots",
    "export",
    "card",
    "live",
    "report",
    "notebook",
    "__main__",
}
HEAVY_READERS = TRAINING - {"card"}
TORCH_READERS = {"network", "torch_engine"}  # which a server on a CPU does not import
SETTERS = {"engine": "ORT_DISABLE_TELEMETRY", "mlp": "CUBLAS_WORKSPACE_CONFIG"}

APP_FLOORS = [
    {"config", "gauges", "reply", "shared_values", "store_watch", "uploads", "version", "visit"},
    {"worker"},
    {"errors", "metrics", "logs"},
    {"batching"},
    {"body", "tables", "serving", "log_writer"},
    {"recorder", "inference", "payload", "tensors"},
    {"hot"},
    {"door"},
    {"predict", "open_inference", "tensorflow_serving", "vertex_ai", "mlflow_scoring", "health", "feedback"},
    {"openapi"},
    {"pages"},
    {"factory"},
]

MODULES = sorted([*(ROOT / "model").glob("*.py"), *(ROOT / "app").glob("*.py")])


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


def siblings(path: Path) -> set[str]:
    """Return the modules of its own package that a file imports."""
    package = path.parent.name
    names = {found.stem for found in path.parent.glob("*.py")}
    direct = {module.split(".")[1] for module, _ in imports(path) if module.startswith(f"{package}.")}
    return direct | {name for module, name in imports(path) if module == package and name in names}


def packages(path: Path) -> set[str]:
    """Return the top-level packages that a file imports."""
    return {module.split(".")[0] for module, _ in imports(path)}


def test_every_module_has_a_floor() -> None:
    """Every module of both packages is in the tables of this file, and they name no other."""
    floors = {"model": set().union(*MODEL_FLOORS, TRAINING), "app": set().union(*APP_FLOORS)}

    for package, names in floors.items():
        assert {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"} == names


@pytest.mark.parametrize(("package", "floors"), [("model", MODEL_FLOORS), ("app", APP_FLOORS)], ids=["model", "app"])
def test_imports_go_down(package: str, floors: list[set[str]]) -> None:
    """A module imports only from floors below its own, never from its own floor or above."""
    for number, floor in enumerate(floors):
        below = set().union(*floors[:number])
        for name in floor:
            assert siblings(ROOT / package / f"{name}.py") - below == set(), name


def test_lowest_floor() -> None:
    """The service's lowest floor imports nothing of the service itself."""
    for name in APP_FLOORS[0]:
        assert siblings(ROOT / "app" / f"{name}.py") == set()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_training_packages_stay_in_training(path: Path) -> None:
    """Only the modules that train import scikit-learn, pandas, matplotlib, joblib, papermill or onnx."""
    if path.parent.name == "model" and path.stem in HEAVY_READERS:
        assert packages(path) & {"app", "flask", "gunicorn"} == set()
    else:
        torch = set() if path.parent.name == "model" and path.stem in TORCH_READERS else {"torch"}
        assert packages(path) & {*HEAVY, *torch, "nbformat"} == set()


@pytest.mark.parametrize("path", sorted((ROOT / "model").glob("*.py")), ids=lambda path: path.stem)
def test_model_knows_nothing_about_the_service(path: Path) -> None:
    """The model imports nothing of the web and reads no environment variable; two modules set one for a library."""
    source = path.read_text()
    uses = [line.strip() for line in source.splitlines() if "environ" in line and "os.environ" in line]

    assert packages(path) & {"app", "flask", "werkzeug", "gunicorn", "prometheus_client", "requests"} == set()
    assert "getenv" not in source
    if path.stem in SETTERS:
        assert [SETTERS[path.stem] in line for line in uses] == [True]
    else:
        assert uses == []


@pytest.mark.parametrize("path", sorted((ROOT / "app").glob("*.py")), ids=lambda path: path.stem)
def test_service_uses_the_public_model(path: Path) -> None:
    """The service imports of the model only what its `__all__` names, the prediction log and the engine for GPUs."""
    names = {name for module, name in imports(path) if module == "model"}

    assert {module for module, _ in imports(path) if module.startswith("model.")} <= {
        "model.network",
        "model.prediction_log",
        "model.torch_engine",
    }
    assert ("model", "") not in imports(path)
    assert names <= set(model.__all__)


def test_public_names_exist() -> None:
    """Every name of `model.__all__` is one that the package has."""
    assert [name for name in model.__all__ if not hasattr(model, name)] == []
