"""POST /mcp: the Model Context Protocol over streamable HTTP, for agents: each model is a tool, its card a resource.

Sources: the specification's revisions 2025-03-26, 2025-06-18 and 2025-11-25, which begin with `initialize`, and
2026-07-28, in which every request names its revision. There are no sessions and no streams, so any worker answers any
request: a POST gets one JSON reply, and a GET 405. Predictions are made by the runner, as those of any protocol.
"""

from __future__ import annotations

import base64
import binascii
import io
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from wsgiref.types import WSGIEnvironment

import orjson
from flask import Blueprint, request
from werkzeug.exceptions import Forbidden

from app.config import Config
from app.errors import STATUS, TooManyRequestsError
from app.protocols import describe, json_rpc, mcp_tools
from app.protocols.describe import JSON
from app.protocols.json_rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    Message,
    RpcError,
)
from app.protocols.runner import Routed, Runner
from app.protocols.views import Views
from app.serving.current import Serving
from app.version import VERSION
from app.web import body, refusal
from app.web.caller import predict
from app.web.exchange import KEY, Exchange, exchange_of, request_id
from app.web.keys import Keys
from app.web.refusal import Refusal
from app.web.reply import JSON_TYPE, Reply, to_json
from model import Artifact, card_of, shortened

PATH = "/mcp"

WITH_BATCHES, *_ = WITH_HANDSHAKE = ("2025-03-26", "2025-06-18", "2025-11-25")
STATELESS = "2026-07-28"
REVISIONS = (*WITH_HANDSHAKE, STATELESS)
MAX_BATCH = 100  # messages

HEADER_MISMATCH, UNSUPPORTED_REVISION = -32020, -32022

# Of a request's `_meta`, and of a result's.
_REVISION, _CAPABILITIES = "io.modelcontextprotocol/protocolVersion", "io.modelcontextprotocol/clientCapabilities"
_SERVER_INFO = "io.modelcontextprotocol/serverInfo"
_SERVER = {"name": "tabserve", "title": "Tabserve", "version": VERSION}
_OFFERED: JSON = {"tools": {}, "resources": {}}
_INSTRUCTIONS = (
    "Each tool is a model that was trained on a table: give it rows, and it predicts their target. Read the model's "
    "card, which is a resource, for its purpose, errors and limits. A refused call says which values to correct."
)
_INITIALIZE, _DISCOVER, _CALL, _READ = "initialize", "server/discover", "tools/call", "resources/read"
# The parameter that a client repeats in the header Mcp-Name (2026-07-28).
_NAMES = {_CALL: "name", _READ: "uri"}
_CARD = "tabserve://models/{}/card"
_BASE64 = ("=?base64?", "?=")

Models = Mapping[str, Artifact]
"""The models that a request may use, by name."""

# The status of an error in the revision without a handshake; in the others it is 200.
_STATUS = {METHOD_NOT_FOUND: 404, INTERNAL_ERROR: 500}


def blueprint(
    config: Config,
    serving: Serving,
    views: Views,
    runner: Runner,
    record: Callable[[Exchange], None],
    keys: Keys | None,
) -> Blueprint:
    """Return the route of the protocol; a batch's further calls go to `record` and count for their key in `keys`."""
    routes = Blueprint("mcp", __name__)
    refusal.register(routes, _refuse)
    server = _Server(config, serving, runner, record, keys)

    @routes.post(PATH)
    @views.describe(_operation())
    def mcp() -> Reply:
        """Answer one message, or a batch of messages."""
        return server.answer(request.environ)

    return routes


def _render(refusal: Refusal) -> dict[str, Any]:
    code = {400: PARSE_ERROR, 500: INTERNAL_ERROR, 503: INTERNAL_ERROR}.get(refusal.status, INVALID_REQUEST)
    return json_rpc.error(None, code, refusal.full_message())


_refuse = refusal.refuser(_render, unfit=400)


