"""The model card: what a person should know about a model before using it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.metrics import confusion, short
from model.schema.feature import AS_MISSING, AS_OTHER, CATEGORY, described, to_text
from model.schema.features import Schema
from model.store.card import inline, paragraph
from model.store.manifest import Metrics, Proof
from model.task import CLASSIFICATION, Task
from model.train import conformal
from model.train.baselines import LINEAR
from model.train.candidate import Candidate
from model.train.evaluation import SMALL_GROUP, Comparison, Estimate, Evaluation, Group, Rise
from model.train.subject import Subject

_MAX_SHOWN = 20  # categories of a feature
_MAX_ROWS = 10  # of a table
_MAX_GROUPS = 20
_MAX_FEATURES = 100  # and the manifest has all of them
_MAX_NAMED = 10  # features in a sentence
_MAX_FAULTS = 30
_MAX_COMMAND = 8_192  # characters
_SHOWN_LEVELS = (50, 80, 90, 95, 99)  # of prediction intervals, in percent


def render(
    subject: Subject,
    candidate: Candidate,
    schema: Schema,
    metrics: Metrics,
    proof: Proof,
    evaluation: Evaluation | None,
    intervals: Mapping[str, Any] | None,
    explanations: Mapping[str, Any],
) -> str:
    """Return the model card as Markdown; `intervals` and `explanations` are those of the manifest.

    Every card has the same sections. What is not known is said to be so.
    """
    target = schema.target
    unit = f" ({inline(target.unit)})" if target.unit else ""
    what = f": {inline(target.description)}" if target.description else ""
    if subject.task is CLASSIFICATION:
        what += f", one of {len(target.categories) or 2} classes"
    return f"""# Model card: {inline(subject.title)}

Predicts {inline(target.name)}{what}{unit}.

## Purpose

{_purpose(subject)}

## Data and its faults

{_data(subject, candidate, schema)}

## Features

{_features(schema)}
{_derived(candidate)}
## How it was found

{_found(subject, candidate)}

## How good it is

{_scores(subject, metrics, evaluation)}
{_confusion(subject, candidate)}### By group

{_groups(evaluation, subject)}

### Beside simpler models

{_baselines(evaluation, subject)}

{_calibration(evaluation, subject)}{_importance(evaluation, subject)}{_contributions(explanations)}\
{_prediction_intervals(intervals, subject)}\
## What is served is what was trained

{_equality(proof, candidate, subject.task)}

## Limits

{_limits(subject, schema)}

## How to call it

{_call(subject, candidate, schema)}
"""


def curl(name: str, schema: Schema, row: NDArray[np.float64]) -> str:
    """Return the command that asks a local server for one row `(n_features,)` of the schema."""
    cells = zip(schema.names, schema.cells, row.tolist())
    body = json.dumps({name: kind.cell(number) for name, kind, number in cells}, ensure_ascii=False)
    return f"curl -s localhost:8000/models/{name}/predict -H 'Content-Type: application/json' -d {shlex.quote(body)}"


def _purpose(subject: Subject) -> str:
    owner, terms = (inline(subject.tags.get(key, "")) for key in ("owner", "license"))
    return f"""{paragraph(subject.purpose) or "Nobody said what it is for when it was made (`--purpose`)."}

