"""The recipe of a version as a schema file: what its table is, what is predicted, the learner and its parameters.

`retrain` repeats it on other rows, and so does `train --schema`. It has no cell of the table but its categories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.engine.formulas import Derived
from model.errors import DataError, ModelError
from model.store.artifact import Artifact
from model.table import schema_file
from model.table.description import Description
from model.train.learners import LEARNERS

FILE = "recipe.toml"
# Of the machine that trained, and not of the model.
_OF_MACHINE = ("checkpoint", "device", "gpu_clocks")


def render(
    description: Description,
    *,
    name: str,
    learner: str,
    parameters: Mapping[str, Any],
    derived: Sequence[Derived],
    task: str,
    title: str,
    limits: str,
    unit: str,
) -> bytes:
    """Return the recipe of a model that was trained on a table of this description.

    `parameters` are all that the learner was fitted with, whether they were given, defaults or found by a search.
    `derived` are the features that the table's columns do not give by themselves, `unit` is the target's.
    """
    columns = tuple(
        replace(column, reason="", unit=unit if column.name == description.target else column.unit)
        for column in description.columns
    )
    options = {name: value for name, value in parameters.items() if name not in _OF_MACHINE}
    recipe = replace(
        description,
        columns=columns,
        features=tuple(each for each in derived if each not in description.parts),
        name=name,
        task=task,
        title=title,
        limits=limits,
        data="",
        notebook="",
        learner=learner,
        options=options,
    )
    return schema_file.render(recipe).encode()


def read(model: Artifact) -> Description:
    """Return the recipe of a version. Raises `ModelError` for one that has none, or whose learner is gone."""
    where = f"{model.name}@{model.version}"
    if FILE not in model.manifest.files:
        raise ModelError(
            f"{where} has no recipe to repeat: it was imported or exported from a notebook, or trained by an older "
            f"version of tabserve. Train a version with a recipe, by python -m model train {model.name} --data TABLE "
            f"--target {model.schema.target.name}, or name another one, as {model.name}@VERSION"
        )
    found = schema_file.parse(Path(model.path / FILE).read_text("utf-8"), f"the recipe of {where}")
    if found.learner not in LEARNERS:
        raise DataError(f"the recipe of {where} is of the learner {found.learner!r}, which this version does not have")
    return found
