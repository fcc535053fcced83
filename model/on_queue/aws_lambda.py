"""A handler for AWS Lambda: messages that SQS hands over, direct invocations, and requests to a function's URL.

Needs neither boto3 nor a server; how its container is made is in docs/queues.md.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from model.errors import SchemaError, StoreError
from model.on_queue.current import Current
from model.on_queue.message import ID, Message, answer, predict, shown
from model.on_queue.places import Place, below, open_place
from model.store.files import parse_json
from model.store.location import open_store
from model.store.urls import CACHE

Handler = Callable[[Any, Any], Any]

_JSON = {"content-type": "application/json"}
_MAX_DETAILS = 1_000


def make_handler(
    store: Path | str,
    reference: str,
    *,
    to: str = "",
    dead: str = "",
    id_key: str = ID,
    ignore_unknown: bool = False,
    cache: Path = CACHE,
) -> Handler:
    """Return the function that Lambda calls with an event, after the model was verified.

    `to` is the folder or URL for the documents of SQS's messages, `dead` that for what cannot be answered (`dead` in
    `to` unless it is named). Raises `ModelError`.
    """
    current = Current(
        open_store(store, cache=cache),
        reference,
        say=lambda line: print(line, flush=True),
        ignore_unknown=ignore_unknown,
    )
    results = open_place(to) if to else None
    aside = open_place(dead or below(to, "dead")) if to else None

    def handle(event: Any, context: Any) -> Any:
        records = event.get("Records") if isinstance(event, dict) else None
        if isinstance(records, list) and records and all(_is_of_sqs(each) for each in records):
            if not results or not aside:
                raise ValueError("messages of SQS need a place for their results; name it with make_handler(…, to=…)")
            return _handle_messages(records, current, results, aside, id_key)
        if isinstance(event, dict) and "requestContext" in event:
            return _handle_request(event, current, id_key)
        model = current.model()
        return {**predict(event, model, id_key=id_key), "model": model.name, "version": model.version}

    return handle


def _is_of_sqs(record: Any) -> bool:
    return isinstance(record, dict) and record.get("eventSource") == "aws:sqs"


def _handle_messages(
    records: list[dict[str, Any]], current: Current, results: Place, dead: Place, id_key: str
) -> dict[str, Any]:
    """Answer messages, and return those that SQS is to hand over again: whose documents could not be written."""
    model, failed = current.model(), []
    for record in records:
        message = Message(record["messageId"], record["body"])
        found = answer(message, model, id_key=id_key)
        try:
            (dead if found.reason else results).keep(message, found)
        except (StoreError, OSError) as error:
            _say(f"warning: message {message.id}: {error}")
            failed.append({"itemIdentifier": message.id})
    return {"batchItemFailures": failed}


def _handle_request(event: Mapping[str, Any], current: Current, id_key: str) -> dict[str, Any]:
    """Answer a request over HTTP with the same status and fields as the service."""
    body = event.get("body") or ""
    model = current.model()
    try:
        content = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
        found = predict(parse_json(content), model, id_key=id_key)
    except SchemaError as error:
        details = [shown(problem) for problem in error.problems[:_MAX_DETAILS]]
        return _reply(422, {"error": str(error), "status": 422, "details": details})
    except ValueError as error:
        return _reply(400, {"error": f"the body is not a table in JSON: {error}", "status": 400, "details": []})
    request_id = event["requestContext"].get("requestId", "")
    return _reply(200, {**found, "model": model.name, "version": model.version, "request_id": request_id})


def _reply(status: int, document: dict[str, Any]) -> dict[str, Any]:
    return {"statusCode": status, "headers": _JSON, "body": json.dumps(document)}


def _say(line: str) -> None:
    print(line, flush=True)  # what a function prints is its log
