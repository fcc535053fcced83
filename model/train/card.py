"""The model card: what a person should know about a model before using it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model.metrics import confusion, short
from model.schema.feature import described
from model.schema.features import Schema
from model.store.manifest import Metrics, Proof
from model.task import CLASSIFICATION, Task
from model.train import conformal
from model.train.candidate import Candidate
from model.train.evaluation import SMALL_GROUP, Estimate, Evaluation, Group, Rise
from model.train.subject import Subject

_MAX_SHOWN = 20  # categories of a feature
_MAX_ROWS = 10  # of a table
_SHOWN_LEVELS = (50, 80, 90, 95, 99)  # of prediction intervals, in percent


def render(
    subject: Subject,
    candidate: Candidate,
    schema: Schema,
    metrics: Metrics,
    proof: Proof,
    evaluation: Evaluation | None,
    intervals: Mapping[str, Any] | None,
) -> str:
    """Return the model card as Markdown; `intervals` are those of the manifest."""
    training, validation, data = metrics.training, metrics.validation, subject.data
    target = schema.target
    unit = f" ({target.unit})" if target.unit else ""
    what = f": {target.description}" if target.description else ""
    if subject.task is CLASSIFICATION:
        what += f", one of {len(target.categories) or 2} classes"
    split = ""
    if data.split:
        rows = candidate.facts.get("rows", {})
        how = f", {rows['parted']}" if rows else ""
        split = (
            f"- Split: {data.split.validation_share:.0%} for validation{how}, random state {data.split.random_state}\n"
        )
        aside = [f"{count:,} rows set aside: {reason}" for reason, count in rows.get("set_aside", {}).items()]
        split += "".join(f"- {line}\n" for line in aside)
    features = "\n".join(
        f"| {_cell(f.name)} | {_cell(f.description)} | {_cell(f.unit)} | {_cell(described(f, _MAX_SHOWN))} |"
        for f in schema.features
    )
    parts = [training, validation] if validation else [training]
    columns = ["training", "validation"][: len(parts)]
    rows = [f"{part.rows:,}" for part in parts]
    lines = {key: [_figure(getattr(part, key)) for part in parts] for key in subject.task.labels}
    if evaluation:
        columns, rows = [*columns, "validation, 95 % interval"], [*rows, ""]
        lines = {key: [*cells, _interval(evaluation.metrics[key])] for key, cells in lines.items()}
    figures = "\n".join(f"| {label} | {' | '.join(lines[key])} |" for key, label in subject.task.labels.items())
    held_out = (
        "The model was not fitted on the validation rows."
        if validation
        else "No rows were held out, so nothing here says how good the model is on rows that it was not fitted on."
    )
    return f"""# Model card: {subject.title}

Predicts {target.name}{what}{unit}.

- Algorithm: {candidate.algorithm}, {candidate.summary}
- Data: {data.source}; {data.rows:,} rows
{split}
## Features

| name | what | unit | values |
|---|---|---|---|
{features}
{_derived(candidate)}
{_found(candidate)}## How good it is

| | {" | ".join(columns)} |
|---|{"---|" * len(columns)}
| rows | {" | ".join(rows)} |
{figures}

{_confusion(subject, candidate)}{held_out} It also predicts for values outside the ranges above, but the data
does not show how well.

{_evaluated(evaluation, subject)}{_prediction_intervals(intervals, subject)}## What is served is what was trained

{_equality(proof, candidate, subject.task)}

## Limits

{subject.limits or "Nothing was said about them when the model was exported."}
"""


def _derived(candidate: Candidate) -> str:
    """Return a table of the features that the model itself computes, with a heading; nothing if there are none."""
    derived = candidate.facts.get("derived", [])
    if not derived:
        return ""
    rows = "\n".join(
        f"| {' | '.join(_cell(each[key]) for key in ('name', 'formula', 'description', 'owner'))} |" for each in derived
    )
    return f"""
## Derived features

The model computes these of the features above, so a request does not have them.

