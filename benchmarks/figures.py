"""The figures of a run as a file of JSON. Each benchmark's `Results` say what they are, and read them back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figures:
    """What a run found."""

    def write(self, path: Path) -> None:
        """Write the run as JSON; its folder is made if it does not exist."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
