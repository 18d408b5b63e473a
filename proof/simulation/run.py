"""One seed from its first listing to the last check: faults for a while, then none, and everything must settle."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

from admitone.events import TicketUpdated
from admitone.invariants import IN_PROGRESS, check_connections
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.event import subject_of
from admitone.kernel.messaging.snapshots import publish_snapshots
from admitone.registry import SERVICES as ALL_SERVICES
from proof.people import Crowd, Habits, Person
from proof.simulation.databases import WorkerDatabases
from proof.simulation.faults import DISASTERS, LONG_OUTAGE
from proof.simulation.loop import Stuck
from proof.simulation.processes import HandlerFails, Process
from proof.simulation.world import BEGINNING, HEALED_IDLE_SECONDS, SERVICES, World

_LASTS_SECONDS_MAX: Final = 400.0
_POLL_SECONDS: Final = 15.0
# A clock that jumped back by ten minutes twice may keep an order, a hold or a lease for that much longer.
_SETTLES_SECONDS: Final = 1800.0
_JUMP_SECONDS_MAX: Final = 600.0

HABITS: Final = Habits(
    pauses_seconds=(0.1, 1.0, 6.0),
    retries=tuple(range(7)),
    settle={"pay": 60, "pay and cancel": 10, "pay twice": 10, "cancel": 8, "leave": 7, "pay late": 5},
    keyed=0.8,
    late_seconds=(0.8, 1.1),
    bank_seconds=(0.5, 15.0),
)
# A ticket's present state can be published again; nothing replaces the event of an order or a payment.
_REPLACEABLE: Final = subject_of(TicketUpdated)
_PAID_AT: Final = """
SELECT (data::jsonb ->> 'orderId')::uuid, recorded_at FROM outbox WHERE type = 'PaymentAuthorized'
"""
_EXPIRED_AFTER: Final = "SELECT FROM orders WHERE id = $1 AND cancel_reason = 'expired' AND expires_at > $2"
_CONSUMERS: Final = tuple(
    (producer, service.name)
    for service in SERVICES
    for producer in sorted({each.producer for each in service.subscriptions})
)


@dataclass
class Outcome:
    """The outcome of a seed."""

    violations: list[str]
    trace_hash: str
    faults: Counter[str] = field(default_factory=Counter)
    purchases: int = 0
    orders: int = 0
    statements: int = 0
    log: list[str] | None = None


def run_seed(seed: int, databases: WorkerDatabases, *, keeps_log: bool = False) -> Outcome:
    """Run one seed; the same seed gives the same outcome, to the last byte of its trace."""
    databases.reset(BEGINNING)
    world = World(seed, databases, keeps_log=keeps_log)
    run = _Run(world)
    try:
        asyncio.set_event_loop(world.loop)
        with world.in_force():
            try:
                world.loop.run_until_complete(run.run())
            except (Stuck, RuntimeError) as error:  # a stopped loop raises the latter
                world.violated(f"{type(error).__name__} {error}")
            finally:
                world.stop()
                _end_tasks(world)
    finally:
        asyncio.set_event_loop(None)
        world.loop.close()
    statuses = Counter(row["status"] for row in databases.rows("orders", "SELECT status FROM orders"))
    purchases, orders = statuses["complete"], statuses.total()
    world.trace("end", purchases, orders, sorted(world.faults.struck.items()))
    return Outcome(
        world.violations, world.trace_hash, world.faults.struck, purchases, orders, world.statements, world.log
    )


def _end_tasks(world: World) -> None:
    left = asyncio.all_tasks(world.loop)
    for task in left:
        task.cancel()
    if left:
        with suppress(Stuck, RuntimeError):
            world.loop.run_until_complete(asyncio.wait(left, timeout=60))


class _Run:
    def __init__(self, world: World) -> None:
        self._world = world
        self._random = Random(f"{world.seed} disasters")
        self._people_random = Random(f"{world.seed} people")
        self._crowd = Crowd(world, self._people_random, HABITS, world.hold_seconds)
        self._lacks_state = False

    async def run(self) -> None:
        world = self._world
        await world.start()
        tasks = [asyncio.create_task(each) for each in (self._trade(), self._bring_disasters())]
        if world.faults.has("handler fails"):
            self._operator = asyncio.create_task(self._operate())
        await asyncio.wait(tasks[:1], timeout=_LASTS_SECONDS_MAX)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        world.faults.are_on = False
        world.trace("healed")
        world.set_polls(HEALED_IDLE_SECONDS)
        await self._settle()
        await self._check()

    # People.

    async def _trade(self) -> None:
        """Let one or two sellers and two to four buyers do what they do in this seed."""
        random = self._people_random
        sellers = [self._join(name) for name in ("alice", "trent")[: random.randint(1, 2)]]
        buyers = [self._join(name) for name in ("bob", "carol", "dave", "erin")[: random.randint(2, 4)]]
        async with asyncio.TaskGroup() as group:
            for seller in sellers:
                group.create_task(self._sell(seller))
            for buyer in buyers:
                group.create_task(self._buy(buyer))

    def _join(self, name: str) -> Person:
        user = SignedInUser(self._world.new_uuid(), f"{name}@example.com", self._world.new_uuid(), expires_at=4e9)
        session = f"{name}.has.signed-in"  # of the form of a token
        self._world.users[session] = user
        return self._crowd.join(user.id, session)

    async def _sell(self, seller: Person) -> None:
        random = self._people_random
        for _ in range(random.choice((1, 2, 3))):
            await self._crowd.list_ticket(seller)
            await asyncio.sleep(random.uniform(0.0, 2.0))
        for _ in range(random.choice((0, 1, 2, 4, 8))):
            await self._crowd.pause()
            await self._crowd.edit_a_ticket(seller)

    async def _buy(self, buyer: Person) -> None:
        await asyncio.sleep(self._people_random.uniform(0.5, 3.0))
        for _ in range(self._people_random.randint(1, 4)):
            await self._crowd.shop(buyer)

    # Disasters.

    async def _bring_disasters(self) -> None:
        world, random = self._world, self._random
        kinds = [kind for kind in DISASTERS if world.faults.has(kind)]
        while kinds:
            await asyncio.sleep(random.expovariate(1 / 12))
            kind = random.choice(kinds)
            world.trace("disaster", kind)
            world.faults.note(kind)
            match kind:
                case "bus wiped":
                    for producer in world.bus.producers:
                        world.bus.wipe(producer)
                case "stream wiped" if world.bus.producers:
                    world.bus.wipe(random.choice(world.bus.producers))
                case "bus rolled back":
                    world.bus.copy()
                    await asyncio.sleep(random.uniform(0.5, 15.0))
                    world.bus.go_away(random.uniform(0.1, 5.0))
                    world.bus.roll_back()
                case "bus away":
                    world.bus.go_away(random.uniform(0.5, 20.0))
                case "bus away for longer than a hold":
                    world.bus.go_away(world.hold_seconds + random.uniform(5.0, 60.0))
                    kinds.remove(kind)  # people have stopped to trade when it is over
                case "consumer forgotten":
                    world.bus.forget_consumer(*random.choice(_CONSUMERS))
                case "process killed":
                    random.choice(world.processes).die()
                case "clock jumps":
                    service = random.choice(list(world.skew_seconds))
                    world.skew_seconds[service] = random.uniform(-_JUMP_SECONDS_MAX, _JUMP_SECONDS_MAX)
                case "intents not found":
                    world.provider.finds_nothing_until = world.loop.time() + random.uniform(5.0, 200.0)
                case "lists fail":
                    world.provider.lists_nothing_until = world.loop.time() + random.uniform(5.0, 200.0)

    async def _operate(self) -> None:
        """Be the operator, who decides about dead letters again and again."""
        while True:
            await asyncio.sleep(self._random.uniform(10.0, 60.0))
            for process in self._world.processes:
                if process.is_alive and not process.is_older:
                    await asyncio.wait({process.spawn(self._decide(process))})

    async def _decide(self, process: Process) -> None:
        """Retry a service's dead letters, or drop them where the present state can replace them."""
        for letter in await dead_letters.find_all(process.database):
            is_hopeless = letter.error.startswith(HandlerFails.__name__) and self._random.random() < 0.4
            if letter.subject == _REPLACEABLE and is_hopeless:
                self._world.trace("dropped", letter.id)
                self._lacks_state = True
                await dead_letters.drop(process.database, letter)
            else:
                self._world.trace("retried", letter.id)
                with suppress(Exception):  # as the command does; it may fail again
                    await dead_letters.retry(process.database, process.inbox, letter)

    # The end.

    async def _settle(self) -> None:
        """Wait until nothing is in progress; give up at the deadline."""
        world = self._world
        deadline = world.loop.time() + _SETTLES_SECONDS
        # A relay notices single lost messages when it next compares, which its polls put off; twice is every relay.
        await asyncio.sleep(2 * HEALED_IDLE_SECONDS)
        reason: str | None = ""
        while reason is not None and world.loop.time() < deadline:
            await asyncio.sleep(_POLL_SECONDS)
            reason = await self._in_progress()
            if reason is None and self._lacks_state:
                # Nothing may wait for what was dropped; only then is it replaced.
                tickets = next(each for each in world.processes if each.service.name == "tickets")
                await publish_snapshots(tickets.database, tickets.service.snapshots)
                self._lacks_state, reason = False, "the tickets are published again"
        if reason is not None:
            world.violated(f"I6 not settled after {_SETTLES_SECONDS:.0f} s: {reason}")

    async def _in_progress(self) -> str | None:
        world = self._world
        if not all(process.is_alive for process in world.processes):
            return "a process is down"
        for service, sql in IN_PROGRESS:
            if rows := world.databases.rows(service, sql):
                return f"{service}: {rows[0][0]}"
        for each in SERVICES:
            if rows := world.databases.rows(each.name, "SELECT id FROM dead_letter LIMIT 1"):
                return f"{each.name}: dead letter {rows[0][0]}"
        if not world.bus.is_drained():
            return "the bus is not drained"
        # A hold that the database does not know of is found by the comparison with the provider's books.
        if any(each.status == "requires_capture" for each in await world.provider.books()):
            return "the provider holds money"
        return None

    async def _check(self) -> None:
        """Check every invariant, each database by its own clock."""
        world = self._world
        for name in world.databases.owners:
            seconds = world.true_time().timestamp() + world.skew_seconds.get(name, 0.0)
            world.databases.execute(
                name, f"SET admitone.instant = '{datetime.fromtimestamp(seconds, UTC).isoformat()}'"
            )
        services = [each for each in ALL_SERVICES if each.has_database]
        history, books = self._crowd.history, await world.provider.books()
        for finding in world.databases.run(check_connections(world.databases.owners, services, history.records, books)):
            for sample in finding.samples():
                world.violated(f"{finding.id} {sample}")
        for problem in history.problems:
            world.violated(problem)
        if world.faults.kinds == {LONG_OUTAGE}:
            self._check_paid_in_time()

    def _check_paid_in_time(self) -> None:
        """Check that no order expired that was paid before its deadline; in the last second either is right."""
        databases = self._world.databases
        for order_id, paid_at in databases.rows("payments", _PAID_AT):
            for _ in databases.rows("orders", _EXPIRED_AFTER, order_id, paid_at + timedelta(seconds=1)):
                self._world.violated(f"order {order_id} expired although it was paid in time")
