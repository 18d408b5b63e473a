"""What can be seen of a process from outside, in Prometheus' text format and on a port of its own.

Requests are counted by the event loop alone, so counting needs no lock; what lies in the database or on the bus is read
when somebody asks, and left out when it cannot be read.
"""

import asyncio
import logging
from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from admitone.kernel import bus as buses
from admitone.kernel import clock, http
from admitone.kernel.bus import Bus
from admitone.kernel.database import UNREACHABLE, Database
from admitone.kernel.refusals import Unavailable

log = logging.getLogger(__name__)

# Upper bounds in seconds; what takes longer falls into the last one, which has none.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_BOUND_NAMES: Final = (*map(str, BOUNDS), "+Inf")
_NO_ROUTE: Final = "none"
_READ_WITHIN_SECONDS: Final = 2.0
_TYPE: Final = (b"content-type", b"text/plain; version=1.0.0; charset=utf-8")

_OUTBOX: Final = """
SELECT count(*) AS unpublished, coalesce(extract(epoch FROM instant() - min(recorded_at)), 0)::float8 AS age
FROM outbox WHERE stream_sequence IS NULL
"""
_DEAD_LETTERS: Final = """
SELECT count(*) FILTER (WHERE given_up_at IS NOT NULL) AS given_up,
       count(*) FILTER (WHERE given_up_at IS NULL) AS failing
FROM dead_letter
"""


class Timings:
    """How long things took: how many fell under each bound, and how long they took together."""

    __slots__ = ("counts", "total_seconds")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total_seconds = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total_seconds += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Return Prometheus' buckets: each holds everything up to its bound."""
        found, so_far = [], 0
        for name, count in zip(_BOUND_NAMES, self.counts, strict=True):
            so_far += count
            found.append((name, float(so_far)))
        return found


class Requests:
    """The requests of one process, by method, route and status."""

    def __init__(self, routes: Iterable[BaseRoute]) -> None:
        # The endpoint is what the router leaves behind; the path itself would be a label without end.
        self._templates: dict[object, str] = {each.endpoint: each.path for each in routes if isinstance(each, Route)}
        self.timings: dict[tuple[str, str, int], Timings] = {}

    def note(self, method: str, endpoint: object, status: int, seconds: float) -> None:
        """Count one request; `endpoint` is its route's, if it has one."""
        key = (method, self._templates.get(endpoint, _NO_ROUTE), status)
        timings = self.timings.get(key)
        if timings is None:
            timings = self.timings[key] = Timings()
        timings.observe(seconds)


class Measured:
    """An ASGI application whose requests are counted; time runs until the answer begins, for some never end."""

    def __init__(self, app: ASGIApp, requests: Requests) -> None:
        self._app = app
        self._requests = requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = clock.monotonic_seconds()

        async def measured_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                seconds = clock.monotonic_seconds() - began
                self._requests.note(scope["method"], scope.get("endpoint"), message["status"], seconds)
            await send(message)

        await self._app(scope, receive, measured_send)


@dataclass(frozen=True)
class Gauge:
    """A number that a service reads from its own database: one, or one for each value of a label.

    It is read at most every `every_seconds`, however often somebody asks.
    """

    name: str
    says: str
    read: Callable[[Database], Awaitable[float | Mapping[str, float]]]
    label: str | None = None
    every_seconds: float = 0.0


@dataclass
class Watched:
    """One running service, as far as its metrics go."""

    service: str
    bus: Bus
    database: Database | None
    producers: Sequence[str] = ()
    gauges: Sequence[Gauge] = ()
    is_leading: Callable[[], bool] | None = None
    read_at: dict[str, tuple[float, float | Mapping[str, float]]] = field(default_factory=dict)


# Name → what it says and its labels: everything that is shown, so that dashboards and rules can be checked against it.
FAMILIES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "admitone_request_seconds": ("Time until the answer began", ("method", "route", "status")),
    "admitone_pool_waits": ("Times that somebody waited for a database connection", ("service",)),
    "admitone_pool_wait_seconds": ("Time spent waiting for database connections", ("service",)),
    "admitone_pool_refusals": ("Times that no database connection came free in time", ("service",)),
    "admitone_database_up": ("Whether the service's database answers", ("service",)),
    "admitone_bus_connected": ("Whether the connection to the bus stands", ("service",)),
    "admitone_relay_leading": ("Whether this process publishes the service's events", ("service",)),
    "admitone_outbox_unpublished": ("Events that the bus has not acknowledged yet", ("service",)),
    "admitone_outbox_age_seconds": ("Age of the oldest event not yet acknowledged", ("service",)),
    "admitone_consumer_pending": ("Events on the bus that the service has not taken yet", ("service", "producer")),
    "admitone_consumer_unacknowledged": ("Events the service took and has not settled", ("service", "producer")),
    "admitone_dead_letters": ("Events given up, until somebody decides", ("service",)),
    "admitone_failing_events": ("Events that failed and will be tried again", ("service",)),
}
_COUNTERS: Final = frozenset({"admitone_pool_waits", "admitone_pool_wait_seconds", "admitone_pool_refusals"})

_Sample = tuple[tuple[str, ...], float]


