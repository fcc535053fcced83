"""Contenders as processes: each is installed in its own virtual environment, started, called and stopped."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.contenders import ROOT, Contender
from benchmarks.load import post
from benchmarks.tables import pipeline_of
from model import Matrix

VENVS = Path(__file__).with_name(".venvs")
ANSWER_SECONDS = 120  # to the first answer of a server that loads a model
START_SECONDS, STOP_SECONDS = 90, 15  # Ray Serve takes ten seconds to start; MLServer may not stop by itself
# Variables of the user's shell that a contender must not see. Without PYTHONDONTWRITEBYTECODE it starts as usual.
_FOREIGN = ("TABSERVE_", "GUNICORN_", "PROMETHEUS_", "PYTHON", "PORT", "WEB_CONCURRENCY", "AIP_", "VIRTUAL_ENV")
_NO_TELEMETRY = {
    "DO_NOT_TRACK": "1",
    "BENTOML_DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class ContenderError(Exception):
    """A contender cannot be measured."""


def make_venv(contender: Contender, *, install: bool = True) -> Path:
    """Return a contender's virtual environment; ours share one. Raises what `make_environment` raises."""
    name = "tabserve" if contender.requirements.parent == ROOT else contender.name
    return make_environment(name, contender.title, contender.requirements, install=install)


def make_environment(name: str, title: str, requirements: Path, *, install: bool = True) -> Path:
    """Return the virtual environment of this name, rebuilt if its requirements changed.

    Packages that ask for others that they do not need are in `without-dependencies.txt` beside the requirements. Raises
    `ContenderError` with pip's message, or if the environment is missing and `install` is False.
    """
    venv = VENVS / name
    stamp = venv / ".made-of"
    bare = requirements.with_name("without-dependencies.txt")
    files = [*with_named(requirements), *([bare] if bare.exists() else [])]
    content = b"".join([sys.version.encode(), *[file.read_bytes() for file in files]])
    fingerprint = hashlib.sha256(content).hexdigest()
    if stamp.exists() and stamp.read_text() == fingerprint:
        return venv
    if not install:
        raise ContenderError("not installed")
    print(f"installing {title}", file=sys.stderr, flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "--disable-pip-version-check"]
    for command in (
        [sys.executable, "-m", "venv", "--without-pip", str(venv)],
        [*pip, "install", "--quiet", "-r", str(requirements)],
        *([[*pip, "install", "--quiet", "--no-deps", "-r", str(bare)]] if bare.exists() else []),
    ):
        completed = subprocess.run(command, capture_output=True, text=True)
        if completed.returncode:
            raise ContenderError(f"could not be installed: {last_line(completed.stderr)}")
    stamp.write_text(fingerprint)
    return venv


def with_named(requirements: Path) -> list[Path]:
    """Return a requirements file, and the files that it names."""
    named = re.findall(r"^-[cr] (\S+)", requirements.read_text(), re.MULTILINE)
    return [requirements, *(file for name in named for file in with_named(requirements.parent / name))]


def installed_mib(venv: Path) -> float:
    """Return the size of all installed packages in MiB."""
    return sum(file.stat().st_size for file in venv.glob("lib/*/site-packages/**/*") if file.is_file()) / 2**20


@dataclass(frozen=True, slots=True)
class Server:
    """A running contender."""

    contender: Contender
    process: psutil.Process
    port: int

    def path(self, rows: Matrix) -> str:
        """Return the path of a request for rows."""
        return self.contender.path.format(rows=len(rows))

    def body(self, rows: Matrix) -> bytes:
        """Return the body of a request for rows."""
        return json.dumps(self.contender.write(rows.tolist()), separators=(",", ":")).encode()

    def predict(self, rows: Matrix) -> NDArray[np.float64]:
        """Return the predictions; raises `ContenderError` without valid ones."""
        try:
            reply = json.loads(post(self.port, self.path(rows), self.body(rows)))
            return np.array(self.contender.read(reply), dtype=np.float64).reshape(len(rows))
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            raise ContenderError(f"no answer to {len(rows)} rows: {error}") from None

    def pss_mib(self) -> float:
        """Return the proportional set size of all its processes: a page shared by n of them counts 1/n for each."""
        pss = 0
        for process in processes_of(self.process):
            with suppress(psutil.NoSuchProcess):  # some contenders have short-lived children
                pss += process.memory_full_info().pss
        if not pss:
            raise ContenderError("it ended under load")
        return pss / 2**20