class _Server:
    """Answers the bodies of requests to the protocol's path."""

    def __init__(
        self,
        config: Config,
        serving: Serving,
        runner: Runner,
        record: Callable[[Exchange], None],
        keys: Keys | None,
    ) -> None:
        self._config = config
        self._serving = serving
        self._runner = runner
        self._record = record
        self._keys = keys
        self._tools = mcp_tools.endpoint()
        self._methods: Mapping[str, Callable[[Mapping[str, Any], Models], JSON]] = {
            "tools/list": self._list_tools,
            "resources/list": self._list_cards,
            "resources/templates/list": _list_templates,
            _READ: self._read_card,
        }

    def answer(self, environ: WSGIEnvironment) -> Reply:
        """Return the reply to a POST. Raises what `refuse` knows where the body is no JSON of allowed size."""
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin not in self._config.cors_origins:
            raise Forbidden(f"pages of {shortened(origin)} are not in TABSERVE_CORS_ORIGINS")
        body.content_type(environ, (JSON_TYPE,))
        value = self._read(environ)
        try:
            if isinstance(value, list):
                return self._answer_batch(value, environ)
            message = json_rpc.parse(value)
            is_stateless = _is_stateless(message, environ)
        except RpcError as error:
            return _failure(json_rpc.id_of(value), error, status=400)
        if message.id is None:
            return Reply(b"", status=202)
        try:
            if message.method == _CALL:
                self._check_tool(message, environ)
                (reply,) = self._call([message], [environ], is_stateless=is_stateless)
                return reply
            return to_json(json_rpc.result(message.id, self._result(message, environ, is_stateless=is_stateless)))
        except RpcError as error:
            return _failure(message.id, error, status=_STATUS.get(error.code, 400) if is_stateless else 200)

    def _read(self, environ: WSGIEnvironment) -> Any:
        """Return the JSON value of a body that may be as large as the largest table of any model."""
        schemas = [model.schema for model in self._serving.loaded.models.values()]
        max_rows = self._config.max_rows
        content = body.read(
            environ,
            max_bytes=self._config.max_body_bytes,
            min_expanded_bytes=max_rows * max((schema.max_row_bytes for schema in schemas), default=0),
        )
        max_values = max((schema.max_values(max_rows) for schema in schemas), default=0)
        return body.parse_json(content, max_values=max(max_values, body.MAX_JSON_VALUES))

    def _answer_batch(self, values: Sequence[Any], environ: WSGIEnvironment) -> Reply:
        """Return the reply to a list of messages, in their order; calls of tools run together. Raises `RpcError`."""
        if environ.get("HTTP_MCP_PROTOCOL_VERSION", WITH_BATCHES) != WITH_BATCHES:
            reason = f"only the revision {WITH_BATCHES} has batches; send each message in a request of its own"
            raise RpcError(INVALID_REQUEST, reason)
        if not 1 <= len(values) <= MAX_BATCH:
            raise RpcError(INVALID_REQUEST, f"the batch has not 1 to {MAX_BATCH} messages")
        replies: list[Any] = [None] * len(values)
        calls: dict[int, Message] = {}
        for number, value in enumerate(values):
            try:
                message = json_rpc.parse(value)
                if message.method == _INITIALIZE:
                    raise RpcError(INVALID_REQUEST, f"{_INITIALIZE} is not part of a batch")
                if message.id is None:
                    continue
                if message.method == _CALL:
                    self._check_tool(message, environ)
                    if calls:
                        self._check_rate(environ)
                    calls[number] = message
                else:
                    replies[number] = json_rpc.result(message.id, self._result(message, environ, is_stateless=False))
            except RpcError as error:
                replies[number] = json_rpc.error(json_rpc.id_of(value), error.code, str(error), error.data)
        # The exchange of the request is that of the first call; each further call is counted and logged as its own.
        environs = [environ, *(_with_own_exchange(environ) for _ in range(len(calls) - 1))]
        for number, each, reply in zip(calls, environs, self._call(list(calls.values()), environs, is_stateless=False)):
            replies[number] = orjson.Fragment(reply.body)
            if each is not environ:
                self._finish(exchange_of(each), reply.status)
        found = [reply for reply in replies if reply is not None]
        return to_json(found) if found else Reply(b"", status=202)

    def _check_tool(self, message: Message, environ: WSGIEnvironment) -> None:
        """Raise `RpcError` unless a call is of a configured model that the request's key may use."""
        name = message.params.get("name")
        if name not in self._serving.loaded.requested:
            raise RpcError(INVALID_PARAMS, f"there is no tool {shortened(str(name))}; see tools/list")
        if not _may_use(environ, name):
            raise RpcError(INVALID_PARAMS, f"the key lacks the scope {predict(name)}")

    def _check_rate(self, environ: WSGIEnvironment) -> None:
        """Count a further call of a batch towards the rate of its key. Raises `RpcError` if it is one too many."""
        caller = exchange_of(environ).caller
        if self._keys and caller:
            try:
                self._keys.take(caller)
            except TooManyRequestsError as error:
                exchange = exchange_of(_with_own_exchange(environ))
                exchange.refused = error.reason
                self._finish(exchange, STATUS[TooManyRequestsError])
                raise RpcError(INVALID_REQUEST, str(error)) from None

    def _finish(self, exchange: Exchange, status: int) -> None:
        """Have a further call of a batch counted and logged."""
        exchange.status, exchange.time = status, time.time()
        self._record(exchange)

    def _call(
        self, messages: Sequence[Message], environs: Sequence[WSGIEnvironment], *, is_stateless: bool
    ) -> list[Reply]:
        """Return the reply to each call of a tool: what the runner answers, as a result or an error of JSON-RPC."""
        without_body = {"wsgi.input": io.BytesIO(), "CONTENT_LENGTH": "0", "HTTP_CONTENT_ENCODING": ""}
        routed: list[Routed] = []
        for message, environ in zip(messages, environs):
            arguments = {mcp_tools.ARGUMENTS: message.params.get("arguments", {})}
            values = {"name": message.params["name"]}
            routed.append(({**environ, **without_body, **arguments}, self._tools, values, None))
        answers = self._runner.run(routed)
        return [
            _called(message, answer, exchange_of(environ), is_stateless=is_stateless)
            for message, answer, environ in zip(messages, answers, environs)
        ]

    def _result(self, message: Message, environ: WSGIEnvironment, *, is_stateless: bool) -> JSON:
        """Return the result of any other request. Raises `RpcError`."""
        method = message.method
        if method in self._methods:
            models = self._serving.loaded.models.items()
            found = self._methods[method](message.params, {k: v for k, v in models if _may_use(environ, k)})
        elif not is_stateless and method == _INITIALIZE:
            return _initialize(message.params)
        elif not is_stateless and method == "ping":
            return {}
        elif is_stateless and method == _DISCOVER:
            found = {"supportedVersions": REVISIONS, "capabilities": _OFFERED, "instructions": _INSTRUCTIONS}
        else:
            raise RpcError(METHOD_NOT_FOUND, f"there is no method {shortened(method)}")
        if not is_stateless:
            return found
        # Private, since what a client may see can depend on its key.
        fresh = {"ttlMs": 1_000 * self._config.reload_seconds, "cacheScope": "private"}
        return {**_stateless(found), **fresh}

    def _list_tools(self, params: Mapping[str, Any], models: Models) -> JSON:
        _check_cursor(params)
        return {"tools": [self._tools.describe(model, self._config) for model in models.values()]}

    def _list_cards(self, params: Mapping[str, Any], models: Models) -> JSON:
        _check_cursor(params)
        return {
            "resources": [
                {
                    "uri": _CARD.format(name),
                    "name": f"{name}-card",
                    "title": f"Model card: {model.manifest.title}",
                    "description": f"Purpose, data, errors and limits of {name}",
                    "mimeType": "text/markdown",
                }
                for name, model in models.items()
            ]
        }

    def _read_card(self, params: Mapping[str, Any], models: Models) -> JSON:
        uri = params.get("uri")
        for name, model in models.items():
            if uri == _CARD.format(name):
                text = card_of(model.manifest.document, model.card)
                return {"contents": [{"uri": uri, "mimeType": "text/markdown", "text": text}]}
        raise RpcError(INVALID_PARAMS, "there is no such resource; see resources/list", {"uri": shortened(str(uri))})


