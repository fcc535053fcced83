"""python -m benchmarks.life: two workers under load while the versions of a model change about every two seconds.

Versions are promoted, rolled back, damaged after they were promoted, removed while they are served, and pruned. wrk
counts failed requests; clients of our own compare every bit of every answer with what its version answers, and ask how
long ago that version was the champion. Prints what happened and returns 1 if a request failed, or if an answer was
wrong, of a version that never verified, or of one that had been replaced for longer than `BOUND_SECONDS`.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import math
import multiprocessing
import os
import shutil
import signal
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.contenders import MODEL, ROOT
from benchmarks.load import HOST, Load, load
from benchmarks.servers import environ_of, free_port, stop, wait_for
from model import Store
from model.store import life
from model.store.artifact import Draft
from model.store.versions import CHAMPION
from model.train import recipe

POLL_SECONDS = 1
BOUND_SECONDS = 15.0  # to the last answer of a version that was replaced; the reload shares two cores with the load
PERIOD_SECONDS = 2.0
TREES = (5, 10, 20)  # of versions that answer differently
CLIENTS, THREADS, CONNECTIONS = 2, 4, 16  # processes of ours, threads in each; connections of wrk
ROWS = 64


class Answer(NamedTuple):
    """One reply: when the request began and ended (`time.monotonic`), the version, the row and the prediction."""

    began: float
    ended: float
    version: int
    row: int
    prediction: float


@dataclass
class Moves:
    """What was done to the store: each version's kind of trees, and when which good version became the champion."""

    kinds: dict[int, int] = field(default_factory=dict)
    champions: list[tuple[float, int]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def replaced_for(self, answer: Answer) -> float:
        """Return how long ago, when a request began, its version was the champion; infinity for never."""
        ends = [*(at for at, _ in self.champions[1:]), math.inf]
        of_version = [
            (start, end)
            for (start, version), end in zip(self.champions, ends)
            if version == answer.version and start <= answer.ended
        ]
        return max(0.0, answer.began - max(end for _, end in of_version)) if of_version else math.inf


@dataclass(frozen=True, slots=True)
class Life:
    """What was done to the store, and what the clients saw; `wrk` is None where it is not installed."""

    moves: Moves
    answers: Sequence[Answer]
    failures: Sequence[str]
    wrk: Load | None
    expected: Sequence[NDArray[np.float64]]

    @property
    def n_failed(self) -> int:
        """Return how many requests failed, of both kinds of clients."""
        return len(self.failures) + (self.wrk.refused + self.wrk.broken + self.wrk.starved if self.wrk else 0)

    @property
    def n_wrong(self) -> int:
        """Return how many answers differ in any bit from what their version answers."""
        kinds = self.moves.kinds
        return sum(answer.prediction != self.expected[kinds[answer.version]][answer.row] for answer in self.answers)

    @property
    def replaced_for(self) -> list[float]:
        """Return for each answer how long its version had been replaced; infinity for one that never was champion."""
        return [self.moves.replaced_for(answer) for answer in self.answers]

    @property
    def pickups(self) -> list[float]:
        """Return the seconds from a move to the first answer of its version, if that came before the next move."""
        found = []
        for (at, version), (until, _) in itertools.pairwise([*self.moves.champions, (math.inf, 0)]):
            ended = [
                answer.ended for answer in self.answers if answer.version == version and at <= answer.ended <= until
            ]
            found += [min(ended) - at] if ended else []
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run clients and changes side by side, and print what the clients saw."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.life", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="default: %(default)s")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="b", ignore_cleanup_errors=True) as folder:
        life = run([_draft(trees) for trees in TREES], Path(folder), seconds=options.seconds)
    return _report(life, options.seconds)


def run(drafts: Sequence[Draft], folder: Path, *, seconds: int) -> Life:
    """Serve versions that are made of the drafts in turn, and return what happened in so many seconds."""
    store, moves, loads = Store(folder / "store"), Moves(), []
    _add(store, moves, drafts, 0)
    model = store.load(MODEL)
    rows = model.golden_rows[:ROWS]
    expected = [_predictions(draft, rows, folder) for draft in drafts]
    bodies = [json.dumps(dict(zip(model.schema.names, row))).encode() for row in rows.tolist()]
    with _server(store, folder) as port, multiprocessing.get_context("fork").Pool(CLIENTS) as pool:

        def press() -> None:
            loads.append(load(port, "/predict", bodies[0], connections=CONNECTIONS, seconds=seconds))

        asked = pool.map_async(_ask, [(port, bodies, seconds)] * CLIENTS, chunksize=1)
        wrk = threading.Thread(target=press if shutil.which("wrk") else lambda: None)
        wrk.start()
        _change(store, moves, drafts, seconds)
        found = asked.get()
        wrk.join()
    return Life(
        moves=moves,
        answers=[Answer(*answer) for part, _ in found for answer in part],
        failures=[failure for _, part in found for failure in part],
        wrk=loads[0] if loads else None,
        expected=expected,
    )


def _draft(trees: int) -> Draft:
    """Return a version of the example with few trees."""
    plan = recipe.Plan(name=MODEL, learner="gbm", options={"n_estimators": trees})
    return recipe.draft(recipe.train(recipe.load(plan)))


def _predictions(draft: Draft, rows: NDArray[np.float64], folder: Path) -> NDArray[np.float64]:
    store = Store(folder / "expected")
    return store.load(f"{MODEL}@{store.add(MODEL, draft).name}").predict(rows)


