"""An immutable snapshot of the served versions, and how it is loaded from a store."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from app.config import Entry
from app.errors import NotReadyError
from app.serving.batching import Batcher
from app.serving.challengers import Challenger, Choice, Mode, choices
from app.serving.devices import NotOnDevice, batched, has_network
from app.serving.store_watch import Fingerprint, fingerprint
from model import CHAMPION, Artifact, GoldenRowsError, ModelError, NotInStoreError, Store

Wanted = tuple[tuple[str, int | str, str], ...]
"""What a store wants served: each reference, its version (or why it has none) and the digest that its alias carries."""

T = TypeVar("T")

_log = logging.getLogger("tabserve")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The loaded versions by the name of their model, and the problems that kept configured models from loading.

    `models` has the version of each name that answers, `challengers` those with a role beside it, and `further` those
    that only a request for their version reaches. `requested` holds the names of all configured models, the default
    first. `absent` are the references to challengers and further versions that could not be loaded, each with the
    reason. `golden` holds for each version whether its golden rows were predicted as in training. `seen` is the store's
    fingerprint, and `wanted` what it named, from before the load.
    """

    models: Mapping[str, Artifact] = field(default_factory=dict)
    challengers: Mapping[str, tuple[Challenger, ...]] = field(default_factory=dict)
    further: Mapping[str, tuple[Artifact, ...]] = field(default_factory=dict)
    requested: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    golden: Mapping[tuple[str, int], bool] = field(default_factory=dict)
    seen: Fingerprint = frozenset()
    wanted: Wanted = ()
    all_versions: tuple[Artifact, ...] = field(init=False)
    choices: Mapping[str, Choice] = field(init=False)
    _by_version: Mapping[tuple[str, str], Artifact] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Make the mappings read-only, and find what follows from the versions."""
        for name in ("models", "challengers", "further", "absent", "golden"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))
        versions = {(model.name, str(model.version)): model for model in self._versions()}
        object.__setattr__(self, "all_versions", tuple(versions.values()))
        object.__setattr__(self, "choices", MappingProxyType(choices(self.models, self.challengers)))
        object.__setattr__(self, "_by_version", MappingProxyType(versions))

    def _versions(self) -> Iterator[Artifact]:
        yield from self.models.values()
        for challengers in self.challengers.values():
            yield from (each.model for each in challengers)
        for models in self.further.values():
            yield from models

    @property
    def default_name(self) -> str | None:
        """Return the name of the default model, which `/predict` uses."""
        return self.requested[0] if self.requested else None

    @property
    def shares(self) -> dict[tuple[str, int, str], float]:
        """Return the share of the requests without a version that each version with a role answers, from 0 to 1.

        The role of the version that answers the rest is `champion`.
        """
        found: dict[tuple[str, int, str], float] = {}
        for name, model in self.models.items():
            rest = 1.0
            for each in self.challengers.get(name, ()):
                key = name, each.model.version, each.mode.value
                share = 0.0 if each.mode is Mode.SHADOW else each.share
                found[key] = found.get(key, 0.0) + share
                rest -= share
            found[name, model.version, CHAMPION] = max(rest, 0.0)
        return found

    def get(self, name: str | None, version: str | None = None) -> Artifact:
        """Return the version that answers for `name`, or the default model for None; or the loaded `version` of it.

        Raises `NotReadyError` if the model failed to load, `NotInStoreError` if the model or version is not configured.
        """
        name = name or self.default_name
        if name is not None and version is not None and (found := self._by_version.get((name, version))):
            return found
        if name is not None and name in self.models:
            if version is None:
                return self.models[name]
            loaded = [str(model.version) for model in self.versions(name)]
            said = f"version {loaded[0]} is" if len(loaded) == 1 else f"versions {', '.join(loaded)} are"
            raise NotInStoreError(f"version {version!r} of {name} is not loaded; {said}")
        if name is None or name in self.requested:
            raise NotReadyError("no verified model is loaded; see /readyz for the reason")
        raise NotInStoreError(f"model {name!r} not found; loaded models: {', '.join(self.models) or 'none'}")

    def find(self, name: str | None, version: str | None = None) -> Artifact | None:
        """Return the model that `get` returns; None if it is not loaded."""
        name = name or self.default_name or ""
        return self.models.get(name) if version is None else self._by_version.get((name, version))

    def versions(self, name: str) -> list[Artifact]:
        """Return the loaded versions of a model, the one that answers first."""
        return [model for model in self.all_versions if model.name == name]

    def role(self, model: Artifact) -> str:
        """Return what a loaded version is among those of its name: `champion`, a challenger's modes, or nothing."""
        if self.models.get(model.name) is model:
            return CHAMPION
        modes = [each.mode.value for each in self.challengers.get(model.name, ()) if each.model is model]
        return ", ".join(dict.fromkeys(modes))

    def batches(self, name: str | None, version: str | None = None) -> bool:
        """Return whether the model that `find` returns makes requests wait for a batch."""
        model = self.find(name, version)
        return model is not None and isinstance(model.engine, Batcher)

    def only(self, names: Iterable[str]) -> Loaded:
        """Return the snapshot with the models of these names alone; the default stays the same, if it is one."""
        kept = frozenset(names)
        return replace(
            self,
            models={name: model for name, model in self.models.items() if name in kept},
            challengers={name: found for name, found in self.challengers.items() if name in kept},
            further={name: found for name, found in self.further.items() if name in kept},
        )

    def with_model(self, model: Artifact) -> Loaded:
        """Return the snapshot with another engine of a version, or another version that answers for its name."""
        name, key = model.name, (model.name, str(model.version))
        answering = self.models.get(name)
        if key not in self._by_version or (answering and answering.version == model.version):
            return replace(self, models={**self.models, name: model})
        challengers = tuple(
            replace(each, model=model) if each.model.version == model.version else each
            for each in self.challengers.get(name, ())
        )
        further = tuple(model if each.version == model.version else each for each in self.further.get(name, ()))
        return replace(
            self,
            challengers={**self.challengers, name: challengers} if challengers else self.challengers,
            further={**self.further, name: further} if further else self.further,
        )

    def with_golden(self, golden: Mapping[tuple[str, int], bool]) -> Loaded:
        """Return the snapshot with results for the golden rows of further versions."""
        return replace(self, golden={**self.golden, **golden})

    def keeping(self, before: Loaded) -> Loaded:
        """Return the snapshot in which the models that it could not load go on as in the snapshot `before`."""
        kept = [name for name in self.requested if name not in self.models and name in before.models]

        def joined(new: Mapping[str, T], old: Mapping[str, T]) -> dict[str, T]:
            others = {key: each for key, each in new.items() if key.partition("@")[0] not in kept}
            return {**others, **{key: each for key, each in old.items() if key.partition("@")[0] in kept}}

        models = joined(self.models, before.models)
        return replace(
            self,
            models=models,
            challengers=joined(self.challengers, before.challengers),
            further=joined(self.further, before.further),
            absent=joined(self.absent, before.absent),
            problems=() if len(models) == len(self.requested) else self.problems,
            golden={**{key: good for key, good in before.golden.items() if key[0] in kept and good}, **self.golden},
        )

    def without(self, gone: Collection[Artifact], reason: str) -> Loaded:
        """Return the snapshot without these versions. The reason is a problem if one of them answers for its name."""
        ids = set(map(id, gone))
        models = {name: model for name, model in self.models.items() if id(model) not in ids}
        problems = self.problems
        if len(models) < len(self.models) or not gone:
            problems = problems if reason in problems else (*problems, reason)
        answering = set(map(id, self.models.values()))
        return replace(
            self,
            models=models,
            challengers={
                name: tuple(each for each in challengers if id(each.model) not in ids)
                for name, challengers in self.challengers.items()
            },
            further={
                name: tuple(each for each in versions if id(each) not in ids) for name, versions in self.further.items()
            },
            problems=problems,
            absent={
                **self.absent,
                **{f"{each.name}@{each.version}": reason for each in gone if id(each) not in answering},
            },
        )


