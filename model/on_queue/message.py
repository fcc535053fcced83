"""One message in, one document out: the predictions of its records, or the reason why there are none.

The document of a message has the same bytes each time the same version answers it. Knows nothing of queues.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import Problem, SchemaError, first_line, one_line
from model.schema.features import Schema, check_width, shape_problems
from model.store.artifact import Artifact
from model.store.files import parse_json

ID = "id"
"""The key of a record by which its sender knows it, unless another one is named."""

_MAX_PROBLEMS = 100  # in the document of a message that is not answered


@dataclass(frozen=True, slots=True)
class Message:
    """A message as a queue has it: its id and its text."""

    id: str
    body: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The document about a message, and how many rows were predicted. If there is a `reason`, none was."""

    content: bytes
    n_rows: int
    reason: str = ""


def answer(message: Message, model: Artifact, *, id_key: str = ID) -> Answer:
    """Return the predictions of a message, or the reason why it cannot be answered, as a document of JSON."""
    facts = {"message_id": message.id, **_facts(model)}
    try:
        document = predict(parse_json(message.body.encode()), model, id_key=id_key)
    except Exception as error:  # whatever a message does, the next one is answered
        problems = error.problems[:_MAX_PROBLEMS] if isinstance(error, SchemaError) else ()
        reason = one_line(str(error) if isinstance(error, SchemaError) else f"not a table: {first_line(error)}")
        listed = [shown(problem) for problem in problems]
        return Answer(_to_json({"reason": reason, "problems": listed, **facts, "body": message.body}), 0, reason)
    return Answer(_to_json({**document, **facts}), len(document["prediction"]))


def predict(value: Any, model: Artifact, *, id_key: str = ID) -> dict[str, Any]:
    """Return `{"prediction": […]}` for the JSON value of a request, in any form that the service takes.

    A classifier has `probability`, too, by the names of its classes. If a record has the key `id_key`, the result has a
    list of these; the key is no feature unless the model has one of that name. Raises `SchemaError` with every problem,
    and `ValueError` for what is no table.
    """
    schema, found = model.schema, {}
    records = _records(value, schema)
    if any(id_key in record for record in records):
        found[ID] = [record.get(id_key) for record in records]
        _check_ids(found[ID])
        if id_key not in schema.by_name:
            records = [{name: cell for name, cell in record.items() if name != id_key} for record in records]
    y = model.predict(schema.matrix_from_records(records))
    classes = model.manifest.classes
    if not classes:
        return {"prediction": y.tolist(), **found}
    answers = y.tolist()
    return {
        "prediction": [classes[int(position)] for position, *_ in answers],
        "probability": [dict(zip(model.manifest.class_names, shares)) for _, *shares in answers],
        **found,
    }


def shown(problem: Problem) -> dict[str, Any]:
    """Return a problem as the service's replies have it."""
    found: dict[str, Any] = {"row": problem.row, "feature": problem.feature, "reason": problem.reason}
    if problem.nearest is not None:
        found["nearest"] = problem.nearest
    return {**found, "accepted": problem.accepted} if problem.accepted else found


def _facts(model: Artifact) -> dict[str, Any]:
    return {"model": model.name, "version": model.version, "digest": model.manifest.digest}


def _to_json(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    return f"{text}\n".encode(errors="backslashreplace")  # half a pair of surrogates has no bytes


def _check_ids(ids: Sequence[Any]) -> None:
    """Raise `ValueError` for what Python reads and writes as JSON, and others do not."""
    try:
        json.dumps(ids, allow_nan=False)
    except ValueError:
        raise ValueError("its ids have NaN or an infinity, which JSON has not") from None


def _records(value: Any, schema: Schema) -> list[Mapping[str, Any]]:
    """Return one mapping a row. Raises `SchemaError` or `ValueError`."""
    if isinstance(value, dict):
        columns, data = value.get("columns"), value.get("data")
        if isinstance(columns, list) and isinstance(data, list):
            check_width(len(columns), schema.names)
            return _of_table(columns, data)
        if dict in map(type, value.values()):
            check_width(len(value), schema.names)  # each may name rows of its own, which the others lack
            value = _of_columns(value)
        else:
            value = [value]
    if not isinstance(value, list):
        raise ValueError("it is neither a JSON object nor a list of them")
    problems = [Problem(row, None, "not an object") for row, record in enumerate(value) if not isinstance(record, dict)]
    if problems or not value:
        raise SchemaError(problems or [Problem(None, None, "there are no rows")], n_rows=len(value))
    return value


def _of_table(columns: Sequence[Any], data: Sequence[Any]) -> list[Mapping[str, Any]]:
    """Return the records of `{"columns": ["RM", …], "data": [[6.575, …], …]}`."""
    if not all(isinstance(name, str) for name in columns) or not all(isinstance(cells, list) for cells in data):
        raise ValueError("its columns are not all strings, or its rows are not all lists")
    problems = shape_problems(data, columns)
    if problems or not data:
        raise SchemaError(problems or [Problem(None, None, "there are no rows")], n_rows=len(data))
    return [dict(zip(columns, cells)) for cells in data]


def _of_columns(columns: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the records of `{"RM": {"0": 6.575, …}, …}`; an absent cell is a missing value."""
    problems = [Problem(None, name, "not an object") for name, cells in columns.items() if not isinstance(cells, dict)]
    if problems:
        raise SchemaError(problems, n_rows=0)
    index = dict.fromkeys(key for cells in columns.values() for key in cells)
    return [{name: cells.get(key) for name, cells in columns.items()} for key in index]
