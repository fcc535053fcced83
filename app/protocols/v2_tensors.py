"""V2's tensors: decodes requests, in JSON or JSON and binary, to one matrix, and encodes predictions.

Formats: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and Triton's
extension_binary_data.md. Where the published YAML (open_inference_rest.yaml) and the servers disagree:

- The YAML allows no null for an absent field, and servers send nulls: we leave absent fields out.
- The YAML wants an array of numbers as `data`; the text and every server accept nested arrays, too: so do we.
- The YAML has neither `binary_data_size` nor binary replies; Triton's extension adds both, and its client uses them by
  default.
- FP32 in JSON is rounded to float32, as Triton and KServe do, so that JSON and binary mean the same.
- A number may have any numeric datatype; Triton accepts only the declared one. BOOL is for booleans, which may also be
  the numbers 0 and 1, and BYTES for categories that are strings and for dates.
- No datatype has missing values. In JSON null is one, as in other protocols. NaN is one, and in BYTES the empty string,
  unless it is a category.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from math import prod
from types import NoneType
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from app.errors import BodyError
from app.protocols import explanations, tables
from app.protocols.classification import has_classes
from app.protocols.endpoint import Answer
from app.protocols.intervals import DEFAULT_LEVEL, INTERVAL, LOWER, UPPER, level_of
from app.web.body import parse_json, whole_number
from model import (
    BOOLEAN,
    INTEGER,
    Artifact,
    Category,
    Feature,
    Intervals,
    Matrix,
    Problem,
    Schema,
    SchemaError,
    check_width,
    shortened,
)

DATATYPE = "FP64"  # of numbers
OUTPUT = "prediction"  # of a regression
# A classifier's outputs, with the names of MLServer's scikit-learn runtime.
LABELS, PROBABILITIES = "predict", "predict_proba"
CONTRIBUTIONS = "contributions"  # only if it is asked for by name; the base is last, as in Triton's FIL backend
BOOL, BYTES, INT64 = "BOOL", "BYTES", "INT64"

DATATYPES = {f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)}
DATATYPES |= {f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)}
DATATYPES |= {f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)}
DATATYPES |= {BOOL: np.dtype("u1"), BYTES: np.dtype(object)}
_LENGTH_BYTES = 4  # before each string of a binary tensor


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a request asks for: rows `(n_rows, n_features)`, its id, and the outputs and whether each is binary.

    `level` is that of the prediction intervals, if the request asks for them.
    """

    rows: Matrix
    id: str | None
    outputs: Mapping[str, bool]
    level: float | None


@dataclass(frozen=True, slots=True)
class Tensor:
    """One input of a request: `cells` are numbers of its datatype, or values if some are not numbers."""

    name: str
    shape: tuple[int, ...]
    cells: NDArray[Any] | list[Any]


def decode(
    body: bytes, json_length: str | None, schema: Schema, *, max_rows: int, intervals: Intervals | None
) -> InferRequest:
    """Return a decoded infer request; `json_length` is its Inference-Header-Content-Length, if it has one.

    The inputs are one tensor for each feature, `[n]` or `[n, 1]`, in any order; or one tensor `[n, n_features]` of any
    other name, in the schema's order, if no feature is of strings. Raises `BodyError`, `TooManyRowsError`, or
    `SchemaError` with every problem.
    """
    header, tail = _split(body, json_length)
    document = parse_json(header, max_values=schema.max_values(max_rows))
    if not isinstance(document, dict):
        raise BodyError("the request is not a JSON object")
    identity = document.get("id")
    if identity is not None and not isinstance(identity, str):
        raise BodyError("id is not a string")
    outputs = _outputs(document, schema, intervals)
    level = _level(document, outputs, schema, intervals)
    inputs = document.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise BodyError("inputs is not a list of tensors")
    check_width(len(inputs), schema.names)
    return InferRequest(_matrix(_tensors(inputs, tail, schema, max_rows), schema), identity, outputs, level)


def encode(answer: Answer) -> tuple[bytes, int | None]:
    """Return the reply's body, and the length of its JSON if binary data follow."""
    model, infer_request = answer.model, answer.detail
    outputs, parts = [], []
    ends: dict[str, NDArray[np.float64]] = {}
    if infer_request.level is not None and model.manifest.intervals:
        ends[LOWER], ends[UPPER] = model.manifest.intervals.around(answer.y, infer_request.level)
    for name, binary in infer_request.outputs.items():
        if name == LABELS:
            kind, values, shape = label_datatype(model.schema.target), answer.predictions, answer.y.shape[:1]
        elif name == CONTRIBUTIONS:
            found = explanations.explain(answer)
            kind, values = DATATYPE, np.column_stack([found.contributions, found.bases])
            shape = values.shape
        else:
            numbers = answer.probabilities if name == PROBABILITIES else ends.get(name, answer.y)
            kind, values, shape = DATATYPE, numbers, numbers.shape
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": shape}
        if binary:
            parts.append(_to_bytes(values, kind))
            output["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            output["data"] = values.ravel() if isinstance(values, np.ndarray) else values
        outputs.append(output)
    document: dict[str, Any] = {"model_name": model.name, "model_version": str(model.version), "outputs": outputs}
    if infer_request.id is not None:
        document["id"] = infer_request.id
    text = orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY)
    return b"".join([text, *parts]), len(text) if parts else None


