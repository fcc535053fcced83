"""Which rows a version was fitted on, as hashes, so that a later version can be compared with it on others.

A version keeps 8 bytes for each row that it was fitted on: of its features, without the target. To leave out rows by
features and target together would leave those of the same features with an unusual target, and favour the version that
is wrong about the usual one. Whoever has the bytes and a row can tell whether the row was among these; the rows
themselves cannot be read from them.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from model.errors import NotInStoreError
from model.schema.features import Matrix, Schema
from model.store.artifact import Artifact
from model.store.differences import translated

FILE = "fitted-features.bin"
_FEWEST_DIFFERENT = (
    0.5  # of the fitted rows: of fewer, as with some categories, new rows are equal to old ones by chance
)
_BYTES = 8  # of a million rows one in 2 * 10**13 is taken for another, and is then not compared, which is safe


def pack(X: Matrix) -> bytes:
    """Return the hashes of rows `X` `(n_rows, n_features)`, in order of size."""
    return np.sort(_hashes(X)).tobytes()


def has_seen(model: Artifact, X: Matrix, schema: Schema) -> NDArray[np.bool_] | None:
    """Return which rows `X` `(n_rows, n_features)` of a schema a version was fitted on, `(n_rows,)`.

    None if no row tells, since few of those that it was fitted on are different. Raises `NotInStoreError` for a version
    that does not say which these are, and `SchemaError` for rows that it does not accept.
    """
    if FILE not in model.manifest.files:
        raise NotInStoreError(
            f"{model.name}@{model.version} does not say which rows it was fitted on: it was imported or exported, or "
            "trained by an older version of tabserve"
        )
    fitted = np.frombuffer((model.path / FILE).read_bytes(), "<u8")
    different = np.unique(fitted)
    if len(different) < _FEWEST_DIFFERENT * len(fitted):
        return None
    return np.isin(_hashes(translated(X, schema, model.schema)), different)


def _hashes(X: Matrix) -> NDArray[np.uint64]:
    """Return a number for each row, the same for -0 and 0, and for every NaN."""
    table = X + 0.0
    table[np.isnan(table)] = np.nan
    rows = np.ascontiguousarray(table, dtype="<f8")
    return np.frombuffer(b"".join(blake2b(row, digest_size=_BYTES).digest() for row in rows), "<u8")
