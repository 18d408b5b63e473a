"""Sends the spans of `trace` to an OpenTelemetry collector, where the extra `admitone[tracing]` is installed."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from admitone import __version__
from admitone.kernel.trace import Span, record_with

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
    from opentelemetry.trace import SpanContext

log = logging.getLogger(__name__)

_SAMPLED = "01"
_NANOSECONDS = 1_000_000_000


@contextmanager
def exported(service: str, endpoint: str) -> Iterator[None]:
    """Send every sampled span to the collector at `endpoint`, by OTLP over HTTP, for as long as the block lasts."""
    if not endpoint:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 – an extra
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
    except ImportError:
        log.warning("traces are not sent: install admitone[tracing]")
        yield
        return
    with recorded(service, BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces"))):
        yield


@contextmanager
def recorded(service: str, processor: "SpanProcessor") -> Iterator[None]:
    """Hand every sampled span to an OpenTelemetry span processor, which is shut down at the end."""
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 – an extra

    resource = Resource.create({"service.name": service, "service.version": __version__})

    def record(span: Span) -> None:
        if span.traceparent.endswith(_SAMPLED):
            processor.on_end(_readable(span, resource))

    record_with(record)
    try:
        yield
    finally:
        record_with(None)
        processor.shutdown()


def _readable(span: Span, resource: "Resource") -> "ReadableSpan":
    from opentelemetry.sdk.trace import ReadableSpan  # noqa: PLC0415 – an extra
    from opentelemetry.trace import Status, StatusCode  # noqa: PLC0415

    return ReadableSpan(
        name=span.name,
        context=_context(span.traceparent),
        parent=_context(span.parent) if span.parent else None,
        resource=resource,
        attributes=dict(span.facts),
        status=Status(StatusCode.ERROR if span.has_failed else StatusCode.UNSET),
        start_time=_nanoseconds(span.began),
        end_time=_nanoseconds(span.ended),
    )


def _context(traceparent: str) -> "SpanContext":
    from opentelemetry.trace import SpanContext, TraceFlags  # noqa: PLC0415 – an extra

    _, trace_id, span_id, flags = traceparent.split("-")
    return SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=False, trace_flags=TraceFlags(int(flags, 16)))


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * _NANOSECONDS)
