"""A cluster of Spark on this machine: its processes, and how jobs are submitted to it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pyspark

from tests.support.service import ROOT

HOME = Path(pyspark.__file__).parent
# Without PYTHONPATH: workers know nothing of this project.
ENVIRON = {
    **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    "SPARK_HOME": str(HOME),
    "SPARK_LOCAL_IP": "127.0.0.1",
    "SPARK_DAEMON_MEMORY": "256m",
    "PYSPARK_PYTHON": sys.executable,
}
# Of each application: a core of each worker.
CONF = {"spark.cores.max": "2", "spark.executor.memory": "512m", "spark.ui.enabled": "false"}
SECONDS = 120


@dataclass
class Cluster:
    """A master with its URL, and the worker processes by number."""

    folder: Path
    url: str = ""
    workers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def submit(self, *words: str | Path) -> list[str]:
        """Return the command that runs a job on this cluster."""
        options = [word for name, value in CONF.items() for word in ("--conf", f"{name}={value}")]
        return [
            str(HOME / "bin" / "spark-submit"),
            "--master",
            self.url,
            *options,
            str(ROOT / "model" / "on_spark.py"),
            *map(str, words),
        ]

    def kill_worker(self, number: int) -> None:
        """Kill a worker and its executors, all at once, as when a machine is lost."""
        worker = psutil.Process(self.workers[number].pid)
        processes = [worker, *worker.children(recursive=True)]
        for each in processes:
            each.kill()
        self.workers[number].wait()


def wait_for(pattern: str, log: Path) -> str:
    """Wait until a line of a log has a pattern, and return the group that it has."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if found := re.search(pattern, log.read_text()):
            return found[1]
        time.sleep(0.05)
    raise TimeoutError(log.read_text())
