"""The results of a benchmark run: as JSON, as tables and as a plot."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.figures import Figures
from benchmarks.load import Load

CONNECTIONS = (1, 8, 32, 128)
N_ROWS = (1, 100)
ALONE, SLOW_CLIENTS, LARGE_REQUESTS = "alone", "slow clients", "large requests"
LARGE_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """A step of load on one contender, and the other load at the same time."""

    rows: int
    connections: int
    load: Load
    beside: str = ALONE


@dataclass(slots=True)
class Found:
    """The results of one contender; every list has one or more entries per round."""

    title: str
    kind: str
    version: str
    problem: str = ""  # why it was not measured completely
    installed_mib: float | None = None
    differences: dict[int, float] = field(default_factory=dict)  # by rows per request: the largest
    start_seconds: list[float] = field(default_factory=list)
    pss_mib: list[float] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def median(self, figure: Callable[[Load], float | None], rows: int, connections: int, beside: str = ALONE) -> float:
        """Return a figure's median over matching steps: infinite if most had no reply, NaN without steps."""
        key = (rows, connections, beside)
        values = [figure(step.load) for step in self.steps if (step.rows, step.connections, step.beside) == key]
        return statistics.median(math.inf if value is None else value for value in values) if values else math.nan

    @property
    def wrong(self) -> bool:
        """Return whether a prediction differed by more than rounding."""
        return any(difference > 1e-6 for difference in self.differences.values())


@dataclass(frozen=True, slots=True)
class Results(Figures):
    """One run: its machine and settings, and the results of each contender."""

    machine: dict[str, str]
    seconds: int
    rounds: int
    contenders: dict[str, Found]

    @classmethod
    def read(cls, path: Path) -> Results:
        """Read what `write` wrote."""
        raw = json.loads(path.read_text())
        contenders = {name: _read_found(found) for name, found in raw.pop("contenders").items()}
        return cls(contenders=contenders, **raw)


def _read_found(raw: dict[str, Any]) -> Found:
    steps = [Step(**{**step, "load": Load(**step["load"])}) for step in raw.pop("steps")]
    differences = {int(rows): difference for rows, difference in raw.pop("differences").items()}
    return Found(steps=steps, differences=differences, **raw)


def per_second(load: Load) -> float:
    """Return successful replies per second."""
    return load.per_second


def p99(load: Load) -> float | None:
    """Return the 99th percentile in milliseconds."""
    return load.p99_ms


def render(results: Results) -> str:
    """Return the run as Markdown: measurements, comparison, and the effect of slow and large clients."""
    machine = "; ".join(f"{name} {value}" for name, value in results.machine.items())
    how = (
        f"Medians of {results.rounds} rounds, in which the contenders take turns, of {results.seconds} s a step; "
        "wrk with one thread on the same machine. Times are in ms and include refusals; ∞ is no reply in most rounds. "
        "Starved are connections that waited in vain, at least a quarter of them: the times do not know of them."
    )
    parts = [machine, how, _table(results), _comparison(results), _disturbances(results)]
    return "\n\n".join(filter(None, parts)) + "\n"


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def number(value: float, digits: int = 0) -> str:
    """Return a figure for a table; nothing for NaN, which is no figure."""
    return "" if math.isnan(value) else "∞" if math.isinf(value) else f"{value:,.{digits}f}"


def _table(results: Results) -> str:
    rates = [f"requests/s, 1 row, {connections} conn." for connections in CONNECTIONS]
    rates += ["requests/s, 100 rows, 32 conn."]
    times = ["p99, 1 row, 32 conn.", "p99, 1 row, 128 conn."]
    rest = ["memory (PSS), MiB", "start to first answer, s", "installed, MiB", "answers", "errors"]
    rows = []
    for found in results.contenders.values():
        title = f"{found.title} {found.version}".strip()
        if not found.steps:
            rows.append([title, found.problem, *[""] * (len(rates + times + rest) - 1)])
            continue
        rows.append(
            [
                title,
                *[number(found.median(per_second, 1, connections)) for connections in CONNECTIONS],
                number(found.median(per_second, 100, 32)),
                number(found.median(p99, 1, 32), 1),
                number(found.median(p99, 1, 128), 1),
                number(statistics.median(found.pss_mib)) if found.pss_mib else "",
                number(statistics.median(found.start_seconds), 2),
                number(found.installed_mib or 0),
                _answers(found),
                _errors(found),
            ]
        )
    return markdown(["contender", *rates, *times, *rest], rows)


def _answers(found: Found) -> str:
    if not found.differences:
        return "a constant"
    largest = max(found.differences.values())
    return f"wrong, by up to {largest:.3g}" if found.wrong else f"up to {largest:.1g} off" if largest else "same bits"


def _errors(found: Found) -> str:
    loads = [step.load for step in found.steps if step.beside == ALONE]
    refused, broken = sum(load.refused for load in loads), sum(load.broken for load in loads)
    counted = f"{refused:,} refused, {broken:,} broken" if refused or broken else "none"
    return "; ".join(filter(None, [counted, found.problem]))


