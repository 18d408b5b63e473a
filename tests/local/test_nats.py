"""NATS as a child process: durable, on loopback, and closed to everything that a service does not need."""

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
from admitone.local.nats import MAX_STORE_BYTES, Nats, NatsUser, allow_list, program, render
from admitone.local.server import LOOPBACK
from tests.engines import ADMIN

TICKETS = NatsUser("tickets", "t-password", publishes=True, subscribes_to=("orders",))
ORDERS = NatsUser("orders", "o-password", publishes=True, subscribes_to=("tickets",))
AUDIT = NatsUser("audit", "a-password", subscribes_to=("orders",))
WEB = NatsUser("web", "w-password", watches=True)
ALL_USERS = (TICKETS, ORDERS, AUDIT, WEB)

MAY_PUBLISH = {
    "tickets": {
        "events.tickets.TicketCreated",
        "republish.orders",
        "$JS.API.INFO",
        "$JS.API.STREAM.CREATE.tickets",
        "$JS.API.STREAM.INFO.tickets",
        # To remove the oldest events of a full stream.
        "$JS.API.STREAM.PURGE.tickets",
        "$JS.API.CONSUMER.LIST.tickets",
        "$JS.API.STREAM.MSG.GET.tickets",
        "$JS.API.STREAM.INFO.orders",
        "$JS.API.CONSUMER.CREATE.orders.tickets",
        "$JS.API.CONSUMER.CREATE.orders.tickets.events.orders.OrderCreated",
        "$JS.API.CONSUMER.DURABLE.CREATE.orders.tickets",
        "$JS.API.CONSUMER.INFO.orders.tickets",
        "$JS.API.CONSUMER.DELETE.orders.tickets",
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
        "$JS.API.CONSUMER.DELETE.orders.audit",
        "$JS.API.CONSUMER.MSG.NEXT.orders.audit",
        "$JS.ACK.orders.audit.1.1.1.1.0",
        "$JS.ACK._.account.orders.audit.1.1.1.1.0.random",
    },
    "web": set[str](),
}
MAY_SUBSCRIBE = {
    "tickets": {"republish.tickets", "_INBOX_tickets.reply"},
    "audit": {"_INBOX_audit.reply"},
    "web": {"events.>", "events.orders.OrderCreated", "events.tickets.TicketCreated"},
}


def every_publication() -> set[str]:
    """Return every subject for a bus of two streams and four consumers."""
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
    found |= {"_INBOX_orders.reply", "_INBOX_tickets.reply", "$JS.EVENT.ADVISORY.API", "anything"}
    for stream in streams:
        found |= {f"$JS.API.DIRECT.GET.{stream}", f"$JS.API.CONSUMER.NAMES.{stream}", f"$JS.API.CONSUMER.LIST.{stream}"}
        found |= {f"$JS.API.CONSUMER.CREATE.{stream}"}
    for stream, consumer in itertools.product(streams, consumers):
        consumer_verbs = (
            "CREATE",
            "DURABLE.CREATE",
            "INFO",
            "DELETE",
            "PAUSE",
            "RESET",
            "UNPIN",
            "MSG.NEXT",
            "LEADER.STEPDOWN",
        )
        found |= {f"$JS.API.CONSUMER.{verb}.{stream}.{consumer}" for verb in consumer_verbs}
        found |= {f"$JS.API.CONSUMER.CREATE.{stream}.{consumer}.events.{stream}.{name}" for name in ("OrderCreated",)}
        found |= {f"$JS.ACK.{stream}.{consumer}.1.1.1.1.0", f"$JS.ACK._.account.{stream}.{consumer}.1.1.1.1.0.random"}
    return found


EVERY_SUBSCRIPTION = {
    *("events.>", "events.orders.OrderCreated", "events.tickets.TicketCreated", ">", "$JS.>", "$JS.EVENT.ADVISORY.>"),
    *("republish.tickets", "republish.orders", "republish.*", "$SYS.>", "_INBOX.>", "_INBOX_orders.reply"),
    *("_INBOX_tickets.reply", "_INBOX_audit.reply", "_INBOX_*.>", "$JS.ACK.>", "$JS.API.>"),
}


class Wire:
    """A connection in NATS's own protocol. Its responses come in order: an error precedes the next PONG."""

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

    async def accepted(self, command: str) -> bool:
        self._writer.write(f"{command}\r\nPING\r\n".encode())
        accepted = True
        while (line := await self._reader.readline()) != b"PONG\r\n":
            if not line:
                return False
            accepted = accepted and not line.startswith(b"-ERR")
        return accepted


@asynccontextmanager
async def signed_in(server: Nats, user: str) -> AsyncIterator[Client]:
    """Yield a client of the usual library; fail if the server denied it anything."""
    denied: list[Exception] = []

    async def note(error: Exception) -> None:
        denied.append(error)

    client = await nats.connect(server.url(user), inbox_prefix=f"_INBOX_{user}".encode(), error_cb=note)
    yield client
    await client.close()
    assert denied == []