def _add(store: Store, moves: Moves, drafts: Sequence[Draft], kind: int) -> int:
    """Add a version, and note it as the champion if it is the first."""
    version = int(store.add(MODEL, drafts[kind]).name)
    moves.kinds[version] = kind
    if version == 1:
        moves.champions.append((time.monotonic(), version))
    return version


def _change(store: Store, moves: Moves, drafts: Sequence[Draft], seconds: float) -> None:
    """Change the store every two seconds, or as soon as the change before is done, until the time is over."""
    kinds = itertools.cycle([*range(1, len(drafts)), 0])

    def point(version: int) -> None:
        store.move(MODEL, life.PROMOTE, {CHAMPION: version}, after=store.last_move(MODEL))

    def promote() -> None:
        version = _add(store, moves, drafts, next(kinds))
        moves.champions.append((time.monotonic(), version))  # before the move: a server may be as quick
        life.promote(store, store.load(f"{MODEL}@{version}"), after=store.last_move(MODEL))

    def rollback() -> None:
        version = life.champion_before(store.history(MODEL), store.versions(MODEL))
        assert version
        moves.champions.append((time.monotonic(), version))
        life.rollback(store, MODEL)

    def damage() -> None:
        version = _add(store, moves, drafts, next(kinds))
        file = store.find(f"{MODEL}@{version}") / "trees.npz"
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
        point(version)

    def remove() -> None:
        shutil.rmtree(store.find(MODEL))

    def prune() -> None:
        life.prune(store, MODEL, keep=3)

    steps: list[Callable[[], None]] = [promote, promote, rollback, damage, promote, remove, promote, prune]
    started = time.monotonic()
    for number, step in enumerate(itertools.cycle(steps), start=1):
        if (pause := started + number * PERIOD_SECONDS - time.monotonic()) > 0:
            time.sleep(pause)
        if time.monotonic() > started + seconds - PERIOD_SECONDS:
            return
        step()
        moves.counts[step.__name__] += 1


@contextmanager
def _server(store: Store, folder: Path) -> Iterator[int]:
    """Serve a store with two workers until the block ends; yield the port."""
    port = free_port()
    environ = {
        **environ_of(Path(sys.executable).parent, home=str(folder), port=port),
        "TABSERVE_STORE": str(store.root),
        "TABSERVE_PREDICTION_LOG": "",
        "TABSERVE_LOG_REQUESTS": "false",
        "TABSERVE_RELOAD_SECONDS": str(POLL_SECONDS),
        "WEB_CONCURRENCY": "2",
    }
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(
            [Path(sys.executable).parent / "gunicorn"], cwd=ROOT, env=environ, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: _get(port, "/readyz"), process)
        yield port
    finally:
        stop(process)


def _get(port: int, path: str) -> None:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", path)
        if connection.getresponse().status != 200:
            raise http.client.HTTPException("not ready")
    finally:
        connection.close()


def _ask(given: tuple[int, Sequence[bytes], float]) -> tuple[list[tuple[float, float, int, int, float]], list[str]]:
    """Ask for one row after the other on a few connections until the time is over; return answers and failures."""
    port, bodies, seconds = given
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers: list[tuple[float, float, int, int, float]] = []
    failures: list[str] = []
    end = time.monotonic() + seconds

    def ask(first: int) -> None:
        connection = http.client.HTTPConnection(HOST, port, timeout=30)
        for number in itertools.count(first):
            row, began = number % len(bodies), time.monotonic()
            if began > end:
                connection.close()
                return
            try:
                connection.request("POST", "/predict", bodies[row], {"Content-Type": "application/json"})
                reply = connection.getresponse()
                content = reply.read()
                if reply.status != 200:
                    failures.append(f"{reply.status} {content[:100]!r}")
                    continue
                found = json.loads(content)
                answers.append((began, time.monotonic(), found["version"], row, found["prediction"][0]))
            except (OSError, http.client.HTTPException) as error:
                failures.append(f"{type(error).__name__}: {error}")
                connection.close()

    threads = [threading.Thread(target=ask, args=(7 * number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers, failures


def _report(life: Life, seconds: int) -> int:
    """Print what happened; return 1 if a request failed, or an answer was wrong or of a version that was not active."""
    counts, replaced, firsts = life.moves.counts, life.replaced_for, life.pickups
    n_never = sum(map(math.isinf, replaced))
    last = max((each for each in replaced if not math.isinf(each)), default=0.0)
    done = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"{seconds} s, {os.cpu_count()} cores, 2 workers; {sum(counts.values())} changes of the store: {done}")
    if life.wrk:
        print(
            f"wrk: {life.wrk.per_second * seconds:,.0f} requests on {CONNECTIONS} connections, p99 {life.wrk.p99_ms} ms"
        )
    n_versions = len({answer.version for answer in life.answers})
    print(
        f"compared: {len(life.answers):,} answers of {n_versions} versions; {life.n_wrong} differ in any bit, and "
        f"{n_never} are of a version that was never active\n"
        f"{life.n_failed} requests failed\n"
        f"a new champion answered after {statistics.median(firsts):.1f} s in the median, {max(firsts):.1f} s at most; "
        f"an old one {last:.1f} s after it was replaced at most"
    )
    for failure, count in Counter(life.failures).most_common(5):
        print(f"  {count} times {failure}")
    return int(bool(life.n_failed or life.n_wrong or n_never or last > BOUND_SECONDS))


if __name__ == "__main__":
    sys.exit(main())
