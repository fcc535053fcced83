"""What importing the service loads, starts and leaves behind."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT

HEAVY = {"sklearn", "pandas", "matplotlib", "joblib", "papermill", "onnx"}


def run(code: str, **environ: str) -> str:
    """Run code in its own process in the repository's root, and return its output."""
    command = [sys.executable, "-c", code]
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TABSERVE_", "PROMETHEUS_"))}
    return subprocess.run(
        command, cwd=ROOT, env={**kept, **environ}, capture_output=True, check=True, text=True, timeout=300
    ).stdout.strip()


def test_service_loads_no_training_package() -> None:
    """Importing the service loads neither scikit-learn, pandas, torch nor another training package."""
    loaded = run("import sys, app; print(*sorted({name.partition('.')[0] for name in sys.modules}))").split()

    assert "onnxruntime" in loaded
    assert set(loaded) & {*HEAVY, "torch", "scipy", "nbformat", "IPython", "seaborn"} == set()


def test_command_line_loads_no_training_package(store: Path) -> None:
    """Commands that neither train nor draw load no training package, since the serving image has none."""
    commands = [["list"], ["show", "boston-housing"], ["verify", "boston-housing"]]
    code = (
        "import sys\n"
        "from model.cli.main import main\n"
        f"assert not any(main(['--store', {str(store)!r}, *command]) for command in {commands})\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = run(code).splitlines()[-1].split()

    assert "onnxruntime" in loaded
    assert set(loaded) & {*HEAVY, "torch", "scipy", "nbformat"} == set()


def test_service_loads_no_database_package() -> None:
    """Importing the service loads no database package, nor does creating one without a prediction log."""
    code = (
        "import os, sys, app\n"
        "from app.config import Config\n"
        "app.create_app(Config.from_environ(os.environ), write_log=lambda pieces: None)\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    loaded = run(code, TABSERVE_PREDICTION_LOG="").split()

    assert "app" in loaded
    assert set(loaded) & {"sqlalchemy", "psycopg", "psycopg_binary", "sqlite3"} == set()


def test_import_starts_no_thread() -> None:
    """Importing the service starts no thread, since the process that imports it forks."""
    code = "import os, app; print(len(os.listdir('/proc/self/task')))"

    assert run(code, OPENBLAS_NUM_THREADS="1") == "1"


def test_loading_a_model_starts_no_thread_and_leaves_no_file(store: Path, tmp_path: Path) -> None:
    """Loading a model and predicting starts no thread and leaves no file at home: there is no telemetry."""
    code = (
        "import os, app\n"
        "from app.config import Config\n"
        "service = app.create_app(Config.from_environ(os.environ), write_log=lambda pieces: None)\n"
        "print(service.test_client().get('/').status_code, service.serving.unready)\n"
        "print(len(os.listdir('/proc/self/task')), os.environ['ORT_DISABLE_TELEMETRY'])\n"
    )
    home = {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "TMPDIR": str(tmp_path)}
    printed = run(code, **home, TABSERVE_STORE=str(store), OPENBLAS_NUM_THREADS="1")

    assert printed.splitlines() == ["200 None", "1 1"]
    assert list(tmp_path.rglob("*")) == []
