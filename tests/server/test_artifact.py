"""Loading an artifact in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.support.service import ROOT, rewrite


def test_loading_opens_no_pickle(store: Path, tmp_path: Path) -> None:
    """`verify` accepts an artifact whose pickle is garbage of the right hash, and loads no training package."""
    root = shutil.copytree(store, tmp_path / "store")
    rewrite(root / "boston-housing" / "1", lambda manifest: None, {"pipeline.joblib": b"garbage"})
    shutil.rmtree(root / "boston-housing" / "moves")  # by which the version is another one
    script = """if True:
        import sys
        sys.addaudithook(lambda event, _: sys.exit(event) if event == "pickle.find_class" else None)
        from model.cli.main import main
        status = main(["--store", sys.argv[1], "verify", "boston-housing@1"])
        training = {"joblib", "matplotlib", "onnx", "pandas", "papermill", "scipy", "sklearn", "torch"}
        print(status, sorted(training & set(sys.modules)))"""
    command = [sys.executable, "-c", script, str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "0 []"
