"""What a training prints on its way, in a terminal and in a notebook: the table, and how learners compare."""

from __future__ import annotations

from dataclasses import replace

from model.train import checklist, export, recipe
from model.train.recipe import Loaded, Trained


def print_loaded(loaded: Loaded, *, source: str = "") -> None:
    """Print what the table is, a line a column, and what was found in its rows.

    `source` says where the rows are from, where the table is a file that was made of them.
    """
    table, described = loaded.table, loaded.described
    if source:
        described = replace(described, description=replace(described.description, data=source))
    checklist.print_under("table", str(described).splitlines())
    aside = [f"{count:,} rows are set aside: {reason}" for reason, count in table.set_aside.items()]
    if table.n_rows < table.n_rows_read - sum(table.set_aside.values()):
        aside.append(f"{table.n_rows:,} rows are used, drawn at random; --max-rows says how many")
    checklist.print_under("rows", aside)
    checklist.print_under("derived", [f"{each.name} = {each.formula}" for each in loaded.derived])
    checklist.print_under("check", loaded.warnings or ["no warnings"])


def print_trained(trained: Trained) -> None:
    """Print how learners compare, and what the best one accepts."""
    rows = trained.fit.rows
    print(f"split    {len(rows.training):,} rows to fit on, {len(rows.validation):,} held out: {rows.how}")
    if trained.search:
        if trained.loaded.plan.trials is None:
            n_trials = trained.search.n_trials
            print(f"search   ended in its time after {n_trials} trials; --trials {n_trials} repeats them")
        checklist.print_under("learners", trained.search.leaderboard.table().splitlines())
        left_out = trained.search.leaderboard.left_out
        checklist.print_under("left out", [f"{name}: {reason}" for name, reason in left_out.items()])
        checklist.print_under("verdict", trained.search.verdicts)
        checklist.print_under("warning", trained.search.warnings)
    subject = recipe.subject_of(trained)
    checklist.print_schema(export.schema_of(subject, trained.candidate), trained.fit.labels, subject.training[1])
    print(f"model    {trained.candidate.algorithm}: {trained.candidate.summary}")
