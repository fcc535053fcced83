"""The lower bound: a WSGI application that reads the body and returns a constant of the length of Tabserve's reply."""

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


class Constant:
    """`/100` replies with the length of Tabserve's reply for 100 rows."""

    def __init__(self) -> None:
        self.replies: dict[str, bytes] = {}

    def is_immediate(self, environ: "WSGIEnvironment") -> bool:
        """Return that the event loop may answer itself."""
        return True

    def __call__(self, environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
        """Read the whole body and reply."""
        environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
        path = environ["PATH_INFO"]
        reply = self.replies.get(path) or self.replies.setdefault(path, self.write(int(path[1:])))
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(reply)))])
        return [reply]

    def answer_together(self, calls: list[tuple["WSGIEnvironment", "StartResponse"]]) -> list[Iterable[bytes]]:
        """Answer a batch of concurrent requests."""
        return [self(*call) for call in calls]

    def write(self, n_rows: int) -> bytes:
        """Return a reply for `n` rows."""
        fields = {"model": "boston-housing", "version": 1, "request_id": "0" * 32}
        return json.dumps({"prediction": [25.002145787183498] * n_rows, **fields}, separators=(",", ":")).encode()


application = Constant()
