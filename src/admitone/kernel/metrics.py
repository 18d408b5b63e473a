"""Metrics in the Prometheus text format, on a port of their own.

Requests are counted as they happen; what is in the database or on the bus is read at each scrape, and left out if it
cannot be read.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admitone.kernel import clock
from admitone.kernel.database.pool import UNREACHABLE, Database
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.app import send_response
from admitone.kernel.http.operations import OK, Response
from admitone.kernel.messaging import bus as buses
from admitone.kernel.messaging.outbox import Relay
from admitone.kernel.running import RunningService

log = logging.getLogger(__name__)

# Upper bounds of the histogram's buckets, in seconds.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_NO_ROUTE: Final = "none"
_READ_TIMEOUT_SECONDS: Final = 2.0
_TEXT_FORMAT: Final = (b"content-type", b"text/plain; version=1.0.0; charset=utf-8")

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

_OUTBOX: Final = """
SELECT count(*) AS unpublished, coalesce(extract(epoch FROM instant() - min(recorded_at)), 0)::float8 AS age
FROM outbox WHERE stream_sequence IS NULL
"""
_DEAD_LETTERS: Final = """
SELECT count(*) FILTER (WHERE given_up_at IS NOT NULL) AS given_up,
       count(*) FILTER (WHERE given_up_at IS NULL) AS failing
