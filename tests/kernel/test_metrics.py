"""What an operator sees: requests by route, waits, queues, and the marketplace's own numbers."""

import asyncio
import re
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.metrics import BOUNDS, FAMILIES, Timings
from admitone.kernel.runner import App, serve
from admitone.local.server import LOOPBACK, free_port
from admitone.orders.service import SERVICE as ORDERS
from admitone.registry import SERVICES
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
async def measured_app(databases: Databases, start_nats: StartNats, *services: Any) -> Any:
    async with running_app(databases, start_nats, *services, metrics_port=free_port()) as app:
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
    assert value(samples, name, method="GET", route="none", status="404") == 1, "an unknown path is no label"
    bucket = "admitone_request_seconds_bucket"
    assert value(samples, bucket, method="GET", route="/api/tickets/{id}", status="200", le="+Inf") == 3


async def test_the_marketplace_s_own_numbers_are_shown(databases: Databases, start_nats: StartNats) -> None:
    async with measured_app(databases, start_nats, AUTH, TICKETS, ORDERS) as app:
        alice, bob = signed_in(app, "alice"), signed_in(app, "bob")
        ticket = (await alice.post("/api/tickets", json={"title": "Row 1", "price": 20})).json()["id"]

        async def bought() -> bool:
            return (await bob.post("/api/orders", json={"ticketId": ticket})).status_code == 201

        await eventually(bought, "orders knows the ticket")

        async def is_quiet() -> Samples | None:
            samples = await samples_of(app)
            waiting = [value(samples, "admitone_outbox_unpublished", service=each) for each in ("tickets", "orders")]
            key = ("admitone_consumer_unacknowledged", frozenset({("service", "tickets"), ("producer", "orders")}))
            return samples if not any(waiting) and samples.get(key) == 0 else None

        samples = await eventually(is_quiet, "every event is published and taken")
    assert value(samples, "admitone_orders", service="orders", status="created") == 1
    assert value(samples, "admitone_lock_overdue_seconds", service="orders") == 0
    for service in ("auth", "tickets", "orders"):
        assert value(samples, "admitone_database_up", service=service) == 1
        assert value(samples, "admitone_bus_connected", service=service) == 1
        assert value(samples, "admitone_relay_leading", service=service) == 1
        assert value(samples, "admitone_dead_letters", service=service) == 0
        assert value(samples, "admitone_pool_refusals_total", service=service) == 0
    assert value(samples, "admitone_consumer_pending", service="tickets", producer="orders") == 0
    assert {name for name, _ in samples if name.startswith("admitone_")} <= {
        *(f"{name}{end}" for name in FAMILIES for end in ("", "_total", "_bucket", "_count", "_sum")),
        *(gauge.name for gauge in ORDERS.gauges),
    }
    assert any(name == "process_resident_memory_bytes" for name, _ in samples)


async def test_a_database_that_is_away_leaves_its_numbers_out(databases: Databases, start_nats: StartNats) -> None:
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


async def test_metrics_have_a_port_of_their_own(databases: Databases, start_nats: StartNats) -> None:
    public, metrics = free_port(), free_port()
    settings = await settings_for(databases, start_nats, AUTH, port=public, metrics_port=metrics)
    stop, ready = asyncio.Event(), asyncio.Event()

    async def on_ready() -> None:
        ready.set()

    serving = asyncio.create_task(serve([AUTH], settings, stop=stop, on_ready=on_ready))
    try:
        async with asyncio.timeout(20):
            await ready.wait()
        async with httpx.AsyncClient() as client:
            answer = await client.get(f"http://{LOOPBACK}:{metrics}/metrics")
            assert answer.headers["content-type"].startswith("text/plain")
            assert "admitone_database_up" in answer.text
            assert (await client.get(f"http://{LOOPBACK}:{public}/metrics")).status_code == 404
    finally:
        stop.set()
        await serving


def test_buckets_hold_everything_up_to_their_bound() -> None:
    timings = Timings()
    for seconds in (0.0005, 0.001, 0.002, 0.3, 99):
        timings.observe(seconds)
    buckets = dict(timings.buckets())
    assert buckets["0.001"] == 2
    assert buckets["0.0025"] == 3
    assert buckets["0.5"] == 4
    assert buckets["5.0"] == 4
    assert buckets["+Inf"] == 5
    assert timings.total_seconds == pytest.approx(99.3035)
    assert len(buckets) == len(BOUNDS) + 1


def test_names_follow_prometheus_habits() -> None:
    names = [*FAMILIES, *(gauge.name for service in SERVICES for gauge in service.gauges)]
    assert len(names) == len(set(names))
    assert all(re.fullmatch(r"admitone_[a-z_]+", name) for name in names)
