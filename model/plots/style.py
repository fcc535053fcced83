"""What all figures share: colours, and how they are rendered."""

from __future__ import annotations

import io

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

BLUE, RED, GREY = "#1f5fa8", "#b3362b", "#b9bcc0"


def to_png(figure: Figure) -> bytes:
    """Render the figure; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    return buffer.getvalue()


def closed(figure: Figure) -> Figure:
    """Remove the figure from pyplot's registry, so that a notebook shows it once and it can be freed."""
    plt.close(figure)
    return figure
