"""Trace context, with and without the OpenTelemetry SDK."""

import pytest
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from admitone.kernel import ids
from admitone.kernel.tracing import current_traceparent, record_spans, trace_span

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"


@pytest.mark.parametrize(
    "traceparent",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
    ],
)
def test_a_missing_or_malformed_trace_is_replaced_by_a_new_one(traceparent: str | None) -> None:
    with trace_span(traceparent):
        here = current_traceparent()
        assert here is not None
        assert TRACE not in here
    assert current_traceparent() is None


@pytest.mark.parametrize(
    ("traceparent", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", "01"),
        (f"00-{TRACE}-{SPAN}-00", "00"),
        # A higher version is read as version 0 (W3C Trace Context, §4.1), and white space around the header is ignored.
        (f"01-{TRACE}-{SPAN}-01", "01"),
        (f"00-{TRACE}-{SPAN}-01\n", "01"),
    ],
)
def test_a_span_continues_its_trace_and_its_sampling(traceparent: str, flags: str) -> None:
    with trace_span(traceparent):
        version, trace, span, sampled = str(current_traceparent()).split("-")
    assert (version, trace, sampled) == ("00", TRACE, flags)
    assert span != SPAN


def test_without_the_sdk_ids_come_from_the_source_that_the_simulation_replaces() -> None:
    real = ids._uuid_source, ids._token_source
    ids.use_sources(ids._uuid_source, lambda size_bytes: "ab" * size_bytes)
    try:
        with trace_span(None):
            assert current_traceparent() == f"00-{'ab' * 16}-{'ab' * 8}-01"
        with trace_span(f"00-{TRACE}-{SPAN}-01"):
            assert current_traceparent() == f"00-{TRACE}-{'ab' * 8}-01"
    finally:
        ids.use_sources(*real)


def test_a_recorded_span_has_a_duration_and_says_whether_its_block_failed() -> None:
    spans = InMemorySpanExporter()
    with record_spans("orders", SimpleSpanProcessor(spans)):
        with trace_span(f"00-{TRACE}-{SPAN}-01", "succeeds") as span:
            assert current_traceparent() == f"00-{TRACE}-{span.get_span_context().span_id:016x}-01"
        with pytest.raises(ZeroDivisionError), trace_span(None, "fails"):
            raise ZeroDivisionError
    succeeded, failed = spans.get_finished_spans()
    assert (succeeded.name, succeeded.status.is_ok) == ("succeeds", True)
    assert (failed.name, failed.status.is_ok) == ("fails", False)
    assert [event.name for event in failed.events] == ["exception"]
    for each in (succeeded, failed):
        assert each.start_time is not None
        assert each.end_time is not None
        assert each.start_time <= each.end_time
    assert succeeded.parent is not None
    assert f"{succeeded.parent.span_id:016x}" == SPAN
    assert failed.parent is None
    assert succeeded.resource.attributes["service.name"] == "orders"
