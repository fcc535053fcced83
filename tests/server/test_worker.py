"""Owns the worker's promise: to a client it is gunicorn's own threaded worker, but faster and harder to block."""

from __future__ import annotations

import hashlib
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
import ssl
import statistics
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil
import pytest

from tests.support.http_cases import CHUNKED, Case, chunks, generated, get, hand_written, post, sized, split
from tests.support.server import end
from tests.support.service import ROOT
from tests.support.worker_app import large

STOCK = "gthread"
LOOP = os.environ.get("WORKER_UNDER_TEST", "app.server.worker.EventLoopWorker")
BOTH = pytest.mark.parametrize("worker_class", [STOCK, LOOP], ids=["stock", "loop"])

PROBE = b"GET /probe?alive HTTP/1.1\r\nHost: probe\r\n\r\n"
PATIENCE = 60.0  # seconds until a wait fails; enough for a busy machine


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """A running gunicorn: its address, its process and the folder of its files."""

    address: tuple[str, int] | str
    process: subprocess.Popen[bytes]
    folder: Path

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def connect(self, *, timeout: float = PATIENCE) -> socket.socket:
        """Return a new connection to the server."""
        connection = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        connection.settimeout(timeout)
        try:
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        if not isinstance(self.address, str):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection


@contextmanager
def gunicorn(
    folder: Path, worker_class: str, *flags: str, config: str = "", unix: bool = False, app: str = "application"
) -> Iterator[Gunicorn]:
    """Run gunicorn with a single worker of a class in a folder; `config` is the text of a configuration file."""
    folder.mkdir(exist_ok=True)
    # In the file and not a flag, since a file may set what this version of gunicorn does not know.
    (folder / "conf.py").write_text(f"control_socket_disable = True\n{config}")
    bind = "unix:socket" if unix else "127.0.0.1:0"
    command = [sys.executable, "-m", "gunicorn", "--config", "conf.py", "--bind", bind, "--worker-class", worker_class]
    command += ["--workers", "1", "--threads", "4", "--worker-tmp-dir", str(folder), *flags]
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("GUNICORN", "TABSERVE", "PORT"))}
    environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    log = folder / "error.log"
    with log.open("wb") as out:
        process = subprocess.Popen([*command, f"worker_app:{app}"], cwd=folder, env=environ, stdout=out, stderr=out)
    try:
        wait_until(lambda: b"Booting worker" in log.read_bytes() or process.poll() is not None)
        found = re.search(r"Listening at: https?://([\d.]+):(\d+)", log.read_text())
        server = Gunicorn(str(folder / "socket") if unix or not found else (found[1], int(found[2])), process, folder)
        assert "--certfile" in flags or answer(server, PROBE).startswith(b"HTTP/1.1 "), log.read_text()
        yield server
    finally:
        end(process)


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as a condition holds; fail if it does not hold in time."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def plain(stream: bytes) -> bytes:
    """Return a server's bytes without gunicorn's dates."""
    return re.sub(rb"\r\nDate: [^\r\n]* GMT(?=\r\n)", b"", stream)


class Client:
    """A connection that keeps all received bytes, and receives while it sends, so that neither blocks."""

    def __init__(self, server: Gunicorn) -> None:
        self.socket = server.connect()
        self.socket.setblocking(False)
        self.poll = select.poll()
        self.poll.register(self.socket, select.POLLIN)
        self.received = bytearray()
        self.ended = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.socket.close()

    def receive(self, seconds: float) -> bool:
        """Receive bytes that arrive within some seconds; return whether any did, or the connection closed."""
        if self.ended or not self.poll.poll(seconds * 1000):
            return False
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return False
        except ConnectionError:
            data = b""
        self.ended = not data
        self.received += data
        return True

    def send(self, data: bytes) -> None:
        """Send all data, unless the server closes the connection."""
        rest = memoryview(data)
        deadline = time.monotonic() + PATIENCE
        while rest and not self.ended:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                self.receive(0.005)
            except ConnectionError:
                self.receive(0.005)  # bytes that arrived before the reset
                break
            assert time.monotonic() < deadline

    def receive_until(self, condition: Callable[[], bool], *, seconds: float = PATIENCE) -> bool:
        """Receive until a condition holds or the connection closes; return False if the time is over first."""
        deadline = time.monotonic() + seconds
        while not (self.ended or condition()):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.receive(left)
        return True

    def wait_for_more(self) -> None:
        """Receive the next bytes, or none if the server does not answer within a second."""
        before = len(self.received)
        self.receive_until(lambda: len(self.received) > before, seconds=1)

    def finish(self) -> bytes:
        """Close for writing, and return all bytes received until the server closes."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self.receive_until(lambda: False)
        assert self.ended, f"the server did not close; it sent {bytes(self.received[-500:])!r}"
        return plain(bytes(self.received))


def answer(server: Gunicorn, stream: bytes) -> bytes:
    """Return the server's whole answer to a stream that then ends."""
    with Client(server) as client:
        client.send(stream)
        return client.finish()


def answer_in_pieces(server: Gunicorn, case: Case, *, pause: float) -> bytes:
    """Return the answer to a case that is sent piece by piece, followed by a probe and the end."""
    with Client(server) as client:
        for piece in (*case.pieces, PROBE):
            if piece:
                client.send(piece)
                client.receive(pause)
            else:
                client.wait_for_more()
        return client.finish()


def answer_with_late_probe(
    server: Gunicorn, case: Case, awaited: bytes | None, *, seconds: float
) -> tuple[bytes, bool]:
    """Return the answer to a case whose probe is sent after the awaited replies; None awaits the end of the connection.

    The second value is whether the awaited replies arrived within some seconds. If not, the probe is sent nevertheless.
    """
    with Client(server) as client:
        for piece in case.pieces:
            if piece:
                client.send(piece)
            else:
                client.wait_for_more()

        def is_all() -> bool:
            return awaited is not None and len(plain(bytes(client.received))) >= len(awaited)

        in_time = client.receive_until(is_all, seconds=seconds)
        client.send(PROBE)
        return client.finish(), in_time


# The page with which gunicorn refuses a request, and closes.
_REFUSAL = re.compile(
    rb"HTTP/1\.1 (\d+) [^\r]*\r\nConnection: close\r\nContent-Type: text/html\r\n.*?</html>\n", re.DOTALL
)


def without_reason(answered: bytes) -> bytes:
    """Return an answer with only the status of a refusal.

    Which of several mistakes gunicorn reports depends on how the bytes arrive, since it checks some mistakes early.
    """
    return _REFUSAL.sub(rb"<refused \1>", answered)


