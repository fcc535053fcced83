"""What was run to make versions: a record of each training, import and export, failed ones too.

`<store>/<name>/runs/<id>.json` is written once, when the run ends, and never changed; the id is the time of its start,
so that ids sort by time. A record has its own SHA-256, so a damaged one is found. A run whose process is killed leaves
none. Knows nothing of how a model is made: what is known of a run is told by whoever does it.

To change the format: raise FORMAT_VERSION and let `decode` read the older versions, which stay as they are for ever.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from time import monotonic
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import numpy as np

from model.errors import URL_CHAIN, ModelError, NotInStoreError
from model.store import artifact, run_facts
from model.store.files import parse_json
from model.store.history import who
from model.store.manifest import MAX_VERSION
from model.store.versions import Store, check_name
from model.version import VERSION

FORMAT_VERSION = 1

RUNS = "runs"
TRAIN, RETRAIN, IMPORT, EXPORT = "train", "retrain", "import", "export"
FINISHED, FAILED, INTERRUPTED = OUTCOMES = "finished", "failed", "interrupted"
MAX_TRIALS = 1_000  # a record of as many has about 300 KiB

Tell: TypeAlias = Callable[..., None]
"""What takes facts of a run, by keyword, as `Recording.add` does."""

_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9]{6}")
_FILE = re.compile(rf"{_ID.pattern}\.json")
_ID_FORMAT = "%Y%m%d-%H%M%S-%f"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]+")
_MAX_TEXT = 2_000  # characters
_MAX_SECONDS = 1e9  # 30 years
_MAX_LEVELS = 50  # of lists and objects; a run has about 6
_FIRST = datetime(1970, 1, 1, tzinfo=UTC)
_PACKAGES = ("duckdb", "numpy", "onnx", "onnxruntime", "optuna", "pandas", "scikit-learn")
_KEYS = (
    *("by", "code", "environment", "error", "facts", "format_version", "id", "kind", "model", "outcome"),
    *("parameters", "seconds", "sha256", "started_at"),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a model, as it ended.

    `started_at` is its start (UTC, ISO 8601) and `seconds` how long it took. `error` is what it failed of, empty for
    one that finished. `code` has the commit, and `environment` Python, machine, device, cores and packages. `facts` are
    what became known, in that order: `data` (source, sha256, rows), `version`, `digest`, `algorithm`,
    `hyperparameters`, `metrics` by part, and `search` with its trials.
    """

    id: str
    model: str
    kind: str
    outcome: str
    started_at: str
    seconds: float
    by: str
    error: str
    parameters: Mapping[str, Any]
    code: Mapping[str, Any]
    environment: Mapping[str, Any]
    facts: Mapping[str, Any]

    @property
    def version(self) -> int | None:
        """Return the version that the run wrote, None if it wrote none."""
        version = self.facts.get("version")
        return version if type(version) is int and 0 < version <= MAX_VERSION else None

    @property
    def learner(self) -> str:
        """Return what was fitted, or was to be: the winner of a search, or the last step of what was taken in."""
        found = self.part("search").get("learner") or self.facts.get("learner") or self.facts.get("algorithm", "")
        return str(found).rpartition(" + ")[2]

    def part(self, name: str) -> Mapping[str, Any]:
        """Return one of the facts that is an object, such as `data`; empty if it is not known."""
        found = self.facts.get(name)
        return found if isinstance(found, Mapping) else {}

    def to_document(self) -> dict[str, Any]:
        """Return what the record says, as a JSON value."""
        return {
            "format_version": FORMAT_VERSION,
            "id": self.id,
            "model": self.model,
            "kind": self.kind,
            "outcome": self.outcome,
            "error": self.error,
            "started_at": self.started_at,
            "seconds": self.seconds,
            "by": self.by,
            "parameters": self.parameters,
            "facts": self.facts,
            "code": self.code,
            "environment": self.environment,
        }


