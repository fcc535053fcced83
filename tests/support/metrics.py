"""What the tests of metrics share."""

from __future__ import annotations

import os
import signal

import requests
from prometheus_client.parser import text_string_to_metric_families as parse_text

from tests.support.server import Server, wait_until
from tests.support.service import HOUSE

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]

BINS, GOLDEN = "tabserve_feature_bin_total", "tabserve_golden_check_success"
MODEL = {"model": "boston-housing", "version": "1"}
PREDICTED = {"method": "POST", "route": "/predict", "status": "200"}


def series(text: str) -> Series:
    """Return the value of every series; fails for text that Prometheus could not read, and for duplicate series."""
    found: Series = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def value(found: Series, name: str, **labels: str) -> float:
    """Return the value of one series, 0 if there is none."""
    return found.get((name, frozenset(labels.items())), 0.0)


def by_label(found: Series, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    """Return the values of one metric by the values of some of its labels."""
    return {tuple(dict(key[1])[label] for label in labels): count for key, count in found.items() if key[0] == name}


def scrape(server: Server) -> Series:
    """Scrape any worker on a connection of its own, and return every series."""
    return series(requests.get(f"{server.url}/metrics", timeout=10).text)


def predict(server: Server, count: int) -> None:
    """Send prediction requests, each on a connection of its own, so that any worker may get it."""
    for _ in range(count):
        assert requests.post(f"{server.url}/predict", json=HOUSE, timeout=10).status_code == 200


def has_workers(server: Server, count: int) -> bool:
    """Return whether the server has so many workers."""
    return len(server.workers()) == count


def kill_worker(server: Server) -> None:
    """Kill one of two workers as the kernel does when memory runs out, and wait for its successor."""
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in server.workers() and len(server.workers()) == 2)
