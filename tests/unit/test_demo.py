"""Owns the day of traffic that `make demo` sends: the same for a seed, and faulty from an hour on."""

from __future__ import annotations

import csv

from monitoring.demo import FAULT_HOUR, FAULTY, HOURS, MAX_ROWS, REFUSED_EVERY, TABLE, TARGET, day


def test_a_seed_draws_the_same_day() -> None:
    """The same seed draws the same requests, and another seed others."""
    assert day(100, seed=1) == day(100, seed=1) != day(100, seed=2)


def test_requests_are_rows_of_the_table() -> None:
    """Requests are in the order of their hours, and have rows of the table with their true values."""
    with TABLE.open(newline="") as file:
        table = [{name: float(cell) for name, cell in row.items()} for row in csv.DictReader(file)]
    before = [request for request in day(400, seed=3) if request.hour < FAULT_HOUR]
    rows = [{**row, TARGET: truth} for request in before for row, truth in zip(request.rows, request.truths)]

    assert [request.hour for request in before] == sorted(request.hour for request in before)
    assert all(row in table for row in rows if row["RM"] is not None)
    assert {len(request.rows) for request in before} == set(range(1, MAX_ROWS + 1))


def test_fault() -> None:
    """From its hour on every row has the share in place of percent, and the day ends at midnight."""
    requests = day(400, seed=3)
    after = [row[FAULTY] for request in requests if request.hour >= FAULT_HOUR for row in request.rows]

    assert len(after) > 0
    assert max(cell for cell in after if cell is not None) < 1
    assert max(request.hour for request in requests) < HOURS


def test_some_requests_are_refused() -> None:
    """One request of so many has a missing value."""
    refused = [request for request in day(4 * REFUSED_EVERY, seed=0) if request.rows[0]["RM"] is None]

    assert len(refused) == 4