- Owner: {owner or "nobody was named (`--owner`)"}
- License: {terms or "none was named (`--license`)"}"""


def _data(subject: Subject, candidate: Candidate, schema: Schema) -> str:
    """Return where the rows are from, how they were divided, and what is wrong with them."""
    data = subject.data
    rows = candidate.facts.get("rows", {})
    held_out = len(subject.validation[1]) if subject.validation else 0
    lines = [f"Source: {inline(data.source)}; {data.rows:,} rows", f"SHA-256 of the table: {inline(data.sha256)}"]
    lines += [f"{count:,} rows set aside: {inline(reason)}" for reason, count in rows.get("set_aside", {}).items()]
    if data.split:
        how = f", {rows['parted']}" if rows else ""
        share = f"{data.split.validation_share:.0%} for validation{how}, random state {data.split.random_state}"
        lines.append(f"Split: {share}: {len(subject.training[1]):,} rows to fit on, {held_out:,} held out")
    elif held_out:
        lines.append(f"Held out by its author: {held_out:,} rows, which are not among these")
    else:
        lines.append("Held out: none")
    gaps = np.isnan(subject.X).mean(axis=0) if len(subject.X) else np.zeros(len(schema.names))
    missing = [f"{name} {share:.2%}" for name, share in zip(schema.names, gaps.tolist()) if share]
    lines.append(f"Missing cells: {_named(missing) or 'none'}")
    if not subject.was_checked:
        faults = (
            "Its faults are not known: the model was fitted elsewhere, and its table was not checked. "
            "`python -m model check FILE` checks one."
        )
    elif data.warnings:
        listed = [f"- {paragraph(warning)}" for warning in data.warnings[:_MAX_FAULTS]]
        more = len(data.warnings) - _MAX_FAULTS
        listed += [f"- {more:,} more, which the manifest lists"] if more > 0 else []
        faults = "The checks found:\n\n" + "\n".join(listed)
    else:
        faults = "The checks found no fault. What a table does not have, they cannot see."
    return "\n".join(f"- {line}" for line in lines) + f"\n\n{faults}"


def _features(schema: Schema) -> str:
    rows = [
        f"| {inline(f.name)} | {inline(f.description)} | {inline(f.unit)} | {f.type} | "
        f"{inline(described(f, _MAX_SHOWN))} |"
        for f in schema.features[:_MAX_FEATURES]
    ]
    more = len(schema.features) - _MAX_FEATURES
    rest = f"\n\nThe manifest lists {more:,} more." if more > 0 else ""
    return "| name | what | unit | type | values |\n|---|---|---|---|---|\n" + "\n".join(rows) + rest


def _scores(subject: Subject, metrics: Metrics, evaluation: Evaluation | None) -> str:
    """Return a table of the metrics with their intervals."""
    parts = [metrics.training, metrics.validation] if metrics.validation else [metrics.training]
    columns = ["training", "validation"][: len(parts)]
    rows = [f"{part.rows:,}" for part in parts]
    lines = {key: [_figure(getattr(part, key)) for part in parts] for key in subject.task.labels}
    if evaluation:
        columns, rows = [*columns, "validation, 95 % interval"], [*rows, ""]
        lines = {key: [*cells, _interval(evaluation.metrics[key])] for key, cells in lines.items()}
    figures = "\n".join(f"| {label} | {' | '.join(lines[key])} |" for key, label in subject.task.labels.items())
    held_out = (
        "The model was not fitted on the validation rows."
        if metrics.validation
        else "No rows were held out, so nothing here says how good the model is on rows that it was not fitted on, and "
        "there is no interval."
    )
    return f"""| | {" | ".join(columns)} |
|---|{"---|" * len(columns)}
| rows | {" | ".join(rows)} |
{figures}

{held_out}
"""


def _derived(candidate: Candidate) -> str:
    """Return a table of the features that the model itself computes, with a heading; nothing if there are none."""
    derived = candidate.facts.get("derived", [])
    if not derived:
        return ""
    rows = "\n".join(
        f"| {' | '.join(inline(each[key]) for key in ('name', 'formula', 'description', 'owner'))} |"
        for each in derived
    )
    return f"""
## Derived features

The model computes these of the features above, so a request does not have them.

| name | formula | what | owner |
|---|---|---|---|
{rows}
"""


def _found(subject: Subject, candidate: Candidate) -> str:
    """Return what was fitted, and how the learners of a search compare."""
    settings = candidate.facts.get("hyperparameters", {})
    lines = [f"- Algorithm: {inline(candidate.algorithm)}, {inline(candidate.summary)}"]
    if settings:
        lines.append(f"- Parameters: {inline(', '.join(f'{name} {value}' for name, value in settings.items()))}")
    fitted = "\n".join(lines)
    facts = candidate.facts.get("search")
    if not facts:
        how = (
            "No other learner was tried"
            if subject.was_checked
            else "It was fitted elsewhere: what else was tried is not known"
        )
        return f"{fitted}\n\n{how}."
    board = facts["leaderboard"]
    rows = "\n".join(
        f"| {inline(each['family'])} | {_figure(each['score']['mean'])} | {_figure(each['score']['low'])} to "
        f"{_figure(each['score']['high'])} | {each['n_trials']:,} |"
        for each in board["entries"]
    )
    said = "\n".join(f"- {paragraph(sentence)}" for sentence in [*facts["verdicts"], *facts["warnings"]])
    return f"""{fitted}

