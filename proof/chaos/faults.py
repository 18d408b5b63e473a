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
import nats.js.errors

from admitone.local.server import LOOPBACK
from proof.chaos.clocks import set_clock
from proof.chaos.links import Link
from proof.chaos.probes import UNREACHABLE, Probes
from proof.chaos.stack import TWIN, Stack
from proof.marketplace import SERVICES, STORED

Lane = Literal["blows", "links", "provider", "long"]

# Longer than the bus waits for an acknowledgement (10 s), so that events of a paused service are delivered again, and
# longer than the database lets a relay be silent (15 s).
_PAUSE_SECONDS: Final = 33.0
_CLOCK_SECONDS: Final = 600
# A service gives up a connection that swallows everything after 10 s of its own.
_SWALLOW_SECONDS: Final = (2.0, 12.0)
_CUT_SECONDS: Final = (0.3, 3.0)
_DELAY_SECONDS: Final = (2.0, 4.0)
_DELAYED_BY_SECONDS: Final = 0.5
_FULL_SECONDS: Final = (2.0, 5.0)
_COMMIT_WITHIN_SECONDS: Final = 8.0
_LOST_EVENTS: Final = 20


@dataclass
class Context:
    """What a fault acts on."""

    stack: Stack
    probes: Probes
    random: Random
    pauses: int = 0
    paused: int = 0

    @contextlib.contextmanager
    def pause(self, service: str) -> Iterator[None]:
        """Stop a service; what recovers meanwhile may have had to wait for it."""
        self.pauses += 1
        self.paused += 1
        self.stack.signal(service, signal.SIGSTOP)
        try:
            yield
        finally:
            self.stack.signal(service, signal.SIGCONT)
            self.paused -= 1


@dataclass(frozen=True)
class Effect:
    """What a fault did: how long until all worked again, and how many processes it killed."""

    seconds: float | None
    kills: int = 0
    happened: bool = True


NOTHING: Final = Effect(None, happened=False)
Strike = Callable[[Context, str], Awaitable[Effect]]


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
async def _kill_service(context: Context, service: str) -> Effect:
    context.stack.kill(service)
    return Effect(await context.probes.until(lambda: context.probes.responds(service)), kills=1)


@_kind("kill -9 the holder of a relay", "blows", 4, mark_seconds=3.0)
async def _kill_relay_holder(context: Context, _: str) -> Effect:
    try:
        holder = await context.stack.relay_holder()
    except UNREACHABLE:
        return NOTHING
    since = await context.probes.now()
    context.stack.kill(holder)
    return Effect(await context.probes.until(lambda: context.probes.has_consumed(TWIN, since)), kills=1)


@_kind("kill -9 NATS", "blows", 5, mark_seconds=5.0)
async def _kill_nats(context: Context, _: str) -> Effect:
    context.stack.kill("nats")
    return Effect(await context.probes.until(context.probes.can_reserve), kills=1)


@_kind("kill -9 PostgreSQL", "blows", 4, mark_seconds=5.0)
async def _kill_postgres(context: Context, _: str) -> Effect:
    context.stack.kill("postgres")
    return Effect(await context.probes.until(context.probes.all_respond), kills=1)


@_kind("kill -9 one process of PostgreSQL", "blows", 4, STORED, mark_seconds=5.0)
async def _kill_backend(context: Context, service: str) -> Effect:
    try:
        async with context.stack.marketplace.connected("postgres") as connection:
            inside = await connection.fetchval(
                "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() LIMIT 1", service
            )
    except UNREACHABLE:
        return NOTHING
    if inside is None or not context.stack.kill_child("postgres", inside):
        return NOTHING
    return Effect(await context.probes.until(context.probes.all_respond), kills=1)


@_kind("kill -9 the payment provider", "blows", 3)
async def _kill_provider(context: Context, _: str) -> Effect:
    context.stack.kill("sandbox")
    return Effect(await context.probes.until(context.probes.can_buy), kills=1)


