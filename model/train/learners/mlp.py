"""Fit a multilayer perceptron with PyTorch, on a CPU or a GPU: estimators for scikit-learn's pipelines.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm

from model.engine import network
from model.engine.network import Network, find_device
from model.errors import CheckpointError, DeviceError
from model.schema.features import Matrix

_log = logging.getLogger("tabserve.training")

# Multiplications per step from which several threads pay. Below it one thread is as fast, much faster on a busy
# machine, and gives the same bits for any number of cores.
_PARALLEL_WORK = 4_000_000
# Rows predicted at once: tens of MiB per layer of usual width.
_ROWS_AT_ONCE = 65_536
# The share of the steps in which the learning rate rises to its maximum, before it falls along a cosine.
_WARM_UP = 0.1
# The parameters that determine the weights; the others say where and how the training runs.
_HYPERPARAMETERS = (
    *("hidden", "max_epochs", "batch_size", "learning_rate", "weight_decay", "validation_share", "patience"),
    *("random_state", "precision", "compile", "deterministic"),
)


@dataclass(frozen=True, slots=True)
class Epoch:
    """The mean losses of one pass over the rows: squared errors in squared units of the target, or cross entropies.

    `loss` is the training loss during the pass; `validation_loss` is that of the rows held out, after it.
    """

    loss: float
    validation_loss: float


def describe_device(device: torch.device) -> dict[str, Any]:
    """Return the facts about a device: for a GPU its name, memory in MiB, driver, clocks in MHz and watts.

    The clocks are the highest ones and those that are set for applications.
    """
    if device.type != "cuda":
        return {"kind": device.type}
    properties = torch.cuda.get_device_properties(device)
    fields = (
        *("driver_version", "clocks.max.sm", "clocks.max.mem", "power.limit"),
        *("clocks.applications.graphics", "clocks.applications.memory"),
    )
    command = ["nvidia-smi", f"--id={gpu_name(device)}", f"--query-gpu={','.join(fields)}"]
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
        **{name: value for name, value in zip(fields, values) if not value.startswith("[")},  # such as [N/A]
    }


def gpu_name(device: torch.device) -> str:
    """Return how nvidia-smi names a GPU. Raises `DeviceError` for another device."""
    if device.type != "cuda":
        raise DeviceError(f"the training runs on {device}, which is no NVIDIA GPU; leave --gpu-clocks out")
    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


class _Estimator(BaseEstimator):  # type: ignore[misc]
    """What the estimators of networks share: their parameters, the training, and the sums of the fitted network.

    What they keep of the network is `weights_`, its safetensors in float64, and `architecture_`, so that a pickle has
    nothing of PyTorch. `epochs_` are the losses of each epoch, `best_epoch_` counts from 0, `device_` says what it was
    fitted on, and `rows_per_second_` how fast, which a pickle does not keep.
    """

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (64, 64),
        max_epochs: int = 100,
        batch_size: int | None = None,
        learning_rate: float = 0.003,
        weight_decay: float = 0.1,
        validation_share: float = 0.1,
        patience: int = 20,
        random_state: int = 7,
        precision: str = "float32",
        compile: bool = False,
        deterministic: bool = False,
        device: str = "auto",
        checkpoint: Path | None = None,
        checkpoint_seconds: float = 10,
        progress: bool = False,
    ) -> None:
        """Keep the parameters, which `fit` checks.

        `hidden` are the widths of the hidden layers; none make a linear model. The default `batch_size` is a power of
        two from 32 to 4,096 that gives an epoch at least 128 steps.

        The learning rate rises, then falls to 0 at the last of `max_epochs`. The share `validation_share` of the rows
        is held out to evaluate each epoch. Of the epochs within one standard error of the lowest error the last is
        kept, since they differ by chance and later ones have a lower learning rate (the one-standard-error rule,
        Breiman et al. 1984). Training stops early if there was no such epoch for `patience` epochs. If no rows are held
        out, the training rows are used instead. `precision` is that of the layers during training.

        With a `checkpoint`, the state is written to this file after an epoch, at most every `checkpoint_seconds`. A run
        that finds the file resumes from it and ends with the same weights as without the stop. `progress` shows a
        progress bar on a terminal.
        """
        self.hidden = hidden
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.validation_share = validation_share
        self.patience = patience
        self.random_state = random_state
        self.precision = precision
        self.compile = compile
        self.deterministic = deterministic
        self.device = device
        self.checkpoint = checkpoint
        self.checkpoint_seconds = checkpoint_seconds
        self.progress = progress

    def facts(self) -> dict[str, Any]:
        """Return the hyperparameters and the history of the training, for the manifest."""
        return {
            "hyperparameters": _hyperparameters(self, self.batch_size_),
            "training": {"best_epoch": self.best_epoch_, "epochs": [asdict(epoch) for epoch in self.epochs_]},
        }

    def _fit(self, X: Matrix, y: NDArray[Any], n_classes: int) -> None:
        """Fit a network on `X` `(n_rows, n_features)` and on numbers, or on positions of classes, `y` `(n_rows,)`."""
        _check(self)
        checkpoint = Path(self.checkpoint) if self.checkpoint else None
        if checkpoint and not checkpoint.parent.is_dir():
            raise CheckpointError(f"{checkpoint} cannot be written: there is no folder {checkpoint.parent}; create it")
        with _reproducible(self):
            run = _Run(X, y, n_classes, self, find_device(self.device))
            torch.set_num_threads(run.threads)
            identity = _identity(X, y, n_classes, _hyperparameters(self, run.batch_size)) if checkpoint else {}
            if checkpoint and checkpoint.exists():
                run.restore(checkpoint, identity)
            saved_at = monotonic()
            with tqdm(
                total=self.max_epochs * run.n_rows,
                initial=len(run.epochs) * run.n_rows,
                unit="rows",
                unit_scale=True,
                disable=None if self.progress else True,  # None: if standard error is not a terminal
            ) as bar:
                while not run.is_done:
                    run.train_epoch(bar.update)
                    last = run.epochs[-1]
                    bar.set_postfix(epoch=len(run.epochs), loss=last.loss, validation=last.validation_loss)
                    if checkpoint and monotonic() - saved_at >= self.checkpoint_seconds:
                        run.save(checkpoint, identity)
                        saved_at = monotonic()
            self._network = run.finish()
        self.weights_, self.architecture_ = network.save(self._network), self._network.architecture
        self.batch_size_, self.epochs_, self.best_epoch_ = run.batch_size, tuple(run.epochs), run.best_epoch
        self.device_ = {**describe_device(run.device), "threads": run.threads}
        self.rows_per_second_ = run.rows_per_second

    def _sums(self, X: Any) -> Tensor:
        """Return the network's outputs `(n_rows, n_outputs)` for `X` `(n_rows, n_features)`, in float64 on the CPU."""
        check_is_fitted(self)
        X = _dense(validate_data(self, X, reset=False, accept_sparse=True, dtype=np.float64))
        if not hasattr(self, "_network"):
            n_outputs = len(self.classes_) if hasattr(self, "classes_") else 1
            self._network = network.load(self.architecture_, self.weights_, n_outputs)
        with torch.inference_mode():
            return torch.cat([self._network(part) for part in torch.split(torch.tensor(X), _ROWS_AT_ONCE)])

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle keeps: the weights stand for the network, and equal models have equal bytes."""
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name not in ("_network", "rows_per_second_")}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


class NetworkRegressor(RegressorMixin, _Estimator):  # type: ignore[misc]
    """A multilayer perceptron for a number, fitted by the squared error; an estimator of scikit-learn.

    It standardises its columns and the target, and takes no missing values: in a pipeline, impute them in front of it.
    The parameters are those of `_Estimator`.
    """

    def fit(self, X: Any, y: Any) -> NetworkRegressor:
        """Fit a network on `X` `(n_rows, n_features)` and `y` `(n_rows,)`.

        Raises `DeviceError` for a device that does not exist, `CheckpointError` for a checkpoint of another training
        and `ValueError` for a parameter that is not allowed or too few rows.
        """
        X, y = validate_data(self, X, y, accept_sparse=True, dtype=np.float64, y_numeric=True)
        self._fit(_dense(X), np.asarray(y, dtype=np.float64), 0)
        return self

    def predict(self, X: Any) -> NDArray[np.float64]:
        """Return `(n_rows,)` for `X` `(n_rows, n_features)`."""
        y: NDArray[np.float64] = self._sums(X)[:, 0].numpy()
        return y


class NetworkClassifier(ClassifierMixin, _Estimator):  # type: ignore[misc]
    """A multilayer perceptron for classes, fitted by the cross entropy; an estimator of scikit-learn.

    It standardises its columns, and takes no missing values: in a pipeline, impute them in front of it. The parameters
    are those of `_Estimator`. `classes_` are the sorted labels, `(n_classes,)`.
    """

    def fit(self, X: Any, y: Any) -> NetworkClassifier:
        """Fit a network on `X` `(n_rows, n_features)` and labels `y` `(n_rows,)`.

        Raises what `NetworkRegressor.fit` does, and `ValueError` for labels of fewer than two classes.
        """
        X, y = validate_data(self, X, y, accept_sparse=True, dtype=np.float64)
        check_classification_targets(y)
        classes, positions = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"all labels are {classes[0]}; a classifier needs at least 2 classes")
        self._fit(_dense(X), positions.astype(np.int64), len(classes))
        self.classes_ = classes
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, `(n_rows, n_classes)`, for `X` `(n_rows, n_features)`."""
        probabilities: NDArray[np.float64] = torch.softmax(self._sums(X), dim=1).numpy()
        return probabilities

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each row, `(n_rows,)`, for `X` `(n_rows, n_features)`."""
        labels: NDArray[Any] = self.classes_[self._sums(X).argmax(dim=1).numpy()]
        return labels


def _dense(X: Any) -> Matrix:
    """Return columns as an array; encoders give a sparse matrix if most of its numbers are 0."""
    found: Matrix = X.toarray() if hasattr(X, "toarray") else X
    return found


def _check(estimator: _Estimator) -> None:
    """Raise `ValueError` that lists every parameter that is not allowed."""
    problems = [
        f"{name} is {getattr(estimator, name)!r}; set it to {expected}"
        for name, is_valid, expected in (
            ("hidden", all(width >= 1 for width in estimator.hidden), "widths of at least 1"),
            ("max_epochs", estimator.max_epochs >= 1, "at least 1"),
            ("batch_size", estimator.batch_size is None or estimator.batch_size >= 1, "at least 1"),
            ("learning_rate", 0 < estimator.learning_rate < math.inf, "more than 0"),
            ("weight_decay", 0 <= estimator.weight_decay < math.inf, "0 or more"),
            ("validation_share", 0 <= estimator.validation_share < 1, "a share from 0 to below 1"),
            ("patience", estimator.patience >= 1, "at least 1"),
            ("precision", estimator.precision in ("float32", "bfloat16"), "float32 or bfloat16"),
        )
        if not is_valid
    ]
    if problems:
        raise ValueError("; ".join(problems))


def _hyperparameters(estimator: _Estimator, batch_size: int) -> dict[str, Any]:
    """Return the parameters that determine the weights, with the batch size that is used."""
    chosen = {name: getattr(estimator, name) for name in _HYPERPARAMETERS}
    return {**chosen, "hidden": list(estimator.hidden), "batch_size": batch_size}


@contextmanager
def _reproducible(settings: _Estimator) -> Iterator[None]:
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


def _identity(X: Matrix, y: NDArray[Any], n_classes: int, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a checkpoint must match to be resumed."""
    data = hashlib.sha256(np.ascontiguousarray(X).tobytes() + np.ascontiguousarray(y).tobytes()).hexdigest()
    return {"data": data, "classes": n_classes, **hyperparameters}