def _is_stateless(message: Message, environ: WSGIEnvironment) -> bool:
    """Return whether a message is of the revision without a handshake; raise `RpcError` if its headers do not fit."""
    header = environ.get("HTTP_MCP_PROTOCOL_VERSION")
    meta = message.params.get("_meta")
    named = meta.get(_REVISION) if isinstance(meta, dict) else None
    if header is not None and header not in REVISIONS and named in (None, header):
        raise _unsupported(header)
    if named is None and header != STATELESS:
        return False
    if message.id is None:  # headers are not defined for notifications
        return True
    if not isinstance(meta, dict) or _REVISION not in meta or _CAPABILITIES not in meta:
        raise RpcError(INVALID_PARAMS, f"params._meta is not an object with {_REVISION} and {_CAPABILITIES}")
    expected = {"MCP-Protocol-Version": named, "Mcp-Method": message.method}
    if message.method in _NAMES:
        expected["Mcp-Name"] = message.params.get(_NAMES[message.method])
    for name, value in expected.items():
        sent = environ.get(f"HTTP_{name.upper().replace('-', '_')}")
        if sent is None or (_decoded(sent) if name == "Mcp-Name" else sent) != value:
            raise RpcError(HEADER_MISMATCH, f"the header {name} is not what the message says")
    if named != STATELESS:
        raise _unsupported(named)
    return True


