"""The learners, in one table: what each is called, its options, and what it needs.

The search tries them in the order of the table, in which cheap ones come first.

Importing this loads no training package, since the command line shows the options in the serving image, too.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import ModelError
from model.train import gpu_clocks

AUTO = "auto"  # all of them, compared by a search
GPU_CLOCKS = "gpu_clocks"  # the option that is done around the training, not by it

if TYPE_CHECKING:
    from model.train.learners.family import Family


@dataclass(frozen=True, slots=True)
class Learner:
    """A way to fit a model.

    `module` has its `FAMILY`, which builds pipelines for any table. `options` are its own, by name, each as arguments
    of argparse; one that is not given keeps the learner's default. `requires` are packages that may not be installed,
    each with the message for that case.
    """

    title: str
    module: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    requires: Mapping[str, str] = field(default_factory=dict)

    def family(self) -> Family:
        """Return what the search knows of it. Raises `ModelError` if a package that it requires is not installed."""
        self.check_installed()
        found: Family = import_module(f"model.train.learners.{self.module}").FAMILY
        return found

    def check_installed(self) -> None:
        """Raise `ModelError` if a package that the learner requires is not installed."""
        for package, message in self.requires.items():
            if not find_spec(package):
                raise ModelError(message)


@contextmanager
def clocks_of(options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Set the GPU's clocks as the options say until the block ends; yield the options for the training itself.

    Raises `DeviceError` where that cannot be done.
    """
    rest = dict(options)
    clocks = rest.pop(GPU_CLOCKS, None)
    if clocks is None:
        yield rest
        return
    from model.engine.network import find_device
    from model.train.learners.mlp import gpu_name

    with gpu_clocks.application_clocks(clocks, gpu_name(find_device(rest.get("device", "auto")))):
        yield rest


LEARNERS: Mapping[str, Learner] = {
    "baseline": Learner("the mean, or the share of each class", module="baseline"),
    "linear": Learner("ridge, elastic net or logistic regression of scikit-learn", module="linear"),
    "lightgbm": Learner(
        "gradient boosting of LightGBM",
        module="lightgbm",
        requires={"lightgbm": 'LightGBM is not installed; make install EXTRAS="lightgbm"'},
    ),
    "xgboost": Learner(
        "gradient boosting of XGBoost",
        module="xgboost",
        requires={"xgboost": 'XGBoost is not installed; make install EXTRAS="xgboost"'},
    ),
    "hist-gbm": Learner("gradient boosting on histograms of scikit-learn", module="hist_gbm"),
    "forest": Learner("a random forest, or extremely randomised trees, of scikit-learn", module="forest"),
    "gbm": Learner(
        "a scaled GBM of scikit-learn",
        module="gbm",
        options={"n_estimators": {"type": int, "help": "trees (default: 400)"}},
    ),
    "mlp": Learner(
        "a multilayer perceptron of PyTorch",
        module="networks",
        options={
            "device": {"help": "auto, cpu, cuda, cuda:N or mps (default: auto, a GPU if there is one)"},
            GPU_CLOCKS: {
                "type": gpu_clocks.parse,
                "metavar": "MEMORY,GRAPHICS",
                "help": "application clocks in MHz of the GPU during the training, by nvidia-smi; reset at the end",
            },
            "checkpoint": {
                "type": Path,
                "help": "file for the state of the run, from which a stopped run resumes; removed at the end",
            },
            "hidden": {"type": int, "nargs": "*", "help": "widths of the hidden layers; none: a linear regression"},
            "max_epochs": {"type": int, "help": "most passes over the rows (default: 50)"},
            "batch_size": {"type": int, "help": "rows per step (default: a 128th of all rows, within 32 to 4,096)"},
            "learning_rate": {"type": float, "help": "highest learning rate"},
            "weight_decay": {"type": float, "help": "weight decay of AdamW"},
            "validation_share": {"type": float, "help": "share of the rows held out for early stopping"},
            "patience": {"type": int, "help": "stop after this many epochs without improvement"},
            "precision": {"choices": ("float32", "bfloat16"), "help": "number format of the layers during training"},
            "compile": {"action": "store_true", "help": "use torch.compile"},
            "deterministic": {
                "action": argparse.BooleanOptionalAction,
                "help": "use only PyTorch's deterministic algorithms (default: yes)",
            },
        },
        requires={
            "torch": "an MLP needs PyTorch, which is not installed; run make train MODEL=height-weight, or "
            "pip install -r requirements-torch.txt"
        },
    ),
}

LEARNER_NAMES = (AUTO, *LEARNERS)
"""What a person may ask for."""
