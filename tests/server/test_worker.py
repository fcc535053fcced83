"""Owns the worker's promise: to a client it is gunicorn's own threaded worker, only faster and harder to hold up."""

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
PATIENCE = 60.0  # seconds after which a test has waited in vain, also on a busy machine


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """A running gunicorn: where it listens, its process and its files."""

    address: tuple[str, int] | str
    process: subprocess.Popen[bytes]
    folder: Path

    def workers(self) -> list[int]:
        """Return the process ids of the workers."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def connect(self, *, timeout: float = PATIENCE) -> socket.socket:
        """Return a new connection to the server."""
        one = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        one.settimeout(timeout)
        try:
            one.connect(self.address)
        except OSError:
            one.close()
            raise
        if not isinstance(self.address, str):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return one


@contextmanager
def gunicorn(
    folder: Path, worker_class: str, *flags: str, config: str = "", unix: bool = False, app: str = "application"
) -> Iterator[Gunicorn]:
    """Run gunicorn with one worker of a class in a folder, until the block ends; `config` is a configuration file."""
    folder.mkdir(exist_ok=True)
    # In the file, where a setting that this gunicorn does not have is none.
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


def wait_until(true: Callable[[], bool]) -> None:
    """Return as soon as something is true; fail if it is not in time."""
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def plain(stream: bytes) -> bytes:
    """Return what a server sent without gunicorn's dates."""
    return re.sub(rb"\r\nDate: [^\r\n]* GMT(?=\r\n)", b"", stream)


class Client:
    """A connection of which all that came is kept; sends and receives at the same time, so that neither blocks."""

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
        """Take what comes within some seconds; return whether anything did."""
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
        """Send all of it, unless the server closed the connection."""
        rest = memoryview(data)
        deadline = time.monotonic() + PATIENCE
        while rest and not self.ended:
            try:
                rest = rest[self.socket.send(rest) :]
            except BlockingIOError:
                self.receive(0.005)
            except ConnectionError:
                self.receive(0.005)  # what came before the reset
                break
            assert time.monotonic() < deadline

    def receive_until(self, true: Callable[[], bool], *, seconds: float = PATIENCE) -> bool:
        """Take what comes until something is true of it, or it ends, or the time is over; return whether it was not."""
        deadline = time.monotonic() + seconds
        while not (self.ended or true()):
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self.receive(left)
        return True

    def wait_for_more(self) -> None:
        """Take the next bytes, or none where a server does not answer what it got."""
        before = len(self.received)
        self.receive_until(lambda: len(self.received) > before, seconds=1)

    def finish(self) -> bytes:
        """Say that no more is sent, and return all that came until the server closed."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        self.receive_until(lambda: False)
        assert self.ended, f"the server did not close; it sent {bytes(self.received[-500:])!r}"
        return plain(bytes(self.received))


def answer(server: Gunicorn, stream: bytes) -> bytes:
    """Return all that a server answers to a stream that then ends."""
    with Client(server) as client:
        client.send(stream)
        return client.finish()


def answer_in_pieces(server: Gunicorn, case: Case, *, pause: float) -> bytes:
    """Return the answer to a case that is sent piece by piece, a probe and the end."""
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
    """Return the answer to a case whose probe goes out after the awaited replies, or the end if none are named.

    The second value is whether those came within some seconds. If not, the probe goes out nevertheless.
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


def coarse(answered: bytes) -> bytes:
    """Return an answer without the words of a refusal.

    Which of several mistakes is reported depends on how the bytes arrive: gunicorn looks for some of them early.
    """
    return _REFUSAL.sub(rb"<refused \1>", answered)


def coarsest(answered: bytes) -> bytes:
    """Return an answer that says that a request is refused, but not why."""
    return re.sub(rb"<refused 4\d\d>", b"<refused>", coarse(answered))


_CHUNKED_HEAD = re.compile(
    rb"HTTP/1\.1 \d+ [^\r]*\r\n(?:[^\r\n]+\r\n)*?Transfer-Encoding: chunked\r\n(?:[^\r\n]+\r\n)*\r\n"
)


def in_one_chunk(answered: bytes) -> bytes:
    """Return an answer with the chunks of each body joined."""
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
# Where the loop may answer unlike gthread, and why: (reason, how gthread's answer ends, how the loop's does).
# Beside these it may send in one chunk what gthread sends in several: it is made whole before it is sent.
EXPLAINED: list[tuple[str, re.Pattern[bytes], bytes]] = [
    (
        "a quick reply that fails in its middle has not been sent yet, so the client learns that it failed",
        re.compile(rb"HTTP/1\.1 200 OK\r\n(?:[^\r\n]+\r\n)+Content-Length: 10\r\n\r\nnever$"),
        _ERROR_PAGE,
    ),
    (
        "nor has one whose pieces are no bytes",
        re.compile(rb"HTTP/1\.1 200 OK\r\n(?:[^\r\n]+\r\n)+Transfer-Encoding: chunked\r\n(?:[^\r\n]+\r\n)+\r\n$"),
        _ERROR_PAGE,
    ),
]

