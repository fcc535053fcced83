"""The command that says which of two versions is better."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model import Artifact, ModelError, NotInStoreError, Store
from model.cli.arguments import Commands, add_log, store_of
from model.cli.reading import add_dialect, reading

if TYPE_CHECKING:
    from model.live.comparison import Evidence, Judged, Loss
    from model.live.verdict import Comparison, Margin

# The exit status of each decision; 1 and 2 are errors. Of several versions, the first of these that one of them has.
STATUS = {"better": 0, "undecided": 5, "equal": 4, "worse": 3}


@dataclass(frozen=True, slots=True)
class _Compared:
    """Two versions and what is known of them, as a whole and in each slice."""

    first: str
    second: str
    loss: Loss
    is_paired: bool
    evidence: Evidence
    found: Comparison
    slices: Mapping[str, tuple[Evidence, Comparison]]
    unseen: _Unseen


@dataclass(frozen=True, slots=True)
class _Unseen:
    """Rows of a table that were left out, since a version was fitted on them; why others may be such rows, too."""

    n_left_out: int = 0
    doubts: Mapping[str, str] = field(default_factory=dict)  # by version


def add_compare(commands: Commands) -> None:
    """Declare the command `compare`."""
    compare = commands.add_parser(
        "compare",
        help="say which of two versions is better, by true values",
        description="Compares versions by the true values in the prediction log, or in a table. The interval holds "
        "however often one looks. The exit status is 0 if the second version is better by more than the margin, 3 if "
        "it is worse, 4 if both are practically equal, and 5 if it is undecided; of several versions, 0 if any is "
        "better, else 5 if any is undecided. docs/compare.md explains it.",
    )
    compare.add_argument("name", help="the model")
    compare.add_argument(
        "versions",
        nargs="*",
        metavar="VERSION",
        help="numbers or aliases: the first (default: champion), then those that are compared with it (default: all "
        "that answered in the log; with --data, the newest other one)",
    )
    compare.add_argument(
        "--data", metavar="TABLE", help="a table with the target; rows that a version was fitted on are left out"
    )
    add_log(compare)
    add_judging(compare)
    compare.add_argument("--by", metavar="COLUMN", help="also compare by the values of this feature")
    compare.add_argument("--json", action="store_true", help="print JSON")
    add_dialect(compare, "the table's file, where it is not found out rightly")
    compare.set_defaults(run=_compare)


def add_judging(command: argparse.ArgumentParser) -> None:
    """Declare how two versions are compared."""
    command.add_argument(
        "--loss",
        choices=("squared", "absolute", "log-loss", "brier"),
        help="how wrong an answer is (default: squared, or log-loss for a classifier)",
    )
    command.add_argument(
        "--margin",
        default="1%",
        help="the difference that matters: a share of the first version's loss, such as 1%%, or a loss (default: 1%%)",
    )


def _compare(options: argparse.Namespace) -> int:
    found = _compared(options, store_of(options))
    if options.json:
        print(json.dumps([_as_json(each) for each in found], indent=1))
    else:
        for each in found:
            print("\n".join(_as_text(each, "rows" if options.data else "requests")))
    decisions = {str(each.found.decision) for each in found}
    return next(status for decision, status in STATUS.items() if decision in decisions)


def judge(
    store: Store, name: str, first: int, second: int, options: argparse.Namespace
) -> tuple[str, str, Sequence[str]]:
    """Return the decision, a key of `STATUS`, on a second version of a model, the sentence that says it, and details.

    The options are those of `compare` but for its versions and slices.
    """
    asked = argparse.Namespace(**{**vars(options), "name": name, "versions": [str(first), str(second)], "by": None})
    (each,) = _compared(asked, store)
    sentence, *details = _as_text(each, "rows" if options.data else "requests")
    return str(each.found.decision), sentence, [line.strip() for line in details]


def _compared(options: argparse.Namespace, store: Store) -> list[_Compared]:
    from model.live import comparison, verdict

    margin = margin_of(options.margin)
    compared = list(_of_table(options, store) if options.data else _of_log(options, store))
    found: list[_Compared] = []
    for first, second, judged, loss, unseen in compared:
        is_paired = comparison.is_paired(judged)
        evidence = comparison.evidence(judged, is_paired=is_paired)
        whole = verdict.compare(evidence.losses, margin=margin, sharing=len(compared))
        parts = comparison.slices(judged) if options.by else {}
        of_slices = {name: comparison.evidence(judged, is_paired=is_paired, rows=rows) for name, rows in parts.items()}
        slices = {
            name: (part, verdict.compare(part.losses, margin=margin, sharing=len(compared) * len(parts)))
            for name, part in of_slices.items()
        }
        found.append(_Compared(first, second, loss, is_paired, evidence, whole, slices, unseen))
    return found


def _of_log(options: argparse.Namespace, store: Store) -> Iterator[tuple[str, str, Judged, Loss, _Unseen]]:
    """Yield the names of two versions, their logged rows, and the loss."""
    from model.live import comparison
    from model.live.prediction_log import PredictionLog

    since = datetime.now(UTC) - timedelta(days=options.days)
    loss = comparison.LOSSES[options.loss] if options.loss else None
    first, others = _versions(options, store)
    with closing(PredictionLog(options.log, read_only=True)) as log:
        others = others or [number for number in log.versions(options.name, since=since) if number != first]
        if not others:
            raise NotInStoreError(
                f"the prediction log has no answer of {options.name} but by version {first} in the last {options.days} "
                "days; serve another version beside it, or name a table with the target by --data"
            )
        for second in others:
            judged, chosen = comparison.of_log(
                log, options.name, first, second, since=since, loss=loss, feature=options.by
            )
            yield f"version {first}", f"version {second}", judged, chosen, _Unseen()


def _of_table(options: argparse.Namespace, store: Store) -> Iterator[tuple[str, str, Judged, Loss, _Unseen]]:
    """Yield the names of two versions, the rows of the table as both answer them, the loss, and what was left out."""
    from model.live import comparison
    from model.table.reader import open_table

    first, others = _versions(options, store)
    others = others or [number for number in store.versions(options.name) if number != first][-1:]
    if not others:
        raise NotInStoreError(f"{options.name} has only version {first}; train another one to compare it with")
    models = {number: store.load(f"{options.name}@{number}") for number in dict.fromkeys((first, *others))}
    loss = _loss(options.loss, models)
    targets = {model.schema.target.name for model in models.values()}
    if len(targets) > 1:
        raise ModelError(f"the versions predict {' and '.join(sorted(targets))}, which cannot be compared")
    with open_table(options.data, **reading(options)) as relation:
        read = {number: _read(relation, model, loss, options.by) for number, model in models.items()}
    for second in others:
        of_both = [read[number] for number in (first, second)]
        kept = np.ones(len(of_both[0].losses), dtype=bool)
        for each in of_both:
            kept &= ~each.seen
        if not kept.any():
            raise ModelError(
                f"version {first} or {second} was fitted on every row of {options.data}, so that it looks better there "
                "than it is; name a table of rows that neither was fitted on"
            )
        cells = [cell for cell, is_kept in zip(of_both[0].cells, kept) if is_kept]
        judged = comparison.of_table(of_both[0].losses[kept], of_both[1].losses[kept], cells)
        names = f"version {first}", f"version {second}"
        doubts = {name: each.doubt for name, each in zip(names, of_both) if each.doubt}
        yield *names, judged, loss, _Unseen(int((~kept).sum()), doubts)


class _Read(NamedTuple):
    """The rows of a table that have a true value, for one version."""

    losses: NDArray[np.float64]
    cells: Sequence[Any]  # of a column, if one was asked for
    seen: NDArray[np.bool_]  # the rows that it was fitted on, as far as that is known
    doubt: str  # why others may be such rows, too; empty if none is


def _read(relation: Any, model: Artifact, loss: Loss, column: str | None) -> _Read:
    from model.live.comparison import row_losses
    from model.store import fitted_rows
    from model.table import served

    missing = {name: said["missing"] for name, said in model.manifest.reading.columns.items() if "missing" in said}
    rows = served.read(relation, model.schema, missing=missing, column=column or "")
    seen, doubt = None, "was fitted on many equal rows, so that no row tells whether it was one of them"
    try:
        seen = fitted_rows.has_seen(model, rows.X, model.schema)
    except NotInStoreError:
        doubt = "does not say which rows it was fitted on"
    if seen is None:
        seen = np.zeros(len(rows.y), dtype=bool)
    else:
        doubt = ""
    return _Read(row_losses(loss, rows.y, model.predict(rows.X)), rows.cells, seen, doubt)


def _loss(name: str | None, models: Mapping[int, Artifact]) -> Loss:
    """Return the loss of this name, or the usual one of the versions' task."""
    from model.live.comparison import FOR_CLASSIFICATION, FOR_REGRESSION, LOSSES

    fitting = {FOR_CLASSIFICATION if model.manifest.classes else FOR_REGRESSION for model in models.values()}
    if len(fitting) > 1:
        raise ValueError("one version is a classifier and another is not: they have no loss in common")
    (names,) = fitting
    if name and name not in names:
        raise ValueError(f"--loss {name} is no loss of this model; choose {' or '.join(names)}")
    return LOSSES[name or names[0]]


