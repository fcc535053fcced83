"""python -m benchmarks.watched: what a real Prometheus sees of rows that drift and of rows that are broken.

A server answers and explains rows of the table, some of which are changed for a while, one column after another. A
Prometheus with the rules of monitoring/ watches it over a window that is shorter than in use. Draws how far two columns
drift, what moved the answers, and which alerts fire.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.contenders import COLUMNS, MODEL, ROOT
from benchmarks.load import HOST
from benchmarks.servers import environ_of, free_port, stop, wait_for
from benchmarks.tables import split
from model.cli.main import main as run_command

Rows = NDArray[np.object_]
Line = list[tuple[float, float]]  # time and value

ROWS = 200  # a second
PICTURE = ROOT / "docs" / "images" / "watched.png"
ALERTS = "TabserveFeatureDrift|TabserveOutOfRange|TabserveMissingValues|TabserveConstantFeature"


def more_at_the_river(rows: Rows) -> None:
    """Have CHAS, which hardly contributes, at 1 in 45 % of the rows instead of 7 %."""
    rows[: int(0.4 * len(rows)), COLUMNS.index("CHAS")] = 1.0


def more_rooms(rows: Rows) -> None:
    """Have RM, which contributes 30 %, one higher in half of the rows."""
    rows[::2, COLUMNS.index("RM")] += 1.0


def tenfold(rows: Rows) -> None:
    """Send PTRATIO in another unit."""
    rows[:, COLUMNS.index("PTRATIO")] *= 10


def without(rows: Rows) -> None:
    """Lose LSTAT in most rows, which are refused."""
    rows[: int(0.8 * len(rows)), COLUMNS.index("LSTAT")] = None


def constant(rows: Rows) -> None:
    """Send the same TAX in all rows."""
    rows[:, COLUMNS.index("TAX")] = 300.0


class Phase(NamedTuple):
    """Rows that are changed for a while."""

    title: str
    change: Callable[[Rows], None]


PHASES = (
    Phase("CHAS drifts", more_at_the_river),
    Phase("RM drifts", more_rooms),
    Phase("TAX constant", constant),
    Phase("PTRATIO tenfold", tenfold),
    Phase("LSTAT missing", without),
)


class Seen(NamedTuple):
    """What Prometheus recorded, by name: times are seconds since the start."""

    drifts: Mapping[str, Line]
    weighted: Mapping[str, Line]
    contributions: Mapping[str, Line]
    alerts: Mapping[str, Sequence[float]]
    starts: Sequence[float]
    ends: Sequence[float]


def watch(folder: Path, *, seconds: float, window: int) -> Seen:
    """Send each phase for some seconds, with as many and a window of the table's own rows in front of it."""
    run_command(["--store", str(folder / "store"), "train", MODEL])
    table, random = split(MODEL)[0], np.random.default_rng(0)
    starts, ends = [], []
    with ExitStack() as stack:
        port = stack.enter_context(_server(folder))
        prometheus = stack.enter_context(_prometheus(folder, port, window))
        start = time.time()
        for phase in PHASES:
            _send(port, table, random, lambda rows: None, seconds + window)
            starts.append(time.time() - start)
            _send(port, table, random, phase.change, seconds)
            ends.append(time.time() - start)
        _send(port, table, random, lambda rows: None, window)
        end = time.time()

        def lines(expr: str, label: str = "feature") -> dict[str, Line]:
            found: dict[str, Line] = {}
            for series in _query(prometheus, expr, start, end):
                name = f"{series['metric'].get(label, '')}"
                found[name] = [(float(at) - start, float(value)) for at, value in series["values"]]
            return found

        alerts = {}
        for series in _query(prometheus, f'ALERTS{{alertstate="firing", alertname=~"{ALERTS}"}}', start, end):
            labels = series["metric"]
            name = f"{labels['alertname'].removeprefix('Tabserve')} {labels['feature']} {labels['severity']}"
            alerts[name] = [float(at) - start for at, _ in series["values"]]
        drifting = '{feature=~"CHAS|RM"}'
        return Seen(
            lines(f"tabserve:feature_drift:ratio{drifting}"),
            lines(f"tabserve:feature_drift_weighted:ratio{drifting}"),
            lines("tabserve:feature_contribution:ratio"),
            alerts,
            starts,
            ends,
        )