# A body beyond what the loop gathers is not waited for, and the reply says that the connection ends.
_TOO_LONG = re.compile(rb"Content-Length: ?[1-9][0-9]{7,29}\r\n")
# Nor is a request answered before its body is whole, as gthread answers this one.
_NOT_WHOLE = re.compile(rb"POST /raise HTTP/1\.1\r\n(?:[^\r\n]+\r\n)*Content-Length: 9\r\n\r\n.{4}", re.DOTALL)


def alike(expected: bytes, actual: bytes, view: Callable[[bytes], bytes]) -> bool:
    """Return whether the loop answers as gthread does, or otherwise for a reason that is named above."""
    if view(expected) == view(actual):
        return True
    expected, actual = in_one_chunk(expected), in_one_chunk(actual)
    may_be = [expected, *(end.sub(lambda _, page=page: page, expected) for _, end, page in EXPLAINED)]  # type: ignore[misc]
    return view(actual) in map(view, may_be)


def exactly(answered: bytes) -> bytes:
    """Return an answer as it is."""
    return answered


def difference(stock: Gunicorn, other: Gunicorn, case: Case, alive: bytes, *, only_whole: bool = False) -> str:
    """Return how two servers differ in what they answer to a case, "" if they do not; `alive` is the probe's reply."""
    whole = case.stream + PROBE
    expected, actual = answer(stock, whole), answer(other, whole)
    too_long = _TOO_LONG.search(case.stream)
    if too_long:
        expected = expected.replace(b"\r\nConnection: keep-alive\r\n", b"\r\nConnection: close\r\n")
    # What is longer than one read may come in unlike parts.
    if not alike(expected, actual, exactly if len(whole) <= 8192 else coarse):
        return report("at once", case, expected, actual)
    if only_whole or too_long:
        return ""

    awaited = expected.removesuffix(alive) if expected.endswith(alive) else None
    ours = actual.removesuffix(alive) if actual.endswith(alive) else None
    for seconds in (0.1, 3):  # a busy machine, or one of them waits for more
        stock_late = answer_with_late_probe(stock, case, awaited, seconds=seconds)
        other_late = answer_with_late_probe(other, case, ours, seconds=seconds)
        if stock_late[1] == other_late[1] or _NOT_WHOLE.fullmatch(case.stream):
            break
    else:
        return report("with a late probe: in time", case, b"%r" % stock_late[1], b"%r" % other_late[1])
    if not alike(stock_late[0], other_late[0], coarse):
        return report("with a late probe", case, stock_late[0], other_late[0])

    pieces = split(case, seed=1)
    expected, actual = (answer_in_pieces(one, pieces, pause=0.0005) for one in (stock, other))
    if len(whole) <= 8192 and not alike(expected, actual, coarsest):
        return report("in pieces", pieces, expected, actual)
    for pause in (0.05, 0.2, 0.5):  # so slowly that what arrives together is sure, and before the server hangs up
        if alike(expected, actual, coarse):
            return ""
        expected, actual = (answer_in_pieces(one, pieces, pause=pause) for one in (stock, other))
    return "" if alike(expected, actual, coarse) else report("in slow pieces", pieces, expected, actual)


def report(how: str, case: Case, expected: bytes, actual: bytes) -> str:
    """Return what to read when two servers differ."""
    common = next(
        (place for place, (a, b) in enumerate(zip(expected, actual)) if a != b), min(len(expected), len(actual))
    )
    start = max(0, common - 100)
    pieces = [piece if len(piece) < 600 else piece[:300] + b" ... " + piece[-300:] for piece in case.pieces]
    shown = [one[start : common + 300] for one in (expected, actual)]
    return f"{case.name}, {how}: {pieces}\n  stock from byte {start}: {shown[0]!r}\n  other: {shown[1]!r}"


def differences(stock: Gunicorn, other: Gunicorn, cases: Sequence[Case], *, only_whole: bool = False) -> list[str]:
    """Return all differences between two servers over many cases."""
    alive = answer(stock, PROBE)
    assert answer(other, PROBE) == alive
    workers = stock.workers() + other.workers()

    def look(case: Case) -> str:
        return difference(stock, other, case, alive, only_whole=only_whole)

    with ThreadPoolExecutor(8) as pool:
        found = [each for each in pool.map(look, cases) if each]
    if workers != stock.workers() + other.workers():
        found.insert(0, "a worker died:\n" + (other.folder / "error.log").read_text()[-3000:])
    return found


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gunicorn, Gunicorn]]:
    """A gunicorn with its own worker and one with ours, alike in all else; tests do not stop them."""
    folder = tmp_path_factory.mktemp("pair")
    with gunicorn(folder / "stock", STOCK) as stock, gunicorn(folder / "loop", LOOP) as loop:
        yield stock, loop