| name | formula | what | owner |
|---|---|---|---|
{rows}
"""


def _found(candidate: Candidate) -> str:
    """Return how the learners of a search compare, with a heading; nothing for a model that was not searched for."""
    facts = candidate.facts.get("search")
    if not facts:
        return ""
    board = facts["leaderboard"]
    rows = "\n".join(
        f"| {_cell(each['family'])} | {_figure(each['score']['mean'])} | {_figure(each['score']['low'])} to "
        f"{_figure(each['score']['high'])} | {each['n_trials']:,} |"
        for each in board["entries"]
    )
    said = "\n".join(f"- {sentence}" for sentence in [*facts["verdicts"], *facts["warnings"]])
    return f"""## How it was found

{board["trials"]:,} trials were compared by cross-validation on the training rows. Lower is better.

| learner | {board["metric"]} | 95 % interval | trials |
|---|---|---|---|
{rows}

{said}

"""


def _confusion(subject: Subject, candidate: Candidate) -> str:
    """Return a table of which labels were taken for which, with a heading; nothing for a regression."""
    if subject.task is not CLASSIFICATION:
        return ""
    X, y = subject.validation or subject.training
    labels, counts = confusion(y, candidate.engine.predict(X), subject.target.texts)
    names = list(map(_cell, labels))
    rows = "\n".join(
        f"| {name} | {' | '.join(f'{count:,}' for count in row)} |" for name, row in zip(names, counts.tolist())
    )
    which = "validation" if subject.validation else "training"
    return f"""The {which} rows by their actual label (down) and the predicted one (across):

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{rows}

"""


def _evaluated(evaluation: Evaluation | None, subject: Subject) -> str:
    """Return the sections on groups, calibration and importance; nothing without an evaluation."""
    if not evaluation:
        return ""
    error = "log loss" if subject.task is CLASSIFICATION else "RMSE"
    return f"""### By group

{_groups(evaluation, error)}

{_calibration(evaluation, subject)}{_importance(evaluation, subject)}"""


def _groups(evaluation: Evaluation, error: str) -> str:
    """Return what the groups of columns say: which are worse than all rows together."""
    groups = [group for grouping in evaluation.groups for group in grouping.groups]
    if not groups:
        return "No column divides the validation rows into groups."
    small = sum(group.small for group in groups)
    where = f"{len(groups)} groups by {', '.join(_cell(grouping.column) for grouping in evaluation.groups)}"
    few = (
        f" {small} of them have less than {SMALL_GROUP} rows and say little; none of these is listed." if small else ""
    )
    worse = sorted(evaluation.worse, key=lambda each: -(each[1].value or 0))
    whole = f"{_figure(evaluation.overall.value)} ({_interval(evaluation.overall)})"
    if not worse:
        return (
            f"The {error} of all validation rows is {whole}. Of {where}, none is worse beyond its 95 % interval.{few}"
        )
    more = len(worse) - _MAX_ROWS
    rest = f"\n\nThe manifest lists {more} more." if more > 0 else ""
    lines = "\n".join(
        f"| {_cell(column)} | {_cell(group.name)} | {group.rows:,} | {_figure(group.value)} | {_interval(group)} |"
        for column, group in worse[:_MAX_ROWS]
    )
    return f"""The {error} of all validation rows is {whole}. Of {where}, these are worse: their 95 % intervals
are above that of all rows.{few}

| column | group | rows | {error} | 95 % interval |
|---|---|---|---|---|
{lines}{rest}"""


def _calibration(evaluation: Evaluation, subject: Subject) -> str:
    if not evaluation.calibration:
        return ""
    what = "predicted probability | came true" if subject.task is CLASSIFICATION else "mean prediction | mean truth"
    lines = "\n".join(
        f"| {each.rows:,} | {_figure(each.predicted)} | {_figure(each.actual)} | "
        f"{short(each.low)} to {short(each.high)} |"
        for each in evaluation.calibration
    )
    return f"""### Calibration

Validation rows with like predictions:

| rows | {what} | 95 % interval |
|---|---|---|---|
{lines}

