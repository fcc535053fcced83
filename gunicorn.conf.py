"""How gunicorn runs the service; `gunicorn` in this folder reads it by itself.

`WEB_CONCURRENCY` is gunicorn's own variable, `PORT` names the port, else Vertex AI's `AIP_HTTP_PORT`; all else can be
overruled by `GUNICORN_CMD_ARGS` or flags. SIGHUP loads the champions again and keeps the old ones if they do not
verify, on the CPU; one that does there and not on its GPU leaves the new worker not ready. SIGTERM drains.
"""

import ctypes
import gc
import logging
import math
import os
import resource
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from logging.config import dictConfig

from gunicorn.http.message import HeaderPolicy
from gunicorn.sock import TCP6Socket

from app.config import Config, ConfigError
from app.serving import loaded
from app.serving.store_watch import watch
from app.telemetry.log_lines import LOGGING
from app.telemetry.shared_values import reserve_slots, share_values, take_slot
from app.uploads import read_ahead
from app.worker import (
    FIRST_BYTE_SECONDS,
    IDLE_SECONDS,
    LINGER_SECONDS,
    PATIENCE_SECONDS,
    Board,
    EventLoopWorker,
    untaken,
    waiting_clients,
)
from model import ModelError

try:
    settings = Config.from_environ(os.environ)
    on_gpu = settings.device != "cpu"
    workers = int(os.environ.get("WEB_CONCURRENCY", 1 if on_gpu else 2))
    if on_gpu and workers > 1:
        raise ConfigError(
            f"WEB_CONCURRENCY is {workers}, and with TABSERVE_DEVICE={settings.device} one worker has the GPU: there "
            "requests meet, and another would take its memory again; for more GPUs run more servers"
        )
    if workers < 1:
        raise ConfigError("WEB_CONCURRENCY is 0, and it takes a worker to answer")
    if settings.prediction_log:
        from model.live.prediction_log import PredictionLog  # here, as in app/factory.py

        try:
            PredictionLog(settings.prediction_log)
        except ModelError as error:
            raise ConfigError(f"TABSERVE_PREDICTION_LOG: {error}") from None
    port_from = "PORT" if os.environ.get("PORT") else "AIP_HTTP_PORT"
    port = os.environ.get(port_from, "")
    if port and not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65_536):
        raise ConfigError(f"{port_from} is {port!r}, not a port")
    # For heartbeats, the only files that the server itself writes: empty, so that a full disk has room for them.
    folders = "/dev/shm", os.environ.get("TMPDIR") or "/tmp"  # memory first, since a disk can be slow
    worker_tmp_dir = next((folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)), None)
    if not worker_tmp_dir:
        raise ConfigError(f"neither {' nor '.join(folders)} can be written to: mount a tmpfs at one of them")
except ConfigError as error:
    dictConfig(LOGGING)
    logging.getLogger("tabserve").critical("%s", error)
    raise SystemExit(2) from None