def metadata(model: Artifact) -> dict[str, Any]:
    """Return a model's input and output tensors, as in V2's metadata.

    The classes are a parameter of the probabilities, as JSON, since V2's parameters are strings, numbers or booleans.
    So are the levels of prediction intervals of the prediction, and the names of the columns of `contributions`, if
    they are offered. Neither these nor the ends of intervals are listed: a request that names no outputs gets all those
    that are.
    """
    schema = model.schema
    inputs = [{"name": feature.name, "datatype": datatype(feature), "shape": [-1]} for feature in schema.features]
    classes, offer = list(model.manifest.classes), model.manifest.explanations
    explained = {CONTRIBUTIONS: orjson.dumps([*offer.names, "base"]).decode()} if offer else {}
    if not classes:
        output: dict[str, Any] = {"name": OUTPUT, "datatype": DATATYPE, "shape": [-1]}
        if intervals := model.manifest.intervals:
            output["parameters"] = {"intervals": orjson.dumps(intervals.levels).decode()}
        if explained:
            output["parameters"] = {**output.get("parameters", {}), **explained}
        return {"inputs": inputs, "outputs": [output]}
    labels: dict[str, Any] = {"name": LABELS, "datatype": label_datatype(schema.target), "shape": [-1]}
    if explained:
        labels["parameters"] = explained
    parameters = {"classes": orjson.dumps(classes).decode()}
    shape = [-1, len(classes)]
    probabilities = {"name": PROBABILITIES, "datatype": DATATYPE, "shape": shape, "parameters": parameters}
    return {"inputs": inputs, "outputs": [labels, probabilities]}


def datatype(feature: Feature) -> str:
    """Return the datatype that has every cell of a feature: FP64 also where a number or a boolean may be missing."""
    if feature.has_text:
        return BYTES
    if feature.missing:
        return DATATYPE
    return {BOOLEAN: BOOL, INTEGER: INT64}.get(feature.type, DATATYPE)


def label_datatype(target: Feature) -> str:
    """Return the datatype of a classifier's labels: INT64 if all are whole numbers."""
    are_whole = bool(target.categories) and all(type(label) is int for label in target.categories)
    return INT64 if are_whole else datatype(target)


def _to_bytes(values: NDArray[np.float64] | list[Category], kind: str) -> bytes:
    """Return the values of an output as a binary tensor."""
    if kind != BYTES:
        return np.asarray(values).astype(DATATYPES[kind], copy=False).tobytes()
    texts = [str(value).encode() for value in values]
    return b"".join(len(text).to_bytes(_LENGTH_BYTES, "little") + text for text in texts)


