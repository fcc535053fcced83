"""Measure the bodies that cost the service most, by route: CPU time and holds of the interpreter's lock.

Runs the WSGI application in one process. CPU time, not elapsed time, which depends on the load of the machine. Other
requests of a worker wait for the interpreter's lock. Its longest hold is the most CPU time that passed before another
thread, which permanently requests the lock, got it.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import io
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from app import create_app
from app.config import Config
from app.factory import Service
from benchmarks.machine import machine

RESULTS = Path(__file__).with_name("results")
# The longest accepted body without what surrounds a filling, and the size that a small body may decompress to.
LENGTHS = (8 * 2**20 - 2_000, 2_400_000)
ROWS = 10_000
JSON_TYPE, CSV_TYPE, BINARY_TYPE = "application/json", "text/csv", "application/octet-stream"
_SWITCH_SECONDS = 0.001  # as the worker sets it


@dataclass(frozen=True, slots=True)
class Body:
    """One request body for a route; `plain` is the body before compression."""

    route: str
    name: str
    kind: str
    plain: bytes
    json_length: int | None = None


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of one body: its length as sent, the status, and seconds of CPU."""

    route: str
    name: str
    sent: int
    status: int
    seconds: float
    hold_seconds: float

    @property
    def seconds_a_kb(self) -> float:
        return self.seconds / max(self.sent / 1000, 1)


