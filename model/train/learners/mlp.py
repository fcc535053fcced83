"""Fit a multilayer perceptron with PyTorch, on a CPU or a GPU, and compile it to one ONNX graph.

The layers are trained in float32 on scaled rows. The result is float64 throughout and contains the scalers. Two
libraries that add in different orders then agree to about fifteen digits, compared with six in float32.
"""

from __future__ import annotations

import hashlib
import io
import logging
import math
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from model.engine import network
from model.engine.graph import INPUT_NAME, OUTPUT_NAME
from model.engine.network import Network, find_device
from model.engine.runtime import Engine
from model.errors import CheckpointError, DeviceError
from model.schema.feature import Feature
from model.schema.features import Matrix
from model.store import artifact
from model.store.manifest import GRAPH_ENGINE, MAX_TOLERANCE
from model.train.candidate import Candidate
from model.train.compile.onnx import to_onnx

ALGORITHM = "standardised multilayer perceptron (PyTorch)"
WEIGHTS = "weights.safetensors"

_log = logging.getLogger("tabserve.training")

# Multiplications per step from which several threads pay. Below it one thread is as fast, much faster on a busy
# machine, and gives the same bits for any number of cores.
_PARALLEL_WORK = 4_000_000
# Rows predicted at once: tens of MiB per layer of usual width.
_ROWS_AT_ONCE = 65_536
# The share of the steps in which the learning rate rises to its maximum, before it falls along a cosine.
_WARM_UP = 0.1


