"""The loaded models: which versions are served, and which model is the default."""

from __future__ import annotations

import json
import logging
import math
import os
import resource
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from app.errors import NotReadyError
from app.serving.batching import Batcher
from app.serving.store_watch import Fingerprint, fingerprint
from model import Artifact, DeviceError, GoldenRowsError, Matrix, ModelError, NotInStoreError, Predictor, Store

if TYPE_CHECKING:
    from model.engine.gpu import Usage

_log = logging.getLogger("tabserve")

_DEVICE_REMEDY = "give the container a GPU and install requirements-cuda.txt, or set it to cpu"


@dataclass(slots=True)
class Serving:
    """The loaded models by name, and the problems that kept configured models from loading.

    `requested` are the names of all configured models, the default first. `golden` tells for each version whether its
    golden rows were predicted as in training. `draining` is set when the server stops: it goes on answering, but is no
    longer ready. `seen` is the store's fingerprint from before the load. After `open`, `device` runs the models
    with a network, and `usage` returns how full and busy it is.
    """

    models: dict[str, Artifact] = field(default_factory=dict)
    requested: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    golden: dict[tuple[str, int], bool] = field(default_factory=dict)
    draining: bool = False
    seen: Fingerprint = frozenset()
    device: str = "cpu"
    max_batch_rows: int = 1
    is_open: bool = True
    usage: Callable[[], Usage | None] = field(default=lambda: None)

    @property
    def default_name(self) -> str | None:
        """Return the name of the default model, which `/predict` uses."""
        return self.requested[0] if self.requested else None

    @property
    def unready(self) -> str | None:
        """Return why the server is not ready for requests, or None if it is."""
        if self.draining:
            return "the server is stopping"
        return "; ".join(self.problems) or (None if self.is_open else f"the models are still loading on {self.device}")

    def get(self, name: str | None, version: str | None = None) -> Artifact:
        """Return the loaded model `name`, or the default model for None; a `version` must be the loaded one.

        Raises `NotReadyError` if the model failed to load, `NotInStoreError` if the model or version is not configured.
        """
        name = name or self.default_name
        if name in self.models:
            model = self.models[name]
            if version not in (None, str(model.version)):
                raise NotInStoreError(f"version {version!r} of {name} is not loaded; version {model.version} is")
            return model
        if name is None or name in self.requested:
            raise NotReadyError("no verified model is loaded; see /readyz for the reason")
        raise NotInStoreError(f"model {name!r} not found; loaded models: {', '.join(self.models) or 'none'}")

    def open(self) -> None:
        """Load and verify the models that run on the device: after the fork, before the first request.

        A model that fails is left out, and the process is live and not ready: the CPU never replaces a configured GPU.
        """
        if self.is_open:
            return
        self.is_open = True
        networks = [model for model in self.models.values() if _has_network(model)]
        try:
            # Imported here, since PyTorch takes seconds and GiB, and CUDA does not survive a fork.
            import model.engine.gpu as gpu
            import model.engine.network as network
            import model.store.device as on_device

            device = network.find_device(self.device)
        except Exception as error:  # anything, if PyTorch's libraries or the driver are broken
            self._unload(networks, f"TABSERVE_DEVICE is {self.device!r}: {error}; {_DEVICE_REMEDY}")
            return
        self.usage = partial(gpu.usage, device)
        for model in networks:
            try:
                self.models[model.name] = self._batched(on_device.load(model, device))
            except Exception as error:  # anything that PyTorch and the driver raise
                if isinstance(error, GoldenRowsError):
                    self.golden[model.name, model.version] = False
                self._unload([model], str(error) if isinstance(error, ModelError) else f"{model.name}: {error!r}")
            else:
                fields = {"model": model.name, "version": model.version, "device": str(device)}
                _log.info("model loaded on its device", extra={"fields": fields})

    def lose_device(self, error: DeviceError) -> None:
        """Remove the models that run on the device. Only a new process can use it again: this one stays not ready."""
        self._unload([model for model in self.models.values() if _has_network(model)], f"{error}; restart the server")

    def take_runs(self) -> dict[tuple[str, int], tuple[list[int], list[float]]]:
        """Return by version the rows of each batched run and the waits of its requests, since the last call."""
        return {
            (model.name, model.version): model.engine.take_statistics()
            for model in list(self.models.values())
            if isinstance(model.engine, Batcher)
        }

    def batches(self, name: str | None) -> bool:
        """Return whether a model, the default one for None, batches requests: then they wait for each other."""
        model = self.models.get(name or self.default_name or "")
        return model is not None and isinstance(model.engine, Batcher)

    def _unload(self, models: Sequence[Artifact], reason: str) -> None:
        lost = {model.name for model in models}
        # A new dict: other threads iterate over the old one.
        self.models = {name: model for name, model in self.models.items() if name not in lost}
        if reason not in self.problems:
            self.problems += (reason,)
            _log.error("not ready: %s", reason)

    def _batched(self, model: Artifact) -> Artifact:
        """Return the model with an engine that batches requests, if batches are configured."""
        if self.max_batch_rows == 1:
            return model
        return replace(model, engine=Batcher(model.engine, max_rows=self.max_batch_rows))