def _versions(options: argparse.Namespace, store: Store) -> tuple[int, list[int]]:
    """Return the first version that was named, or the champion, and those that are compared with it, if any was named.

    The first one is left out of these, whatever it is called there. Raises `ValueError` if there is no other.
    """
    first, *others = (_number(store, options.name, version) for version in options.versions or ("champion",))
    different = [number for number in dict.fromkeys(others) if number != first]
    if others and not different:
        raise ValueError(f"only version {first} is named, which cannot be compared with itself; name another one, too")
    return first, different


def _number(store: Store, name: str, version: str) -> int:
    """Return the number of a version; one that is named by its number may be gone from the store."""
    if version.isascii() and version.isdecimal():
        return int(version)
    return store.version(f"{name}@{version}")


def margin_of(text: str) -> Margin:
    """Return the margin that a text such as 1% or 0.5 says. Raises `ValueError`."""
    from model.live.verdict import Margin

    number = text.strip().removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"--margin {text!r} is no share such as 1% and no loss such as 0.5")
    return Margin(value / 100) if text.strip().endswith("%") else Margin(value, of_loss=False)


def _as_text(each: _Compared, unit: str) -> Iterator[str]:
    from model.live.verdict import figure, sentence

    evidence, losses = each.evidence, each.evidence.losses
    yield sentence(each.found, each.first, each.second, each.loss.name, unit=unit)
    if each.is_paired:
        yield f"  {losses.n:,} {unit} that both answered{_coverage(evidence)}"
    else:
        yield (
            f"  {losses.first.n:,} {unit} that {each.first} answered, {losses.second.n:,} that {each.second} answered"
            f"{_coverage(evidence)}; this holds if chance chose the version of each request, and not of each client"
        )
    if each.unseen.n_left_out:
        yield f"  {each.unseen.n_left_out:,} more {unit} are left out, as a version was fitted on them"
    for name, doubt in each.unseen.doubts.items():
        yield f"  {name} {doubt}; with some of them here it looks better than it is"
    if losses.first.n and losses.second.n:
        means = [_mean(each.loss.name, mean) for mean in (losses.first.mean, losses.second.mean)]
        yield f"  {means[0][0]} {figure(means[0][1])} of {each.first}, {figure(means[1][1])} of {each.second}"
    if each.slices:
        yield from _table(each.slices, unit)


