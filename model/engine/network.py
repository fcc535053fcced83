"""The network of an MLP, which training fits and a GPU serves. Needs PyTorch; knows nothing about training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from model.errors import DeviceError


class Network(nn.Module):
    """A perceptron from rows to predictions, or to a sum for each class, that contains the scalers.

    It has any number of hidden layers with ReLU; without any it is a linear model. The scalers of features and target
    are float64 buffers; sums of classes are not scaled. The layers are float32 during training and float64 afterwards
    (`double`), so that the compiled model agrees with them to about fifteen digits.
    """

    x_mean: Tensor  # (n_features,)
    x_scale: Tensor  # (n_features,)
    y_mean: Tensor  # ()
    y_scale: Tensor  # ()

    def __init__(self, n_features: int, hidden: Sequence[int], n_outputs: int = 1) -> None:
        super().__init__()
        self.n_outputs = n_outputs
        for name, value in {
            "x_mean": torch.zeros(n_features, dtype=torch.float64),
            "x_scale": torch.ones(n_features, dtype=torch.float64),
            "y_mean": torch.zeros((), dtype=torch.float64),
            "y_scale": torch.ones((), dtype=torch.float64),
        }.items():
            self.register_buffer(name, value)
        self.layers = nn.ModuleList(
            nn.Linear(n_in, n_out) for n_in, n_out in pairwise((n_features, *hidden, n_outputs))
        )

    @property
    def architecture(self) -> dict[str, Any]:
        """Return what `load` needs besides the weights and the number of outputs."""
        widths = [layer.out_features for layer in self.layers]
        return {"n_features": len(self.x_mean), "hidden": widths[:-1], "activation": "relu"}

    def forward(self, X: Tensor) -> Tensor:
        """Return `(n_rows, n_outputs)` for `X` `(n_rows, n_features)`, both in the units of the table."""
        return self.scaled((X - self.x_mean) / self.x_scale) * self.y_scale + self.y_mean

    def scaled(self, Z: Tensor) -> Tensor:
        """Return scaled outputs `(n_rows, n_outputs)` for scaled features `(n_rows, n_features)`."""
        for layer in self.layers[:-1]:
            Z = torch.relu(layer(Z))
        outputs: Tensor = self.layers[-1](Z)
        return outputs


def save(network: Network) -> bytes:
    """Return the weights in the safetensors format, from any device."""
    return safetensors.torch.save({name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()})


def load(architecture: Mapping[str, Any], weights: bytes, n_outputs: int = 1) -> Network:
    """Return the network that `save` wrote, float64 and without gradients.

    Raises `ValueError` if the weights do not fit the architecture.
    """
    try:
        if architecture["activation"] != "relu":
            raise ValueError(f"there is no activation {architecture['activation']!r}")
        with torch.device("meta"):  # initialises no weights; those of the file are assigned
            network = Network(architecture["n_features"], architecture["hidden"], n_outputs)
        network.load_state_dict(safetensors.torch.load(weights), assign=True)
    except (KeyError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise ValueError(f"the weights do not fit the architecture: {error}") from None
    return network.double().requires_grad_(False).eval()


def find_device(name: str) -> torch.device:
    """Return the device called `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; `auto` is a GPU if there is one.

    Raises `DeviceError` for a device that does not exist.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind in available if available[kind]))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in available:
        raise DeviceError(f"there is no device {name!r}; use auto, cpu, cuda, cuda:N or mps")
    if device.type == "cuda" and available["cuda"]:
        gpus = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
        device = torch.device("cuda", device.index or 0)
        if name != "cuda" and name not in gpus:
            raise DeviceError(f"there is no {name} here: the GPUs are {', '.join(gpus)}")
    elif not available[device.type]:
        is_built_in = device.type == "mps" or torch.version.cuda
        reason = "finds no GPU" if is_built_in else "is built without CUDA"
        raise DeviceError(f"there is no {name} here: PyTorch {torch.__version__} {reason}; use cpu")
    return device