def groups(*names: str) -> list[Case]:
    """Return the hand-written cases of some groups."""
    return [case for case in hand_written() if case.name.split()[0] in names]


def check(found: list[str], cases: Sequence[Case]) -> None:
    """Fail with the first differences, if there are any."""
    assert not found, "\n".join([f"{len(found)} of {len(cases)} differ", *found[:10]])


GROUPS = sorted({case.name.split()[0] for case in hand_written()})


@pytest.mark.parametrize("group", GROUPS)
def test_hand_written_cases(pair: tuple[Gunicorn, Gunicorn], group: str) -> None:
    """Whatever is sent, at once or in pieces, both workers send the same replies and close or keep the connection."""
    cases = groups(group)

    check(differences(*pair, cases), cases)


def test_too_long_a_head_is_refused_as_soon_as_it_is(pair: tuple[Gunicorn, Gunicorn]) -> None:
    """A line without an end is refused when it passes gunicorn's limit, at whatever lengths it was looked at before."""
    for server in pair:
        with Client(server) as client:
            client.send(b"GET / HTTP/1.1\r\nX: ")
            for n_bytes in (52_000, 52_000, 104_000, 208_000, 410_000):
                client.send(b"a" * n_bytes)
                client.receive(0.3)

            assert client.receive_until(lambda: client.received.endswith(b"</html>\n"), seconds=10)
            assert client.received.startswith(b"HTTP/1.1 431 ")


def test_generated_cases(pair: tuple[Gunicorn, Gunicorn]) -> None:
    """Mutations of valid requests are answered alike by both workers."""
    cases = list(generated(2000, seed=1))

    check(differences(*pair, cases), cases)


def test_more_generated_cases(pair: tuple[Gunicorn, Gunicorn]) -> None:
    """Ten thousand more are, where they come at once."""
    cases = list(generated(10_000, seed=2))

    check(differences(*pair, cases, only_whole=True), cases)