def wanted(store: Store, entries: Sequence[Entry]) -> Wanted:
    """Return what a store wants served: the version of each entry, or of the champion of each model.

    It differs after a move that changes what would be loaded, and after no other. What cannot be used is part of the
    answer. Raises `OSError` if the store cannot be read.
    """
    try:
        references = [entry.reference for entry in entries]
        return tuple(_wanted(store, reference) for reference in references or store.names())
    except ModelError as error:
        return (("", str(error), ""),)


def _wanted(store: Store, reference: str) -> tuple[str, int | str, str]:
    name, _, version = reference.partition("@")
    if version.isdecimal():
        return reference, int(version), ""
    try:
        move = store.last_move(name)
    except ModelError as error:
        return reference, str(error), ""
    aliased = move.aliases.get(version or CHAMPION) if move else None
    return (reference, aliased.version, aliased.digest) if aliased else (reference, "none", "")


def load(
    store: Path,
    entries: Sequence[Entry],
    *,
    device: str = "cpu",
    max_batch_rows: int = 1,
    ignore_unknown: bool = False,
    allow_converted: bool = False,
    trusted_keys: Sequence[Path] = (),
) -> Loaded:
    """Load and verify the versions of `entries`, or every model of the store; on the CPU, whatever the device.

    A version that cannot be loaded is left out. If it is to answer for its name, it is reported in `problems`: the
    process is live and not ready. Any other is reported in `absent`: what answers is not worse for it. The engine of a
    model for another device refuses to predict. With `trusted_keys`, files of public keys, a version is loaded only if
    its signature by one of them verifies, and nothing is loaded if a file of keys cannot be used.
    """
    seen = fingerprint(store, *trusted_keys)
    model_store = Store(store)
    problems: list[str] = []
    signed, before = None, Wanted()
    configured = list(entries)
    loadable: list[Entry] = []
    try:
        before = wanted(model_store, entries)
        configured = configured or [Entry(name) for name in model_store.names()]
        if trusted_keys:
            from model.store.signature import TrustedKeys  # here, since importing cryptography takes 60 ms and 14 MB

            signed = TrustedKeys.read(trusted_keys).digests
    except (ModelError, OSError) as error:
        problems.append(_describe(error, store))
    else:
        loadable = configured
    if not (configured or problems):
        problems.append(f"the store {store} has no model; train one: python -m model train boston-housing")
    golden: dict[tuple[str, int], bool] = {}
    versions: dict[tuple[str, int], Artifact] = {}

    def load_version(reference: str) -> Artifact:
        try:
            name, version = reference.partition("@")[0], model_store.version(reference)
            if (name, version) in versions:
                return versions[name, version]
            model = model_store.load(reference, converted=allow_converted, signed=signed)
        except GoldenRowsError as error:
            golden[error.name, error.version] = False
            raise
        golden[model.name, model.version] = True
        model = replace(model, schema=replace(model.schema, ignore_unknown=ignore_unknown))
        if device == "cpu":
            model = batched(model, max_batch_rows)
        elif has_network(model):
            model = batched(replace(model, engine=NotOnDevice()), max_batch_rows)
        _log.info("model loaded", extra={"fields": {"model": model.name, "version": model.version}})
        return versions.setdefault((model.name, model.version), model)

    answering = {entry.name: entry for entry in reversed(loadable) if not entry.role}
    models: dict[str, Artifact] = {}
    challengers: dict[str, tuple[Challenger, ...]] = {}
    further: dict[str, tuple[Artifact, ...]] = {}
    absent: dict[str, str] = {}
    for entry in (entry for entry in loadable if answering.get(entry.name) is entry):
        try:
            models[entry.name] = load_version(entry.reference)
        except (ModelError, OSError) as error:
            problems.append(_describe(error, store))
    for entry in (entry for entry in loadable if answering.get(entry.name) is not entry):
        try:
            model = load_version(entry.reference)
        except (ModelError, OSError) as error:
            absent[entry.reference] = _describe(error, store)
            continue
        fields = {"model": model.name, "version": model.version, "entry": entry.reference, "role": entry.role}
        shadows = [each.model for each in challengers.get(entry.name, ()) if each.mode is Mode.SHADOW]
        if model is models.get(entry.name):
            _log.info("an entry names the version that answers, and changes nothing", extra={"fields": fields})
        elif entry.role == Mode.SHADOW and any(model is each for each in shadows):
            _log.info(
                "an entry names a version that is a shadow already, and changes nothing", extra={"fields": fields}
            )
        elif entry.role:
            one = Challenger(model, Mode(entry.role), entry.share)
            challengers[entry.name] = (*challengers.get(entry.name, ()), one)
        else:
            further[entry.name] = (*further.get(entry.name, ()), model)
    for problem in problems:
        _log.error("not ready: %s", problem)
    for reason in absent.values():
        _log.error("not loaded, and another version answers: %s", reason)
    return Loaded(
        models=models,
        challengers=challengers,
        further=further,
        requested=tuple(dict.fromkeys(entry.name for entry in configured)),
        problems=tuple(problems),
        absent=absent,
        golden=golden,
        seen=seen,
        wanted=before,
    )


def _describe(error: Exception, store: Path) -> str:
    """Return the problem of a store or model; for an unreadable store, the file, the reason and the user."""
    if not isinstance(error, OSError):
        return str(error)
    return (
        f"the store {store} cannot be read: {error.filename or store}: {error.strerror or error}; "
        f"make it readable for user {os.geteuid()} or group {os.getegid()}"
    )
