"""Who sent a request: the name of a key or token, and what it may do."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

ADMIN, FEEDBACK = "admin", "feedback"
_PREDICT, _EVERY_MODEL = "predict:", "predict:*"


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request.

    `label` stands for it in metrics, where there must be few different ones. `rate` is the most requests a second, 0
    for no limit, `burst` how many may come at once, and `bucket` where they are counted. `expires` is the time since
    the epoch after which its key is not accepted.
    """

    name: str
    label: str
    scopes: Collection[str]
    expires: float = math.inf
    rate: float = 0
    burst: int = 1
    bucket: int = 0
    _is_admin: bool = field(init=False, repr=False)
    _has_every_model: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Find what every check needs."""
        object.__setattr__(self, "_is_admin", ADMIN in self.scopes)
        object.__setattr__(self, "_has_every_model", _EVERY_MODEL in self.scopes)

    def may(self, scope: str) -> bool:
        """Return whether the caller has a scope; every caller has the empty one."""
        return (
            not scope
            or scope in self.scopes
            or self._is_admin
            or (self._has_every_model and scope.startswith(_PREDICT))
        )


def predict(model: str) -> str:
    """Return the scope for the predictions of a model, and for all that describes it."""
    return _PREDICT + model