@dataclass(frozen=True, slots=True)
class _Measure:
    """One line of the comparison."""

    label: str
    of: Callable[[Found], float]
    more_is_better: bool = False
    digits: int = 1

    def ahead(self, one: Found, other: Found) -> bool:
        """Return whether one is better than the other."""
        return self.of(one) > self.of(other) if self.more_is_better else self.of(one) < self.of(other)


def _rate(rows: int, connections: int) -> _Measure:
    label = f"requests/s, {rows} row{'s' * (rows > 1)}, {connections} conn."
    return _Measure(label, lambda found: found.median(per_second, rows, connections), more_is_better=True, digits=0)


def _p99(rows: int, connections: int) -> _Measure:
    label = f"p99 ms, {rows} row{'s' * (rows > 1)}, {connections} conn."
    return _Measure(label, lambda found: found.median(p99, rows, connections))


MEASURES = [
    *[_rate(rows, connections) for rows in N_ROWS for connections in CONNECTIONS],
    *[_p99(rows, connections) for rows in N_ROWS for connections in CONNECTIONS],
    _Measure("memory (PSS), MiB", lambda found: statistics.median(found.pss_mib or [math.nan]), digits=0),
    _Measure("start, s", lambda found: statistics.median(found.start_seconds), digits=2),
    _Measure("installed, MiB", lambda found: found.installed_mib or math.nan, digits=0),
]


def _comparison(results: Results) -> str:
    """Compare ours with the best peer as shipped in each line, with our engine in FastAPI, and with raw."""
    measured = {name: found for name, found in results.contenders.items() if found.steps}
    ours = measured.get("tabserve")
    peers = [found for found in measured.values() if found.kind == "peer" and not (found.wrong or found.problem)]
    if not ours or not peers:
        return ""
    rows, ahead = [], []
    for measure in MEASURES:
        best = (max if measure.more_is_better else min)(peers, key=measure.of)
        others = best, measured.get("fastapi-engine"), measured.get("raw")
        theirs = f"{number(measure.of(best), measure.digits)} ({best.title})"
        rows.append(
            [
                measure.label,
                number(measure.of(ours), measure.digits),
                theirs,
                *[_ratio(measure, ours, other) for other in others],
            ]
        )
        if measure.ahead(best, ours):
            ahead.append(f"{measure.label} ({best.title})")
    head = ["", "Tabserve", "best peer as shipped", "Tabserve / best peer", "/ FastAPI with our engine", "/ raw"]
    return f"{markdown(head, rows)}\n\nA peer as shipped is ahead in: {', '.join(ahead) or 'nothing'}."


def _ratio(measure: _Measure, one: Found, other: Found | None) -> str:
    if not other:
        return ""
    mine, theirs = measure.of(one), measure.of(other)
    return f"{mine / theirs:.2f}" if math.isfinite(mine) and math.isfinite(theirs) and theirs else "–"


def _disturbances(results: Results) -> str:
    """Return the p99 of one row beside slow clients, and beside one client with 10,000 rows, relative to alone."""
    columns = [(32, SLOW_CLIENTS), (8, LARGE_REQUESTS), (32, LARGE_REQUESTS)]
    head = ["p99 of 1 row, with / without", *[f"{beside}, {connections} conn." for connections, beside in columns]]
    rows = []
    for found in results.contenders.values():
        cells = []
        for connections, beside in columns:
            alone = found.median(p99, 1, connections)
            disturbed = found.median(p99, 1, connections, beside)
            ratio = number(disturbed / alone, 2) if math.isfinite(alone) and alone else "–"
            starved = found.median(lambda load: load.starved, 1, connections, beside)
            waits = f", {starved:.0f} starved" if starved >= connections / 4 else ""
            cells.append(f"{ratio} ({number(disturbed, 1)} / {number(alone, 1)} ms){waits}")
        if found.steps:
            rows.append([found.title, *cells, number(found.median(per_second, LARGE_ROWS, 1, LARGE_REQUESTS), 1)])
    return markdown([*head, f"answers/s for {LARGE_ROWS:,} rows"], rows)


def draw(results: Results, path: Path) -> None:
    """Draw throughput and p99 of one row over 32 connections as bars."""
    import matplotlib.pyplot as plt  # here, since it takes a second and most uses do not draw

    colors = {"ours": "#1b7837", "floor": "#999999", "engine": "#5aae61", "peer": "#762a83"}
    contenders = sorted(
        (result for result in results.contenders.values() if result.steps),
        key=lambda result: result.median(per_second, 1, 32),
    )
    figure, panels = plt.subplots(1, 2, figsize=(12, 0.45 * len(contenders) + 1.6), sharey=True, layout="constrained")
    for panel, (label, figure_of, digits) in zip(
        panels, [("requests a second: more is better", per_second, 0), ("p99 in ms: less is better", p99, 1)]
    ):
        values = [result.median(figure_of, 1, 32) for result in contenders]
        shown = [value if math.isfinite(value) else 0 for value in values]
        bars = panel.barh(
            [result.title for result in contenders], shown, color=[colors[result.kind] for result in contenders]
        )
        panel.bar_label(bars, [number(value, digits) for value in values], padding=3)
        panel.set(xscale="log", title=label, xlim=(1, max(shown) * 4))  # from 1, and with room for the last number
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle("One row a request, 32 connections")
    figure.savefig(path, dpi=120)
    plt.close(figure)