class Recording:
    """A run that is going on: collects what becomes known of it. Without `is_kept` there was nothing to do."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {}
        self.is_kept = True

    def add(self, **facts: Any) -> None:
        """Add facts, or replace them; those that are objects are put together."""
        for name, value in facts.items():
            known = self.facts.get(name)
            if isinstance(known, Mapping) and isinstance(value, Mapping):
                value = {**known, **value}
            self.facts[name] = value

    def add_version(self, document: Mapping[str, Any]) -> None:
        """Add what the document of a manifest says of the version that was written."""
        names = ("version", "digest", "algorithm", "summary", "hyperparameters", "metrics")
        data = document.get("data") or {}
        known = {"source": data.get("source"), **self.facts.get("data", {})}
        self.add(
            **{name: document[name] for name in names if name in document},
            data={**known, **{name: data[name] for name in ("sha256", "rows") if name in data}},
            environment={"device": "cpu", **document.get("environment", {})},
        )


@contextmanager
def recording(
    store: Store, name: str, kind: str, *, parameters: Mapping[str, Any] | None = None, by: str = ""
) -> Iterator[Recording]:
    """Keep a record of what is done within: how it ended, and what `add` of the yielded value was told.

    `parameters` are what was asked for. `by` is who asks; empty: this user on this machine. If the record cannot be
    written, that is said on standard error, and what was done stays done. Nothing is recorded where the yielded value
    is told so, and in a store that is one artifact, which takes no models.

    Raises `NotInStoreError` for a name that no model can have, and what is raised within.
    """
    check_name(name)
    started_at, started = datetime.now(UTC), monotonic()
    found = Recording()
    outcome, error = FINISHED, ""
    try:
        yield found
    except Exception as raised:
        outcome, error = FAILED, str(raised) or type(raised).__name__
        raise
    except BaseException:
        outcome = INTERRUPTED
        raise
    finally:
        run = Run(
            id=started_at.strftime(_ID_FORMAT),
            model=name,
            kind=kind,
            outcome=outcome,
            started_at=started_at.isoformat(timespec="microseconds"),
            seconds=round(monotonic() - started, 3),
            by=by or who(),
            error=_text(error),
            parameters=_object(parameters or {}),
            code={"git_commit": git_commit(), "tabserve": VERSION},
            environment=_object(_environment(found.facts.pop("environment", {}))),
            facts=_object(found.facts),
        )
        try:
            if found.is_kept and not (store.root / artifact.MANIFEST).exists():
                write(store, run)
        except (ModelError, OSError, ValueError) as failure:
            print(f"mind     this run is not kept in {store.place}/{name}/{RUNS}: {failure}", file=sys.stderr)


def write(store: Store, run: Run) -> Run:
    """Write a run beside the versions of its model, all of it or nothing, and return it with its id.

    If another run began in the same microsecond, this one is written with a later id.
    """
    while True:
        try:
            store.keep(run.model, RUNS, f"{run.id}.json", encode(run))
            return run
        except FileExistsError:
            run = _later(run)


def encode(run: Run) -> bytes:
    """Return the bytes of a run's record, which has the SHA-256 of all that it says.

    Raises `ValueError` for a record that would have too many bytes, lists or levels to be read back.
    """
    facts = run.to_document()
    content = artifact.to_json({**facts, "sha256": hashlib.sha256(artifact.to_json(facts)).hexdigest()})
    _parse(content)
    return content


def decode(content: bytes) -> Run:
    """Return the run that `encode` wrote. Raises `ValueError` for any other bytes."""
    document = _parse(content)
    if not isinstance(document, dict) or type(document.get("format_version")) is not int:
        raise ValueError("it is no record of a run")
    if document["format_version"] > FORMAT_VERSION:
        raise ValueError(f"it is of format {document['format_version']}, which a later version of tabserve wrote")
    if sorted(document) != sorted(_KEYS):
        raise ValueError("it has other facts than a record of a run")
    texts = [document[name] for name in ("id", "model", "kind", "outcome", "error", "started_at", "by")]
    objects = [document[name] for name in ("parameters", "code", "environment", "facts")]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(each, dict) for each in objects):
        raise ValueError("a fact in it is of another type")
    if not _ID.fullmatch(document["id"]) or document["outcome"] not in OUTCOMES:
        raise ValueError("its id or its outcome is none")
    if not run_facts.is_number(document["seconds"]) or not 0 <= document["seconds"] <= _MAX_SECONDS:
        raise ValueError("`seconds` is not a duration")
    if not _is_moment(document["started_at"]):
        raise ValueError("`started_at` is not a time")
    run_facts.check(document["facts"])
    run = Run(**{name: document[name] for name in _KEYS if name not in ("format_version", "sha256")})
    if encode(run) != content:
        raise ValueError("it was changed after it was written")
    return run


def _parse(content: bytes) -> Any:
    """Return the value of JSON. Raises `ValueError` if it is invalid or has too many bytes, lists or levels."""
    document = parse_json(content)
    if _is_deeper(document, _MAX_LEVELS):
        raise ValueError(f"more than {_MAX_LEVELS} levels")
    return document


def _is_deeper(value: Any, n_levels: int) -> bool:
    """Return whether lists and objects are nested in more levels."""
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return n_levels == 0 or any(_is_deeper(each, n_levels - 1) for each in inner)


def _is_moment(text: str) -> bool:
    """Return whether a text is a time with a time zone, as ISO 8601 has it, since 1970."""
    try:
        return datetime.fromisoformat(text) >= _FIRST
    except (ValueError, TypeError):  # TypeError: it has no time zone
        return False


def read(store: Store, name: str) -> tuple[list[Run], list[ModelError]]:
    """Return the runs of a model, the oldest first, and an error for each record that cannot be read.

    Raises `NotInStoreError` for a name that no model can have.
    """
    check_name(name)
    found, damaged = [], []
    for key, content in store.kept(name, RUNS).items():
        if not _FILE.fullmatch(key):
            continue
        try:
            if isinstance(content, OSError):
                raise content
            run = decode(content)
            if (f"{run.id}.json", run.model) != (key, name):
                raise ValueError(f"it is of the run {run.id} of {run.model}")
            found.append(run)
        except (OSError, ValueError) as error:
            reason = error.strerror or error if isinstance(error, OSError) else error
            place = f"{store.place}/{name}/{RUNS}/{key}"
            damaged.append(
                ModelError(f"{place}: is not the record of this run: {reason}; restore it from a copy, or remove it")
            )
    return found, damaged


def find(runs: Sequence[Run], wanted: str) -> Run:
    """Return the run among those of a model that `wanted` names.

    That is an id, the beginning of exactly one, or `@` with a version, whose last run it is. Raises `NotInStoreError`.
    """
    if wanted.startswith("@"):
        found = [run for run in runs if run.version is not None and str(run.version) == wanted[1:]][-1:]
    else:
        found = [run for run in runs if wanted and run.id.startswith(wanted)]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotInStoreError(
            f"{wanted!r} is the beginning of {len(found)} runs, such as {found[0].id}; write more of it"
        )
    raise NotInStoreError(
        f"there is no run {wanted!r}; name one that `python -m model runs NAME` lists, or a version such as @1"
    )


def removable(store: Store, name: str, *, keep: int) -> list[str]:
    """Return the ids of all but the `keep` newest runs; those that wrote a version which is in the store stay."""
    runs, _ = read(store, name)
    versions = store.versions(name)
    return [run.id for run in runs[: max(0, len(runs) - keep)] if run.version not in versions]


def remove(store: Store, name: str, ids: Sequence[str]) -> None:
    """Remove the records of runs."""
    for id in ids:
        store.discard(name, RUNS, f"{id}.json")


def headline(metrics: Mapping[str, Any]) -> tuple[str, str, float | None]:
    """Return the metric that sums up how good a model is, of which rows it is, and its value.

    It is the log loss or the RMSE of the held-out rows, or of those of training where none were held out.
    """
    part = "validation" if metrics.get("validation") else "training"
    scores = metrics.get(part) or {}
    metric = "log_loss" if "log_loss" in scores else "rmse"
    return metric, part, scores.get(metric)


def score(trial: Mapping[str, Any]) -> float | None:
    """Return the mean score of a trial's folds; None if there is none, or one is not finite."""
    scores = trial["scores"]
    return sum(scores) / len(scores) if scores and None not in scores else None


