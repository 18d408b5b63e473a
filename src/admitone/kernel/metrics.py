"""Metrics in the Prometheus text format, on a port of their own.

Requests are counted as they happen; what is in the database or on the bus is read at each scrape, and left out if it
cannot be read.
"""

import asyncio
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Final

import prometheus_client
from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admitone.kernel import clock
from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.app import send_response
from admitone.kernel.http.operations import OK, Response
from admitone.kernel.messaging import bus as buses
from admitone.kernel.running import RunningService
from admitone.kernel.service import Gauge, Hosted

log = logging.getLogger(__name__)

# Upper bounds of the histogram's buckets, in seconds.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_READ_TIMEOUT_SECONDS: Final = 2.0
_TEXT_FORMAT: Final = (b"content-type", b"text/plain; version=1.0.0; charset=utf-8")

prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]

# Each column is a family.
_QUEUES: Final = """
SELECT * FROM (
    SELECT count(*) AS admitone_outbox_unpublished,
           coalesce(extract(epoch FROM instant() - min(recorded_at)), 0)::float8 AS admitone_outbox_age_seconds
    FROM outbox WHERE stream_sequence IS NULL
) AS events, (
    SELECT count(*) FILTER (WHERE given_up_at IS NOT NULL) AS admitone_dead_letters,
           count(*) FILTER (WHERE given_up_at IS NULL) AS admitone_failing_events
    FROM dead_letter
) AS letters
"""

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
    "admitone_stream_bytes": ("Size of the service's events on the bus", ("service",)),
    "admitone_stream_bytes_max": ("Size that the service's events on the bus may have", ("service",)),
    "admitone_consumer_pending": ("Events on the bus that were not delivered yet", ("service", "producer")),
    "admitone_consumer_unacknowledged": ("Events delivered and not acknowledged", ("service", "producer")),
    "admitone_dead_letters": ("Dead letters that wait for an operator", ("service",)),
    "admitone_failing_events": ("Events that failed and will be retried", ("service",)),
}
_COUNTERS: Final = frozenset({"admitone_pool_waits", "admitone_pool_wait_seconds", "admitone_pool_refusals"})


def process_registry() -> CollectorRegistry:
    """Return a registry with what the library measures of a process and of its interpreter."""
    registry = CollectorRegistry()
    for collect in (ProcessCollector, PlatformCollector, GCCollector):
        collect(registry=registry)
    return registry


class RequestMetrics:
    """ASGI middleware that counts requests by method, route and status; time runs until the response begins."""

    def __init__(self, app: ASGIApp, registry: CollectorRegistry) -> None:
        self._app = app
        name = "admitone_request_seconds"
        self._seconds = Histogram(name, *FAMILIES[name], buckets=BOUNDS, registry=registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = clock.monotonic_seconds()

        async def send_and_count(message: Message) -> None:
            if message["type"] == "http.response.start":
                # The router leaves the route in the scope. Paths would be a label with unbounded values.
                route = scope["route"].path if "route" in scope else "none"
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

    def __init__(self, hosted: Sequence[Hosted], registry: CollectorRegistry) -> None:
        self._hosted = hosted
        self._registry = registry

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        await send_response(send, Response(OK, await self.text(), (_TEXT_FORMAT,)))

    async def text(self) -> bytes:
        """Read what has to be read and return everything in the Prometheus text format."""
        scrape = _Scrape()
        await asyncio.gather(*(self._read(each, scrape) for each in self._hosted))
        scraped = CollectorRegistry()
        scraped.register(scrape)
        return prometheus_client.generate_latest(scraped) + prometheus_client.generate_latest(self._registry)

    async def _read(self, hosted: Hosted, scrape: _Scrape) -> None:
        service = hosted.service
        scrape.add("admitone_bus_connected", service.bus.is_connected, service.name)
        if hosted.relay is not None:
            scrape.add("admitone_relay_leading", hosted.relay.is_leading, service.name)
        if service.maybe_database is not None:
            waits = service.database.waits
            scrape.add("admitone_pool_waits", waits.count, service.name)
            scrape.add("admitone_pool_wait_seconds", waits.seconds, service.name)
            scrape.add("admitone_pool_refusals", waits.refused, service.name)
            is_up = await _was_read(service.name, _read_queues(service, scrape))
            scrape.add("admitone_database_up", is_up, service.name)
            for gauge in hosted.declaration.gauges if is_up else ():
                await _was_read(service.name, _read_gauge(service, gauge, scrape))
        if service.bus.is_connected:
            if hosted.relay is not None:
                await _was_read(service.name, _read_stream(service, scrape))
            for producer in hosted.declaration.producers:
                await _was_read(service.name, _read_consumer(service, producer, scrape))


async def _read_queues(service: RunningService, scrape: _Scrape) -> None:
    queues = await service.database.fetchrow(_QUEUES)
    assert queues is not None
    for family, length in queues.items():
        scrape.add(family, length, service.name)


async def _read_gauge(service: RunningService, gauge: Gauge, scrape: _Scrape) -> None:
    value = await gauge.read(service.database)
    if isinstance(value, Mapping):
        labels = ("service", gauge.label or "")
        for label, each in value.items():
            scrape.add_to(gauge.name, gauge.description, labels, each, service.name, label)
    else:
        scrape.add_to(gauge.name, gauge.description, ("service",), value, service.name)


async def _was_read(service: str, reading: Awaitable[None]) -> bool:
    try:
        async with asyncio.timeout(_READ_TIMEOUT_SECONDS):
            await reading
    except (Unavailable, *UNREACHABLE, *buses.UNREACHABLE) as error:
        log.info("metrics cannot be read", extra={"service": service, "error": str(error) or repr(error)})
        return False
    return True


async def _read_stream(service: RunningService, scrape: _Scrape) -> None:
    stream = await service.bus.jetstream.stream_info(service.name)
    scrape.add("admitone_stream_bytes", stream.state.bytes, service.name)
    if (limit := stream.config.max_bytes or 0) > 0:
        scrape.add("admitone_stream_bytes_max", limit, service.name)


async def _read_consumer(service: RunningService, producer: str, scrape: _Scrape) -> None:
    consumer = await service.bus.jetstream.consumer_info(producer, service.name)
    scrape.add("admitone_consumer_pending", consumer.num_pending or 0, service.name, producer)
    scrape.add("admitone_consumer_unacknowledged", consumer.num_ack_pending or 0, service.name, producer)