class _NotOnDevice(Predictor):
    """The engine of a model that is not on its device yet: nothing else may answer in its place."""

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        raise NotReadyError("the model is still loading on its device; see /readyz")


def _has_network(model: Artifact) -> bool:
    return "network" in model.manifest


def _describe(error: Exception, store: Path) -> str:
    """Return what is wrong with a store or a model; for an unreadable one with the file, the reason and the user."""
    if not isinstance(error, OSError):
        return str(error)
    return (
        f"the store {store} cannot be read: {error.filename or store}: {error.strerror or error}; "
        f"make it readable for user {os.geteuid()} or group {os.getegid()}"
    )


def load(
    store: Path,
    references: Sequence[str],
    *,
    device: str = "cpu",
    max_batch_rows: int = 1,
    ignore_unknown: bool = False,
) -> Serving:
    """Load and verify the models of `references`, or every model of the store; on the CPU, whatever the device.

    A model that cannot be loaded is left out and reported in `problems`: the process is live and not ready.
    """
    seen = fingerprint(store)
    model_store = Store(store)
    models: dict[str, Artifact] = {}
    problems: list[str] = []
    golden: dict[tuple[str, int], bool] = {}
    wanted = list(references)
    try:
        wanted = wanted or model_store.names()
    except (ModelError, OSError) as error:
        problems.append(_describe(error, store))
    if not (wanted or problems):
        problems.append(f"the store {store} has no model; train one: python -m model train boston-housing")
    for reference in wanted:
        try:
            model = model_store.load(reference)
        except (ModelError, OSError) as error:
            problems.append(_describe(error, store))
            if isinstance(error, GoldenRowsError):
                golden[error.name, error.version] = False
            continue
        golden[model.name, model.version] = True
        if model.name in models:
            problems.append(f"{reference} is listed beside another version of {model.name}; list one of them")
            continue
        models[model.name] = replace(model, schema=replace(model.schema, ignore_unknown=ignore_unknown))
        _log.info("model loaded", extra={"fields": {"model": model.name, "version": model.version}})
    for problem in problems:
        _log.error("not ready: %s", problem)
    serving = Serving(
        requested=tuple(reference.partition("@")[0] for reference in wanted),
        problems=tuple(problems),
        golden=golden,
        seen=seen,
        device=device,
        max_batch_rows=max_batch_rows,
        is_open=device == "cpu",
    )
    for name, model in models.items():
        if device == "cpu":
            serving.models[name] = serving._batched(model)
        elif _has_network(model):
            serving.models[name] = serving._batched(replace(model, engine=_NotOnDevice()))
        else:
            serving.models[name] = model
    return serving


def verify_apart(
    load: Callable[[], Serving],
    *,
    max_seconds: float = 60.0,
    max_bytes: int = 2**30,
    is_stopping: Callable[[], bool] = lambda: False,
) -> tuple[tuple[str, ...], dict[tuple[str, int], bool] | None]:
    """Load in a child process, limited in time and additional memory; return its `problems` and `golden`.

    If the child did not finish, the result is one problem and None.

    So gunicorn's master, which must live, neither hangs nor dies with what it verifies. The largest graph takes about
    an eighth of the default time and less than half of the default memory.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _report(load, writing, max_bytes, max_seconds)
    os.close(writing)
    deadline, pieces, is_whole = time.monotonic() + max_seconds, [], False
    with open(reading, "rb", buffering=0) as report:
        while not is_whole and time.monotonic() < deadline and not is_stopping():
            if select.select([report], [], [], 0.1)[0]:
                piece = report.read(2**16)
                pieces.append(piece)
                is_whole = not piece
    os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if not is_whole:
        why = "the server is stopping" if is_stopping() else f"the models were not verified within {max_seconds:g} s"
        return (why,), None
    try:
        problems, golden = json.loads(b"".join(pieces))
    except ValueError:
        return (f"the process that verified the models ended with status {status}; was it out of memory?",), None
    if golden is None:
        return tuple(problems), None
    return tuple(problems), {(name, version): is_good for name, version, is_good in golden}


def _report(load: Callable[[], Serving], writing: int, max_bytes: int, max_seconds: float) -> NoReturn:
    """Load, write `problems` and `golden` as JSON, and end this process, a child that was just forked."""
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGCHLD, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        signal.alarm(math.ceil(max_seconds) + 5)  # in case the parent, which would kill the child, is killed first
        logging.disable()  # the parent logs the problems
        with suppress(OSError):  # not Linux
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + max_bytes,) * 2)
        try:
            found = load()
            report: Any = found.problems, [(*version, is_good) for version, is_good in found.golden.items()]
        except Exception as error:  # whatever it is, the parent keeps its models
            report = (repr(error),), None
        with open(writing, "wb") as file:
            file.write(json.dumps(report).encode())
    finally:
        os._exit(0)  # without the parent's cleanup