def _unsupported(revision: Any) -> RpcError:
    data = {"supported": list(REVISIONS), "requested": shortened(str(revision))}
    return RpcError(UNSUPPORTED_REVISION, f"the protocol version is none of {', '.join(REVISIONS)}", data)


def _decoded(header: str) -> str | None:
    """Return the text of a header that may be in base64; None if it is malformed."""
    start, end = _BASE64
    if not (header.startswith(start) and header.endswith(end)):
        return header
    try:
        return base64.b64decode(header.removeprefix(start).removesuffix(end), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None


def _initialize(params: Mapping[str, Any]) -> JSON:
    wanted = params.get("protocolVersion")
    return {
        "protocolVersion": wanted if wanted in WITH_HANDSHAKE else WITH_HANDSHAKE[-1],
        "capabilities": _OFFERED,
        "serverInfo": _SERVER,
        "instructions": _INSTRUCTIONS,
    }


def _may_use(environ: WSGIEnvironment, name: str) -> bool:
    """Return whether the key of a request, if one is asked for, has the scope of a model."""
    caller = exchange_of(environ).caller
    return caller is None or caller.may(predict(name))


def _list_templates(params: Mapping[str, Any], models: Models) -> JSON:
    _check_cursor(params)
    return {"resourceTemplates": []}


def _check_cursor(params: Mapping[str, Any]) -> None:
    """Raise `RpcError` for a cursor: every list is one page."""
    if params.get("cursor") is not None:
        raise RpcError(INVALID_PARAMS, "there is no further page")


def _stateless(result: JSON) -> JSON:
    return {**result, "resultType": "complete", "_meta": {_SERVER_INFO: _SERVER}}


def _called(message: Message, answer: Reply, exchange: Exchange, *, is_stateless: bool) -> Reply:
    """Return the reply to a call: the model's answer, or why there is none.

    Values that are refused are a result, which the agent reads and corrects. What is no fault of the call is an error
    of the protocol.
    """
    text = answer.body.decode()
    exchange.is_refused = answer.status >= 400
    if exchange.is_refused:
        error = RpcError(**orjson.loads(answer.body))
        if answer.status >= 500:
            return _failure(message.id, error, status=answer.status, headers=answer.headers)
        text = f"{error}. Correct this and call the tool again."
    result: JSON = {"content": [{"type": "text", "text": text}], "isError": exchange.is_refused}
    if not exchange.is_refused:
        result["structuredContent"] = orjson.Fragment(answer.body)
    reply = to_json(json_rpc.result(message.id, _stateless(result) if is_stateless else result))
    reply.headers = answer.headers
    return reply


def _failure(id: json_rpc.Id, error: RpcError, *, status: int, headers: Sequence[tuple[str, str]] = ()) -> Reply:
    document = json_rpc.error(id, error.code, str(error), error.data)
    return Reply(orjson.dumps(document), status=status, headers=list(headers))


def _with_own_exchange(environ: WSGIEnvironment) -> WSGIEnvironment:
    """Return a request's environment with another exchange, which has an id of its own."""
    outer = exchange_of(environ)
    own = Exchange(request_id({}), outer.method, outer.route, traceparent=outer.traceparent, caller=outer.caller)
    return {**environ, KEY: own}


def _operation() -> JSON:
    """Return the operation in the OpenAPI document."""
    message = {
        "type": "object",
        "required": ["jsonrpc", "method"],
        "properties": {
            "jsonrpc": {"const": json_rpc.VERSION},
            "id": {"type": ["string", "number"], "description": "a message without it is not answered"},
            "method": {"type": "string"},
            "params": {"type": "object"},
        },
    }
    batch = {"type": "array", "minItems": 1, "maxItems": MAX_BATCH, "description": f"messages; {WITH_BATCHES} alone"}
    example = {"jsonrpc": json_rpc.VERSION, "id": 1, "method": "tools/list"}
    content = {JSON_TYPE: {"schema": {"anyOf": [message, batch]}, "example": example}}
    reply = {"type": ["object", "array"], "description": "the result of each message, or why there is none"}
    more = {"403": "the page of a browser has an origin that is not allowed"}
    operation = describe.post(describe.MCP, "Messages of an agent", content, reply, describe.RPC_ERROR, unfit=more)
    operation["responses"]["202"] = {"description": "nothing is to be answered"}
    revision = {"name": "MCP-Protocol-Version", "in": "header", "schema": {"enum": list(REVISIONS)}}
    repeated = [{"name": name, "in": "header", "schema": {"type": "string"}} for name in ("Mcp-Method", "Mcp-Name")]
    return {**operation, "parameters": [revision, *repeated]}
