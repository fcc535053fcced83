"""The engine of a network on a GPU: arrays in, arrays out, as `engine` has it for graphs. Needs PyTorch.

A process that forks after CUDA was used has broken children, so that whoever serves loads this after the fork.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model import artifact, network
from model.artifact import Artifact
from model.errors import ArtifactError, DeviceError
from model.network import Network
from model.schema import Matrix

# What the widest layer's output takes of a piece of the rows, a few of which are alive at once: tens of MiB in all,
# whatever the network, and 8,192 rows of one that is 256 wide, which keep a GPU busy.
_PIECE_BYTES = 16 * 2**20


class TorchEngine:
    """Runs one network on one device, float64 throughout; one thread at a time, the others wait.

    `max_rows` go to the device at once and longer inputs in pieces, so that its memory is bounded.
    """

    def __init__(self, network: Network, device: torch.device) -> None:
        """Take the network to the device."""
        architecture = network.architecture
        widest = max(architecture["n_features"], *architecture["hidden"], 1)
        self.max_rows = max(1, _PIECE_BYTES // (8 * widest))
        self._device = device
        self._network = network.to(device)
        self._lock = threading.Lock()
        self._lost = ""
        # A device copies to and from pinned memory by itself, and several times as fast.
        pinned = device.type == "cuda"
        self._rows = torch.empty(self.max_rows, architecture["n_features"], dtype=torch.float64, pin_memory=pinned)
        self._answers = torch.empty(self.max_rows, dtype=torch.float64, pin_memory=pinned)

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        Raises `DeviceError` when the device is lost, and from then on.
        """
        y = np.empty(len(X))
        with self._lock, torch.inference_mode():
            if self._lost:
                raise DeviceError(self._lost)
            try:
                for start in range(0, len(X), self.max_rows):
                    piece = slice(start, start + self.max_rows)
                    y[piece] = self._predict(X[piece])
            except RuntimeError as error:
                # cuBLAS has no class of its own. Out of memory is neither, and the device lives.
                if isinstance(error, torch.AcceleratorError) or str(error).startswith("CUDA error"):
                    self._lost = f"{self._device} was lost: {str(error).partition(chr(10))[0]}"
                    raise DeviceError(self._lost) from error
                raise
        return y

    def _predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return the answers to at most `max_rows`, in memory that the next call writes over."""
        rows, answers = self._rows[: len(X)], self._answers[: len(X)]
        rows.numpy()[:] = X
        answers.copy_(self._network(rows.to(self._device, non_blocking=True)))  # waits for the device
        return answers.numpy()


@dataclass(frozen=True, slots=True)
class Usage:
    """How full and how busy a GPU is, whoever does it; `busy` is from 0 to 1, or None where the driver does not say."""

    memory_used_bytes: int
    memory_total_bytes: int
    busy: float | None


def find(name: str) -> torch.device:
    """Return the device that is called `cpu`, `cuda` or `cuda:N`. Raises `DeviceError` if it is not there."""
    device = torch.device(name)
    if device.type != "cuda":
        return device
    if not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "is built without CUDA"
        raise DeviceError(f"there is no {name} here: PyTorch {torch.__version__} {why}")
    index, count = device.index or 0, torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"there is no {name} here: the GPUs are {', '.join(f'cuda:{i}' for i in range(count))}")
    return torch.device("cuda", index)


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
    found = replace(model, engine=engine)
    artifact.check_golden_rows(found, artifact.replay(engine, model.golden_rows))
    return found


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
