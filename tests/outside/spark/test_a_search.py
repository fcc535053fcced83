"""A search whose folds are fitted on a cluster of Spark; before the tests that kill a worker, by its name."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from model import Store
from tests.support import houses
from tests.support.service import ROOT
from tests.support.spark import CONF, ENVIRON, Cluster


def train(folder: Path, *words: str, **environ: str) -> dict[str, Any]:
    """Train on the houses of a folder in two trials; return the manifest, but for what was observed and the commit."""
    store = folder / ("store" + "".join(words))
    options = [
        "--data",
        str(folder / "houses.csv"),
        "--target",
        "price",
        "--learner",
        "lightgbm",
        "--trials",
        "2",
        *words,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "model", "--store", str(store), "train", "prices", *options, *words],
        env={**ENVIRON, **environ},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = Store(store).document("prices", 1)
    return {name: manifest[name] for name in manifest.keys() - {"code", "created_at", "digest", "observed"}}


def test_a_search_on_a_cluster_finds_the_same_model(cluster: Cluster, tmp_path: Path) -> None:
    """The same seed gives the same version to the last bit, and both workers of the cluster had a part in it."""
    houses.write(str(tmp_path / "houses.csv"))
    here = train(tmp_path)
    conf = [f"--conf {name}={value}" for name, value in {**CONF, "spark.executorEnv.PYTHONPATH": ROOT}.items()]
    submitted = " ".join(["--master", cluster.url, *conf, "pyspark-shell"])
    there = train(tmp_path, "--backend", "spark", PYSPARK_SUBMIT_ARGS=submitted)
    (app,) = re.findall(r"Registered app JoblibSparkBackend with ID (\S+)", (cluster.folder / "master.log").read_text())
    logs = [path.read_text() for path in cluster.folder.glob(f"work*/{app}/*/stderr")]

    assert there == here
    assert len(logs) == 2
    assert all("Finished task" in log for log in logs)