class _Run:
    """The state of one training, from one epoch to the next."""

    def __init__(self, X: Matrix, y: NDArray[Any], n_classes: int, settings: _Estimator, device: torch.device) -> None:
        """Take rows `(n_rows, n_features)`, and numbers, or positions of `n_classes` classes, `(n_rows,)`."""
        n_held_out = round(len(X) * settings.validation_share)
        if (settings.validation_share and n_held_out < 1) or len(X) - n_held_out < 2:
            raise ValueError(f"{len(X)} rows are too few to hold out {settings.validation_share:g} of them and fit")
        self.n_rows = len(X) - n_held_out
        self.batch_size = settings.batch_size or _batch_size(self.n_rows)
        self.settings, self.device = settings, device
        self._loss: Callable[[Tensor, Tensor], Tensor] = _cross_entropies if n_classes else _squared_errors
        order = torch.randperm(len(X))
        rows, target = torch.tensor(X)[order], torch.tensor(y)[order]
        self._network = Network(X.shape[1], settings.hidden, max(1, n_classes))
        self._network.x_mean.copy_(rows[: self.n_rows].mean(0))
        self._network.x_scale.copy_(_scale(rows[: self.n_rows]))
        scaled = ((rows - self._network.x_mean) / self._network.x_scale).float()
        scaled_target = target
        if not n_classes:
            self._network.y_mean.copy_(target[: self.n_rows].mean())
            self._network.y_scale.copy_(_scale(target[: self.n_rows]))
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
        self.best_epoch = -1
        self._lowest: Tensor | None = None  # the losses of the rows held out, of the epoch with the lowest mean
        self._seconds = 0.0
        self._rows_seen = 0
        self.epochs: list[Epoch] = []

    @property
    def is_done(self) -> bool:
        """Return whether all epochs are over, or early stopping applies."""
        n_epochs = len(self.epochs)
        return n_epochs == self.settings.max_epochs or n_epochs - 1 - self.best_epoch >= self.settings.patience

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
        units = float(self._network.y_scale) ** 2  # 1 for classes
        errors = self._held_out_losses()
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
            self._best, self.best_epoch = self._copy_layers(), len(self.epochs)
        self.epochs.append(epoch)
        self._seconds += monotonic() - started_at
        self._rows_seen += self.n_rows

    def _step(self, indices: Tensor) -> Tensor:
        """Take one optimizer step for a batch and return its sum of losses, on the device.

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
        """Accumulate the gradient of a micro-batch of a batch of `n_rows`; return its sum of losses."""
        X, y = self._X[micro_batch].to(self.device), self._y[micro_batch].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bfloat16"):
            outputs = self._forward(X)
        total = self._loss(outputs.float(), y).sum()
        torch.autograd.backward(total / n_rows)
        return total.detach()

    def _held_out_losses(self) -> Tensor:
        """Return the scaled losses of the rows held out, `(n_held_out,)` float64 on the CPU."""
        parts = []
        with torch.inference_mode():
            # In micro-batches, which fit even with gradients.
            for start in range(self.n_rows % len(self._X), len(self._X), self._micro_batch_rows):
                part = slice(start, start + self._micro_batch_rows)
                outputs = self._network.scaled(self._X[part].to(self.device))
                parts.append(self._loss(outputs, self._y[part].to(self.device)))
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
            "best_epoch": self.best_epoch,
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
        self._best, self.best_epoch, self._lowest = state["best"], state["best_epoch"], state["lowest"]
        self.epochs = [Epoch(**epoch) for epoch in state["epochs"]]

    @property
    def rows_per_second(self) -> float:
        """Return how many rows were trained on in a second, since the start or the checkpoint."""
        return self._rows_seen / self._seconds if self._seconds else 0.0

    def finish(self) -> Network:
        """Return the network with the best weights, in float64 on the CPU."""
        self._layers.load_state_dict(self._best)
        return self._network.cpu().double().requires_grad_(False).eval()


def _squared_errors(outputs: Tensor, y: Tensor) -> Tensor:
    """Return `(n_rows,)` for outputs `(n_rows, 1)` and scaled targets `(n_rows,)`."""
    return (outputs.squeeze(1) - y).square()


def _cross_entropies(outputs: Tensor, y: Tensor) -> Tensor:
    """Return `(n_rows,)` for outputs `(n_rows, n_classes)` and positions of classes `(n_rows,)`."""
    return functional.cross_entropy(outputs, y, reduction="none")


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
