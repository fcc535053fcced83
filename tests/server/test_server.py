"""Owns how gunicorn runs the service: killed workers, SIGTERM, SIGHUP, shared memory and a failing start."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import requests
from onnx import helper, numpy_helper

from model import CHAMPION, Store
from model.store.artifact import read_draft
from model.train.compile.onnx import to_onnx
from tests.support.metrics import scrape, value
from tests.support.server import NGINX, Server, end, serve, wait_until
from tests.support.service import HOUSE, ROOT, bits, rewrite

NAME = "boston-housing"
BODY = json.dumps(HOUSE).encode()


def connect(server: Server) -> closing[http.client.HTTPConnection]:
    """Return a connection to the server that is closed at the end of the block."""
    return closing(http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=10))


def refuses(server: Server) -> bool:
    """Return whether the server refuses a new connection."""
    with connect(server) as late:
        try:
            late.connect()
        except ConnectionRefusedError:
            return True
    return False


def start_request(connection: http.client.HTTPConnection, length: int = len(BODY)) -> None:
    """Send the head and the start of the body of a prediction request, and give a worker time to read it."""
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(length))
    connection.endheaders(BODY[:20])
    time.sleep(0.3)


def versions(server: Server) -> set[str]:
    """Return the versions that answer ten requests on separate connections."""
    replies = [requests.post(f"{server.url}/predict", json=HOUSE, timeout=10) for _ in range(10)]
    assert {reply.status_code for reply in replies} == {200}
    return {reply.headers["X-Model-Version"] for reply in replies}


def reload(server: Server) -> None:
    """Send SIGHUP to a server with two workers, and wait until only new workers are left."""
    wait_until(lambda: len(server.workers()) == 2)
    old = set(server.workers())
    server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: not old & set(server.workers()) and len(server.workers()) == 2)


@contextmanager
def load(server: Server) -> Iterator[list[int]]:
    """Send prediction requests while the block runs; yield the list of their statuses, 0 for no reply."""
    statuses: list[int] = []
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:  # kept-alive connections are the hard case: a server may close them
            while not stop.is_set():
                try:
                    statuses.append(session.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code)
                except requests.RequestException:
                    statuses.append(0)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()


def add_champion(store: Path) -> Path:
    """Add a version that is like the first one, promote it, and return its folder."""
    folder = Store(store).add(NAME, read_draft(store / NAME / "1"))
    promote(store, int(folder.name))
    return folder


def promote(store: Path, version: int) -> None:
    """Make a version the champion."""
    Store(store).move(NAME, "promote", {CHAMPION: version}, after=Store(store).last_move(NAME))


@pytest.fixture
def own_store(store: Path, tmp_path: Path) -> Path:
    """A copy of the store, for tests that add versions to it or damage them."""
    return Path(shutil.copytree(store, tmp_path / "store"))


def test_reloads_leave_nothing_open(store: Path, tmp_path: Path) -> None:
    """After the first SIGHUP, further reloads do not change the number of open files."""
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server:
        counts = []
        for _ in range(4):
            reload(server)
            counts.append(len(os.listdir(f"/proc/{server.process.pid}/fd")))

    assert len(set(counts)) == 1


def test_killed_worker_is_replaced(store: Path, tmp_path: Path) -> None:
    """A worker that is killed is replaced, and the other worker serves on."""
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server:
        wait_until(lambda: len(server.workers()) == 2)
        before = server.workers()
        os.kill(before[0], signal.SIGKILL)
        wait_until(lambda: before[0] not in server.workers() and len(server.workers()) == 2)

        assert versions(server) == {"1"}
        assert before[1] in server.workers()


def test_probes_are_answered_beside_slow_uploads(store: Path, tmp_path: Path) -> None:
    """A worker that waits for the rest of a body still answers probes and prediction requests."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server, connect(server) as slow:
        start_request(slow)

        assert requests.get(f"{server.url}/livez", timeout=20).status_code == 200
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=20).status_code == 200
        slow.send(BODY[20:])
        assert slow.getresponse().status == 200


def test_stalled_clients_do_not_stop_the_service(store: Path, tmp_path: Path) -> None:
    """If more clients than threads stall in the middle of a request, they are disconnected in time."""
    settings = {"WEB_CONCURRENCY": "1", "TABSERVE_MAX_READ_SECONDS": "5"}
    with serve(store, tmp_path, **settings) as server, ExitStack() as stack:
        for number in range(12):
            start_request(stack.enter_context(connect(server)), length=(1_000, 100_000)[number % 2])

        assert requests.get(f"{server.url}/livez", timeout=25).status_code == 200