def main() -> None:
    """Measure this checkout, optionally another one, and print the worst bodies of each route."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hostile", description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument(
        "--before", type=Path, metavar="FOLDER", help="another checkout to compare with, in its own column"
    )
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="folder for the results")
    parser.add_argument("--json", action="store_true", help="print only the figures of this checkout, as JSON")
    options = parser.parse_args()
    if options.json:
        print(json.dumps([asdict(cost) for cost in measure(options.store)]))
        return
    columns = {"before": options.before} if options.before else {}
    columns["after" if columns else "now"] = Path(__file__).parents[1]
    figures = {name: _measured_in(folder, options.store.resolve()) for name, folder in columns.items()}
    text = f"{'; '.join(f'{name} {value}' for name, value in machine().items())}\n\n{table(figures)}"
    options.results.mkdir(exist_ok=True)
    (options.results / "hostile.md").write_text(text)
    print(text)


def _measured_in(folder: Path, store: Path) -> list[Cost]:
    """Return the costs for the checkout in a folder, measured in its own process."""
    command = [sys.executable, str(Path(__file__).resolve()), str(store), "--json"]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, stdout=subprocess.PIPE, check=True)
    return [Cost(**cost) for cost in json.loads(done.stdout)]


def table(figures: dict[str, list[Cost]]) -> str:
    """Return Markdown: for each route the worst bodies by CPU, by CPU per KB and by hold of the lock."""
    wanted: dict[str, Callable[[Cost], float]] = {
        "CPU, s": lambda cost: cost.seconds,
        "CPU, ms a KB sent": lambda cost: cost.seconds_a_kb * 1e3,
        "longest hold of the lock, ms": lambda cost: cost.hold_seconds * 1e3,
    }
    parts = []
    for title, figure in wanted.items():
        lines = [f"| worst {title} | {' | '.join(figures)} |", "|---" * (1 + len(figures)) + "|"]
        for route in dict.fromkeys(cost.route for costs in figures.values() for cost in costs):
            cells = []
            for costs in figures.values():
                worst = max((cost for cost in costs if cost.route == route), key=figure)
                cells.append(f"{figure(worst):.3g} ({worst.name}; {worst.sent:,} bytes, {worst.status})")
            lines.append(f"| {route} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def measure(store: Path) -> Iterator[Cost]:
    """Yield the cost of each body, plain and compressed."""
    with tempfile.TemporaryDirectory() as folder:
        service = create_app(
            Config(
                store=store,
                prediction_log=f"sqlite:///{folder}/predictions.db",
                aip_predict_route="/vertex",
            ),
            write_log=lambda pieces: None,
        )
        model = next(iter(service.serving.loaded.models.values()))
        row = model.golden_rows[0].tolist()
        sys.setswitchinterval(_SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # as gunicorn.conf.py does
        for body in bodies(model.name, list(model.schema.names), row):
            for sent, coding in ((body.plain, "identity"), (gzip.compress(body.plain), "gzip")):
                status, seconds = _send(service, body, sent, coding)
                hold = _longest_hold(partial(_send, service, body, sent, coding))
                cost = Cost(body.route, body.name, len(sent), status, seconds, hold)
                print(cost, file=sys.stderr, flush=True)
                yield cost


def _send(service: Service, body: Body, sent: bytes, coding: str) -> tuple[int, float]:
    """Send one body; return the status and the seconds of CPU."""
    environ = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": body.route.split()[0],
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "CONTENT_TYPE": body.kind,
        "CONTENT_LENGTH": str(len(sent)),
        "HTTP_CONTENT_ENCODING": coding,
        "wsgi.input": io.BytesIO(sent),
        "wsgi.errors": sys.stderr,
    }
    if body.json_length is not None:
        environ["HTTP_INFERENCE_HEADER_CONTENT_LENGTH"] = str(body.json_length)
    statuses: list[str] = []

    def start_response(status: str, headers: list[tuple[str, str]], *rest: Any) -> Callable[[bytes], object]:
        statuses.append(status)
        return lambda piece: None

    started = time.process_time()
    b"".join(service(environ, start_response))
    return int(statuses[0][:3]), time.process_time() - started


def _longest_hold(work: Callable[[], object]) -> float:
    """Return the longest time in CPU seconds for which `work` kept the lock from another thread."""
    over, longest = threading.Event(), 0.0

    def ask() -> None:
        nonlocal longest
        last = time.process_time()
        while not over.is_set():
            time.sleep(0.0002)
            now = time.process_time()
            longest, last = max(longest, now - last), now

    asking = threading.Thread(target=ask)
    asking.start()
    work()
    over.set()
    asking.join()
    return longest


def bodies(model: str, names: list[str], row: list[float]) -> Iterator[Body]:
    """Yield the bodies of every route: each form of rows with each filling."""
    listed, width = json.dumps(names), len(names)
    forms = {
        "/predict records": ("[", "]"),
        "/predict table": (f'{{"columns":{listed},"data":[', "]}"),
        "/predict columns": (f'{{"{names[0]}":{{"0":1}},"{names[1]}":[', "]}"),
        f"/v2/models/{model}/infer JSON": (
            f'{{"inputs":[{{"name":"all","datatype":"FP64","shape":[{ROWS},{width}],"data":[',
            "]}]}",
        ),
        f"/v1/models/{model}:predict instances": ('{"instances":[', "]}"),
        f"/v1/models/{model}:predict inputs": (f'{{"inputs":{{"{names[0]}":[', "]}}"),
        "/vertex instances": ('{"instances":[', "]}"),
        "/invocations dataframe_split": (f'{{"dataframe_split":{{"columns":{listed},"data":[', "]}}"),
        "/invocations dataframe_records": ('{"dataframe_records":[', "]}"),
        "/invocations instances": ('{"instances":[', "]}"),
        "/invocations inputs": (f'{{"inputs":{{"{names[0]}":[', "]}}"),
        "/feedback": ('{"request_id":"a","truth":[', "]}"),
    }
    for route, (before, after) in forms.items():
        for name, filling in chain(fillings_of_rows(names, row), *(fillings(length) for length in LENGTHS)):
            yield Body(route, name, JSON_TYPE, f"{before}{filling}{after}".encode())
    for route, kind, content in others(names):
        for name, plain in content:
            yield Body(route, name, kind, plain)
    header = json.dumps({"inputs": [{"name": "all", "datatype": "FP64", "shape": [1, 6], "data": [0] * 6}]}).encode()
    tail = bytes(LENGTHS[0] - len(header))
    route = f"/v2/models/{model}/infer binary"
    yield Body(route, "bytes that belong to no tensor", BINARY_TYPE, header + tail, len(header))
    n_rows = LENGTHS[0] // width
    tensor: dict[str, Any] = {"name": "all", "datatype": "UINT8", "shape": [n_rows, width]}
    tensor["parameters"] = {"binary_data_size": n_rows * width}
    header = json.dumps({"inputs": [tensor]}).encode()
    yield Body(route, "a million rows", BINARY_TYPE, header + bytes(n_rows * width), len(header))
    tensor |= {"shape": [ROWS, width], "datatype": "FP64", "parameters": {"binary_data_size": 8 * ROWS * width}}
    header = json.dumps({"inputs": [tensor]}).encode()
    yield Body(route, "rows of NaN", BINARY_TYPE, header + b"\xff" * (8 * ROWS * width), len(header))


def fillings(length: int) -> Iterator[tuple[str, str]]:
    """Yield fillings in place of rows, cells or true values, repeated up to the length."""

    def full(piece: str) -> str:
        return piece * (length // len(piece))

    escape = "\\u0001"
    yield "numbers", full("0,") + "0"
    yield "numbers of 17 digits", full("0.12345678901234567,") + "0"
    yield "NaN, then numbers", "NaN," + full("0,") + "0"
    yield "1e999, then numbers", "1e999," + full("0,") + "0"
    yield "NaN, then numbers of 17 digits", "NaN," + full("0.12345678901234567,") + "0"
    yield "NaN", full("NaN,") + "0"
    yield "1e999", full("1e999,") + "0"
    yield "digits", full("1")
    yield "NaN, then digits", "NaN," + full("1")
    yield "strings", full('"",') + "0"
    yield "one string", f'"{full("x")}"'
    yield "NaN, then one string", f'NaN,"{full("x")}"'
    yield "escapes", f'"{full(escape)}"'
    yield "escaped quotes", f'"{full(chr(92) + chr(34))}"'
    yield "strings of brackets", full('"[[[[[[[[[[",') + "0"
    yield "spaces", full(" ") + "0"
    yield "names", "{" + ",".join(f'"{i:x}":1' for i in range(length // 12)) + "}"
    yield "one name", f'{{"{full(escape)}":1}}'


def fillings_of_rows(names: list[str], row: list[float]) -> Iterator[tuple[str, str]]:
    """Yield fillings of a fixed number of rows or lists."""
    yield "lists", "[]," * 199_000 + "0"
    yield "objects", '{"a":0},' * 150_000 + "0"
    yield "nested lists", ("[" * 90 + "]" * 90 + ",") * 2_000 + "0"
    records: dict[str, dict[str, Any]] = {
        "good": dict(zip(names, row)),
        "wrong": dict.fromkeys(names),
        "NaN": dict.fromkeys(names, float("nan")),
        "wide": {**dict(zip(names, row)), **{f"u{i}": 1 for i in range(10)}},
        "too wide": {**dict(zip(names, row)), **{f"u{i}": 1 for i in range(20)}},
    }
    for name, record in records.items():
        yield f"{name} records", ",".join([json.dumps(record)] * ROWS)
        yield f"{name} rows", ",".join([json.dumps(list(record.values()))] * ROWS)
    yield "wrong cells", ",".join(["null"] * (ROWS * len(names)))


def others(names: list[str]) -> Iterator[tuple[str, str, Iterator[tuple[str, bytes]]]]:
    """Yield routes, content types and bodies that need more than a filling."""
    for route in ("/predict CSV", "/invocations CSV"):
        yield route, CSV_TYPE, chain(csv_rows(names), *(csv_bodies(names, length) for length in LENGTHS))
    keys = ",".join(f'"{i}":1' for i in range(100_000))
    columns = "{" + ",".join(f'"{name}":{{{keys}}}' for name in names) + "}"
    other_keys = (",".join(f'"{column:x}{i:x}":1' for i in range(100_000)) for column in range(len(names)))
    different = "{" + ",".join(f'"{name}":{{{column_keys}}}' for name, column_keys in zip(names, other_keys)) + "}"
    yield (
        "/predict columns",
        JSON_TYPE,
        iter([("100,000 keys a column", columns.encode()), ("100,000 other keys a column", different.encode())]),
    )
    items = [{"request_id": f"{i:x}", "truth": 1} for i in range(ROWS)]
    wrong = [{"request_id": "", "row": -1, "truth": "", **{f"u{j}": 1 for j in range(20)}}] * ROWS
    lists = [{"request_id": f"{i:x}", "truth": [1, 2]} for i in range(ROWS // 2)]
    yield (
        "/feedback",
        JSON_TYPE,
        (
            (name, json.dumps(value).encode())
            for name, value in [("unknown ids", items), ("wrong items", wrong), ("unknown ids, two rows each", lists)]
        ),
    )


def csv_rows(names: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield CSV with the largest number of rows, valid and invalid."""
    header = ",".join(names)
    for name, row in {
        "good rows": ",".join(["1"] * len(names)),
        "wrong rows": ",".join(["x"] * len(names)),
        "short rows": "1",
        "rows of 16 cells": ",".join(["1"] * 16),
    }.items():
        yield name, (header + f"\n{row}" * ROWS).encode()


def csv_bodies(names: list[str], length: int) -> Iterator[tuple[str, bytes]]:
    """Yield CSV that is long, wide, empty or invalid."""
    header = ",".join(names)
    for name, text in {
        "newlines": "\n" * length,
        "a header, then newlines": header + "\n" * length,
        "a header, then carriage returns": header + "\r" * length,
        "commas": "," * length,
        "a header, then commas": header + "\n" + "," * length,
        "a header, then lines of commas": header + ("\n" + "," * 4_000) * (length // 4_001),
        "quoted newlines": header + '\n"' + "\n" * length + '"',
        "quotes": header + '\n"' + '""' * (length // 2) + '"',
        "cells of 100,000 digits": header + f"\n{'1' * 100_000}" * (length // 100_001),
        "cells of 100,000 spaces": header + f"\n{' ' * 100_000}" * (length // 100_001),
        "short rows, far too many": header + "\n1" * (length // 2),
        "names of 100,000 characters": ",".join(f"{'n' * 100_000}{i}" for i in range(length // 100_010)) + "\n1",
    }.items():
        yield name, text.encode()


if __name__ == "__main__":
    main()
