"""What the tests of predict share."""

from __future__ import annotations

import json
from typing import Any

from flask.testing import FlaskClient


def ask(client: FlaskClient, path: str, body: Any) -> Any:
    """Return the reply to a JSON body, or to CSV if the body is text."""
    if isinstance(body, str):
        return client.post(path, data=body, content_type="text/csv")
    return client.post(path, data=json.dumps(body), content_type="application/json")