def test_connection_is_kept_after_a_refusal(store: Path, tmp_path: Path) -> None:
    """A body within the limit is read before its request is refused, so the connection serves the next request."""
    paths = {"/nowhere": 404, "/livez": 405, "/predict": 415, "/v2/repository/index": 400}
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server, connect(server) as client:
        client.connect()
        kept = client.sock
        for size, (path, status), chunked in itertools.product((100, 30_000, 300_000), paths.items(), (False, True)):
            body = iter([b"x" * (size // 2)] * 2) if chunked else b"x" * size
            client.request(
                "POST", path, body, {"Transfer-Encoding": "chunked"} if chunked else {}, encode_chunked=chunked
            )
            reply = client.getresponse()
            assert reply.read()
            assert (reply.status, reply.getheader("Connection")) in [(status, "keep-alive"), (413, "keep-alive")]
            client.request("GET", "/livez")
            assert client.getresponse().read().startswith(b'{"live":true}')
            assert client.sock is kept


def test_reply_to_a_body_beyond_the_limit(store: Path, tmp_path: Path) -> None:
    """The reply to a body beyond the limit has Connection: close, and reaches a client that sends the whole body."""
    body = b" " * 30_000_000
    framings = [f"Content-Length: {len(body)}\r\n\r\n", f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n"]
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for path, expect, framing in itertools.product(["/predict", "/nowhere"], ["", "100-continue"], framings):
            head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            head += f"Expect: {expect}\r\n" if expect else ""
            with socket.create_connection(address, timeout=20) as connection:
                connection.sendall((head + framing).encode() + body)
                reply = connection.makefile("rb").read().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert reply.split()[1] == (b"404" if path == "/nowhere" else b"413")
            assert b"\r\nConnection: close\r\n" in reply


NODE = """
const request = require("http").request(process.argv[1], {method: "POST", headers: {"Content-Type": "text/csv"}});
request.on("response", response => {
  console.log(response.statusCode);
  response.resume();
});
request.end(Buffer.alloc(50_000_000, " "));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="needs Node.js (Debian: apt-get install nodejs)")
def test_node_client_gets_413(store: Path, tmp_path: Path) -> None:
    """A Node client that sends too long a body gets 413, not a connection error, which would end its process."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        command = ["node", "-e", NODE, f"{server.url}/predict"]
        for _ in range(3):
            ended = subprocess.run(command, capture_output=True, text=True, timeout=300)
            assert (ended.stdout, ended.stderr, ended.returncode) == ("413\n", "", 0)


@pytest.mark.skipif(not shutil.which("nginx"), reason="needs nginx (Debian: apt-get install nginx)")
def test_refusals_behind_nginx_fail_no_other_request(store: Path, tmp_path: Path) -> None:
    """Behind nginx, which reuses connections for other clients, a refused body fails no other client's request."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        service = server.url.removeprefix("http://")
        user = "" if os.getuid() else "user root;"
        (tmp_path / "nginx.conf").write_text(NGINX.format(user=user, folder=tmp_path, service=service, port=port))
        nginx = subprocess.Popen(["nginx", "-p", str(tmp_path), "-e", "stderr", "-c", str(tmp_path / "nginx.conf")])
        try:
            url = f"http://127.0.0.1:{port}"

            def is_up() -> bool:
                with suppress(requests.RequestException):
                    return requests.get(f"{url}/livez", timeout=5).status_code == 200
                return False

            wait_until(is_up)
            refused, good = [], []
            for path, size in [("/nowhere", 100_000), ("/livez", 200_000), ("/predict", 9_000_000)] * 5:
                headers = {"Content-Type": "application/json"}
                refused.append(requests.post(url + path, b" " * size, headers=headers, timeout=20).status_code)
                good += [requests.post(f"{url}/predict", json=HOUSE, timeout=20).status_code for _ in range(3)]
        finally:
            nginx.terminate()
            nginx.wait()

    assert refused == [404, 405, 413] * 5
    assert good == [200] * 45


def test_pause_in_a_body(store: Path, tmp_path: Path) -> None:
    """A client may pause in a body of any framing, within the time limit of a request."""
    body = BODY + b" " * 100_000
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    size = b"Content-Length: %d\r\n" % len(body)
    chunk = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body)
    ends = {size + b"\r\n": b"", chunk: b"\r\n0\r\n\r\n", size + b"Expect: 100-continue\r\n\r\n": b""}
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server, ExitStack() as stack:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        sockets = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in ends]
        for connection, fields in zip(sockets, ends):
            connection.sendall(head + fields + body[:50])
        time.sleep(6)
        for connection, end in zip(sockets, ends.values()):
            connection.sendall(body[50:] + end)
            reply = connection.makefile("rb").read().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert reply.startswith(b"HTTP/1.1 200 OK"), reply


STARTS = {
    "in the head": b"X-Slow: ",
    "in a short body": b"Content-Length: 1000\r\n\r\n[",
    "in a long body": b"Content-Length: 100000\r\n\r\n[",
    "in a chunk": b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n[",
    "after 100 Continue": b"Expect: 100-continue\r\nContent-Length: 1000\r\n\r\n[",
}


@pytest.mark.parametrize("start", STARTS.values(), ids=list(STARTS))
def test_trickling_clients_do_not_stop_the_service(store: Path, tmp_path: Path, start: bytes) -> None:
    """Clients that send byte by byte have at most TABSERVE_MAX_READ_SECONDS for a whole request."""
    head = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    stop = threading.Event()

    def trickle(sockets: list[socket.socket]) -> None:
        while not stop.wait(0.3):
            for connection in sockets:
                with suppress(OSError):
                    connection.send(b"1")

    settings = {"WEB_CONCURRENCY": "1", "TABSERVE_MAX_READ_SECONDS": "2"}
    with serve(store, tmp_path, **settings) as server, ExitStack() as stack:
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        sockets = [stack.enter_context(socket.create_connection(address, timeout=20)) for _ in range(8)]
        for connection in sockets:
            connection.sendall(head + start)
        thread = threading.Thread(target=trickle, args=[sockets])
        thread.start()
        try:
            assert requests.get(f"{server.url}/livez", timeout=15).status_code == 200
            replies = [
                connection.makefile("rb").read().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
                for connection in sockets
            ]
        finally:
            stop.set()
            thread.join()

        assert {reply[:12] for reply in replies} == ({b"HTTP/1.1 400"} if b"\r\n" in start else {b""})
        if b"\r\n" in start:
            assert all(b"TABSERVE_MAX_READ_SECONDS" in reply for reply in replies)
            assert all(b"\r\nConnection: close\r\n" in reply for reply in replies)


BUNDLE = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"  # 1.4 MB, sent by a thread


@pytest.mark.parametrize("taken", [0, 100], ids=["nothing", "little"])
def test_clients_that_do_not_read_do_not_stop_the_service(store: Path, tmp_path: Path, taken: int) -> None:
    """Clients that read nothing of their replies, or little while other requests wait, lose their threads."""
    settings = {"WEB_CONCURRENCY": "1", "TABSERVE_MAX_READ_SECONDS": "2"}
    stop = threading.Event()

    def take(sockets: list[socket.socket]) -> None:
        while not stop.wait(0.1):
            for connection in sockets:
                with suppress(OSError):
                    connection.recv(taken)

    with serve(store, tmp_path, **settings) as server, ExitStack() as stack, ThreadPoolExecutor(1) as pool:
        sockets = [stack.enter_context(socket.socket()) for _ in range(12)]
        for connection in sockets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
            connection.sendall(BUNDLE * 8)
            connection.setblocking(False)
        taking = pool.submit(take, sockets)
        try:
            assert requests.get(f"{server.url}/metrics", timeout=20).status_code == 200
            assert requests.get(f"{server.url}/metrics", timeout=20).status_code == 200
        finally:
            stop.set()
            taking.result()


def test_slow_download(store: Path, tmp_path: Path) -> None:
    """A client that reads its replies slowly gets every byte, even after the time limit for a request."""
    settings = {"WEB_CONCURRENCY": "1", "TABSERVE_MAX_READ_SECONDS": "1"}
    with serve(store, tmp_path, **settings) as server, socket.socket() as slow:
        size = len(requests.get(f"{server.url}/docs/swagger-ui-bundle.js", timeout=10).content)
        slow.settimeout(10)
        slow.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        slow.sendall(BUNDLE * 4)
        received = 0
        for _ in range(40):
            received += len(slow.recv(50_000))
            time.sleep(0.1)
        while received < 4 * size and (data := slow.recv(1 << 20)):
            received += len(data)

    assert 4 * size < received + 4_000 < 4 * size + 8_000


@pytest.mark.parametrize("sent", [b"", b"GET / HT"], ids=["silent", "stalled"])
def test_idle_connections_make_room(store: Path, tmp_path: Path, sent: bytes) -> None:
    """At the limit of open files, idle connections are closed to make room for probes."""
    with (
        serve(store, tmp_path, WEB_CONCURRENCY="1", prefix=with_ulimit("-n 256")) as server,
        ExitStack() as stack,
    ):
        before = server.workers()
        address = ("127.0.0.1", int(server.url.rpartition(":")[2]))
        for _ in range(400):
            stack.enter_context(socket.create_connection(address, timeout=10)).sendall(sent)
        assert requests.get(f"{server.url}/livez", timeout=15).status_code == 200
        assert requests.get(f"{server.url}/metrics", timeout=15).status_code == 200
        assert server.workers() == before
        assert "Too many open files" not in server.stderr.read_text()


def test_connection_that_sends_nothing_is_closed(store: Path, tmp_path: Path) -> None:
    """A new connection has ten seconds for its first byte."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server, socket.socket() as silent:
        silent.settimeout(25)
        silent.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
        assert silent.recv(1) == b""


def test_limit_of_open_files_is_raised(store: Path, tmp_path: Path) -> None:
    """The server raises its soft limit of open files to the hard limit."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1", prefix=with_ulimit("-S -n 64")) as server:
        assert len(set(resource.prlimit(server.workers()[0], resource.RLIMIT_NOFILE))) == 1


def test_workers_share_clients(store: Path, tmp_path: Path) -> None:
    """A worker leaves a client for a millisecond to a worker with fewer clients before it accepts the client itself.

    The test stops a worker, so the other worker must accept all clients; without the wait it would do so at once.
    """
    number = 400
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server, ExitStack() as stack:

        def clients_of(pid: int) -> int:
            return sum(
                connection.status == psutil.CONN_ESTABLISHED for connection in psutil.Process(pid).net_connections()
            )

        def both_have_clients() -> bool:
            stack.enter_context(connect(server)).connect()
            return len(server.workers()) == 2 and all(map(clients_of, server.workers()))

        wait_until(both_have_clients)
        stopped, other = server.workers()
        os.kill(stopped, signal.SIGSTOP)
        try:
            before, began = clients_of(other), time.monotonic()
            for _ in range(number):
                stack.enter_context(connect(server)).connect()
            wait_until(lambda: clients_of(other) >= before + number)
            took = time.monotonic() - began
        finally:
            os.kill(stopped, signal.SIGCONT)

    assert took > 0.0009 * number  # a busy machine takes longer


def test_vertex_ai_port(store: Path, tmp_path: Path) -> None:
    """The server listens on all interfaces at Vertex AI's AIP_HTTP_PORT, unless PORT is set."""
    code = "import runpy; print(runpy.run_path('gunicorn.conf.py').get('bind'))"
    environ = {"PATH": os.environ["PATH"], "TABSERVE_STORE": str(store), "TMPDIR": str(tmp_path)}

    def bind(**more: str) -> str:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, cwd=ROOT, env=environ | more, capture_output=True, check=True, text=True).stdout

    assert bind(AIP_HTTP_PORT="8123").startswith("['0.0.0.0:8123'")
    assert bind(AIP_HTTP_PORT="8123", PORT="9000").startswith("['0.0.0.0:9000'")
    assert bind(TABSERVE_HOST="::1", PORT="9000") == "[::1]:9000\n"
    assert bind() == "None\n"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize(
    ("host", "families"),
    [("", {"127.0.0.1", "::1"}), ("::1", {"::1"}), ("127.0.0.1", {"127.0.0.1"})],
    ids=["both", "IPv6", "IPv4"],
)
def test_addresses(store: Path, tmp_path: Path, host: str, families: set[str]) -> None:
    """The entry point's server and health check use both IPv4 and IPv6, or only the address in TABSERVE_HOST."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environ = {
        **os.environ,
        "PORT": str(port),
        "TABSERVE_HOST": host,
        "TABSERVE_STORE": str(store),
        "TMPDIR": str(tmp_path),
        "TABSERVE_PREDICTION_LOG": "",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    entry_point = (ROOT / "docker" / "entrypoint.sh").read_text().replace("/srv/tabserve", str(ROOT))
    script = tmp_path / "entrypoint.sh"
    script.write_text(entry_point)
    process = subprocess.Popen(["sh", str(script)], env=environ, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: subprocess.run(["sh", str(script), "healthcheck"], env=environ, stderr=-3).returncode == 0)
        answered = set()
        for address in ("127.0.0.1", "::1"):
            with suppress(ConnectionRefusedError), socket.create_connection((address, port), timeout=10) as connection:
                connection.sendall(b"GET / HTTP/1.0\r\nAccept: text/html\r\n\r\n")
                assert connection.makefile("rb").readline().split()[1] == b"200"
                answered.add(address)
    finally:
        end(process)

    assert answered == families


def test_requests_in_flight(store: Path, tmp_path: Path) -> None:
    """The gauge of requests in flight is the sum over all workers; it may count the request for the metrics."""

    def in_flight() -> float:
        text = requests.get(f"{server.url}/metrics", timeout=10).text
        return float(re.findall(r"^tabserve_requests_in_flight (\S+)$", text, re.MULTILINE)[0])

    # A request whose reply is not read is in flight; a request that is still being received is not.
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server:
        with ExitStack() as stack:
            for _ in range(3):
                connection = stack.enter_context(socket.socket())
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                connection.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
                connection.sendall(BUNDLE * 8)
            wait_until(lambda: in_flight() in (3, 4))
        wait_until(lambda: in_flight() in (0, 1))
        os.kill(server.workers()[0], signal.SIGKILL)
        wait_until(lambda: len(server.workers()) == 2)
        wait_until(lambda: in_flight() in (0, 1))


@pytest.mark.skipif(not shutil.which("wrk"), reason="needs wrk (Debian: apt-get install wrk)")
def test_requests_in_flight_under_load(store: Path, tmp_path: Path) -> None:
    """Under load the gauge includes requests that wait for an answer."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server:
        load = subprocess.Popen(["wrk", "-t1", "-c100", "-d3s", f"{server.url}/readyz"], stdout=subprocess.DEVNULL)
        seen = []
        while load.poll() is None:
            text = requests.get(f"{server.url}/metrics", timeout=10).text
            seen += re.findall(r"^tabserve_requests_in_flight (\S+)$", text, re.MULTILINE)

    assert max(map(float, seen)) > 20


def test_log_that_is_not_read_delays_no_request(store: Path, tmp_path: Path) -> None:
    """A full standard output that is not read delays no request and kills no worker."""
    os.mkfifo(tmp_path / "stdout.log")
    reader = os.open(tmp_path / "stdout.log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        with serve(store, tmp_path, WEB_CONCURRENCY="1", GUNICORN_CMD_ARGS="--timeout 3") as server:
            before = server.workers()
            until, sent = time.monotonic() + 6, 0
            with requests.Session() as session:
                while time.monotonic() < until or sent < 2000:
                    assert session.post(f"{server.url}/predict", json=HOUSE, timeout=20).status_code == 200
                    sent += 1

            assert server.workers() == before
            lines = 0
            while lines < sent:  # pending lines are written once the output is read
                assert select.select([reader], [], [], 10)[0]
                written = os.read(reader, 1 << 20)
                assert written
                lines += written.count(b"\n")
    finally:
        os.close(reader)


def test_sigterm_drains(store: Path, tmp_path: Path) -> None:
    """After SIGTERM the request in flight is answered; then the server exits with 0."""
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server, connect(server) as slow:
        start_request(slow)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server))
        slow.send(BODY[20:])
        reply = slow.getresponse()

        assert reply.status == 200
        assert json.loads(reply.read())["prediction"] == [25.002145787183498]
        assert server.process.wait(timeout=25) == 0


def test_draining_server_refuses_connections(store: Path, tmp_path: Path) -> None:
    """A draining server refuses new connections at once instead of leaving them without a reply."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server, connect(server) as slow:
        start_request(slow)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server))
        slow.send(BODY[20:])
        with slow.getresponse() as reply:
            assert reply.status == 200


def test_draining_server_is_not_ready(store: Path, tmp_path: Path) -> None:
    """A draining server reports on its open connections that it is live and not ready."""
    with serve(store, tmp_path, WEB_CONCURRENCY="1") as server, connect(server) as probe, connect(server) as live:
        for path, connection in (("/readyz", probe), ("/livez", live)):
            connection.request("GET", path)
            before = connection.getresponse()
            assert (before.status, before.read() != b"") == (200, True)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: refuses(server))
        probe.request("GET", "/readyz")
        live.request("GET", "/livez")
        reply = probe.getresponse()

        assert reply.status == 503
        assert json.loads(reply.read()) == {"ready": False, "reason": "the server is stopping"}
        assert live.getresponse().status == 200
        assert server.process.wait(timeout=25) == 0


def with_ulimit(flags: str) -> list[str]:
    """Return a command prefix that runs a command under limits of the shell's `ulimit`."""
    return ["sh", "-c", f'ulimit {flags}; exec "$@"', "sh"]


def is_listening(process: psutil.Process) -> bool:
    """Return whether a process has a listening socket."""
    with suppress(psutil.NoSuchProcess):
        return any(connection.status == psutil.CONN_LISTEN for connection in process.net_connections())
    return False


def test_workers_without_their_master(store: Path, tmp_path: Path) -> None:
    """Workers whose master is killed stop accepting, finish their requests, and free the port."""
    (tmp_path / "new").mkdir()
    with serve(store, tmp_path, WEB_CONCURRENCY="2") as server, connect(server) as slow, load(server) as busy:
        start_request(slow)
        port = server.url.rpartition(":")[2]
        orphans = [psutil.Process(pid) for pid in server.workers()]
        wait_until(lambda: len(busy) > 20)
        server.process.kill()
        server.process.wait()
        wait_until(lambda: not any(map(is_listening, orphans)))
        with serve(store, tmp_path / "new", port=port) as new:
            slow.send(BODY[20:])
            assert slow.getresponse().status == 200
            slow.close()
            assert psutil.wait_procs(orphans, timeout=15)[1] == []
            assert "in use" not in new.stderr.read_text()


def test_sighup_loads_the_new_champion(own_store: Path, tmp_path: Path) -> None:
    """After SIGHUP the server serves the new champion, and no request fails."""
    with serve(own_store, tmp_path, WEB_CONCURRENCY="2") as server, load(server) as statuses:
        assert versions(server) == {"1"}
        add_champion(own_store)
        assert versions(server) == {"1"}
        reload(server)
        assert versions(server) == {"2"}
        assert requests.get(f"{server.url}/readyz", timeout=10).json()["models"] == {NAME: 2}

    assert len(statuses) > 20
    assert set(statuses) == {200}


def test_sighup_loads_a_second_model(own_store: Path, tmp_path: Path) -> None:
    """A new model in the store is served after SIGHUP and not before, as the README says."""
    with serve(own_store, tmp_path, WEB_CONCURRENCY="2") as server:
        Store(own_store).add("other", read_draft(own_store / NAME / "1"))
        url = f"{server.url}/models/other/predict"
        assert requests.post(url, json=HOUSE, timeout=10).status_code == 404
        reload(server)

        assert {requests.post(url, json=HOUSE, timeout=10).status_code for _ in range(10)} == {200}
        assert requests.get(f"{server.url}/readyz", timeout=10).json()["models"] == {NAME: 1, "other": 1}


def test_sighup_keeps_the_old_champion(own_store: Path, tmp_path: Path) -> None:
    """SIGHUP with a champion that does not verify keeps the old champion, ready, and the log names the damaged file."""
    with serve(own_store, tmp_path, WEB_CONCURRENCY="2") as server, load(server) as statuses:
        damaged = add_champion(own_store) / "trees.npz"
        damaged.write_bytes(b"damaged")
        reload(server)
        assert versions(server) == {"1"}
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 200
        log = [json.loads(line) for line in server.stderr.read_text().splitlines()]
        assert [line for line in log if line["level"] == "error" and str(damaged) in line["message"]]

        damaged.write_bytes((own_store / NAME / "1" / "trees.npz").read_bytes())
        reload(server)
        assert versions(server) == {"2"}

    assert set(statuses) == {200}


def test_slow_verification_does_not_block_the_master(own_store: Path, tmp_path: Path) -> None:
    """SIGHUP verifies in a separate process: if it dies, the old models stay, and SIGTERM does not wait for it."""
    with serve(own_store, tmp_path, WEB_CONCURRENCY="2") as server, load(server) as statuses:
        slow = Store(own_store).add(NAME, read_draft(own_store / NAME / "1"))
        engine = {"kind": "onnx", "tolerance": 1e-9}
        rewrite(slow, lambda manifest: manifest["engine"].update(engine), slow_model(own_store / NAME / "1"))
        promote(own_store, int(slow.name))
        old = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) > 2)
        (child,) = set(server.workers()) - old
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: not old & set(server.workers()) and len(server.workers()) == 2)
        assert versions(server) == {"1"}
        assert "the process that verified the models ended with status -9" in server.stderr.read_text()

        old = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: len(server.workers()) > 2)
        (child,) = set(server.workers()) - old
        assert versions(server) == {"1"}
        assert set(statuses) == {200}
        assert server.terminate() == 0
        assert not psutil.pid_exists(child)
        assert "the models are not loaded again: the server is stopping" in server.stderr.read_text()


