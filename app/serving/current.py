"""What is served now: one snapshot at a time, which is replaced whole."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

from app.serving.batching import Batcher
from app.serving.devices import Device, batched, has_network
from app.serving.loaded import Loaded
from model import DeviceError, GoldenRowsError, ModelError

if TYPE_CHECKING:
    from model.engine.gpu import Usage

_log = logging.getLogger("tabserve")

_DEVICE_REMEDY = "give the container a GPU and install requirements-cuda.txt, or set it to cpu"


class Serving:
    """The snapshot that answers, `loaded`: it is replaced whole, and every request after that sees the new one alone.

    `draining` is set when the server stops: it goes on answering, but is no longer ready. After `open`, models with a
    network run on the device.
    """

    def __init__(self, loaded: Loaded, *, device: str = "cpu", max_batch_rows: int = 1) -> None:
        self.loaded = loaded
        self._replacing = threading.Lock()  # of `loaded`; reading it needs none
        self.draining = False
        self._device_name = device
        self._max_batch_rows = max_batch_rows
        self._is_open = device == "cpu"
        self._device: Device | None = None
        self._no_device = ""  # why there is none though one is configured
        self._retired: list[tuple[tuple[str, int], Batcher]] = []  # of earlier snapshots, whose last runs count, too

    @property
    def unready(self) -> str | None:
        """Return why the server is not ready for requests, or None if it is."""
        if self.draining:
            return "the server is stopping"
        if self.loaded.problems:
            return "; ".join(self.loaded.problems)
        return None if self._is_open else f"the models are still loading on {self._device_name}"

    def open(self) -> None:
        """Load and verify the models that run on the device: after the fork, before the first request.

        A model that fails is left out, and the process is live and not ready: the CPU never replaces a configured GPU.
        """
        if self._is_open:
            return
        self._is_open = True
        try:
            self._device = device = Device(self._device_name)
        except Exception as error:  # anything, if PyTorch's libraries or the driver are broken
            self._unload_networks(f"TABSERVE_DEVICE is {self._device_name!r}: {error}; {_DEVICE_REMEDY}")
            return
        with self._replacing:
            self._serve(self._on_device(self.loaded, device))

    def swap(self, loaded: Loaded) -> None:
        """Serve another snapshot, whose networks are on the device by then if it is open."""
        with self._replacing:
            if self._no_device:
                loaded = _without_networks(loaded, self._no_device)
            elif self._device:
                loaded = self._on_device(loaded, self._device)
            self._serve(loaded)

    def _serve(self, loaded: Loaded) -> None:
        """Replace the snapshot; the caller holds the lock."""
        kept = {id(engine) for _, engine in _batchers(loaded)}
        self._retired += [found for found in _batchers(self.loaded) if id(found[1]) not in kept]
        self.loaded = loaded

    def _on_device(self, loaded: Loaded, device: Device) -> Loaded:
        """Return a snapshot with its networks on the device, and without those that fail there."""
        for model in [model for model in loaded.all_versions if has_network(model)]:
            try:
                loaded = loaded.with_model(batched(device.load(model), self._max_batch_rows))
            except Exception as error:  # anything that PyTorch and the driver raise
                if isinstance(error, GoldenRowsError):
                    loaded = loaded.with_golden({(model.name, model.version): False})
                reason = str(error) if isinstance(error, ModelError) else f"{model.name}: {error!r}"
                _log.error("not on its device: %s", reason)
                loaded = loaded.without([model], reason)
            else:
                fields = {"model": model.name, "version": model.version, "device": str(device)}
                _log.info("model loaded on its device", extra={"fields": fields})
        return loaded

    def lose_device(self, error: DeviceError) -> None:
        """Remove the models that run on the device. Only a new process can use it again: this one stays not ready."""
        self._unload_networks(f"{error}; restart the server")

    def add_golden(self, golden: Mapping[tuple[str, int], bool]) -> None:
        """Add whether the golden rows of other versions were predicted as in training."""
        with self._replacing:
            self.loaded = self.loaded.with_golden(golden)

    def usage(self) -> Usage | None:
        """Return how full and busy the GPU is, if there is one."""
        return self._device.usage() if self._device else None

    def take_runs(self) -> dict[tuple[str, int], tuple[list[int], list[float]]]:
        """Return by version the rows of each batched run and the waits of its requests, since the last call."""
        with self._replacing:
            batchers = [*self._retired, *_batchers(self.loaded)]
            self._retired = [found for found in self._retired if found[1].is_busy]
        runs: dict[tuple[str, int], tuple[list[int], list[float]]] = {}
        for version, engine in batchers:
            rows, waits = runs.setdefault(version, ([], []))
            more_rows, more_waits = engine.take_statistics()
            rows += more_rows
            waits += more_waits
        return runs

    def _unload_networks(self, reason: str) -> None:
        with self._replacing:
            if reason not in self.loaded.problems:
                _log.error("not ready: %s", reason)
            self._no_device = reason
            self._serve(_without_networks(self.loaded, reason))


def _without_networks(loaded: Loaded, reason: str) -> Loaded:
    return loaded.without([model for model in loaded.all_versions if has_network(model)], reason)


def _batchers(loaded: Loaded) -> list[tuple[tuple[str, int], Batcher]]:
    """Return the engines that batch requests, each with the name and version of its model."""
    models = loaded.all_versions
    return [((model.name, model.version), model.engine) for model in models if isinstance(model.engine, Batcher)]
