"""The version that answers: the one that a reference names now, as aliases move."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from model.errors import ModelError
from model.store.artifact import Artifact
from model.store.signed import Signed
from model.store.tries import pause_seconds
from model.store.versions import Store

LOOK_SECONDS = 5.0  # between two looks at the aliases, each of which is one request for a store behind a URL


class Current:
    """The verified version behind `NAME`, `NAME@ALIAS` or `NAME@VERSION`.

    If another one cannot be loaded, the last one stays, and `say` tells why. Raises `ModelError` only when it is made.
    """

    def __init__(
        self,
        store: Store,
        reference: str,
        *,
        say: Callable[[str], None],
        signed: Signed | None = None,
        ignore_unknown: bool = False,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._store, self._reference, self._say = store, reference, say
        self._signed, self._ignore_unknown = signed, ignore_unknown
        self._lock = threading.Lock()
        self._model = self._load()
        self._n_failures = 0
        self._look_seconds = look_seconds
        self._look_at = time.monotonic() + look_seconds

    def model(self) -> Artifact:
        """Return the version that answers from now on."""
        with self._lock:
            if time.monotonic() >= self._look_at:
                self._look()
            return self._model

    def _look(self) -> None:
        try:
            if self._store.find(self._reference) != self._model.path:
                self._model = self._load()
                self._say(f"{self._model.name}@{self._model.version} answers from now on")
            self._n_failures = 0
        except (ModelError, OSError) as error:
            self._n_failures += 1
            if self._n_failures == 1:
                self._say(f"warning: {self._model.name}@{self._model.version} still answers: {error}")
        pause = pause_seconds(self._n_failures) if self._n_failures else self._look_seconds
        self._look_at = time.monotonic() + pause

    def _load(self) -> Artifact:
        model = self._store.load(self._reference, signed=self._signed)
        return replace(model, schema=replace(model.schema, ignore_unknown=self._ignore_unknown))
