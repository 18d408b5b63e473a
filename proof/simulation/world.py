"""One seed's world: its clocks, its processes with everything they run, and the accidents that befall them."""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from random import Random
from typing import Any, Final, NoReturn, cast
from uuid import UUID

import httpx

from admitone import invariants
from admitone.expiration import jobs as expiration_jobs
from admitone.kernel import clock, ids, runner
from admitone.kernel.database.pool import UNREACHABLE, Database
from admitone.kernel.http.app import HttpApp, operation_routes
from admitone.kernel.http.operations import OK
from admitone.kernel.http.sessions import Sessions, SignedInUser
from admitone.kernel.messaging import bus as buses
from admitone.kernel.messaging import outbox, replicas
from admitone.kernel.messaging.bus import Bus, RepublishRequest
from admitone.kernel.messaging.event import subject_of
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.outbox import Relay
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.orders import jobs as order_jobs
from admitone.payments import api as payment_api
from admitone.payments import gateway
from admitone.payments import jobs as payment_jobs
from admitone.registry import named
from proof.simulation.bus import BusOfProcess, SimulatedBus
from proof.simulation.engine import Connection, Engine, Pool
from proof.simulation.faults import SKEW, Faults
from proof.simulation.loop import VirtualLoop
from proof.simulation.provider import Provider, opener

log = logging.getLogger(__name__)

# Far from every real clock, so that whoever asks one of those is found out at once.
BEGINNING: Final = datetime(2040, 1, 1, tzinfo=UTC)
SERVICES: Final = tuple(named(("tickets", "orders", "expiration", "payments")))
_SKEW_SECONDS_MAX: Final = 600.0
_STATEMENTS_MAX: Final = 20_000
_HTTP_SECONDS_MAX: Final = 10.0
# How often those look who are not woken: seldom, because each look costs real time and finds nothing.
IDLE_SECONDS: Final = 8.0
HEALED_IDLE_SECONDS: Final = 30.0

_PAUSES: Final = (
    (outbox, "_POLL_SECONDS"),
    (expiration_jobs, "_LOOK_ANYWAY_SECONDS"),
    (order_jobs, "_EVERY_SECONDS"),
    (payment_jobs, "_SWEEP_SECONDS"),
)
# How long those pause who wait for something that is on its way: a request is as patient as outside, with fewer looks.
_BETWEEN_LOOKS_SECONDS: Final = 0.5
_WAITS: Final = (
    (replicas, "_FIRST_PAUSE_SECONDS"),
    (replicas, "_PAUSE_SECONDS_MAX"),
    (payment_api, "_PAUSE_SECONDS_MAX"),
)

_process: ContextVar["Process | None"] = ContextVar("process", default=None)


