"""Runs the tests of tests/outside/spark, which share a cluster, in one process of their own."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.apart import pass_apart
from tests.support.service import ROOT

FOLDER = ROOT / "tests" / "outside" / "spark"


@pytest.mark.skipif(find_spec("pyspark") is None, reason="needs pyspark, which requirements-dev.txt has")
@pytest.mark.skipif(shutil.which("java") is None, reason="needs Java 17, such as Debian's openjdk-17-jre-headless")
def test_spark(tmp_path: Path, store: Path, gems_store: Path, classifiers_store: Path) -> None:
    """Every test on a cluster of Spark passes, and none is skipped."""
    own = {
        "HOUSES_STORE": str(store),
        "GEMS_STORE": str(gems_store),
        "CLASSIFIERS_STORE": str(classifiers_store),
        "PYTHONPATH": str(ROOT),
    }
    pass_apart(sys.executable, FOLDER, FOLDER, tmp_path, own)
