"""POST /predict, /models/<name>/predict and /models/<name>/versions/<version>/predict: the native API.

The forms of `application/json`, which differ in shape:

- columns, as `DataFrame.to_json()` writes them: `{"RM": {"0": 6.575, "1": 6.421}, …}`
- one record: `{"RM": 6.575, …}`
- a list of records: `[{"RM": 6.575, …}, …]`
- a table: `{"columns": ["RM", …], "data": [[6.575, …], …]}`, with or without pandas' `index`

If an object repeats a key, the last value counts, as in common JSON parsers. `formats.py` has the other types.

The reply of a classifier has the labels, and the probability of each class, which `?probabilities=true` or `false` in
the query asks for or leaves out. That of a regression has prediction intervals if the query has `?interval=0.9`. With
`?explain=true` it says what contributed to each answer, with `&top=3` the three largest contributions.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from urllib.parse import parse_qs

from flask import Blueprint

from app.config import Config
from app.errors import BodyError
from app.protocols import describe, explanations, formats, tables
from app.protocols.classification import has_classes
from app.protocols.describe import JSON
from app.protocols.endpoint import Answer, Decoded, Endpoint, Request
from app.protocols.explanations import EXPLAIN, Explain
from app.protocols.intervals import INTERVAL, LOWER, UPPER, level_of
from app.protocols.views import Views
from app.serving.current import Serving
from app.web import refusal
from app.web.body import ARROW_TYPE, NPY_TYPE, parse_json
from app.web.reply import JSON_TYPE, Reply, to_json
from model import Artifact, Matrix, Problem, Schema, SchemaError, check_width, shortened

MAX_CLASSES_SHOWN = 20  # probabilities of more classes are in a reply if they are asked for
PROBABILITIES = "probabilities"
_FLAGS = {"true": True, "false": False}
_UNFIT = {"422": "the rows do not fit the model's schema"}


class Asked(NamedTuple):
    """What the query of a request asks for; None where it does not say."""

    probabilities: bool | None = None
    level: float | None = None  # of prediction intervals
    explain: Explain | None = None


_NOTHING = Asked()


def blueprint(serving: Serving, views: Views) -> Blueprint:
    """Return the routes of the native API but for predictions."""
    routes = Blueprint("native", __name__)
    refusal.register(routes, refusal.refuse_natively)

    @routes.get("/models")
    @views.describe(describe.get(describe.NATIVE, "The loaded models, and which is the default", describe.NAMES))
    def models() -> dict[str, object]:
        """List the loaded models with the version that answers and all others, and the default one."""
        loaded = serving.loaded
        return {
            "models": [
                {
                    "name": name,
                    "version": model.version,
                    "versions": [
                        {"version": each.version, "role": loaded.role(each)} for each in loaded.versions(name)
                    ],
                }
                for name, model in loaded.models.items()
            ],
            "default": loaded.default_name,
        }

    return routes


def endpoint() -> Endpoint:
    """Return the endpoint of the native API."""
    return Endpoint(
        name="predict",
        rules=("/predict", "/models/<name>/predict", "/models/<name>/versions/<version>/predict"),
        media_types=(JSON_TYPE, *formats.TABLE_TYPES),
        decode=_decode,
        encode=_encode,
        refuse=refusal.refuse_natively,
        describe=_describe,
        may_block=lambda environ: f"{EXPLAIN}=" in environ.get("QUERY_STRING", ""),
    )


def _decode(request: Request) -> Decoded:
    if request.media_type == JSON_TYPE:
        X = decode(request.body, request.schema, max_rows=request.max_rows)
    else:
        X = formats.decode(request, header=True)
    query = request.environ.get("QUERY_STRING")
    return Decoded(X, _asked(query, request) if query else _NOTHING)


def _asked(query: str, request: Request) -> Asked:
    """Return what the query asks for. Raises `BodyError`."""
    parameters = parse_qs(query, keep_blank_values=True)
    level, sent = None, parameters.get(PROBABILITIES)
    if INTERVAL in parameters:
        level = level_of(parameters[INTERVAL][-1], request.intervals, request.schema)
    if not has_classes(request.schema):
        sent = None
    if sent and sent[-1] not in _FLAGS:
        raise BodyError(f"{PROBABILITIES} in the query is neither true nor false")
    return Asked(_FLAGS[sent[-1]] if sent else None, level, explanations.asked(parameters))


def decode(body: bytes, schema: Schema, *, max_rows: int) -> Matrix:
    """Return the rows of a JSON body as `(n_rows, n_features)` float64, in the schema's order.

    Raises `BodyError`, `TooManyRowsError`, or `SchemaError` with every problem.
    """
    value = parse_json(body, max_values=schema.max_values(max_rows))
    if isinstance(value, list):
        return tables.from_records(value, schema, max_rows=max_rows)
    if not isinstance(value, dict):
        raise BodyError("the body is neither a JSON object nor a list of them")
    columns, data = value.get("columns"), value.get("data")
    if isinstance(columns, list) and isinstance(data, list):
        unknown = [key for key in value if key not in ("columns", "data", "index")]
        check_width(len(unknown), ())
        if unknown:
            raise SchemaError([Problem(None, shortened(key), "unknown") for key in unknown], n_rows=len(data))
        return tables.from_rows(data, columns, schema, max_rows=max_rows)
    if dict in map(type, value.values()):
        return tables.from_indexed_columns(value, schema, max_rows=max_rows)
    return tables.from_records([value], schema, max_rows=max_rows)


def _encode(answer: Answer) -> Reply:
    """Return `{"prediction", "probability", "model", "version", "request_id"}`; a regression has no probability.

    On request it has `interval`, `lower` and `upper`, or `explained` and `explanations`. Parsing the floats returns the
    same bits.
    """
    wanted = formats.reply_type(answer.environ, (JSON_TYPE, ARROW_TYPE, NPY_TYPE))
    if wanted != JSON_TYPE:
        return _encode_table(answer, wanted)
    model, y, asked = answer.model, answer.y, answer.detail
    fields: dict[str, Any] = {"prediction": y}
    if y.ndim > 1:
        fields = {"prediction": answer.predictions}
        if found := probabilities(answer):
            fields["probability"] = found
    elif asked.level is not None and model.manifest.intervals:
        fields[INTERVAL] = asked.level
        fields[LOWER], fields[UPPER] = model.manifest.intervals.around(y, asked.level)
    if asked.explain:
        fields |= explanations.fields(answer, asked.explain)
    fields["model"], fields["version"], fields["request_id"] = model.name, model.version, answer.request_id
    return to_json(fields)


def probabilities(answer: Answer) -> list[dict[str, float]]:
    """Return the probability of each class by its name for each row of a classifier's answer; none for too many."""
    if not has_probabilities(answer):
        return []
    keys = answer.model.manifest.class_names
    return [dict(zip(keys, row)) for row in answer.probabilities.tolist()]