@contextmanager
def serving(contender: Contender, *, store: Path, artifact: Path, row: Matrix) -> Iterator[tuple[Server, float]]:
    """Run a contender until the block ends; yield it and the seconds from its start to its first prediction.

    Raises `ContenderError` with the last line of its output if it does not predict `row`.
    """
    with tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as folder:
        port = free_port()
        pipeline = str(Path(folder) / "pipeline.joblib")
        joblib.dump(pipeline_of(artifact), pipeline)
        placeholders = {"port": port, "here": contender.here, "root": ROOT, "scratch": folder, "pipeline": pipeline}
        binaries = make_venv(contender, install=False) / "bin"
        environ = {
            **environ_of(binaries, home=folder, port=port),
            "PIPELINE": pipeline,
            "TABSERVE_STORE": str(store),
            **{name: value.format(**placeholders) for name, value in contender.environ.items()},
        }
        command = [part.format(**placeholders) for part in contender.command]
        command[0] = str(binaries / command[0])
        runs_in = contender.runs_in.format(**placeholders)
        with (Path(folder) / "log").open("wb+") as log:

            def fail(reason: str) -> ContenderError:
                log.seek(0)
                return ContenderError(f"{reason}: {last_line(log.read().decode(errors='replace'))}")

            if (contender.here / "prepare.py").exists():
                prepare = [binaries / "python", contender.here / "prepare.py"]
                if subprocess.run(prepare, cwd=folder, env=environ, stdout=log, stderr=log).returncode:
                    raise fail("could not be prepared")
            started_at = time.perf_counter()
            server = Server(contender, psutil.Popen(command, cwd=runs_in, env=environ, stdout=log, stderr=log), port)
            try:
                while True:
                    try:
                        server.predict(row)
                        break
                    except ContenderError as error:
                        if not server.process.is_running() or server.process.status() == psutil.STATUS_ZOMBIE:
                            raise fail("did not start") from None
                        if time.perf_counter() - started_at > START_SECONDS:
                            raise fail(f"did not answer within {START_SECONDS} s ({error})") from None
                        time.sleep(0.005)
                yield server, time.perf_counter() - started_at
            finally:
                stop(server.process)


def environ_of(binaries: Path, *, home: str, port: int) -> dict[str, str]:
    """Return the environment variables of a contender whose programs are in a folder."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith(_FOREIGN)},
        **_NO_TELEMETRY,
        "HOME": home,
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PORT": str(port),
    }


def wait_for(call: Callable[[], Any], process: psutil.Popen) -> Any:
    """Return what a call gives as soon as a server answers it. Raises `ContenderError` if the server ends before."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        try:
            return call()
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
            if process.poll() is not None:
                raise ContenderError("ended before its first answer") from None
            if time.monotonic() > deadline:
                raise ContenderError(f"no answer within {ANSWER_SECONDS} s ({error})") from None
        time.sleep(0.005)


def processes_of(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all below it; none if it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def stop(process: psutil.Process, *, of_session: bool = False) -> None:
    """Interrupt a server as Ctrl-C does, and kill the processes that are left after a timeout.

    `of_session`: it was started in a session of its own, all of which is interrupted, as by a terminal.
    """
    processes = processes_of(process)
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        if of_session:
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(signal.SIGINT)
    _, left = psutil.wait_procs(processes, timeout=STOP_SECONDS)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=STOP_SECONDS)


def free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def last_line(text: str) -> str:
    """Return the last line of a program's output, short enough for a table."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200].replace("|", "/") if lines else "no output"