def test_verification_without_an_end_is_tried_again(own_store: Path, tmp_path: Path) -> None:
    """A version whose verification was cut off is loaded a little later, though nothing in the store has changed."""
    with serve(own_store, tmp_path, WEB_CONCURRENCY="1", TABSERVE_RELOAD_SECONDS="1") as server:
        shelf = Store(own_store)
        slow = shelf.add(NAME, read_draft(own_store / NAME / "1"))
        engine = {"kind": "onnx", "tolerance": 1e-9}
        rewrite(
            slow, lambda manifest: manifest["engine"].update(engine), slow_model(own_store / NAME / "1", n_golden=50)
        )
        old = set(server.workers())
        shelf.move(NAME, "tag", {"candidate": 1}, after=shelf.last_move(NAME))  # its digest was another one
        promote(own_store, int(slow.name))
        wait_until(lambda: bool(set(server.workers()) - old))
        (child,) = set(server.workers()) - old
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: value(scrape(server), "tabserve_reload_refused") == 1)
        assert versions(server) == {"1"}
        wait_until(lambda: versions(server) == {slow.name})
        assert value(scrape(server), "tabserve_reload_refused") == 0
        log = server.stderr.read_text()
    assert log.count("the models are not loaded again") == log.count("the models were not verified to the end") == 1