def without_status(answered: bytes) -> bytes:
    """Return an answer that shows that a request is refused, but not the status."""
    return re.sub(rb"<refused 4\d\d>", b"<refused>", without_reason(answered))


_CHUNKED_HEAD = re.compile(
    rb"HTTP/1\.1 \d+ [^\r]*\r\n(?:[^\r\n]+\r\n)*?Transfer-Encoding: chunked\r\n(?:[^\r\n]+\r\n)*\r\n"
)


def in_one_chunk(answered: bytes) -> bytes:
    """Return an answer with the chunks of every body joined."""
    done, place = [], 0
    while head := _CHUNKED_HEAD.search(answered, place):
        done.append(answered[place : head.end()])
        place, body = head.end(), []
        while size := re.compile(rb"([0-9A-F]+)\r\n").match(answered, place):
            end = size.end() + int(size[1], 16)
            body.append(answered[size.end() : end])
            place = end + 2
            if size[1] == b"0":
                body.append(b"<end>" if answered[end:place] == b"\r\n" else b"")
                break
        done.append(b"".join(body))
    return b"".join([*done, answered[place:]])


_ERROR_PAGE = (
    b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Type: text/html\r\nContent-Length: 141\r\n\r\n"
    b"<html>\n  <head>\n    <title>Internal Server Error</title>\n  </head>\n  <body>\n"
    b"    <h1><p>Internal Server Error</p></h1>\n    \n  </body>\n</html>\n"
)
# Where the loop may answer differently from gthread: (reason, end of gthread's answer, end of the loop's answer).
# The loop may also send a body in a single chunk that gthread sends in several: it joins a reply before it sends it.
EXPLAINED: list[tuple[str, re.Pattern[bytes], bytes]] = [
    (
        "an immediate reply that fails in its middle is not sent yet, so the client gets an error page",
        re.compile(rb"HTTP/1\.1 200 OK\r\n(?:[^\r\n]+\r\n)+Content-Length: 10\r\n\r\nnever$"),
        _ERROR_PAGE,
    ),
    (
        "an immediate reply whose pieces are not bytes is not sent yet either",
        re.compile(rb"HTTP/1\.1 200 OK\r\n(?:[^\r\n]+\r\n)+Transfer-Encoding: chunked\r\n(?:[^\r\n]+\r\n)+\r\n$"),
        _ERROR_PAGE,
    ),
]

# The loop does not wait for a body beyond its limit, and the reply announces that the connection closes.
_TOO_LONG = re.compile(rb"Content-Length: ?[1-9][0-9]{7,29}\r\n")
# gthread answers this request before its body is complete, and the loop does not.
_NOT_WHOLE = re.compile(rb"POST /raise HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*Content-Length: 9\r\n\r\n.{4}", re.DOTALL)


def alike(expected: bytes, actual: bytes, view: Callable[[bytes], bytes]) -> bool:
    """Return whether the loop answers like gthread, or differs for a reason in `EXPLAINED`."""
    if view(expected) == view(actual):
        return True
    expected, actual = in_one_chunk(expected), in_one_chunk(actual)
    may_be = [expected, *(end.sub(lambda _, page=page: page, expected) for _, end, page in EXPLAINED)]  # type: ignore[misc]
    return view(actual) in map(view, may_be)


def exactly(answered: bytes) -> bytes:
    """Return an answer as it is."""
    return answered


def difference(stock: Gunicorn, other: Gunicorn, case: Case, alive: bytes, *, only_whole: bool = False) -> str:
    """Return how the answers of two servers to a case differ, "" if they do not; `alive` is the probe's reply."""
    whole = case.stream + PROBE
    expected, actual = answer(stock, whole), answer(other, whole)
    too_long = _TOO_LONG.search(case.stream)
    if too_long:
        expected = expected.replace(b"\r\nConnection: keep-alive\r\n", b"\r\nConnection: close\r\n")
    # The servers may receive a stream that is longer than a single read in different parts.
    if not alike(expected, actual, exactly if len(whole) <= 8192 else without_reason):
        return report("at once", case, expected, actual)
    if only_whole or too_long:
        return ""

    awaited = expected.removesuffix(alive) if expected.endswith(alive) else None
    ours = actual.removesuffix(alive) if actual.endswith(alive) else None
    for seconds in (0.1, 3):  # a longer time if the machine is busy, or a server waits for more
        stock_late = answer_with_late_probe(stock, case, awaited, seconds=seconds)
        other_late = answer_with_late_probe(other, case, ours, seconds=seconds)
        if stock_late[1] == other_late[1] or _NOT_WHOLE.fullmatch(case.stream):
            break
    else:
        return report("with a late probe: in time", case, b"%r" % stock_late[1], b"%r" % other_late[1])
    if not alike(stock_late[0], other_late[0], without_reason):
        return report("with a late probe", case, stock_late[0], other_late[0])

    pieces = split(case, seed=1)
    expected, actual = (answer_in_pieces(server, pieces, pause=0.0005) for server in (stock, other))
    if len(whole) <= 8192 and not alike(expected, actual, without_status):
        return report("in pieces", pieces, expected, actual)
    for pause in (0.05, 0.2, 0.5):  # so slowly that every piece arrives alone, and before the server closes
        if alike(expected, actual, without_reason):
            return ""
        expected, actual = (answer_in_pieces(server, pieces, pause=pause) for server in (stock, other))
    return "" if alike(expected, actual, without_reason) else report("in slow pieces", pieces, expected, actual)


def report(how: str, case: Case, expected: bytes, actual: bytes) -> str:
    """Return a description of how the answers of two servers differ."""
    common = next(
        (place for place, (a, b) in enumerate(zip(expected, actual)) if a != b), min(len(expected), len(actual))
    )
    start = max(0, common - 100)
    pieces = [piece if len(piece) < 600 else piece[:300] + b" ... " + piece[-300:] for piece in case.pieces]
    shown = [stream[start : common + 300] for stream in (expected, actual)]
    return f"{case.name}, {how}: {pieces}\n  stock from byte {start}: {shown[0]!r}\n  other: {shown[1]!r}"


