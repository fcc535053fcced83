"""Versions beside the one that answers a model's requests, and which of them a request is for.

A canary or an A/B test takes a share of the requests. Which ones is decided by a keyed hash of a header or of the
request id, so that every worker and pod decides alike, and decides the same again after a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from model import Artifact

_HASH_BYTES = 8


class Mode(StrEnum):
    """What a challenger is for; the values are the roles of `TABSERVE_MODELS`."""

    SHADOW = "shadow"  # answers what the champion has answered, and nobody gets its answers
    CANARY = "canary"  # answers a share of the requests
    AB = "ab"  # the same, in an experiment of its own


@dataclass(frozen=True, slots=True)
class Challenger:
    """A version that is tried beside the one that answers, and its share of the requests, from 0 to 1."""

    model: Artifact
    mode: Mode
    share: float


class Choice:
    """Which challenger answers a request for a model, if any.

    Canaries come first. The hash that places a request among them has the model's name as key: a request that is for a
    canary of 10 % is for it at 20 %, too, whatever version it is. A/B tests share the rest, by a hash with the versions
    in the key, so that two experiments divide the same clients differently.
    """

    def __init__(self, champion: Artifact, challengers: Sequence[Challenger]) -> None:
        canaries = [each for each in challengers if each.mode is Mode.CANARY]
        tests = [each for each in challengers if each.mode is Mode.AB]
        versions = sorted({each.model.version for each in tests})
        rest = 1 - sum(each.share for each in canaries)
        salt = f"ab {champion.name} {champion.version} {versions}"
        self._draws = [
            draw
            for draw in (_Draw(f"canary {champion.name}", canaries, 1.0), _Draw(salt, tests, rest))
            if draw.challengers
        ]

    def pick(self, key: str) -> Challenger | None:
        """Return the challenger for the key of a request, which every request of a client may share."""
        content = key.encode("utf-8", "surrogateescape")
        for draw in self._draws:
            if found := draw.pick(content):
                return found
        return None


class _Draw:
    """Places keys evenly in the space of a keyed hash, whose first parts belong to the challengers."""

    def __init__(self, salt: str, challengers: Sequence[Challenger], of: float) -> None:
        """`of` is what there is of the requests: the challengers' shares are of all of them."""
        key = hashlib.blake2b(salt.encode()).digest()
        self._hash = hashlib.blake2b(key=key, digest_size=_HASH_BYTES)
        self.challengers = [each for each in challengers if each.share > 0]
        ends, total = [], 0.0
        for each in self.challengers:
            total += each.share
            ends.append(round(min(total / of, 1.0) * 256**_HASH_BYTES))
        self._ends = list(zip(ends, self.challengers))

    def pick(self, content: bytes) -> Challenger | None:
        keyed = self._hash.copy()
        keyed.update(content)
        place = int.from_bytes(keyed.digest())
        for end, challenger in self._ends:
            if place < end:
                return challenger
        return None


def choices(models: Mapping[str, Artifact], challengers: Mapping[str, Sequence[Challenger]]) -> dict[str, Choice]:
    """Return the choice for each model that has challengers with a share of its requests."""
    found = {}
    for name, each in challengers.items():
        taking = [one for one in each if one.mode is not Mode.SHADOW and one.share > 0]
        if taking and name in models:
            found[name] = Choice(models[name], taking)
    return found
