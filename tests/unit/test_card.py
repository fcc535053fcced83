"""Owns the text of cards: whatever a person or a table says is shown as it is, and baselines are what they say."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from numpy.typing import NDArray
from scipy import stats
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression

from model import card_of, metrics
from model.cli.main import main
from model.schema.feature import BOOLEAN, CATEGORY, DATE, Feature
from model.schema.features import Matrix, Schema
from model.store.card import inline, paragraph
from model.task import CLASSIFICATION, REGRESSION
from model.train import baselines, evaluation
from tests.support.subjects import subject

NAME = "boston-housing"
MARKDOWN = MarkdownIt("commonmark").enable("table")
# Pieces of what Markdown and HTML take for more than text.
PIECES = st.sampled_from(
    [
        "<script>",
        "<!--",
        "&lt;",
        "&#60;",
        "`",
        "```",
        "~~~",
        "*",
        "**",
        "_",
        "__",
        "|",
        "\\",
        "[x](y)",
        "![x](y)",
        "---",
        "<http://x.y>",
        "#",
        "1.",
        "1)",
        "-",
        "+",
        ">",
        "=",
        ":-",
        "a",
        "b_c",
        "é",
        " ",
        "\n",
        "\n\n",
        "\t",
    ]
)
TEXTS = st.lists(PIECES, max_size=8).map("".join) | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def shown(text: str) -> str:
    """Return a text as a page shows it: in one line, without control characters."""
    return " ".join(re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]", " ", text).split())


@given(TEXTS)
@example("__a__ *b* 2 * 3 * 4")
@example("x #")
@example("1. first")
def test_texts_are_shown_as_they_are(text: str) -> None:
    """A text is the same in a paragraph, an item of a list, a heading and a cell; nothing in it is markup."""
    line = shown(text)
    for source, before, after in (
        (f"{paragraph(text)}\n", "<p>", "</p>\n"),
        (f"- {paragraph(text)}\n", "<ul>\n<li>", "</li>\n</ul>\n"),
        (f"# Title: {inline(text)}.\n", "<h1>Title: ", ".</h1>\n"),
        (f"# Title: {inline(text)}\n", "<h1>Title: ", "</h1>\n"),
        (f"|a|\n|-|\n| b {inline(text)} |\n", "<td>b ", "</td>\n</tr>\n</tbody>\n</table>\n"),
    ):
        rendered = MARKDOWN.render(source)
        if not line:
            assert re.sub(r"<[^>]*>", "", rendered).strip() in ("", "Title:", "Title: .", "a\n\n\n\n\nb"), source
            continue
        found = rendered[rendered.index(before) + len(before) :].removesuffix(after)
        assert html.unescape(found) == line, source
        assert "<" not in found


@given(TEXTS)
def test_version_of_a_card_is_shown_as_it_is(text: str) -> None:
    """Whatever a manifest says of its version is an item of the list at the end, and a card keeps its own text."""
    document = {"name": text, "version": 3, "created_at": text, "digest": text, "environment": {"python": text}}
    card = card_of(document, "# Card\n\nText.\n")

    assert card.startswith("# Card\n\nText.\n\n## Version\n\n- Model: ")
    assert MARKDOWN.render(card).count("<li>") == 6
    assert re.findall(r"</?(?!h1|h2|p|ul|li)\w+", MARKDOWN.render(card)) == []


def test_card_has_no_characters_that_a_terminal_obeys() -> None:
    """Escape sequences of a card are left out, and its lines are kept."""
    assert card_of({}, "# a\x1b[2J\r\n\x07b\n").startswith("# a[2J\nb\n\n## Version")


@pytest.mark.parametrize("document", [{}, {"code": 1, "environment": [], "name": None}])
def test_what_a_manifest_does_not_know_is_not_known(document: dict[str, Any]) -> None:
    """A manifest that lacks a fact, or has another type there, gives a card that says so."""
    card = card_of({**document, "title": "Prices"}, None)

    assert card.startswith("# Model card: Prices\n\nThis version has no card.md")
    assert "- Written: not known" in card
    assert "- Code: not known" in card


def test_command_prints_the_card(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`card` prints the card of a version with number, date and digest; a version that does not exist is an error."""
    assert main(["--store", str(store), "card", NAME]) == 0
    printed = capsys.readouterr().out
    text = (store / NAME / "1" / "card.md").read_text().rstrip()
    assert printed.startswith(text)
    assert f"- Model: {NAME}, version 1\n" in printed[len(text) :]
    assert re.search(r"^- Digest: [0-9a-f]{64}$", printed, re.MULTILINE)

    assert main(["--store", str(store), "card", f"{NAME}@9"]) == 1
    assert "error: " in capsys.readouterr().err


SCHEMA = Schema((Feature("a"), Feature("b", missing=True)), Feature("price"))
NEW_ROWS = 200


def rows(n_rows: int = 700) -> tuple[Matrix, NDArray[np.float64]]:
    """Return rows of the schema, and targets in which a square counts."""
    random = np.random.default_rng(0)
    X = random.normal(size=(n_rows, 2))
    y = X[:, 0] ** 2 + X[:, 1] + 0.3 * random.normal(size=n_rows)
    return X, y