SMALL = ["--limit-request-line", "100", "--limit-request-fields", "5", "--limit-request-field_size", "50"]
TOLERANT = ["--permit-obsolete-folding", "--strip-header-spaces", "--permit-unconventional-http-method"]
TOLERANT += ["--permit-unconventional-http-version", "--casefold-http-method"]
SETTINGS = {
    "small limits": SMALL,
    "no limits": ["--limit-request-line", "0", "--limit-request-fields", "0", "--limit-request-field_size", "0"],
    "no keep-alive": ["--keep-alive", "0"],
    "distrust": ["--forwarded-allow-ips", "10.1.2.3"],
    "trust of a network": ["--forwarded-allow-ips", "127.0.0.0/8"],
    "ambiguous names": ["--header-map", "dangerous"],
    "no ambiguous names": ["--header-map", "refuse"],
    "names of a forwarder": ["--forwarder-headers", "X_Y,PATH_INFO,REMOTE_ADDR,HTTP_HOST"],
    "tolerance": TOLERANT,
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
    """gunicorn's settings mean the same to both workers."""
    flags = SETTINGS[name]
    cases = [*groups("fields", "lines", "expectations"), *near_small_limits()]
    with gunicorn(tmp_path / "s", STOCK, *flags) as stock, gunicorn(tmp_path / "l", LOOP, *flags) as loop:
        found = differences(stock, loop, cases, only_whole=True)

    check(found, cases)


def test_own_scheme_headers(tmp_path: Path) -> None:
    """The headers that say whether a client came by https are those that the configuration names."""
    config = "secure_scheme_headers = {'X-Y': 'z', 'ACCEPT': 'a', 'CONTENT-TYPE': 'a'}"
    cases = groups("fields")
    with gunicorn(tmp_path / "s", STOCK, config=config) as stock, gunicorn(tmp_path / "l", LOOP, config=config) as loop:
        found = differences(stock, loop, cases, only_whole=True)

    check(found, cases)


def test_unix_socket(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A Unix socket is served as gthread serves it."""
    folder = tmp_path_factory.mktemp("u")
    cases = [*groups("fields", "lines", "bodies", "held"), *generated(300, seed=5)]
    with gunicorn(folder / "s", STOCK, unix=True) as stock, gunicorn(folder / "l", LOOP, unix=True) as loop:
        found = differences(stock, loop, cases)

    check(found, cases)


def test_application_that_does_not_say_what_is_quick(tmp_path: Path) -> None:
    """An application without `is_immediate` is served by threads alone."""
    cases = [*groups("pipelines", "held", "replies"), *generated(300, seed=6)]
    with (
        gunicorn(tmp_path / "s", STOCK, app="undecided") as stock,
        gunicorn(tmp_path / "l", LOOP, app="undecided") as loop,
    ):
        found = differences(stock, loop, cases, only_whole=True)

    check(found, cases)


def ask(one: socket.socket, target: str = "/", *, version: str = "1.1") -> tuple[int, bytes, bool]:
    """Ask on an open connection; return the status, the body, and whether the server keeps the connection."""
    one.sendall(f"GET {target} HTTP/{version}\r\nHost: h\r\n\r\n".encode())
    with http.client.HTTPResponse(one, method="GET") as reply:
        reply.begin()
        return reply.status, reply.read(), not reply.will_close


def seconds_to_answer(server: Gunicorn, target: str = "/") -> float:
    """Return how long a request on a connection of its own takes."""
    start = time.monotonic()
    with server.connect() as one:
        assert ask(one, target)[0] == 200
    return time.monotonic() - start


@dataclass(slots=True)
class Load:
    """What became of requests under load."""

    answered: int = 0
    unheard: int = 0  # on a new connection, before anything came back: the server had stopped to listen
    lost: list[str] = field(default_factory=list)


@contextmanager
def load(server: Gunicorn, *, clients: int = 8, targets: Sequence[str] = ("/", "/pool")) -> Iterator[Load]:
    """Ask on kept-alive connections beside the block."""
    total = Load()
    lock, stop = threading.Lock(), threading.Event()

    def call() -> None:
        kept: socket.socket | None = None
        one: socket.socket | None = None
        for target in itertools.cycle(targets):
            if stop.is_set():
                break
            fresh = kept is None
            try:
                one, kept = kept, None
                one = one or server.connect()
                status, _, keeps = ask(one, target)
                if keeps:
                    kept = one
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
            if one and not kept:
                one.close()
                one = None
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
    """A reply that is larger than the socket's buffers comes whole to a client that takes its time; others go on."""
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
    """More clients than there are threads, none of which takes its reply to a quick request, do not hold up others."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        slow = [stack.enter_context(server.connect()) for _ in range(10)]
        for one in slow:
            one.sendall(b"GET /large?8000000 HTTP/1.1\r\nHost: h\r\n\r\n")
        for one in slow:
            one.recv(1, socket.MSG_PEEK)  # the reply is there: to make it takes a slow machine its time
        assert seconds_to_answer(server) < PATIENCE
        assert seconds_to_answer(server, "/pool") < PATIENCE
        for one in slow:
            with http.client.HTTPResponse(one, method="GET") as reply:
                reply.begin()
                assert reply.read() == large(8_000_000)


@BOTH
def test_client_that_sends_and_does_not_read(tmp_path: Path, worker_class: str) -> None:
    """What a client does not take is not piled up: the server reads no further requests before it does."""
    with gunicorn(tmp_path / "g", worker_class) as server, server.connect() as one:
        before = psutil.Process(server.workers()[0]).memory_info().rss
        one.setblocking(False)
        deadline = time.monotonic() + 1
        wanted = b"GET /large?1000000 HTTP/1.1\r\nHost: h\r\n\r\n" * 100
        while time.monotonic() < deadline:
            with suppress(BlockingIOError):
                one.send(wanted)
            time.sleep(0.001)
        assert psutil.Process(server.workers()[0]).memory_info().rss - before < 60_000_000
        assert seconds_to_answer(server) < PATIENCE


def test_client_that_sends_ahead_does_not_hold_up_others(tmp_path: Path) -> None:
    """Thousands of requests in one go are answered in their order, and others in between."""
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


# What a thread reads, gunicorn.conf.py bounds: see test_server.py.
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
    """Clients that send a byte now and then, more than there are threads, hold up nobody and are let go in time."""
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
        took = time.monotonic() - began

    assert [client.ended for client in clients] == [True] * 20
    assert took > READ_SECONDS
    assert max(waits) < READ_SECONDS  # which a request would wait that has no thread


def test_slow_reader_is_not_let_go(tmp_path: Path) -> None:
    """A client that takes a little of its reply now and then keeps its connection, one that takes nothing does not."""
    size = 20_000_000
    with gunicorn(tmp_path / "g", LOOP, config=READ_LIMIT) as server, Client(server) as slow, Client(server) as silent:
        slow.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 100_000)
        for client in (slow, silent):
            client.send(get(target=b"/large?%d" % size))
        for client in (slow, silent):
            assert client.poll.poll(PATIENCE * 1000)  # the reply is there: to make it takes a busy machine its time
        began = time.monotonic()
        while time.monotonic() < began + 3 * READ_SECONDS:
            time.sleep(0.1)
            with suppress(BlockingIOError):
                slow.received += slow.socket.recv(20_000)
        slow.receive_until(lambda: len(slow.received) > size)
        silent.receive_until(lambda: len(silent.received) > size)

    assert slow.received.endswith(large(size))
    assert silent.ended


def test_clients_that_do_not_close_hold_up_nobody(tmp_path: Path) -> None:
    """A client that keeps its side open, though the server ended the connection, costs nobody time."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        waits: list[float] = []
        for target in ("/", "/pool") * 4:
            one = stack.enter_context(server.connect())
            assert not ask(one, target, version="1.0")[2]
            one = stack.enter_context(server.connect())
            one.sendall(b"malformed\r\n\r\n")
            assert one.recv(12) == b"HTTP/1.1 400"
            waits.append(max(seconds_to_answer(server), seconds_to_answer(server, "/pool")))
    assert statistics.median(waits) < 1


@BOTH
def test_idle_connections(tmp_path: Path, worker_class: str) -> None:
    """Hundreds of idle connections take no thread, and each is still good for a request."""
    with gunicorn(tmp_path / "g", worker_class, "--keep-alive", "60") as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect()) for _ in range(200)]
        for one in idle:
            assert ask(one)[2]
        assert statistics.median(seconds_to_answer(server, target) for target in ("/", "/pool") * 20) < 1
        assert [ask(one)[0] for one in idle] == [200] * 200


