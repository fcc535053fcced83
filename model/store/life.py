"""The life of a version: promoted, rolled back to, tagged, pruned. Each is one move in the model's history.

A version is verified as a server verifies it before it becomes the champion. Who decides what is promoted is no matter
here.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from model.errors import NotInStoreError
from model.store.artifact import Artifact
from model.store.history import Move
from model.store.signed import Signed
from model.store.versions import CANDIDATE, CHAMPION, Store, listed_aliases

PROMOTE, ROLLBACK, TAG, UNTAG, PRUNE = "promote", "rollback", "tag", "untag", "prune"


def promote(store: Store, model: Artifact, *, after: Move | None, why: str = "", by: str = "") -> Move:
    """Make a version, which was loaded and so verified, the champion of its model.

    `after` is the last move from before it was judged. Raises `MovedError` if there is a later one. If it is the
    champion already, no move is made.
    """
    return store.move(model.name, PROMOTE, {CHAMPION: model.version}, after=after, why=why, by=by)


def rollback(store: Store, name: str, *, signed: Signed | None = None, why: str = "", by: str = "") -> Move:
    """Verify the champion before the current one, with `signed` its signature, too, and make it the champion again.

    Once more, it goes back further. Raises `NotInStoreError` if there is none, and `ArtifactError` if it, or the
    history, is damaged.
    """
    moves = store.history(name)
    version = champion_before(moves, store.versions(name))
    if version is None:
        store.find(name)  # an unknown model has its own message
        raise NotInStoreError(
            f"the model {name!r} has no earlier champion to go back to; name a version: python -m model promote "
            f"{name}@VERSION"
        )
    model = store.load(f"{name}@{version}", signed=signed)
    return store.move(name, ROLLBACK, {CHAMPION: model.version}, after=moves[-1], why=why, by=by)


def champion_before(moves: Sequence[Move], versions: Collection[int]) -> int | None:
    """Return the version among `versions` that was the champion before the current one, None if there is none.

    A rollback undoes the moves since that champion, so they do not count.
    """
    champions: list[int] = []
    for move in moves:
        for new in (each.new for each in move.changes if each.alias == CHAMPION and each.new):
            while move.action == ROLLBACK and champions and champions[-1] != new:
                champions.pop()
            if champions[-1:] != [new]:
                champions.append(new)
    return next((version for version in champions[-2::-1] if version in versions), None)


def tag(store: Store, reference: str, alias: str, *, why: str = "", by: str = "") -> Move:
    """Point an alias to the version that `reference` names. Raises `ValueError` for the champion and the candidate."""
    check_own(alias)
    name = reference.partition("@")[0]
    after, version = store.last_move(name), store.version(reference)
    return store.move(name, TAG, {alias: version}, after=after, why=why, by=by)


def untag(store: Store, name: str, alias: str, *, why: str = "", by: str = "") -> Move:
    """Take an alias away. Raises `NotInStoreError` if there is none, and `ValueError` for the store's own ones."""
    check_own(alias)
    store.versions(name)  # refuses what is no name
    after = store.last_move(name)
    if after is None or alias not in after.aliases:
        aliases = listed_aliases(store.aliases(name))
        raise NotInStoreError(f"the model {name!r} has no alias {alias!r}; its aliases are {aliases}")
    return store.move(name, UNTAG, {alias: None}, after=after, why=why, by=by)


def prunable(store: Store, name: str, *, keep: int) -> tuple[int, ...]:
    """Return the versions beyond the `keep` newest that have no alias and are not what a rollback goes back to."""
    versions, moves = store.versions(name), store.history(name)
    kept = {*versions[len(versions) - keep :]} if keep < len(versions) else {*versions}
    kept |= {*store.aliases(name).values()}
    before = champion_before(moves, versions)
    return tuple(version for version in versions if version not in kept and version != before)


def prune(store: Store, name: str, *, keep: int, why: str = "", by: str = "") -> tuple[int, ...]:
    """Take away the versions that `prunable` names, and return them."""
    after = store.last_move(name)
    gone = prunable(store, name, keep=keep)
    if gone:
        store.move(name, PRUNE, {}, after=after, removed=gone, why=why, by=by)
    return gone


def check_own(alias: str) -> None:
    """Raise `ValueError` for the champion and the candidate, which only the store itself points to a version."""
    if alias in (CHAMPION, CANDIDATE):
        how = "promote and rollback move it" if alias == CHAMPION else "it is the version that was added last"
        raise ValueError(f"{alias} is an alias of the store's own: {how}; choose another one")
