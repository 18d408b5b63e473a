"""Every kind of fault: how it is brought about, how often in eight minutes, and by when all should work again."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final, Literal

import httpx

from admitone.local.server import LOOPBACK
from proof.chaos.links import Link
from proof.chaos.probes import AWAY, Probes
from proof.chaos.stack import SERVICES, STORED, TWIN, Stack

Lane = Literal["blows", "links", "provider", "long"]

# Longer than the bus waits for an acknowledgement (10 s): what was handed to the paused one is handed out again. Longer
# than the database lets a relay stand still (15 s), too.
PAUSE_SECONDS: Final = 33.0
CLOCK_SECONDS: Final = 600
# A connection that swallows everything is given up by a service after its own 10 s.
_SWALLOW_SECONDS: Final = (2.0, 12.0)
_CUT_SECONDS: Final = (0.3, 3.0)
_DELAY_SECONDS: Final = (2.0, 4.0)
_DELAYED_BY_SECONDS: Final = 0.5
_FULL_SECONDS: Final = (2.0, 5.0)
_COMMIT_WITHIN_SECONDS: Final = 8.0
_LOST_EVENTS: Final = 20


@dataclass
class Ground:
    """What a fault has to do with."""

    stack: Stack
    probes: Probes
    random: Random
    pauses: int = 0
    paused: int = 0

    @contextlib.contextmanager
    def pause(self, service: str) -> Iterator[None]:
        """Let a service stand still; whatever else comes back meanwhile may have had to wait for it."""
        self.pauses += 1
        self.paused += 1
        self.stack.signal(service, signal.SIGSTOP)
        try:
            yield
        finally:
            self.stack.signal(service, signal.SIGCONT)
            self.paused -= 1

    def between(self, seconds: tuple[float, float]) -> float:
        return self.random.uniform(*seconds)


@dataclass(frozen=True)
class Struck:
    """What a fault did: whether it came about, whether it killed a process with -9, how long until all worked again."""

    seconds: float | None
    kills: int = 0
    happened: bool = True


Strike = Callable[[Ground, str], Awaitable[Struck]]


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `often` counts for eight minutes; faults of one lane never overlap."""

    name: str
    lane: Lane
    often: int
    targets: Sequence[str]
    strike: Strike
    mark_seconds: float | None = None
    needs: str = ""


KINDS: Final[list[Kind]] = []


def _kind(
    name: str,
    lane: Lane,
    often: int,
    targets: Sequence[str] = ("",),
    *,
    mark_seconds: float | None = None,
    needs: str = "",
) -> Callable[[Strike], Strike]:
    def declare(strike: Strike) -> Strike:
        KINDS.append(Kind(name, lane, often, targets, strike, mark_seconds, needs))
        return strike

    return declare


# Killed.


@_kind("kill -9 a service", "blows", 24, SERVICES, mark_seconds=3.0)
async def _kill_service(ground: Ground, service: str) -> Struck:
    ground.stack.kill(service)
    return Struck(await ground.probes.until(lambda: ground.probes.answers(service)), kills=1)


@_kind("kill -9 the holder of a relay", "blows", 4, mark_seconds=3.0)
async def _kill_relay_holder(ground: Ground, _: str) -> Struck:
    try:
        holder = await ground.stack.relay_holder()
    except AWAY:
        return Struck(None, happened=False)
    since = await ground.probes.now()
    ground.stack.kill(holder)
    return Struck(await ground.probes.until(lambda: ground.probes.subscriptions(TWIN, since)), kills=1)


@_kind("kill -9 NATS", "blows", 5, mark_seconds=5.0)
async def _kill_nats(ground: Ground, _: str) -> Struck:
    ground.stack.kill("nats")
    return Struck(await ground.probes.until(ground.probes.sells), kills=1)


@_kind("kill -9 PostgreSQL", "blows", 4, mark_seconds=5.0)
async def _kill_postgres(ground: Ground, _: str) -> Struck:
    ground.stack.kill("postgres")
    return Struck(await ground.probes.until(ground.probes.all_answer), kills=1)


