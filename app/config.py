"""Every setting of the service, with its default and help; read from the environment once, all mistakes reported.

Tabserve's own names start with `TABSERVE_`; a platform sets the others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "TABSERVE_"

# Upper bounds, far beyond use and within what dates, files and buffers can hold.
_MAX_BYTES = 2**30
_MAX_LOG_BYTES = 2**50
_MAX_ROWS = 1_000_000
_MAX_REQUESTS = 1_000_000
_MAX_SECONDS = 86_400
_MAX_DAYS = 36_500

# More than small requests reach, since each takes a thread. Large requests are run together up to this.
_CUDA_BATCH_ROWS = 4_096


class ConfigError(Exception):
    """Some settings are wrong; the message lists all of them."""


class Route(str):
    """A path of the service; empty for none."""


class Host(str):
    """A name or an address without a port; empty for all addresses."""


class Origins(tuple[str, ...]):
    """Origins of web pages as browsers write them, `https://example.org`."""


class DatabaseURL(str):
    """The URL of a database; empty for none. It may contain a password, so no message quotes it."""


class Share(float):
    """A number from 0 to 1."""


class Device(str):
    """The device that runs networks: `cpu`, `cuda` or `cuda:N`."""


# Variables that Kubernetes sets in every pod for a Service named tabserve or tabserve-canary.
_SERVICE_LINK = re.compile(r"TABSERVE_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT)|PORT)(_.*)?")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_DATABASE_URL = re.compile(r"(sqlite:///.|postgresql://.).*", re.DOTALL)

_DEVICE = re.compile(r"cpu|cuda(:(0|[1-9][0-9]?))?")

_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")

# The characters of a path (RFC 3986) without percent signs, which Flask decodes before it matches.
_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


def setting(name: str, default: Any, help_text: str, *, maximum: int = 0) -> Any:
    """Return a dataclass field that is read from the variable `name`, of its type; a number is 1 to `maximum`."""
    return field(default=default, metadata={"name": name, "help": help_text, "maximum": maximum})


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one service."""

    store: Path = setting(
        "TABSERVE_STORE", Path("store"), "folder of models: `<name>/<version>/`, or one version's own folder"
    )
    models: tuple[str, ...] = setting(
        "TABSERVE_MODELS",
        (),
        "models to serve, separated by commas, each `name`, `name@alias` or `name@version`; the first answers "
        "`/predict`; empty: every model of the store, in alphabetical order",
    )
    max_body_bytes: int = setting(
        "TABSERVE_MAX_BODY_BYTES", 8 * 2**20, "longest request body; a longer one is answered 413", maximum=_MAX_BYTES
    )
    max_rows: int = setting(
        "TABSERVE_MAX_ROWS", 10_000, "most rows in one request; more are answered 413", maximum=_MAX_ROWS
    )
    ignore_unknown_columns: bool = setting(
        "TABSERVE_IGNORE_UNKNOWN_COLUMNS",
        False,
        "leave out columns that the model does not know, up to 20, instead of refusing them; the target is always left "
        "out",
    )
    max_in_flight: int = setting(
        "TABSERVE_MAX_IN_FLIGHT",
        512,
        "most requests that one worker answers or keeps waiting; a prediction beyond that is answered 503",
        maximum=_MAX_REQUESTS,
    )
    max_read_seconds: int = setting(
        "TABSERVE_MAX_READ_SECONDS",
        30,
        "longest time that a client may take to send a request; one that is not whole by then is answered 400",
        maximum=_MAX_SECONDS,
    )
    device: Device = setting(
        "TABSERVE_DEVICE",
        Device("cpu"),
        "what models with a network run on: `cpu` with ONNX Runtime, or `cuda` or `cuda:N` with PyTorch; others run on "
        "the CPU either way",
    )
    batch_rows: int = setting(
        "TABSERVE_BATCH_ROWS",
        0,
        "most rows of requests in threads that wait for each other to be run together; 1: none waits; not set: 4096 on "
        "`cuda`, 1 on `cpu`",
        maximum=_MAX_ROWS,
    )
    log_requests: bool = setting("TABSERVE_LOG_REQUESTS", True, "write a JSON line to standard output for each request")
    prediction_log: DatabaseURL = setting(
        "TABSERVE_PREDICTION_LOG",
        DatabaseURL("sqlite:///predictions.db"),
        "database of predictions and the true values that come to `/feedback`: `sqlite:///FILE` or "
        "`postgresql://USER:PASSWORD@HOST/NAME`; empty: none",
    )
    prediction_log_share: Share = setting(
        "TABSERVE_PREDICTION_LOG_SHARE", Share(1), "share of the requests that are logged there, from 0 to 1"
    )
    prediction_log_features: bool = setting("TABSERVE_PREDICTION_LOG_FEATURES", False, "log the features' values, too")
    prediction_log_days: int = setting(
        "TABSERVE_PREDICTION_LOG_DAYS",
        30,
        "days after which a prediction is removed from the log with its true value",
        maximum=_MAX_DAYS,
    )
    prediction_log_max_bytes: int = setting(
        "TABSERVE_PREDICTION_LOG_MAX_BYTES",
        2**30,
        "bytes of the log beyond which its oldest predictions are removed, whatever their age",
        maximum=_MAX_LOG_BYTES,
    )
    live_error_days: int = setting(
        "TABSERVE_LIVE_ERROR_DAYS",
        7,
        "days back to which true values count in the live error, by when they came",
        maximum=_MAX_DAYS,
    )
    host: Host = setting(
        "TABSERVE_HOST",
        Host(""),
        "address to listen at, such as `127.0.0.1` or `::1`; empty: all addresses, IPv4 and IPv6, where a port is "
        "named, else `127.0.0.1`",
    )
    cors_origins: Origins = setting(
        "TABSERVE_CORS_ORIGINS",
        Origins(),
        "origins whose web pages may ask for predictions and send feedback, separated by commas, each as in "
        "`https://example.org`; empty: none",
    )
    aip_health_route: Route = setting("AIP_HEALTH_ROUTE", Route(""), "path at which Vertex AI asks for readiness")
    aip_predict_route: Route = setting(
        "AIP_PREDICT_ROUTE", Route(""), "path at which Vertex AI asks for predictions of the default model"
    )

    @property
    def max_batch_rows(self) -> int:
        """Return how many rows of several requests may be run together; 1 turns this off."""
        return self.batch_rows or (1 if self.device == "cpu" else _CUDA_BATCH_ROWS)

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Config:
        """Read the settings. Raises `ConfigError` with every mistake, unknown `TABSERVE_` names among them."""
        by_name = {item.metadata["name"]: item for item in fields(cls)}
        values, mistakes = {}, []
        for name, text in sorted(environ.items()):
            if name not in by_name:
                if name.startswith(PREFIX) and not _SERVICE_LINK.fullmatch(name):
                    mistakes.append(f"{name} is not a setting; the settings are {', '.join(by_name)}")
                continue
            item = by_name[name]
            try:
                values[item.name] = _parse(text, item.default, maximum=item.metadata["maximum"])
            except ValueError as error:
                shown = "" if isinstance(item.default, DatabaseURL) else f"{text!r}, "
                mistakes.append(f"{name} is {shown}{error}")
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        return cls(**values)


