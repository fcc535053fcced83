"""What watching costs: the CPU time of a request for one row, with each part of it on and off.

In a process of its own, since it keeps metrics as a gunicorn worker does. CPU time and not elapsed time, so that what
threads do behind the requests counts, too.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import create_app
from app.config import Config, DatabaseURL
from app.factory import Service
from app.metrics import take_slot, use_worker_slots

REQUESTS, ROUNDS = 3_000, 5


def main(store: Path) -> None:
    """Print the table for the first model of a store."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        use_worker_slots()
        take_slot(0)
        log = f"sqlite:///{folder}/predictions.db"
        services = {
            "nothing": _without_metrics(_without_drift(service(store))),
            "metrics": _without_drift(service(store)),
            "metrics and drift counts": service(store),
            "metrics, drift counts and prediction log (SQLite)": service(store, log),
            "the same with features in the log": service(store, log, prediction_log_features=True),
        }
        taken: dict[str, list[float]] = {name: [] for name in services}
        for _ in range(ROUNDS):
            for name, one in services.items():
                taken[name].append(cpu_seconds(one))
        for one in services.values():
            one.recorder.close()
    print("| watched | CPU, µs a request | more than the line above |\n|---|---|---|")
    before = None
    for name, seconds in taken.items():
        cost = statistics.median(seconds) * 1e6
        print(f"| {name} | {cost:.1f} | {'' if before is None else f'{cost - before:+.1f}'} |")
        before = cost


def service(store: Path, log: str = "", **settings: Any) -> Service:
    """Return a service as a worker runs it."""
    config = Config(store=store, prediction_log=DatabaseURL(log), **settings)
    found = create_app(config, write_line=lambda fields: None)
    found.recorder.start()
    return found


def _without_drift(found: Service) -> Service:
    found.recorder.note = lambda *noted: None  # type: ignore[method-assign]
    return found


def _without_metrics(found: Service) -> Service:
    for name in ("observe_request", "observe_inference", "observe_engine"):
        setattr(found.metrics, name, lambda *observed, **more: None)
    return found


def cpu_seconds(found: Service) -> float:
    """Return the CPU seconds of one request, with what is done behind it."""
    model = next(iter(found.serving.models.values()))
    body = json.dumps(dict(zip(model.schema.names, model.golden_rows[0].tolist()))).encode()
    environ = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": f"/models/{model.name}/predict",
        "QUERY_STRING": "",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/json",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "http",
        "wsgi.errors": sys.stderr,
    }

    def start_response(status: str, headers: object, error: object = None) -> Callable[[bytes], object]:
        if not status.startswith("200"):
            raise SystemExit(f"the service answered {status}")
        return lambda data: None

    started = time.process_time()
    for _ in range(REQUESTS):
        b"".join(found({**environ, "wsgi.input": io.BytesIO(body)}, start_response))
    found.recorder.flush()
    time.sleep(1)  # what the log's writer does next belongs to these requests
    return (time.process_time() - started) / REQUESTS


if __name__ == "__main__":
    main(Path(sys.argv[1]))
