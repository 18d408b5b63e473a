"""One seed from its first listing to the last check: faults for a while, then peace, and everything must settle."""

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Final

from admitone import invariants
from admitone.registry import named
from proof.simulation.engine import SERVICES as DATABASES
from proof.simulation.engine import Engine
from proof.simulation.faults import DISTURBANCES
from proof.simulation.loop import Stuck
from proof.simulation.people import People
from proof.simulation.world import BEGINNING, HEALED_IDLE_SECONDS, World

_LASTS_SECONDS_MAX: Final = 400.0
_LOOK_EVERY_SECONDS: Final = 15.0
# A clock that jumped back by ten minutes twice may keep an order, a hold or a lease for that much longer.
SETTLES_SECONDS: Final = 1800.0
_JUMP_SECONDS_MAX: Final = 600.0


@dataclass
class Outcome:
    """What became of a seed."""

    seed: int
    violations: list[str]
    trace_hash: str
    faults: Counter[str] = field(default_factory=Counter)
    purchases: int = 0
    orders: int = 0
    statements: int = 0
    settled_seconds: float = 0.0
    log: list[str] | None = None


def run_seed(seed: int, engine: Engine, *, keeps_log: bool = False) -> Outcome:
    """Live one seed through; the same seed gives the same outcome, to the last byte of its trace."""
    engine.reset(BEGINNING)
    statements = engine.statements
    world = World(seed, engine, keeps_log=keeps_log)
    people = People(world, Random(f"{seed} people"))
    life = _Life(world, people)
    try:
        asyncio.set_event_loop(world.loop)
        with world.rules():
            try:
                world.loop.run_until_complete(life.live())
            except (Stuck, RuntimeError) as error:  # the latter is what a stopped loop raises
                world.wrong(f"{type(error).__name__} {error}")
            finally:
                world.stop()
                _run_out(world)
    finally:
        asyncio.set_event_loop(None)
        world.loop.close()
    purchases = len(engine.look("orders", "SELECT 1 FROM orders WHERE status = 'complete'"))
    orders = len(engine.look("orders", "SELECT 1 FROM orders"))
    world.trace("end", purchases, orders, sorted(world.faults.struck.items()))
    return Outcome(
        seed,
        world.violations,
        world.trace_hash,
        world.faults.struck,
        purchases,
        orders,
        engine.statements - statements,
        life.settled_seconds,
        world.log,
    )


def _run_out(world: World) -> None:
    """Let cancelled tasks end."""
    left = asyncio.all_tasks(world.loop)
    for task in left:
        task.cancel()
    if left:
        with suppress(Stuck, RuntimeError):
            world.loop.run_until_complete(asyncio.wait(left, timeout=60))


class _Life:
    def __init__(self, world: World, people: People) -> None:
        self._world = world
        self._people = people
        self._random = Random(f"{world.seed} disturber")
        self.settled_seconds = 0.0

    async def live(self) -> None:
        world = self._world
        await world.start()
        disturbing = asyncio.create_task(self._disturb())
        trading = asyncio.create_task(self._people.trade())
        await asyncio.wait({trading}, timeout=_LASTS_SECONDS_MAX)
        trading.cancel()
        disturbing.cancel()
        await asyncio.wait({trading, disturbing})
        for task in (trading, disturbing):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        world.faults.are_on = False
        world.bus.come_back()
        world.trace("healed")
        world.set_pauses(HEALED_IDLE_SECONDS)
        await self._settle()
        self._check()

    async def _disturb(self) -> None:
        """Bring about, now and then, what befalls a whole machine."""
        world, random = self._world, self._random
        kinds = [kind for kind in DISTURBANCES if world.faults.has(kind)]
        while kinds:
            await asyncio.sleep(random.expovariate(1 / 12))
            kind = random.choice(kinds)
            world.trace("disturbance", kind)
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
                case "consumer forgotten":
                    producer, service = random.choice(_HEARING)
                    world.bus.forget_consumer(producer, service)
                case "process killed":
                    random.choice(world.processes).die()
                case "clock jumps":
                    world.skew[random.choice(list(world.skew))] = random.uniform(-_JUMP_SECONDS_MAX, _JUMP_SECONDS_MAX)
                case _:
                    continue

    async def _settle(self) -> None:
        """Wait until nothing is under way any more; give up at the deadline."""
        world = self._world
        healed_at = world.loop.time()
        reason: str | None = ""
        # A relay notices single lost messages when it next compares, which its pauses put off; twice is every relay.
        await asyncio.sleep(2 * HEALED_IDLE_SECONDS)
        while reason is not None and world.loop.time() - healed_at < SETTLES_SECONDS:
            await asyncio.sleep(_LOOK_EVERY_SECONDS)
            reason = self._unsettled()
        self.settled_seconds = world.loop.time() - healed_at
        if reason is not None:
            world.wrong(f"I6 not settled after {SETTLES_SECONDS:.0f} s: {reason}")

    def _unsettled(self) -> str | None:
        world = self._world
        if not all(process.is_alive for process in world.processes):
            return "a process is down"
        for service, sql in invariants.IN_PROGRESS:
            if rows := world.engine.look(service, sql):
                return f"{service}: {rows[0][0]}"
        if not world.bus.is_drained():
            return "the bus is not drained"
        # A hold that nobody knows of any more is found by the comparison with the provider's books.
        if any(each.status == "requires_capture" for each in world.provider.books()):
            return "the provider holds money"
        return None

    def _check(self) -> None:
        world = self._world
        connections = {name: world.engine.stores[name].owner for name in DATABASES}
        for name, owner in connections.items():
            instant = world.true_time().timestamp() + world.skew.get(name, 0.0)
            world.engine.driver.run(owner.execute(f"SET admitone.instant = '{_iso(instant)}'"))
        services = [each for each in named(()) if each.has_database]
        findings = world.engine.driver.run(
            invariants.check_connections(connections, services, self._people.history, world.provider.books())
        )
        for finding in findings:
            for sample in finding.samples():
                world.wrong(f"{finding.id} {sample}")


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


_HEARING: Final = tuple(
    (producer, service.name)
    for service in named(("tickets", "orders", "expiration", "payments"))
    for producer in sorted({heard.producer for heard in service.subscriptions})
)
