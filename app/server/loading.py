"""How the master replaces the served versions: at SIGHUP, after a move of an alias, and when a store is repaired.

New workers serve the new versions, and the old workers answer the requests that they have. What does not verify is
refused, and its model goes on with the old version.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any, NamedTuple

from app.config import Config
from app.server.mirror import Mirror
from app.serving import loaded, verification
from app.serving.loaded import Wanted, wanted
from app.serving.store_watch import Fingerprint, Moves, fingerprint, watch
from app.telemetry.shared_values import make_room
from model import Store, pause_seconds


class _Refusal(NamedTuple):
    """What the store named, and its state, when the server refused to load it.

    `n_unfinished` loads of it in a row did not finish, the last one `at` this time of `time.monotonic`.
    """

    wanted: Wanted
    seen: Fingerprint
    n_unfinished: int
    at: float

    @property
    def is_due(self) -> bool:
        """Return whether to try the same again, which is needless where the reason is in the store."""
        return bool(self.n_unfinished) and time.monotonic() >= self.at + pause_seconds(self.n_unfinished)


# In the master: the last load if it was refused, what reads a store behind a URL, and whether a load was asked for that
# is not over.
_refusal: _Refusal | None = None
_mirror: Mirror | None = None
_is_loading = False


def start_watching(settings: Config, server: Any, mirror: Mirror | None) -> None:
    """Watch the store in a thread, and have the server load it as after SIGHUP when that may change what is served.

    `mirror` is what keeps the store, if that is a copy of one behind a URL.

    That is when an alias has moved that the settings name, or, where something could not be loaded, when the store or
    the trusted keys have changed, and some time after a load that did not finish.
    """

    def seen_before_failure() -> Fingerprint | None:
        if settings.reload_seconds and _refusal:
            return _refusal.seen
        served = server.app.callable.serving.loaded  # replaced by a reload
        return served.seen if served.problems or served.absent else None

    def tried() -> Wanted:
        refusal, served = _refusal, server.app.callable.serving.loaded
        return refusal.wanted if refusal else served.wanted

    def load_again() -> None:
        global _is_loading
        _is_loading = True
        os.kill(os.getpid(), signal.SIGHUP)

    def is_due() -> bool:
        return _refusal is not None and _refusal.is_due

    moves = Moves(lambda: wanted(Store(settings.folder), settings.entries), tried, is_due)
    paths = (settings.folder, *settings.trusted_keys)
    arguments = paths, seen_before_failure, load_again, lambda: _is_loading, moves, settings.reload_seconds
    threading.Thread(target=watch, args=arguments, daemon=True).start()
    global _mirror
    _mirror = mirror
    if mirror:
        mirror.tell(lambda: _show_refusal(server))


def _show_refusal(server: Any) -> None:
    """Have the metrics say whether the server does not serve what its store names."""
    server.app.callable.metrics.set_reload_refused(bool(_refusal or (_mirror and _mirror.has_problem)))


def on_reload(settings: Config, server: Any) -> None:
    """Load the models again for the new workers; a model whose new version does not verify goes on with the old one.

    A separate process verifies the new models first. If no model is served yet, every model that loads is served, and
    `/readyz` names the models that do not load.
    """
    global _is_loading
    _is_loading = True
    try:
        _load_again(settings, server)
    finally:
        _is_loading = False


def _load_again(settings: Config, server: Any) -> None:
    global _refusal
    stop_signals = []
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)}

    def stop(number: int, frame: Any) -> None:
        stop_signals.append(number)
        handlers[signal.Signals(number)](number, frame)  # type: ignore[operator, misc]  # the master's own functions

    for number in handlers:
        signal.signal(number, stop)
    seen = fingerprint(settings.folder, *settings.trusted_keys)
    try:
        now = wanted(Store(settings.folder), settings.entries)
    except OSError as error:
        now = (("", str(error), ""),)
    problems, golden = verification.verify_apart(
        lambda: loaded.load(
            settings.folder,
            settings.entries,
            device=settings.device,
            allow_converted=settings.allow_converted,
            trusted_keys=settings.trusted_keys,
        ),
        is_stopping=lambda: bool(stop_signals),
    )
    for number, handler in handlers.items():
        signal.signal(number, handler)
    serving = server.app.callable.serving
    is_served, is_refused, is_unfinished = bool(serving.loaded.models), True, golden is None
    if golden is not None and (not problems or not is_served or any(golden.values())):
        try:
            make_room({*((model.name, model.version) for model in serving.loaded.all_versions), *golden})
            fresh = server.app.load()
            is_unfinished = not problems and bool(fresh.serving.loaded.problems)  # what was verified is not at fault
            problems = fresh.serving.loaded.problems  # the store may have changed since the verification
            is_refused = bool(problems and is_served)
            if is_refused and fresh.serving.loaded.models:
                fresh.swap(fresh.serving.loaded.keeping(serving.loaded))
            if not is_refused or fresh.serving.loaded.models:
                server.app.callable = fresh
        except Exception as error:  # whatever it is, the server keeps the served models
            is_refused, is_unfinished, problems = True, True, (repr(error),)
    if not is_refused:
        _refusal = None
    else:
        server.log.error("the models are not loaded again: %s", "; ".join(problems))
        server.app.callable.serving.add_golden(golden or {})
        if not stop_signals:
            before = _refusal.n_unfinished if _refusal and _refusal[:2] == (now, seen) else 0
            _refusal = _Refusal(now, seen, before + 1 if is_unfinished else 0, time.monotonic())
    _show_refusal(server)
