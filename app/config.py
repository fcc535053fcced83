"""Every setting of the service, with its default and help; read from the environment once, all mistakes reported.

Tabserve's own names start with `TABSERVE_`; a platform sets the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

PREFIX = "TABSERVE_"

T = TypeVar("T")

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


# Variables that Kubernetes sets in every pod for a Service named tabserve or tabserve-canary.
_SERVICE_LINK = re.compile(r"TABSERVE_([A-Z0-9_]+_)?(SERVICE_(HOST|PORT)|PORT)(_.*)?")

_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
_DATABASE_URL = re.compile(r"(sqlite:///.|postgresql://.).*", re.DOTALL)
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/]\S*")
_DEVICE = re.compile(r"cpu|cuda(:(0|[1-9][0-9]?))?")
_HOST = re.compile(r"[A-Za-z0-9.-]+|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")

# The name of a model, as model/store has them, with an alias or a version; and the role of that version.
_NAME = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_REFERENCE = re.compile(f"{_NAME}(?:@{_NAME})?")
_WITH_SHARE = ("canary", "ab")
_ROLE = re.compile(r"(shadow)|(canary|ab)=([0-9]{1,3}(?:\.[0-9]{1,9})?)%")

# A header's name (RFC 9110, section 5.6.2) with the characters that gunicorn passes on.
_HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")

# The characters of a path (RFC 3986) without percent signs, which Flask decodes before it matches.
_ROUTE = re.compile(r"/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of `TABSERVE_MODELS`: `name`, `name@alias` or `name@version`, and the role of that version, if any.

    The first entry of a name without a role answers requests for the name; a further one is reached by version alone.
    `share` is the role's share of the requests, from 0 to 1.
    """

    reference: str
    role: str = ""  # one of `app.serving.challengers.Mode`
    share: float = 1.0

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.reference.partition("@")[0]

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Return the entry of a text; no store is asked for the model. Raises `ValueError` for an unknown role."""
        reference, colon, role = text.partition(":")
        if not colon:
            return cls(reference)
        found = _ROLE.fullmatch(role)
        if not found or (found[3] and Decimal(found[3]) > 100):
            raise ValueError(f"the role of {text!r} is none of :shadow, :canary=10% and :ab=50% with at most 100%")
        return cls(reference, found[1] or found[2], float(Decimal(found[3]) / 100) if found[3] else 1.0)


_STORE: Path | str = Path("store")
_NO_SHARE: float = False  # as it is written

# Each parser returns a setting's text as a value, or raises `ValueError` with what is expected.


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError("neither true nor false")
    return text.lower() == "true"


def _whole_number(maximum: int, *, minimum: int = 1) -> Callable[[str], int]:
    """Return a parser of whole numbers from `minimum` to `maximum`."""

    def parse(text: str) -> int:
        # The length first: Python refuses to convert thousands of digits.
        if not text.isascii() or not text.isdecimal() or len(text) > 20 or not minimum <= int(text) <= maximum:
            raise ValueError(f"not a whole number from {minimum} to {maximum}")
        return int(text)

    return parse


def _share(text: str) -> float:
    if not re.fullmatch(r"[01]|[01]?\.[0-9]+", text) or float(text) > 1:
        raise ValueError("not a number from 0 to 1")
    return float(text)


def _share_or_all(text: str) -> float:
    """Parse a share, or `true` for all and `false` for none."""
    known = {"true": 1.0, "false": 0.0}.get(text.lower())
    if known is not None:
        return known
    try:
        return _share(text)
    except ValueError as error:
        raise ValueError(f"neither true nor false, and {error}") from None


def _path(text: str) -> Path:
    if not text:
        raise ValueError("not a path")
    return Path(text)


def _place(text: str) -> Path | str:
    """Parse a path or a URL; file:///PATH is that path."""
    if text.startswith("file:///"):
        return Path(unquote(text.removeprefix("file://")))
    if "://" in text and (text.startswith("file:") or not _URL.fullmatch(text)):
        raise ValueError("neither a folder nor a URL such as s3://bucket/models")
    return text if "://" in text else _path(text)