"""


def _importance(evaluation: Evaluation, subject: Subject) -> str:
    ranked = evaluation.importance
    if not ranked:
        return ""
    loss = "log loss" if subject.task is CLASSIFICATION else "mean squared error"
    lines = "\n".join(
        f"| {_cell(rise.column)} | {_figure(rise.value)} | {_interval(rise)} |" for rise in ranked.columns[:_MAX_ROWS]
    )
    return f"""### What it relies on

By how much the {loss} of {ranked.rows:,} validation rows rises when a column is shuffled among them,
{ranked.repeats} times. Columns that say the same stand in for each other, so each of them can look unimportant;
in a linear model whose factors for them cancel out they look more important than they are.

| column | rise | 95 % interval |
|---|---|---|
{lines}

"""


def _prediction_intervals(intervals: Mapping[str, Any] | None, subject: Subject) -> str:
    """Return the section on prediction intervals: half widths, and how often they held the true value."""
    if not intervals:
        return ""
    unit = f" ({subject.target.unit})" if subject.target.unit else ""
    half_widths = dict(zip(intervals["levels"], intervals["half_widths"]))
    measured = {each["level"]: each for each in intervals["coverage"]}
    lines = []
    for level in (percent / 100 for percent in _SHOWN_LEVELS):
        if level in half_widths:
            cells = "not enough rows"
            if each := measured.get(level):
                cells = f"{each['mean']:.1%} ({each['lowest']:.1%} to {each['highest']:.1%})"
            lines.append(f"| {level:.0%} | ± {short(half_widths[level])} | {cells} |")
    if not lines:
        return ""
    table = "\n".join(lines)
    return f"""### Prediction intervals

A request with `?interval=0.9` gets `lower` and `upper`: the prediction less and plus the half width of that level, by
{conformal.METHOD}. For rows like the {intervals["rows"]:,} that were held out,
they hold the true value at least as often as the level says, on average over all rows: less often where the model errs
more. The coverage is measured by {conformal.SPLITS} splits of the held-out rows into halves, with the half width from
one half and the coverage from the other: its mean and range.

| level | half width{unit} | coverage |
|---|---|---|
{table}

"""


def _interval(estimate: Estimate | Group | Rise) -> str:
    if estimate.low is None or estimate.high is None:
        return "not defined"
    return f"{short(estimate.low)} to {short(estimate.high)}"


def _figure(value: float | None) -> str:
    return "not defined" if value is None else short(value)


def _cell(text: str) -> str:
    """Return text for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def _equality(proof: Proof, candidate: Candidate, task: Task) -> str:
    """Return the sentences on the difference between the compiled and the trained model, and on the rows compared."""
    nearness, difference = "to the last bit", ""
    tolerance, elsewhere = candidate.tolerance, candidate.engine_facts.get("tolerance")
    if elsewhere:
        difference = (
            " An exponential is part of each prediction, and may be another number on another kind of processor, or "
            f"with another C library: a server accepts differences of up to {elsewhere:.1e}."
        )
    if allowance := candidate.allowance:
        nearness = f"within {allowance.bound}"
        difference += (
            f" At least one bit differs on {proof.different_rows:,} of them, by at most "
            f"{proof.largest_relative_difference:.1e}, and by {proof.largest_share_of_allowed:.0%} of what is allowed. "
            f"{allowance.reason}."
        )
    elif tolerance:
        nearness, of_what = f"within a relative difference of {tolerance:g}", " of the prediction"
        if task is CLASSIFICATION:
            nearness, of_what = f"within {tolerance:g} in each probability", ""
            difference = f" The label is the same unless two probabilities are equal within {2 * tolerance:g}."
        difference += (
            f" At least one bit differs on {proof.different_rows:,} of them, by at most "
            f"{proof.largest_relative_difference:.1e}{of_what}."
        )
    splits = f"{proof.split_rows:,} rows on both sides of every split, " if proof.split_rows else ""
    return (
        f"The compiled model reproduced the trained model, {nearness}, on all {proof.table_rows:,} rows of the "
        f"table, {proof.random_rows:,} random rows inside and outside the training range, {splits}and "
        f"{proof.limit_rows} rows at the limits that the trained model accepts.{difference}"
    )