@BOTH
def test_idle_connections_are_closed(tmp_path: Path, worker_class: str) -> None:
    """A connection without requests is closed after `keepalive` seconds, whichever way its last one was answered."""
    with gunicorn(tmp_path / "g", worker_class, "--keep-alive", "1") as server, ExitStack() as stack:
        began = time.monotonic()
        for target in ("/", "/pool"):
            one = stack.enter_context(server.connect())
            assert ask(one, target)[2]
            assert one.recv(1) == b""
            assert 1 <= time.monotonic() - began < PATIENCE
            began = time.monotonic()


def test_silent_connections_are_closed(tmp_path: Path) -> None:
    """So is a connection on which nothing was ever sent, and they hold up nobody."""
    with gunicorn(tmp_path / "g", LOOP, "--keep-alive", "1") as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(20)]
        assert seconds_to_answer(server, "/pool") < 5  # half of what a silent connection is given
        began = time.monotonic()
        assert [one.recv(1) for one in silent] == [b""] * 20
        assert time.monotonic() - began < 15  # ten for the first byte


@BOTH
def test_more_connections_than_allowed(tmp_path: Path, worker_class: str) -> None:
    """Connections beyond `worker_connections` wait until others end, and none is lost."""
    with gunicorn(tmp_path / "g", worker_class, "--worker-connections", "6") as server, ExitStack() as stack:
        silent = [stack.enter_context(server.connect()) for _ in range(6)]
        wait_until(lambda: open_connections(server) >= 6)
        late = [stack.enter_context(server.connect()) for _ in range(12)]
        for one in late:
            one.sendall(PROBE)
        for one in silent:
            one.close()
        for one in late:
            with http.client.HTTPResponse(one, method="GET") as reply:
                reply.begin()
                assert reply.status == 200
            one.close()


def open_connections(server: Gunicorn) -> int:
    """Return how many connections the worker has accepted."""
    return len(psutil.Process(server.workers()[0]).net_connections("tcp")) - 1


@BOTH
def test_vanishing_clients(tmp_path: Path, worker_class: str) -> None:
    """Clients that reset their connection, at any moment, leave nothing behind."""
    starts = [b"", b"GET / HT", b"GET / HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"]
    starts += [b"GET /large?9000000 HTTP/1.1\r\n\r\n", b"GET /pool/large?9000000 HTTP/1.1\r\n\r\n"]
    starts += [b"GET /pool/sleep?0.05 HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n" * 50, b"GET / HTTP/1.0\r\n\r\n"]
    with gunicorn(tmp_path / "g", worker_class, "--worker-connections", "8") as server:
        pids = server.workers()
        for start in starts * 4:
            with server.connect() as one:
                one.sendall(start)
                if start.startswith(b"GET /large"):
                    one.recv(1000)
                time.sleep(0.01)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert seconds_to_answer(server) < PATIENCE
        wait_until(lambda: open_connections(server) == 0)
        assert server.workers() == pids
        assert b"Traceback" not in (server.folder / "error.log").read_bytes()