@_kind("kill -9 everything at once", "blows", 2, mark_seconds=20.0)
async def _kill_everything(context: Context, _: str) -> Effect:
    began = time.monotonic()
    await context.stack.kill_everything()
    await context.probes.until(context.probes.can_reserve)
    return Effect(time.monotonic() - began, kills=1)


@_kind("SIGSTOP a service for longer than the bus waits", "long", 3, ("expiration", "twin", "payments", "tickets"))
async def _pause(context: Context, service: str) -> Effect:
    with context.pause(service):
        await asyncio.sleep(_PAUSE_SECONDS)
    # The twin serves nobody: its service must respond.
    return Effect(await context.probes.until(lambda: context.probes.responds(TWIN if service == "twin" else service)))


# The bus forgets.


@_kind("NATS loses its store", "blows", 3, mark_seconds=60.0)
async def _wipe_bus(context: Context, _: str) -> Effect:
    before = await context.probes.now()
    context.stack.replace_bus(None)
    return Effect(await context.probes.until_converged(before), kills=1)


@_kind("NATS gets an older copy of its store", "blows", 3, mark_seconds=60.0)
async def _restore_bus(context: Context, _: str) -> Effect:
    copy = context.stack.copy_bus()
    await asyncio.sleep(context.random.uniform(2.0, 5.0))
    before = await context.probes.now()
    context.stack.replace_bus(copy)
    return Effect(await context.probes.until_converged(before), kills=1)


@_kind("NATS loses single events", "blows", 3, ("tickets", "orders", "payments"), mark_seconds=30.0)
async def _lose_events(context: Context, stream: str) -> Effect:
    before = await context.probes.now()
    try:
        async with context.stack.bus() as bus:
            state = (await bus.jetstream.stream_info(stream)).state
            for _ in range(_LOST_EVENTS):
                sequence = context.random.randint(max(state.first_seq, 1), max(state.last_seq, 1))
                with contextlib.suppress(nats.js.errors.APIError):  # it may be lost already
                    await bus.jetstream.delete_msg(stream, sequence)
    except UNREACHABLE:
        return NOTHING
    return Effect(await context.probes.until_converged(before))


# The disk is full.


@_kind("PostgreSQL's disk is full", "blows", 3, mark_seconds=10.0, needs="postgres")
async def _fill_postgres(context: Context, _: str) -> Effect:
    await _fill(context, "postgres", use_up=_begin_new_log)
    return Effect(await context.probes.until(context.probes.all_respond))


@_kind("NATS's disk is full", "blows", 3, mark_seconds=30.0, needs="nats")
async def _fill_nats(context: Context, _: str) -> Effect:
    await _fill(context, "nats")
    return Effect(await context.probes.until(context.probes.can_reserve))


async def _begin_new_log(stack: Stack) -> None:
    """Make PostgreSQL need a new file for its log: those it has prepared would last for minutes."""
    with contextlib.suppress(*UNREACHABLE):
        async with stack.marketplace.connected("postgres") as connection:
            await connection.execute("SELECT pg_switch_wal()")


async def _nothing(_: Stack) -> None:
    """NATS needs space for the next event anyway."""


async def _fill(context: Context, name: str, use_up: Callable[[Stack], Awaitable[None]] = _nothing) -> None:
    disk = context.stack.disks[name]
    ends = time.monotonic() + context.random.uniform(*_FULL_SECONDS)
    try:
        while time.monotonic() < ends:
            disk.fill()  # again, because a server may free some
            await use_up(context.stack)
            await asyncio.sleep(0.2)
    finally:
        disk.free()


# The clock is wrong.


@_kind("a service's clock is 10 minutes off", "long", 6, (*STORED, "web"), needs="clocks")
async def _skew(context: Context, service: str) -> Effect:
    set_clock(context.stack.folder, service, context.random.choice((_CLOCK_SECONDS, -_CLOCK_SECONDS)))
    await asyncio.sleep(8.0)
    # It must not matter: the service has to respond with its clock still wrong.
    seconds = await context.probes.until(lambda: context.probes.responds(service))
    set_clock(context.stack.folder, service, 0)
    return Effect(seconds)


