"""A cluster of Spark for all tests of this folder: a master and two workers, each a process, and a session on it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from pyspark.sql import SparkSession

from tests.support.spark import CONF, ENVIRON, HOME, Cluster, wait_for


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A cluster of two workers, each with room for two applications."""
    folder = tmp_path_factory.mktemp("cluster")
    with ExitStack() as stack:

        def start(name: str, kind: str, *words: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            command = [str(HOME / "bin" / "spark-class"), f"org.apache.spark.deploy.{kind}", *words]
            process = subprocess.Popen(command, env=ENVIRON, cwd=folder, stdout=log, stderr=log)
            stack.callback(process.wait)
            stack.callback(process.terminate)
            return process

        found = Cluster(folder)
        start("master", "master.Master", "--host", "127.0.0.1", "--port", "0", "--webui-port", "0")
        found.url = wait_for(r"Starting Spark master at (spark://\S+)", folder / "master.log")
        for number in range(2):
            own = ["--cores", "4", "--memory", "4g", "--work-dir", str(folder / f"work{number}"), "--webui-port", "0"]
            name = f"worker{number}"
            found.workers.append(start(name, "worker.Worker", "--host", "127.0.0.1", *own, found.url))
        for number in range(2):
            wait_for(r"Successfully (registered) with master", folder / f"worker{number}.log")
        yield found


@pytest.fixture(scope="session")
def spark(cluster: Cluster) -> Iterator[SparkSession]:
    """A session of this process on the cluster, which workers that know nothing of this project answer."""
    os.environ.update(ENVIRON)
    session = SparkSession.builder.master(cluster.url).config(map=CONF).getOrCreate()
    yield session
    session.stop()