@BOTH
def test_max_requests(tmp_path: Path, worker_class: str) -> None:
    """A worker that has answered its share makes room for a new one, and no request is lost for it."""
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
def test_last_request_of_a_worker_says_so(tmp_path: Path, worker_class: str) -> None:
    """The reply that uses up `max_requests` closes its connection, and those before it do not."""
    with gunicorn(tmp_path / "g", worker_class, "--max-requests", "6") as server, server.connect() as one:
        kept = [ask(one)[2] for _ in range(5)]  # the server's start took one

    assert kept == [True, True, True, True, False]


def long_requests(server: Gunicorn, stack: ExitStack) -> list[socket.socket]:
    """Begin requests that take about a second, in different ways, and return their connections."""
    wanted = [b"GET /pool/sleep?1 HTTP/1.1\r\n\r\n", b"GET /pool/slow-pieces?1 HTTP/1.1\r\n\r\n"]
    wanted += [b"GET /large?9000000 HTTP/1.1\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nab"]
    connections = [stack.enter_context(server.connect()) for _ in wanted]
    for one, request in zip(connections, wanted):
        one.sendall(request)
    time.sleep(0.3)
    return connections


def lengths_of_long_replies(connections: list[socket.socket]) -> list[int]:
    """Take what is left of the replies to `long_requests`."""
    time.sleep(0.3)
    connections[3].sendall(b"cd")
    lengths = []
    for one in connections[:3]:
        with http.client.HTTPResponse(one, method="GET") as reply:
            reply.begin()
            lengths.append(len(reply.read()))
    with http.client.HTTPResponse(connections[3], method="POST") as reply:
        reply.begin()
        lengths.append(json.loads(reply.read())["bytes"])
    return lengths


@BOTH
def test_term(tmp_path: Path, worker_class: str) -> None:
    """SIGTERM, under load, lets all that has begun be answered in whole, and ends with 0."""
    with gunicorn(tmp_path / "g", worker_class) as server, ExitStack() as stack, load(server) as total:
        wait_until(lambda: total.answered > 20)  # which takes gthread a while when the machine is busy
        connections = long_requests(server, stack)
        server.process.send_signal(signal.SIGTERM)
        assert lengths_of_long_replies(connections) == [5, 5, 9_000_000, 4]
        stack.close()
        assert server.process.wait(timeout=PATIENCE) == 0

    assert total.lost == []
    assert total.answered > 20


@BOTH
def test_hup(tmp_path: Path, worker_class: str) -> None:
    """SIGHUP replaces the worker, and no request fails for it, neither a long one nor a new one."""
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
    """A request that comes on a kept connection just after SIGTERM is answered, with an end of the connection."""
    with gunicorn(tmp_path / "g", worker_class) as server, server.connect() as quick, server.connect() as pool:
        assert ask(quick)[2]
        assert ask(pool, "/pool")[2]
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.3)

        assert ask(quick)[::2] == (200, False)
        quick.close()  # gthread waits for it
        assert ask(pool, "/pool")[::2] == (200, False)
        pool.close()
        assert server.process.wait(timeout=PATIENCE) == 0


@BOTH
def test_stopping_worker_does_not_wait_for_idle_clients(tmp_path: Path, worker_class: str) -> None:
    """Connections without a request hold up the end for the two seconds that a request may be under way, no more."""
    with gunicorn(tmp_path / "g", worker_class, "--keep-alive", "60") as server, ExitStack() as stack:
        for _ in range(5):
            assert ask(stack.enter_context(server.connect()))[2]
        began = time.monotonic()
        server.process.send_signal(signal.SIGTERM)

        assert server.process.wait(timeout=PATIENCE) == 0
        assert time.monotonic() - began < 25  # a request is given 30


@BOTH
def test_killed_worker(tmp_path: Path, worker_class: str) -> None:
    """A worker that is killed is replaced."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        old = server.workers()
        os.kill(old[0], signal.SIGKILL)
        wait_until(lambda: bool(server.workers()) and server.workers() != old)

        assert seconds_to_answer(server) < PATIENCE


@BOTH
def test_orphan_ends(tmp_path: Path, worker_class: str) -> None:
    """A worker whose master is gone does not go on alone."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        worker = psutil.Process(server.workers()[0])
        server.process.kill()
        server.process.wait()
        worker.wait(timeout=PATIENCE)