FROM dead_letter
"""


@dataclass(frozen=True)
class Gauge:
    """A number that a service reads from its database: one, or one for each value of a label.

    It is read at most every `every_seconds`, however often it is scraped.
    """

    name: str
    description: str
    read: Callable[[Database], Awaitable[float | Mapping[str, float]]]
    label: str | None = None
    every_seconds: float = 0.0


@dataclass(frozen=True)
class Target:
    """What is measured of one running service: its database, its relay, its consumers and its own gauges."""

    service: RunningService
    relay: Relay | None
    producers: Sequence[str]
    gauges: Sequence[Gauge]
    values_read: dict[str, tuple[float, float | Mapping[str, float]]] = field(default_factory=dict)


# Name → description and labels of everything that is exposed; dashboards and alert rules are tested against it.
FAMILIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "admitone_request_seconds": ("Time until the response began", ("method", "route", "status")),
    "admitone_pool_waits": ("Waits for a database connection", ("service",)),
    "admitone_pool_wait_seconds": ("Time spent waiting for database connections", ("service",)),
    "admitone_pool_refusals": ("Waits that ended without a database connection", ("service",)),
    "admitone_database_up": ("Whether the service's database can be read", ("service",)),
    "admitone_bus_connected": ("Whether the service is connected to the bus", ("service",)),
    "admitone_relay_leading": ("Whether this process publishes the service's events", ("service",)),
    "admitone_outbox_unpublished": ("Events the bus has not acknowledged", ("service",)),
    "admitone_outbox_age_seconds": ("Age of the oldest unacknowledged event", ("service",)),
    "admitone_consumer_pending": ("Events on the bus that were not delivered yet", ("service", "producer")),
    "admitone_consumer_unacknowledged": ("Events delivered and not acknowledged", ("service", "producer")),
    "admitone_dead_letters": ("Dead letters that wait for an operator", ("service",)),
    "admitone_failing_events": ("Events that failed and will be retried", ("service",)),
}
_COUNTERS: Final = frozenset({"admitone_pool_waits", "admitone_pool_wait_seconds", "admitone_pool_refusals"})


class RequestMetrics:
    """ASGI middleware that counts requests by method, route and status; time runs until the response begins."""

    def __init__(self, app: ASGIApp, routes: Iterable[BaseRoute], registry: CollectorRegistry) -> None:
        self._app = app
        # The router leaves the endpoint in the scope. A path would be a label with unbounded values.
        self._templates: dict[object, str] = {each.endpoint: each.path for each in routes if isinstance(each, Route)}
        name = "admitone_request_seconds"
        self._seconds = Histogram(name, *FAMILIES[name], buckets=BOUNDS, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = clock.monotonic_seconds()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = self._templates.get(scope.get("endpoint"), _NO_ROUTE)
                seconds = clock.monotonic_seconds() - began
                self._seconds.labels(scope["method"], route, message["status"]).observe(seconds)
            await send(message)

        await self._app(scope, receive, send_and_count)


class _Scrape:
    """The families that one scrape reads; a collector of those that have samples."""

    def __init__(self) -> None:
        self._families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}

    def add(self, name: str, value: float, *labels: str) -> None:
        self.add_to(name, *FAMILIES[name], value, *labels)

    def add_to(self, name: str, description: str, label_names: Sequence[str], value: float, *labels: str) -> None:
        if name not in self._families:
            family = CounterMetricFamily if name in _COUNTERS else GaugeMetricFamily
            self._families[name] = family(name, description, labels=label_names)
        self._families[name].add_metric(labels, value)

    def collect(self) -> Iterable[Metric]:
        return self._families.values()


class Metrics:
    """The ASGI application of the metrics port: every response is the metrics of this process."""

    def __init__(self, targets: Sequence[Target], registry: CollectorRegistry) -> None:
        self._targets = targets
        self._registry = registry
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=registry)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(send, Response(OK, await self.text(), (_TEXT_FORMAT,)))

    async def text(self) -> bytes:
        """Read what has to be read and return everything in the Prometheus text format."""
        scrape = _Scrape()
        await asyncio.gather(*(_read(each, scrape) for each in self._targets))
        scraped = CollectorRegistry()
        scraped.register(scrape)
        return prometheus_client.generate_latest(scraped) + prometheus_client.generate_latest(self._registry)


async def _read(target: Target, scrape: _Scrape) -> None:
    service = target.service
    scrape.add("admitone_bus_connected", service.bus.is_connected, service.name)
    if target.relay is not None:
        scrape.add("admitone_relay_leading", target.relay.is_leading, service.name)
    if service.maybe_database is not None:
        waits = service.database.waits
        scrape.add("admitone_pool_waits", waits.count, service.name)
        scrape.add("admitone_pool_wait_seconds", waits.seconds, service.name)
        scrape.add("admitone_pool_refusals", waits.refused, service.name)
        is_up = await _was_read(target, _read_database(target, scrape))
        scrape.add("admitone_database_up", is_up, service.name)
    if service.bus.is_connected:
        for producer in target.producers:
            await _was_read(target, _read_consumer(target, producer, scrape))


async def _was_read(target: Target, reading: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
            await reading
    except (Unavailable, *UNREACHABLE, *buses.UNREACHABLE) as error:
        extra = {"service": target.service.name, "error": str(error) or repr(error)}
        log.info("metrics cannot be read", extra=extra)
        return False
    return True


async def _read_database(target: Target, scrape: _Scrape) -> None:
    name, database = target.service.name, target.service.database
    outbox = await database.fetchrow(_OUTBOX)
    letters = await database.fetchrow(_DEAD_LETTERS)
    assert outbox is not None
    assert letters is not None
    scrape.add("admitone_outbox_unpublished", outbox["unpublished"], name)
    scrape.add("admitone_outbox_age_seconds", outbox["age"], name)
    scrape.add("admitone_dead_letters", letters["given_up"], name)
    scrape.add("admitone_failing_events", letters["failing"], name)
    for gauge in target.gauges:
        value = await _value(target, gauge)
        if isinstance(value, Mapping):
            labels = ("service", gauge.label or "")
            for label, each in value.items():
                scrape.add_to(gauge.name, gauge.description, labels, each, name, label)
        else:
            scrape.add_to(gauge.name, gauge.description, ("service",), value, name)


async def _value(target: Target, gauge: Gauge) -> float | Mapping[str, float]:
    now = clock.monotonic_seconds()
    read_at, value = target.values_read.get(gauge.name, (float("-inf"), 0.0))
    if now - read_at >= gauge.every_seconds:
        value = await gauge.read(target.service.database)
        target.values_read[gauge.name] = (now, value)
    return value


async def _read_consumer(target: Target, producer: str, scrape: _Scrape) -> None:
    service = target.service
    consumer = await service.bus.jetstream.consumer_info(producer, service.name)
    scrape.add("admitone_consumer_pending", consumer.num_pending or 0, service.name, producer)
    scrape.add("admitone_consumer_unacknowledged", consumer.num_ack_pending or 0, service.name, producer)
