"""Metrics: requests by route, waits for connections, queues, and the services' own gauges."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import prometheus_client
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel import clock
from admitone.kernel.database.pool import Database
from admitone.kernel.http.server import CannotListen, bind_socket
from admitone.kernel.metrics import BOUNDS, FAMILIES, RequestMetrics
from admitone.kernel.runner import App, serve
from admitone.kernel.service import Gauge, Service
from admitone.kernel.settings import Settings, SettingsError
from admitone.local.server import LOOPBACK, free_port
from admitone.orders.service import SERVICE as ORDERS
from admitone.registry import AUTHORITY, SERVICES
from admitone.tickets.service import SERVICE as TICKETS
from tests.engines import Databases
from tests.support import StartNats, eventually, running_app, settings_for, signed_in

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def samples_of(app: App) -> Samples:
    return parsed((await app.metrics().text()).decode())


def parsed(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


@asynccontextmanager
async def measured_app(databases: Databases, start_nats: StartNats, *services: Service) -> AsyncIterator[App]:
    async with running_app(
        databases, start_nats, *services, metrics_port=free_port(), nats_stream_bytes=10_000_000
    ) as app:
        yield app


async def test_requests_are_counted_by_route_and_status(databases: Databases, start_nats: StartNats) -> None:
    async with measured_app(databases, start_nats, AUTH, TICKETS) as app:
        alice = signed_in(app, "alice")
        listed = await alice.post("/api/tickets", json={"title": "Row 1", "price": 20})
        for _ in range(3):
            assert (await alice.get(f"/api/tickets/{listed.json()['id']}")).status_code == 200
        assert (await alice.get("/api/tickets/nonsense")).status_code == 404
        assert (await alice.get("/api/tickets/nonsense/nowhere")).status_code == 404
        samples = await samples_of(app)
    name = "admitone_request_seconds_count"
    assert value(samples, name, method="GET", route="/api/tickets/{id}", status="200") == 3
    assert value(samples, name, method="GET", route="/api/tickets/{id}", status="404") == 1
    assert value(samples, name, method="POST", route="/api/tickets", status="201") == 1
    assert value(samples, name, method="GET", route="none", status="404") == 1, (
        "an unknown path does not become a label"
    )
    bucket = "admitone_request_seconds_bucket"
    assert value(samples, bucket, method="GET", route="/api/tickets/{id}", status="200", le="+Inf") == 3


async def test_queues_connections_and_the_services_gauges_are_exposed(
    databases: Databases, start_nats: StartNats
) -> None:
    async with measured_app(databases, start_nats, AUTH, TICKETS, ORDERS) as app:
        alice, bob = signed_in(app, "alice"), signed_in(app, "bob")
        ticket = (await alice.post("/api/tickets", json={"title": "Row 1", "price": 20})).json()["id"]

        async def bought() -> bool:
            return (await bob.post("/api/orders", json={"ticketId": ticket})).status_code == 201

        await eventually(bought, "the ticket has reached orders")

        async def all_is_consumed() -> Samples | None:
            samples = await samples_of(app)
            waiting = [value(samples, "admitone_outbox_unpublished", service=each) for each in ("tickets", "orders")]
            key = ("admitone_consumer_unacknowledged", frozenset({("service", "tickets"), ("producer", "orders")}))
            return samples if not any(waiting) and samples.get(key) == 0 else None

        samples = await eventually(all_is_consumed, "every event is published and consumed")
    assert value(samples, "admitone_orders", service="orders", status="created") == 1
    assert value(samples, "admitone_lock_overdue_seconds", service="orders") == 0
    for service in ("auth", "tickets", "orders"):
        assert value(samples, "admitone_database_up", service=service) == 1
        assert value(samples, "admitone_bus_connected", service=service) == 1
        assert value(samples, "admitone_relay_leading", service=service) == 1
        assert (value(samples, "admitone_stream_bytes", service=service) > 0) == (service != "auth")
        assert value(samples, "admitone_stream_bytes_max", service=service) == 10_000_000
        assert value(samples, "admitone_dead_letters", service=service) == 0
        assert value(samples, "admitone_pool_refusals_total", service=service) == 0
    assert value(samples, "admitone_consumer_pending", service="tickets", producer="orders") == 0
    assert {name for name, _ in samples if name.startswith("admitone_")} <= {
        *(f"{name}{end}" for name in FAMILIES for end in ("", "_total", "_bucket", "_count", "_sum")),
        *(gauge.name for gauge in ORDERS.gauges),
    }
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)


async def test_the_metrics_of_a_process_are_exposed_once_however_often_they_are_asked_for(
    databases: Databases, start_nats: StartNats
) -> None:
    async with measured_app(databases, start_nats, AUTH) as app:
        texts = [(await app.metrics().text()).decode() for _ in range(2)]
    for text in texts:
        for name in ("process_resident_memory_bytes", "python_info", "python_gc_collections_total"):
            assert text.count(f"# HELP {name} ") == 1


async def test_a_gauge_that_cannot_be_read_is_left_out_and_does_not_make_the_database_look_down(
    databases: Databases, start_nats: StartNats
) -> None:
    async def slow(database: Database) -> float:
        return float(await database.fetchval("SELECT 1 FROM pg_sleep(5)"))

    gauges = (Gauge("admitone_slow", "Takes longer than a scrape", slow), *ORDERS.gauges)
    async with measured_app(databases, start_nats, AUTH, dataclasses.replace(ORDERS, gauges=gauges)) as app:
        samples = await samples_of(app)
    assert value(samples, "admitone_database_up", service="orders") == 1
    assert value(samples, "admitone_lock_overdue_seconds", service="orders") == 0
    assert not [name for name, _ in samples if name == "admitone_slow"]


async def test_what_cannot_be_read_from_the_database_is_left_out(databases: Databases, start_nats: StartNats) -> None:
    async with measured_app(databases, start_nats, AUTH) as app:
        await app.running["auth"].database._pool.expire_connections()
        held = [await app.running["auth"].database._pool.acquire() for _ in range(5)]
        samples = await samples_of(app)
        for connection in held:
            await app.running["auth"].database._pool.release(connection)
        assert value(samples, "admitone_database_up", service="auth") == 0
        assert ("admitone_outbox_unpublished", frozenset({("service", "auth")})) not in samples
        samples = await samples_of(app)
        assert value(samples, "admitone_pool_refusals_total", service="auth") >= 1
        assert value(samples, "admitone_database_up", service="auth") == 1


async def test_a_taken_metrics_port_is_reported_with_its_own_setting() -> None:
    with bind_socket(LOOPBACK, free_port()) as other:
        other.listen()
        taken = other.getsockname()[1]
        settings = Settings(port=free_port(), metrics_port=taken)
        with pytest.raises(CannotListen, match=f"Port {taken} is taken .*; ADMITONE_METRICS_PORT chooses another"):
            await serve([AUTH], settings, AUTHORITY)


async def test_a_metrics_port_that_is_the_public_port_is_refused() -> None:
    port = free_port()
    with pytest.raises(SettingsError, match="ADMITONE_METRICS_PORT must not be ADMITONE_PORT"):
        await serve([AUTH], Settings(port=port, metrics_port=port), AUTHORITY)


async def test_metrics_are_served_on_another_port(databases: Databases, start_nats: StartNats) -> None:
    public, metrics = free_port(), free_port()
    settings = await settings_for(databases, start_nats, AUTH, port=public, metrics_port=metrics)
    stop, ready = asyncio.Event(), asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    serving = asyncio.create_task(serve([AUTH], settings, AUTHORITY, stop=stop, on_ready=on_ready))
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        async with httpx.AsyncClient() as client:
            response = await client.get(f"http://{LOOPBACK}:{metrics}/metrics")
            assert response.headers["content-type"].startswith("text/plain")
            assert "admitone_database_up" in response.text
            assert (await client.get(f"http://{LOOPBACK}:{public}/metrics")).status_code == 404
    finally:
        stop.set()
        await serving


async def test_a_bucket_counts_every_request_up_to_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = CollectorRegistry()
    seconds = iter([0.0005, 0.001, 0.002, 0.3, 99])
    now = 0.0
    monkeypatch.setattr(clock, "_monotonic_source", lambda: now)

    async def takes_time(_scope: Scope, _receive: Receive, send: Send) -> None:
        nonlocal now
        now = next(seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        now = 0.0

    async def receive() -> Message:
        raise AssertionError("the application reads no body")

    async def send(_message: Message) -> None:
        """The response is not looked at."""

    measured = RequestMetrics(takes_time, registry)
    for _ in range(5):
        await measured({"type": "http", "method": "GET"}, receive, send)

    samples = parsed(prometheus_client.generate_latest(registry).decode())
    labels = {"method": "GET", "route": "none", "status": "200"}
    buckets = {
        bound: value(samples, "admitone_request_seconds_bucket", **labels, le=str(bound)) for bound in (*BOUNDS, "+Inf")
    }
    assert buckets[0.001] == 2
    assert buckets[0.0025] == 3
    assert buckets[0.5] == 4
    assert buckets[5.0] == 4
    assert buckets["+Inf"] == 5
    assert value(samples, "admitone_request_seconds_sum", **labels) == pytest.approx(99.3035)
    assert sum(name == "admitone_request_seconds_bucket" for name, _ in samples) == len(BOUNDS) + 1


def test_names_follow_the_conventions_of_prometheus() -> None:
    names = [*FAMILIES, *(gauge.name for service in SERVICES for gauge in service.gauges)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"admitone_[a-z_]+", name) for name in names)