def _file(text: str) -> Path | None:
    """Parse the path of a file; empty for none."""
    return Path(text) if text else None


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _models(text: str) -> tuple[str, ...]:
    """Parse entries of models. Every mistake is named."""
    texts, entries, mistakes = _names(text), [], []
    for each in texts:
        try:
            entries.append(Entry.parse(each))
        except ValueError as error:
            mistakes.append(str(error))
        if not _REFERENCE.fullmatch(each.partition(":")[0]):
            mistakes.append(
                f"{each!r} is not a name, name@alias or name@version of lower-case letters, digits and single dashes"
            )
    for name in dict.fromkeys(entry.name for entry in entries):
        of_name = [entry for entry in entries if entry.name == name]
        if all(entry.role for entry in of_name) and not mistakes:
            mistakes.append(f"no entry of {name} is without a role: add the version that answers, such as {name}")
        if sum(Decimal(str(entry.share)) for entry in of_name if entry.role in _WITH_SHARE) > 1:
            mistakes.append(f"the shares of {name} add up to more than 100%")
    if mistakes:
        raise ValueError(f"not models to serve: {', and '.join(mistakes)}")
    return texts


def _header(text: str) -> str:
    if not _HEADER.fullmatch(text):
        raise ValueError("not a header's name")
    return text


def _files(text: str) -> tuple[Path, ...]:
    """Parse paths of files; empty for none. A list of nothing is refused, since it would look like some."""
    paths = tuple(map(Path, _names(text)))
    if text and not paths:
        raise ValueError("not a list of files, separated by commas")
    return paths


def _origins(text: str) -> tuple[str, ...]:
    """Parse origins of web pages as browsers write them, `https://example.org`."""
    origins = _names(text)
    if not all(map(_ORIGIN.fullmatch, origins)):
        raise ValueError("not origins such as https://example.org, in lower case and without a path")
    return origins


def _database_url(text: str) -> str:
    """Parse the URL of a database; empty for none."""
    if text and not _DATABASE_URL.fullmatch(text):
        raise ValueError("neither sqlite:///FILE nor postgresql://USER:PASSWORD@HOST/NAME")
    return text


def _device(text: str) -> str:
    if not _DEVICE.fullmatch(text):
        raise ValueError("not cpu, cuda or cuda:N")
    return text


def _host(text: str) -> str:
    """Parse a name or an address without a port; empty for all addresses."""
    if text and not _HOST.fullmatch(text):
        raise ValueError("not a host name or an address; set the port with PORT")
    return text


def _route(text: str) -> str:
    """Parse a path of the service; empty for none."""
    if text and not _ROUTE.fullmatch(text):
        raise ValueError("not a path that begins with / and has no placeholders")
    return text


