"""An immutable snapshot of the served versions, and how it is loaded from a store."""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from app.errors import NotReadyError
from app.serving.batching import Batcher
from app.serving.devices import NotOnDevice, batched, has_network
from app.serving.store_watch import Fingerprint, fingerprint
from model import Artifact, GoldenRowsError, ModelError, NotInStoreError, Store

_log = logging.getLogger("tabserve")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The loaded models by name, and the problems that kept configured models from loading.

    `requested` holds the names of all configured models, the default first. `golden` holds for each version whether its
    golden rows were predicted as in training. `seen` is the store's fingerprint from before the load.
    """

    models: Mapping[str, Artifact] = field(default_factory=dict)
    requested: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    golden: Mapping[tuple[str, int], bool] = field(default_factory=dict)
    seen: Fingerprint = frozenset()

    def __post_init__(self) -> None:
        """Make the mappings read-only."""
        object.__setattr__(self, "models", MappingProxyType(dict(self.models)))
        object.__setattr__(self, "golden", MappingProxyType(dict(self.golden)))

    @property
    def default_name(self) -> str | None:
        """Return the name of the default model, which `/predict` uses."""
        return self.requested[0] if self.requested else None

    def get(self, name: str | None, version: str | None = None) -> Artifact:
        """Return the loaded model `name`, or the default model for None; `version` must be the loaded version.

        Raises `NotReadyError` if the model failed to load, `NotInStoreError` if the model or version is not configured.
        """
        name = name or self.default_name
        if name is not None and name in self.models:
            model = self.models[name]
            if version not in (None, str(model.version)):
                raise NotInStoreError(f"version {version!r} of {name} is not loaded; version {model.version} is")
            return model
        if name is None or name in self.requested:
            raise NotReadyError("no verified model is loaded; see /readyz for the reason")
        raise NotInStoreError(f"model {name!r} not found; loaded models: {', '.join(self.models) or 'none'}")

    def find(self, name: str | None) -> Artifact | None:
        """Return the loaded model `name`, or the default model for None; None if it is not loaded."""
        return self.models.get(name or self.default_name or "")

    def batches(self, name: str | None) -> bool:
        """Return whether the model `name`, or the default model for None, makes requests wait for a batch."""
        model = self.find(name)
        return model is not None and isinstance(model.engine, Batcher)

    def with_model(self, model: Artifact) -> Loaded:
        """Return the snapshot with another engine or version of a model."""
        return replace(self, models={**self.models, model.name: model})

    def with_golden(self, golden: Mapping[tuple[str, int], bool]) -> Loaded:
        """Return the snapshot with results for the golden rows of further versions."""
        return replace(self, golden={**self.golden, **golden})

    def without(self, names: Collection[str], reason: str) -> Loaded:
        """Return the snapshot without the models of these names, and with the reason among its problems."""
        problems = self.problems if reason in self.problems else (*self.problems, reason)
        models = {name: model for name, model in self.models.items() if name not in names}
        return replace(self, models=models, problems=problems)


def load(
    store: Path,
    references: Sequence[str],
    *,
    device: str = "cpu",
    max_batch_rows: int = 1,
    ignore_unknown: bool = False,
    allow_converted: bool = False,
    trusted_keys: Sequence[Path] = (),
) -> Loaded:
    """Load and verify the models of `references`, or every model of the store; on the CPU, whatever the device.

    A model that cannot be loaded is left out and reported in `problems`: the process is live and not ready. The engine
    of a model for another device refuses to predict. With `trusted_keys`, files of public keys, a version is loaded
    only if its signature by one of them verifies, and nothing is loaded if a file of keys cannot be used.
    """
    seen = fingerprint(store, *trusted_keys)
    model_store = Store(store)
    models: dict[str, Artifact] = {}
    problems: list[str] = []
    golden: dict[tuple[str, int], bool] = {}
    wanted, signed = list(references), None
    loadable: list[str] = []
    try:
        wanted = wanted or model_store.names()
        if trusted_keys:
            from model.store.signature import TrustedKeys  # here, since importing cryptography takes 60 ms and 14 MB

            signed = TrustedKeys.read(trusted_keys).digests
    except (ModelError, OSError) as error:
        problems.append(_describe(error, store))
    else:
        loadable = wanted
    if not (wanted or problems):
        problems.append(f"the store {store} has no model; train one: python -m model train boston-housing")
    for reference in loadable:
        try:
            model = model_store.load(reference, converted=allow_converted, signed=signed)
        except (ModelError, OSError) as error:
            problems.append(_describe(error, store))
            if isinstance(error, GoldenRowsError):
                golden[error.name, error.version] = False
            continue
        golden[model.name, model.version] = True
        if model.name in models:
            problems.append(f"{reference} is listed beside another version of {model.name}; list one of them")
            continue
        model = replace(model, schema=replace(model.schema, ignore_unknown=ignore_unknown))
        if device == "cpu":
            model = batched(model, max_batch_rows)
        elif has_network(model):
            model = batched(replace(model, engine=NotOnDevice()), max_batch_rows)
        models[model.name] = model
        _log.info("model loaded", extra={"fields": {"model": model.name, "version": model.version}})
    for problem in problems:
        _log.error("not ready: %s", problem)
    return Loaded(
        models=models,
        requested=tuple(reference.partition("@")[0] for reference in wanted),
        problems=tuple(problems),
        golden=golden,
        seen=seen,
    )


def _describe(error: Exception, store: Path) -> str:
    """Return the problem of a store or model; for an unreadable store, the file, the reason and the user."""
    if not isinstance(error, OSError):
        return str(error)
    return (
        f"the store {store} cannot be read: {error.filename or store}: {error.strerror or error}; "
        f"make it readable for user {os.geteuid()} or group {os.getegid()}"
    )
