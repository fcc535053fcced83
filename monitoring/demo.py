"""A day of traffic for the example, in about a minute: predictions, true values, refused rows, and a fault at 14:00.

From then on every client sends LSTAT as a share where the model wants percent, as happens when a source changes. So
metrics, report and alerts have something to show. The rows and their prices are those of the example's table, drawn
with a seed; the server may be one that runs, or is started here with a prediction log of its own.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from monitoring.prometheus import MISSING

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "model" / "data" / "boston_housing.csv"
MODEL, TARGET, FAULTY = "boston-housing", "MEDV", "LSTAT"

HOURS = 24
FAULT_HOUR = 14
# Enough for a verdict on drift, which needs 100 rows in its window, and few enough for a laptop that does other things.
REQUESTS_A_SECOND = 40
MAX_ROWS = 3  # in a request
REFUSED_EVERY = 50  # requests: one with a missing value, as clients send now and then
# Of the requests, those whose features the log may have: the report judges their drift by these.
FEATURES_SHARE = 0.25
HOLD_SECONDS = 2  # how long drift must last for an alert
_READY_SECONDS = 60
_SETTLE_SECONDS = 15  # the service computes the live error every 10 s, and the alert holds

Row = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Request:
    """Rows that are sent at an hour of the day, and their true values, which are known an hour later."""

    hour: float
    rows: Sequence[Row]
    truths: Sequence[float]


def day(n_requests: int, *, seed: int) -> list[Request]:
    """Return the requests of a day in their order: few at night, most at noon, and from `FAULT_HOUR` on faulty."""
    with TABLE.open(newline="") as file:
        table = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    random = Random(seed)
    requests = []
    for number, hour in enumerate(sorted(random.triangular(0, HOURS, HOURS / 2) for _ in range(n_requests))):
        drawn = random.choices(table, k=random.randint(1, MAX_ROWS))
        rows: list[Row] = [{name: cell for name, cell in row.items() if name != TARGET} for row in drawn]
        for row, whole in zip(rows, drawn):
            row[FAULTY] = whole[FAULTY] / 100 if hour >= FAULT_HOUR else whole[FAULTY]
        if number % REFUSED_EVERY == REFUSED_EVERY - 1:
            rows[0]["RM"] = None
        requests.append(Request(hour, rows, [row[TARGET] for row in drawn]))
    return requests


class Client:
    """A client on one connection, which is opened again where a server has closed it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._connection = HTTPConnection(parts.hostname or "localhost", parts.port or 80, timeout=10)
        self._prefix = parts.path.rstrip("/")

    def ask(self, path: str, body: Any = None) -> tuple[int, Any]:
        """Return status and JSON of a reply to GET, or with a body to POST; 0 and None if there is none."""
        sent = None if body is None else json.dumps(body)
        for _ in range(2):
            try:
                headers = {"Content-Type": "application/json"}
                self._connection.request("GET" if sent is None else "POST", self._prefix + path, sent, headers)
                reply = self._connection.getresponse()
                content = reply.read()
                return reply.status, json.loads(content)
            except (OSError, HTTPException):
                self._connection.close()
            except ValueError:
                return reply.status, None
        return 0, None

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


@dataclass(slots=True)
class Alerts:
    """The alerts that fired, each with the hour of the day at which it was first seen; asked from Prometheus."""

    client: Client
    seen: dict[str, float]

    def look(self, hour: float) -> None:
        """Ask which alerts fire now."""
        _, reply = self.client.ask("/api/v1/alerts")
        for alert in reply["data"]["alerts"] if reply else []:
            if alert["state"] == "firing":
                labels = alert["labels"]
                self.seen.setdefault(" ".join(filter(None, (labels["alertname"], labels.get("feature")))), hour)


def send(requests: Sequence[Request], client: Client, *, seconds: float, alerts: Alerts | None) -> Iterator[str]:
    """Send the requests within so many seconds, and the true values of each hour at its end; yield what happened."""
    started = time.monotonic()
    outcomes: Counter[str] = Counter()
    truths: list[dict[str, Any]] = []
    hour = 0

    def end_hour() -> None:
        if truths:
            status, reply = client.ask("/feedback", truths)
            outcomes["accepted" if status == 200 else "not accepted"] += (
                reply["accepted"] if status == 200 else len(truths)
            )
            truths.clear()
        if alerts:
            alerts.look(hour)

    for request in requests:
        while request.hour >= hour + 1:
            hour += 1
            end_hour()
        time.sleep(max(0.0, started + request.hour * seconds / HOURS - time.monotonic()))
        status, reply = client.ask(f"/models/{MODEL}/predict", request.rows)
        outcomes[str(status)] += 1
        if status == 200:
            outcomes["rows"] += len(request.rows)
            truths += [
                {"request_id": reply["request_id"], "row": row, "truth": truth}
                for row, truth in enumerate(request.truths)
            ]
    hour = HOURS
    end_hour()
    statuses = ", ".join(f"{outcomes[status]:,} of status {status}" for status in sorted(outcomes) if status.isdigit())
    yield f"sent      {len(requests):,} requests in {time.monotonic() - started:.0f} s: {statuses}"
    yield f"answered  {outcomes['rows']:,} rows; from {FAULT_HOUR}:00 on with {FAULTY} as a share, not in percent"
    yield f"truths    {outcomes['accepted']:,} accepted, {outcomes['not accepted']:,} not"


