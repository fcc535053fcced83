"""Streams of Arrow to a real server and to a process of their own: hostile bytes, and what is imported when."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import requests

from tests.server.test_layers import run
from tests.support.arrow import ARROW, read, stream
from tests.support.server import Server
from tests.support.service import bits

FUZZ = """
import random, struct
import numpy as np
import pyarrow as pa
from app.errors import STATUS
from app.protocols import arrow_stream
from app.protocols.endpoint import Request
from model import Feature, Schema
from tests.support.arrow import stream

texts = pa.array(["a", "bb", None, "ccc"] * 5)
columns = {
    "float": ("number", pa.array(np.arange(20.0))),
    "int": ("number", pa.array([*range(19), None])),
    "half": ("number", pa.array(np.arange(20, dtype=np.float16))),
    "text": ("category", texts),
    "dictionary": ("category", texts.dictionary_encode()),
    "view": ("category", pa.array(["a", "b" * 30, None, "x"] * 5, pa.string_view())),
    "moment": ("date", pa.array([0] * 20, pa.int64()).cast(pa.timestamp("us", "UTC"))),
    "flag": ("boolean", pa.array([True, None] * 10)),
    "null": ("number", pa.nulls(20)),
}
rng = random.Random(7)
numbers = [0, 1, -1, 20, 2**31 - 1, -(2**31), 2**40, 2**62, -(2**63)]
seeds = []
for names in (list(columns), ["float"], ["dictionary"], ["view", "text"]):
    kinds = [(n, columns[n][0]) for n in names]
    features = [Feature(n, type=kind, missing=True, categories=("a",) * (kind == "category")) for n, kind in kinds]
    table = pa.table({n: columns[n][1] for n in names})
    for compression in (None, "lz4", "zstd"):
        seeds.append((stream(table, compression=compression, rows=7), Schema(tuple(features), Feature("y"))))
for _ in range(4_000):
    whole, schema = rng.choice(seeds)
    body = bytearray(whole)
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(len(body))
        if rng.random() < 0.4:
            body[place] ^= 1 << rng.randrange(8)
        elif rng.random() < 0.5:
            struct.pack_into("<q", body, min(place & ~7, len(body) - 8), rng.choice(numbers))
        else:
            del body[place : place + rng.randrange(16)]
    try:
        arrow_stream.decode(Request(bytes(body), "", {}, {}, schema, 100, 2**20, None))
    except tuple(STATUS):
        pass
print("survived")
"""


def test_damaged_streams_break_nothing() -> None:
    """Whatever is changed in a stream, it is read or refused with a reason: no other error, and no crash."""
    assert run(FUZZ) == "survived"


def test_real_server(server: Server, houses: pd.DataFrame) -> None:
    """A stream of 10,000 rows is answered by a stream with the bits of JSON, in a worker as in this process."""
    many = pd.concat([houses] * 20, ignore_index=True)[:10_000]
    body = stream(pa.Table.from_pandas(many, preserve_index=False), compression="zstd")
    found = requests.post(f"{server.url}/predict", data=body, headers={"Content-Type": ARROW}, timeout=30)
    as_json = requests.post(f"{server.url}/predict", json=json.loads(many.to_json(orient="records")), timeout=30)

    assert (found.status_code, found.headers["Content-Type"]) == (200, ARROW)
    expected = as_json.json()["prediction"]
    assert bits(read(found.content)["prediction"].to_pylist()).tolist() == bits(expected).tolist()


def test_service_loads_arrow_when_it_is_sent(store: Path) -> None:
    """A service that gets no stream and no long CSV does not load pyarrow; one that does loads no pandas."""
    code = (
        "import json, os, sys, app\n"
        "from app.config import Config\n"
        "service = app.create_app(Config.from_environ(os.environ), write_log=lambda pieces: None)\n"
        "client = service.test_client()\n"
        "print(client.post('/predict', json={}).status_code, 'pyarrow' in sys.modules)\n"
        "print(client.post('/predict', data=b'', content_type='application/vnd.apache.arrow.stream').status_code)\n"
        "print('pyarrow' in sys.modules, 'pandas' in sys.modules)"
    )

    lines = run(code, TABSERVE_PREDICTION_LOG="", TABSERVE_STORE=str(store)).splitlines()
    assert lines == ["422 False", "400", "True False"]
