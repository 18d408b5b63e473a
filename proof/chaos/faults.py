"""Every kind of fault: how it is brought about, how often in eight minutes, and by when all should work again."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
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

Lane = Literal["strikes", "links", "provider", "long"]

# Longer than the bus waits for an acknowledgement (10 s), so that events of a paused service are delivered again, and
# longer than the database lets a relay be silent (15 s).
_PAUSE_SECONDS: Final = 33.0
_CLOCK_SECONDS: Final = 600
_DELAYED_BY_SECONDS: Final = 0.5
_FULL_SECONDS: Final = (2.0, 5.0)
_COMMIT_WITHIN_SECONDS: Final = 8.0
_LOST_EVENTS: Final = 20


class NothingToStrike(Exception):
    """The fault could not happen: another one was faster, or there was no commit to break"""


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


Strike = Callable[[Context, str], Awaitable[None]]
Recovered = Callable[[Probes, str, datetime], Awaitable[bool]]
"""Whether all works again after a fault of this target that ended at this time, by the databases' clock."""


@dataclass(frozen=True)
class Kind:
    """One kind of fault. `often` counts for eight minutes; faults of one lane never overlap.

    Recovery is timed from the end of the strike, or from its beginning if it brings everything back itself.
    """

    name: str
    lane: Lane
    often: int
    strike: Strike
    recovered: Recovered
    targets: Sequence[str] = ("",)
    mark_seconds: float | None = None
    needs: str = ""
    kills: int = 0
    brings_back: bool = False


KINDS: Final[list[Kind]] = []


def _kind(name: str, lane: Lane, often: int, recovered: Recovered, **more: Any) -> Callable[[Strike], Strike]:
    def declare(strike: Strike) -> Strike:
        KINDS.append(Kind(name, lane, often, strike, recovered, **more))
        return strike

    return declare


async def _responds(probes: Probes, service: str, _since: datetime) -> bool:
    # The twin serves nobody: its service must respond.
    return await probes.responds(TWIN if service == "twin" else service)


async def _all_respond(probes: Probes, _target: str, _since: datetime) -> bool:
    return await probes.all_respond()


async def _can_reserve(probes: Probes, _target: str, _since: datetime) -> bool:
    return await probes.can_reserve()


async def _can_buy(probes: Probes, _target: str, _since: datetime) -> bool:
    return await probes.can_buy()


async def _has_consumed(probes: Probes, service: str, since: datetime) -> bool:
    return await probes.has_consumed(service or TWIN, since)


async def _has_converged(probes: Probes, _target: str, since: datetime) -> bool:
    return await probes.has_converged(since)


# Processes are killed or paused.


@_kind("kill -9 a service", "strikes", 24, _responds, targets=SERVICES, mark_seconds=3.0, kills=1)
async def _kill_service(context: Context, service: str) -> None:
    context.stack.kill(service)


@_kind("kill -9 the holder of a relay", "strikes", 4, _has_consumed, mark_seconds=3.0, kills=1)
async def _kill_relay_holder(context: Context, _: str) -> None:
    context.stack.kill(await context.stack.relay_holder())


@_kind("kill -9 NATS", "strikes", 5, _can_reserve, mark_seconds=5.0, kills=1)
async def _kill_nats(context: Context, _: str) -> None:
    context.stack.kill("nats")


@_kind("kill -9 PostgreSQL", "strikes", 4, _all_respond, mark_seconds=5.0, kills=1)
async def _kill_postgres(context: Context, _: str) -> None:
    context.stack.kill("postgres")


@_kind("kill -9 one process of PostgreSQL", "strikes", 4, _all_respond, targets=STORED, mark_seconds=5.0, kills=1)
async def _kill_backend(context: Context, service: str) -> None:
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() LIMIT 1"
    backend = await context.stack.marketplace.value("postgres", sql, service)
    if backend is None or not context.stack.kill_child("postgres", backend):
        raise NothingToStrike


@_kind("kill -9 the payment provider", "strikes", 3, _can_buy, kills=1)
async def _kill_provider(context: Context, _: str) -> None:
    context.stack.kill("sandbox")


@_kind("kill -9 everything at once", "strikes", 2, _can_reserve, mark_seconds=20.0, kills=1, brings_back=True)
async def _kill_everything(context: Context, _: str) -> None:
    await context.stack.kill_everything()


_PAUSED: Final = ("expiration", "twin", "payments", "tickets")


@_kind("SIGSTOP a service for longer than the bus waits", "long", 3, _responds, targets=_PAUSED)
async def _pause(context: Context, service: str) -> None:
    with context.pause(service):
        await asyncio.sleep(_PAUSE_SECONDS)


# The bus forgets.


@_kind("NATS loses its store", "strikes", 3, _has_converged, mark_seconds=60.0, kills=1)
async def _wipe_bus(context: Context, _: str) -> None:
    context.stack.replace_bus(None)


@_kind("NATS gets an older copy of its store", "strikes", 3, _has_converged, mark_seconds=60.0, kills=1)
async def _restore_bus(context: Context, _: str) -> None:
    copy = context.stack.copy_bus()
    await asyncio.sleep(context.random.uniform(2.0, 5.0))
    context.stack.replace_bus(copy)


_LOSING: Final = ("tickets", "orders", "payments")