def test_long_requests_do_not_hold_up_quick_ones(tmp_path: Path) -> None:
    """Beside more long requests than there are threads quick ones are answered, and the worker is seen to live."""
    with gunicorn(tmp_path / "g", LOOP, "--timeout", "2") as server, ExitStack() as stack:
        pids = server.workers()
        long = [stack.enter_context(server.connect()) for _ in range(6)]
        for one in long:
            one.sendall(b"GET /pool/sleep?3 HTTP/1.1\r\n\r\n")
        time.sleep(0.1)
        for _ in range(20):
            seconds_to_answer(server)
        assert not select.select(long, [], [], 0)[0]  # a long one is not answered yet
        for one in long:
            with http.client.HTTPResponse(one, method="GET") as reply:
                reply.begin()
                assert reply.read() == b"slept"
        assert server.workers() == pids


def ask_at_once(server: Gunicorn, targets: Sequence[str]) -> list[tuple[int, bytes]]:
    """Send requests for the targets, each on its connection, while the loop is busy; return status and body of each."""
    with ExitStack() as stack:
        busy, *waiting = [stack.enter_context(server.connect()) for _ in range(1 + len(targets))]
        for one in (busy, *waiting):
            ask(one)  # so that it is let in
        busy.sendall(b"GET /sleep?1 HTTP/1.1\r\n\r\n")
        time.sleep(0.2)
        for target, one in zip(targets, waiting):
            one.sendall(f"GET {target} HTTP/1.1\r\n\r\n".encode())
        found = []
        for one in waiting:
            with http.client.HTTPResponse(one, method="GET") as reply:
                reply.begin()
                found.append((reply.status, reply.read()))
        return found


def test_requests_that_come_at_once_are_answered_together(tmp_path: Path) -> None:
    """What came while the loop was busy goes to the application at once, 32 at most; each client gets its own reply."""
    with gunicorn(tmp_path / "g", LOOP) as server:
        found = ask_at_once(server, [f"/large?{size}" for size in range(40)])
        with server.connect() as one:
            counted = [ask(one, f"/calls?together-{number}")[1] for number in (32, 8)]

    assert found == [(200, large(size)) for size in range(40)]
    assert counted == [b"1", b"1"]


def test_request_that_fails_fails_alone(tmp_path: Path) -> None:
    """Of requests that are answered together the others get their replies; only if all fail, all get a 500."""
    targets = ["/large?1", "/raise", "/text", "/large?2"]
    with gunicorn(tmp_path / "g", LOOP) as server:
        some = ask_at_once(server, targets)
        none = ask_at_once(server, [*targets, "/all-fail"])
        forgotten = ask_at_once(server, [*targets, "/too-few"])
        with server.connect() as one:
            assert ask(one)[0] == 200

    assert [status for status, _ in some] == [200, 500, 500, 200]
    assert [some[0][1], some[3][1]] == [large(1), large(2)]
    assert [status for status, _ in none + forgotten] == [500] * 10


