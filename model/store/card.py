"""The model card as a person gets it: the `card.md` of a version, and what only its manifest knows.

A card is written before its version has a number, a date and a digest, so these are added when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

CARD = "card.md"

# What CommonMark may take for markup in a line; an underscore between letters or digits is none.
_MARKUP = re.compile(r"[\\`*\[\]<|~]|&(?=[#\w]+;)|(?<![^\W_])_+|_+(?![^\W_])|#+$")
_BLOCK = re.compile(r"[-+=#>:]|\d{1,9}(?=[.)])")  # what may begin a heading, a list, a rule, a table or a quotation
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def inline(text: Any) -> str:
    """Return text for the inside of a line of Markdown, such as a cell of a table, in which it is shown as it is."""
    line = " ".join(_CONTROL.sub(" ", str(text)).split())
    return _MARKUP.sub(lambda found: "".join(f"\\{mark}" for mark in found[0]), line)


def paragraph(text: Any) -> str:
    """Return text for a line of Markdown of its own, or an item of a list, in which it is shown as it is."""
    line = inline(text)
    start = _BLOCK.match(line)
    if not start:
        return line
    # The number of a list loses its meaning by the mark behind it.
    place = start.end() if start[0].isdigit() else 0
    return f"{line[:place]}\\{line[place:]}"


def card_of(document: Mapping[str, Any], text: str | None) -> str:
    """Return the card of a version as Markdown, from its manifest's document and its `card.md`, if it is known.

    Control characters are left out, which a terminal would obey.
    """
    if text is None:
        text = f"""# Model card: {inline(document.get("title", ""))}

This version has no {CARD}, or a larger one than a server keeps, which `python -m model card` prints."""
    body = _CONTROL.sub("", text.replace("\r\n", "\n")).rstrip()
    return f"{body}\n\n## Version\n\n{_version(document)}\n"


def _version(document: Mapping[str, Any]) -> str:
    """Return what is known of a version beside its card, as a list."""
    code, environment = (_object(document.get(key)) for key in ("code", "environment"))
    packages = ", ".join(f"{name} {version}" for name, version in _object(environment.get("packages")).items())
    facts = {
        "Model": f"{document.get('name')}, version {document.get('version')}",
        "Written": document.get("created_at"),
        "Digest": document.get("digest"),
        "Code": code.get("git_commit"),
        "Notebook": code.get("notebook"),
        "Made with": ", ".join(
            filter(None, (f"Python {environment['python']}" if "python" in environment else "", packages))
        ),
    }
    return "\n".join(f"- {key}: {inline(value)}" if value else f"- {key}: not known" for key, value in facts.items())


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
