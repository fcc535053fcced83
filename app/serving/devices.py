"""The device that runs networks: opened after the fork, and never replaced by the CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from app.errors import NotReadyError
from app.serving.batching import Batcher
from model import Artifact, Matrix, Predictor

if TYPE_CHECKING:
    from model.engine.gpu import Usage


class NotOnDevice(Predictor):
    """The engine of a model that is not on its device yet: nothing else may answer in its place."""

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        raise NotReadyError("the model is still loading on its device; see /readyz")


class Device:
    """A device that was opened; PyTorch is imported for it."""

    def __init__(self, name: str) -> None:
        """Open `cpu`, `cuda` or `cuda:N`. Raises whatever PyTorch and the driver raise."""
        # Imported here, since PyTorch takes seconds and GiB, and CUDA does not survive a fork.
        import model.engine.gpu as gpu
        import model.engine.network as network
        import model.store.device as on_device

        self._usage, self._load = gpu.usage, on_device.load
        self._device = network.find_device(name)

    def __str__(self) -> str:
        return str(self._device)

    def load(self, model: Artifact) -> Artifact:
        """Return the model with its network on the device, verified there."""
        return self._load(model, self._device)

    def usage(self) -> Usage | None:
        """Return how full and busy the device is, if it is a GPU."""
        return self._usage(self._device)


def has_network(model: Artifact) -> bool:
    """Return whether a model runs on the device."""
    return model.manifest.network is not None


def batched(model: Artifact, max_batch_rows: int) -> Artifact:
    """Return the model with an engine that batches requests, if `max_batch_rows` is more than 1."""
    if max_batch_rows == 1:
        return model
    return replace(model, engine=Batcher(model.engine, max_rows=max_batch_rows))