@_kind("kill -9 one process of PostgreSQL", "blows", 4, STORED, mark_seconds=5.0)
async def _kill_backend(ground: Ground, service: str) -> Struck:
    try:
        async with ground.stack.connected("postgres") as connection:
            inside = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() LIMIT 1", service
            )
    except AWAY:
        return Struck(None, happened=False)
    if inside is None or not ground.stack.kill_below("postgres", inside):
        return Struck(None, happened=False)
    return Struck(await ground.probes.until(ground.probes.all_answer), kills=1)


@_kind("kill -9 the payment provider", "blows", 3)
async def _kill_provider(ground: Ground, _: str) -> Struck:
    ground.stack.kill("sandbox")
    return Struck(await ground.probes.until(ground.probes.buys), kills=1)


@_kind("kill -9 everything at once", "blows", 2, mark_seconds=20.0)
async def _kill_everything(ground: Ground, _: str) -> Struck:
    began = time.monotonic()
    await ground.stack.kill_everything()
    await ground.probes.until(ground.probes.sells)
    return Struck(time.monotonic() - began, kills=1)


@_kind("SIGSTOP a service for longer than the bus waits", "long", 3, ("expiration", "twin", "payments", "tickets"))
async def _pause(ground: Ground, service: str) -> Struck:
    with ground.pause(service):
        await asyncio.sleep(PAUSE_SECONDS)
    # The twin is asked by nobody: its service must be well.
    return Struck(await ground.probes.until(lambda: ground.probes.answers(TWIN if service == "twin" else service)))


# The bus forgets.


@_kind("NATS loses its store", "blows", 3, mark_seconds=60.0)
async def _wipe_bus(ground: Ground, _: str) -> Struck:
    told_before = await ground.probes.now()
    ground.stack.wipe_bus()
    return Struck(await ground.probes.until_converged(told_before), kills=1)


@_kind("NATS gets an older copy of its store", "blows", 3, mark_seconds=60.0)
async def _restore_bus(ground: Ground, _: str) -> Struck:
    copy = ground.stack.copy_bus()
    await asyncio.sleep(ground.random.uniform(2.0, 5.0))
    told_before = await ground.probes.now()
    ground.stack.restore_bus(copy)
    return Struck(await ground.probes.until_converged(told_before), kills=1)


@_kind("NATS loses single events", "blows", 3, ("tickets", "orders", "payments"), mark_seconds=30.0)
async def _lose_events(ground: Ground, stream: str) -> Struck:
    told_before = await ground.probes.now()
    try:
        async with ground.stack.bus() as bus:
            state = (await bus.request(f"$JS.API.STREAM.INFO.{stream}", {}))["state"]
            for _ in range(_LOST_EVENTS):
                number = ground.random.randint(max(state["first_seq"], 1), max(state["last_seq"], 1))
                await bus.request(f"$JS.API.STREAM.MSG.DELETE.{stream}", {"seq": number, "no_erase": True})
    except (*AWAY, KeyError):
        return Struck(None, happened=False)
    return Struck(await ground.probes.until_converged(told_before))


# The disk is full.


@_kind("PostgreSQL's disk is full", "blows", 3, mark_seconds=10.0, needs="postgres")
async def _fill_postgres(ground: Ground, _: str) -> Struck:
    await _fill(ground, "postgres", use_up=_begin_new_log)
    return Struck(await ground.probes.until(ground.probes.all_answer))


@_kind("NATS's disk is full", "blows", 3, mark_seconds=30.0, needs="nats")
async def _fill_nats(ground: Ground, _: str) -> Struck:
    await _fill(ground, "nats")
    return Struck(await ground.probes.until(ground.probes.sells))


async def _begin_new_log(stack: Stack) -> None:
    """Let PostgreSQL want a new file for its log: what it had made beforehand would last for minutes."""
    with contextlib.suppress(*AWAY):
        async with stack.connected("postgres") as connection:
            await connection.execute("SELECT pg_switch_wal()")


async def _nothing(_: Stack) -> None:
    """Use nothing up: the next event is too much already."""


async def _fill(ground: Ground, name: str, use_up: Callable[[Stack], Awaitable[None]] = _nothing) -> None:
    disk = ground.stack.disks[name]
    ends = time.monotonic() + ground.between(_FULL_SECONDS)
    try:
        while time.monotonic() < ends:
            disk.fill()  # again, because a server may give room back
            await use_up(ground.stack)
            await asyncio.sleep(0.2)
    finally:
        disk.free()


# The clock is wrong.