def differences(stock: Gunicorn, other: Gunicorn, cases: Sequence[Case], *, only_whole: bool = False) -> list[str]:
    """Return all differences between two servers in many cases."""
    alive = answer(stock, PROBE)
    assert answer(other, PROBE) == alive
    workers = stock.workers() + other.workers()

    def compare(case: Case) -> str:
        return difference(stock, other, case, alive, only_whole=only_whole)

    with ThreadPoolExecutor(8) as pool:
        found = [text for text in pool.map(compare, cases) if text]
    if workers != stock.workers() + other.workers():
        found.insert(0, "a worker died:\n" + (other.folder / "error.log").read_text()[-3000:])
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gunicorn, Gunicorn]]:
    """A gunicorn with its own worker and a gunicorn with ours, otherwise alike; tests do not stop them."""
    folder = tmp_path_factory.mktemp("pair")
    with gunicorn(folder / "stock", STOCK) as stock, gunicorn(folder / "loop", LOOP) as loop:
        yield stock, loop


def groups(*names: str) -> list[Case]:
    """Return the hand-written cases of the named groups."""
    return [case for case in hand_written() if case.name.split()[0] in names]


def check(found: list[str], cases: Sequence[Case]) -> None:
    """Fail with the first differences, if there are any."""
    assert not found, "\n".join([f"{len(found)} of {len(cases)} differ", *found[:10]])


GROUPS = sorted({case.name.split()[0] for case in hand_written()})


@pytest.mark.parametrize("group", GROUPS)
def test_hand_written_cases(pair: tuple[Gunicorn, Gunicorn], group: str) -> None:
    """Both workers send the same replies and equally keep or close the connection, however the bytes arrive."""
    cases = groups(group)

    check(differences(*pair, cases), cases)


def test_head_is_refused_when_it_passes_the_limit(pair: tuple[Gunicorn, Gunicorn]) -> None:
    """A line without an end is refused when it passes gunicorn's limit, however long its pieces are."""
    for server in pair:
        with Client(server) as client:
            client.send(b"GET / HTTP/1.1\r\nX: ")
            for n_bytes in (52_000, 52_000, 104_000, 208_000, 410_000):
                client.send(b"a" * n_bytes)
                client.receive(0.3)

            assert client.receive_until(lambda: client.received.endswith(b"</html>\n"), seconds=10)
            assert client.received.startswith(b"HTTP/1.1 431 ")


def test_generated_cases(pair: tuple[Gunicorn, Gunicorn]) -> None:
    """Both workers answer mutations of valid requests alike."""
    cases = list(generated(2000, seed=1))

    check(differences(*pair, cases), cases)


def test_more_generated_cases(pair: tuple[Gunicorn, Gunicorn]) -> None:
    """Both workers answer ten thousand more mutations alike when they arrive in one piece."""
    cases = list(generated(10_000, seed=2))

    check(differences(*pair, cases, only_whole=True), cases)


SMALL = ["--limit-request-line", "100", "--limit-request-fields", "5", "--limit-request-field_size", "50"]
PERMISSIVE = ["--permit-obsolete-folding", "--strip-header-spaces", "--permit-unconventional-http-method"]
PERMISSIVE += ["--permit-unconventional-http-version", "--casefold-http-method"]
SETTINGS = {
    "small limits": SMALL,
    "no limits": ["--limit-request-line", "0", "--limit-request-fields", "0", "--limit-request-field_size", "0"],
    "no keep-alive": ["--keep-alive", "0"],
    "distrust": ["--forwarded-allow-ips", "10.1.2.3"],
    "trust of a network": ["--forwarded-allow-ips", "127.0.0.0/8"],
    "ambiguous names": ["--header-map", "dangerous"],
    "no ambiguous names": ["--header-map", "refuse"],
    "names of a forwarder": ["--forwarder-headers", "X_Y,PATH_INFO,REMOTE_ADDR,HTTP_HOST"],
    "tolerance": PERMISSIVE,
    "a script name": ["--env", "SCRIPT_NAME=/a"],
    "the PROXY protocol": ["--proxy-protocol", "auto"],
}


def near_small_limits() -> Iterator[Case]:
    """Yield requests around the limits of `SMALL`."""
    for size in range(40, 120):
        line = b"GET /" + b"a" * (size - 14) + b" HTTP/1.1\r\n"
        yield Case(f"line of {size}", (line + b"Host: h\r\n\r\n",))
        yield Case(f"field of {size}", (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * (size - 5) + b"\r\n\r\n",))
    for number in range(1, 9):
        fields = b"".join(b"X-%d: y\r\n" % index for index in range(number))
        yield Case(f"{number} fields", (b"GET / HTTP/1.1\r\n" + fields + b"\r\n",))
        yield Case(f"{number} fields and a body", (b"POST / HTTP/1.1\r\n" + fields + b"Content-Length: 1\r\n\r\nx",))


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(tmp_path: Path, name: str) -> None:
    """gunicorn's settings have the same effect in both workers."""
    flags = SETTINGS[name]
    cases = [*groups("fields", "lines", "expectations"), *near_small_limits()]
    with gunicorn(tmp_path / "s", STOCK, *flags) as stock, gunicorn(tmp_path / "l", LOOP, *flags) as loop:
        found = differences(stock, loop, cases, only_whole=True)

    check(found, cases)


def test_own_scheme_headers(tmp_path: Path) -> None:
    """The configuration names the headers that report whether a client came by https."""
    config = "secure_scheme_headers = {'X-Y': 'z', 'ACCEPT': 'a', 'CONTENT-TYPE': 'a'}"
    cases = groups("fields")
    with gunicorn(tmp_path / "s", STOCK, config=config) as stock, gunicorn(tmp_path / "l", LOOP, config=config) as loop:
        found = differences(stock, loop, cases, only_whole=True)

    check(found, cases)