def draw(seen: Seen, path: Path) -> None:
    """Draw what was seen over time."""
    import matplotlib.pyplot as plt  # here, since it takes a second

    figure, (drift, moved, firing) = plt.subplots(
        3, 1, figsize=(12, 8), sharex=True, layout="constrained", height_ratios=(3, 2, 3)
    )
    for (name, line), color in zip(sorted(seen.weighted.items()), ("#1f5fa8", "#b3362b")):
        drift.plot(*zip(*seen.drifts[name]), color=color, linestyle=":", label=f"{name}, unweighted")
        drift.plot(*zip(*line), color=color, label=f"{name}, weighted")
    drift.axhline(1, color="black", linewidth=0.8)
    drift.set(ylabel="PSI or KS, times its threshold", ylim=(0, None))
    beside = {"loc": "upper left", "bbox_to_anchor": (1, 1), "frameon": False}
    drift.legend(**beside)
    for name in sorted(seen.contributions):
        moved.plot(*zip(*seen.contributions[name]), label=name)
    moved.set(ylabel="share of contributions", ylim=(0, None))
    moved.legend(**beside)
    order = sorted(seen.alerts, key=lambda name: -seen.alerts[name][0])
    for place, name in enumerate(order):
        color = "#b3362b" if name.endswith("critical") else "#d98c2b"
        firing.scatter(seen.alerts[name], [place] * len(seen.alerts[name]), marker="s", s=12, color=color)
    firing.set(yticks=range(len(order)), yticklabels=order, xlabel="seconds", title="alerts that fire")
    for panel in (drift, moved, firing):
        for phase, start, end in zip(PHASES, seen.starts, seen.ends):
            panel.axvspan(start, end, color="#e8e8e8", zorder=0)
            if panel is drift:
                panel.text((start + end) / 2, 1.01, phase.title, transform=panel.get_xaxis_transform(), ha="center")
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90, metadata={"Software": None})
    plt.close(figure)


def _send(
    port: int,
    table: NDArray[np.float64],
    random: np.random.Generator,
    change: Callable[[Rows], None],
    seconds: float,
) -> None:
    """Send rows of the table once a second; those that lack a value have a request of their own, and are refused."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        began = time.monotonic()
        rows = random.choice(table, ROWS).astype(object)
        change(rows)
        lacking = np.array([None in row for row in rows.tolist()])
        for part in (rows[~lacking], rows[lacking]):
            if len(part):
                body = json.dumps({"columns": list(COLUMNS), "data": part.tolist()}).encode()
                request = urllib.request.Request(
                    f"http://{HOST}:{port}/predict?explain=true", body, {"Content-Type": "application/json"}
                )
                try:
                    urllib.request.urlopen(request, timeout=30).close()
                except urllib.error.HTTPError as error:
                    if error.code != 422:
                        raise
        time.sleep(max(0.0, 1 - (time.monotonic() - began)))


@contextmanager
def _server(folder: Path) -> Iterator[int]:
    port = free_port()
    environ = {
        **environ_of(Path(sys.executable).parent, home=str(folder), port=port),
        "TABSERVE_STORE": str(folder / "store"),
        "TABSERVE_LOG_REQUESTS": "false",
        "WEB_CONCURRENCY": "2",
    }
    with (folder / "log").open("wb") as log:
        process = psutil.Popen(
            [Path(sys.executable).parent / "gunicorn"], cwd=ROOT, env=environ, stdout=log, stderr=log
        )
    try:
        wait_for(lambda: urllib.request.urlopen(f"http://{HOST}:{port}/readyz", timeout=5).close(), process)
        yield port
    finally:
        stop(process)


@contextmanager
def _prometheus(folder: Path, of: int, window: int) -> Iterator[int]:
    port = free_port()
    options = ["--port", str(port), "--window", f"{window}s", "--hold", "2s", "--interval", "1s"]
    command = [sys.executable, "-m", "monitoring", "run", *options, "--url", f"http://{HOST}:{of}"]
    process = psutil.Popen([*command, "--folder", str(folder / "prometheus")], cwd=ROOT, env=dict(os.environ))
    try:
        wait_for(lambda: urllib.request.urlopen(f"http://{HOST}:{port}/-/ready", timeout=5).close(), process)
        yield port
    finally:
        stop(process)


def _query(port: int, expr: str, start: float, end: float) -> list[dict[str, Any]]:
    parameters = urllib.parse.urlencode({"query": expr, "start": start, "end": end, "step": 1})
    with urllib.request.urlopen(f"http://{HOST}:{port}/api/v1/query_range?{parameters}", timeout=30) as reply:
        found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch all phases, draw them, and print when which alert fired."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.watched", description=__doc__)
    parser.add_argument("--seconds", type=float, default=40, help="of each phase (default: %(default)s)")
    parser.add_argument("--window", type=int, default=20, help="seconds that rules look back (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where it is drawn (default: %(default)s)")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="tabserve-watched-") as folder:
        seen = watch(Path(folder), seconds=options.seconds, window=options.window)
    draw(seen, options.picture)
    for phase, start, end in zip(PHASES, seen.starts, seen.ends):
        fired = [name for name, times in seen.alerts.items() if any(start <= at <= end for at in times)]
        print(f"{phase.title:<16} {', '.join(sorted(fired)) or 'no alert'}")
    for kind, lines in (("unweighted", seen.drifts), ("weighted", seen.weighted)):
        print(kind, {name: round(max(value for _, value in line), 2) for name, line in lines.items()})
    return 0


if __name__ == "__main__":
    sys.exit(main())