def has_ipv6():
    """Return whether this machine lets a server listen on IPv6."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return True
    return False


if settings.host:
    bind = f"[{settings.host}]:{port or 8000}"  # the brackets are for IPv6, and harmless else
elif port:
    bind = [f"0.0.0.0:{port}", *([f"[::]:{port}"] if has_ipv6() else [])]

wsgi_app = "app:create_app()"
# Loaded once before the fork: N workers share the memory of one model, and all of them serve the same version.
preload_app = True
worker_class = "app.worker.EventLoopWorker"
# Requests that are run together wait for each other in threads, so that no batch has more requests than there are
# threads. For an engine that takes 0.5 ms, 16 answered as many requests as more do; for one that takes 2 ms, 32 did.
BATCH_THREADS = 32
OTHER_FILES = 100
# For what the loop does not answer itself: long bodies, pages, metrics. Few, since they share one interpreter lock.
threads = 4 if settings.max_batch_rows == 1 else BATCH_THREADS
# Each connection is an open file. A worker has 30 others with its databases and metrics; PyTorch opens more.
_, open_files = resource.getrlimit(resource.RLIMIT_NOFILE)
with suppress(OSError, ValueError):  # macOS takes no infinite limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files, open_files))
open_files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
if open_files == resource.RLIM_INFINITY:
    open_files = sys.maxsize
# Beside what may be in flight there is room for connections that only wait for their next request.
worker_connections = max(2 * threads, min(settings.max_in_flight + 1000, open_files - OTHER_FILES))
# A client that takes nothing of its reply holds a thread: no longer than this while others wait for one.
UNREAD_SECONDS = min(5, settings.max_read_seconds)
if on_gpu:
    timeout = 180  # a worker is killed that does not begin by then: PyTorch and CUDA may come from a cold disk
keepalive = 75  # longer than the idle timeout of common load balancers (60 s), so that they close first
graceful_timeout = 25  # below the 30 s after which Kubernetes and SageMaker kill
logconfig_dict = LOGGING

# glibc keeps a heap for each thread, as large as the largest request that the thread ever had. Ours take turns anyway.
if not (on_gpu or "MALLOC_ARENA_MAX" in os.environ):
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(-8, 1)  # M_ARENA_MAX of malloc.h
# glibc also keeps what is freed, unless told: a worker would stay as large as its largest requests made it. This takes
# 0.05 ms where there is little to give back, and some milliseconds after large requests.
malloc_trim = None if on_gpu else getattr(ctypes.CDLL(None), "malloc_trim", None)
TRIM_SECONDS = 5

PR_SET_PDEATHSIG = 1  # of linux/prctl.h

control_socket_disable = True  # a server that is killed would leave its file behind

share_values()


def on_starting(server):
    """Make room for the values of all workers, of as many that replace them, and of some that are added (TTIN).

    Keep IPv4 and IPv6 apart.
    """
    reserve_slots(2 * server.cfg.workers + 8)

    # A socket on :: would take IPv4, too, with addresses such as ::ffff:10.0.0.1, which no list of proxies names.
    def bind_ipv6(listener, sock):
        if ("0.0.0.0", listener.cfg_addr[1]) in server.cfg.address:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(listener.cfg_addr)

    TCP6Socket.bind = bind_ipv6


def when_ready(server):
    """Keep the collector from copying the pages that workers share.

    While models cannot be loaded, watch the store: what is put right is loaded as after SIGHUP.
    """

    def seen_before_failure():
        loaded = server.app.callable.serving  # another one after a reload
        return loaded.seen if loaded.problems else None

    def load_again():
        os.kill(os.getpid(), signal.SIGHUP)

    threading.Thread(target=watch, args=(settings.store, seen_before_failure, load_again), daemon=True).start()
    gc.collect()
    gc.freeze()


def pre_fork(server, worker):
    """Give the worker the lowest slot that no living worker has."""
    taken = {sibling.slot for sibling in server.WORKERS.values()}
    worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)


def post_fork(server, worker):
    """Count in the slot of this worker from now on."""
    take_slot(worker.slot)


def post_worker_init(worker):
    """Open the device; tell the service how busy its worker is, and when it is told to stop."""
    service = worker.wsgi
    service.serving.open()
    waiting = worker.keepalived_conns, worker.pending_conns
    service.in_flight = lambda: worker.nr_conns - sum(map(len, waiting)) + getattr(worker, "ready", 0)
    service.recorder.start()

    def trusts_proxy(address):  # of `forwarded_allow_ips`; a Unix socket's clients have no address
        policy = HeaderPolicy()
        policy.cfg, policy.peer_addr = worker.cfg, (address, 0) if address else None
        return policy._peer_is_trusted_proxy()

    service.trusts_proxy = trusts_proxy
    worker.read_seconds = settings.max_read_seconds  # gthread has no such bound, but see below
    worker.max_body_bytes = settings.max_body_bytes
    handle_request = worker.handle_request

    def handle_whole_request(request, connection):
        with read_ahead(request, connection.sock, max_bytes=settings.max_body_bytes):
            return handle_request(request, connection)

    worker.handle_request = handle_whole_request
    stop = signal.getsignal(signal.SIGTERM)

    def drain(number, frame):
        service.serving.draining = True
        stop(number, frame)

    signal.signal(signal.SIGTERM, drain)
    # A worker whose master is killed drains at once: gunicorn's own would let clients in until the last one is done.
    with suppress(AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    # gunicorn's worker keeps the listener open until its end: whoever connects while it drains would wait in vain.
    switch = worker.set_accept_enabled

    def close_for_good(enabled):
        switch(enabled)
        if not enabled and not worker.alive:
            for listener in worker.sockets:
                listener.close()

    worker.set_accept_enabled = close_for_good

    # gunicorn's worker takes all clients that come while others are slower to wake up; ours shares them by itself.
    board = None if isinstance(worker, EventLoopWorker) else Board()
    if board:
        accept = worker.accept

        def accept_in_turn(listener):
            if board.least_of_others(time.monotonic()) < worker.nr_conns:
                time.sleep(PATIENCE_SECONDS)  # for those who have fewer to come first
            accept(listener)
            board.post(worker)

        worker.accept = accept_in_turn

    # gunicorn's worker has a thread wait for the first byte of a connection, and then gives it as long as an idle one.
    # Where all places are taken, the connection that has been idle for longest makes room.
    enqueue = worker.enqueue_req

    def enqueue_when_it_sends(connection):
        if connection.initialized or connection.data_ready:
            enqueue(connection)
            return
        connection.sock.setblocking(False)
        connection.timeout = time.monotonic() + FIRST_BYTE_SECONDS
        worker.pending_conns.append(connection)
        wake = partial(worker.on_pending_socket_readable, connection)
        worker.poller.register(connection.sock, selectors.EVENT_READ, wake)

    def make_room(now):
        kinds = (worker.pending_conns, FIRST_BYTE_SECONDS), (worker.keepalived_conns, worker.cfg.keepalive)
        idle = [(each.timeout - patience, each, kind) for kind, patience in kinds for each in kind]
        for since_when, connection, kind in sorted(idle, key=lambda each: each[0])[: waiting_clients(worker)]:
            if since_when < now - IDLE_SECONDS:
                kind.remove(connection)
                worker.poller.unregister(connection.sock)
                worker.nr_conns -= 1
                connection.close()

    if board:
        worker.enqueue_req = enqueue_when_it_sends

    # Nor does it bound how long a client may take in all: one that trickles bytes would keep its thread. A reply may
    # take as long as its client goes on reading, but while others wait for a thread no longer than a request. After the
    # last reply it reads 64 KiB at most, while nobody else is served: a client that sends more would lose the reply.
    handle, notify, since = worker.handle, worker.notify, {}
    sending = {}  # connection: bytes that its client has not taken, since when these, since when any

    def reads_too_slowly(connection, now, limit, limit_in_all):
        left = untaken(connection.sock)
        before, at, began = sending.get(connection, (0, now, now))
        at, began = (at if left == before and left else now), (began if left else now)
        sending[connection] = left, at, began
        return at < now - limit or began < now - limit_in_all

    def handle_in_time(connection):
        since[connection] = time.monotonic()
        try:
            stays = handle(connection)
            if board and not stays:
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_WR)
                    connection.sock.settimeout(LINGER_SECONDS)
                    while connection.sock.recv(65_536):
                        pass
                with suppress(OSError):
                    connection.sock.shutdown(socket.SHUT_RD)  # so that gunicorn does not wait for more
            return stays
        finally:
            del since[connection]

    next_look = next_trim = 0.0

    def notify_and_look(*args):  # the worker's loop calls this at least once a second, gthread's for every request
        nonlocal next_look, next_trim
        notify(*args)
        now = time.monotonic()
        if now < next_look:
            return
        next_look = now + 0.1  # what is done here is not for every request to pay
        service.metrics.set_in_flight(service.in_flight())
        if malloc_trim and now >= next_trim:
            next_trim = now + TRIM_SECONDS
            malloc_trim(0)
        if board:
            board.post(worker)
            if worker.nr_conns >= worker.worker_connections:
                make_room(now)
        queue = worker.nr_conns - sum(map(len, waiting)) - len(since)
        # Where a thread is free, what counts as waiting has just been answered.
        others_wait = (queue > 0 and len(since) >= worker.cfg.threads) or getattr(worker, "has_paused", False)
        limits = (UNREAD_SECONDS, settings.max_read_seconds) if others_wait else (settings.max_read_seconds, math.inf)
        reads_in_threads = not getattr(worker, "gathers", False)
        for connection, started in list(since.items()):
            with suppress(OSError, ValueError):  # it ended
                if reads_in_threads and started < now - settings.max_read_seconds:
                    connection.sock.shutdown(socket.SHUT_RD)  # what is missing now never comes; a reply can still go
                if reads_too_slowly(connection, now, *limits):
                    connection.sock.shutdown(socket.SHUT_RDWR)  # which ends what its thread waits for
        for connection in [each for each in sending if each not in since]:
            del sending[connection]

    worker.handle, worker.notify = handle_in_time, notify_and_look


def worker_exit(server, worker):
    """Count and log what the worker noted, and say that it has no requests: its place may stay empty."""
    service = getattr(worker, "wsgi", None)  # none where the worker did not come up
    if hasattr(service, "metrics"):
        service.recorder.close()
        service.metrics.set_in_flight(0)


def on_reload(server):
    """Load the models again for the new workers; keep those that are served if the new ones do not verify.

    A process of their own verifies them first. Where none is served, what loads is, and `/readyz` says what does not.
    """
    stops = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}

    def stop(number, frame):
        stops.append(number)
        handlers[number](number, frame)

    for number in handlers:
        signal.signal(number, stop)
    problems, golden = loaded.verify_apart(
        lambda: loaded.load(settings.store, settings.models, device=settings.device), is_stopping=lambda: bool(stops)
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    served = server.app.callable.serving
    if golden is not None and not (problems and served.models):
        try:
            fresh = server.app.load()
            problems = fresh.serving.problems  # of a store that was changed just now
            if not (problems and served.models):
                server.app.callable = fresh
                return
        except Exception as error:  # whatever it is, the server goes on with what it has
            problems = (repr(error),)
    server.log.error("the models are not loaded again: %s", "; ".join(problems))
    served.golden |= golden or {}
