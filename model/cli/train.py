"""The command that trains a model."""

from __future__ import annotations

import argparse
from pathlib import Path

from model import Store
from model.cli.arguments import Commands
from model.metrics import Scores
from model.store import artifact
from model.train.learners import LEARNERS

_OF_EXAMPLES = tuple(name for name, learner in LEARNERS.items() if learner.fit)


def add_train(commands: Commands) -> None:
    """Declare the command `train`, with the options of every learner."""
    train = commands.add_parser("train", help="train a model and make it the champion")
    train.add_argument("name", help="the data set, which is also the model's name: boston-housing or height-weight")
    train.add_argument(
        "--notebook", action="store_true", help="train with the data set's notebook, which is kept in the artifact"
    )
    train.add_argument("--data", type=Path, help="another table with the same columns (CSV)")
    train.add_argument("--algorithm", choices=_OF_EXAMPLES, help="what to fit (default: the data set's)")
    train.add_argument("--random-state", type=int, default=7, help="seed of the split and the fit (default: 7)")
    train.add_argument("--owner", default="", help="who is responsible for the model; a tag in the manifest")
    for name, learner in LEARNERS.items():
        group = train.add_argument_group(f"{name}, {learner.title}")
        for option, details in learner.options.items():
            group.add_argument(f"--{option.replace('_', '-')}", default=argparse.SUPPRESS, **details)
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> None:
    from model.train import recipe
    from model.train.examples import DATASETS

    if options.name not in DATASETS:
        raise ValueError(f"there is no data set {options.name!r}; choose one of: {', '.join(DATASETS)}")
    default_algorithm = DATASETS[options.name].algorithm
    algorithm = options.algorithm or default_algorithm
    if options.notebook and algorithm != default_algorithm:
        raise ValueError(
            f"the notebook of {options.name} trains the {default_algorithm}; leave out --notebook for the {algorithm}"
        )
    algorithm_options = {}
    for name, learner in LEARNERS.items():
        for option in vars(options).keys() & learner.options.keys():
            if name != algorithm:
                flag = f"--{option.replace('_', '-')}"
                raise ValueError(f"{flag} is an option of the {name}; leave it out for the {algorithm}")
            algorithm_options[option] = getattr(options, option)
    common = {"data": options.data, "random_state": options.random_state, "owner": options.owner}
    if options.notebook:
        draft = recipe.draft_from_notebook(options.name, algorithm_options, **common)
    else:
        draft = recipe.draft(options.name, algorithm_options, algorithm=algorithm, **common)
    path = Store(options.store).add(options.name, draft)
    if "checkpoint" in algorithm_options:
        algorithm_options["checkpoint"].unlink(missing_ok=True)  # the artifact has replaced it
    model = artifact.load(path)
    validation = model.manifest.metrics.validation
    error = f"validation MSE {validation.mse:.2f}, " if isinstance(validation, Scores) else ""
    print(f"{model.name} version {model.version}: {error}written to {path}")