{board["trials"]:,} trials were compared by cross-validation on the training rows. Lower is better.

| learner | {board["metric"]} | 95 % interval | trials |
|---|---|---|---|
{rows}

{said}"""


def _confusion(subject: Subject, candidate: Candidate) -> str:
    """Return a table of which labels were taken for which, with a heading; nothing for a regression."""
    if subject.task is not CLASSIFICATION:
        return ""
    X, y = subject.validation or subject.training
    labels, counts = confusion(y, candidate.engine.predict(X), subject.target.texts)
    names = list(map(inline, labels))
    rows = "\n".join(
        f"| {name} | {' | '.join(f'{count:,}' for count in row)} |" for name, row in zip(names, counts.tolist())
    )
    which = "validation" if subject.validation else "training"
    return f"""The {which} rows by their actual label (down) and the predicted one (across):

| | {" | ".join(names)} |
|---|{"---|" * len(names)}
{rows}

"""


def _error(subject: Subject) -> str:
    return "log loss" if subject.task is CLASSIFICATION else "RMSE"


def _groups(evaluation: Evaluation | None, subject: Subject) -> str:
    """Return the error of each group of rows, and which are worse than all rows together."""
    if not evaluation:
        return "Not known, since it takes rows that were held out."
    error = _error(subject)
    groups = [(grouping.column, group) for grouping in evaluation.groups for group in grouping.groups]
    if not groups:
        return "No column divides the validation rows into groups."
    small = sum(group.small for _, group in groups)
    few = f" {small} of them have less than {SMALL_GROUP} rows and say little." if small else ""
    n_worse = sum(group.worse for _, group in groups)
    worse = f"{n_worse} of them are worse: their intervals are above that of all rows" if n_worse else "none is worse"
    columns = ", ".join(inline(grouping.column) for grouping in evaluation.groups)
    shown = groups
    if len(groups) > _MAX_GROUPS:
        shown = sorted(groups, key=lambda each: (not each[1].worse, each[1].small, -(each[1].value or 0)))[:_MAX_GROUPS]
    lines = "\n".join(
        f"| {inline(column)} | {inline(group.name)} | {group.rows:,} | {_figure(group.value)} | {_interval(group)} | "
        f"{'worse' if group.worse else 'few rows' if group.small else ''} |"
        for column, group in shown
    )
    more = len(groups) - len(shown)
    rest = f"\n\nThese have the largest errors; the manifest lists {more} more." if more else ""
    whole = f"{_figure(evaluation.overall.value)} ({_interval(evaluation.overall)})"
    return f"""The {error} of all validation rows is {whole}.
There are {len(groups)} groups by {columns}. Beyond the 95 % interval, {worse}.{few}

| column | group | rows | {error} | 95 % interval | |
|---|---|---|---|---|---|
{lines}{rest}"""


def _baselines(evaluation: Evaluation | None, subject: Subject) -> str:
    """Return how the model compares with the mean and with a linear model."""
    if not evaluation:
        return "Not known, since it takes rows that were held out."
    error = _error(subject)
    lines = [
        f"| {each.name} | {_figure(each.error.value)} | {_interval(each.error)} | {_figure(each.gain.value)} | "
        f"{_interval(each.gain)} | {_judged(each)} |"
        for each in evaluation.baselines
    ]
    own = f"| **this model** | {_figure(evaluation.overall.value)} | {_interval(evaluation.overall)} | | | |"
    absent = "" if any(each.name == LINEAR for each in evaluation.baselines) else "\n\nNo linear model could be fitted."
    return f"""Models that are fitted on the same training rows and asked for the same validation rows. The linear one
has the features above, and none that is derived from them. An interval of a difference is for pairs: both models
answer each row. Where it has 0 in it, the verdict on this model is undecided.

| | {error} | 95 % interval | higher by | 95 % interval | verdict |
|---|---|---|---|---|---|
{chr(10).join([own, *lines])}{absent}"""


def _judged(compared: Comparison) -> str:
    low, high = compared.gain.low, compared.gain.high
    if low is None or high is None or low <= 0 <= high:
        return "undecided"
    return "better" if low > 0 else "worse"


def _calibration(evaluation: Evaluation | None, subject: Subject) -> str:
    if not evaluation or not evaluation.calibration:
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


def _importance(evaluation: Evaluation | None, subject: Subject) -> str:
    ranked = evaluation.importance if evaluation else None
    if not ranked:
        return ""
    loss = "log loss" if subject.task is CLASSIFICATION else "mean squared error"
    lines = "\n".join(
        f"| {inline(rise.column)} | {_figure(rise.value)} | {_interval(rise)} |" for rise in ranked.columns[:_MAX_ROWS]
    )
    return f"""### What it relies on