def has_probabilities(answer: Answer) -> bool:
    """Return whether the reply to a classifier's answer has the probabilities."""
    wanted: bool | None = answer.detail.probabilities
    return len(answer.model.manifest.class_names) <= MAX_CLASSES_SHOWN if wanted is None else wanted


def _encode_table(answer: Answer, media_type: str) -> Reply:
    """Return the reply in Arrow, or as an array of the predictions, or of the probabilities that were asked for."""
    asked: Asked = answer.detail
    if media_type == ARROW_TYPE:
        from app.protocols import arrow_stream  # here, since it imports pyarrow

        explained = explanations.explain(answer, asked.explain.method) if asked.explain else None
        if answer.y.ndim > 1:
            return arrow_stream.encode(answer, has_probabilities=has_probabilities(answer), explained=explained)
        return arrow_stream.encode(answer, has_probabilities=False, level=asked.level, explained=explained)
    if asked.explain or (asked.level is not None and answer.y.ndim == 1):
        raise BodyError("an array of NumPy has no place for intervals or explanations; accept JSON or Arrow")
    is_shared = answer.y.ndim > 1 and asked.probabilities
    return Reply(tables.to_npy(answer.probabilities if is_shared else answer.predictions), NPY_TYPE)


def _describe(model: Artifact, config: Config) -> JSON:
    example = describe.example(model)
    reply: JSON = {
        "type": "object",
        "required": ["prediction", "model", "version", "request_id"],
        "properties": {
            "prediction": {"type": "array", "items": describe.prediction(model), "minItems": 1},
            "model": {"const": model.name},
            "version": {"const": model.version},
            "request_id": {"type": "string"},
        },
    }
    keys = model.manifest.class_names
    if keys:
        share = {"type": "number", "minimum": 0, "maximum": 1}
        of_row: JSON = {"type": "object", "required": keys, "properties": dict.fromkeys(keys, share)}
        if len(keys) > describe.MAX_ENUM:
            of_row = {"type": "object", "additionalProperties": share, "minProperties": len(keys)}
        reply["properties"]["probability"] = {"type": "array", "items": of_row, "minItems": 1}
    intervals = model.manifest.intervals
    if intervals:
        ends = {"type": "array", "items": {"type": "number"}, "minItems": 1}
        reply["properties"] |= {INTERVAL: {"enum": intervals.levels}, LOWER: ends, UPPER: ends}
    explained, explain_parameters = explanations.described(model)
    reply["properties"] |= explained
    content = {
        "application/json": {"schema": describe.shared(model, "native"), "example": example},
        **describe.table_bodies(model, example),
    }
    summary = f"Predictions of {model.name}"
    more, error = describe.table_replies(), describe.NATIVE_ERROR
    operation = describe.post(describe.NATIVE, summary, content, reply, error, more=more, unfit=_UNFIT)
    operation["parameters"] = [*_parameters(model), *explain_parameters]
    return operation


def _parameters(model: Artifact) -> list[JSON]:
    """Return what a query may ask a classifier or a regression for."""
    n_classes, intervals = len(model.manifest.classes), model.manifest.intervals
    if n_classes:
        description = "whether the reply has the probability of each class"
        schema = {"type": "boolean", "default": n_classes <= MAX_CLASSES_SHOWN}
        return [{"name": PROBABILITIES, "in": "query", "description": description, "schema": schema}]
    if not intervals:
        return []
    description = "the level of the prediction intervals; without it the reply has none"
    return [{"name": INTERVAL, "in": "query", "description": description, "schema": {"enum": intervals.levels}}]


def describe_body(model: Artifact, max_rows: int) -> JSON:
    """Return the schema of a JSON body."""
    row = describe.shared(model, "row")
    columns = {
        feature.name: {
            "type": "object",
            "additionalProperties": describe.cell(feature),
            "minProperties": 0 if feature.missing else 1,
        }
        for feature in model.schema.features
    }
    return {
        "anyOf": [
            {**row, "description": "one record"},
            {"type": "array", "items": row, "minItems": 1, "maxItems": max_rows},
            {
                "type": "object",
                "description": "columns, as DataFrame.to_json() writes them",
                "required": list(columns),
                "properties": columns,
                "additionalProperties": False,
            },
            {
                "type": "object",
                "description": "a table",
                "required": ["columns", "data"],
                "properties": {
                    "columns": describe.columns(model),
                    "data": describe.lists(model, max_rows, in_order=False),
                    "index": {},
                },
                "additionalProperties": False,
            },
        ]
    }
