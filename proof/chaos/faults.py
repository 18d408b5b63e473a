"""Every kind of fault: how it is brought about, how often in eight minutes, and by when all should work again."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
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
    """What a fault acts on; what recovers during a pause may have had to wait for the paused service."""

    stack: Stack
    probes: Probes
    random: Random
    pauses: int = 0
    paused: int = 0


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


# Processes are killed or paused.


async def _kill(context: Context, name: str) -> None:
    context.stack.kill(name)


async def _kill_relay_holder(context: Context, _: str) -> None:
    context.stack.kill(await context.stack.relay_holder())


async def _kill_backend(context: Context, service: str) -> None:
    sql = "SELECT pid FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid() LIMIT 1"
    backend = await context.stack.marketplace.value("postgres", sql, service)
    if backend is None or not context.stack.kill_child("postgres", backend):
        raise NothingToStrike


async def _kill_everything(context: Context, _: str) -> None:
    await context.stack.kill_everything()


async def _pause(context: Context, service: str) -> None:
    context.pauses += 1
    context.paused += 1
    context.stack.signal(service, signal.SIGSTOP)
    try:
        await asyncio.sleep(_PAUSE_SECONDS)
    finally:
        context.stack.signal(service, signal.SIGCONT)
        context.paused -= 1


# The bus forgets.


async def _wipe_bus(context: Context, _: str) -> None:
    context.stack.replace_bus(None)


async def _restore_bus(context: Context, _: str) -> None:
    copy = context.stack.copy_bus()
    await asyncio.sleep(context.random.uniform(2.0, 5.0))
    context.stack.replace_bus(copy)


async def _lose_events(context: Context, stream: str) -> None:
    async with context.stack.bus() as bus:
        state = (await bus.jetstream.stream_info(stream)).state
        for _ in range(_LOST_EVENTS):
            sequence = context.random.randint(max(state.first_seq, 1), max(state.last_seq, 1))
            with contextlib.suppress(nats.js.errors.APIError):  # it may be lost already
                await bus.jetstream.delete_msg(stream, sequence)


# The disk is full, and the clock is wrong.


async def _fill_disk(context: Context, name: str) -> None:
    disk, deadline = context.stack.disks[name], time.monotonic() + context.random.uniform(*_FULL_SECONDS)
    try:
        while time.monotonic() < deadline:
            disk.fill()  # again, because a server may free some
            if name == "postgres":
                # It needs a new file for its log: those it has prepared would last for minutes.
                with contextlib.suppress(*UNREACHABLE):
                    await context.stack.marketplace.execute("postgres", "SELECT pg_switch_wal()")
            await asyncio.sleep(0.2)
    finally:
        disk.free()


async def _skew_clock(context: Context, service: str) -> None:
    set_clock(context.stack.folder, service, context.random.choice((_CLOCK_SECONDS, -_CLOCK_SECONDS)))
    await asyncio.sleep(8.0)
    # It must not matter: the service has to respond with its clock still wrong.
    await context.probes.until(lambda: context.probes.responds(service))
    set_clock(context.stack.folder, service, 0)


# Links.


def _on_links(what: str, often: int, begin: Callable[[Link], object], seconds: tuple[float, float]) -> Iterator[Kind]:
    """Return the kinds of a fault of the links to each server; it ends when the link is healed."""

    async def strike(context: Context, name: str) -> None:
        link = context.stack.links[name]
        begin(link)
        await asyncio.sleep(context.random.uniform(*seconds))
        link.heal()

    to_postgres = [f"{each}/postgres" for each in STORED]
    to_nats = [f"{each}/nats" for each in ("tickets", "orders", "payments", "expiration")]
    yield Kind(f"{what} to PostgreSQL", "links", often, strike, Probes.responds, to_postgres)
    yield Kind(f"{what} to NATS", "links", often, strike, Probes.has_consumed, to_nats)
    yield Kind(f"{what} to the provider", "links", often, strike, Probes.can_buy, ["payments/provider"])


async def _break_commit(context: Context, service: str, *, before: bool) -> None:
    link = context.stack.links[f"{service}/postgres"]
    if not await link.break_commit(before=before, wait_seconds=_COMMIT_WITHIN_SECONDS):
        raise NothingToStrike


# The provider.

_REQUESTS: Final[dict[str, dict[str, Any]]] = {
    "responds 500 after the effect": {"when": "after", "answer": "internal_error"},
    "responds 500 without an effect": {"when": "before", "answer": "internal_error"},
    "responds 429": {"when": "before", "answer": "too_many_requests"},
    "drops the connection after the effect": {"when": "after", "answer": "drop"},
    "takes 3 s": {"when": "before", "delay_ms": 3000},
}
_WEBHOOKS: Final = ("lose", "duplicate", "delay", "reorder")


async def _err_at_provider(context: Context, what: str) -> None:
    wanted: dict[str, Any] = {"webhooks": [{"count": 5, "kind": what, "delay_ms": 4000}]}
    if what in _REQUESTS:
        wanted = {"requests": [{"count": 5, **_REQUESTS[what]}]}
    url = f"http://{LOOPBACK}:{context.stack.ports['provider']}/sandbox/faults"
    try:
        async with httpx.AsyncClient(timeout=2, trust_env=False) as client:
            (await client.post(url, json=wanted)).raise_for_status()
            await asyncio.sleep(2.0)
            (await client.delete(url)).raise_for_status()
    except httpx.HTTPError:
        raise NothingToStrike from None


KINDS: Final = (
    Kind("kill -9 a service", "strikes", 24, _kill, Probes.responds, SERVICES, mark_seconds=3.0, kills=1),
    Kind(
        "kill -9 the holder of a relay", "strikes", 4, _kill_relay_holder, Probes.has_consumed, (TWIN,),
        mark_seconds=3.0, kills=1,
    ),
    Kind("kill -9 NATS", "strikes", 5, _kill, Probes.can_reserve, ("nats",), mark_seconds=5.0, kills=1),
    Kind("kill -9 PostgreSQL", "strikes", 4, _kill, Probes.all_respond, ("postgres",), mark_seconds=5.0, kills=1),
    Kind(
        "kill -9 one process of PostgreSQL", "strikes", 4, _kill_backend, Probes.all_respond, STORED,
        mark_seconds=5.0, kills=1,
    ),
    Kind("kill -9 the payment provider", "strikes", 3, _kill, Probes.can_buy, ("sandbox",), kills=1),
    Kind(
        "kill -9 everything at once", "strikes", 2, _kill_everything, Probes.can_reserve,
        mark_seconds=20.0, kills=1, brings_back=True,
    ),
    Kind(
        "SIGSTOP a service for longer than the bus waits", "long", 3, _pause, Probes.responds,
        ("expiration", "twin", "payments", "tickets"),
    ),
    Kind("NATS loses its store", "strikes", 3, _wipe_bus, Probes.has_converged, mark_seconds=60.0, kills=1),
    Kind(
        "NATS gets an older copy of its store", "strikes", 3, _restore_bus, Probes.has_converged,
        mark_seconds=60.0, kills=1,
    ),
    Kind(
        "NATS loses single events", "strikes", 3, _lose_events, Probes.has_converged, ("tickets", "orders", "payments"),
        mark_seconds=30.0,
    ),
    Kind(
        "PostgreSQL's disk is full", "strikes", 3, _fill_disk, Probes.all_respond, ("postgres",),
        mark_seconds=10.0, needs="postgres",
    ),
    Kind(
        "NATS's disk is full", "strikes", 3, _fill_disk, Probes.can_reserve, ("nats",), mark_seconds=30.0, needs="nats"
    ),
    Kind(
        "a service's clock is 10 minutes off", "long", 6, _skew_clock, Probes.responds, (*STORED, "web"), needs="clocks"
    ),
    *_on_links("cut the link", 8, Link.cut, (0.3, 3.0)),
    *_on_links("0.5 s delay each way on the link", 6, lambda link: link.delay(_DELAYED_BY_SECONDS), (2.0, 4.0)),
    # A service gives up a connection that swallows everything after 10 s of its own.
    *_on_links("half-open link", 4, Link.swallow, (2.0, 12.0)),
    *(
        Kind(
            f"reset after COMMIT was sent, and it was {outcome}", "links", 16, partial(_break_commit, before=before),
            Probes.responds, STORED,
        )
        for outcome, before in (("lost", True), ("committed", False))
    ),
    Kind("the provider errs", "provider", 15, _err_at_provider, Probes.can_buy, tuple(_REQUESTS)),
    Kind(
        "the provider's webhooks are lost, late or doubled", "provider", 12, _err_at_provider, Probes.can_buy, _WEBHOOKS
    ),
)  # fmt: skip