class Died(BaseException):
    """This process is no more"""


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, engine: Engine, *, keeps_log: bool = False) -> None:
        self.seed = seed
        self.engine = engine
        self.loop = VirtualLoop()
        self.loop.set_task_factory(cast(Any, _make_task))
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.faults = Faults(Random(f"{seed} faults"))
        self.random = Random(f"{seed} schedule")
        self.bus = SimulatedBus(self, Random(f"{seed} bus"))
        self.provider = Provider(self, Random(f"{seed} provider"))
        shape = Random(f"{seed} shape")
        self.hold_seconds = shape.choice((15, 30, 60, 120))
        self.settings = Settings().with_variables(
            ADMITONE_ORDER_WINDOW_SECONDS=str(self.hold_seconds),
            ADMITONE_PAYMENT_ATTEMPTS=str(shape.choice((1, 2, 3))),
            STRIPE_SECRET_KEY="sk_test_simulation",
            STRIPE_WEBHOOK_SECRET="whsec_simulation",
        )
        self.skew = {each.name: 0.0 for each in SERVICES}
        if self.faults.has(SKEW):
            for name in self.skew:
                self.skew[name] = shape.choice((0.0, shape.uniform(-5, 5), shape.uniform(-1, 1) * _SKEW_SECONDS_MAX))
            self.faults.note(SKEW)
        self.processes = [
            Process(self, service, number) for service in SERVICES for number in range(shape.choice((1, 1, 2)))
        ]
        self.idle_seconds = IDLE_SECONDS
        self.people: dict[str, SignedInUser] = {}
        self.relay_locks: dict[str, tuple[Connection, _Relay]] = {}
        self.violations: list[str] = []
        self.log: list[str] | None = [] if keeps_log else None
        self._hash = hashlib.sha256()
        self._statements = engine.statements
        self._random_ids = Random(f"{seed} ids")
        self.has_stopped = False

    # Time, randomness and the trace.

    def true_time(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.loop.time())

    def new_uuid(self) -> UUID:
        milliseconds = int((BEGINNING.timestamp() + self.loop.time()) * 1000)
        bits = self._random_ids.getrandbits(74)
        number = milliseconds << 80 | 7 << 76 | (bits >> 62) << 64 | 2 << 62 | bits & (1 << 62) - 1
        return UUID(int=number)

    def new_token(self, size_bytes: int) -> str:
        return self._random_ids.randbytes(size_bytes).hex()

    def trace(self, *facts: object) -> None:
        if self.engine.statements - self._statements > _STATEMENTS_MAX and not self.has_stopped:
            self.wrong("the world goes round in circles")
            self.loop.stop()
        line = f"{self.loop.time():.6f} {' '.join(map(str, facts))}"
        self._hash.update(line.encode())
        if self.log is not None:
            self.log.append(line)

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()[:16]

    @contextmanager
    def rules(self) -> Any:
        """Let clocks, ids and pauses of the whole program be this world's."""
        real_clocks = (clock._wall_source, clock._monotonic_source)
        real_ids = (ids._uuid_source, ids._token_source)
        clock.use_sources(lambda: self.true_time().timestamp(), self.loop.time)
        ids.use_sources(self.new_uuid, self.new_token)
        pauses = [(module, name, getattr(module, name)) for module, name in (*_PAUSES, *_WAITS)]
        self.set_pauses(IDLE_SECONDS)
        for module, name in _WAITS:
            setattr(module, name, _BETWEEN_LOOKS_SECONDS)
        try:
            yield
        finally:
            clock.use_sources(*real_clocks)
            ids.use_sources(*real_ids)
            for module, name, value in pauses:
                setattr(module, name, value)

    def set_pauses(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        for module, name in _PAUSES:
            setattr(module, name, idle_seconds)

    # Watching.

    def changed(self, service: str) -> None:
        """A transaction or a statement of a service is committed: what must always hold is asked at once."""
        for each in invariants.INSTANT_CHECKS:
            if each.service == service:
                for about, what in self.engine.look(service, each.sql):
                    self.wrong(f"{each.id} {about} {what}")

    def captured(self, intent: dict[str, Any]) -> None:
        """The provider takes money: then, at this very instant, an order must be waiting for it."""
        order_id = UUID(intent["metadata"]["order_id"])
        charge = invariants.TakenCharge(f"charge {intent['id']}", order_id, intent["amount"], intent["currency"])
        found = self.engine.look("orders", invariants.ORDER_OF_CHARGE, order_id)
        if (why := invariants.charge_problem(charge, found[0] if found else None)) is not None:
            self.wrong(f"I2 {charge.name} {why}")

    def wrong(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)
            if self.log is not None:
                self.log.append(f"WRONG {what}")

    # Processes.

    def process_of(self, service: str, random: Random) -> "Process | None":
        """Return one that serves requests, if any is alive."""
        alive = [each for each in self.processes if each.service.name == service and each.is_alive]
        return random.choice(alive) if alive else None

    def ask_to_republish(self, producer: str, request: RepublishRequest) -> None:
        if self.faults.happens("request to publish again lost"):
            return

        def ask() -> None:
            process = self.process_of(producer, self.random)
            if process is not None and process.republish is not None:
                process.spawn(process.republish(request))

        self.loop.call_later(self.random.uniform(0.001, 0.05), ask)

    def deliver_webhook(self, body: bytes, tries: int) -> None:
        async def deliver() -> None:
            process = self.process_of("payments", self.random)
            status = None
            if process is not None:
                status, _ = await process.ask("POST", "/api/payments/webhook", None, body)
            if status != OK and tries > 1:
                self.loop.call_later(self.random.uniform(2.0, 20.0), self.deliver_webhook, body, tries - 1)

        if not self.has_stopped:
            self.loop.create_task(deliver())

    async def start(self) -> None:
        for process in self.processes:
            await process.start()

    def stop(self) -> None:
        self.has_stopped = True
        for process in self.processes:
            process.die(restarts=False)


class Process:
    """One replica of one service: dies at any await, forgets everything, and is started again."""

    def __init__(self, world: World, service: Service, number: int) -> None:
        self.world = world
        self.service = service
        self.name = f"{service.name}-{number}"
        self.is_alive = False
        self.connections: dict[Any, None] = {}
        self.republish: Callable[[RepublishRequest], Awaitable[None]] | None = None
        self.tasks: dict[asyncio.Task[Any], None] = {}
        self._lives = 0

    def instant(self) -> datetime:
        """What its database's clock says."""
        return self.world.true_time() + timedelta(seconds=self.world.skew[self.service.name])

    async def start(self) -> None:
        self.is_alive = True
        self._lives += 1
        self.connections, self.tasks, self.republish = {}, {}, None
        task = self.spawn(self._open())
        await asyncio.wait({task})
        if not self.is_alive:
            return
        if (error := task.exception()) is not None:
            self.die()
            if not isinstance(error, (*UNREACHABLE, Died)):
                raise error

    async def _open(self) -> None:
        database = Database(cast(Any, Pool(self)), "")
        bus = cast(Bus, BusOfProcess(self))
        sessions = cast(Sessions, _KnownPeople(self.world))
        self._stack = AsyncExitStack()
        bare: RunningService[Any] = RunningService(
            self.service.name, self.world.settings, sessions, bus, database, _no_client, resources=None
        )
        real, gateway.opened = gateway.opened, opener(self)
        try:
            while True:
                try:
                    resources = await self._stack.enter_async_context(self.service.lifespan(bare))
                    break
                except UNREACHABLE:
                    continue
        finally:
            gateway.opened = real
        running = replace(bare, resources=resources)
        self._app = HttpApp(operation_routes(running, self.service.operations), self.world.settings)
        self.inbox = Inbox(self.service.name, database, bus, self.service.subscriptions)
        self.relay = _Relay(self, database, bus)
        self.spawn(runner._run_job(self.service.name, self.relay.run))
        for producer in self.inbox.producers:
            if producer != "auth":
                self.spawn(self._listen(producer))
        for job in self.service.jobs:
            self.spawn(runner._run_job(self.service.name, partial(job, running)))

    async def _listen(self, producer: str) -> None:
        """Take what the bus has, as `Inbox.run` does; what lies between the two is the network."""
        subjects = sorted(subject_of(heard) for heard in self.service.subscriptions if heard.producer == producer)
        bus, loop = self.world.bus, self.world.loop
        while True:
            try:
                await self.lives_on("listen")
                bus.ensure_consumer(producer, self.service.name, subjects)
                while True:
                    news = bus.news(producer)
                    news.clear()
                    deliveries, next_at = bus.fetch(self, producer)
                    if deliveries:
                        await self.inbox._receive_all(cast(Any, deliveries))
                        await self.lives_on("listen")
                        continue
                    pause = min(max(next_at - loop.time(), 0.001), self.world.idle_seconds)
                    await _woken(news, pause)
            except buses.UNREACHABLE:
                await asyncio.sleep(0.5)

    def spawn(self, work: Coroutine[Any, Any, Any] | Awaitable[Any]) -> "asyncio.Task[Any]":
        context = copy_context()
        context.run(_process.set, self)
        return self.world.loop.create_task(cast(Any, work), context=context)

    async def lives_on(self, _where: str) -> None:
        """Take a moment; it may be the last one."""
        if not self.is_alive:
            raise Died
        await asyncio.sleep(self.world.random.uniform(0.0002, 0.004))
        if not self.is_alive:
            raise Died

    def crash(self) -> NoReturn:
        """Die here and now."""
        self.die()
        raise Died

    def die(self, *, restarts: bool = True) -> None:
        if not self.is_alive:
            return
        self.is_alive = False
        self.world.trace("died", self.name)
        for connection in list(self.connections):
            connection.close()
        for task in list(self.tasks):
            task.cancel()
        if restarts:
            self.world.loop.call_later(self.world.random.uniform(0.3, 5.0), self._restart)

    def _restart(self) -> None:
        if not self.world.has_stopped and not self.is_alive:
            self.world.loop.create_task(self.start())

    async def ask(
        self, method: str, path: str, person: str | None, body: bytes, headers: dict[str, str] | None = None
    ) -> tuple[int | None, bytes]:
        """Send a request; None when no answer came, whatever became of it."""
        given = {"content-type": "application/json", **(headers or {})}
        if person is not None:
            given["cookie"] = f"session={person}"
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(name.encode(), value.encode()) for name, value in given.items()],
            "client": ("127.0.0.1", 1),
            "scheme": "http",
            "http_version": "1.1",
            "root_path": "",
        }
        status: int | None = None
        answer = b""

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                answer += message.get("body", b"")

        faults = self.world.faults
        if faults.happens("answer lost") and self.world.random.random() < 0.3:
            return None, b""
        serving = self.spawn(self._app(scope, receive, send))
        await asyncio.wait({serving}, timeout=_HTTP_SECONDS_MAX)
        if not serving.done():
            serving.cancel()
            return None, b""
        if serving.cancelled() or serving.exception() is not None or not self.is_alive or faults.happens("answer lost"):
            return None, b""
        return status, answer


