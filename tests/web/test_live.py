"""The live stream as browsers get it: over HTTP, from real events on a real bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import httpx
from starlette.types import Message

from admitone.kernel.runner import App
from tests.support import eventually, id_of, signed_in


class Stream:
    """One open connection to `/live`, as the server's side of it looks."""

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

    async def heard(self, wanted: str) -> None:
        async def has_come() -> bool:
            return wanted in self.text

        await eventually(has_come, wanted)


@asynccontextmanager
async def listening(
    app: App, client: httpx.AsyncClient, *, since: str = "", last_id: str = ""
) -> AsyncIterator[Stream]:
    """Hold a connection open; httpx's own in-process transport waits for the end of an answer, and this has none."""
    stream, gone = Stream(), asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    cookie = "; ".join(f"{each.name}={each.value}" for each in client.cookies.jar)
    headers = [(b"cookie", cookie.encode()), (b"last-event-id", last_id.encode())]
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/live",
        "raw_path": b"/live",
        "root_path": "",
        "query_string": urlencode({"since": since}).encode(),
        "headers": headers if last_id else headers[:1],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
        "http_version": "1.1",
    }
    task = asyncio.create_task(app(scope, receive, stream.send))
    try:
        await stream.heard("retry: ")
        yield stream
    finally:
        gone.set()
        await asyncio.wait_for(task, 5)


async def _listens_to_the_bus(app: App) -> None:
    hub = app.running["web"].resources.hub

    async def is_listening() -> bool:
        return bool(hub.is_listening)

    await eventually(is_listening, "the hub listens to the bus")


async def list_ticket(seller: httpx.AsyncClient, title: str = "Fado night") -> str:
    answer = await seller.post("/api/tickets", json={"title": title, "price": 19.5})
    assert answer.status_code == 201, answer.text
    ticket_id: str = answer.json()["id"]
    return ticket_id


async def reserve(buyer: httpx.AsyncClient, ticket_id: str) -> str:
    async def reserved() -> str | None:
        answer = await buyer.post("/api/orders", json={"ticketId": ticket_id})
        return answer.json()["id"] if answer.status_code == 201 else None

    order_id: str = await eventually(reserved, "the ticket can be reserved")
    return order_id


async def test_a_lock_reaches_everybody_and_the_order_only_its_buyer(app: App) -> None:
    alice, bob, carol = (signed_in(app, name) for name in ("alice", "bob", "carol"))
    await _listens_to_the_bus(app)
    since = app.running["web"].resources.hub.last_id
    async with listening(app, bob, since=since) as bobs, listening(app, carol, since=since) as carols:
        assert bobs.status == 200
        assert bobs.headers[b"content-type"].startswith(b"text/event-stream")
        ticket = await list_ticket(alice)
        order = await reserve(bob, ticket)
        for stream in (bobs, carols):
            await stream.heard(f'"id":"{ticket}","state":"reserved","version":1')
        await bobs.heard(f'"id":"{order}"')
        assert order not in carols.text
        assert str(await id_of(bob)) not in carols.text


async def test_who_comes_back_with_the_last_id_gets_what_they_missed(app: App) -> None:
    alice = signed_in(app, "alice")
    await _listens_to_the_bus(app)
    hub = app.running["web"].resources.hub
    since = hub.last_id
    first = await list_ticket(alice, "First")
    async with listening(app, app.client(), since=since) as stream:
        await stream.heard(first)
    last_id = hub.last_id
    second = await list_ticket(alice, "Second")
    async with listening(app, app.client(), since=since, last_id=last_id) as stream:
        await stream.heard(second)
        assert first not in stream.text
        assert "reset" not in stream.names()


async def test_signing_out_ends_the_stream(app: App) -> None:
    bob = signed_in(app, "bob")
    await _listens_to_the_bus(app)
    async with listening(app, bob, since=app.running["web"].resources.hub.last_id) as stream:
        await bob.post("/api/users/signout")

        async def is_over() -> bool:
            return stream.is_over

        await eventually(is_over, "the stream ends")


async def test_a_browser_that_leaves_is_forgotten(app: App) -> None:
    hub = app.running["web"].resources.hub
    async with listening(app, app.client()):
        assert len(hub) == 1
    assert len(hub) == 0


async def test_streams_end_when_the_service_stops(app: App) -> None:
    async with listening(app, app.client()) as stream:
        app.stopping()

        async def is_over() -> bool:
            return stream.is_over

        await eventually(is_over, "the stream ends")
    async with app.client() as late:
        assert (await late.get("/live")).status_code == 204
