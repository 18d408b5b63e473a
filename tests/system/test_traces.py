"""One purchase is one trace, however many services and events it takes; a collector gets it by OTLP."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from admitone.kernel.trace import following, record_with
from admitone.kernel.tracing import exported, recorded
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
        with recorded("admitone", SimpleSpanProcessor(spans)):
            reserved = await bob.post("/api/orders", json={"ticketId": ticket["id"]}, headers=BUYER)
            order = reserved.json()
            body = {"orderId": order["id"], "token": "tok_visa"}
            paid = await bob.post("/api/payments", json=body, headers=BUYER)
            assert paid.status_code == 201, paid.text
            await market.order_becomes(bob, order, "complete")
            await market.ticket_becomes(ticket, "sold")
            await market.all_told()
    mine = [span for span in spans.get_finished_spans() if f"{span.context.trace_id:032x}" == TRACE]
    done = {span.name for span in mine}
    assert done >= {
        "orders POST /api/orders",
        "tickets hears OrderCreated",
        "payments hears OrderCreated",
        "orders hears TicketUpdated",
        "payments POST /api/payments",
        "orders hears PaymentAuthorized",
        "payments hears OrderAwaitingPayment",
        "orders hears PaymentCreated",
        "tickets hears OrderCompleted",
    }
    assert_every_span_has_its_cause(mine)


def assert_every_span_has_its_cause(spans: list[ReadableSpan]) -> None:
    """Each span hangs on one that is here too, up to the buyer's own."""
    known = {span.context.span_id for span in spans} | {int(BUYER["traceparent"].split("-")[2], 16)}
    assert [span.name for span in spans if span.parent is None or span.parent.span_id not in known] == []


async def test_spans_reach_a_collector_over_http() -> None:
    def work(url: str) -> None:
        with exported("orders", url), following(BUYER["traceparent"], "orders POST /api/orders"):
            pass

    async with collector() as (url, received):
        await asyncio.to_thread(work, url)  # the end waits for the collector, which lives in this loop

        async def has_come() -> bool:
            return bool(received)

        await eventually(has_come, "the collector has the span")
    (resource,) = received[0].resource_spans
    (span,) = resource.scope_spans[0].spans
    assert (span.name, span.trace_id.hex()) == ("orders POST /api/orders", TRACE)
    assert {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"] == "orders"


@asynccontextmanager
async def collector() -> AsyncIterator[tuple[str, list[ExportTraceServiceRequest]]]:
    """A collector of one route: what it was sent."""
    received: list[ExportTraceServiceRequest] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("post /v1/traces")
        length = int(head.partition("content-length:")[2].partition("\r\n")[0])
        received.append(ExportTraceServiceRequest.FromString(await reader.readexactly(length)))
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, LOOPBACK, 0)
    async with server:
        yield f"http://{LOOPBACK}:{server.sockets[0].getsockname()[1]}", received


def test_what_fails_is_marked_and_what_is_not_sampled_is_not_sent() -> None:
    spans = InMemorySpanExporter()
    with recorded("orders", SimpleSpanProcessor(spans)):
        with pytest.raises(ZeroDivisionError), following(None, "fails"):
            raise ZeroDivisionError
        with following(BUYER["traceparent"][:-1] + "0", "is not sampled"):
            pass
    (failed,) = spans.get_finished_spans()
    assert failed.name == "fails"
    assert not failed.status.is_ok
    assert failed.parent is None


def test_without_a_collector_nothing_is_recorded() -> None:
    with exported("orders", ""):
        record_with(None)
        with following(None, "work") as traceparent:
            assert traceparent.startswith("00-")
