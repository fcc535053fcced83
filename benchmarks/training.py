"""Compare the training of an MLP with the loop of PyTorch's tutorials: rows per second, in turns in one process."""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from model.engine import network
from model.train.learners import mlp

FEATURES = 20
BATCH_SIZE = 4_096  # the default of `mlp.NetworkRegressor` for a million rows


def main() -> None:
    """Print the table: our loop on this device, its variants, and the plain loop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="default: 1,000,000")
    parser.add_argument("--epochs", type=int, default=10, help="default: 10; the plain loop has one")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, in which the loops take turns (default: 3)")
    parser.add_argument("--hidden", type=int, nargs="*", default=[64, 64], metavar="WIDTH", help="default: 64 64")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    random = np.random.default_rng(0)
    X = random.normal(size=(options.rows, FEATURES))
    y = np.sin(X).sum(axis=1) + random.normal(size=options.rows)
    device, hidden = network.find_device(options.device), tuple(options.hidden)

    def fit_ours(**chosen: Any) -> float:
        regressor = mlp.NetworkRegressor(
            hidden=hidden,
            max_epochs=options.epochs,
            patience=options.epochs,
            batch_size=BATCH_SIZE,
            device=str(device),
            **chosen,
        )
        return float(regressor.fit(X, y).rows_per_second_)

    variants: dict[str, Callable[[], float]] = {
        "a plain DataLoader loop": lambda: plain_loop(X, y, hidden, device),
        "`model.train.learners.mlp`": fit_ours,
        "with `--precision bfloat16`": lambda: fit_ours(precision="bfloat16"),
    }
    if shutil.which("c++") or device.type != "cpu":
        variants["with `--compile`"] = lambda: fit_ours(compile=True)
    rates: dict[str, list[float]] = {variant: [] for variant in variants}
    for _ in range(options.rounds):
        for variant, measure in variants.items():
            rates[variant].append(measure())
    figures = {variant: statistics.median(found) for variant, found in rates.items()}
    base = figures["a plain DataLoader loop"]
    print(
        f"{options.rows:,} rows of {FEATURES} features, hidden layers of {' and '.join(map(str, hidden))}, "
        f"{BATCH_SIZE:,} rows a step, on {device} with {torch.get_num_threads()} threads\n\n"
        "| training | rows a second | times the plain loop |\n|---|---|---|"
    )
    for variant, rate in figures.items():
        print(f"| {variant} | {rate:,.0f} | {rate / base:.1f} |")


def plain_loop(X: np.ndarray, y: np.ndarray, hidden: tuple[int, ...], device: torch.device) -> float:
    """Return the rows per second of one epoch in the loop of the tutorials."""
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise((FEATURES, *hidden)):
        layers += [nn.Linear(n_in, n_out), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Linear((FEATURES, *hidden)[-1], 1)).to(device)
    rows = TensorDataset(torch.tensor(X, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)[:, None])
    optimizer, loss_of = torch.optim.AdamW(network.parameters(), lr=0.003), nn.MSELoss()
    started, total = time.perf_counter(), 0.0
    for batch, target in DataLoader(rows, batch_size=BATCH_SIZE, shuffle=True):
        optimizer.zero_grad()
        loss = loss_of(network(batch.to(device)), target.to(device))
        torch.autograd.backward(loss)
        optimizer.step()
        total += loss.item()
    return len(X) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