def slow_model(folder: Path, *, n_golden: int = 1_000) -> dict[str, bytes]:
    """Return the files of a 55 MiB model, about the largest that is served; 1,000 golden rows take seconds."""
    golden = json.loads((folder / "golden.json").read_bytes())
    width = 2_600
    constants = {
        "w": np.full((width, 6), 1e-50),
        "v": np.full((width, width), 1e-50),
        "u": np.zeros((1, width)),
        "b": np.ones(width),
        "c": np.ones(1),
    }
    nodes = [
        helper.make_node("Gemm", ["X", "w", "b"], ["first"], transB=1),
        helper.make_node("Gemm", ["first", "v", "b"], ["second"], transB=1),
        helper.make_node("Gemm", ["second", "u", "c"], ["y"], transB=1),
    ]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    rows = {**golden, "X": [[1.0] * 6] * n_golden, "y": [1.0] * n_golden}
    graph = to_onnx("slow", nodes, n_features=6, constants=tensors)
    return {"model.onnx": graph, "golden.json": json.dumps(rows).encode()}


@pytest.mark.parametrize(
    ("load", "problem"),
    [
        ("while True: pass", "the models were not verified within 2 s"),
        ("bytearray(2**29)", "MemoryError()"),
        ("os.abort()", "the process that verified the models ended with status -6; was it out of memory?"),
        ("raise ValueError('x')", "ValueError('x')"),
    ],
)
def test_verification_is_bounded(load: str, problem: str) -> None:
    """A load that never ends, needs too much memory or kills its process runs in a child process, and is reported."""
    code = f"""if True:
        import os
        from app.serving.verification import verify_apart
        def load():
            {load}
        print(verify_apart(load, max_seconds=2, max_bytes=2**28))"""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)

    assert ended.stdout.strip() == str(((problem,), None))