@dataclass(frozen=True, slots=True)
class Settings:
    """The hyperparameters of an MLP. `hidden` are the widths of the hidden layers; none make a linear regression.

    The default `batch_size` is a power of two from 32 to 4,096 that gives an epoch at least 128 steps.

    The learning rate rises, then falls to 0 at the last of `max_epochs`. The share `validation_share` of the rows is
    held out to evaluate each epoch. Of the epochs within one standard error of the lowest error the last is kept, since
    they differ by chance and later ones have a lower learning rate (the one-standard-error rule, Breiman et al. 1984).
    Training stops early if there was no such epoch for `patience` epochs. If no rows are held out, the training rows
    are used instead. `precision` is that of the layers during training.
    """

    hidden: tuple[int, ...] = (64, 64)
    max_epochs: int = 100
    batch_size: int | None = None
    learning_rate: float = 0.003
    weight_decay: float = 0.1
    validation_share: float = 0.1
    patience: int = 20
    random_state: int = 7
    precision: str = "float32"
    compile: bool = False
    deterministic: bool = False

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value!r}; set it to {expected}"
            for name, value, is_valid, expected in (
                ("hidden", self.hidden, all(width >= 1 for width in self.hidden), "widths of at least 1"),
                ("max_epochs", self.max_epochs, self.max_epochs >= 1, "at least 1"),
                ("batch_size", self.batch_size, self.batch_size is None or self.batch_size >= 1, "at least 1"),
                ("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "more than 0"),
                ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more"),
                (
                    "validation_share",
                    self.validation_share,
                    0 <= self.validation_share < 1,
                    "a share from 0 to below 1",
                ),
                ("patience", self.patience, self.patience >= 1, "at least 1"),
                ("precision", self.precision, self.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
            )
            if not is_valid
        ]
        if problems:
            raise ValueError("; ".join(problems))


@dataclass(frozen=True, slots=True)
class Epoch:
    """The mean squared errors of one pass over the rows, in squared units of the target.

    `loss` is the training loss during the pass; `validation_loss` is that of the rows held out, after it.
    """

    loss: float
    validation_loss: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted network, float64 on the CPU, with the history of its training. `best_epoch` counts from 0."""

    network: Network
    settings: Settings
    epochs: tuple[Epoch, ...]
    best_epoch: int
    device: Mapping[str, Any]
    rows_per_second: float

    def predict(self, X: Matrix) -> NDArray[np.float64]:
        """Return `(n_rows,)` for `X` `(n_rows, n_features)`."""
        with torch.inference_mode():
            parts = [self.network(part) for part in torch.split(torch.tensor(X), _ROWS_AT_ONCE)]
            y: NDArray[np.float64] = torch.cat(parts).numpy()
        return y


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return the facts about a device: for a GPU its name, memory in MiB, driver, highest clocks in MHz and watts."""
    if device.type != "cuda":
        return {"kind": device.type}
    properties = torch.cuda.get_device_properties(device)
    fields = ("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit")
    command = ["nvidia-smi", f"--id=GPU-{properties.uuid}", f"--query-gpu={','.join(fields)}"]
    values: list[str] = []
    try:
        completed = subprocess.run(
            [*command, "--format=csv,noheader,nounits"], capture_output=True, text=True, check=True, timeout=10
        )
        values = completed.stdout.strip().split(", ")
    except (OSError, subprocess.SubprocessError) as error:
        _log.warning("the manifest will not have the GPU's driver and clocks: %s", error)
    return {
        "kind": "cuda",
        "name": properties.name,
        "memory_mib": properties.total_memory // 2**20,
        "cuda": torch.version.cuda,
        **dict(zip(fields, values)),
    }


def fit(
    X: Matrix,
    y: NDArray[np.float64],
    settings: Settings | None = None,
    *,
    device: str = "auto",
    progress: bool = False,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 10,
) -> Fitted:
    """Fit a network on `X` `(n_rows, n_features)` and `y` `(n_rows,)`.

    With a `checkpoint`, the state is written to this file after an epoch, at most every `checkpoint_seconds`. A run
    that finds the file resumes from it and ends with the same weights as without the stop. `progress` shows a progress
    bar on a terminal.

    Raises `DeviceError` for a device that does not exist, `CheckpointError` for a checkpoint of another training and
    `ValueError` for too few rows.
    """
    settings = settings or Settings()
    if checkpoint and not checkpoint.parent.is_dir():
        raise CheckpointError(f"{checkpoint} cannot be written: there is no folder {checkpoint.parent}; create it")
    with _reproducible(settings):
        run = _Run(X, y, settings, find_device(device))
        torch.set_num_threads(run.threads)
        identity = _identity(X, y, run.settings) if checkpoint else {}
        if checkpoint and checkpoint.exists():
            run.restore(checkpoint, identity)
        saved_at = monotonic()
        with tqdm(
            total=settings.max_epochs * run.n_rows,
            initial=len(run.epochs) * run.n_rows,
            unit="rows",
            unit_scale=True,
            disable=None if progress else True,  # None: if standard error is not a terminal
        ) as bar:
            while not run.is_done:
                run.train_epoch(bar.update)
                last = run.epochs[-1]
                bar.set_postfix(epoch=len(run.epochs), loss=last.loss, validation=last.validation_loss)
                if checkpoint and monotonic() - saved_at >= checkpoint_seconds:
                    run.save(checkpoint, identity)
                    saved_at = monotonic()
        return run.finish()


@contextmanager
def _reproducible(settings: Settings) -> Iterator[None]:
    """Seed PyTorch, use deterministic algorithms if set, and restore the previous state afterwards."""
    before, threads = torch.are_deterministic_algorithms_enabled(), torch.get_num_threads()
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # PyTorch requires it on CUDA
    with torch.random.fork_rng(devices=[]):  # all random numbers are drawn on the CPU
        torch.default_generator.manual_seed(settings.random_state)
        torch.use_deterministic_algorithms(settings.deterministic or before)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before)
            torch.set_num_threads(threads)


def _identity(X: Matrix, y: NDArray[np.float64], settings: Settings) -> dict[str, Any]:
    """Return the facts that a checkpoint must match to be resumed."""
    data = hashlib.sha256(np.ascontiguousarray(X).tobytes() + np.ascontiguousarray(y).tobytes()).hexdigest()
    return {"data": data, **asdict(settings), "hidden": list(settings.hidden)}


