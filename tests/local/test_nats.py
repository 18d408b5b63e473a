"""NATS as our child: durable, on loopback, and closed to everything a service does not need."""

import asyncio
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import nats
import nats.errors
import pytest
from nats.aio.client import Client

from admitone.local import nats as local_nats
from admitone.local.errors import ServerMissing
from admitone.local.nats import MAX_STORE_BYTES, Nats, User, allow_list, program, render
from admitone.local.server import LOOPBACK
from tests.engines import ADMIN

TICKETS = User("tickets", "t-password", publications=True, subscriptions=("orders",))
ORDERS = User("orders", "o-password", publications=True, subscriptions=("tickets",))
AUDIT = User("audit", "a-password", subscriptions=("orders",))
WEB = User("web", "w-password", watches=True)
EVERYBODY = (TICKETS, ORDERS, AUDIT, WEB)

MAY_PUBLISH = {
    "tickets": {
        "events.tickets.TicketCreated",
        "republish.orders",
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.tickets",
        "$JS.API.STREAM.INFO.tickets",
        "$JS.API.STREAM.INFO.orders",
        "$JS.API.CONSUMER.CREATE.orders.tickets",
        "$JS.API.CONSUMER.CREATE.orders.tickets.events.orders.OrderCreated",
        "$JS.API.CONSUMER.DURABLE.CREATE.orders.tickets",
        "$JS.API.CONSUMER.INFO.orders.tickets",
        "$JS.API.CONSUMER.MSG.NEXT.orders.tickets",
        "$JS.ACK.orders.tickets.1.1.1.1.0",
        "$JS.ACK._.account.orders.tickets.1.1.1.1.0.random",
    },
    "audit": {
        "republish.orders",
        "$JS.API.INFO",
        "$JS.API.STREAM.INFO.orders",
        "$JS.API.CONSUMER.CREATE.orders.audit",
        "$JS.API.CONSUMER.CREATE.orders.audit.events.orders.OrderCreated",
        "$JS.API.CONSUMER.DURABLE.CREATE.orders.audit",
        "$JS.API.CONSUMER.INFO.orders.audit",
        "$JS.API.CONSUMER.MSG.NEXT.orders.audit",
        "$JS.ACK.orders.audit.1.1.1.1.0",
        "$JS.ACK._.account.orders.audit.1.1.1.1.0.random",
    },
    "web": set[str](),
}
MAY_SUBSCRIBE = {
    "tickets": {"republish.tickets", "_INBOX_tickets.answer"},
    "audit": {"_INBOX_audit.answer"},
    "web": {"events.>", "events.orders.OrderCreated", "events.tickets.TicketCreated"},
}