@BOTH
def test_busy_thread_does_not_hold_up_others(tmp_path: Path, worker_class: str) -> None:
    """A request that computes in its thread shares the processor with others."""
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
    """The access log has the same lines, apart from times and process ids."""
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
    """gunicorn's hooks are called before and after each request, once, with the request and the reply."""
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
    """The iterable that an application returns is closed once, also when it fails."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        for target in (b"/pieces", b"/pool/pieces", b"/raise-middle", b"/raise-first"):
            answer(server, get(target=target))
        with server.connect() as one:
            assert ask(one, "/calls?closed")[1] == b"4"


@BOTH
def test_date(tmp_path: Path, worker_class: str) -> None:
    """Every reply has the time at which it is sent."""
    with gunicorn(tmp_path / "g", worker_class) as server:
        for _ in range(2):
            before = int(time.time())
            with Client(server) as client:
                client.send(get() + get(target=b"/pool"))
                client.finish()
            found = re.findall(rb"\r\nDate: ([^\r]+)\r\n", client.received)
            dates = [parsedate_to_datetime(one.decode()).timestamp() for one in found]
            assert len(dates) == 2
            assert all(before <= date <= time.time() for date in dates)
            time.sleep(1.1)


def test_head_of_blanks_costs_nothing(tmp_path: Path) -> None:
    """A long run of blanks in a header, and a body byte by byte behind it, take no time of the loop."""
    with gunicorn(tmp_path / "g", LOOP) as server, Client(server) as client:
        worker = psutil.Process(server.workers()[0])
        before = sum(worker.cpu_times()[:2])
        client.send(b"POST / HTTP/1.1\r\nX: b" + b" " * 3800 + b"c\r\nContent-Length: 300\r\n\r\n")
        for _ in range(300):
            client.send(b"1")
            client.receive(0.001)
        client.receive_until(lambda: b'"length": 300' in client.received)
        took = sum(worker.cpu_times()[:2]) - before

    assert client.received.startswith(b"HTTP/1.1 200")
    assert took < 0.5


def test_workers_share_clients(tmp_path: Path) -> None:
    """A worker leaves each client to one that has fewer for a millisecond, before it accepts the client itself.

    One of two workers is stopped, so that the other one has to accept all: at once, if it left none to the first. That
    one then gets those that come until it has as many.
    """
    number = 400
    with gunicorn(tmp_path / "g", LOOP, "--workers", "2") as server, ExitStack() as stack:

        def clients_of(pid: int) -> int:
            return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(pid).net_connections())

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
            took = time.monotonic() - began
        finally:
            os.kill(stopped, signal.SIGCONT)
        before = clients_of(stopped)
        wait_until(lambda: has_more_than(stopped, before))

    assert took > 0.0009 * number  # a machine that is busy takes longer


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl")
def test_tls(tmp_path: Path) -> None:
    """With a certificate the worker speaks TLS; clients that begin no handshake, or do not end it, hold up nobody."""
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    flags = ["--certfile", str(tmp_path / "cert.pem"), "--keyfile", str(tmp_path / "key.pem")]
    with gunicorn(tmp_path / "g", LOOP, *flags) as server, ExitStack() as stack:
        for _ in range(8):
            stack.enter_context(server.connect()).sendall(b"\x16\x03\x01")
            stack.enter_context(server.connect()).sendall(b"no TLS at all")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        one = stack.enter_context(context.wrap_socket(server.connect(), server_hostname="localhost"))
        status, body, keeps = ask(one)
        assert (status, json.loads(body)["environ"]["wsgi.url_scheme"], keeps) == (200, "https", True)
        sent = large(300_000)
        one.sendall(sized(sent) + sized(b"behind it"))
        for content in (sent, b"behind it"):
            with http.client.HTTPResponse(one, method="POST") as reply:
                reply.begin()
                assert json.loads(reply.read())["sha256"] == hashlib.sha256(content).hexdigest()
        assert ask(one, "/large?3000000")[1] == large(3_000_000)


def test_protocols_that_are_not_spoken(tmp_path: Path) -> None:
    """A server that is told to speak what the worker does not ends with a message."""
    command = [sys.executable, "-m", "gunicorn", "--worker-class", LOOP, "--bind", "127.0.0.1:0"]
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])}
    command += ["--protocol", "uwsgi", "worker_app:application"]
    ended = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=PATIENCE)

    assert ended.returncode == 2
    assert "protocol is 'uwsgi'" in ended.stderr
    assert "this worker speaks HTTP/1.1 alone" in ended.stderr


def test_too_many_open_files(tmp_path: Path) -> None:
    """Where no more files may be opened, those who are connected are served, and the others come in later."""
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


def test_end_of_a_client_that_goes_on_sending(tmp_path: Path) -> None:
    """What a client sends after its last reply is read no longer than a request may take."""
    with gunicorn(tmp_path / "g", LOOP, config=READ_LIMIT) as server, server.connect() as one:
        one.sendall(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        one.recv(100)
        began = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < began + PATIENCE:
                one.send(b"x" * 65_536)
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
    """More requests than there are threads that come in slowly, however they are framed, let others be answered."""
    with gunicorn(tmp_path / "g", LOOP) as server, ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(server.connect()).sendall(start)
        time.sleep(0.3)
        assert seconds_to_answer(server, "/pool") < PATIENCE


@pytest.mark.parametrize("framing", ["sized", "chunked", "tiny chunks"])
def test_long_bodies_come_whole(tmp_path: Path, framing: str) -> None:
    """A long body that comes in pieces reaches the application to the byte, and the connection is good for the next."""
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


def test_bodies_that_come_in_are_bounded_together(tmp_path: Path) -> None:
    """Beyond some bodies in memory the worker reads no more of others until there is room; all are answered."""
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
        while not all(each.done() for each in uploads):
            peak = max(peak, worker.memory_info().rss)
            time.sleep(0.002)
        assert all(each.result() for each in uploads)

    assert (
        peak - before < 90_000_000
    )  # of 156 MB that come at once: six bodies and one, and what four threads make of theirs


@pytest.mark.parametrize("start", ["Content-Length: 10000000\r\n", "Transfer-Encoding: chunked\r\n\r\n989680"])
def test_body_that_is_too_long_ends_its_connection(tmp_path: Path, start: str) -> None:
    """The reply to a body beyond the limit says that the connection ends; a client that sends it all gets the reply."""
    with gunicorn(tmp_path / "g", LOOP, config=MEMORY) as server, server.connect() as one:
        one.sendall(f"POST /unread HTTP/1.1\r\n{start}\r\n".encode())
        one.sendall(b"x" * 10_000_000)
        answered = b"".join(iter(lambda: one.recv(65_536), b""))

    assert answered.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"\r\nConnection: close\r\n" in answered
