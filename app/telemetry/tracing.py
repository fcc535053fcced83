"""Traces by OpenTelemetry: a span for a request and one for each of its steps, sent by OTLP over HTTP.

Spans are made from an exchange after its reply, by the recorder: no request waits for them, and a collector that is
slow or gone delays nothing. Only what is sampled costs anything. Of the SDK this uses spans and the exporter, whose
address and headers are the standard variables `OTEL_EXPORTER_OTLP_…`; what is sampled is decided here.

Sources: W3C Trace Context; OpenTelemetry's semantic conventions for HTTP servers.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace.propagation import set_span_in_context

from app.web.exchange import TRACEPARENT, UNMATCHED, Exchange, Trace
from model import VERSION

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer as SDKTracer

_STOP_SECONDS = 5  # how long a stopping worker waits for the collector, well within gunicorn's graceful timeout
_SAMPLED = 1  # the flag of a traceparent
_UNKNOWN_SERVICE = "unknown_service"  # how the SDK's default name begins


class Tracer:
    """Makes the spans of one process; `share` is that of the requests without a parent that are traced."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._provider: TracerProvider | None = None  # made in `start`: its thread does not survive a fork
        self._tracer: SDKTracer | None = None

    def start(self) -> None:
        """Start the thread that sends spans; call it once, in the worker process."""
        resource = Resource.create()  # with the standard variables
        if str(resource.attributes.get(SERVICE_NAME, "")).startswith(_UNKNOWN_SERVICE):
            resource = resource.merge(Resource({SERVICE_NAME: "tabserve", "service.version": VERSION}))
        provider = self._provider = TracerProvider(sampler=ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = provider.get_tracer("tabserve", VERSION)

    def record(self, exchanges: Iterable[Exchange]) -> list[Exchange]:
        """Make the spans of those exchanges that are sampled; return these, which know the ids of their spans."""
        if not self._tracer:
            return []
        traced = []
        for exchange in exchanges:
            parent = TRACEPARENT.fullmatch(exchange.traceparent) if exchange.traceparent else None
            if int(parent[3], 16) & _SAMPLED if parent else random.random() < self._share:
                context = Context()
                if parent:
                    remote = SpanContext(int(parent[1], 16), int(parent[2], 16), True, TraceFlags(TraceFlags.SAMPLED))
                    context = set_span_in_context(NonRecordingSpan(remote), context)
                self._add(exchange, context, self._tracer)
                traced.append(exchange)
        return traced

    def close(self) -> None:
        """Send what is left if the collector is fast enough, and stop."""
        if self._provider:
            stopping = threading.Thread(target=self._provider.shutdown, name="tracing-stop", daemon=True)
            stopping.start()
            stopping.join(_STOP_SECONDS)

    def _add(self, exchange: Exchange, context: Context, tracer: SDKTracer) -> None:
        trace = exchange.trace = exchange.trace or Trace()
        end = int(exchange.time * 1e9)
        at = end - int(exchange.seconds * 1e9)
        is_known = exchange.route != UNMATCHED
        span = tracer.start_span(
            f"{exchange.method} {exchange.route}" if is_known else exchange.method[:16],
            context,
            SpanKind.SERVER,
            dict(_attributes(exchange)),
            start_time=at,
        )
        inside = set_span_in_context(span, Context())
        for name, seconds in _steps(exchange, trace):
            step = tracer.start_span(name, inside, start_time=at)
            at += int(seconds * 1e9)
            step.end(at)
        if exchange.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        span.end(end)
        found = span.get_span_context()
        trace.trace_id, trace.span_id = f"{found.trace_id:032x}", f"{found.span_id:016x}"


def _attributes(exchange: Exchange) -> Iterator[tuple[str, str | int]]:
    yield "http.request.method", exchange.method[:16]
    if exchange.route != UNMATCHED:
        yield "http.route", exchange.route
    yield "http.response.status_code", exchange.status
    if exchange.status >= 500:
        yield "error.type", str(exchange.status)
    yield "tabserve.request_id", exchange.request_id
    if exchange.model:
        yield "tabserve.model.name", exchange.model.name
        yield "tabserve.model.version", exchange.model.version
        yield "tabserve.rows", exchange.rows


def _steps(exchange: Exchange, trace: Trace) -> Iterator[tuple[str, float]]:
    """Yield name and seconds of each step of a prediction in their order; together they are those of the request.

    A request that shared a run of the engine has its share of it. Encoding the answer of a challenger counts as
    decoding, since the champion's steps are timed.
    """
    if not trace.decoded_seconds:
        return
    decoded = min(trace.decoded_seconds, exchange.seconds - exchange.engine_seconds)
    yield "read", min(trace.read_seconds, decoded)
    yield "decode", max(decoded - trace.read_seconds, 0)
    if exchange.engine_seconds:
        yield "engine", exchange.engine_seconds
        if trace.explained_seconds:
            yield "explain", trace.explained_seconds
        yield "encode", max(exchange.seconds - exchange.engine_seconds - decoded - trace.explained_seconds, 0)
