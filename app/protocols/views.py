"""Facts about Flask's views beside their paths: which are health checks, and how each is described."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from app.protocols.describe import JSON
from app.serving.loaded import Loaded

View = TypeVar("View", bound=Callable[..., Any])

Operation = JSON | Callable[[Loaded], JSON]
"""An operation in the OpenAPI document, or what makes it for the loaded models."""


class Views:
    """`probes` are the health checks; `operations` describes views in the OpenAPI document."""

    def __init__(self) -> None:
        self.probes: set[Callable[..., Any]] = set()
        self.operations: dict[Callable[..., Any], Operation] = {}

    def probe(self, view: View) -> View:
        """Mark a health check, which platforms call every few seconds: it never blocks, and a 200 is not logged."""
        self.probes.add(view)
        return view

    def describe(self, operation: Operation) -> Callable[[View], View]:
        """Return a decorator that describes a view; the name of a model comes before the summary."""

        def add(view: View) -> View:
            self.operations[view] = operation
            return view

        return add
