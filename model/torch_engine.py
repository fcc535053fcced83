"""The engine of a network on a GPU: arrays in, arrays out, as `engine` has it for graphs. Needs PyTorch.

A process that forks after CUDA was used has broken children, so that whoever serves loads this after the fork.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model import artifact, network
from model.artifact import Artifact
from model.engine import predict_by_batch_size
from model.errors import ArtifactError, DeviceError
from model.network import Network
from model.schema import Matrix

# What the widest layer's output takes of a piece of the rows, a few of which are alive at once: tens of MiB in all,
# whatever the network, and 8,192 rows of one that is 256 wide, which keep a GPU busy.
_CHUNK_BYTES = 16 * 2**20
# A run takes milliseconds: a device that takes so long hangs, and says nothing of it.
_MAX_RUN_SECONDS = 10.0
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


class TorchEngine:
    """Runs one network on one device, float64 throughout, in a thread of its own; those who ask wait their turn.

    `max_rows` go to the device at once and longer inputs in pieces, so that its memory is bounded. One thread, since
    cuBLAS takes tens of MiB for each that it was ever used in.
    """

    def __init__(self, network: Network, device: torch.device, *, max_run_seconds: float = _MAX_RUN_SECONDS) -> None:
        """Take the network to the device."""
        self._max_run_seconds = max_run_seconds
        architecture = network.architecture
        widest = max(architecture["n_features"], *architecture["hidden"], 1)
        self.max_rows = max(1, _CHUNK_BYTES // (8 * widest))
        self._device = device
        self._network = network.to(device)
        self._thread = ThreadPoolExecutor(1, "engine")
        self._lost = ""
        # A device copies to and from pinned memory by itself, and several times as fast.
        pinned = device.type == "cuda"
        self._rows = torch.empty(self.max_rows, architecture["n_features"], dtype=torch.float64, pin_memory=pinned)
        self._predictions = torch.empty(self.max_rows, dtype=torch.float64, pin_memory=pinned)

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        Raises `DeviceError` when the device is lost or hangs, and from then on.
        """
        if not self._lost:
            try:
                return self._thread.submit(self._run, X).result(self._max_run_seconds)
            except TimeoutError:
                self._lost = f"{self._device} did not answer within {self._max_run_seconds:g} s"
            except RuntimeError as error:
                if not _is_device_lost(error):
                    raise
                self._lost = f"{self._device} was lost: {str(error).partition(chr(10))[0]}"
        raise DeviceError(self._lost)

    def _run(self, X: Matrix) -> NDArray[np.float64]:
        y = np.empty(len(X))
        with torch.inference_mode():
            for start in range(0, len(X), self.max_rows):
                chunk = slice(start, start + self.max_rows)
                y[chunk] = self._predict(X[chunk])
        return y

    def _predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return the answers to at most `max_rows`, in memory that the next call writes over."""
        rows, predictions = self._rows[: len(X)], self._predictions[: len(X)]
        rows.numpy()[:] = X
        predictions.copy_(self._network(rows.to(self._device, non_blocking=True)))  # waits for the device
        return predictions.numpy()


def _is_device_lost(error: RuntimeError) -> bool:
    """Return whether a device is of no use after an error: not where only its memory was full for a moment."""
    if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) != _OUT_OF_MEMORY
    return str(error).startswith("CUDA error")  # cuBLAS' errors have no class of their own


@dataclass(frozen=True, slots=True)
class Usage:
    """How full and how busy a GPU is, whoever does it; `busy` is from 0 to 1, or None where the driver does not say."""

    memory_used_bytes: int
    memory_total_bytes: int
    busy: float | None


def load(model: Artifact, device: torch.device) -> Artifact:
    """Return the model with its network on the device in place of its graph, warmed up and verified once more.

    Reads its files again and checks every hash. Raises `ArtifactError`, a `GoldenRowsError` if the device answers
    otherwise than the trained model.
    """
    manifest, files = artifact.read(model.path)
    try:
        name = manifest["network"]["file"]
        engine = TorchEngine(network.load(manifest["network"], files[name]), device)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            model.path / artifact.MANIFEST,
            f"does not describe a network ({error!r})",
            "train it again, or serve it on cpu",
        ) from None
    # The largest piece makes PyTorch take all the memory that it will need, the smallest has kernels of its own.
    for n_rows in (engine.max_rows, 1):
        engine.predict(np.resize(model.golden_rows, (n_rows, model.golden_rows.shape[1])))
    served = replace(model, engine=engine)
    artifact.check_golden_rows(served, predict_by_batch_size(engine.predict, model.golden_rows))
    return served


def usage(device: torch.device) -> Usage | None:
    """Return how full and how busy a GPU is; None for a CPU, or a GPU that is lost."""
    if device.type != "cuda":
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:
        return None
    try:
        busy = torch.cuda.utilization(device) / 100
    except Exception:  # NVML's errors have no base but this; it is not installed, or a part of a GPU is all there is
        busy = None
    return Usage(total - free, total, busy)