def every_publication() -> set[str]:
    """Whatever one could send to a bus of two streams and three consumers."""
    streams, consumers = ("tickets", "orders"), ("tickets", "orders", "audit", "web")
    verbs = (
        "CREATE",
        "UPDATE",
        "INFO",
        "DELETE",
        "PURGE",
        "MSG.GET",
        "MSG.DELETE",
        "SNAPSHOT",
        "RESTORE",
        "LEADER.STEPDOWN",
    )
    found = {f"$JS.API.STREAM.{verb}.{stream}" for verb, stream in itertools.product(verbs, streams)}
    found |= {
        "$JS.API.INFO",
        "$JS.API.STREAM.NAMES",
        "$JS.API.STREAM.LIST",
        "$JS.API.SERVER.REMOVE",
        "$SYS.REQ.SERVER.PING",
    }
    found |= {"events.tickets.TicketCreated", "events.orders.OrderCreated", "republish.tickets", "republish.orders"}
    found |= {"_INBOX_orders.answer", "_INBOX_tickets.answer", "$JS.EVENT.ADVISORY.API", "anything"}
    for stream in streams:
        found |= {f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.CONSUMER.NAMES.{stream}", f"$JS.API.CONSUMER.LIST.{stream}"}
        found |= {f"$JS.API.CONSUMER.CREATE.{stream}"}
    for stream, consumer in itertools.product(streams, consumers):
        does = ("CREATE", "DURABLE.CREATE", "INFO", "DELETE", "PAUSE", "RESET", "UNPIN", "MSG.NEXT", "LEADER.STEPDOWN")
        found |= {f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}" for verb in does}
        found |= {f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}.events.{stream}.{name}" for name in ("OrderCreated",)}
        found |= {f"$JS.ACK.{stream}.{consumer}.1.1.1.1.0", f"$JS.ACK._.account.{stream}.{consumer}.1.1.1.1.0.random"}
    return found


EVERY_SUBSCRIPTION = {
    *("events.>", "events.orders.OrderCreated", "events.tickets.TicketCreated", ">", "$JS.>", "$JS.EVENT.ADVISORY.>"),
    *("republish.tickets", "republish.orders", "republish.*", "$SYS.>", "_INBOX.>", "_INBOX_orders.answer"),
    *("_INBOX_tickets.answer", "_INBOX_audit.answer", "_INBOX_*.>", "$JS.ACK.>", "$JS.API.>"),
}


class Wire:
    """A signed-in user speaking NATS's own protocol, whose answers come in order: a denial before the next PONG."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def to(cls, server: Nats) -> AsyncIterator["Wire"]:
        reader, writer = await asyncio.open_connection(LOOPBACK, server.port)
        yield cls(reader, writer)
        writer.close()
        await writer.wait_closed()

    @classmethod
    @asynccontextmanager
    async def of(cls, server: Nats, user: str) -> AsyncIterator["Wire"]:
        async with cls.to(server) as wire:
            login = {"user": user, "pass": server.users[user].password}
            assert await wire.accepted(f"CONNECT {json.dumps(login)}")
            yield wire

    async def may_publish(self, subject: str) -> bool:
        return await self.accepted(f"PUB {subject} 2\r\n{{}}")

    async def may_subscribe(self, subject: str) -> bool:
        return await self.accepted(f"SUB {subject} 1\r\nUNSUB 1")

    async def accepted(self, words: str) -> bool:
        self._writer.write(f"{words}\r\nPING\r\n".encode())
        accepted = True
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if not line:
                return False
            accepted = accepted and not line.startswith(b"-ERR")
        return accepted


@asynccontextmanager
async def signed_in(server: Nats, user: str) -> AsyncIterator[Client]:
    """A client of the usual library, whom the server denied nothing."""
    denied: list[Exception] = []

    async def note(error: Exception) -> None:
        denied.append(error)

    client = await nats.connect(server.url(user), inbox_prefix=f"_INBOX_{user}".encode(), error_cb=note)
    yield client
    await client.close()
    assert denied == []


@pytest.fixture
def server(start_nats: Callable[..., Nats]) -> Nats:
    return start_nats(*EVERYBODY)


@pytest.mark.parametrize("name", MAY_PUBLISH)
async def test_a_service_may_publish_what_it_needs_and_nothing_else(server: Nats, name: str) -> None:
    everything = every_publication()
    assert MAY_PUBLISH[name] <= everything
    async with Wire.of(server, name) as wire:
        assert {subject for subject in everything if await wire.may_publish(subject)} == MAY_PUBLISH[name]


@pytest.mark.parametrize("name", MAY_SUBSCRIBE)
async def test_a_service_may_subscribe_to_what_it_needs_and_nothing_else(server: Nats, name: str) -> None:
    async with Wire.of(server, name) as wire:
        assert {subject for subject in EVERY_SUBSCRIPTION if await wire.may_subscribe(subject)} == MAY_SUBSCRIBE[name]


async def test_the_admin_may_do_everything(server: Nats) -> None:
    async with Wire.of(server, "admin") as wire:
        assert await wire.may_publish("$JS.API.STREAM.DELETE.tickets")
        assert await wire.may_subscribe(">")


@pytest.mark.parametrize(
    "login", [{}, {"user": "tickets"}, {"user": "tickets", "pass": "guessed"}, {"user": "nobody", "pass": "t-password"}]
)
async def test_nobody_gets_in_without_a_password(server: Nats, login: dict[str, str]) -> None:
    async with Wire.to(server) as wire:
        assert not await wire.accepted(f"CONNECT {json.dumps(login)}")


async def test_one_service_tells_and_another_hears_within_their_rights(server: Nats) -> None:
    async with (
        signed_in(server, "orders") as teller,
        signed_in(server, "tickets") as hearer,
        signed_in(server, "web") as watcher,
    ):
        seen = await watcher.subscribe("events.>")
        await watcher.flush()
        await teller.jetstream().add_stream(name="orders", subjects=["events.orders.>"])
        subscription = await hearer.jetstream().pull_subscribe(
            "events.orders.OrderCreated", durable="tickets", stream="orders"
        )
        await teller.jetstream().publish("events.orders.OrderCreated", b"held")
        (message,) = await subscription.fetch(1, timeout=5)
        assert message.data == b"held"
        await message.ack_sync()
        assert (await seen.next_msg(5)).data == b"held"


def test_what_is_acknowledged_is_on_the_disk() -> None:
    assert "sync_interval: always" in render([ADMIN], store=Path("/store"), port=1, monitor_port=2)


async def test_a_consumer_that_is_ahead_of_a_restored_stream_is_set_back_by_the_server(folder: Path) -> None:
    """A copy made of a running server may hold older events than what consumers had heard: none may be skipped."""
    server = Nats(folder / "nats", [*EVERYBODY, ADMIN])
    events = server.folder / "store" / "jetstream" / "$G" / "streams" / "orders" / "msgs"

    async def told_and_heard(words: Sequence[str]) -> list[str]:
        """Tell these, hear them, and return what was heard."""
        async with signed_in(server, "orders") as teller, signed_in(server, "tickets") as hearer:
            stream = teller.jetstream()
            await stream.add_stream(name="orders", subjects=["events.orders.>"])
            for word in words:
                await stream.publish("events.orders.OrderCreated", word.encode())
            subscription = await hearer.jetstream().pull_subscribe(
                "events.orders.OrderCreated", durable="tickets", stream="orders"
            )
            heard: list[str] = []
            while len(heard) < len(words):
                for message in await subscription.fetch(len(words) - len(heard), timeout=5):
                    heard.append(message.data.decode())
                    await message.ack_sync()
            return heard

    server.start()
    try:
        assert await told_and_heard(["first"]) == ["first"]
        server.stop()
        shutil.copytree(events, folder / "older")
        server.start()
        assert await told_and_heard(["second", "third"]) == ["second", "third"]
        server.stop()
        shutil.rmtree(events)
        shutil.copytree(folder / "older", events)
        server.start()
        assert await told_and_heard(["other second", "other third"]) == ["other second", "other third"]
    finally:
        server.stop()


def test_how_much_is_stored_does_not_depend_on_how_full_the_disk_was_at_the_start(server: Nats) -> None:
    answer = httpx.get(f"http://127.0.0.1:{server.monitor_port}/jsz").raise_for_status().json()
    assert answer["config"]["max_storage"] == MAX_STORE_BYTES


def test_the_configuration_is_one_that_the_server_accepts(folder: Path) -> None:
    file = folder / "nats.conf"
    awkward = User("orders", 'quote " backslash \\ brace } hash # dollar $HOME', publications=True)
    file.write_text(render([awkward, *EVERYBODY[2:]], store=folder / 'a "store"', port=4222, monitor_port=8222))
    checked = subprocess.run([program(), "-t", "-c", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_the_passwords_in_the_configuration_are_for_its_owner_only(server: Nats) -> None:
    assert (server.folder / "nats.conf").stat().st_mode & 0o077 == 0
    assert server.folder.stat().st_mode & 0o077 == 0


def test_a_user_without_a_part_to_play_may_do_nothing() -> None:
    stranger = allow_list(User("stranger", "password"))
    assert stranger.publish == stranger.subscribe == ()


@pytest.mark.parametrize(
    ("version", "accepted"), [("v2.9.10", False), ("v2.13.7", False), ("v2.14.0", True), ("v3.0.1", True)]
)
def test_a_server_too_old_is_refused(
    version: str, accepted: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = folder / "nats-server"
    old.write_text(f"#!/bin/sh\necho 'nats-server: {version}'\n")
    old.chmod(0o755)
    monkeypatch.setattr(local_nats, "program", lambda: old)
    local_nats.refuse_old_server.cache_clear()
    try:
        if accepted:
            local_nats.refuse_old_server()
        else:
            with pytest.raises(ServerMissing, match=r"2\.14 or newer is needed"):
                local_nats.refuse_old_server()
    finally:
        local_nats.refuse_old_server.cache_clear()