def test_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Unix socket is served as by gthread."""
    folder = tmp_path_factory.mktemp("u")
    cases = [*groups("fields", "lines", "bodies", "held"), *generated(300, seed=5)]
    with gunicorn(folder / "s", STOCK, unix=True) as stock, gunicorn(folder / "l", LOOP, unix=True) as loop:
        found = differences(stock, loop, cases)

    check(found, cases)


def test_application_without_is_immediate(tmp_path: Path) -> None:
    """An application without `is_immediate` is served by threads only."""
    cases = [*groups("pipelines", "held", "replies"), *generated(300, seed=6)]
    with (
        gunicorn(tmp_path / "s", STOCK, app="undecided") as stock,
        gunicorn(tmp_path / "l", LOOP, app="undecided") as loop,
    ):
        found = differences(stock, loop, cases, only_whole=True)

    check(found, cases)


def ask(connection: socket.socket, target: str = "/", *, version: str = "1.1") -> tuple[int, bytes, bool]:
    """Send a request; return the status, the body, and whether the server keeps the connection."""
    connection.sendall(f"GET {target} HTTP/{version}\r\nHost: h\r\n\r\n".encode())
    with http.client.HTTPResponse(connection, method="GET") as reply:
        reply.begin()
        return reply.status, reply.read(), not reply.will_close


def seconds_to_answer(server: Gunicorn, target: str = "/") -> float:
    """Return how long a request on a new connection takes."""
    start = time.monotonic()
    with server.connect() as connection:
        assert ask(connection, target)[0] == 200
    return time.monotonic() - start


@dataclass(slots=True)
class Load:
    """The outcomes of requests under load."""

    answered: int = 0
    unheard: int = 0  # on a new connection, without a reply: the server had stopped accepting
    lost: list[str] = field(default_factory=list)


@contextmanager
def load(server: Gunicorn, *, clients: int = 8, targets: Sequence[str] = ("/", "/pool")) -> Iterator[Load]:
    """Send requests on kept-alive connections while the block runs."""
    total = Load()
    lock, stop = threading.Lock(), threading.Event()

    def call() -> None:
        kept: socket.socket | None = None
        connection: socket.socket | None = None
        for target in itertools.cycle(targets):
            if stop.is_set():
                break
            fresh = kept is None
            try:
                connection, kept = kept, None
                connection = connection or server.connect()
                status, _, keeps = ask(connection, target)
                if keeps:
                    kept = connection
                with lock:
                    total.answered += 1
                    if status != 200:
                        total.lost.append(f"status {status}")
            except (ConnectionError, http.client.BadStatusLine) as error:
                with lock:
                    if fresh:
                        total.unheard += 1
                    else:
                        total.lost.append(repr(error))
                time.sleep(0.01)
            except (OSError, http.client.HTTPException) as error:
                with lock:
                    total.lost.append(repr(error))
            if connection and not kept:
                connection.close()
                connection = None
        if kept:
            kept.close()

    threads = [threading.Thread(target=call) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield total
    finally:
        stop.set()
        for thread in threads:
            thread.join()


@BOTH
@pytest.mark.parametrize("target", ["/large", "/pool/large", "/stream", "/pool/stream"])
def test_slow_reader_gets_every_byte(tmp_path: Path, worker_class: str, target: str) -> None:
    """A slow client gets all of a reply that is larger than the socket's buffers, and delays no other client."""
    size = 12_000_000
    with gunicorn(tmp_path / "g", worker_class) as server, Client(server) as slow:
        slow.send(f"GET {target}?{size} HTTP/1.1\r\nHost: h\r\nX-Slow: 1\r\n\r\n".encode() + PROBE)
        for _ in range(5):
            time.sleep(0.05)
            assert seconds_to_answer(server) < PATIENCE
        while len(slow.received) < size / 2:
            for _ in range(10):
                slow.receive(1)
            assert seconds_to_answer(server) < PATIENCE
        answered = in_one_chunk(slow.finish())

    assert answered.count(large(size)) == 1
    assert answered.count(b"HTTP/1.1 200 OK") == 2
    assert len(answered) < size + 2000


def test_many_slow_readers(tmp_path: Path) -> None:
    """More clients than threads that do not read immediate replies delay no other client."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(10)]
        for connection in slow:
            connection.sendall(b"GET /large?8000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        for connection in slow:
            connection.recv(1, socket.MSG_PEEK)  # the reply arrives, which takes a slow machine a while
        assert seconds_to_answer(server) < PATIENCE
        assert seconds_to_answer(server, "/pool") < PATIENCE
        for connection in slow:
            with http.client.HTTPResponse(connection, method="GET") as reply:
                reply.begin()
                assert reply.read() == large(8_000_000)


@BOTH
def test_client_that_sends_and_does_not_read(tmp_path: Path, worker_class: str) -> None:
    """Replies to a client that does not read do not pile up: the server receives no further requests until it reads."""
    with gunicorn(tmp_path / "g", worker_class) as server, server.connect() as connection:
        before = psutil.Process(server.workers()[0]).memory_info().rss
        connection.setblocking(False)
        deadline = time.monotonic() + 1
        wanted = b"GET /large?1000000 HTTP/1.1\r\nHost: h\r\n\r\n" * 100
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                connection.send(wanted)
            time.sleep(0.001)
        assert psutil.Process(server.workers()[0]).memory_info().rss - before < 60_000_000
        assert seconds_to_answer(server) < PATIENCE


def test_pipelining_client_does_not_delay_other_clients(tmp_path: Path) -> None:
    """Thousands of pipelined requests are answered in order, and other clients in between."""
    number = 10_000
    with gunicorn(tmp_path / "g", LOOP) as server, Client(server) as greedy, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(greedy.send, b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % index for index in range(number)))
        waits: list[float] = []
        while len(greedy.received) < 1_000_000 and len(waits) < 20:
            waits.append(seconds_to_answer(server))
        sending.result()
        answered = greedy.finish()

    assert statistics.median(waits) < 1
    assert re.findall(rb'"PATH_INFO": "/(\d+)"', answered) == [b"%d" % index for index in range(number)]


# gunicorn.conf.py sets these limits of the service: see test_server.py.
READ_SECONDS = 3
READ_LIMIT = f"def post_worker_init(worker):\n    worker.read_seconds = {READ_SECONDS}\n"
SLOW_STARTS = {
    "in the line": b"GET /",
    "in the head": b"GET / HTTP/1.1\r\nX: ",
    "in the body": b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n",
    "in an unread body": b"POST /unread HTTP/1.1\r\nContent-Length: 1000\r\n\r\n",
}


@pytest.mark.parametrize("start", SLOW_STARTS.values(), ids=SLOW_STARTS)
def test_trickling_clients(tmp_path: Path, start: bytes) -> None:
    """More trickling clients than threads delay no other client, and are disconnected in time."""
    with gunicorn(tmp_path / "g", LOOP, config=READ_LIMIT) as server, ExitStack() as stack:
        clients = [stack.enter_context(Client(server)) for _ in range(20)]
        for client in clients:
            client.send(start)
        began = time.monotonic()
        waits = []
        while not all(client.ended for client in clients) and time.monotonic() < began + PATIENCE:
            time.sleep(0.1)
            for client in clients:
                with suppress(ConnectionError):
                    client.socket.send(b"1")
                client.receive(0)
            waits.append(max(seconds_to_answer(server), seconds_to_answer(server, "/pool")))
        elapsed = time.monotonic() - began

    assert [client.ended for client in clients] == [True] * 20
    assert elapsed > READ_SECONDS
    assert max(waits) < READ_SECONDS  # so long a request would wait for a thread


def test_slow_reader_is_not_disconnected(tmp_path: Path) -> None:
    """A client that reads its reply slowly keeps its connection; a client that reads nothing is disconnected."""
    size = 20_000_000
    with gunicorn(tmp_path / "g", LOOP, config=READ_LIMIT) as server, Client(server) as slow, Client(server) as silent:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        for client in (slow, silent):
            client.send(get(target=b"/large?%d" % size))
        for client in (slow, silent):
            assert client.poll.poll(PATIENCE * 1000)  # the reply has arrived, which takes a busy machine a while
        began = time.monotonic()
        while time.monotonic() < began + 3 * READ_SECONDS:
            time.sleep(0.1)
            with suppress(BlockingIOError):
                slow.received += slow.socket.recv(20_000)
        slow.receive_until(lambda: len(slow.received) > size)
        silent.receive_until(lambda: len(silent.received) > size)

    assert slow.received.endswith(large(size))
    assert silent.ended


def test_clients_that_do_not_close_delay_no_other_client(tmp_path: Path) -> None:
    """A client that keeps its side of a closed connection open delays no other client."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        waits: list[float] = []
        for target in ("/", "/pool") * 4:
            connection = stack.enter_context(server.connect())
            assert not ask(connection, target, version="1.0")[2]
            connection = stack.enter_context(server.connect())
            connection.sendall(b"malformed\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 400"
            waits.append(max(seconds_to_answer(server), seconds_to_answer(server, "/pool")))
    assert statistics.median(waits) < 1


@BOTH
def test_idle_connections(tmp_path: Path, worker_class: str) -> None:
    """Hundreds of idle connections occupy no thread, and all can still send a request."""
    with gunicorn(tmp_path / "g", worker_class, "--keep-alive", "60") as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(200)]
        for connection in idle:
            assert ask(connection)[2]
        assert statistics.median(seconds_to_answer(server, target) for target in ("/", "/pool") * 20) < 1
        assert [ask(connection)[0] for connection in idle] == [200] * 200