def setting(name: str, default: T, parse: Callable[[str], T], help_text: str, *, is_secret: bool = False) -> T:
    """Return a dataclass field that is read from the variable `name`. No message quotes the value of a secret."""
    metadata = {"name": name, "parse": parse, "help": help_text, "is_secret": is_secret}
    made: T = field(default=default, metadata=metadata)
    return made


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one service."""

    store: Path | str = setting(
        "TABSERVE_STORE",
        _STORE,
        _place,
        "folder of models: `<name>/<version>/`, or one version's own folder; or the URL of a store, such as "
        "`s3://bucket/models`",
    )
    store_cache: Path = setting(
        "TABSERVE_STORE_CACHE",
        Path("~/.cache/tabserve"),
        _path,
        "folder for verified copies of what is behind a URL, from which a server starts if the store is gone",
    )
    models: tuple[str, ...] = setting(
        "TABSERVE_MODELS",
        (),
        _models,
        "models to serve, separated by commas, each `name`, `name@alias` or `name@version`; the first answers "
        "`/predict`; empty: every model of the store, in alphabetical order. Further entries of a name are reached by "
        "version, and one that ends in `:shadow`, `:canary=10%` or `:ab=50%` is a "
        "challenger",
    )
    reload_seconds: int = setting(
        "TABSERVE_RELOAD_SECONDS",
        10,
        _whole_number(_MAX_SECONDS, minimum=0),
        "how often the store is asked whether an alias that is served has moved; a version that it moved to is loaded "
        "without a gap; 0: at SIGHUP alone",
    )
    sticky_header: str = setting(
        "TABSERVE_STICKY_HEADER",
        "X-Sticky-Id",
        _header,
        "header by which a client always gets the same version in a canary or A/B test; without it, the request id "
        "decides",
    )
    challenger_milliseconds: int = setting(
        "TABSERVE_CHALLENGER_MILLISECONDS",
        250,
        _whole_number(1_000 * _MAX_SECONDS),
        "longest time that a request waits for the challenger of a canary or A/B test; then the champion answers",
    )
    max_body_bytes: int = setting(
        "TABSERVE_MAX_BODY_BYTES",
        8 * 2**20,
        _whole_number(_MAX_BYTES),
        "longest request body; a longer one is answered 413",
    )
    max_rows: int = setting(
        "TABSERVE_MAX_ROWS", 10_000, _whole_number(_MAX_ROWS), "most rows in one request; more are answered 413"
    )
    ignore_unknown_columns: bool = setting(
        "TABSERVE_IGNORE_UNKNOWN_COLUMNS",
        False,
        _boolean,
        "leave out columns that the model does not know, up to 20, instead of refusing them; the target is always left "
        "out",
    )
    allow_converted: bool = setting(
        "TABSERVE_ALLOW_CONVERTED",
        False,
        _boolean,
        "serve models of `--engine onnx`, too: graphs of a general converter, which are not bounded in time and memory",
    )
    trusted_keys: tuple[Path, ...] = setting(
        "TABSERVE_TRUSTED_KEYS",
        (),
        _files,
        "PEM files of public keys, separated by commas: a version is loaded only if its signature by one of these keys "
        "verifies; empty: signatures are not looked at",
    )
    keys: Path | None = setting(
        "TABSERVE_KEYS",
        None,
        _file,
        "file of access keys, which `python -m model key new` writes: every route but health checks and static pages "
        "needs one; read again at SIGHUP; empty: no key is asked for",
    )
    key_rate: int = setting(
        "TABSERVE_KEY_RATE",
        0,
        _whole_number(_MAX_REQUESTS, minimum=0),
        "most requests a second, over all workers, by each key or token that has no limit of its own; 0: no limit",
    )
    jwks: Path | None = setting(
        "TABSERVE_JWKS",
        None,
        _file,
        "file of public keys (JWKS) whose tokens (JWT) are accepted as keys; read again at SIGHUP; empty: no tokens",
    )
    jwt_issuer: str = setting("TABSERVE_JWT_ISSUER", "", str, "the issuer, `iss`, that tokens must name")
    jwt_audience: str = setting("TABSERVE_JWT_AUDIENCE", "", str, "the audience, `aud`, that tokens must name")
    metrics_port: int = setting(
        "TABSERVE_METRICS_PORT",
        0,
        _whole_number(65_535, minimum=0),
        "port of its own for `/metrics`, which needs no key there and is then not on the main port; 0: none",
    )
    max_in_flight: int = setting(
        "TABSERVE_MAX_IN_FLIGHT",
        512,
        _whole_number(_MAX_REQUESTS),
        "most requests that one worker answers or keeps waiting; a prediction beyond that is answered 503",
    )
    max_read_seconds: int = setting(
        "TABSERVE_MAX_READ_SECONDS",
        30,
        _whole_number(_MAX_SECONDS),
        "longest time that a client may take to send a request; one that is not whole by then is answered 400",
    )
    device: str = setting(
        "TABSERVE_DEVICE",
        "cpu",
        _device,
        "what models with a network run on: `cpu` with ONNX Runtime, or `cuda` or `cuda:N` with PyTorch; others run on "
        "the CPU either way",
    )
    batch_rows: int = setting(
        "TABSERVE_BATCH_ROWS",
        0,
        _whole_number(_MAX_ROWS),
        "most rows of requests that are run together on one engine; 1: off; not set: 4096 on `cuda`, 1 on `cpu`",
    )
    log_requests: bool = setting(
        "TABSERVE_LOG_REQUESTS", True, _boolean, "write a JSON line to standard output for each request"
    )
    prediction_log: str = setting(
        "TABSERVE_PREDICTION_LOG",
        "sqlite:///predictions.db",
        _database_url,
        "database of predictions and the true values that come to `/feedback`: `sqlite:///FILE` or "
        "`postgresql://USER:PASSWORD@HOST/NAME`; empty: none",
        is_secret=True,
    )
    prediction_log_share: float = setting(
        "TABSERVE_PREDICTION_LOG_SHARE", 1.0, _share, "share of the requests that are logged there, from 0 to 1"
    )
    prediction_log_features: float = setting(
        "TABSERVE_PREDICTION_LOG_FEATURES",
        _NO_SHARE,
        _share_or_all,
        "log the features' values, too: `true`, or for a share of the logged requests, such as `0.01`, by which the "
        "report judges their drift",
    )
    prediction_log_days: int = setting(
        "TABSERVE_PREDICTION_LOG_DAYS",
        30,
        _whole_number(_MAX_DAYS),
        "days after which a prediction is removed from the log with its true value",
    )
    prediction_log_max_bytes: int = setting(
        "TABSERVE_PREDICTION_LOG_MAX_BYTES",
        2**30,
        _whole_number(_MAX_LOG_BYTES),
        "bytes of the log beyond which its oldest predictions are removed, whatever their age",
    )
    live_error_days: int = setting(
        "TABSERVE_LIVE_ERROR_DAYS",
        7,
        _whole_number(_MAX_DAYS),
        "period of the live error, in days: true values that were reported within it count",
    )
    host: str = setting(
        "TABSERVE_HOST",
        "",
        _host,
        "address to listen at, such as `127.0.0.1` or `::1`; empty: all addresses, IPv4 and IPv6, where a port is "
        "named, else `127.0.0.1`",
    )
    cors_origins: tuple[str, ...] = setting(
        "TABSERVE_CORS_ORIGINS",
        (),
        _origins,
        "origins whose web pages may ask for predictions and send feedback, separated by commas, each as in "
        "`https://example.org`; empty: none",
    )
    mcp: bool = setting(
        "TABSERVE_MCP",
        False,
        _boolean,
        "answer agents at `/mcp` by the Model Context Protocol: each model is a tool",
    )
    otel: bool = setting(
        "TABSERVE_OTEL",
        False,
        _boolean,
        "send traces by OpenTelemetry's protocol over HTTP to `OTEL_EXPORTER_OTLP_ENDPOINT`; `requirements-otel.txt` "
        "has what it needs",
    )
    otel_share: float = setting(
        "TABSERVE_OTEL_SHARE",
        0.01,
        _share,
        "share of the requests without a `traceparent` that are traced, from 0 to 1; where there is one, its flag "
        "decides",
    )
    aip_health_route: str = setting("AIP_HEALTH_ROUTE", "", _route, "path at which Vertex AI asks for readiness")
    aip_predict_route: str = setting(
        "AIP_PREDICT_ROUTE", "", _route, "path at which Vertex AI asks for predictions of the default model"
    )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Return the entries of `models`. Raises `ValueError` for a role that does not exist."""
        return tuple(map(Entry.parse, self.models))

    @property
    def sticky_key(self) -> str:
        """Return where a request's environment has the sticky header."""
        return f"HTTP_{self.sticky_header.upper().replace('-', '_')}"

    @property
    def folder(self) -> Path:
        """Return the folder of the store; where that is behind a URL, `server.settings` names its copy instead."""
        return Path(self.store)

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
                values[item.name] = item.metadata["parse"](text)
            except ValueError as error:
                shown = "" if item.metadata["is_secret"] else f"{text!r}, "
                mistakes.append(f"{name} is {shown}{error}")
        if values.get("jwks") and not (values.get("jwt_issuer") and values.get("jwt_audience")):
            missing = "TABSERVE_JWT_ISSUER and TABSERVE_JWT_AUDIENCE"
            mistakes.append(f"TABSERVE_JWKS is {str(values['jwks'])!r}, not of use without {missing}; set both")
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        return cls(**values)
