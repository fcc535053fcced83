"""The recipe from a data set to the draft of an artifact: step by step, or by running its notebook."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from model.store import artifact
from model.store.artifact import Draft
from model.store.versions import Store
from model.train import evaluate, export, notebook, table_plots, tables
from model.train.examples import DATASETS, NOTEBOOKS
from model.train.learners import LEARNERS, clocks_of


def draft(
    name: str,
    options: Mapping[str, Any],
    *,
    algorithm: str = "",
    data: Path | None = None,
    random_state: int = 7,
    owner: str = "",
) -> Draft:
    """Train a model on the data set of that name, or on the table at `data` with the same columns.

    `options` are the learner's own. Raises `ModelError` if it needs a package that is not installed.
    """
    table = tables.read(DATASETS[name], data)
    for warning in table.warnings:
        print(warning, file=sys.stderr)
    learner = LEARNERS[algorithm or table.dataset.algorithm]
    learner.check_installed()
    rows = evaluate.split(table.X, table.y, random_state=random_state)
    assert learner.fit is not None  # the command line offers no other
    with clocks_of(options) as options:
        candidate, figures = learner.fit(table, rows, options, random_state)
    figures |= {
        "distributions": table_plots.distributions(table),
        "correlations": table_plots.correlations(table),
    }
    return export.draft(table, rows, candidate, figures=figures, owner=owner)


def draft_from_notebook(
    name: str, options: Mapping[str, Any], *, data: Path | None = None, random_state: int = 7, owner: str = ""
) -> Draft:
    """Run the data set's notebook into a temporary store, and add the executed notebook to the artifact."""
    LEARNERS[DATASETS[name].algorithm].check_installed()
    with clocks_of(options) as options, TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        parameters = {
            "store": store,
            "data": data.resolve() if data else "",
            "random_state": random_state,
            "owner": owner,
            **{key: value.resolve() if isinstance(value, Path) else value for key, value in options.items()},
        }
        executed = notebook.run(NOTEBOOKS[name], parameters=parameters)
        draft = artifact.read_draft(Store(store).find(name))
    return replace(draft, files={**draft.files, "notebook.ipynb": executed})