@BOTH
def test_idle_connections_are_closed(tmp_path: Path, worker_class: str) -> None:
    """An idle connection is closed after `keepalive` seconds, whether the loop or a thread answered on it."""
    with gunicorn(tmp_path / "g", worker_class, "--keep-alive", "1") as server, ExitStack() as stack:
        began = time.monotonic()
        for target in ("/", "/pool"):
            connection = stack.enter_context(server.connect())
            assert ask(connection, target)[2]
            assert connection.recv(1) == b""
            assert 1 <= time.monotonic() - began < PATIENCE
            began = time.monotonic()


def test_silent_connections_are_closed(tmp_path: Path) -> None:
    """A connection that never sends anything is closed too, and delays no other client."""
    with gunicorn(tmp_path / "g", LOOP, "--keep-alive", "1") as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(20)]
        assert seconds_to_answer(server, "/pool") < 5  # half the time that a silent connection has
        began = time.monotonic()
        assert [connection.recv(1) for connection in silent] == [b""] * 20
        assert time.monotonic() - began < 15  # ten seconds for the first byte, and a margin


@BOTH
def test_more_connections_than_allowed(tmp_path: Path, worker_class: str) -> None:
    """Connections beyond `worker_connections` wait until other connections close, and no connection is lost."""
    with gunicorn(tmp_path / "g", worker_class, "--worker-connections", "6") as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(6)]
        wait_until(lambda: open_connections(server) >= 6)
        late = [stack.enter_context(server.connect()) for _ in range(12)]
        for connection in late:
            connection.sendall(PROBE)
        for connection in silent:
            connection.close()
        for connection in late:
            with http.client.HTTPResponse(connection, method="GET") as reply:
                reply.begin()
                assert reply.status == 200
            connection.close()


def open_connections(server: Gunicorn) -> int:
    """Return how many connections the worker has accepted."""
    return len(psutil.Process(server.workers()[0]).net_connections("tcp")) - 1


@BOTH
def test_vanishing_clients(tmp_path: Path, worker_class: str) -> None:
    """Clients that reset their connection at any moment leave no connection, traceback or dead worker."""
    starts = [b"", b"GET / HT", b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"]
    starts += [b"GET /large?9000000 HTTP/1.1\r\n\r\n", b"GET /pool/large?9000000 HTTP/1.1\r\n\r\n"]
    starts += [b"GET /pool/sleep?0.05 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n" * 50, b"GET / HTTP/1.0\r\n\r\n"]
    with gunicorn(tmp_path / "g", worker_class, "--worker-connections", "8") as server:
        pids = server.workers()
        for start in starts * 4:
            with server.connect() as connection:
                connection.sendall(start)
                if start.startswith(b"GET /large"):
                    connection.recv(1000)
                time.sleep(0.01)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert seconds_to_answer(server) < PATIENCE
        wait_until(lambda: open_connections(server) == 0)
        assert server.workers() == pids
        assert b"Traceback" not in (server.folder / "error.log").read_bytes()


@BOTH
def test_max_requests(tmp_path: Path, worker_class: str) -> None:
    """A worker that has answered `max_requests` requests is replaced, and no request is lost."""
    flags = ["--max-requests", "40", "--max-requests-jitter", "0"]
    with gunicorn(tmp_path / "g", worker_class, *flags) as server:
        seen: set[int] = set()
        with load(server, clients=4) as total:
            deadline = time.monotonic() + PATIENCE
            while len(seen) < 4 and time.monotonic() < deadline:
                seen.update(server.workers())
                time.sleep(0.01)

    assert len(seen) >= 4
    assert total.lost == []
    assert total.unheard == 0
    assert total.answered >= 80


@BOTH
def test_last_reply_of_a_worker_closes_its_connection(tmp_path: Path, worker_class: str) -> None:
    """The reply that reaches `max_requests` closes its connection; earlier replies do not."""
    with gunicorn(tmp_path / "g", worker_class, "--max-requests", "6") as server, server.connect() as connection:
        kept = [ask(connection)[2] for _ in range(5)]  # the probe in `gunicorn` was the first request

    assert kept == [True, True, True, True, False]


def long_requests(server: Gunicorn, stack: ExitStack) -> list[socket.socket]:
    """Start requests that take about a second for different reasons, and return their connections."""
    wanted = [b"GET /pool/sleep?1 HTTP/1.1\r\n\r\n", b"GET /pool/slow-pieces?1 HTTP/1.1\r\n\r\n"]
    wanted += [b"GET /large?9000000 HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"]
    connections = [stack.enter_context(server.connect()) for _ in wanted]
    for connection, request in zip(connections, wanted):
        connection.sendall(request)
    time.sleep(0.3)
    return connections


def lengths_of_long_replies(connections: list[socket.socket]) -> list[int]:
    """Return the lengths of the replies to `long_requests`."""
    time.sleep(0.3)
    connections[3].sendall(b"cd")
    lengths = []
    for connection in connections[:3]:
        with http.client.HTTPResponse(connection, method="GET") as reply:
            reply.begin()
            lengths.append(len(reply.read()))
    with http.client.HTTPResponse(connections[3], method="POST") as reply:
        reply.begin()
        lengths.append(json.loads(reply.read())["bytes"])
    return lengths


@BOTH
def test_sigterm(tmp_path: Path, worker_class: str) -> None:
    """After SIGTERM under load, all open requests get their whole reply, and gunicorn exits with 0."""
    with gunicorn(tmp_path / "g", worker_class) as server, ExitStack() as stack, load(server) as total:
        wait_until(lambda: total.answered > 20)  # takes gthread a while on a busy machine
        connections = long_requests(server, stack)
        server.process.send_signal(signal.SIGTERM)
        assert lengths_of_long_replies(connections) == [5, 5, 9_000_000, 4]
        stack.close()
        assert server.process.wait(timeout=PATIENCE) == 0

    assert total.lost == []
    assert total.answered > 20


@BOTH
def test_sighup(tmp_path: Path, worker_class: str) -> None:
    """SIGHUP replaces the worker, and no request fails, neither a long request nor a new request."""
    with gunicorn(tmp_path / "g", worker_class) as server, ExitStack() as stack:
        old = server.workers()
        with load(server) as total:
            connections = long_requests(server, stack)
            server.process.send_signal(signal.SIGHUP)
            assert lengths_of_long_replies(connections) == [5, 5, 9_000_000, 4]
            stack.close()
            wait_until(lambda: len(server.workers()) == 1 and server.workers() != old)

    assert total.lost == []
    assert total.unheard == 0
    assert total.answered > 20


@BOTH
def test_kept_connection_of_a_stopping_worker(tmp_path: Path, worker_class: str) -> None:
    """A request that arrives on a kept connection just after SIGTERM is answered, and the connection closes."""
    with gunicorn(tmp_path / "g", worker_class) as server, server.connect() as immediate, server.connect() as pool:
        assert ask(immediate)[2]
        assert ask(pool, "/pool")[2]
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)

        assert ask(immediate)[::2] == (200, False)
        immediate.close()  # gthread waits for it
        assert ask(pool, "/pool")[::2] == (200, False)
        pool.close()
        assert server.process.wait(timeout=PATIENCE) == 0