class Metrics:
    """The metrics of one process."""

    def __init__(self, requests: Requests, watched: Sequence[Watched]) -> None:
        self._requests = requests
        self._watched = watched
        self._own = CollectorRegistry()
        for collect in (ProcessCollector, PlatformCollector, GCCollector):
            collect(registry=self._own)

    async def text(self) -> bytes:
        """Read everything that has to be read and return all of it in Prometheus' text format."""
        samples: dict[str, list[_Sample]] = {name: [] for name in FAMILIES}
        gauges: dict[str, tuple[Gauge, list[_Sample]]] = {}
        await asyncio.gather(*(self._read(each, samples, gauges) for each in self._watched))
        families = [_family(name, found) for name, found in samples.items() if found]
        for gauge, found in gauges.values():
            labels = ("service", gauge.label) if gauge.label else ("service",)
            family = GaugeMetricFamily(gauge.name, gauge.says, labels=labels)
            for values, value in found:
                family.add_metric(values, value)
            families.append(family)
        return generate_latest(_Collected([self._request_family(), *families])) + generate_latest(self._own)

    def _request_family(self) -> HistogramMetricFamily:
        says, labels = FAMILIES["admitone_request_seconds"]
        family = HistogramMetricFamily("admitone_request_seconds", says, labels=labels)
        for (method, route, status), timings in self._requests.timings.items():
            family.add_metric([method, route, str(status)], timings.buckets(), timings.total_seconds)
        return family

    async def _read(
        self, watched: Watched, samples: dict[str, list[_Sample]], gauges: dict[str, tuple[Gauge, list[_Sample]]]
    ) -> None:
        def add(name: str, value: float, *more_labels: str) -> None:
            samples[name].append(((watched.service, *more_labels), value))

        add("admitone_bus_connected", watched.bus.is_connected)
        if watched.is_leading is not None:
            add("admitone_relay_leading", watched.is_leading())
        if watched.database is not None:
            waits = watched.database.waits
            add("admitone_pool_waits", waits.count)
            add("admitone_pool_wait_seconds", waits.seconds)
            add("admitone_pool_refusals", waits.refused)
            add("admitone_database_up", await self._read_database(watched, watched.database, add, gauges))
        if watched.bus.is_connected:
            for producer in watched.producers:
                await self._read_consumer(watched, producer, add)

    async def _read_database(
        self,
        watched: Watched,
        database: Database,
        add: Callable[..., None],
        gauges: dict[str, tuple[Gauge, list[_Sample]]],
    ) -> bool:
        try:
            async with asyncio.timeout(_READ_WITHIN_SECONDS):
                outbox = await database.fetchrow(_OUTBOX)
                letters = await database.fetchrow(_DEAD_LETTERS)
                for gauge in watched.gauges:
                    value = await self._value(watched, database, gauge)
                    _, found = gauges.setdefault(gauge.name, (gauge, []))
                    if isinstance(value, Mapping):
                        found += [((watched.service, label), each) for label, each in value.items()]
                    else:
                        found.append(((watched.service,), value))
        except (Unavailable, *UNREACHABLE) as error:
            log.info("metrics cannot be read", extra={"service": watched.service, "error": repr(error)})
            return False
        assert outbox is not None
        assert letters is not None
        add("admitone_outbox_unpublished", outbox["unpublished"])
        add("admitone_outbox_age_seconds", outbox["age"])
        add("admitone_dead_letters", letters["given_up"])
        add("admitone_failing_events", letters["failing"])
        return True

    async def _value(self, watched: Watched, database: Database, gauge: Gauge) -> float | Mapping[str, float]:
        now = clock.monotonic_seconds()
        read_at, value = watched.read_at.get(gauge.name, (float("-inf"), 0.0))
        if now - read_at >= gauge.every_seconds:
            value = await gauge.read(database)
            watched.read_at[gauge.name] = (now, value)
        return value

    async def _read_consumer(self, watched: Watched, producer: str, add: Callable[..., None]) -> None:
        try:
            async with asyncio.timeout(_READ_WITHIN_SECONDS):
                answer = await watched.bus.request(f"$JS.API.CONSUMER.INFO.{producer}.{watched.service}", {})
        except buses.UNREACHABLE as error:
            log.info("metrics cannot be read", extra={"service": watched.service, "error": repr(error)})
            return
        if "num_pending" in answer:  # a consumer that was never made has none
            add("admitone_consumer_pending", answer["num_pending"], producer)
            add("admitone_consumer_unacknowledged", answer["num_ack_pending"], producer)

    async def __call__(self, _scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer `GET /metrics`, and everything else alike: nothing else is served on this port."""
        await http.send_answer(send, http.OK, await self.text(), (_TYPE,))


def _family(name: str, samples: Sequence[_Sample]) -> Metric:
    says, labels = FAMILIES[name]
    family: CounterMetricFamily | GaugeMetricFamily
    if name in _COUNTERS:
        family = CounterMetricFamily(name, says, labels=labels)
    else:
        family = GaugeMetricFamily(name, says, labels=labels)
    for values, value in samples:
        family.add_metric(values, value)
    return family


class _Collected(CollectorRegistry):
    """What was read already, in the shape that the text format is made from."""

    def __init__(self, families: Sequence[Metric]) -> None:
        super().__init__()
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families
