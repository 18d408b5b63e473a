"""W3C trace context across requests, the outbox and the bus, and its export to an OpenTelemetry collector.

Without a collector a span costs two random ids: they connect log lines. With one, spans are the SDK's.
Source: W3C Trace Context, §3.2 (traceparent).
"""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    TraceFlags,
    Tracer,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from admitone import __version__
from admitone.kernel import ids

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import SpanProcessor

log = logging.getLogger(__name__)

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)

# The tracer of the collector that is configured, if any: tracing is on or off for the whole process.
_tracer: Tracer | None = None


def current_traceparent() -> str | None:
    """Return the traceparent of the current span, or None outside of a span."""
    context = get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


@lru_cache(1024)  # an event is consumed by several services, and parsing takes longer than the rest of a span
def _parent(traceparent: str) -> Context:
    return _PROPAGATOR.extract({"traceparent": traceparent}, Context())


@contextmanager
def trace_span(traceparent: str | None, name: str = "work") -> Iterator[Span]:
    """Run the block in a span that continues the given trace, or begins one if there is none or it is malformed."""
    parent = _parent(traceparent) if traceparent else Context()
    if _tracer is not None:
        with _tracer.start_as_current_span(name, parent) as span:
            yield span
        return
    before = get_current_span(parent).get_span_context()
    if before.is_valid:
        trace_id, span_id, flags = before.trace_id, int(ids.new_token(8), 16), before.trace_flags
    else:
        token = ids.new_token(16 + 8)
        trace_id, span_id, flags = int(token[:32], 16), int(token[32:], 16), _SAMPLED
    unrecorded = NonRecordingSpan(SpanContext(trace_id, span_id, is_remote=False, trace_flags=flags))
    # `use_span` would do the same, and takes twice as long for the errors that it can record.
    attached = attach(set_span_in_context(unrecorded))
    try:
        yield unrecorded
    finally:
        detach(attached)


def export_traces(service: str, endpoint: str) -> AbstractContextManager[None]:
    """Send every sampled span to the collector at `endpoint`, by OTLP over HTTP, for as long as the block lasts.

    Needs the extra `admitone[tracing]`; without it, or without an endpoint, nothing is sent.
    """
    if not endpoint:
        return nullcontext()
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 – an extra
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("traces are not sent: install admitone[tracing]")
        return nullcontext()
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")
    return record_spans(service, BatchSpanProcessor(exporter))


@contextmanager
def record_spans(service: str, processor: "SpanProcessor") -> Iterator[None]:
    """Pass every sampled span to an OpenTelemetry span processor, which is shut down at the end."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 – an extra
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415

    global _tracer  # noqa: PLW0603
    resource = Resource.create({"service.name": service, "service.version": __version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(processor)
    _tracer = provider.get_tracer("admitone", __version__)
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()
