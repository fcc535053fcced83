"""What tests share about model cards: their sections, and what is on a page of one."""

from __future__ import annotations

import re
from html.parser import HTMLParser

SECTIONS = [
    "Purpose",
    "Data and its faults",
    "Features",
    "How it was found",
    "How good it is",
    "By group",
    "Beside simpler models",
    "What moves its answers",
    "What is served is what was trained",
    "Limits",
    "How to call it",
]
# What a card has only of some models, as the Markdown of its heading says.
OPTIONAL = {"Derived features", "Calibration", "What it relies on", "Prediction intervals"}


def sections(card: str) -> list[str]:
    """Return the headings of a card that every card has, in their order."""
    found = re.findall(r"^##+ (.*)$", card, re.MULTILINE)
    return [heading for heading in found if heading not in OPTIONAL]


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str | None] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep a tag, and what it links to."""
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        """Keep text."""
        self.text += data
