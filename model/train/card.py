"""The model card: what a person should know about a model before using it."""

from __future__ import annotations

from model.metrics import confusion
from model.schema.feature import described
from model.schema.features import Schema
from model.store.manifest import Metrics, Proof
from model.task import CLASSIFICATION, Task
from model.train.candidate import Candidate
from model.train.subject import Subject

_MAX_SHOWN = 20  # categories of a feature


def render(subject: Subject, candidate: Candidate, schema: Schema, metrics: Metrics, proof: Proof) -> str:
    """Return the model card as Markdown."""
    training, validation, data = metrics.training, metrics.validation, subject.data
    target = schema.target
    unit = f" ({target.unit})" if target.unit else ""
    what = f": {target.description}" if target.description else ""
    if subject.task is CLASSIFICATION:
        what += f", one of {len(target.categories) or 2} classes"
    split = ""
    if data.split:
        split = f"- Split: {data.split.validation_share:.0%} for validation, random state {data.split.random_state}\n"
    features = "\n".join(
        f"| {_cell(f.name)} | {_cell(f.description)} | {_cell(f.unit)} | {_cell(described(f, _MAX_SHOWN))} |"
        for f in schema.features
    )
    parts = [training, validation] if validation else [training]
    figures = "\n".join(
        f"| {label} | {' | '.join(_figure(getattr(part, key)) for part in parts)} |"
        for key, label in subject.task.labels.items()
    )
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
## How good it is

| | {" | ".join(["training", "validation"][: len(parts)])} |
|---|{"---|" * len(parts)}
| rows | {" | ".join(f"{part.rows:,}" for part in parts)} |
{figures}

{_confusion(subject, candidate)}{held_out} It also predicts for values outside the ranges above, but the data
does not show how well.

## What is served is what was trained

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


def _figure(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.4g}"


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
