"""One seed's world: its clocks, its processes, its bus, its provider, and what is checked while it lives."""

import asyncio
import hashlib
import time
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from random import Random
from types import SimpleNamespace
from typing import Any, Final, cast
from uuid import UUID

import msgspec
import stripe

from admitone.expiration import jobs as expiration_jobs
from admitone.invariants import INSTANT_CHECKS, ORDER_OF_CHARGE, TakenCharge, charge_problem
from admitone.kernel import clock, ids
from admitone.kernel.http.operations import OK
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.messaging import outbox, replicas
from admitone.kernel.messaging.bus import RepublishRequest
from admitone.kernel.settings import Settings
from admitone.orders import jobs as order_jobs
from admitone.payments import api as payment_api
from admitone.payments import jobs as payment_jobs
from admitone.registry import named
from proof.clients import Json, Reply, stripe_signature
from proof.simulation.bus import SimulatedBus
from proof.simulation.databases import WorkerDatabases
from proof.simulation.faults import SKEW, TWO_RELEASES, Faults
from proof.simulation.loop import VirtualLoop
from proof.simulation.processes import Process, current_process
from proof.simulation.provider import SECRET_KEY, SimulatedProvider, SimulatedTransport
from stripe_sandbox import app as sandbox

# Far from every real clock, so that code that reads one of those is found at once.
BEGINNING: Final = datetime(2040, 1, 1, tzinfo=UTC)
SERVICES: Final = tuple(named(("tickets", "orders", "expiration", "payments")))
_SKEW_SECONDS_MAX: Final = 600.0
_STATEMENTS_MAX: Final = 20_000
_WEBHOOK_SECRET: Final = "whsec_simulation"
# How often those poll that are not woken: seldom, because each poll costs real time and finds nothing.
IDLE_SECONDS: Final = 8.0
HEALED_IDLE_SECONDS: Final = 30.0
_POLLS: Final = (
    (outbox, "_POLL_SECONDS"),
    (expiration_jobs, "_POLL_SECONDS"),
    (order_jobs, "_PAUSE_SECONDS"),
    (payment_jobs, "_SWEEP_SECONDS"),
)
# Requests that wait for an event are as patient as outside, with fewer polls.
_WAIT_SECONDS: Final = 0.5
_WAITS: Final = (
    (replicas, "_FIRST_PAUSE_SECONDS"),
    (replicas, "_PAUSE_SECONDS_MAX"),
    (payment_api, "_PAUSE_SECONDS_MAX"),
    (outbox, "_RESTART_SECONDS"),
)


Change = tuple[Any, Any, Any]
"""An object and the name and value of an attribute, or a mapping and a key and its value."""


@contextmanager
def replaced(*changes: Change) -> Iterator[None]:
    """Set attributes, or entries of a mapping, for as long as the block lasts."""
    with ExitStack() as undo:
        for owner, name, value in changes:
            if isinstance(owner, dict):
                undo.callback(owner.__setitem__, name, owner[name])
                owner[name] = value
            else:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
        yield


