"""One simulated process of a service: it dies at any await, forgets everything, and is started again."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from contextvars import ContextVar, copy_context
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, NoReturn, cast

import httpx

from admitone.events import OrderAwaitingPayment, OrderCompleted, PaymentFailed, PaymentRejected
from admitone.kernel import runner
from admitone.kernel.database.pool import UNREACHABLE, Database, Transaction
from admitone.kernel.errors import Unavailable
from admitone.kernel.http.app import HttpApp, operation_routes
from admitone.kernel.http.sessions import Sessions, SignedInUser, TokenVerifier
from admitone.kernel.messaging import bus as buses
from admitone.kernel.messaging.bus import Bus, RepublishRequest
from admitone.kernel.messaging.event import Envelope, Event, UnknownEvent
from admitone.kernel.messaging.handlers import MissingEvents
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.outbox import Relay
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from proof.simulation.bus import SimulatedBusConnection
from proof.simulation.connections import SimulatedConnection, SimulatedPool
from proof.simulation.faults import TWO_RELEASES

if TYPE_CHECKING:
    from proof.simulation.world import World

_HTTP_SECONDS_MAX: Final = 10.0
# About as long as the real inbox waits for a response of the bus before it starts again.
_RESTART_SECONDS: Final = 4.0
_ORIGIN: Final = "http://127.0.0.1:8000"
# What an older release of each service does not subscribe to, and a value that it does not know.
_NEW_SUBSCRIPTIONS: Final = frozenset({OrderAwaitingPayment, OrderCompleted, PaymentFailed, PaymentRejected})
_NEW_REASON: Final = "cancelled_by_buyer"

current_process: ContextVar["Process | None"] = ContextVar("current_process", default=None)


class ProcessDied(BaseException):
    """This process has ended"""


class Process:
    """One replica of one service."""

    def __init__(self, world: "World", service: Service, number: int) -> None:
        self.world = world
        self.service = service
        self.name = f"{service.name}-{number}"
        self.is_older = number > 0 and world.faults.has(TWO_RELEASES)
        self.is_alive = False
        self.connections: dict[SimulatedConnection, None] = {}
        self.republish: Callable[[RepublishRequest], Awaitable[None]] | None = None
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._http: httpx.AsyncClient | None = None

    def instant(self) -> datetime:
        """Return what its database's clock shows."""
        return self.world.true_time() + timedelta(seconds=self.world.skew_seconds[self.service.name])

    async def start(self) -> None:
        self.is_alive = True
        self.connections, self._tasks, self.republish, self._http = {}, {}, None, None
        opening = self.spawn(self._open())
        await asyncio.wait({opening})
        if self.is_alive and (error := opening.exception()) is not None:
            self.die()
            if not isinstance(error, (*UNREACHABLE, ProcessDied)):
                raise error

    async def _open(self) -> None:
        """Do what `kernel.runner.run_service` does, on simulated connections."""
        name, settings = self.service.name, self.world.settings
        self.database = database = Database(cast(Any, SimulatedPool(self)), "")
        bus = cast(Bus, SimulatedBusConnection(self))
        sessions = _KnownPeople(self.world)
        bare: RunningService[Any] = RunningService(name, settings, sessions, bus, database, _no_client, resources=None)
        self._stack = AsyncExitStack()
        while True:
            try:
                resources = await self._stack.enter_async_context(self.service.lifespan(bare))
                break
            except UNREACHABLE:
                continue
        running = replace(bare, resources=resources)
        app = HttpApp(operation_routes(running, self.service.operations), settings)
        self._http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=_ORIGIN, trust_env=False)
        self.inbox = inbox = _SimulatedInbox(self, database, bus)
        jobs: list[Callable[[], Awaitable[None]]] = [_SimulatedRelay(self, database, bus).run]
        jobs += [partial(job, running) for job in self.service.jobs]
        for job in jobs:
            self.spawn(runner._run_job(name, job))
        for producer in self.service.producers:
            if producer != "auth":
                self.spawn(self._consume(inbox, producer))

    async def _consume(self, inbox: Inbox, producer: str) -> None:
        """Consume what the bus delivers, as `Inbox.run` does; what lies between the two is the network."""
        bus, loop = self.world.bus, self.world.loop
        while True:
            try:
                await self.stay_alive()
                await inbox._subscribe(producer)
                inbox._waiting.clear()  # as when pulling begins: the stream may be another one
                while loop.time() < inbox._announce_at[producer]:
                    bus.arrival(producer).clear()
                    deliveries, more_at = bus.fetch(self, producer)
                    if deliveries:
                        await inbox._receive_all(cast(Any, deliveries))
                        await self.stay_alive()
                        continue
                    idle_seconds = min(max(more_at - loop.time(), 0.001), self.world.idle_seconds)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(idle_seconds):
                            await bus.arrival(producer).wait()
                    await self.stay_alive()
            except (Unavailable, *buses.UNREACHABLE, *UNREACHABLE):
                await asyncio.sleep(_RESTART_SECONDS)

    def spawn(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> "asyncio.Task[Any]":
        """Run something as part of this process: it ends when the process does."""
        context = copy_context()
        context.run(current_process.set, self)
        return self.world.loop.create_task(cast(Any, work), context=context)

    def adopt(self, task: "asyncio.Task[Any]") -> None:
        """Make a task end with this process."""
        if not self.is_alive:
            self.world.loop.call_soon(task.cancel)
        self._tasks[task] = None
        tasks = self._tasks
        task.add_done_callback(lambda done: tasks.pop(done, None))

    async def stay_alive(self) -> None:
        """Take a moment; it may be the last one."""
        if not self.is_alive:
            raise ProcessDied
        await asyncio.sleep(self.world.random.uniform(0.0002, 0.004))
        if not self.is_alive:
            raise ProcessDied

    def crash(self) -> NoReturn:
        """Die here and now."""
        self.die()
        raise ProcessDied

    def die(self, *, restarts: bool = True) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self.world.trace("died", self.name)
        for connection in list(self.connections):
            connection.close()
        for task in list(self._tasks):
            task.cancel()
        if restarts:
            self.world.loop.call_later(self.world.random.uniform(0.3, 5.0), self._restart)

    def _restart(self) -> None:
        if not self.world.has_stopped and not self.is_alive:
            self.world.loop.create_task(self.start())

    async def request(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> tuple[int | None, bytes]:
        """Send a request; the status is None if no response arrived, with or without an effect."""
        faults = self.world.faults
        if self._http is None or (faults.strikes("response lost") and self.world.random.random() < 0.3):
            return None, b""
        sent = {"content-type": "application/json", **headers}
        serving = self.spawn(self._http.request(method, path, headers=sent, content=body))
        await asyncio.wait({serving}, timeout=_HTTP_SECONDS_MAX)
        is_served = serving.done() and not serving.cancelled() and serving.exception() is None
        if not serving.done():
            serving.cancel()
        if not is_served or not self.is_alive or faults.strikes("response lost"):
            return None, b""
        response: httpx.Response = serving.result()
        return response.status_code, response.content


class HandlerFails(Exception):
    """The handler of this event has a bug"""


class _SimulatedInbox(Inbox):
    """The inbox of one release, in which the handlers of some events fail for a while."""

    # Seldom, because each announcement costs real time; and they count for longer than a clock may jump.
    announce_seconds = 120.0
    announced_seconds = 1500.0

    def __init__(self, process: Process, database: Database, bus: Bus) -> None:
        missing = _NEW_SUBSCRIPTIONS if process.is_older else frozenset()
        subscribed = {each: handler for each, handler in process.service.subscriptions.items() if each not in missing}
        super().__init__(process.service.name, database, bus, subscribed)
        self._process = process

    def _decode(self, message: bytes) -> tuple[Envelope, Event]:
        envelope, event = super()._decode(message)
        if self._process.is_older and getattr(event, "reason", "") == _NEW_REASON:
            raise UnknownEvent(envelope.id, "Invalid enum value")
        return envelope, event

    async def consume(self, tx: Transaction, events: Sequence[tuple[Envelope, Event]]) -> dict[int, MissingEvents]:
        if any(self._process.world.fails(self._process.service.name, envelope.id) for envelope, _ in events):
            raise HandlerFails
        return await super().consume(tx, events)


class _SimulatedRelay(Relay):
    """The relay, with the database's advisory lock kept here instead of in PostgreSQL."""

    def __init__(self, process: Process, database: Database, bus: Bus) -> None:
        super().__init__(database, bus, process.service.snapshots)
        self.compare_every_seconds = process.world.random.uniform(5.0, 20.0)
        self._process = process
        self._locks: dict[str, tuple[SimulatedConnection, _SimulatedRelay]] = process.world.relay_locks

    async def _hold_lock_and_relay(self) -> None:
        service = self._process.service.name
        async with self._database.connection() as connection:
            # As in PostgreSQL, the lock is free as soon as the connection that holds it is gone.
            if service in self._locks and not self._locks[service][0].is_closed():
                return
            self._locks[service] = connection, self
            self.is_leading = True
            await self._relay(connection)

    async def _notify(self) -> None:
        await asyncio.sleep(0.002)
        if (holder := self._locks.get(self._process.service.name)) is not None:
            holder[1]._has_work.set()


class _KnownPeople(Sessions):
    """The sessions: a person's token has their name."""

    def __init__(self, world: "World") -> None:
        super().__init__(TokenVerifier(_no_keys))
        self._world = world

    async def user(self, token: str | None) -> SignedInUser | None:
        return self._world.users.get(token or "")


async def _no_keys() -> bytes:
    raise NotImplementedError("nobody signs tokens here")


def _no_client(_service: str) -> httpx.AsyncClient:
    raise NotImplementedError("no service requests anything from another one here")
