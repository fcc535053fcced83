"""Owns reloads without a signal: a moved alias is served by every worker, and what does not verify is refused."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests

from model import CHAMPION, Store
from model.store.artifact import read_draft
from tests.support.metrics import GOLDEN, by_label, scrape, value
from tests.support.server import Server, serve, wait_until
from tests.support.service import HOUSE, ROOT, rewrite

NAME, STONES = "boston-housing", "precious"
POLLED = {"WEB_CONCURRENCY": "2", "TABSERVE_RELOAD_SECONDS": "1"}


@pytest.fixture
def two(store: Path, worse_store: Path, tmp_path: Path) -> Store:
    """A store in which version 1 is the champion and 2 is worse."""
    both = Store(Path(shutil.copytree(store, tmp_path / "two")))
    both.add(NAME, read_draft(worse_store / NAME / "1"))
    return both


def move(shelf: Store, alias: str, version: int) -> None:
    """Point an alias to a version."""
    shelf.move(NAME, "tag", {alias: version}, after=shelf.last_move(NAME))


def answers(shelf: Store) -> dict[str, float]:
    """Return the answer of each version to `HOUSE`."""
    row = np.array([list(HOUSE.values())])
    return {str(version): float(shelf.load(f"{NAME}@{version}").predict(row)[0]) for version in shelf.versions(NAME)}


def version_of(server: Server) -> str:
    """Return the version that answers one request."""
    reply = requests.post(f"{server.url}/predict", json=HOUSE, timeout=10)
    assert reply.status_code == 200
    return reply.headers["X-Model-Version"]


def versions(server: Server) -> set[str]:
    """Return the versions that answer requests on separate connections, of all workers."""
    return {version_of(server) for _ in range(6)}


def refused(server: Server) -> float:
    """Return the gauge of a refused reload."""
    return value(scrape(server), "tabserve_reload_refused")


def messages(server: Server, start: str) -> list[str]:
    """Return the messages of the server's log that start so."""
    lines = [json.loads(line)["message"] for line in server.stderr.read_text().splitlines()]
    return [line for line in lines if line.startswith(start)]


@contextmanager
def asking(server: Server, n_clients: int = 3) -> Iterator[Sequence[tuple[int, str, float]]]:
    """Ask for predictions while the block runs; yield the list of status, version and answer of each request."""
    found: list[tuple[int, str, float]] = []
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                reply = session.post(f"{server.url}/predict", json=HOUSE, timeout=10)
                answer = reply.json()["prediction"][0] if reply.status_code == 200 else 0.0
                found.append((reply.status_code, reply.headers.get("X-Model-Version", ""), answer))

    with ThreadPoolExecutor(n_clients) as pool:
        clients = [pool.submit(ask) for _ in range(n_clients)]
        try:
            yield found
        finally:
            stop.set()
    for client in clients:
        client.result()  # raises what a request raised


def test_moved_alias_is_served(two: Store, tmp_path: Path) -> None:
    """A promoted version is soon served by all workers without a signal, and again the one before. No request fails,
    and each answer is that of the version in its header, bit for bit.
    """
    expected = answers(two)
    with serve(two.root, tmp_path, **POLLED) as server, asking(server) as found:
        for version in (2, 1, 2):
            move(two, CHAMPION, version)
            wait_until(lambda version=version: versions(server) == {str(version)})  # type: ignore[misc]

    assert {status for status, _, _ in found} == {200}
    assert {(version, answer) for _, version, answer in found} == set(expected.items())


def test_moves_that_change_nothing(two: Store, tmp_path: Path) -> None:
    """The move of an alias that is not served, or a new version, reloads nothing: the next move that counts does."""
    with serve(two.root, tmp_path, TABSERVE_MODELS=f"{NAME},{NAME}@1", **POLLED) as server:
        two.add(NAME, read_draft(two.root / NAME / "1"))
        for version in (2, 1, 3):  # for longer than it takes to notice one
            move(two, "challenger", version)
            time.sleep(1)
        move(two, CHAMPION, 2)
        wait_until(lambda: versions(server) == {"2"})

    assert len(messages(server, "the store names other versions")) == 1


def test_challenger_of_a_moved_alias(two: Store, tmp_path: Path) -> None:
    """A canary follows its alias; promoted to champion, it answers everything, and its role does nothing."""
    move(two, "challenger", 2)
    models = f"{NAME},{NAME}@challenger:canary=100%"
    with serve(two.root, tmp_path, TABSERVE_MODELS=models, **POLLED) as server, asking(server) as found:
        assert versions(server) == {"2"}
        move(two, "challenger", 1)
        wait_until(lambda: versions(server) == {"1"})
        move(two, CHAMPION, 2)
        move(two, "challenger", 2)
        wait_until(lambda: versions(server) == {"2"})

    assert {status for status, _, _ in found} == {200}