@contextmanager
def serving(store: str, folder: Path) -> Iterator[str]:
    """Run a server of the store with a prediction log in a folder; yield its URL. Raises `RuntimeError`."""
    port = _free_port()
    environ = {
        **os.environ,
        "TABSERVE_STORE": store,
        "TABSERVE_HOST": "127.0.0.1",
        "TABSERVE_PREDICTION_LOG": f"sqlite:///{folder}/predictions.db",
        "TABSERVE_PREDICTION_LOG_FEATURES": str(FEATURES_SHARE),
        "TABSERVE_LOG_REQUESTS": "false",
        "TABSERVE_KEYS": "",  # it has no key
        "TABSERVE_JWKS": "",
        "PORT": str(port),
    }
    command = [str(Path(sys.executable).parent / "gunicorn")]
    with _running(command, environ, folder / "server.log", f"http://127.0.0.1:{port}", "/readyz") as url:
        yield url


@contextmanager
def watching(url: str, folder: Path, *, window: str) -> Iterator[str]:
    """Run Prometheus with the rules against a server; yield its URL. Raises `RuntimeError`."""
    port = _free_port()
    command = [sys.executable, "-m", "monitoring", "run", "--url", url, "--port", str(port), "--window", window]
    command += ["--hold", f"{HOLD_SECONDS}s", "--interval", "1s", "--folder", str(folder / "prometheus")]
    log = folder / "prometheus.log"
    with _running(command, os.environ, log, f"http://127.0.0.1:{port}", "/-/ready") as watched:
        yield watched


@contextmanager
def _running(command: Sequence[str], environ: Mapping[str, str], log: Path, url: str, ready: str) -> Iterator[str]:
    """Run a command that serves a URL, and yield that once the path `ready` is answered 200."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=output, stderr=output)
    try:
        with closing(Client(url)) as client:
            if not _is_ready(client, ready, process):
                raise RuntimeError(f"{command[0]} did not become ready; its last words: {log.read_text()[-1_000:]}")
        yield url
    finally:
        process.terminate()
        process.wait()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def _is_ready(client: Client, path: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if client.ask(path)[0] == 200:
            return True
        time.sleep(0.1)
    return False


def main(*, url: str | None, store: str, seconds: int, seed: int, stays: bool) -> int:
    """Send a day of traffic, print what happened and where to look; return the exit status."""
    requests = day(REQUESTS_A_SECOND * seconds, seed=seed)
    # A stop by TERM ends the server and Prometheus, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(TemporaryDirectory(prefix="tabserve-demo-")))
            served = url or stack.enter_context(serving(store, folder))
            client = stack.enter_context(closing(Client(served)))
            if client.ask(f"/v2/models/{MODEL}/ready")[0] != 200:
                raise RuntimeError(f"{served} does not serve {MODEL}; train it with `make train`")
            if client.ask("/models")[0] == 401:
                raise RuntimeError(f"{served} asks for keys, which the demo does not send; leave out --url")
            alerts, watched = None, ""
            # Four hours of the day, and at least five scrapes.
            window = max(seconds * 4 // HOURS, 5)
            if shutil.which("prometheus"):
                watched = stack.enter_context(watching(served, folder, window=f"{window}s"))
                alerts = Alerts(stack.enter_context(closing(Client(watched))), {})
            print(f"server    {served}; a day in {seconds} s, seed {seed}", flush=True)
            for line in send(requests, client, seconds=seconds, alerts=alerts):
                print(line, flush=True)
            for line in _firing(alerts, window):
                print(line, flush=True)
            if url:
                print(f"report    python -m model report {MODEL}, with --log for the log of that server")
            else:
                _report(store, folder)
            print(f"look at   {served}/ (the model), {served}/docs/ (the API), {served}/metrics (the counts)")
            if stays and (watched or not url):
                print(f"          {_alerts_page(watched)}; all of this ends with Ctrl-C", flush=True)
                signal.pause()
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


def _firing(alerts: Alerts | None, window: int) -> Iterator[str]:
    """Yield which alerts have fired, once the service had time to compute the live error."""
    if not alerts:
        yield "alerts    not judged, since Prometheus is not installed"
        return
    deadline = time.monotonic() + _SETTLE_SECONDS
    while time.monotonic() < deadline and not any(name.startswith("TabserveLiveError") for name in alerts.seen):
        alerts.look(HOURS)
        time.sleep(0.5)
    yield f"alerts    by the rules of monitoring/, with drift in the last {window} s and held for {HOLD_SECONDS} s:"
    for name, hour in alerts.seen.items():
        yield f"          {'after the day' if hour == HOURS else f'by {hour:02}:00'}  {name}"
    if not alerts.seen:
        yield "          none fired"


def _alerts_page(watched: str) -> str:
    """Return where Prometheus shows alerts. Debian's has only the classic pages."""
    if not watched:
        return MISSING
    with closing(Client(watched)) as client:
        return f"{watched}/alerts" if client.ask("/alerts")[0] == 200 else f"{watched}/classic/alerts"


def _report(store: str, folder: Path) -> None:
    """Write the report by the command line, which prints its verdicts."""
    log, output = f"sqlite:///{folder}/predictions.db", str(folder / "report.html")
    command = ["-m", "model", "--store", store, "report", MODEL, "--log", log, "--output", output]
    print("report    python " + " ".join(command), flush=True)
    subprocess.run([sys.executable, *command], cwd=ROOT, check=False)