def _split(body: bytes, json_length: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and the binary part of a body."""
    if json_length is None:
        return body, memoryview(b"")
    digits = json_length.isascii() and json_length.isdecimal() and len(json_length) < 20
    if not digits or not 0 < int(json_length) <= len(body):
        raise BodyError(f"Inference-Header-Content-Length is not a length within the body's {len(body)} bytes")
    return body[: int(json_length)], memoryview(body)[int(json_length) :]


def _level(
    document: dict[str, Any], outputs: Mapping[str, bool], schema: Schema, intervals: Intervals | None
) -> float | None:
    """Return the level of the intervals if the request asks for their ends; one that it names must exist anyway."""
    is_asked = LOWER in outputs or UPPER in outputs
    sent = _parameters(document, "the request").get(INTERVAL)
    if sent is None:
        return level_of(DEFAULT_LEVEL, intervals, schema) if is_asked else None
    level = level_of(sent, intervals, schema)
    return level if is_asked else None


def _outputs(document: dict[str, Any], schema: Schema, intervals: Intervals | None) -> dict[str, bool]:
    """Return the outputs, in the order of the request, and whether each is binary: its own parameter has priority.

    A request that names none gets all but the ends of prediction intervals and the contributions.
    """
    parameters = _parameters(document, "the request")
    binary = parameters.get("binary_data_output", False)
    requested = document.get("outputs")
    if requested is None:
        requested = []
    if not isinstance(requested, list) or not all(isinstance(output, dict) for output in requested):
        raise BodyError("outputs is not a list of objects")
    names = (LABELS, PROBABILITIES) if has_classes(schema) else (OUTPUT,)
    found = {} if requested else dict.fromkeys(names, binary)
    names = (*names, *((LOWER, UPPER) if intervals else ()), CONTRIBUTIONS)
    for output in requested:
        name = output.get("name")
        if name not in names:
            shown = repr(name[:100]) if isinstance(name, str) else "without a name"
            raise BodyError(f"the model has no output {shown}; it has {' and '.join(map(repr, names))}")
        if name in found:
            raise BodyError(f"outputs names {name!r} more than once")
        own = _parameters(output, f"the output {name!r}")
        if own.get("classification"):
            instead = f"ask for the output {PROBABILITIES!r}" if has_classes(schema) else "the model is a regressor"
            raise BodyError(f"the classification extension is not supported; {instead}")
        if "shared_memory_region" in own:
            raise BodyError("the shared memory extensions are not supported; the reply carries its data")
        found[name] = own.get("binary_data", binary)
    if not all(isinstance(flag, bool) for flag in found.values()):
        raise BodyError("binary_data and binary_data_output must be true or false")
    return found


def _parameters(value: dict[str, Any], owner: str) -> dict[str, Any]:
    parameters = value.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise BodyError(f"the parameters of {owner} are not an object")
    return parameters


def _tensors(inputs: list[Any], tail: memoryview, schema: Schema, max_rows: int) -> list[Tensor]:
    """Return the inputs as tensors without the ignored ones; `tail` holds the data of binary ones in their order."""
    tensors, problems = [], []
    for item in inputs:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            raise BodyError("an input is not an object with a name")
        name, shape = item["name"], _shape(item.get("shape"))
        shown = shortened(name)
        if shape is None:
            raise BodyError(f"the shape of the input {shown!r} is not a list of one or two lengths")
        raw, sent = None, _parameters(item, "an input").get("binary_data_size")
        if sent is not None:
            size = _length(sent)
            if size is None:
                raise BodyError(f"the binary_data_size of the input {shown!r} is not a length")
            raw, tail = tail[:size], tail[size:]
        if len(inputs) > 1 and name not in schema.names and schema.ignores(name):
            continue
        if (raw is None) == (item.get("data") is None):
            problems.append(
                Problem(None, shown, "has no data" if raw is None else "has data and binary_data_size; send one")
            )
            continue
        cells = _cells(item, shape, raw, schema.by_name.get(name), max_rows)
        if isinstance(cells, str):
            problems.append(Problem(None, shown, cells))
        else:
            tables.check_rows(shape[0], max_rows)  # after the data matched the shape
            tensors.append(Tensor(name, shape, cells))
    if problems:
        raise SchemaError(problems, n_rows=0)
    if len(tail):
        raise BodyError(f"{len(tail)} bytes follow the last binary tensor")
    return tensors


def _cells(
    item: dict[str, Any], shape: tuple[int, ...], raw: memoryview | None, feature: Feature | None, max_rows: int
) -> NDArray[Any] | list[Any] | str:
    """Return the values of an input, which may be a feature, or what is wrong with it."""
    sent = item.get("datatype")
    dtype = DATATYPES.get(sent) if isinstance(sent, str) else None
    if dtype is None:
        shown = repr(sent[:20]) if isinstance(sent, str) else "of an input"
        return f"the datatype {shown} is not one of {', '.join(DATATYPES)}"
    if feature and (feature.has_text != (sent == BYTES) or (sent == BOOL and feature.type != BOOLEAN)):
        return f"the datatype is {sent}; send {datatype(feature)}"
    if sent == BYTES:
        return _strings(item, shape, raw, feature, max_rows)
    if raw is not None:
        size, expected = item["parameters"]["binary_data_size"], prod(shape) * dtype.itemsize
        if size != expected:
            return f"has a binary_data_size of {size}, but its shape and datatype need {expected} bytes"
        if len(raw) != expected:
            return f"has {len(raw)} bytes left in the body, but its shape and datatype need {expected}"
        return np.frombuffer(raw, dtype)
    cells = _flatten(item["data"], shape)
    if cells is None:
        return "its data do not match its shape"
    types, present = set(map(type, cells)), cells
    if NoneType in types:
        present = [cell for cell in cells if cell is not None]
        types.remove(NoneType)
    if not types <= {int, float}:
        return cells
    numbers: list[Any] = present
    if dtype.kind != "f" and float in types:
        numbers = list(map(whole_number, present))
        if None in numbers:
            return f"its data are not all {sent}"
    try:
        with np.errstate(over="ignore"):  # overflow gives infinity, which the schema reports with its row
            array = np.array(numbers, np.float64).astype(dtype) if dtype.kind == "f" else np.array(numbers, dtype)
    except OverflowError:  # an integer beyond float64, which the schema reports, or beyond its own datatype
        return cells if dtype.kind == "f" else f"its data are not all in the range of {sent}"
    if len(present) == len(cells):
        return array
    left = iter(array.tolist())
    return [None if cell is None else next(left) for cell in cells]


def _strings(
    item: dict[str, Any], shape: tuple[int, ...], raw: memoryview | None, feature: Feature | None, max_rows: int
) -> list[Any] | str:
    """Return the strings of an input, None for a missing one, or what is wrong with it."""
    if raw is None:
        cells = _flatten(item["data"], shape)
        if cells is None:
            return "its data do not match its shape"
    else:
        size = item["parameters"]["binary_data_size"]
        if len(raw) != size:
            return f"has {len(raw)} bytes left in the body, but its binary_data_size is {size}"
        if shape[1:] not in ((), (1,)):
            return f"its shape is not [{shape[0]}] or [{shape[0]}, 1]"
        if _LENGTH_BYTES * shape[0] <= size:
            tables.check_rows(shape[0], max_rows)  # before the strings are read one by one
        try:
            cells = _read_strings(raw, shape[0])
        except UnicodeDecodeError:
            return "its data are not UTF-8"
        if cells is None:
            return f"its data are not {shape[0]} strings, each after its length in {_LENGTH_BYTES} bytes"
    if feature and feature.missing and "" not in feature.categories:
        return [None if cell == "" else cell for cell in cells]
    return cells


def _read_strings(raw: memoryview, n_strings: int) -> list[Any] | None:
    """Return so many strings, or None if there are more or less bytes."""
    strings, start = [], 0
    for _ in range(min(n_strings, len(raw))):
        end = start + _LENGTH_BYTES + int.from_bytes(raw[start : start + _LENGTH_BYTES], "little")
        strings.append(str(raw[start + _LENGTH_BYTES : end], "utf-8"))
        if end > len(raw):
            return None
        start = end
    return strings if start == len(raw) and len(strings) == n_strings else None


def _shape(value: Any) -> tuple[int, ...] | None:
    """Return one or two lengths, or None for anything else."""
    if not isinstance(value, list) or len(value) not in (1, 2):
        return None
    lengths = tuple(length for length in map(_length, value) if length is not None)
    return lengths if len(lengths) == len(value) else None


def _length(value: Any) -> int | None:
    length = whole_number(value)
    return length if length is not None and 0 <= length < 2**63 else None


def _flatten(data: Any, shape: tuple[int, ...]) -> list[Any] | None:
    """Return nested or flat data as one list in row-major order, or None if they do not match `shape`."""
    if not isinstance(data, list):
        return None
    if len(shape) == 2 and data and isinstance(data[0], list):
        if len(data) != shape[0] or not all(isinstance(row, list) and len(row) == shape[1] for row in data):
            return None
        return list(chain.from_iterable(data))
    return data if len(data) == prod(shape) else None


def _matrix(tensors: list[Tensor], schema: Schema) -> Matrix:
    """Return the tensors of a request as one matrix in the schema's order."""
    if not tensors:  # all were ignored: every feature is missing
        return schema.matrix_from_columns({})
    n_rows, names = tensors[0].shape[0], schema.names
    columns: dict[str, NDArray[Any] | list[Any]]
    if len(tensors) == 1 and tensors[0].name not in names:
        tensor = tensors[0]
        text = ""
        if any(feature.has_text for feature in schema.features):
            text = "is not a feature; some of the features are strings, so send a tensor for each of them"
        elif tensor.shape != (n_rows, len(names)):
            text = f"is not a feature; a matrix of all features has the shape [n, {len(names)}]"
        if text:
            raise SchemaError([Problem(None, shortened(tensor.name), text)], n_rows=n_rows)
        if isinstance(tensor.cells, np.ndarray):
            return schema.matrix_from_array(tensor.cells.reshape(tensor.shape).astype(np.float64))
        columns = {name: tensor.cells[i :: len(names)] for i, name in enumerate(names)}
    else:
        columns = {tensor.name: tensor.cells for tensor in tensors}
        problems = [
            Problem(None, shortened(tensor.name), f"its shape is not [{n_rows}] or [{n_rows}, 1]")
            for tensor in tensors
            if tensor.shape not in ((n_rows,), (n_rows, 1))
        ]
        names_given = Counter(tensor.name for tensor in tensors)
        problems += [Problem(None, shortened(name), "repeated") for name, count in names_given.items() if count > 1]
        if problems:
            raise SchemaError(problems, n_rows=n_rows)
    arrays = {name: cells.astype(np.float64) for name, cells in columns.items() if isinstance(cells, np.ndarray)}
    if columns.keys() == arrays.keys() == set(names):
        return schema.matrix_from_array(np.column_stack([arrays[name] for name in names]))
    return schema.matrix_from_columns(columns | {name: cells.tolist() for name, cells in arrays.items()})