# Links.


async def _recovered(context: Context, link: Link, service: str, target: str) -> float:
    """Heal a link and return how long its service took to use it again."""
    since = await context.probes.now() if target == "nats" else None
    link.heal()
    if since is not None:
        return await context.probes.until(lambda: context.probes.has_consumed(service, since))
    if target == "provider":
        return await context.probes.until(context.probes.can_buy)
    return await context.probes.until(lambda: context.probes.responds(service))


_DATABASE_WAYS: Final = tuple(f"{each}/postgres" for each in STORED)
_BUS_WAYS: Final = tuple(f"{each}/nats" for each in ("tickets", "orders", "payments", "expiration"))
_PROVIDER_WAY: Final = ("payments/provider",)


def _on_links(what: str, often: int, begin: Callable[[Link], object], seconds: tuple[float, float]) -> None:
    """Declare a fault of the links to each kind of server."""
    for server, ways in (("PostgreSQL", _DATABASE_WAYS), ("NATS", _BUS_WAYS), ("the provider", _PROVIDER_WAY)):

        async def strike(context: Context, way: str) -> Effect:
            service, _, target = way.partition("/")
            link = context.stack.links[service, target]
            begin(link)
            await asyncio.sleep(context.random.uniform(*seconds))
            return Effect(await _recovered(context, link, service, target))

        _kind(f"{what} to {server}", "links", often, ways)(strike)


_on_links("cut the way", 8, Link.cut, _CUT_SECONDS)
_on_links("0.5 s longer a way", 6, lambda link: link.delay(_DELAYED_BY_SECONDS), _DELAY_SECONDS)
_on_links("half-open way", 4, Link.swallow, _SWALLOW_SECONDS)


def _on_commits(what: str, *, before: bool) -> None:
    @_kind(f"reset after COMMIT was sent, {what}", "links", 16, STORED)
    async def _strike(context: Context, service: str) -> Effect:
        link = context.stack.links[service, "postgres"]
        if not await link.break_commit(before=before, wait_seconds=_COMMIT_WITHIN_SECONDS):
            return NOTHING
        return Effect(await context.probes.until(lambda: context.probes.responds(service)))


_on_commits("and it was lost", before=True)
_on_commits("and it was committed", before=False)


# The provider.

_REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "responds 500 after the effect": {"when": "after", "answer": "internal_error"},
    "responds 500 without an effect": {"when": "before", "answer": "internal_error"},
    "responds 429": {"when": "before", "answer": "too_many_requests"},
    "drops the connection after the effect": {"when": "after", "answer": "drop"},
    "takes 3 s": {"when": "before", "delay_ms": 3000},
}
_WEBHOOKS: Final = ("lose", "duplicate", "delay", "reorder")


async def _wrong_at_provider(context: Context, wanted: dict[str, Any]) -> Effect:
    url = f"http://{LOOPBACK}:{context.stack.ports.provider}/sandbox/faults"
    try:
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            (await client.post(url, json=wanted)).raise_for_status()
            await asyncio.sleep(2.0)
            (await client.delete(url)).raise_for_status()
    except httpx.HTTPError:
        return NOTHING
    return Effect(await context.probes.until(context.probes.can_buy))


@_kind("the provider errs", "provider", 15, tuple(_REQUESTS))
async def _request_fault(context: Context, what: str) -> Effect:
    return await _wrong_at_provider(context, {"requests": [{"count": 5, **_REQUESTS[what]}]})


@_kind("the provider's webhooks are lost, late or doubled", "provider", 12, _WEBHOOKS)
async def _webhook_fault(context: Context, what: str) -> Effect:
    return await _wrong_at_provider(context, {"webhooks": [{"count": 5, "kind": what, "delay_ms": 4000}]})