def differences(old: Run, new: Run) -> list[tuple[str, str, Any, Any]]:
    """Return what two runs say differently: part, name, and both values; None where one says nothing."""
    sides = [
        {
            "run": {"kind": run.kind, "outcome": run.outcome, "error": run.error or None, "by": run.by},
            "parameters": run.parameters,
            "data": run.part("data"),
            "code": run.code,
            "environment": run.environment,
            "model": {
                "learner": run.learner or None,
                **{name: run.facts.get(name) for name in ("algorithm", "summary")},
                **run.part("hyperparameters"),
            },
            "metrics": run.part("metrics"),
        }
        for run in (old, new)
    ]
    found = []
    for part in sides[0]:
        before, after = (dict(flat(side[part])) for side in sides)
        for name in dict.fromkeys([*before, *after]):
            if before.get(name) != after.get(name):
                found.append((part, name, before.get(name), after.get(name)))
    return found


def flat(value: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is in nested objects, each value with its names joined by dots."""
    if isinstance(value, Mapping):
        for name, each in value.items():
            yield from flat(each, f"{before}.{name}" if before else str(name))
    else:
        yield before, value


@cache
def git_commit() -> str | None:
    """Return the commit of the code that runs, with `-dirty` if it was changed; None without git. Asks git once."""
    command = ["git", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        completed = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return completed.stdout.strip()


def redacted(text: str) -> str:
    """Return a text in which URLs have no user, password, query and fragment."""
    return _URL.sub(lambda found: "::".join(map(_bare, URL_CHAIN.split(found[0]))), text)


def _bare(url: str) -> str:
    if url.endswith("://"):  # of which `geturl` leaves the slashes out
        return url
    try:
        parts = urlsplit(url)
        host, at, port = parts.netloc.rpartition("@")[2].partition(":")
    except ValueError:
        return f"{url.partition('://')[0]}://…"
    if at and port and not port.isdecimal():  # a password with a slash in it, which ends the host
        return f"{parts.scheme}://{url.rpartition('@')[2].partition('?')[0]}" if "@" in url else f"{parts.scheme}://…"
    return parts._replace(netloc=f"{host}{at}{port}", query="", fragment="").geturl()


def _later(run: Run) -> Run:
    """Return the run with the next id."""
    moment = datetime.strptime(run.id, _ID_FORMAT) + timedelta(microseconds=1)
    return Run(**{**{name: getattr(run, name) for name in run.__slots__}, "id": moment.strftime(_ID_FORMAT)})


def _environment(known: Mapping[str, Any]) -> dict[str, Any]:
    """Return where this process runs, with what is known beside that of a version's manifest."""
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        **known,
        "packages": {**packages, **known.get("packages", {})},
    }


def _object(facts: Mapping[Any, Any]) -> dict[str, Any]:
    """Return facts as a JSON object: bounded, strict, and without credentials."""
    return {_text(str(name)): _value(value) for name, value in facts.items()}


def _value(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return _object(value)
    if isinstance(value, (list, tuple)):
        return [_value(each) for each in value[:MAX_TRIALS]]
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return _text(str(value))


def _text(text: str) -> str:
    """Return a text that JSON and a terminal take, without the credentials of URLs in it."""
    known = redacted(text).encode("utf-8", "backslashreplace").decode()
    return known if len(known) <= _MAX_TEXT else f"{known[:_MAX_TEXT]}…"
