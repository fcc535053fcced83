"""gunicorn's hooks in the life of its processes; gunicorn.conf.py binds every hook under its own name."""

from __future__ import annotations

import ctypes
import gc
import ipaddress
import logging
import os
import signal
import socket
from contextlib import suppress
from dataclasses import fields
from logging.config import dictConfig
from typing import TYPE_CHECKING, Any

from gunicorn.sock import TCP6Socket

from app.config import Config
from app.server import loading
from app.server.mirror import Mirror
from app.server.worker import ServiceWorker
from app.telemetry.log_lines import LOGGING
from app.telemetry.shared_values import reserve_slots, share_values, take_slot
from model import KeyFileError

if TYPE_CHECKING:
    from app.factory import Service
    from app.web.keys import Keys

_M_ARENA_MAX = -8  # from malloc.h
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h

_settings: Config  # read by gunicorn.conf.py at the start and at every reload
_mirror: Mirror | None = None  # of the start
_keys: Keys | None = None  # read at the start, and again at every reload
_metrics_listener: socket.socket | None = None
_has_started = False

_log = logging.getLogger("tabserve")


def before_load(settings: Config, mirror: Mirror | None = None) -> None:
    """Prepare the process before any model or metric is created; keep the settings for `load`."""
    global _settings, _mirror, _keys
    _settings = settings
    _mirror = _mirror or mirror
    share_values()
    if _keys:
        _keys.read_again()
    elif settings.keys or settings.jwks:
        _keys = _read_keys_or_exit(settings)
    # glibc keeps a heap for each thread, as large as the largest request that the thread has answered. Our threads take
    # turns anyway, so they share a heap.
    if settings.device == "cpu" and "MALLOC_ARENA_MAX" not in os.environ:
        with suppress(AttributeError):  # another C library
            ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def _read_keys_or_exit(settings: Config) -> Keys | None:
    """Return the keys that clients may send; if their file is broken, log one line and end the process."""
    from app.factory import read_keys

    try:
        return read_keys(settings)
    except KeyFileError as error:
        dictConfig(LOGGING)
        _log.critical("%s", error)
        raise SystemExit(2) from None


def load() -> Service:
    """Return the service with the settings of `before_load`; gunicorn calls `load` by name, without arguments."""
    global _has_started
    if _mirror and not _has_started:
        _mirror.start()
    _has_started = True
    from app.factory import create_app  # here, so that wrong settings end the start before the slow imports

    return create_app(_settings, keys=_keys)


def on_starting(server: Any) -> None:
    """Check gunicorn's settings, reserve the workers' slots for metrics, and keep IPv4 and IPv6 apart.

    The slots are enough for all workers, for as many replacements, and for eight workers that TTIN adds.
    """
    if not issubclass(server.worker_class, ServiceWorker):
        server.log.critical(
            "the worker class is %r; leave it out, since only %s.%s runs the service",
            server.cfg.worker_class_str,
            ServiceWorker.__module__,
            ServiceWorker.__name__,
        )
        raise SystemExit(2)
    names = {item.metadata["name"] for item in fields(Config)}
    if late := sorted(names.intersection(server.cfg.env)):
        server.log.critical(
            "gunicorn sets %s after the settings were read; set it in the environment, without --env", ", ".join(late)
        )
        raise SystemExit(2)
    reserve_slots(2 * server.cfg.workers + 8)
    # gunicorn has no setting for IPV6_V6ONLY, and our own socket (fd://) would not survive its reload and re-execution.
    TCP6Socket.bind = _bind_ipv6
    if _settings.metrics_port:
        _listen_for_metrics(server)


def _listen_for_metrics(server: Any) -> None:
    """Open the port for metrics. It is no address of gunicorn's, which a reload or a flag would replace."""
    global _metrics_listener
    host = _settings.host or ("" if os.environ.get("PORT") else "127.0.0.1")
    family = socket.AF_INET6 if ":" in host or not host else socket.AF_INET
    dual = not host and socket.has_dualstack_ipv6()
    try:
        _metrics_listener = socket.create_server(
            (host, _settings.metrics_port),
            family=family if host or dual else socket.AF_INET,
            reuse_port=True,  # a new master listens before the old one ends (USR2)
            dualstack_ipv6=dual,
        )
    except OSError as error:
        server.log.critical("TABSERVE_METRICS_PORT %d cannot be used: %s", _settings.metrics_port, error.strerror)
        raise SystemExit(2) from None


def _bind_ipv6(listener: Any, sock: socket.socket) -> None:
    """Bind a listener for IPv6; for IPv6 alone if another listener has its port for IPv4.

    It would otherwise accept IPv4 clients, with addresses such as ::ffff:10.0.0.1, which no list of proxies names.
    """
    if ("0.0.0.0", listener.cfg_addr[1]) in listener.conf.address:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(listener.cfg_addr)


def when_ready(settings: Config, server: Any) -> None:
    """Watch the store, and keep the garbage collector from copying the memory pages that workers share."""
    loading.start_watching(settings, server, _mirror)
    if not _keys and not all(_is_local(listener.getsockname()) for listener in server.LISTENERS):
        _log.warning(
            "no key is asked for, and other machines may reach this server; set TABSERVE_KEYS, or TABSERVE_HOST to "
            "127.0.0.1"
        )
    gc.collect()
    gc.freeze()


def _is_local(address: Any) -> bool:
    """Return whether an address is of this machine alone; one that is no pair is a Unix socket."""
    return not isinstance(address, tuple) or ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


def pre_fork(server: Any, worker: Any) -> None:
    """Give the worker the lowest slot that no living worker has."""
    taken = {sibling.slot for sibling in server.WORKERS.values()}
    worker.slot = next(slot for slot in range(len(taken) + 1) if slot not in taken)


def post_fork(server: Any, worker: Any) -> None:
    """Count metrics in the slot of this worker from now on."""
    take_slot(worker.slot, [(model.name, model.version) for model in server.app.callable.serving.loaded.all_versions])


def post_worker_init(settings: Config, worker: Any) -> None:
    """Open the device; connect the worker and the service."""
    worker.read_seconds = settings.max_read_seconds
    worker.max_body_bytes = settings.max_body_bytes
    worker.gives_memory_back = settings.device == "cpu"
    if _metrics_listener:
        worker.sockets = [*worker.sockets, _metrics_listener]
    service = worker.wsgi
    service.serving.open()
    service.server.in_flight = lambda: worker.loop.in_flight
    service.server.is_idle = lambda: worker.loop.is_idle
    # The client of a Unix socket has no address.
    service.server.trusts_proxy = lambda address: worker.is_trusted_proxy(address or None)
    service.recorder.start()
    # A worker whose master is killed drains at once; the loop would notice only at the end of its turn.
    with suppress(AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def worker_exit(server: Any, worker: Any) -> None:
    """Count and log the worker's last requests, and report no requests in flight: its slot may stay unused."""
    if hasattr(worker.wsgi, "metrics"):  # the application was loaded
        worker.wsgi.recorder.close()
        worker.wsgi.metrics.set_in_flight(0)