def test_baselines_are_the_mean_and_least_squares() -> None:
    """The mean is that of the training rows, and the linear model is near least squares on them."""
    X, y = rows()
    found = baselines.answers(subject(X, y, n_new=NEW_ROWS), SCHEMA)

    assert list(found) == [baselines.MEAN, baselines.LINEAR]
    assert np.array_equal(found[baselines.MEAN], np.full(NEW_ROWS, y[:-NEW_ROWS].mean()))
    expected = LinearRegression().fit(X[:-NEW_ROWS], y[:-NEW_ROWS]).predict(X[-NEW_ROWS:])
    assert found[baselines.LINEAR] == pytest.approx(expected, abs=0.02)


def test_comparison_is_of_pairs() -> None:
    """The difference of two RMSEs has an interval near that of a bootstrap of the rows, and it is of the same rows."""
    X, y = rows()
    about = subject(X, y, n_new=NEW_ROWS)

    def predict(asked: Matrix) -> NDArray[np.float64]:
        return asked[:, 0] ** 2 + asked[:, 1]

    X_new, y_new = X[-NEW_ROWS:], y[-NEW_ROWS:]
    found = evaluation.evaluate(about, predict, SCHEMA, metrics.regression(y_new, predict(X_new)))
    assert found
    for compared in found.baselines:
        theirs = baselines.answers(about, SCHEMA)[compared.name]

        def difference(drawn: Any, theirs: Any = theirs) -> float:
            return float(
                metrics.regression(y_new[drawn], theirs[drawn]).rmse
                - metrics.regression(y_new[drawn], predict(X_new)[drawn]).rmse
            )

        places = np.arange(NEW_ROWS)
        assert compared.gain.value == pytest.approx(difference(places))
        drawn = stats.bootstrap(
            (places,), difference, vectorized=False, n_resamples=500, method="percentile", rng=1
        ).confidence_interval
        width = (drawn.high - drawn.low) / 2
        assert (compared.gain.low, compared.gain.high) == pytest.approx((drawn.low, drawn.high), abs=0.3 * width)
        assert compared.gain.low is not None
        assert compared.gain.low > 0


def test_perfect_model_is_better_than_its_baselines() -> None:
    """A model without an error is compared, too, though its RMSE has no derivative there."""
    X = rows()[0]
    about = subject(X, X[:, 0].copy(), n_new=NEW_ROWS)
    found = evaluation.evaluate(
        about, lambda asked: asked[:, 0].copy(), SCHEMA, metrics.regression(X[-NEW_ROWS:, 0], X[-NEW_ROWS:, 0])
    )

    assert found
    assert found.baselines[0].gain.value == pytest.approx(found.baselines[0].error.value)
    assert found.facts()["baselines"][0]["name"] == baselines.MEAN


def test_baselines_of_classes() -> None:
    """The shares are those of the training rows, also of a class that has none; probabilities add up to 1."""
    X, y = rows()
    classes = np.digitize(y, [0.0, 1.0]).astype(np.float64)
    target = Feature("level", type=CATEGORY, categories=("low", "middle", "high", "never"))
    found = baselines.answers(subject(X, classes, target, CLASSIFICATION, n_new=NEW_ROWS), SCHEMA)

    dummy = DummyClassifier().fit(X[:-NEW_ROWS], classes[:-NEW_ROWS]).predict_proba(X[-NEW_ROWS:])
    assert found[baselines.SHARES][:, 1:4] == pytest.approx(dummy)
    assert (found[baselines.SHARES][:, 4] == 0).all()
    linear = found[baselines.LINEAR]
    assert linear[:, 1:].sum(axis=1) == pytest.approx(1)
    assert np.array_equal(linear[:, 0], linear[:, 1:].argmax(axis=1))
    own = metrics.classification(classes[-NEW_ROWS:], linear)
    assert own.log_loss < metrics.classification(classes[-NEW_ROWS:], found[baselines.SHARES]).log_loss


def test_linear_baseline_takes_every_type() -> None:
    """Categories, booleans, dates and missing values are taken; a category that training did not see, too."""
    random = np.random.default_rng(0)
    features = (
        Feature("town", type=CATEGORY, categories=("a", "b"), missing=True, unseen="as other"),
        Feature("new", type=BOOLEAN),
        Feature("sold", type=DATE),
    )
    schema = Schema(features, Feature("price"))
    X = np.column_stack([random.integers(0, 2, 500), random.integers(0, 2, 500), random.uniform(1e9, 2e9, 500)]) + 0.0
    X[:20, 0], X[-5:, 0] = np.nan, 2.0
    y = 3 * X[:, 1] + X[:, 2] / 1e8
    found = baselines.answers(subject(X, y, n_new=NEW_ROWS), schema)[baselines.LINEAR]

    assert np.abs(found - y[-NEW_ROWS:]).max() < 0.5


@pytest.mark.parametrize(
    ("X", "target"),
    [
        (np.full((300, 2), 1e300) * np.arange(300)[:, None], SCHEMA.target),  # whose squares overflow
        (
            np.zeros((300, 2)),
            Feature("level", type=CATEGORY, categories=tuple(map(str, range(100_000)))),
        ),  # too many classes
    ],
)
def test_linear_baseline_is_left_out_where_it_cannot_be(X: Matrix, target: Feature) -> None:
    """Where a linear model cannot be fitted, or would take long, the other baseline stands alone."""
    task = CLASSIFICATION if target.type == CATEGORY else REGRESSION
    with np.errstate(all="ignore"):
        found = baselines.answers(subject(X, np.zeros(300), target, task, n_new=NEW_ROWS), SCHEMA)

    assert baselines.LINEAR not in found
    assert len(found) == 1
