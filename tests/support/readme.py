"""What the tests of readme share."""

from __future__ import annotations

import re

from tests.support.service import ROOT

README = (ROOT / "README.md").read_text()
PAGES = {path.name: path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]}
TEXT = "\n".join(PAGES.values())
# Each block of commands, with the JSON block that follows it where the page shows an answer.
BLOCKS = re.findall(r"```sh\n(.*?)```\n(?:\n```json\n(.*?)```\n)?", TEXT, re.DOTALL)
COMMANDS = [command for commands, _ in BLOCKS for command in commands.splitlines()]


def section(title: str) -> str:
    """Return what the README says below a heading."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]