@BOTH
def test_stopping_worker_does_not_wait_for_idle_clients(tmp_path: Path, worker_class: str) -> None:
    """Idle connections delay the exit only for the two seconds that a request may be under way."""
    with gunicorn(tmp_path / "g", worker_class, "--keep-alive", "60") as server, ExitStack() as stack:
        for _ in range(5):
            assert ask(stack.enter_context(server.connect()))[2]
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(timeout=PATIENCE) == 0
        assert time.monotonic() - began < 25  # the time limit of a request is 30


@BOTH
def test_killed_worker(tmp_path: Path, worker_class: str) -> None:
    """A worker that is killed is replaced."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        old = server.workers()
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: bool(server.workers()) and server.workers() != old)

        assert seconds_to_answer(server) < PATIENCE


@BOTH
def test_orphaned_worker_ends(tmp_path: Path, worker_class: str) -> None:
    """A worker ends when its master is gone."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        worker = psutil.Process(server.workers()[0])
        server.process.kill()
        server.process.wait()
        worker.wait(timeout=PATIENCE)


def test_long_requests_do_not_delay_immediate_requests(tmp_path: Path) -> None:
    """Immediate requests are answered beside more long requests than threads, and the worker's heartbeat goes on."""
    with gunicorn(tmp_path / "g", LOOP, "--timeout", "2") as server, ExitStack() as stack:
        pids = server.workers()
        long = [stack.enter_context(server.connect()) for _ in range(6)]
        for connection in long:
            connection.sendall(b"GET /pool/sleep?3 HTTP/1.1\r\n\r\n")
        time.sleep(0.1)
        for _ in range(20):
            seconds_to_answer(server)
        assert not select.select(long, [], [], 0)[0]  # no long request is answered yet
        for connection in long:
            with http.client.HTTPResponse(connection, method="GET") as reply:
                reply.begin()
                assert reply.read() == b"slept"
        assert server.workers() == pids


def ask_at_once(server: Gunicorn, targets: Sequence[str]) -> list[tuple[int, bytes]]:
    """Send a request per target on separate connections while the loop is busy; return statuses and bodies."""
    with ExitStack() as stack:
        busy, *waiting = [stack.enter_context(server.connect()) for _ in range(1 + len(targets))]
        for connection in (busy, *waiting):
            ask(connection)  # so that the connection is accepted
        busy.sendall(b"GET /sleep?1 HTTP/1.1\r\n\r\n")
        time.sleep(0.2)
        for target, connection in zip(targets, waiting):
            connection.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        found = []
        for connection in waiting:
            with http.client.HTTPResponse(connection, method="GET") as reply:
                reply.begin()
                found.append((reply.status, reply.read()))
        return found


def test_requests_that_arrive_at_once_are_answered_together(tmp_path: Path) -> None:
    """Requests that arrive while the loop is busy are answered in batches of at most 32, with the right replies."""
    with gunicorn(tmp_path / "g", LOOP) as server:
        found = ask_at_once(server, [f"/large?{size}" for size in range(40)])
        with server.connect() as connection:
            counted = [ask(connection, f"/calls?together-{number}")[1] for number in (32, 8)]

    assert found == [(200, large(size)) for size in range(40)]
    assert counted == [b"1", b"1"]


def test_failing_request_fails_alone(tmp_path: Path) -> None:
    """If a request of a batch fails, the other requests get their replies; if the batch fails, all get 500."""
    targets = ["/large?1", "/raise", "/text", "/large?2"]
    with gunicorn(tmp_path / "g", LOOP) as server:
        mixed = ask_at_once(server, targets)
        all_failed = ask_at_once(server, [*targets, "/all-fail"])
        too_few = ask_at_once(server, [*targets, "/too-few"])
        with server.connect() as connection:
            assert ask(connection)[0] == 200

    assert [status for status, _ in mixed] == [200, 500, 500, 200]
    assert [mixed[0][1], mixed[3][1]] == [large(1), large(2)]
    assert [status for status, _ in all_failed + too_few] == [500] * 10


