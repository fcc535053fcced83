"""Answers a piece of a table by a model: rows in, the same rows with answers out. Runs in processes of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from model.engine import explanation
from model.errors import Problem
from model.schema.arrow import convert, problems
from model.schema.features import Matrix
from model.score import text
from model.score.answered import Answered, packed, to_json
from model.score.plan import ARROW, CSV, JSON, Plan, Reject, Scored
from model.score.rows import Rows, arrow_table, records_of, rows_of
from model.store.artifact import Artifact

_MAX_TEXT = 10_000  # bytes of a rejected row's text


class Answerer:
    """Answers pieces of tables by one version of a model."""

    def __init__(self, model: Artifact) -> None:
        self._model = model

    def score(self, plan: Plan, piece: bytes) -> Scored:
        """Return a piece with its answers. Each row that the model cannot answer is rejected with the reason."""
        names = plan.answers(self._model.manifest)
        rows = rows_of(plan, self._model.schema, piece, names)
        answered, refused = self._answered(plan, rows)
        kept = answered.numbers
        if plan.target == plan.form == CSV and not plan.only:
            lines = text.slices(piece, rows.starts[kept], rows.ends[kept])
            content = answered.lines(plan, [lines, *answered.cells(plan)])
        elif plan.target == plan.form == JSON and not plan.only:
            content = b"".join(
                line[:-1].rstrip() + (b"}\n" if line == b"{}" else b"," + members + b"}\n")
                for line, members in zip(
                    (piece[start:end] for start, end in zip(rows.starts[kept].tolist(), rows.ends[kept].tolist())),
                    answered.members(plan),
                )
            )
        else:
            content = answered.written(plan)
        rejects = _rejects(plan, rows, {**rows.faults, **refused}, piece)
        return Scored(rows.n_rows, piece.count(b"\n"), rejects, packed(content, plan.compression))

    def _answered(self, plan: Plan, rows: Rows) -> tuple[Answered, dict[int, str]]:
        """Return the rows that the model answers, and the reason for each other well-formed one."""
        model, numbers, table = self._model, rows.numbers, rows.table
        features = plan.written.features_of(table, model.schema)
        X, is_refused = convert(features, model.schema, texts=True)
        refused: dict[int, str] = {}
        if is_refused.any():
            places = np.flatnonzero(is_refused)
            for problem in problems(features, model.schema, places.tolist(), texts=True):
                number = int(numbers[problem.row or 0])
                refused[number] = "; ".join(filter(None, [refused.get(number), _reason(problem)]))
            accepted = np.flatnonzero(~is_refused)
            X, numbers, table = X[accepted], numbers[accepted], table.take(text.indices(accepted))
        n_classes = len(model.manifest.classes)
        y = model.predict(X) if len(X) else np.empty((0, 1 + n_classes) if n_classes else 0)
        return Answered(model, numbers, table, X, y, self._explained(plan, X)), refused

    def _explained(self, plan: Plan, X: Matrix) -> dict[str, NDArray[np.float64]]:
        """Return the columns of explanations, of as many rows at once as the model explains."""
        offer = self._model.manifest.explanations
        if not plan.explain or offer is None:
            return {}
        if not len(X):
            return {name: np.empty(0) for name in explanation.columns_of(offer.names)}
        most = offer.most_rows(plan.explain)
        found = [
            self._model.explanations.explain(X[start : start + most], plan.explain).columns()
            for start in range(0, len(X), most)
        ]
        return {name: np.concatenate([each[name] for each in found]) for name in found[0]}


def _rejects(plan: Plan, rows: Rows, faults: dict[int, str], piece: bytes) -> list[Reject]:
    numbers = sorted(faults)
    if not numbers:
        return []
    if plan.form == ARROW:
        records = records_of(arrow_table(piece).take(text.indices(np.array(numbers))))
        return [Reject(row, -1, faults[row], _shown(to_json(record))) for row, record in zip(numbers, records)]
    return [
        Reject(
            row,
            piece.count(b"\n", 0, int(rows.starts[row])),
            faults[row],
            _shown(piece[int(rows.starts[row]) : int(rows.ends[row])]),
        )
        for row in numbers
    ]


def _reason(problem: Problem) -> str:
    """Return a problem without its row."""
    return str(replace(problem, row=None))


def _shown(content: bytes) -> str:
    """Return the text of a rejected row, cut off if it is very long."""
    shown = content[:_MAX_TEXT].decode(errors="backslashreplace")
    return shown if len(content) <= _MAX_TEXT else f"{shown}…"