class _Relay(Relay):
    """The relay, on the simulation's connection, whose lock of the database is kept here instead of in PostgreSQL."""

    def __init__(self, process: Process, database: Database, bus: Bus) -> None:
        super().__init__(database, bus, compare_every_seconds=process.world.random.uniform(5.0, 20.0))
        self._process = process

    async def _hold_lock_and_relay(self) -> None:
        locks, service = self._process.world.relay_locks, self._process.service.name
        async with self._database.connection() as connection:
            # As PostgreSQL does: free again as soon as the connection that holds it is gone, whoever is on the way.
            if service in locks and not locks[service][0].is_closed():
                raise outbox._StandBy
            locks[service] = connection, self
            self._is_leading = True
            await self._relay(connection)

    async def _notify(self) -> None:
        await asyncio.sleep(0.002)
        if (held := self._process.world.relay_locks.get(self._process.service.name)) is not None:
            held[1]._has_work.set()


class _KnownPeople:
    """Who is signed in: the session's token is the person's name."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def user(self, token: str | None) -> SignedInUser | None:
        return self._world.people.get(token or "")


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Any = None, **_: Any
) -> "asyncio.Task[Any]":
    """Make a task that ends with the process that began it."""
    context = context or copy_context()
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    process = context.get(_process)
    if process is not None:
        if not process.is_alive:
            loop.call_soon(task.cancel)
        process.tasks[task] = None
        task.add_done_callback(_forget(process))
    return task


def _forget(process: Process) -> Callable[["asyncio.Task[Any]"], None]:

    def forget(task: "asyncio.Task[Any]") -> None:
        process.tasks.pop(task, None)

    return forget


async def _woken(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _no_client(_service: str) -> httpx.AsyncClient:
    raise NotImplementedError("nobody calls another service here")