def test_damaged_challenger_behind_a_url(two: Store, tmp_path: Path) -> None:
    """A challenger whose files behind a URL are damaged is refused, with a log line and the metric, and promotions are
    served all the same. It is loaded when it is repaired, and until then nothing is loaded again in vain.
    """
    settings = {"TABSERVE_MODELS": f"{NAME}@challenger:shadow,{NAME}", "TABSERVE_STORE_CACHE": str(tmp_path / "cache")}
    two.add(NAME, read_draft(two.root / NAME / "1"))
    move(two, "challenger", 1)
    trees = two.root / NAME / "3" / "trees.npz"
    whole = trees.read_bytes()
    trees.write_bytes(bytes(len(whole)))
    with serve(f"local://{os.path.relpath(two.root, ROOT)}", tmp_path, **settings, **POLLED) as server:
        assert (versions(server), refused(server)) == ({"1"}, 0)
        two.move(NAME, "tag", {"challenger": 3, CHAMPION: 2}, after=two.last_move(NAME))
        wait_until(lambda: versions(server) == {"2"} and refused(server) == 1)
        assert any("3/trees.npz: was changed" in line for line in messages(server, "not everything could be read"))
        time.sleep(4)  # for longer than it takes to look again
        assert len(messages(server, "the store names other versions")) == 1
        assert not [line for line in messages(server, "") if "loading the models again" in line]

        trees.write_bytes(whole)
        wait_until(lambda: refused(server) == 0)
        wait_until(lambda: ("3",) in by_label(scrape(server), "tabserve_model_share", "version"))


def test_refused_version(two: Store, tmp_path: Path) -> None:
    """A version that does not verify is refused once, with a log line and the metric, and the old one answers. It is
    loaded when it is repaired. If the alias goes back first, nothing is refused any more.
    """
    trees = two.root / NAME / "2" / "trees.npz"
    whole = trees.read_bytes()
    with serve(two.root, tmp_path, **POLLED) as server, asking(server) as found:
        assert refused(server) == 0
        trees.write_bytes(b"damaged")
        move(two, CHAMPION, 2)
        wait_until(lambda: refused(server) == 1)
        assert versions(server) == {"1"}
        assert requests.get(f"{server.url}/readyz", timeout=10).status_code == 200

        move(two, CHAMPION, 1)
        wait_until(lambda: refused(server) == 0)
        move(two, CHAMPION, 2)
        wait_until(lambda: refused(server) == 1)
        trees.write_bytes(whole)
        wait_until(lambda: versions(server) == {"2"})
        assert refused(server) == 0

    assert {status for status, _, _ in found} == {200}
    lines = messages(server, "the models are not loaded again")
    assert all(str(trees) in line for line in lines)
    assert 2 <= len(lines) <= 3  # once for each refused state of the store


def test_refused_model_beside_another(two: Store, classifiers_store: Path, tmp_path: Path) -> None:
    """While a version of one model is refused, that model goes on with its old one, and moves of another are served."""
    shutil.copytree(classifiers_store / STONES, two.root / STONES)
    damaged = two.add(STONES, read_draft(two.root / STONES / "1")) / "golden.json"
    damaged.write_bytes(b"damaged")
    with serve(two.root, tmp_path, **POLLED) as server:

        def served() -> dict[str, int]:
            reply = requests.get(f"{server.url}/readyz", timeout=10)
            return dict(reply.json()["models"]) if reply.status_code == 200 else {}

        two.move(STONES, "tag", {CHAMPION: 2}, after=two.last_move(STONES))
        wait_until(lambda: refused(server) == 1)
        assert served() == {NAME: 1, STONES: 1}
        for version in (2, 1):
            move(two, CHAMPION, version)
            wait_until(lambda version=version: served() == {NAME: version, STONES: 1})  # type: ignore[misc]
        assert refused(server) == 1
        two.move(STONES, "tag", {CHAMPION: 1}, after=two.last_move(STONES))
        wait_until(lambda: refused(server) == 0)
        assert served() == {NAME: 1, STONES: 1}


def test_refused_golden_rows(two: Store, tmp_path: Path) -> None:
    """A version that does not predict as in training is in the metric of golden rows until the alias goes back."""
    golden = json.loads((two.root / NAME / "2" / "golden.json").read_bytes())
    golden["y"][0] += 1
    rewrite(two.root / NAME / "2", lambda manifest: None, {"golden.json": json.dumps(golden).encode()})
    with serve(two.root, tmp_path, **POLLED) as server:
        move(two, CHAMPION, 2)
        wait_until(lambda: by_label(scrape(server), GOLDEN, "version") == {("1",): 1, ("2",): 0})
        assert refused(server) == 1
        move(two, CHAMPION, 1)
        wait_until(lambda: by_label(scrape(server), GOLDEN, "version") == {("1",): 1})
        wait_until(lambda: refused(server) == 0)


def test_store_that_is_gone(two: Store, tmp_path: Path) -> None:
    """Without its store a server serves on, and says so once; when the store is back, a move is served again."""
    away = two.root.with_name("away")
    with serve(two.root, tmp_path, **POLLED) as server:
        two.root.rename(away)
        wait_until(lambda: refused(server) == 1)
        assert versions(server) == {"1"}
        away.rename(two.root)
        wait_until(lambda: refused(server) == 0)
        move(two, CHAMPION, 2)
        wait_until(lambda: versions(server) == {"2"})

    assert len(messages(server, "the models are not loaded again")) <= 2
