"""An executed notebook as HTML in which nothing runs: texts and pictures of its cells, and no HTML of its own.

A notebook comes with its artifact, so it is not trusted.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from typing import Any

from markupsafe import Markup

from app.errors import BodyError, TooLargeError
from app.web.body import parse_json

MAX_BYTES = 2**23  # the example's has 300 KB
# Of all cells together; what is beyond is shown as it is written. The worst text of this size takes seconds to render.
_MAX_MARKDOWN = 2**16
_MAX_CELLS = 1_000
_PICTURES = {"image/png": b"\x89PNG\r\n\x1a\n", "image/jpeg": b"\xff\xd8\xff"}
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")  # colours of a terminal, in errors

_TEXT = Markup('<pre class="{}" tabindex="0">{}</pre>\n')
_PICTURE = Markup('<p><img src="data:{};base64,{}" alt="picture that the cell above made"></p>\n')


def to_html(content: bytes, markdown: Callable[[str], Markup]) -> Markup:
    """Return the cells of a notebook as HTML; `markdown` renders text that is not trusted.

    What is no notebook gives a sentence that says so.
    """
    try:
        notebook = parse_json(content)
    except (BodyError, TooLargeError):
        notebook = None
    cells = notebook.get("cells") if isinstance(notebook, dict) else None
    if not isinstance(cells, list):
        return Markup("<p>The notebook of this version cannot be read.</p>")
    parts: list[Markup] = []
    n_rendered = 0
    for cell in (cell for cell in cells[:_MAX_CELLS] if isinstance(cell, dict)):
        source = _joined(cell.get("source"))
        if cell.get("cell_type") == "markdown" and n_rendered + len(source) <= _MAX_MARKDOWN:
            n_rendered += len(source)
            parts.append(markdown(source))
        elif source:
            parts.append(_TEXT.format("code", source))
        outputs = cell.get("outputs")
        for output in outputs if isinstance(outputs, list) else ():
            if isinstance(output, dict):
                parts += _output(output)
    return Markup("").join(parts)


def _output(output: dict[str, Any]) -> Iterator[Markup]:
    data = output.get("data")
    found = data if isinstance(data, dict) else {}
    for kind, start in _PICTURES.items():
        if kind in found:
            try:
                picture = base64.b64decode(_joined(found[kind]), validate=False)
            except (binascii.Error, ValueError):
                picture = b""
            if picture.startswith(start):
                yield _PICTURE.format(kind, base64.b64encode(picture).decode())
                return
    trace = output.get("traceback")
    text = _joined(output.get("text")) or _joined(found.get("text/plain"))
    text = text or ("\n".join(map(str, trace)) if isinstance(trace, list) else "")
    if text:
        yield _TEXT.format("output", _ESCAPES.sub("", text))


def _joined(value: Any) -> str:
    """Return a text, which a notebook has whole or as a list of lines."""
    if isinstance(value, list):
        return "".join(each for each in value if isinstance(each, str))
    return value if isinstance(value, str) else ""