@pytest.fixture
def server(start_nats: Callable[..., Nats]) -> Nats:
    return start_nats(*ALL_USERS)


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


async def test_the_admin_has_all_rights(server: Nats) -> None:
    async with Wire.of(server, "admin") as wire:
        assert await wire.may_publish("$JS.API.STREAM.DELETE.tickets")
        assert await wire.may_subscribe(">")


@pytest.mark.parametrize(
    "login", [{}, {"user": "tickets"}, {"user": "tickets", "pass": "guessed"}, {"user": "nobody", "pass": "t-password"}]
)
async def test_a_connection_needs_the_password(server: Nats, login: dict[str, str]) -> None:
    async with Wire.to(server) as wire:
        assert not await wire.accepted(f"CONNECT {json.dumps(login)}")


async def test_publishing_and_subscribing_work_within_the_rights(server: Nats) -> None:
    async with (
        signed_in(server, "orders") as producer,
        signed_in(server, "tickets") as consumer,
        signed_in(server, "web") as watcher,
    ):
        seen = await watcher.subscribe("events.>")
        await watcher.flush()
        await producer.jetstream().add_stream(name="orders", subjects=["events.orders.>"])
        subscription = await consumer.jetstream().pull_subscribe(
            "events.orders.OrderCreated", durable="tickets", stream="orders"
        )
        await producer.jetstream().publish("events.orders.OrderCreated", b"order")
        (message,) = await subscription.fetch(1, timeout=5)
        assert message.data == b"order"
        await message.ack_sync()
        assert (await seen.next_msg(5)).data == b"order"


def test_events_are_on_disk_when_they_are_acknowledged() -> None:
    assert "sync_interval: always" in render([ADMIN], store=Path("/store"), port=1, monitor_port=2)


async def test_the_server_resets_a_consumer_that_is_ahead_of_a_restored_stream(folder: Path) -> None:
    """A copy of a running server may end before what consumers had consumed: no later event may be skipped."""
    server = Nats(folder / "nats", [*ALL_USERS, ADMIN])
    events = server.folder / "store" / "jetstream" / "$G" / "streams" / "orders" / "msgs"

    async def publish_and_consume(messages: Sequence[str]) -> list[str]:
        """Publish messages, consume as many, and return them."""
        async with signed_in(server, "orders") as producer, signed_in(server, "tickets") as consumer:
            stream = producer.jetstream()
            await stream.add_stream(name="orders", subjects=["events.orders.>"])
            for each in messages:
                await stream.publish("events.orders.OrderCreated", each.encode())
            subscription = await consumer.jetstream().pull_subscribe(
                "events.orders.OrderCreated", durable="tickets", stream="orders"
            )
            consumed: list[str] = []
            while len(consumed) < len(messages):
                for message in await subscription.fetch(len(messages) - len(consumed), timeout=5):
                    consumed.append(message.data.decode())
                    await message.ack_sync()
            return consumed

    server.start()
    try:
        assert await publish_and_consume(["first"]) == ["first"]
        server.stop()
        shutil.copytree(events, folder / "older")
        server.start()
        assert await publish_and_consume(["second", "third"]) == ["second", "third"]
        server.stop()
        shutil.rmtree(events)
        shutil.copytree(folder / "older", events)
        server.start()
        assert await publish_and_consume(["other second", "other third"]) == ["other second", "other third"]
    finally:
        server.stop()


def test_the_storage_limit_does_not_depend_on_the_free_space_at_the_start(server: Nats) -> None:
    response = httpx.get(f"http://127.0.0.1:{server.monitor_port}/jsz").raise_for_status().json()
    assert response["config"]["max_storage"] == MAX_STORE_BYTES


def test_the_server_accepts_the_configuration(folder: Path) -> None:
    file = folder / "nats.conf"
    awkward = NatsUser("orders", 'quote " backslash \\ brace } hash # dollar $HOME', publishes=True)
    file.write_text(render([awkward, *ALL_USERS[2:]], store=folder / 'a "store"', port=4222, monitor_port=8222))
    checked = subprocess.run([program(), "-t", "-c", str(file)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stderr


def test_passwords_in_the_configuration_are_readable_only_by_its_owner(server: Nats) -> None:
    assert (server.folder / "nats.conf").stat().st_mode & 0o077 == 0
    assert server.folder.stat().st_mode & 0o077 == 0


def test_a_user_that_declares_nothing_has_no_rights() -> None:
    stranger = allow_list(NatsUser("stranger", "password"))
    assert stranger.publish == stranger.subscribe == ()


@pytest.mark.parametrize(
    ("version", "accepted"), [("v2.9.10", False), ("v2.13.7", False), ("v2.14.0", True), ("v3.0.1", True)]
)
def test_an_old_server_is_refused(version: str, accepted: bool, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
