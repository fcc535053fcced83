"""The service in which version 2 of each model answers behind the champion."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from app.factory import Service
from app.server import hooks
from app.serving.challengers import Challenger, Mode
from model import Store

# gunicorn reads this after its own configuration file, in whose place it is named.
CONFIGURATION = """
exec(compile(open("gunicorn.conf.py").read(), "gunicorn.conf.py", "exec"))
wsgi_app = "tests.support.shadow_app:load()"
"""


def load() -> Service:
    """Return the service of the settings that gunicorn.conf.py has read, with shadows."""
    service = hooks.load()
    loaded, store = service.serving.loaded, Store(Path(os.environ["TABSERVE_STORE"]))
    shadows = {name: (Challenger(store.load(f"{name}@2"), Mode.SHADOW, 1.0),) for name in loaded.models}
    service.swap(replace(loaded, challengers=shadows))
    return service
