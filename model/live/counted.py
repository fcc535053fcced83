"""How often each feature had a value in each bin since a server started: what it counts for Prometheus, asked from it.

So drift can be judged where no value of a feature is logged.
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from model.errors import ModelError
from model.store.artifact import Artifact
from model.store.download import ask

# Each bin of each feature of each version is a line.
_MAX_BYTES = 2**26
# Prometheus's text format: a name, labels with three escapes, a value.
_SAMPLE = re.compile(r"tabserve_feature_bin_total\{(.*)\} (\d[\d.e+]*)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


def read(url: str, model: Artifact, *, key: str = "") -> dict[str, NDArray[np.intp]]:
    """Return for each feature how many values were in each bin of `bins.labels`, by the server at `url`.

    `key` has the scope `metrics`, where the server asks for one. Raises `ModelError` if it cannot be asked, or does not
    serve this version.
    """
    content, shown = ask(f"{url.rstrip('/')}/metrics", "the server", max_bytes=_MAX_BYTES, key=key)
    lines = content.decode(errors="replace").splitlines()
    positions = {
        (name, label): position
        for name, bins in model.reference.features.items()
        for position, label in enumerate(bins.labels)
    }
    counts = {name: np.zeros(len(bins.labels), np.intp) for name, bins in model.reference.features.items()}
    is_served = False
    for sample in filter(None, map(_SAMPLE.fullmatch, lines)):
        labels = {name: _ESCAPED.sub(_plain, text) for name, text in _LABEL.findall(sample[1])}
        position = positions.get((labels.get("feature", ""), labels.get("bin", "")))
        if (labels.get("model"), labels.get("version")) == (model.name, str(model.version)) and position is not None:
            is_served = True
            counts[labels["feature"]][position] = round(float(sample[2]))
    if not is_served:
        raise ModelError(f"the server at {shown} does not serve {model.name} version {model.version}")
    return counts


def _plain(escape: re.Match[str]) -> str:
    return "\n" if escape[1] == "n" else escape[1]
