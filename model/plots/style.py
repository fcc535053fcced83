"""What all figures share: colours, and how they are rendered."""

from __future__ import annotations

import io
import warnings

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

BLUE, RED, GREY = "#1f5fa8", "#b3362b", "#b9bcc0"


def to_png(figure: Figure) -> bytes:
    """Render the figure; the same figure gives the same bytes. A box stands for what the font does not have."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def plain(text: str) -> str:
    """Return a person's text as one line for a figure, in which dollar signs enclose no formula."""
    return " ".join(text.split()).replace("$", r"\$")


def closed(figure: Figure) -> Figure:
    """Remove the figure from pyplot's registry, so that a notebook shows it once and it can be freed."""
    plt.close(figure)
    return figure