class _Run:
    """The state of one training, from one epoch to the next."""

    def __init__(self, X: Matrix, y: NDArray[np.float64], settings: Settings, device: torch.device) -> None:
        n_held_out = round(len(X) * settings.validation_share)
        if (settings.validation_share and n_held_out < 1) or len(X) - n_held_out < 2:
            raise ValueError(f"{len(X)} rows are too few to hold out {settings.validation_share:g} of them and fit")
        self.n_rows = len(X) - n_held_out
        self.batch_size = settings.batch_size or _batch_size(self.n_rows)
        self.settings, self.device = replace(settings, batch_size=self.batch_size), device
        order = torch.randperm(len(X))
        rows, target = torch.tensor(X)[order], torch.tensor(y)[order]
        self._network = Network(X.shape[1], settings.hidden)
        self._network.x_mean.copy_(rows[: self.n_rows].mean(0))
        self._network.x_scale.copy_(_scale(rows[: self.n_rows]))
        self._network.y_mean.copy_(target[: self.n_rows].mean())
        self._network.y_scale.copy_(_scale(target[: self.n_rows]))
        scaled = ((rows - self._network.x_mean) / self._network.x_scale).float()
        scaled_target = ((target - self._network.y_mean) / self._network.y_scale).float()
        try:
            self._X, self._y = scaled.to(device), scaled_target.to(device)
        except torch.OutOfMemoryError:
            _log.warning("the %d rows do not fit into the memory of %s: batches are copied to it", len(X), device)
            self._X, self._y = scaled, scaled_target
        self._layers = self._network.layers.to(device)
        self._forward: Callable[[Tensor], Tensor] = self._network.scaled
        if settings.compile:
            self._forward = torch.compile(self._network.scaled)
        self._optimizer = torch.optim.AdamW(
            self._layers.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
            fused=device.type in ("cpu", "cuda"),  # one kernel for all parameters
        )
        work = self.batch_size * sum(parameter.numel() for parameter in self._layers.parameters())
        self.threads = 1 if work < _PARALLEL_WORK else torch.get_num_threads()
        self._shuffle = torch.Generator().manual_seed(settings.random_state)
        self._micro_batch_rows = self.batch_size
        self._best = self._copy_layers()
        self._best_epoch = -1
        self._lowest: Tensor | None = None  # the squared errors of the rows held out, of the epoch with the lowest mean
        self._seconds = 0.0
        self._rows_seen = 0
        self.epochs: list[Epoch] = []

    @property
    def is_done(self) -> bool:
        """Return whether all epochs are over, or early stopping applies."""
        n_epochs = len(self.epochs)
        return n_epochs == self.settings.max_epochs or n_epochs - 1 - self._best_epoch >= self.settings.patience

    def train_epoch(self, report: Callable[[int], object]) -> None:
        """Pass once over the rows in a new order; `report` gets the number of rows of each batch."""
        started_at = monotonic()
        order = torch.randperm(self.n_rows, generator=self._shuffle).to(self._X.device)
        batches = torch.split(order, self.batch_size)
        total = torch.zeros((), device=self.device)  # stays on the device, since reading it would wait for each batch
        for number, indices in enumerate(batches):
            progress = (len(self.epochs) + number / len(batches)) / self.settings.max_epochs
            for group in self._optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * _learning_rate_factor(progress)
            total += self._step(indices)
            report(len(indices))
        units = float(self._network.y_scale) ** 2
        errors = self._held_out_errors()
        epoch = Epoch(float(total) / self.n_rows * units, float(errors.mean()) * units)
        if not math.isfinite(epoch.validation_loss):
            raise ValueError(
                f"the loss is no longer finite after {len(self.epochs) + 1} epochs; set a learning rate below "
                f"{self.settings.learning_rate:g}"
            )
        if self._lowest is None or errors.mean() < self._lowest.mean():
            self._lowest = errors
        excess = errors - self._lowest  # paired by row: a difficult row is so in both epochs
        if excess.mean() <= excess.std(correction=0) / math.sqrt(len(excess)):
            self._best, self._best_epoch = self._copy_layers(), len(self.epochs)
        self.epochs.append(epoch)
        self._seconds += monotonic() - started_at
        self._rows_seen += self.n_rows

    def _step(self, indices: Tensor) -> Tensor:
        """Take one optimizer step for a batch and return its sum of squared errors, on the device.

        A batch that does not fit into memory is split into micro-batches; the gradient is equal except for rounding.
        """
        while True:
            self._optimizer.zero_grad()
            total = torch.zeros((), device=self.device)
            try:
                for part in torch.split(indices, self._micro_batch_rows):
                    total += self._add_gradient(part, len(indices))
                self._optimizer.step()
                return total
            except torch.OutOfMemoryError:
                if min(self._micro_batch_rows, len(indices)) == 1:
                    raise DeviceError(f"{self.device} is out of memory even for a single row") from None
            # After the except block, because the exception keeps the tensors of the failed step in memory.
            self._micro_batch_rows = min(self._micro_batch_rows, len(indices)) // 2
            _log.warning("out of memory: continuing with micro-batches of %d rows", self._micro_batch_rows)

    def _add_gradient(self, micro_batch: Tensor, n_rows: int) -> Tensor:
        """Accumulate the gradient of a micro-batch of a batch of `n_rows`; return its sum of squared errors."""
        X, y = self._X[micro_batch].to(self.device), self._y[micro_batch].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            predictions = self._forward(X)
        squares = (predictions.float() - y).square().sum()
        torch.autograd.backward(squares / n_rows)
        return squares.detach()

    def _held_out_errors(self) -> Tensor:
        """Return the scaled squared errors of the rows held out, `(n_held_out,)` float64 on the CPU."""
        parts = []
        with torch.inference_mode():
            # In micro-batches, which fit even with gradients.
            for start in range(self.n_rows % len(self._X), len(self._X), self._micro_batch_rows):
                part = slice(start, start + self._micro_batch_rows)
                error = self._network.scaled(self._X[part].to(self.device)) - self._y[part].to(self.device)
                parts.append(error.square())
        return torch.cat(parts).cpu().double()  # to the CPU first, since MPS has no float64

    def _copy_layers(self) -> dict[str, Tensor]:
        return {name: tensor.detach().cpu().clone() for name, tensor in self._layers.state_dict().items()}

    def save(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Write the state atomically."""
        state = {
            "identity": identity,
            "layers": self._copy_layers(),
            "optimizer": self._optimizer.state_dict(),
            "shuffle": self._shuffle.get_state(),
            "best": self._best,
            "best_epoch": self._best_epoch,
            "lowest": self._lowest,
            "epochs": [asdict(epoch) for epoch in self.epochs],
        }
        incoming = path.with_name(f"{path.name}.part")
        with incoming.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        incoming.replace(path)

    def restore(self, path: Path, identity: Mapping[str, Any]) -> None:
        """Restore the state that `save` wrote. Raises `CheckpointError` for other rows or settings."""
        content = path.read_bytes()
        try:
            state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # runs no code of a pickle
            other = [name for name, value in identity.items() if state["identity"].get(name) != value]
        except Exception as error:  # PyTorch raises many classes for a file that is not its own or is truncated
            raise CheckpointError(
                f"{path} is not a checkpoint ({type(error).__name__}); remove it to start again"
            ) from None
        if other:
            raise CheckpointError(
                f"{path} is of a training with other {', '.join(other)}; remove it to start again, or name another file"
            )
        self._layers.load_state_dict(state["layers"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._shuffle.set_state(state["shuffle"])
        self._best, self._best_epoch, self._lowest = state["best"], state["best_epoch"], state["lowest"]
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]

    def finish(self) -> Fitted:
        """Return the network with the best weights and the history."""
        self._layers.load_state_dict(self._best)
        return Fitted(
            network=self._network.cpu().double().requires_grad_(False).eval(),
            settings=self.settings,
            epochs=tuple(self.epochs),
            best_epoch=self._best_epoch,
            device={**describe_device(self.device), "threads": self.threads},
            rows_per_second=self._rows_seen / self._seconds if self._seconds else 0.0,
        )


def _scale(values: Tensor) -> Tensor:
    """Return the standard deviation of each column, or 1 if it is 0, like StandardScaler."""
    deviation = values.std(0, correction=0)
    return torch.where(deviation > 0, deviation, 1.0)


def _batch_size(n_rows: int) -> int:
    """Return the default batch size of `Settings` for this number of rows."""
    return min(max(2 ** int(math.log2(n_rows / 128)), 32), 4096) if n_rows > 128 else 32


def _learning_rate_factor(progress: float) -> float:
    """Return the factor of the learning rate at a progress from 0 to 1: a linear warm-up, then a cosine."""
    if progress < _WARM_UP:
        return (progress + 0.01) / (_WARM_UP + 0.01)
    return 0.5 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP)))


def candidate(fitted: Fitted) -> Candidate:
    """Return the network as a candidate."""
    # Beyond these limits a scaled value overflows float32, as with the GBM.
    reach = fitted.network.x_scale.numpy() * float(np.finfo(np.float32).max)
    mean = fitted.network.x_mean.numpy()
    settings = asdict(fitted.settings)
    hidden = fitted.settings.hidden
    graph = compile(fitted.network)
    return Candidate(
        algorithm=ALGORITHM,
        summary=f"hidden layers of {' and '.join(map(str, hidden))}" if hidden else "no hidden layer",
        predict=fitted.predict,
        engine=Engine(graph),
        engine_facts={"kind": GRAPH_ENGINE, "file": artifact.GRAPH},
        features=tuple(
            Feature(f"x{number}", lowest=float(low), highest=float(high))
            for number, (low, high) in enumerate(zip(mean - reach, mean + reach))
        ),
        split_rows=np.empty((0, len(mean))),
        packages=("safetensors", "torch"),
        files={artifact.GRAPH: graph, WEIGHTS: network.save(fitted.network)},
        facts={
            "hyperparameters": {**settings, "hidden": list(hidden)},
            "network": {"file": WEIGHTS, **fitted.network.architecture},
            "training": {
                "best_epoch": fitted.best_epoch,
                "epochs": [asdict(epoch) for epoch in fitted.epochs],
            },
        },
        tolerance=MAX_TOLERANCE,
        environment={"device": dict(fitted.device)},
    )


def compile(fitted: Network) -> bytes:
    """Return the network as one ONNX graph, `X` `(n_rows, n_features)` float64 to `y` `(n_rows, 1)`.

    It has the network's operations in the same order, in float64.
    """
    nodes, constants = [], []

    def constant(name: str, value: Tensor) -> str:
        constants.append(onnx.numpy_helper.from_array(value.numpy(), name))
        return name

    def add(operator: str, *inputs: str, output: str, **attributes: int) -> str:
        nodes.append(onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    Z = add("Sub", INPUT_NAME, constant("x_mean", fitted.x_mean), output="centred")
    Z = add("Div", Z, constant("x_scale", fitted.x_scale), output="Z")
    weights = fitted.state_dict()
    for number in range(len(fitted.layers)):
        if number:
            Z = add("Relu", Z, output=f"relu_{number}")
        weight = constant(f"weight_{number}", weights[f"layers.{number}.weight"])
        bias = constant(f"bias_{number}", weights[f"layers.{number}.bias"])
        Z = add("Gemm", Z, weight, bias, output=f"layer_{number}", transB=1)
    Z = add("Mul", Z, constant("y_scale", fitted.y_scale), output="unscaled")
    add("Add", Z, constant("y_mean", fitted.y_mean), output=OUTPUT_NAME)
    return to_onnx("mlp", nodes, n_features=len(fitted.x_mean), constants=constants)