@_kind("a service's clock is 10 minutes off", "long", 6, (*STORED, "web"), needs="clocks")
async def _skew(ground: Ground, service: str) -> Struck:
    ground.stack.set_clock(service, ground.random.choice((CLOCK_SECONDS, -CLOCK_SECONDS)))
    await asyncio.sleep(8.0)
    # It must not matter: the service has to answer as it is, with its clock still wrong.
    seconds = await ground.probes.until(lambda: ground.probes.answers(service))
    ground.stack.set_clock(service, 0)
    return Struck(seconds)


# Links.


async def _recovered(ground: Ground, link: Link, service: str, target: str) -> float:
    """Heal a link and return how long its service took to use it again."""
    since = await ground.probes.now() if target == "nats" else None
    link.heal()
    if since is not None:
        return await ground.probes.until(lambda: ground.probes.subscriptions(service, since))
    if target == "provider":
        return await ground.probes.until(ground.probes.buys)
    return await ground.probes.until(lambda: ground.probes.answers(service))


_DATABASE_WAYS: Final = tuple(f"{each}/postgres" for each in STORED)
_BUS_WAYS: Final = tuple(f"{each}/nats" for each in ("tickets", "orders", "payments", "expiration"))
_PROVIDER_WAY: Final = ("payments/provider",)


def _on_links(what: str, often: int, begin: Callable[[Link], object], seconds: tuple[float, float]) -> None:
    """Declare a fault of links towards each kind of server."""
    for server, ways in (("PostgreSQL", _DATABASE_WAYS), ("NATS", _BUS_WAYS), ("the provider", _PROVIDER_WAY)):

        async def strike(ground: Ground, way: str) -> Struck:
            service, _, target = way.partition("/")
            link = ground.stack.links[service, target]
            begin(link)
            await asyncio.sleep(ground.between(seconds))
            return Struck(await _recovered(ground, link, service, target))

        _kind(f"{what} to {server}", "links", often, ways)(strike)


_on_links("cut the way", 8, Link.cut, _CUT_SECONDS)
_on_links("0.5 s longer a way", 6, lambda link: link.delay(_DELAYED_BY_SECONDS), _DELAY_SECONDS)
_on_links("half-open way", 4, Link.swallow, _SWALLOW_SECONDS)


def _on_commits(what: str, *, before: bool) -> None:
    @_kind(f"reset after COMMIT was sent, {what}", "links", 16, STORED)
    async def _strike(ground: Ground, service: str) -> Struck:
        link = ground.stack.links[service, "postgres"]
        if not await link.break_commit(before=before, wait_seconds=_COMMIT_WITHIN_SECONDS):
            return Struck(None, happened=False)
        return Struck(await ground.probes.until(lambda: ground.probes.answers(service)))


_on_commits("and it was lost", before=True)
_on_commits("and it was committed", before=False)


# The provider.

_REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "answers 500 after the effect": {"when": "after", "answer": "internal_error"},
    "answers 500 without an effect": {"when": "before", "answer": "internal_error"},
    "answers 429": {"when": "before", "answer": "too_many_requests"},
    "breaks off after the effect": {"when": "after", "answer": "drop"},
    "takes 3 s": {"when": "before", "delay_ms": 3000},
}
_WEBHOOKS: Final = ("lose", "duplicate", "delay", "reorder")


async def _wrong_at_provider(ground: Ground, wanted: dict[str, Any]) -> Struck:
    url = f"http://{LOOPBACK}:{ground.stack.ports.provider}/sandbox/faults"
    try:
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            (await client.post(url, json=wanted)).raise_for_status()
            await asyncio.sleep(2.0)
            (await client.delete(url)).raise_for_status()
    except httpx.HTTPError:
        return Struck(None, happened=False)
    return Struck(await ground.probes.until(ground.probes.buys))


@_kind("the provider errs", "provider", 15, tuple(_REQUESTS))
async def _request_fault(ground: Ground, what: str) -> Struck:
    return await _wrong_at_provider(ground, {"requests": [{"count": 5, **_REQUESTS[what]}]})


@_kind("the provider's webhooks are lost, late or doubled", "provider", 12, _WEBHOOKS)
async def _webhook_fault(ground: Ground, what: str) -> Struck:
    return await _wrong_at_provider(ground, {"webhooks": [{"count": 5, "kind": what, "delay_ms": 4000}]})
