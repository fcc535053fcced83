"""One trained model for all tests, the service around it, a real gunicorn, and the rule of the quick folders."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Processes that run tests side by side use all cores; numerical libraries would do so in each of them, too.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import joblib
import pandas as pd
import pytest
from flask.testing import FlaskClient
from hypothesis import settings

from app import create_app
from app.config import Config
from model.cli.main import main
from model.store.runs import git_commit
from tests.support import classifiers, gems, sales
from tests.support.postgres import Postgres, run_postgres
from tests.support.server import Server, serve
from tests.support.service import ROOT, TABLE, everywhere_client, parsing

# How long an example takes depends on what else runs.
settings.register_profile("default", deadline=None)
settings.load_profile("default")
# `--hypothesis-profile deep` looks further than there is time for in every run.
settings.register_profile("deep", max_examples=2_000, deadline=None)

# What makes a test slow, or fail on a busy machine, by the audit events of CPython.
COSTLY = {
    "os.fork": "starts a process",
    "os.posix_spawn": "starts a process",
    "subprocess.Popen": "starts a process",
    "socket.bind": "opens a socket",
    "socket.connect": "opens a socket",
    "time.sleep": "sleeps",
}
QUICK = [ROOT / "tests" / folder for folder in ("unit", "service")]

if sys.version_info < (3, 13):  # later versions raise this event themselves

    def _audited_sleep(seconds: float, *, sleep: Callable[[float], None] = time.sleep) -> None:
        sys.audit("time.sleep", seconds)
        sleep(seconds)

    time.sleep = _audited_sleep  # type: ignore[assignment]

events: set[str] = set()
sys.addaudithook(lambda event, arguments: events.add(event) if event in COSTLY else None)


def pytest_sessionstart() -> None:
    """Ask git for the commit, which takes a process, once and before any test."""
    git_commit()


def is_quick(item: pytest.Item) -> bool:
    """Return whether a test is in a quick folder."""
    return any(map(item.path.is_relative_to, QUICK))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Limit the time of quick tests, but not of the fixtures that they share."""
    for item in items:
        if is_quick(item) and settings.get_current_profile_name() != "deep":
            item.add_marker(pytest.mark.timeout(60, func_only=True))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Hold the fixtures of a quick test to the rule of its folder, too."""
    events.clear()
    yield
    check_quick(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hold a quick test to the rule of its folder."""
    events.clear()
    yield
    check_quick(item)


def check_quick(item: pytest.Item) -> None:
    """Fail a test in a quick folder that starts a process, opens a socket or sleeps: it belongs in another folder."""
    found = {COSTLY[event] for event in events}
    if found and is_quick(item):
        pytest.fail(f"{item.path.parent.name} is for quick tests, and this one {' and '.join(sorted(found))}")


def shared(factory: pytest.TempPathFactory, name: str, last_file: str, make: Callable[[Path], Any]) -> Path:
    """Return a folder that `make` fills, `last_file` last.

    Processes that run tests side by side share it: the first that needs it makes it, the others wait.
    """
    base = factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    with root.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / last_file).exists():
            make(root)
            events.clear()  # making it costs every run once, whichever test comes first
    return root


def train(root: Path) -> None:
    """Train boston-housing by the command line."""
    assert main(["--store", str(root), "train", "boston-housing"]) == 0


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of boston-housing. Tests must not change it."""
    return shared(tmp_path_factory, "store", "boston-housing/moves/1.json", train)


def train_worse(root: Path) -> None:
    """Train boston-housing with a single tree."""
    assert main(["--store", str(root), "train", "boston-housing", "--n-estimators", "1"]) == 0


@pytest.fixture(scope="session")
def worse_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a worse version 1 of boston-housing. Tests must not change it."""
    return shared(tmp_path_factory, "worse", "boston-housing/moves/1.json", train_worse)


@pytest.fixture(scope="session")
def gems_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of gems, whose features are of every type. Tests must not change it."""
    return shared(tmp_path_factory, "gems", f"{gems.NAME}/moves/1.json", gems.make_store)


@pytest.fixture(scope="session")
def classifiers_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of each of `classifiers.LABELS`. Tests must not change it."""
    last = f"{list(classifiers.LABELS)[-1]}/moves/1.json"
    return shared(tmp_path_factory, "classifiers", last, classifiers.make_store)


@pytest.fixture(scope="session")
def gems_pipeline() -> Any:
    """The fitted pipeline that `gems_store` serves."""
    return gems.fit()


@pytest.fixture(scope="session")
def gems_everywhere(gems_store: Path) -> FlaskClient:
    """A client of a service of gems at the paths of all protocols. Tests share it: they must not change it."""
    return everywhere_client(gems_store, lambda lines: None)


@pytest.fixture(scope="session")
def sales_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with version 1 of sales, two of whose features are dates. Tests must not change it."""
    return shared(tmp_path_factory, "sales", f"{sales.NAME}/moves/1.json", sales.make_store)


@pytest.fixture(scope="session")
def sales_pipeline() -> Any:
    """The fitted pipeline that `sales_store` serves."""
    return sales.fit()


@pytest.fixture(scope="session")
def sales_everywhere(sales_store: Path) -> FlaskClient:
    """A client of a service of sales at the paths of all protocols. Tests share it: they must not change it."""
    return everywhere_client(sales_store, lambda lines: None)


@pytest.fixture(scope="session")
def pipeline(store: Path) -> Any:
    """The fitted scikit-learn pipeline of the artifact, which serving must equal; it takes arrays."""
    fitted = joblib.load(store / "boston-housing" / "1" / "pipeline.joblib")
    del fitted["scaler"].feature_names_in_  # with the names it would warn of each array
    return fitted


@pytest.fixture(scope="session")
def houses() -> pd.DataFrame:
    """The features of all 506 rows, columns in the schema's order."""
    return pd.read_csv(TABLE).drop(columns="MEDV").astype(float)


@pytest.fixture
def log_lines() -> list[dict[str, Any]]:
    """The lines that `client` logs."""
    return []


@pytest.fixture
def client(store: Path, log_lines: list[dict[str, Any]]) -> FlaskClient:
    """A client of the service, in this process."""
    return create_app(Config(store=store), write_log=parsing(log_lines.extend)).test_client()


@pytest.fixture(scope="session")
def everywhere(store: Path) -> FlaskClient:
    """A client of a service at the paths of all `PROTOCOLS`. Tests share it: they must not change it."""
    return everywhere_client(store, lambda lines: None)


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that tests may freeze and stop, and start again."""
    with run_postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database for predictions."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'log.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    server.execute("DROP TABLE IF EXISTS predictions, prediction_classes, shadow_predictions")
    return server.url()


@pytest.fixture(scope="module")
def server(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A gunicorn with two workers that tests share: they must not stop it."""
    with serve(store, tmp_path_factory.mktemp("server"), WEB_CONCURRENCY="2") as running:
        yield running
