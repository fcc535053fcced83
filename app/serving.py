"""Which versions of which models are loaded, and which of them answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import NotReadyError
from model import Artifact, GoldenRowsError, ModelError, NotInStoreError, Store

_log = logging.getLogger("tabserve")


@dataclass(slots=True)
class Serving:
    """The loaded models by name, and why any that was asked for is not among them.

    `asked` holds the names of all models that were asked for, the default first. `golden` says of each version that
    was tried whether its golden rows came out as in training. `draining` is set when the server
    was told to stop: it goes on answering, and says that it is not ready.
    """

    models: dict[str, Artifact] = field(default_factory=dict)
    asked: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    golden: dict[tuple[str, int], bool] = field(default_factory=dict)
    draining: bool = False

    @property
    def default_name(self) -> str | None:
        """Return the name of the model that `/predict` answers with."""
        return self.asked[0] if self.asked else None

    @property
    def unready(self) -> str | None:
        """Return why no new requests should be sent here, or None."""
        if self.draining:
            return "the server is stopping"
        return "; ".join(self.problems) or None

    def get(self, name: str | None, version: str | None = None) -> Artifact:
        """Return a loaded model, the default one for None, in whichever version is loaded or in that one alone.

        Raises `NotReadyError` if it failed to load, `NotInStoreError` if nobody asked for it.
        """
        name = name or self.default_name
        if name in self.models:
            model = self.models[name]
            if version not in (None, str(model.version)):
                raise NotInStoreError(f"{name} is served in version {model.version} here, not in {version!r}")
            return model
        if name is None or name in self.asked:
            raise NotReadyError("no verified model is loaded; /readyz says why")
        raise NotInStoreError(f"there is no model {name!r} here; there are: {', '.join(self.models)}")


def load(store: Path, references: Sequence[str]) -> Serving:
    """Load and verify the models that are asked for, or every model of the store.

    A model that cannot be loaded is left out and said why: the process lives on, is not ready, and its
    liveness does not depend on it.
    """
    shelf = Store(store)
    models: dict[str, Artifact] = {}
    problems: list[str] = []
    golden: dict[tuple[str, int], bool] = {}
    asked = list(references)
    try:
        asked = asked or shelf.names()
    except (ModelError, OSError) as error:
        problems.append(str(error))
    if not (asked or problems):
        problems.append(f"the store {store} has no model; train one: python -m model train boston-housing")
    for reference in asked:
        try:
            model = shelf.load(reference)
        except (ModelError, OSError) as error:
            problems.append(str(error))
            if isinstance(error, GoldenRowsError):
                golden[error.name, error.version] = False
            continue
        golden[model.name, model.version] = True
        if model.name in models:
            problems.append(f"{reference} is asked for beside another version of {model.name}: name one")
            continue
        models[model.name] = model
        _log.info("model loaded", extra={"fields": {"model": model.name, "version": model.version}})
    for problem in problems:
        _log.error("not ready: %s", problem)
    return Serving(
        models=models,
        asked=tuple(reference.partition("@")[0] for reference in asked),
        problems=tuple(problems),
        golden=golden,
    )
