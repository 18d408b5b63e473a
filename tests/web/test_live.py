"""The live stream over HTTP, from real events on a real bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import httpx
from starlette.types import Message

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.runner import App
from admitone.orders.service import SERVICE as ORDERS
from admitone.tickets.service import SERVICE as TICKETS
from admitone.web.service import SERVICE as WEB
from tests.engines import Databases
from tests.support import StartNats, app_of, eventually, id_of, set_token, settings_for, signed_in


class Stream:
    """One open connection to `/live`: what the server has sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.text = ""
        self.is_over = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = dict(message["headers"])
        else:
            self.text += message["body"].decode()
            self.is_over = not message.get("more_body", False)

    def names(self) -> list[str]:
        return [line.removeprefix("event: ") for line in self.text.splitlines() if line.startswith("event: ")]

    async def wait_for(self, wanted: str) -> None:
        async def is_received() -> bool:
            return wanted in self.text

        await eventually(is_received, wanted)


@asynccontextmanager
async def open_stream(
    app: App, client: httpx.AsyncClient, *, since: str = "", last_id: str = ""
) -> AsyncIterator[Stream]:
    """Keep a stream open; httpx's in-process transport would wait for the end of the response, which never comes."""
    stream, gone = Stream(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    cookie = "; ".join(f"{each.name}={each.value}" for each in client.cookies.jar)
    headers = [(b"host", b"127.0.0.1:8000"), (b"cookie", cookie.encode()), (b"last-event-id", last_id.encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/live",
        "raw_path": b"/live",
        "root_path": "",
        "query_string": urlencode({"since": since}).encode(),
        "headers": headers if last_id else headers[:2],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
        "http_version": "1.1",
    }
    task = asyncio.create_task(app(scope, receive, stream.send))
    try:
        await stream.wait_for("retry: ")
        yield stream
    finally:
        gone.set()
        await asyncio.wait_for(task, 5)


async def _wait_until_subscribed(app: App) -> None:
    hub = app.running["web"].resources.hub

    async def is_subscribed() -> bool:
        return bool(hub.is_subscribed)

    await eventually(is_subscribed, "the hub is subscribed to the bus")


async def list_ticket(seller: httpx.AsyncClient, title: str = "Fado night") -> str:
    response = await seller.post("/api/tickets", json={"title": title, "price": 19.5})
    assert response.status_code == 201, response.text
    ticket_id: str = response.json()["id"]
    return ticket_id


async def reserve(buyer: httpx.AsyncClient, ticket_id: str) -> str:
    async def reserved() -> str | None:
        response = await buyer.post("/api/orders", json={"ticketId": ticket_id})
        return response.json()["id"] if response.status_code == 201 else None

    order_id: str = await eventually(reserved, "the ticket can be reserved")
    return order_id


async def test_head_of_the_stream_is_its_headers(app: App) -> None:
    async with app.client() as visitor, asyncio.timeout(30):
        response = await visitor.head("/live")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["content-type"].startswith("text/event-stream")


async def test_everyone_sees_a_ticket_locked_and_only_the_buyer_sees_the_order(app: App) -> None:
    alice, bob, carol = (signed_in(app, name) for name in ("alice", "bob", "carol"))
    await _wait_until_subscribed(app)
    since = app.running["web"].resources.hub.last_id
    async with (
        open_stream(app, bob, since=since) as stream_of_bob,
        open_stream(app, carol, since=since) as stream_of_carol,
    ):
        assert stream_of_bob.status == 200
        assert stream_of_bob.headers[b"content-type"].startswith(b"text/event-stream")
        ticket = await list_ticket(alice)
        order = await reserve(bob, ticket)
        for stream in (stream_of_bob, stream_of_carol):
            await stream.wait_for(f'"id":"{ticket}","state":"reserved","version":1')
        await stream_of_bob.wait_for(f'"id":"{order}"')
        assert order not in stream_of_carol.text
        assert str(await id_of(bob)) not in stream_of_carol.text


async def test_a_browser_that_reconnects_with_the_last_id_gets_what_it_missed(app: App) -> None:
    alice = signed_in(app, "alice")
    await _wait_until_subscribed(app)
    hub = app.running["web"].resources.hub
    since = hub.last_id
    first = await list_ticket(alice, "First")
    async with open_stream(app, app.client(), since=since) as stream:
        await stream.wait_for(first)
    last_id = hub.last_id
    second = await list_ticket(alice, "Second")
    async with open_stream(app, app.client(), since=since, last_id=last_id) as stream:
        await stream.wait_for(second)
        assert first not in stream.text
        assert "reset" not in stream.names()


async def test_signing_out_ends_the_stream(app: App) -> None:
    bob = signed_in(app, "bob")
    await _wait_until_subscribed(app)
    async with open_stream(app, bob, since=app.running["web"].resources.hub.last_id) as stream:
        await bob.post("/api/users/signout")

        async def is_over() -> bool:
            return stream.is_over

        await eventually(is_over, "the stream ends")


async def test_a_session_that_ended_before_the_start_gets_no_messages_of_its_user(
    databases: Databases, start_nats: StartNats
) -> None:
    services = (AUTH, TICKETS, ORDERS, WEB)
    settings = await settings_for(databases, start_nats, *services)
    async with app_of(services, settings) as app:
        alice, bob, ended = signed_in(app, "alice"), signed_in(app, "bob"), app.client()
        set_token(ended, bob.cookies["session"])
        bob_id = await id_of(bob)
        await bob.post("/api/users/signout")
    async with app_of(services, settings) as app:
        alice, bob = signed_in(app, "alice"), signed_in(app, "bob", bob_id)
        await _wait_until_subscribed(app)
        since = app.running["web"].resources.hub.last_id
        async with open_stream(app, ended, since=since) as stale, open_stream(app, bob, since=since) as stream:
            order = await reserve(bob, await list_ticket(alice))
            await stream.wait_for(order)
            last = await list_ticket(alice, "Last")
            await stale.wait_for(last)
            assert order not in stale.text


async def test_a_browser_that_disconnects_is_removed(app: App) -> None:
    hub = app.running["web"].resources.hub
    async with open_stream(app, app.client()):
        assert len(hub) == 1
    assert len(hub) == 0


async def test_streams_end_when_the_service_stops(app: App) -> None:
    async with open_stream(app, app.client()) as stream:
        app.stopping()

        async def is_over() -> bool:
            return stream.is_over

        await eventually(is_over, "the stream ends")
    async with app.client() as late:
        assert (await late.get("/live")).status_code == 204