def _parse(text: str, default: Any, *, maximum: int) -> Any:
    """Return `text` as a value of the default's type; raise `ValueError` with what is expected."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("neither true nor false")
        return text.lower() == "true"
    if isinstance(default, int):
        # The length first: Python refuses to convert thousands of digits.
        if not text.isascii() or not text.isdecimal() or len(text) > 20 or not 1 <= int(text) <= maximum:
            raise ValueError(f"not a whole number from 1 to {maximum}")
        return int(text)
    if isinstance(default, Share):
        if not re.fullmatch(r"[01]|[01]?\.[0-9]+", text) or float(text) > 1:
            raise ValueError("not a number from 0 to 1")
        return Share(text)
    if isinstance(default, DatabaseURL):
        if text and not _DATABASE_URL.fullmatch(text):
            raise ValueError("neither sqlite:///FILE nor postgresql://USER:PASSWORD@HOST/NAME")
        return DatabaseURL(text)
    if isinstance(default, Host):
        if text and not _HOST.fullmatch(text):
            raise ValueError("not a host name or an address; set the port with PORT")
        return Host(text)
    if isinstance(default, Device):
        if not _DEVICE.fullmatch(text):
            raise ValueError("not cpu, cuda or cuda:N")
        return Device(text)
    if isinstance(default, Route):
        if text and not _ROUTE.fullmatch(text):
            raise ValueError("not a path that begins with / and has no placeholders")
        return Route(text)
    if isinstance(default, Origins):
        origins = Origins(part.strip() for part in text.split(",") if part.strip())
        if not all(map(_ORIGIN.fullmatch, origins)):
            raise ValueError("not origins such as https://example.org, in lower case and without a path")
        return origins
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if not text:
        raise ValueError("not a path")
    return Path(text)