@BOTH
def test_busy_thread_does_not_delay_other_requests(tmp_path: Path, worker_class: str) -> None:
    """A request that computes in its thread shares the processor with other requests."""
    with gunicorn(tmp_path / "g", worker_class) as server, server.connect() as busy:
        busy.sendall(b"GET /pool/spin?2 HTTP/1.1\r\n\r\n")
        time.sleep(0.1)
        for _ in range(5):
            seconds_to_answer(server)
        answered_later = not select.select([busy], [], [], 0)[0]
        with http.client.HTTPResponse(busy, method="GET") as reply:
            reply.begin()
            assert reply.read() == b"spun"

    assert answered_later


LOGGED = [
    get() * 2,
    sized(b"abcd", b"User-Agent: u", b"Referer: r"),
    get(target=b"/pool?q"),
    get(target=b"/status?404+x"),
]
LOGGED += [
    get(target=b"/pieces"),
    get(version=b"HTTP/1.0"),
    b"HEAD / HTTP/1.1\r\n\r\n",
    get(target=b"/raise"),
    b"bad\r\n\r\n",
]
LOGGED += [get(b"X : y"), get(target=b"/raise-first"), get(target=b"/a%20b"), sized(b"x" * 100_000)]
LOGGED += [b"POST / HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", get(b'User-Agent: "\xe9\\')]


def test_access_log(tmp_path: Path) -> None:
    """The access logs of both workers are the same, apart from times and process ids."""
    line = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %(m)s %(U)s %(q)s %(H)s %(B)s'
    line += " %({content-length}i)s %({content-length}o)s %({wsgi.url_scheme}e)s %(T)s %(D)s %(M)s %(L)s %(p)s"
    logs: list[list[str]] = []
    for worker_class in (STOCK, LOOP):
        flags = ["--access-logfile", "access.log", "--access-logformat", line]
        with gunicorn(tmp_path / f"{len(logs)}", worker_class, *flags) as server:
            for stream in LOGGED:
                answer(server, stream)
        text = (server.folder / "access.log").read_text()
        logs.append(re.sub(r"\[[^]]+\]| \d+ \d+ \d+ \d+\.\d+ <\d+>$", "", text, flags=re.MULTILINE).splitlines())

    assert logs[0] == logs[1]
    assert len(logs[0]) > len(LOGGED)


HOOKS = """
def note(what, req):
    with open("hooks.log", "a") as log:
        log.write(f"{what} {req.method} {req.uri} {req.version} {dict(req.headers).get('X')}\\n")

def pre_request(worker, req):
    note("before", req)

def post_request(worker, req, environ, resp):
    note(f"after {environ.get('PATH_INFO')} {resp and resp.status}", req)
"""


def test_hooks(tmp_path: Path) -> None:
    """gunicorn's hooks are called once before and once after every request, with the request and the reply."""
    logs: list[list[str]] = []
    for worker_class in (STOCK, LOOP):
        with gunicorn(tmp_path / f"{len(logs)}", worker_class, config=HOOKS) as server:
            for stream in LOGGED:
                answer(server, stream)
        logs.append((server.folder / "hooks.log").read_text().splitlines())

    assert logs[0] == logs[1]
    assert len(logs[0]) > 2 * len(LOGGED) - 10


@BOTH
def test_replies_are_closed(tmp_path: Path, worker_class: str) -> None:
    """The application's iterable is closed once, also when it fails."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        for target in (b"/pieces", b"/pool/pieces", b"/raise-middle", b"/raise-first"):
            answer(server, get(target=target))
        with server.connect() as connection:
            assert ask(connection, "/calls?closed")[1] == b"4"


@BOTH
def test_date(tmp_path: Path, worker_class: str) -> None:
    """Every reply has the date of its sending."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        for _ in range(2):
            before = int(time.time())
            with Client(server) as client:
                client.send(get() + get(target=b"/pool"))
                client.finish()
            found = re.findall(rb"\r\nDate: ([^\r]+)\r\n", client.received)
            dates = [parsedate_to_datetime(date.decode()).timestamp() for date in found]
            assert len(dates) == 2
            assert all(before <= date <= time.time() for date in dates)
            time.sleep(1.1)


def test_long_run_of_blanks_takes_no_time(tmp_path: Path) -> None:
    """A long run of blanks in a header, followed by a body byte by byte, takes little time of the loop."""
    with gunicorn(tmp_path / "g", LOOP) as server, Client(server) as client:
        worker = psutil.Process(server.workers()[0])
        before = sum(worker.cpu_times()[:2])
        client.send(b"POST / HTTP/1.1\r\nX: b" + b" " * 3800 + b"c\r\nContent-Length: 300\r\n\r\n")
        for _ in range(300):
            client.send(b"1")
            client.receive(0.001)
        client.receive_until(lambda: b'"length": 300' in client.received)
        elapsed = sum(worker.cpu_times()[:2]) - before

    assert client.received.startswith(b"HTTP/1.1 200")
    assert elapsed < 2