def _coverage(evidence: Evidence) -> str:
    if evidence.n_with_truths == evidence.n_requests:
        return ""
    partly = f", {evidence.n_partly:,} more for some of their rows" if evidence.n_partly else ""
    share = evidence.n_with_truths / evidence.n_requests
    return f"; {share:.1%} of {evidence.n_requests:,} have true values{partly}"


def _mean(loss: str, mean: float) -> tuple[str, float]:
    """Return a mean loss as people know it."""
    return ("RMSE", math.sqrt(mean)) if loss == "squared error" else (f"mean {loss}", mean)


def _table(slices: Mapping[str, tuple[Evidence, Comparison]], unit: str) -> Iterator[str]:
    from model.live.verdict import figure

    head = ("slice", unit, "with truths", "less loss by", "95 % interval", "verdict")
    lines = [head]
    for name, (evidence, found) in slices.items():
        share = evidence.n_with_truths / evidence.n_requests if evidence.n_requests else 0.0
        has_interval = math.isfinite(found.low)
        lines.append(
            (
                name[:40],
                f"{evidence.n_requests:,}",
                f"{share:.1%}",
                "" if math.isnan(found.difference) else figure(found.difference),
                f"{figure(found.low)} to {figure(found.high)}" if has_interval else "too few",
                str(found.decision),
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines)]
    for line in lines:
        first, *rest = (
            cell.ljust(width) if not n else cell.rjust(width) for n, (cell, width) in enumerate(zip(line, widths))
        )
        yield "  ".join(["", first, *rest])


def _as_json(each: _Compared) -> dict[str, Any]:
    def facts(evidence: Evidence, found: Comparison) -> dict[str, Any]:
        numbers = {
            "difference": found.difference,
            "low": found.low,
            "high": found.high,
            "margin": found.margin,
            "loss_of_first": found.losses.first.mean,
            "loss_of_second": found.losses.second.mean,
        }
        return {
            "decision": str(found.decision),
            **{name: value if math.isfinite(value) else None for name, value in numbers.items()},
            "more": found.more if found.decision == "undecided" else 0,
            "requests": evidence.n_requests,
            "with_truths": evidence.n_with_truths,
            "partly": evidence.n_partly,
        }

    return {
        "first": each.first,
        "second": each.second,
        "loss": each.loss.name,
        "paired": each.is_paired,
        **facts(each.evidence, each.found),
        "left_out": each.unseen.n_left_out,
        "may_have_seen": list(each.unseen.doubts),
        "slices": {name: facts(*parts) for name, parts in each.slices.items()},
    }
