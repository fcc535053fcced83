"""The learners, in one table: what each is called, its options, and what it needs.

The search tries them in the order of the table, in which cheap ones come first.

Importing this loads no training package, since the command line shows the options in the serving image, too.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import DataError, ModelError
from model.task import CLASSIFICATION, REGRESSION
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


def options_of(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a learner's options from a schema file, with texts as the command line reads them.

    Raises `DataError` for an option that the learner does not have, or a value that is not of its type, and
    `ModelError` if a package that it requires is not installed.
    """
    learner = LEARNERS[name]
    defaults = [learner.family().defaults(task) for task in (REGRESSION, CLASSIFICATION)]
    options = dict.fromkeys(option for default in defaults for option in default)
    examples = {option: [default[option] for default in defaults if option in default] for option in options}
    check_names(name, given, options)
    faults, found = [], {}
    for option, value in given.items():
        details = learner.options.get(option)
        try:
            found[option] = _by_argument(details, value) if details else _by_examples(examples[option], value)
        except ValueError as error:
            faults.append(f"{option} in options is {value!r}, and not {error}")
    if faults:
        raise DataError("\n  ".join([f"the options of the learner {name} cannot be used:", *faults]))
    return found


def check_names(name: str, given: Iterable[str], defaults: Iterable[str]) -> None:
    """Raise `DataError` for a name that is neither among a learner's defaults nor one of its options."""
    known = dict.fromkeys([*defaults, *LEARNERS[name].options])
    if unknown := [option for option in given if option not in known]:
        offered = ", ".join(known) or "none"
        raise DataError(f"the learner {name} has no option {unknown[0]!r}; its options are {offered}")


def _by_argument(details: Mapping[str, Any], value: Any) -> Any:
    """Return a value as the argument of the command line is. Raises `ValueError` with what it may be."""
    if choices := details.get("choices"):
        if not isinstance(value, str) or value not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return value
    kind = details.get("type", bool if "action" in details else str)
    if details.get("nargs"):
        return _list_of_counts(value)
    if kind in (Path, gpu_clocks.parse) and isinstance(value, str):
        try:
            return kind(value)
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"what it must be: {error}") from None
    return _by_examples([kind() if kind in _KINDS else ""], value)


def _by_examples(examples: Sequence[Any], value: Any) -> Any:
    """Return a value that is of the type of one of the examples. Raises `ValueError` with what it may be."""
    if isinstance(examples[0], (list, tuple)):
        return _list_of_counts(value)
    kinds = [type(example) for example in examples]
    is_finite = not isinstance(value, float) or math.isfinite(value)
    if type(value) in kinds and is_finite:
        return value
    if float in kinds and type(value) is int:
        return value if str in kinds else float(value)  # 1 of a forest's `max_features` is one, and 1.0 is all of them
    raise ValueError(" or ".join(dict.fromkeys(_KINDS[kind] for kind in kinds)))


def _list_of_counts(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not all(type(each) is int for each in value):
        raise ValueError("a list of whole numbers")
    return value


_KINDS: Mapping[type, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


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
            "hidden": {
                "type": int,
                "nargs": "*",
                "help": "widths of the hidden layers (default: 64 64); none: a linear regression",
            },
            "max_epochs": {"type": int, "help": "most passes over the rows (default: 50)"},
            "batch_size": {"type": int, "help": "rows per step (default: a 128th of all rows, within 32 to 4,096)"},
            "learning_rate": {"type": float, "help": "highest learning rate (default: 0.003)"},
            "weight_decay": {"type": float, "help": "weight decay of AdamW (default: 0.1)"},
            "validation_share": {"type": float, "help": "share of the rows held out for early stopping (default: 0.1)"},
            "patience": {"type": int, "help": "stop after this many epochs without improvement (default: 20)"},
            "precision": {
                "choices": ("float32", "bfloat16"),
                "help": "number format of the layers during training (default: float32)",
            },
            "compile": {"action": "store_true", "help": "use torch.compile (default: no)"},
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
