"""gunicorn's settings from the environment: the numbers of workers, threads and connections, and the addresses."""

from __future__ import annotations

import logging
import os
import resource
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.util import find_spec
from logging.config import dictConfig

from app.config import Config, ConfigError
from app.server.mirror import Mirror
from app.telemetry.log_lines import LOGGING
from model import ModelError, folder_of

# Batched requests wait for each other in threads, so a batch has no more requests than there are threads. In a test,
# throughput stopped growing at 16 threads for an engine that takes 0.5 ms, and at 32 for an engine that takes 2 ms.
_BATCH_THREADS = 32
# For requests that the loop does not answer itself: long bodies, pages, metrics. Few, since threads share the
# interpreter lock.
_THREADS = 4
# How often a store behind a URL is asked where only SIGHUP loads what it has.
_POLL_SECONDS = 10
# How often the folder that is kept of such a store is asked at least: it is on this machine, and the wait for the store
# comes before.
_MIRROR_SECONDS = 1
# Connections that only wait for their next request, on top of the requests in flight.
_IDLE_CONNECTIONS = 1_000
# Every connection is an open file. A worker has 30 more for its databases and metrics; PyTorch opens further files.
_OTHER_FILES = 100


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """The service's own settings, and gunicorn's settings derived from them; an empty `bind` is left to gunicorn.

    Where the store is behind a URL, `mirror` brings here what is served, and the service's store is its folder.
    """

    service: Config
    mirror: Mirror | None
    workers: int
    threads: int
    connections: int
    bind: str | list[str]
    heartbeat_folder: str

    @property
    def on_gpu(self) -> bool:
        """Whether a worker has a GPU."""
        return self.service.device != "cpu"


def from_environ(environ: Mapping[str, str]) -> ServerSettings:
    """Return the settings; raises `ConfigError` for a wrong setting."""
    service = Config.from_environ(environ)
    on_gpu = service.device != "cpu"
    # gunicorn itself refuses a value that is no number.
    workers = int(environ.get("WEB_CONCURRENCY", 1 if on_gpu else 2))
    if workers < 1:
        raise ConfigError(f"WEB_CONCURRENCY is {workers}; set it to 1 or more")
    if on_gpu and workers > 1:
        raise ConfigError(
            f"WEB_CONCURRENCY is {workers}, and with TABSERVE_DEVICE={service.device} one worker has the GPU; "
            "set it to 1, and run more servers for more GPUs"
        )
    if service.prediction_log:
        from model.live.prediction_log import PredictionLog  # here, as in app/factory.py

        try:
            PredictionLog(service.prediction_log)
        except ModelError as error:
            raise ConfigError(f"TABSERVE_PREDICTION_LOG: {error}") from None
    if service.otel and not _has_opentelemetry():
        raise ConfigError(
            "TABSERVE_OTEL is true and OpenTelemetry is not installed: pip install -r requirements-otel.txt"
        )
    threads = _THREADS if service.max_batch_rows == 1 else _BATCH_THREADS
    connections = min(service.max_in_flight + _IDLE_CONNECTIONS, _raise_open_files() - _OTHER_FILES)
    mirror = None
    if isinstance(service.store, str):
        service, mirror = _mirrored(service, service.store)
    return ServerSettings(
        service=service,
        mirror=mirror,
        workers=workers,
        threads=threads,
        connections=max(2 * threads, connections),
        bind=_addresses(environ, service.host),
        heartbeat_folder=_heartbeat_folder(environ),
    )


def _mirrored(service: Config, url: str) -> tuple[Config, Mirror]:
    """Return the settings with a folder as the store, and what keeps that folder."""
    try:
        folder = folder_of(url, service.store_cache, is_mirror=True)
    except ModelError as error:
        raise ConfigError(f"TABSERVE_STORE_CACHE: {error}") from None
    mirror = Mirror(
        url,
        service.store_cache,
        # The first of a model is the one that answers; `sorted` keeps the order of the others.
        [entry.reference for entry in sorted(service.entries, key=lambda entry: bool(entry.role))],
        every=service.reload_seconds or _POLL_SECONDS,
        signatures=bool(service.trusted_keys),
    )
    return replace(service, store=folder, reload_seconds=min(service.reload_seconds, _MIRROR_SECONDS)), mirror


def from_environ_or_exit(environ: Mapping[str, str]) -> ServerSettings:
    """Return the settings; if a setting is wrong, log one line and end the process."""
    try:
        return from_environ(environ)
    except ConfigError as error:
        dictConfig(LOGGING)
        logging.getLogger("tabserve").critical("%s", error)
        raise SystemExit(2) from None


def _addresses(environ: Mapping[str, str], host: str) -> str | list[str]:
    """Return the addresses to listen on; Vertex AI names the port in `AIP_HTTP_PORT`."""
    name = "PORT" if environ.get("PORT") else "AIP_HTTP_PORT"
    port = environ.get(name, "")
    if port and not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 65_536):
        raise ConfigError(f"{name} is {port!r}, not a port")
    if host:
        return f"[{host}]:{port or 8000}"  # IPv6 needs the brackets, and IPv4 allows them
    if port:
        return [f"0.0.0.0:{port}", *([f"[::]:{port}"] if _has_ipv6() else [])]
    return ""


def _has_opentelemetry() -> bool:
    """Return whether the packages for traces are installed."""
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:  # of a package around it
        return False


def _has_ipv6() -> bool:
    """Return whether a server can listen on IPv6 on this machine."""
    with suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::", 0))
        return True
    return False


def _heartbeat_folder(environ: Mapping[str, str]) -> str:
    """Return a folder for the heartbeat files. The server writes no other files, and these are empty."""
    folders = "/dev/shm", environ.get("TMPDIR") or "/tmp"  # memory first, since a disk can be slow
    found = next((folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)), None)
    if not found:
        raise ConfigError(f"neither {' nor '.join(folders)} can be written to; mount a tmpfs at one of them")
    return found


def _raise_open_files() -> int:
    """Raise the soft limit of open files to the hard limit, and return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS refuses an infinite limit
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