def test_batched_requests(store: Path, tmp_path: Path, houses: pd.DataFrame) -> None:
    """Batched requests of many clients get the same bits as alone; batches and waits are measured."""
    y = Store(store).load(NAME).predict(houses.to_numpy())
    sizes = [1, 2, 1, 30, 1, 200, 1, 5] * 30

    def ask(number: int) -> None:
        rows = houses.iloc[number : number + sizes[number]]
        reply = session.post(f"{server.url}/predict", json=rows.to_dict("records"), timeout=30)
        assert bits(reply.json()["prediction"]).tolist() == bits(y[number : number + len(rows)]).tolist()

    settings = {"WEB_CONCURRENCY": "1", "TABSERVE_BATCH_ROWS": "64"}
    with serve(store, tmp_path, **settings) as server, requests.Session() as session, ThreadPoolExecutor(16) as pool:
        list(pool.map(ask, range(len(sizes))))
        metrics = requests.get(f"{server.url}/metrics", timeout=10).text

    found = dict(re.findall(r"^tabserve_batch_(\w+)\{model=\S+ (\S+)$", metrics, re.MULTILINE))
    assert (float(found["rows_sum"]), float(found["wait_seconds_count"])) == (sum(sizes), len(sizes))


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU")
def test_missing_gpu(store: Path, tmp_path: Path) -> None:
    """If the requested GPU is missing, the worker is live, and reports why it is not ready and what to do."""
    with serve(store, tmp_path, wait="/livez", TABSERVE_DEVICE="cuda") as server:
        for _ in range(2):
            reply = requests.get(f"{server.url}/readyz", timeout=10)

            assert reply.status_code == 503
            assert reply.json()["reason"].startswith("TABSERVE_DEVICE is 'cuda': ")
            assert "give the container a GPU" in reply.json()["reason"]
            assert requests.get(f"{server.url}/livez", timeout=10).status_code == 200
            (worker,) = server.workers()
            server.process.send_signal(signal.SIGHUP)
            wait_until(lambda: worker not in server.workers() and len(server.workers()) == 1)  # noqa: B023

        assert "torch" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def private_kibibytes(pid: int) -> int:
    """Return how much memory a process has written and shares with no other process."""
    found = re.search(r"^Private_Dirty:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    assert found
    return int(found[1])


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs /proc/self/smaps_rollup")
def test_workers_share_memory(store: Path, tmp_path: Path) -> None:
    """A worker's private memory is less than half that of a process that loads the service itself."""
    code = (
        "import os, sys, app, app.config; service = app.create_app(app.config.Config.from_environ(os.environ)); "
        "print('loaded', flush=True); sys.stdin.read()"
    )
    environ = {**os.environ, "TABSERVE_STORE": str(store)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as alone:
        assert alone.stdout
        assert alone.stdin
        assert alone.stdout.readline() == b"loaded\n"
        bound = private_kibibytes(alone.pid) / 2
        alone.stdin.close()

    with serve(store, tmp_path, WEB_CONCURRENCY="4") as server:
        wait_until(lambda: len(server.workers()) == 4)
        for _ in range(10):
            versions(server)
        workers = [private_kibibytes(pid) for pid in server.workers()]

    assert max(workers) < bound


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"TABSERVE_MAX_ROWS": "x"}, ["TABSERVE_MAX_ROWS is 'x'"]),
        ({"WEB_CONCURRENCY": "0"}, ["WEB_CONCURRENCY is 0; set it to 1 or more"]),
        ({"GUNICORN_CMD_ARGS": "--env TABSERVE_MAX_ROWS=5"}, ["sets TABSERVE_MAX_ROWS after the settings were read"]),
        ({"GUNICORN_CMD_ARGS": "--worker-class gthread"}, ["the worker class is 'gthread'; leave it out"]),
        ({"WEB_CONCURRENCY": "2", "TABSERVE_DEVICE": "cuda"}, ["WEB_CONCURRENCY is 2", "one worker has the GPU"]),
        ({"TABSERVE_MAX_ROWS": "0", "TABSERVE_STORES": "s"}, ["TABSERVE_MAX_ROWS is '0'", "TABSERVE_STORES is not"]),
        ({"TABSERVE_PREDICTION_LOG_DAYS": "1000000"}, ["TABSERVE_PREDICTION_LOG_DAYS is '1000000'", "to 36500"]),
        ({"AIP_HTTP_PORT": "65536"}, ["AIP_HTTP_PORT is '65536', not a port"]),
        ({"TABSERVE_PREDICTION_LOG": "postgresql://u:secret/1@h:abc/x"}, ["TABSERVE_PREDICTION_LOG: "]),
        ({"TABSERVE_PREDICTION_LOG": "sqlite:///:memory:"}, ["TABSERVE_PREDICTION_LOG: "]),
    ],
    ids=[
        "one",
        "no worker",
        "too late",
        "another worker class",
        "two workers on a GPU",
        "two",
        "too many days",
        "no port",
        "no URL",
        "no file",
    ],
)
def test_wrong_settings_end_the_start(store: Path, tmp_path: Path, settings: dict[str, str], named: list[str]) -> None:
    """Wrong settings end the start with a single JSON line that names them all, and leave no files."""
    environ = {**os.environ, "TABSERVE_STORE": str(store), "TMPDIR": str(tmp_path), **settings}
    command = [str(Path(sys.executable).parent / "gunicorn"), "--bind", "127.0.0.1:0"]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=300)
    lines = ended.stderr.splitlines()

    assert ended.returncode != 0
    assert [all(name in line for name in named) for line in lines].count(True) == 1
    assert "Traceback" not in ended.stderr
    assert "secret" not in ended.stderr
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", ["0", "-1"])
def test_wrong_number_of_workers_is_reported(store: Path, tmp_path: Path, number: str) -> None:
    """The message for too few workers shows their number; gunicorn itself refuses a negative number earlier."""
    code = "import runpy; runpy.run_path('gunicorn.conf.py')"
    environ = {**os.environ, "TABSERVE_STORE": str(store), "TMPDIR": str(tmp_path), "WEB_CONCURRENCY": number}
    environ["TABSERVE_PREDICTION_LOG"] = ""
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environ, capture_output=True, text=True)

    assert ended.returncode == 2
    assert json.loads(ended.stderr)["message"] == f"WEB_CONCURRENCY is {number}; set it to 1 or more"