@_kind("NATS loses single events", "strikes", 3, _has_converged, targets=_LOSING, mark_seconds=30.0)
async def _lose_events(context: Context, stream: str) -> None:
    async with context.stack.bus() as bus:
        state = (await bus.jetstream.stream_info(stream)).state
        for _ in range(_LOST_EVENTS):
            sequence = context.random.randint(max(state.first_seq, 1), max(state.last_seq, 1))
            with contextlib.suppress(nats.js.errors.APIError):  # it may be lost already
                await bus.jetstream.delete_msg(stream, sequence)


# The disk is full, and the clock is wrong.


@_kind("PostgreSQL's disk is full", "strikes", 3, _all_respond, mark_seconds=10.0, needs="postgres")
async def _fill_postgres(context: Context, _: str) -> None:
    # It needs a new file for its log: those it has prepared would last for minutes.
    await _fill(context, "postgres", lambda: context.stack.marketplace.execute("postgres", "SELECT pg_switch_wal()"))


@_kind("NATS's disk is full", "strikes", 3, _can_reserve, mark_seconds=30.0, needs="nats")
async def _fill_nats(context: Context, _: str) -> None:
    await _fill(context, "nats", lambda: asyncio.sleep(0))


async def _fill(context: Context, name: str, use: Callable[[], Awaitable[None]]) -> None:
    disk, deadline = context.stack.disks[name], time.monotonic() + context.random.uniform(*_FULL_SECONDS)
    try:
        while time.monotonic() < deadline:
            disk.fill()  # again, because a server may free some
            with contextlib.suppress(*UNREACHABLE):
                await use()
            await asyncio.sleep(0.2)
    finally:
        disk.free()


@_kind("a service's clock is 10 minutes off", "long", 6, _responds, targets=(*STORED, "web"), needs="clocks")
async def _skew(context: Context, service: str) -> None:
    set_clock(context.stack.folder, service, context.random.choice((_CLOCK_SECONDS, -_CLOCK_SECONDS)))
    await asyncio.sleep(8.0)
    # It must not matter: the service has to respond with its clock still wrong.
    await context.probes.until(lambda: context.probes.responds(service))
    set_clock(context.stack.folder, service, 0)


# Links.


def _on_links(what: str, often: int, begin: Callable[[Link], object], seconds: tuple[float, float]) -> None:
    """Declare a fault of the links to each kind of server; it ends when the link is healed."""

    async def strike(context: Context, name: str) -> None:
        link = context.stack.links[name]
        begin(link)
        await asyncio.sleep(context.random.uniform(*seconds))
        link.heal()

    async def service_responds(probes: Probes, name: str, since: datetime) -> bool:
        return await _responds(probes, name.partition("/")[0], since)

    async def service_has_consumed(probes: Probes, name: str, since: datetime) -> bool:
        return await _has_consumed(probes, name.partition("/")[0], since)

    to_postgres = tuple(f"{each}/postgres" for each in STORED)
    to_nats = tuple(f"{each}/nats" for each in ("tickets", "orders", "payments", "expiration"))
    _kind(f"{what} to PostgreSQL", "links", often, service_responds, targets=to_postgres)(strike)
    _kind(f"{what} to NATS", "links", often, service_has_consumed, targets=to_nats)(strike)
    _kind(f"{what} to the provider", "links", often, _can_buy, targets=("payments/provider",))(strike)


_on_links("cut the link", 8, Link.cut, (0.3, 3.0))
_on_links("0.5 s delay each way on the link", 6, lambda link: link.delay(_DELAYED_BY_SECONDS), (2.0, 4.0))
# A service gives up a connection that swallows everything after 10 s of its own.
_on_links("half-open link", 4, Link.swallow, (2.0, 12.0))


def _on_commits(outcome: str, *, before: bool) -> None:
    @_kind(f"reset after COMMIT was sent, and it was {outcome}", "links", 16, _responds, targets=STORED)
    async def _strike(context: Context, service: str) -> None:
        link = context.stack.links[f"{service}/postgres"]
        if not await link.break_commit(before=before, wait_seconds=_COMMIT_WITHIN_SECONDS):
            raise NothingToStrike


_on_commits("lost", before=True)
_on_commits("committed", before=False)


# The provider.

_REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "responds 500 after the effect": {"when": "after", "answer": "internal_error"},
    "responds 500 without an effect": {"when": "before", "answer": "internal_error"},
    "responds 429": {"when": "before", "answer": "too_many_requests"},
    "drops the connection after the effect": {"when": "after", "answer": "drop"},
    "takes 3 s": {"when": "before", "delay_ms": 3000},
}
_WEBHOOKS: Final = ("lose", "duplicate", "delay", "reorder")


async def _wrong_at_provider(context: Context, wanted: dict[str, Any]) -> None:
    url = f"http://{LOOPBACK}:{context.stack.ports['provider']}/sandbox/faults"
    try:
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            (await client.post(url, json=wanted)).raise_for_status()
            await asyncio.sleep(2.0)
            (await client.delete(url)).raise_for_status()
    except httpx.HTTPError:
        raise NothingToStrike from None


@_kind("the provider errs", "provider", 15, _can_buy, targets=tuple(_REQUESTS))
async def _request_fault(context: Context, what: str) -> None:
    await _wrong_at_provider(context, {"requests": [{"count": 5, **_REQUESTS[what]}]})


@_kind("the provider's webhooks are lost, late or doubled", "provider", 12, _can_buy, targets=_WEBHOOKS)
async def _webhook_fault(context: Context, what: str) -> None:
    await _wrong_at_provider(context, {"webhooks": [{"count": 5, "kind": what, "delay_ms": 4000}]})