By how much the {loss} of {ranked.rows:,} validation rows rises when a column is shuffled among them,
{ranked.repeats} times. Columns that say the same stand in for each other, so each of them can look unimportant;
in a linear model whose factors for them cancel out they look more important than they are.

| column | rise | 95 % interval |
|---|---|---|
{lines}

"""


def _contributions(explanations: Mapping[str, Any]) -> str:
    """Return a table of how much each feature contributes to answers; a sentence if that is not known."""
    heading = "### What moves its answers\n\n"
    if reason := explanations.get("reason"):
        return f"{heading}Not known, since {inline(reason)}.\n\n"
    means, n_rows = explanations["mean_absolute"], explanations["mean_absolute_rows"]
    total = sum(means.values()) or 1.0
    largest = sorted(means.items(), key=lambda each: -each[1])[:_MAX_ROWS]
    lines = "\n".join(f"| {inline(name)} | {short(mean)} | {mean / total:.1%} |" for name, mean in largest)
    more = len(means) - len(largest)
    rest = f"\n\nThe manifest lists {more:,} more." if more > 0 else ""
    return f"""{heading}The mean absolute contribution to the {explanations["explains"]}, over {n_rows:,} training rows,
and its share of all contributions. It says what the model uses, whether or not that makes it better.

| column | contribution | share |
|---|---|---|
{lines}{rest}

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


def _named(names: Sequence[str]) -> str:
    """Return the first names in a sentence."""
    more = len(names) - _MAX_NAMED
    return ", ".join(map(inline, names[:_MAX_NAMED])) + (f" and {more:,} more" if more > 0 else "")


def _limits(subject: Subject, schema: Schema) -> str:
    """Return a person's words about limits, and what the schema says of values that training did not see."""
    may_be: list[str] = []
    must_be: list[str] = []
    treated: dict[str, list[str]] = {}
    for feature in schema.features:
        (may_be if feature.missing else must_be).append(feature.name)
        if feature.type == CATEGORY:
            treated.setdefault(feature.unseen, []).append(feature.name)
    lines = [
        "It also predicts for values outside the ranges above, but the data does not show how well. Combinations that "
        "the table does not have are no less unknown than values."
    ]
    if may_be:
        lines.append(
            f"May be missing: {_named(may_be)}. Missing is `null` or NaN in JSON, and in CSV an empty cell, NA, N/A, "
            "NaN, null or None, but for a category of that name."
        )
    if must_be:
        lines.append(f"Refused where missing: {_named(must_be)}.")
    ways = {AS_MISSING: "counts as a missing one", AS_OTHER: "counts as one more category"}
    lines += [
        f"A category that training did not see {ways.get(way, 'is refused')}: {_named(names)}."
        for way, names in treated.items()
    ]
    if not treated:
        lines.append("No feature is a category.")
    if subject.task is CLASSIFICATION:
        lines.append("It answers one of its classes for every row, also where none of them is right.")
    said = paragraph(subject.limits) or "Nobody said what it must not be used for when it was made (`--limits`)."
    return f"{said}\n\n" + "\n".join(f"- {line}" for line in lines)


def _call(subject: Subject, candidate: Candidate, schema: Schema) -> str:
    """Return a request for the table's first row, with its answer."""
    command = curl(subject.name, schema, subject.X[0])
    if len(command) > _MAX_COMMAND:
        return "A request has too many features to be shown; the page of a server, and its OpenAPI document, have one."
    [answer] = candidate.engine.predict(subject.X[:1]).reshape(1, -1)[:, 0].tolist()
    label = subject.target.cells.cell(answer) if subject.task is CLASSIFICATION else answer
    fence = "`" * (max(map(len, re.findall("`+", command)), default=0) + 3)
    return f"""Of a server on this machine, for the first row of the table:

{fence}sh
{command}
{fence}

It answers {inline(to_text(label))}. The reply also names the version that answered. A body may have many rows, as
records, as columns or as CSV; `/docs/` of the server has every form and every protocol."""


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
