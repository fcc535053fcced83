"""How Schemathesis sends the JSON lines that it generates from the OpenAPI document: as text."""

from __future__ import annotations

import schemathesis


def as_text(_: object, value: object) -> bytes:
    """Return a generated body as bytes."""
    return value if isinstance(value, bytes) else str(value).encode()


schemathesis.serializer("application/jsonlines", "application/x-ndjson", "application/jsonl")(as_text)