def test_workers_share_clients(tmp_path: Path) -> None:
    """A worker leaves a client for a millisecond to a worker with fewer clients before it accepts the client itself.

    The test stops a worker, so the other worker must accept all clients; without the wait it would do so at once. The
    stopped worker then continues, and accepts new clients.
    """
    number = 400
    with gunicorn(tmp_path / "g", LOOP, "--workers", "2") as server, ExitStack() as stack:

        def clients_of(pid: int) -> int:
            return sum(
                connection.status == psutil.CONN_ESTABLISHED for connection in psutil.Process(pid).net_connections()
            )

        def has_more_than(pid: int, before: int) -> bool:
            stack.enter_context(server.connect())
            return clients_of(pid) > before

        wait_until(lambda: len(server.workers()) == 2 and all(has_more_than(pid, 0) for pid in server.workers()))
        stopped, other = server.workers()
        os.kill(stopped, signal.SIGSTOP)
        try:
            before, began = clients_of(other), time.monotonic()
            for _ in range(number):
                stack.enter_context(server.connect())
            wait_until(lambda: clients_of(other) >= before + number)
            elapsed = time.monotonic() - began
        finally:
            os.kill(stopped, signal.SIGCONT)
        before = clients_of(stopped)
        wait_until(lambda: has_more_than(stopped, before))

    assert elapsed > 0.0009 * number  # a busy machine takes longer


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_tls(tmp_path: Path) -> None:
    """With a certificate the worker speaks TLS; clients that do not complete the handshake delay no other client."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    flags = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    with gunicorn(tmp_path / "g", LOOP, *flags) as server, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.connect()).sendall(b"\x16\x03\x01")
            stack.enter_context(server.connect()).sendall(b"no TLS at all")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        connection = stack.enter_context(context.wrap_socket(server.connect(), server_hostname="localhost"))
        status, body, keeps = ask(connection)
        assert (status, json.loads(body)["environ"]["wsgi.url_scheme"], keeps) == (200, "https", True)
        sent = large(300_000)
        connection.sendall(sized(sent) + sized(b"behind it"))
        for content in (sent, b"behind it"):
            with http.client.HTTPResponse(connection, method="POST") as reply:
                reply.begin()
                assert json.loads(reply.read())["sha256"] == hashlib.sha256(content).hexdigest()
        assert ask(connection, "/large?3000000")[1] == large(3_000_000)


def test_unsupported_protocols(tmp_path: Path) -> None:
    """A server that is told to use a protocol that the worker does not speak ends with a message."""
    command = [sys.executable, "-m", "gunicorn", "--worker-class", LOOP, "--bind", "127.0.0.1:0"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command += ["--protocol", "uwsgi", "worker_app:application"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE)

    assert ended.returncode == 2
    assert "protocol is 'uwsgi'" in ended.stderr
    assert "this worker speaks HTTP/1.1 alone" in ended.stderr


def test_too_many_open_files(tmp_path: Path) -> None:
    """If no more files can be opened, connected clients are served, and the other clients are accepted later."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        (worker,) = server.workers()
        most = psutil.Process(worker).num_fds() + 5
        resource.prlimit(worker, resource.RLIMIT_NOFILE, (most, most))
        clients = [stack.enter_context(Client(server)) for _ in range(10)]
        for client in clients:
            client.send(PROBE)
            client.receive(0.3)
        answered = [client for client in clients if client.received]
        assert len(answered) == 5
        for client in answered:
            client.send(PROBE)
            assert client.receive_until(lambda client=client: client.received.count(b"HTTP/1.1 200") == 2)  # type: ignore[misc]
            client.socket.close()
        for client in clients:
            if client not in answered:
                assert client.receive_until(lambda client=client: bool(client.received))  # type: ignore[misc]

        assert server.workers() == [worker]
        assert "Too many open files" in (server.folder / "error.log").read_text()


def test_client_that_keeps_sending_is_disconnected(tmp_path: Path) -> None:
    """After the last reply, the server reads from a client no longer than a request may take."""
    with gunicorn(tmp_path / "g", LOOP, config=READ_LIMIT) as server, server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        connection.recv(100)
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < began + PATIENCE:
                connection.send(b"x" * 65_536)
                time.sleep(0.001)

    assert time.monotonic() < began + PATIENCE


LONG_STARTS = {
    "a long body": b"POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\nab",
    "a chunk": b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\nab",
    "after Expect": b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 100000\r\n\r\nab",
    "in HTTP/1.0": b"POST / HTTP/1.0\r\nContent-Length: 100000\r\n\r\nab",
    "at an unusual path": b"POST /a%20b HTTP/1.1\r\nContent-Length: 100000\r\n\r\nab",
    "in a head of another method": b"PUT / HTTP/1.1\r\nX: ",
    "in a long head": b"GET / HTTP/1.1\r\nX: " + b"a" * 8_000 + b"\r\nY: ",
}


@pytest.mark.parametrize("start", LONG_STARTS.values(), ids=LONG_STARTS)
def test_slow_uploads_take_no_thread(tmp_path: Path, start: bytes) -> None:
    """More slow uploads than threads, in any framing, delay no other request."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(server.connect()).sendall(start)
        time.sleep(0.3)
        assert seconds_to_answer(server, "/pool") < PATIENCE


@pytest.mark.parametrize("framing", ["sized", "chunked", "tiny chunks"])
def test_long_bodies_arrive_complete(tmp_path: Path, framing: str) -> None:
    """A long body in pieces reaches the application unchanged, and the connection serves the next request."""
    body = large(1_000_000)
    streams = {"sized": sized(body), "chunked": post(CHUNKED, body=chunks(body, 70_000))}
    streams["tiny chunks"] = post(CHUNKED, body=chunks(body, 7))
    with gunicorn(tmp_path / "g", LOOP) as server, Client(server) as client:
        stream = streams[framing]
        for place in range(0, len(stream), 99_991):
            client.send(stream[place : place + 99_991])
            client.receive(0.005)
        client.send(PROBE)
        answered = client.finish()

    assert hashlib.sha256(body).hexdigest().encode() in answered
    assert answered.count(b"HTTP/1.1 200 OK") == 2


MEMORY = """
def post_worker_init(worker):
    worker.max_body_bytes = 100_000
"""


def test_memory_of_received_bodies_is_bounded(tmp_path: Path) -> None:
    """The worker holds a limited number of bodies in memory, and pauses further bodies; all requests are answered."""
    config = MEMORY.replace("100_000", "4_000_000")
    stream = sized(b"x" * 3_900_000, target=b"/pool")

    def upload(client: Client) -> bool:
        client.send(stream)
        return client.receive_until(lambda: b'"bytes": 3900000' in client.received)

    with gunicorn(tmp_path / "g", LOOP, config=config) as server, ExitStack() as stack, ThreadPoolExecutor(40) as pool:
        worker = psutil.Process(server.workers()[0])
        clients = [stack.enter_context(Client(server)) for _ in range(40)]
        before = peak = worker.memory_info().rss
        uploads = [pool.submit(upload, client) for client in clients]
        while not all(future.done() for future in uploads):
            peak = max(peak, worker.memory_info().rss)
            time.sleep(0.002)
        assert all(future.result() for future in uploads)

    # All 40 bodies are 156 MB. Seven may be in memory, and four threads join the pieces of their bodies.
    assert peak - before < 90_000_000


@pytest.mark.parametrize("start", ["Content-Length: 10000000\r\n", "Transfer-Encoding: chunked\r\n\r\n989680"])
def test_body_that_is_too_long_ends_its_connection(tmp_path: Path, start: str) -> None:
    """The reply to a body beyond the limit closes the connection; a client that sends the whole body gets the reply."""
    with gunicorn(tmp_path / "g", LOOP, config=MEMORY) as server, server.connect() as connection:
        connection.sendall(f"POST /unread HTTP/1.1\r\n{start}\r\n".encode())
        connection.sendall(b"x" * 10_000_000)
        answered = b"".join(iter(lambda: connection.recv(65_536), b""))

    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answered
