"""The engine of a network on a GPU: arrays in, arrays out, like `engine` for graphs. Needs PyTorch.

CUDA does not work in a child of a process that used it, so a server loads this after the fork.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from model.engine.answers import Answers
from model.engine.network import Network
from model.engine.steps import Step
from model.errors import DeviceError
from model.schema.features import Matrix

# The size of the widest layer's output for a chunk of rows. A few such outputs exist at once, which is tens of MiB for
# any network. For a width of 256 a chunk has 8,192 rows, which keeps a GPU busy.
_CHUNK_BYTES = 16 * 2**20
# A run takes milliseconds; a device that takes this long hangs without an error.
_MAX_RUN_SECONDS = 10.0
_OUT_OF_MEMORY = 2  # cudaErrorMemoryAllocation


_Result = TypeVar("_Result")


class TorchEngine:
    """Runs one network on one device in float64, in its own thread; concurrent calls wait.

    Inputs of more than `max_rows` go to the device in chunks, which bounds its memory. There is one thread because
    cuBLAS allocates tens of MiB for each thread that used it.

    On a GPU, the network's kernels are recorded once for 1, 2, 4… rows (CUDA graphs), and a call replays those for at
    least its rows: to start them one by one takes longer than small networks compute. All memory is allocated before.
    """

    def __init__(
        self,
        network: Network,
        device: torch.device,
        of_sums: Sequence[Step] = (),
        decision: str | None = None,
        *,
        max_run_seconds: float = _MAX_RUN_SECONDS,
    ) -> None:
        """Move the network to the device; steps and decision are done to its outputs on the CPU, as by `Engine`.

        Raises `DeviceError` if the device is lost or hangs, and `ValueError` if steps and decision do not fit.
        """
        self._max_run_seconds = max_run_seconds
        architecture, n_outputs = network.architecture, network.n_outputs
        self._answers = Answers(n_outputs, of_sums, decision)
        widest = max(architecture["n_features"], *architecture["hidden"], n_outputs)
        self.max_rows = max(1, _CHUNK_BYTES // (8 * widest))
        self._device = device
        self._network = network.to(device)
        self._thread = ThreadPoolExecutor(1, "engine")
        self._lost = ""
        # Copies to and from pinned memory are asynchronous and several times as fast.
        on_gpu = device.type == "cuda"
        self._rows = torch.zeros(self.max_rows, architecture["n_features"], dtype=torch.float64, pin_memory=on_gpu)
        self._outputs = torch.empty(self.max_rows, n_outputs, dtype=torch.float64, pin_memory=on_gpu)
        self._graphs: list[torch.cuda.CUDAGraph] = []  # of 1, 2, 4… rows, up to `max_rows`; none without a GPU
        if on_gpu:
            self._do(self._record)

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` float64 for `X` of shape `(n_rows, n_features)`, float64.

        A classifier returns `(n_rows, 1 + n_classes)`: the position of the label, then the probability of each class.
        Raises `DeviceError` if the device is lost or hangs, and in every later call.
        """
        return self._answers(self._do(lambda: self._run(X)))

    def _do(self, task: Callable[[], _Result]) -> _Result:
        """Return what a task in the engine's thread returns, within the time that a run has."""
        if not self._lost:
            try:
                return self._thread.submit(task).result(self._max_run_seconds)
            except TimeoutError:
                self._lost = f"{self._device} did not answer within {self._max_run_seconds:g} s"
            except RuntimeError as error:
                if not _is_device_lost(error):
                    raise
                self._lost = f"{self._device} was lost: {str(error).partition(chr(10))[0]}"
        raise DeviceError(self._lost)

    def _run(self, X: Matrix) -> NDArray[np.float64]:
        outputs = np.empty((len(X), self._outputs.shape[1]))
        with torch.inference_mode():
            for start in range(0, len(X), self.max_rows):
                chunk = slice(start, start + self.max_rows)
                outputs[chunk] = self._run_chunk(X[chunk])
        return outputs

    def _run_chunk(self, X: Matrix) -> NDArray[np.float64]:
        """Return the outputs for at most `max_rows`, in memory that the next call overwrites."""
        self._rows.numpy()[: len(X)] = X
        if self._graphs:
            self._graphs[(len(X) - 1).bit_length()].replay()
            torch.cuda.current_stream().synchronize()
        else:
            self._compute(len(X))
        return self._outputs.numpy()[: len(X)]

    def _compute(self, n_rows: int) -> None:
        """Compute the first outputs from the first rows; on a GPU, start that."""
        rows = self._rows[:n_rows].to(self._device, non_blocking=True)
        self._outputs[:n_rows].copy_(self._network(rows), non_blocking=True)

    def _record(self) -> None:
        torch.cuda.set_device(self._device)  # of this thread
        # Shared by the graphs, which run one at a time.
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        memory = torch.cuda.graph_pool_handle()
        with torch.inference_mode():
            with torch.cuda.stream(stream):
                self._compute(self.max_rows)  # libraries allocate in their first run, which cannot be recorded
            stream.synchronize()
            for exponent in range((self.max_rows - 1).bit_length() + 1):
                graph = torch.cuda.CUDAGraph()
                # Other threads may use the GPU meanwhile.
                with torch.cuda.graph(graph, pool=memory, stream=stream, capture_error_mode="thread_local"):
                    self._compute(min(2**exponent, self.max_rows))
                self._graphs.append(graph)


def _is_device_lost(error: RuntimeError) -> bool:
    """Return whether the device cannot be used after an error, unlike after running out of memory."""
    if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in str(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return getattr(error, "error_code", None) != _OUT_OF_MEMORY
    return str(error).startswith("CUDA error")  # cuBLAS errors have no class


@dataclass(frozen=True, slots=True)
class Usage:
    """Memory and utilization of a GPU by all processes; `busy` is from 0 to 1, or None if it is unknown."""

    memory_used_bytes: int
    memory_total_bytes: int
    busy: float | None


def usage(device: torch.device) -> Usage | None:
    """Return memory and utilization of a GPU; None for a CPU or a lost GPU."""
    if device.type != "cuda":
        return None
    try:
        free, total = torch.cuda.mem_get_info(device)
    except RuntimeError:
        return None
    try:
        busy = torch.cuda.utilization(device) / 100
    except Exception:  # NVML's errors have no other base; it is missing, or this is a part of a GPU
        busy = None
    return Usage(total - free, total, busy)
