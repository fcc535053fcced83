"""The recipe from a data set to the draft of an artifact: step by step, or by running its notebook."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from matplotlib.figure import Figure

from model.errors import ModelError
from model.plots import training as plots
from model.store import artifact
from model.store.artifact import Draft
from model.store.versions import Store
from model.train import evaluate, export, notebook, table_plots, tables
from model.train.candidate import Candidate
from model.train.evaluate import Split
from model.train.learners import gbm
from model.train.tables import Table

# Options of `mlp.fit` besides `mlp.Settings`: where and how it runs, which is no hyperparameter.
_RUN_OPTIONS = frozenset({"device", "checkpoint"})


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

    `options` are the algorithm's own: those of `gbm.fit`, or of `mlp.Settings` and `mlp.fit`.
    """
    table = tables.read(tables.DATASETS[name], data)
    for warning in table.warnings:
        print(warning, file=sys.stderr)
    rows = evaluate.split(table.X, table.y, random_state=random_state)
    fit = _fit_mlp if (algorithm or table.dataset.algorithm) == "mlp" else _fit_gbm
    candidate, figures = fit(table, rows, options, random_state)
    predicted = candidate.predict(rows.X_validation)
    label = f"{table.dataset.target.name} ({table.dataset.target.unit})"
    figures |= {
        "distributions": table_plots.distributions(table),
        "correlations": table_plots.correlations(table),
        "predicted_against_actual": plots.predicted_against_actual(rows.y_validation, predicted, label=label),
        "residuals": plots.residuals(rows.y_validation, predicted, label=label),
    }
    return export.draft(table, rows, candidate, figures=figures, owner=owner)


def _fit_gbm(
    table: Table, rows: Split, options: Mapping[str, Any], random_state: int
) -> tuple[Candidate, dict[str, Figure]]:
    search = gbm.search(rows.X_train, rows.y_train, random_state=random_state)
    pipeline = gbm.fit(rows.X_train, rows.y_train, random_state=random_state, **options)
    return gbm.candidate(pipeline, rows.X_train, search=search), {
        "search": plots.search(search["results"]),
        "importance": plots.importance(tuple(table.X.columns), evaluate.importance(pipeline, rows)),
    }


def _fit_mlp(
    table: Table, rows: Split, options: Mapping[str, Any], random_state: int
) -> tuple[Candidate, dict[str, Figure]]:
    require_torch()
    from model.train.learners import mlp  # here, since the GBM does not need PyTorch

    settings = dict(options)
    run_options = {name: settings.pop(name) for name in _RUN_OPTIONS & options.keys()}
    fitted = mlp.fit(
        rows.X_train,
        rows.y_train,
        mlp.Settings(random_state=random_state, **settings),
        progress=True,
        **run_options,
    )
    losses = plots.losses(
        [epoch.loss for epoch in fitted.epochs],
        [epoch.validation_loss for epoch in fitted.epochs],
        best_epoch=fitted.best_epoch,
        unit=table.dataset.target.unit,
    )
    return mlp.candidate(fitted), {"losses": losses, "target_over_features": table_plots.target_over_features(table)}


def require_torch() -> None:
    """Raise `ModelError` if PyTorch is not installed."""
    if not find_spec("torch"):
        raise ModelError(
            "an MLP needs PyTorch, which is not installed; run make train MODEL=height-weight, or "
            "pip install -r requirements-torch.txt"
        )


def draft_from_notebook(
    name: str, options: Mapping[str, Any], *, data: Path | None = None, random_state: int = 7, owner: str = ""
) -> Draft:
    """Run the data set's notebook into a temporary store, and add the executed notebook to the artifact."""
    if tables.DATASETS[name].algorithm == "mlp":
        require_torch()
    with TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        parameters = {
            "store": store,
            "data": data.resolve() if data else "",
            "random_state": random_state,
            "owner": owner,
            **{key: value.resolve() if isinstance(value, Path) else value for key, value in options.items()},
        }
        executed = notebook.run(notebook.NOTEBOOKS[name], parameters=parameters)
        draft = artifact.read_draft(Store(store).find(name))
    return replace(draft, files={**draft.files, "notebook.ipynb": executed})
