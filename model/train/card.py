"""The model card: what a person should know about a model before using it."""

from __future__ import annotations

from model.schema.features import Schema
from model.store.manifest import Data, Metrics, Proof
from model.train.candidate import Candidate
from model.train.dataset import Dataset


def render(dataset: Dataset, candidate: Candidate, schema: Schema, metrics: Metrics, data: Data, proof: Proof) -> str:
    """Return the model card as Markdown."""
    training, validation = metrics.training, metrics.validation
    target = schema.target
    unit = f" ({target.unit})" if target.unit else ""
    features = "\n".join(
        f"| {f.name} | {f.description} | {f.unit} | {f.minimum:g} to {f.maximum:g} |" for f in schema.features
    )
    figures = "\n".join(
        f"| {label} | {getattr(training, key):.4g} | {getattr(validation, key):.4g} |"
        for key, label in dataset.task.labels.items()
    )
    return f"""# Model card: {dataset.title}

Predicts {target.name}: {target.description}{unit}.

- Algorithm: {candidate.algorithm}, {candidate.summary}
- Data: {data.source}; {data.rows:,} rows
- Split: {data.split.validation_share:.0%} for validation, random state {data.split.random_state}

## Features

| name | what | unit | seen in training |
|---|---|---|---|
{features}

## How good it is

| | training | validation |
|---|---|---|
| rows | {training.rows:,} | {validation.rows:,} |
{figures}

The model was not fitted on the validation rows. It also predicts for values outside the ranges above, but the data
does not show how well.

## What is served is what was trained

{_equality(proof, candidate.tolerance)}

## Limits

{dataset.limits}
"""


def _equality(proof: Proof, tolerance: float) -> str:
    """Return the sentences on the difference between the compiled and the trained model, and on the rows compared."""
    nearness, difference = "to the last bit", ""
    if tolerance:
        nearness = f"within a relative difference of {tolerance:g}"
        difference = (
            f" At least one bit differs on {proof.different_rows:,} of them, by at most "
            f"{proof.largest_relative_difference:.1e} of the prediction."
        )
    splits = f"{proof.split_rows:,} rows on both sides of every split, " if proof.split_rows else ""
    return (
        f"The compiled model reproduced the trained model, {nearness}, on all {proof.table_rows:,} rows of the "
        f"table, {proof.random_rows:,} random rows inside and outside the training range, {splits}and "
        f"{proof.limit_rows} rows at the limits that the trained model accepts.{difference}"
    )