class World:
    """Everything of one seed."""

    def __init__(self, seed: int, databases: WorkerDatabases, *, keeps_log: bool = False) -> None:
        self.seed = seed
        self.databases = databases
        self.loop = VirtualLoop()
        self.loop.set_task_factory(cast(Any, _make_task))
        self.loop.set_exception_handler(lambda _loop, _context: None)
        self.faults = Faults(Random(f"{seed} faults"))
        self.random = Random(f"{seed} schedule")
        self.bus = SimulatedBus(self, Random(f"{seed} bus"))
        self.provider = SimulatedProvider(self, Random(f"{seed} provider"))
        shape = Random(f"{seed} shape")
        self.hold_seconds = shape.choice((15, 30, 60, 120))
        self.settings = Settings().with_variables(
            ADMITONE_ORDER_WINDOW_SECONDS=str(self.hold_seconds),
            ADMITONE_PAYMENT_ATTEMPTS=str(shape.choice((1, 2, 3))),
            STRIPE_SECRET_KEY=SECRET_KEY,
            STRIPE_WEBHOOK_SECRET=_WEBHOOK_SECRET,
        )
        self.skew_seconds = {each.name: 0.0 for each in SERVICES}
        if self.faults.has(SKEW):
            for name in self.skew_seconds:
                skews = (0.0, shape.uniform(-5, 5), shape.uniform(-1, 1) * _SKEW_SECONDS_MAX)
                self.skew_seconds[name] = shape.choice(skews)
            self.faults.note(SKEW)
        counts = [shape.choice((1, 1, 2)) for _ in SERVICES]
        if self.faults.has(TWO_RELEASES):
            counts = [2] * len(SERVICES)
            self.faults.note(TWO_RELEASES)
        self.processes = [
            Process(self, service, number)
            for service, count in zip(SERVICES, counts, strict=True)
            for number in range(count)
        ]
        self._fails_until: dict[tuple[str, UUID], float] = {}
        self.idle_seconds = IDLE_SECONDS
        self.users: dict[str, SignedInUser] = {}
        self.relay_locks: dict[str, Any] = {}
        self.violations: list[str] = []
        self.log: list[str] | None = [] if keeps_log else None
        self._hash = hashlib.sha256()
        self._statements_before = databases.statements
        self._random_ids = Random(f"{seed} ids")
        self._random_routes = Random(f"{seed} routes")
        self.has_stopped = False

    # Time, randomness and the trace.

    def true_time(self) -> datetime:
        return BEGINNING + timedelta(seconds=self.loop.time())

    def new_uuid(self) -> UUID:
        milliseconds = int((BEGINNING.timestamp() + self.loop.time()) * 1000)
        bits = self._random_ids.getrandbits(74)
        number = milliseconds << 80 | 7 << 76 | (bits >> 62) << 64 | 2 << 62 | bits & (1 << 62) - 1
        return UUID(int=number)

    def _new_token(self, size_bytes: int) -> str:
        return self._random_ids.randbytes(size_bytes).hex()

    @property
    def statements(self) -> int:
        return self.databases.statements - self._statements_before

    def trace(self, *facts: object) -> None:
        if self.statements > _STATEMENTS_MAX and not self.has_stopped:
            self.violated("the world runs in circles")
            self.loop.stop()
        line = f"{self.loop.time():.6f} {' '.join(map(str, facts))}"
        self._hash.update(line.encode())
        if self.log is not None:
            self.log.append(line)

    @property
    def trace_hash(self) -> str:
        return self._hash.hexdigest()[:16]

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Let the clocks, ids, pauses and the transport to Stripe of the whole program be this world's."""
        real_clocks = (clock._wall_source, clock._monotonic_source)
        real_ids = (ids._uuid_source, ids._token_source)
        clock.use_sources(lambda: self.true_time().timestamp(), self.loop.time)
        ids.use_sources(self.new_uuid, self._new_token)
        changes: list[Change] = [(module, name, IDLE_SECONDS) for module, name in _POLLS]
        changes += [(module, name, _WAIT_SECONDS) for module, name in _WAITS]
        changes.append((stripe, "HTTPXClient", _stripe_transport))
        changes.append((sandbox, "time", SimpleNamespace(time=lambda: self.true_time().timestamp())))
        try:
            with replaced(*changes):
                yield
        finally:
            clock.use_sources(*real_clocks)
            ids.use_sources(*real_ids)

    def set_polls(self, idle_seconds: float) -> None:
        self.idle_seconds = idle_seconds
        for module, name in _POLLS:
            setattr(module, name, idle_seconds)

    # Checks.

    def check_instant(self, service: str) -> None:
        """Check what must always hold, right after a service committed a decision."""
        for each in INSTANT_CHECKS:
            if each.service == service:
                for subject, problem in self.databases.rows(service, each.sql):
                    self.violated(f"{each.id} {subject} {problem}")

    def check_capture(self, intent: Json) -> None:
        """Check, at the instant the provider takes money, that an order waits for it."""
        order_id = UUID(intent["metadata"]["order_id"])
        charge = TakenCharge(f"charge {intent['id']}", order_id, intent["amount"], intent["currency"])
        found = self.databases.rows("orders", ORDER_OF_CHARGE, order_id)
        if (problem := charge_problem(charge, found[0] if found else None)) is not None:
            self.violated(f"I2 {charge.name} {problem}")

    def violated(self, what: str) -> None:
        if what not in self.violations:
            self.violations.append(what)
            if self.log is not None:
                self.log.append(f"VIOLATION {what}")

    # Requests.

    async def request(
        self, method: str, path: str, session: str, body: Json | None, headers: Mapping[str, str]
    ) -> Reply:
        """Send a person's request to one of the processes that serve it."""
        process = self._process_of(path.split("/")[2], self._random_routes)
        if process is None:
            await asyncio.sleep(0.2)
            return Reply(None)
        sent = {**headers, "cookie": f"session={session}"}
        encoded = b"" if body is None else msgspec.json.encode(body)
        status, content = await process.request(method, path, sent, encoded)
        self.trace("request", session, method, path, status)
        return Reply(status, msgspec.json.decode(content) if content else {}, text=content.decode())

    async def confirm(self, payment: Json, *, agrees: bool) -> None:
        await self.provider.confirm(payment, agrees=agrees)

    def _process_of(self, service: str, random: Random) -> Process | None:
        alive = [each for each in self.processes if each.service.name == service and each.is_alive]
        return random.choice(alive) if alive else None

    def fails(self, service: str, event_id: UUID) -> bool:
        """Whether the handler of an event fails: it does so, or not, from the first delivery until it is mended."""
        if (service, event_id) not in self._fails_until:
            lasts_seconds = self.random.uniform(1.0, 200.0) if self.faults.strikes("handler fails") else 0.0
            self._fails_until[service, event_id] = self.loop.time() + lasts_seconds
        return self.loop.time() < self._fails_until[service, event_id]

    def request_republish(self, producer: str, request: RepublishRequest) -> None:
        if self.faults.strikes("request to publish again lost"):
            return

        def arrive() -> None:
            process = self._process_of(producer, self.random)
            if process is not None and process.republish is not None:
                process.spawn(process.republish(request))

        self.loop.call_later(self.random.uniform(0.001, 0.05), arrive)

    def deliver_webhook(self, body: bytes, attempts: int) -> None:
        async def deliver() -> None:
            process = self._process_of("payments", self.random)
            status = None
            if process is not None:
                # Stripe's library judges the signature's age by the real clock.
                signature = {"stripe-signature": stripe_signature(body, _WEBHOOK_SECRET, int(time.time()))}
                status, _ = await process.request("POST", "/api/payments/webhook", signature, body)
            if status != OK and attempts > 1:
                self.loop.call_later(self.random.uniform(2.0, 20.0), self.deliver_webhook, body, attempts - 1)

        if not self.has_stopped:
            self.loop.create_task(deliver())

    # Life.

    async def start(self) -> None:
        for process in self.processes:
            await process.start()

    def stop(self) -> None:
        self.has_stopped = True
        for process in self.processes:
            process.die(restarts=False)


def _stripe_transport(**_: object) -> SimulatedTransport:
    process = current_process.get()
    assert process is not None, "only a simulated process opens a gateway here"
    return SimulatedTransport(process)


def _make_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Any = None, **_: Any
) -> "asyncio.Task[Any]":
    """Make a task that ends with the process that created it."""
    context = context or copy_context()
    task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
    if (process := context.get(current_process)) is not None:
        process.adopt(task)
    return task
