"""Which versions of which models are loaded, and which of them answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from app.errors import NotReadyError
from model import Artifact, ModelError, NotInStoreError, Store

_log = logging.getLogger("tabserve")


@dataclass(slots=True)
class Serving:
    """The loaded models by name, the default first, and why any that was asked for is not among them.

    `draining` is set when the server was told to stop: it goes on answering, and says that it is not ready.
    """

    models: dict[str, Artifact] = field(default_factory=dict)
    default_name: str | None = None
    problems: tuple[str, ...] = ()
    draining: bool = False

    @property
    def unready(self) -> str | None:
        """Return why no new requests should be sent here, or None."""
        if self.draining:
            return "the server is stopping"
        return "; ".join(self.problems) or None

    def default(self) -> Artifact:
        """Return the model that `/predict` answers with. Raises `NotReadyError`."""
        return self.get(self.default_name) if self.default_name else self._refuse()

    def get(self, name: str) -> Artifact:
        """Return a loaded model.

        Raises `NotReadyError` if it failed to load, `NotInStoreError` if nobody asked for it.
        """
        if name in self.models:
            return self.models[name]
        if name == self.default_name or self.problems:
            self._refuse()
        raise NotInStoreError(f"there is no model {name!r} here; there are: {', '.join(self.models)}")

    def _refuse(self) -> Artifact:
        raise NotReadyError("no verified model is loaded; /readyz says why")


def load(store: Path, references: Sequence[str]) -> Serving:
    """Load and verify the models that are asked for, or every model of the store.

    A model that cannot be loaded is left out and said why: the process lives on, is not ready, and its
    liveness does not depend on it.
    """
    models, problems = {}, []
    asked = list(references)
    try:
        asked = asked or Store(store).names()
        if not asked:
            raise NotInStoreError(f"the store {store} has no model; train one: python -m model train boston-housing")
    except (ModelError, OSError) as error:
        problems.append(str(error))
    for reference in asked:
        try:
            model = Store(store).load(reference)
            if model.name in models:
                raise NotInStoreError(f"{reference} is asked for beside another version of {model.name}: name one")
            models[model.name] = model
            _log.info("model loaded", extra={"fields": {"model": model.name, "version": model.version}})
        except (ModelError, OSError) as error:
            problems.append(str(error))
    for problem in problems:
        _log.error("not ready: %s", problem)
    return Serving(
        models=models,
        default_name=asked[0].partition("@")[0] if asked else None,
        problems=tuple(problems),
    )
