"""A purchase is one trace across all its services and events, and a collector receives it by OTLP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from admitone.kernel.tracing import current_traceparent, export_traces, record_spans, trace_span
from admitone.local.server import LOOPBACK
from tests import engines
from tests.support import StartNats, eventually
from tests.system.support import WITH_MONEY, marketplace

TRACE = "0af7651916cd43dd8448eb211c80319c"
BUYER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


async def test_a_purchase_is_one_trace_across_orders_tickets_and_payments(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    spans = InMemorySpanExporter()
    async with (
        marketplace(databases, start_nats, *WITH_MONEY) as market,
        market.person("alice") as alice,
        market.person("bob") as bob,
    ):
        ticket = await market.lists(alice)
        with record_spans("admitone", SimpleSpanProcessor(spans)):
            reserved = await bob.post("/api/orders", json={"ticketId": ticket["id"]}, headers=BUYER)
            order = reserved.json()
            body = {"orderId": order["id"], "token": "tok_visa"}
            paid = await bob.post("/api/payments", json=body, headers=BUYER)
            assert paid.status_code == 201, paid.text
            await market.order_becomes(bob, order, "complete")
            await market.ticket_becomes(ticket, "sold")
            await market.settled()
    of_purchase = [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE]
    names = {span.name for span in of_purchase}
    assert names >= {
        "orders POST /api/orders",
        "tickets consumes OrderCreated",
        "payments consumes OrderCreated",
        "orders consumes TicketUpdated",
        "payments POST /api/payments",
        "orders consumes PaymentAuthorized",
        "payments consumes OrderAwaitingPayment",
        "orders consumes PaymentCreated",
        "tickets consumes OrderCompleted",
    }
    assert_every_span_has_its_parent(of_purchase)


def assert_every_span_has_its_parent(spans: list[ReadableSpan]) -> None:
    """Assert that each span's parent was recorded as well, or is the buyer's own span."""
    known = {span.context.span_id for span in spans} | {int(BUYER["traceparent"].split("-")[2], 16)}
    assert [span.name for span in spans if span.parent is None or span.parent.span_id not in known] == []


async def test_spans_reach_a_collector_over_http() -> None:
    def work(url: str) -> None:
        with export_traces("orders", url), trace_span(BUYER["traceparent"], "orders POST /api/orders"):
            pass

    async with collector() as (url, received):
        await asyncio.to_thread(work, url)  # the end waits for the collector, which runs in this loop

        async def has_arrived() -> bool:
            return bool(received)

        await eventually(has_arrived, "the collector has the span")
    (resource,) = received[0].resource_spans
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("orders POST /api/orders", TRACE)
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "orders"


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """Run an OTLP collector; yield its URL and what it receives."""
    received: list[ExportTraceServiceRequest] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("post /v1/traces")
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        received.append(ExportTraceServiceRequest.FromString(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(accept, LOOPBACK, 0)
    async with server:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}", received


def test_a_failed_span_is_marked_and_an_unsampled_one_is_not_recorded() -> None:
    spans = InMemorySpanExporter()
    with record_spans("orders", SimpleSpanProcessor(spans)):
        with pytest.raises(ZeroDivisionError), trace_span(None, "fails"):
            raise ZeroDivisionError
        with trace_span(BUYER["traceparent"][:-1] + "0", "is not sampled"):
            pass
    (failed,) = spans.get_finished_spans()
    assert failed.name == "fails"
    assert not failed.status.is_ok
    assert failed.parent is None


def test_without_a_collector_a_span_has_ids_and_is_not_recorded() -> None:
    with export_traces("orders", ""), trace_span(None, "work") as span:
        assert not span.is_recording()
        assert str(current_traceparent()).startswith("00-")
