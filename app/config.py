"""Every setting of the service, with its default and its help; read from the environment once, all mistakes at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

PREFIX = "TABSERVE_"


class ConfigError(Exception):
    """The settings are not usable; the message lists every one that is wrong."""


def setting(name: str, default: Any, help_text: str) -> Any:
    """Return a dataclass field that is read from `TABSERVE_<name>`, of the default's type."""
    return field(default=default, metadata={"name": PREFIX + name, "help": help_text})


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one service."""

    store: Path = setting("STORE", Path("store"), "folder of models: `<name>/<version>/`")
    models: tuple[str, ...] = setting(
        "MODELS",
        (),
        "models to serve, separated by commas, each `name`, `name@alias` or `name@version`; the first answers "
        "`/predict`; empty: every model of the store, in alphabetical order",
    )
    max_body_bytes: int = setting("MAX_BODY_BYTES", 8 * 2**20, "longest request body; a longer one is answered 413")
    max_rows: int = setting("MAX_ROWS", 10_000, "most rows in one request; more are answered 413")
    max_in_flight: int = setting(
        "MAX_IN_FLIGHT",
        512,
        "most requests that one worker answers or keeps waiting; a prediction beyond that is answered 503",
    )
    log_requests: bool = setting("LOG_REQUESTS", True, "write a JSON line to standard output for each request")

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Config:
        """Read the settings. Raises `ConfigError` with every mistake, unknown `TABSERVE_` names among them."""
        by_name = {item.metadata["name"]: item for item in fields(cls)}
        values, mistakes = {}, []
        for name, text in sorted(environ.items()):
            if not name.startswith(PREFIX):
                continue
            if name not in by_name:
                mistakes.append(f"{name} is not a setting; there are {', '.join(by_name)}")
                continue
            item = by_name[name]
            try:
                values[item.name] = _parse(text, item.default)
            except ValueError as error:
                mistakes.append(f"{name} is {text!r}, {error}")
        if mistakes:
            raise ConfigError("; ".join(mistakes))
        return cls(**values)


def _parse(text: str, default: Any) -> Any:
    """Return `text` as a value of the default's type; raise `ValueError` that says what it is not."""
    if isinstance(default, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError("neither true nor false")
        return text.lower() == "true"
    if isinstance(default, int):
        if not text.isascii() or not text.isdecimal() or int(text) < 1:
            raise ValueError("not a whole number from 1")
        return int(text)
    if isinstance(default, tuple):
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if not text:
        raise ValueError("not a path")
    return Path(text)
