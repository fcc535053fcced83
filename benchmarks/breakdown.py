"""Measure the CPU time of a request for one row by step: what each step adds to the steps before it.

In one process a worker answers requests over a socket, first with a constant, then with more and more of the service.
CPU time, not elapsed time, so that background work counts, too.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gunicorn.config import Config as GunicornConfig
from gunicorn.glogging import Logger
from numpy.typing import NDArray

from app import create_app
from app.config import Config
from app.factory import Service
from app.protocols import native
from app.protocols.endpoint import Answer
from app.server.worker import EventLoopWorker
from app.telemetry.shared_values import reserve_slots, share_values, take_slot
from app.web import body
from app.web.exchange import WSGICall
from app.web.middleware import ExchangeMiddleware
from app.web.reply import Reply
from model.keys import AccessKey, add_key, digest_of, new_key

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

REQUESTS, ROUNDS = 3_000, 7
N_CLIENTS = 16
SETTLED_SECONDS = 1.2  # until the prediction log has written all rows


def main(store: Path) -> None:
    """Print the table for the first model of a store."""
    with tempfile.TemporaryDirectory() as folder:
        share_values()
        reserve_slots(1)
        take_slot(0, [])
        log = f"sqlite:///{folder}/predictions.db"
        keys, key, limited = Path(folder) / "keys.jsonl", new_key(), new_key()
        add_key(keys, AccessKey("benchmark", digest_of(key), ("predict:*",)))
        add_key(keys, AccessKey("limited", digest_of(limited), ("predict:*",), rate=1e6, burst=10**6))
        silent = create_app(Config(store=store, prediction_log="", log_requests=False, keys=keys))
        service = create_app(Config(store=store, prediction_log="", keys=keys))
        logged = create_app(Config(store=store, prediction_log=log, prediction_log_features=True, keys=keys))
        all_steps: dict[str, WSGIApplication] = {
            **steps(silent),
            "metrics, drift counts": silent,
            "log line": service,
            "prediction log, with features": logged,
        }
        seconds_by_step: dict[str, list[float]] = {}
        for instance in (silent, service, logged):
            instance.recorder.start()
        checks = check_seconds(silent, key), check_seconds(silent, limited)
        with lines_discarded():
            batched_seconds: list[float] = []
            for _ in range(ROUNDS):
                for name, application in all_steps.items():
                    settle = SETTLED_SECONDS if application is logged else 0
                    seconds_by_step.setdefault(name, []).append(
                        cpu_seconds(service, application, key=key, settle=settle)
                    )
                batched_seconds.append(cpu_seconds(service, service, key=key, clients=N_CLIENTS))
            for instance in (silent, service, logged):
                instance.recorder.close()
    print("| step | CPU, µs a request | together |\n|---|---|---|")
    total_before = 0.0
    for name, seconds in seconds_by_step.items():
        total = statistics.median(seconds) * 1e6
        print(f"| {name} | {total - total_before:.1f} | {total:.1f} |")
        total_before = total
    total = statistics.median(batched_seconds) * 1e6
    print(f"\nOf {N_CLIENTS} requests that come at once each takes {total:.1f}, its log line included.")
    print(f"The check of a key takes {checks[0] * 1e6:.1f} by itself, and {checks[1] * 1e6:.1f} if the key has a rate.")


def steps(service: Service) -> dict[str, WSGIApplication]:
    """Return applications by step; each does one step more than the one before it."""
    model = next(iter(service.serving.loaded.models.values()))
    encode = native.endpoint().encode

    def encoded(y: NDArray[np.float64]) -> Reply:
        return encode(Answer(y, model.golden_rows[:1], model, native.Asked(), "0" * 32, {}))

    constant = encoded(model.predict(model.golden_rows[:1]))

    def content(environ: WSGIEnvironment) -> bytes:
        return body.read(environ, max_bytes=10**6)

    def parsing(environ: WSGIEnvironment) -> Reply:
        body.parse_json(content(environ))
        return constant

    def checking(environ: WSGIEnvironment) -> Reply:
        native.decode(content(environ), model.schema, max_rows=1)
        return constant

    def predicting(environ: WSGIEnvironment) -> Reply:
        model.predict(native.decode(content(environ), model.schema, max_rows=1))
        return constant

    def encoding(environ: WSGIEnvironment) -> Reply:
        X = native.decode(content(environ), model.schema, max_rows=1)
        return encoded(model.predict(X))

    def application(answer: Any) -> WSGIApplication:
        def answering(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
            return list(answer(environ)(environ, start_response))

        return answering

    return {
        "HTTP: sockets, parsing, writing": application(lambda environ: constant),
        "body, JSON": application(parsing),
        "checks, to a matrix": application(checking),
        "engine": application(predicting),
        "reply": application(encoding),
        "route, limits, id": ExchangeMiddleware(service.fast_path.answer, lambda exchange: None),
        "key": ExchangeMiddleware(service.fast_path.answer, lambda exchange: None, guard=service.guard),
    }


def check_seconds(service: Service, key: str) -> float:
    """Return the CPU seconds that the check of a key adds to a request: in the rounds with the least noise."""
    path = f"/models/{next(iter(service.serving.loaded.models))}/predict"
    asked = {"REQUEST_METHOD": "POST", "PATH_INFO": path, "HTTP_AUTHORIZATION": f"Bearer {key}"}

    def least_seconds(middleware: ExchangeMiddleware) -> float:
        def round_seconds() -> float:
            started = time.process_time()
            for _ in range(REQUESTS):
                middleware.answer([({**asked}, lambda status, headers, exc_info=None: lambda data: None)])
            return (time.process_time() - started) / REQUESTS

        return min(round_seconds() for _ in range(3 * ROUNDS))

    def answer(calls: Sequence[WSGICall]) -> list[Any]:
        return [()] * len(calls)

    without, guarded = (
        ExchangeMiddleware(answer, lambda exchange: None, guard=guard) for guard in (None, service.guard)
    )
    return least_seconds(guarded) - least_seconds(without)


def cpu_seconds(
    service: Service, application: WSGIApplication, *, key: str, clients: int = 1, settle: float = 0
) -> float:
    """Return the CPU seconds per request for one row, client included, with `clients` concurrent requests.

    Every request has a key, which some applications check.
    """
    model = next(iter(service.serving.loaded.models.values()))
    row = json.dumps(dict(zip(model.schema.names, model.golden_rows[0].tolist()))).encode()
    head = f"POST /models/{model.name}/predict HTTP/1.1\r\nHost: localhost:8000\r\nUser-Agent: benchmark\r\n"
    head += f"Authorization: Bearer {key}\r\n"
    request = f"{head}Content-Type: application/json\r\nContent-Length: {len(row)}\r\n\r\n".encode() + row
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        worker_of(application, listener) as worker,
        ExitStack() as stack,
    ):
        connected = [stack.enter_context(socket.create_connection(listener.getsockname())) for _ in range(clients)]
        while worker.loop.n_connections < clients:
            worker.loop.turn()
        gc.collect()
        gc.freeze()  # as gunicorn.conf.py does
        started = time.process_time()
        for _ in range(REQUESTS // clients):
            for client in connected:
                client.sendall(request)
            worker.loop.turn()
            for client in connected:
                if not client.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n"):
                    raise SystemExit("the service did not answer")
        time.sleep(settle)
        return (time.process_time() - started) / (REQUESTS // clients * clients)


@contextmanager
def worker_of(application: WSGIApplication, listener: socket.socket) -> Iterator[EventLoopWorker]:
    """Yield a worker in this process; the caller runs its loop turn by turn."""

    class Immediate:
        def is_immediate(self, environ: WSGIEnvironment) -> bool:
            return True

        def answer_together(self, calls: Sequence[WSGICall]) -> list[Any]:
            if isinstance(application, Service):
                return application.answer_together(calls)
            return [application(*call) for call in calls]

    settings = GunicornConfig()
    worker = EventLoopWorker(0, os.getppid(), [listener], None, 30, settings, Logger(settings))
    worker.wsgi = Immediate()
    worker.open()
    worker.create_loop()
    try:
        yield worker
    finally:
        worker.close()


@contextmanager
def lines_discarded() -> Iterator[None]:
    """Redirect standard output to /dev/null, so that log lines are written but not shown."""
    sys.stdout.flush()
    shown, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        os.dup2(shown, 1)
        os.close(shown)
        os.close(nowhere)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
