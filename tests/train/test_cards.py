"""The cards of models of every form: linear ones, networks, converted ones, and the best of a search."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from model import Artifact, Store, export
from model.cli.main import main
from tests.support.cards import SECTIONS, sections

Holdout = tuple[pd.DataFrame, pd.Series]


def table(n_rows: int = 300) -> Holdout:
    """Return flats, and their rents."""
    random = np.random.default_rng(0)
    flats = pd.DataFrame({"area": random.uniform(20, 150, n_rows), "rooms": random.integers(1, 6, n_rows) + 0.0})
    return flats, (9 * flats["area"] + random.normal(0, 30, n_rows)).rename("rent")


def exported(fitted: Any, store: Path, **settings: Any) -> Artifact:
    """Return a model of the table, whose last rows were held out."""
    X, y = table()
    fitted.fit(X[:200], y[:200])
    return export(fitted, X[:200], y[:200], name="rents", holdout=(X[200:], y[200:]), store=store, **settings)


def linear(store: Path) -> Artifact:
    """Return a linear model."""
    words = {"owner": "Ada", "license": "MIT", "purpose": "# To check offers.", "limits": "Not for *houses*."}
    return exported(Ridge(), store, **words)


def converted(store: Path) -> Artifact:
    """Return a model that a general converter made a graph of."""
    pytest.importorskip("skl2onnx", reason="needs the converter")
    return exported(KNeighborsRegressor(), store, engine="onnx", tolerance=1e-4)


def network(store: Path) -> Artifact:
    """Return a network that was stopped before it had learnt anything."""
    pytest.importorskip("torch", reason="the network is trained with PyTorch, which is not installed")
    from model.train.learners.mlp import NetworkRegressor

    return exported(NetworkRegressor(hidden=(4,), max_epochs=3, device="cpu"), store)


def searched(store: Path) -> Artifact:
    """Return the best model of a search."""
    X, y = table()
    X.assign(rent=y).to_csv(store / "rents.csv", index=False)
    arguments = ["rents", "--data", str(store / "rents.csv"), "--target", "rent", "--trials", "2"]
    assert main(["--store", str(store), "train", *arguments, "--feature", "per_room = area / rooms"]) == 0
    return Store(store).load("rents")


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("make", "verdict"), [(linear, "better"), (converted, "better"), (network, "worse"), (searched, "better")]
)
def test_card_of_every_form_has_every_section(tmp_path: Path, make: Any, verdict: str) -> None:
    """Whatever the model is made of, its card has all sections; it is compared with both baselines, as it is."""
    found = make(tmp_path)
    assert found.card is not None

    assert sections(found.card) == SECTIONS
    assert {row["name"] for row in found.manifest.document["evaluation"]["baselines"]} == {"the mean", "a linear model"}
    assert re.search(rf"^\| the mean \| .* \| {verdict} \|$", found.card, re.MULTILINE)


def test_words_of_a_person_are_on_the_card(tmp_path: Path) -> None:
    """Purpose, limits, owner and license are on the card as they were said, and in the manifest."""
    found = linear(tmp_path)
    assert found.card is not None

    assert "## Purpose\n\n\\# To check offers.\n\n- Owner: Ada\n- License: MIT\n" in found.card
    assert "## Limits\n\nNot for \\*houses\\*.\n" in found.card
    assert found.manifest.document["purpose"] == "# To check offers."
    assert found.manifest.tags["license"] == "MIT"


def test_words_of_the_command_line_are_on_the_card(tmp_path: Path) -> None:
    """`train` takes purpose and license; of an example they are those of its schema file."""
    arguments = ["--learner", "baseline", "--purpose", "To learn.", "--license", "CC0-1.0"]
    for words in (arguments, arguments[:2]):
        assert main(["--store", str(tmp_path), "train", "boston-housing", *words]) == 0
    first, second = (Store(tmp_path).load(f"boston-housing@{version}").card for version in (1, 2))

    assert "\nTo learn.\n\n- Owner: nobody was named (`--owner`)\n- License: CC0-1.0\n" in str(first)
    assert "\nTo reproduce a published example" in str(second)
    assert "- License: BSD-3-Clause" in str(second)
