"""The routes of orders, as buyers and strangers use them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.http.operations import InProgress
from admitone.kernel.ids import new_id
from admitone.kernel.messaging import replicas
from admitone.kernel.runner import App
from admitone.kernel.waiting import WaitLimit
from admitone.orders.service import SERVICE as ORDERS
from admitone.policy import MarketplacePolicy
from tests import engines
from tests.orders.support import consume, listed
from tests.support import StartNats, id_of, messages_of, published_by, running_app, signed_in


@pytest_asyncio.fixture
async def app(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, AUTH, ORDERS) as running:
        yield running


async def a_ticket(
    app: App, *, seller: UUID | None = None, price_cents: int = 1999, face_value_cents: int | None = None
) -> UUID:
    ticket = listed(seller=seller, price_cents=price_cents, face_value_cents=face_value_cents)
    await consume(app.running["orders"].database, ticket)
    return ticket.id


async def an_order(app: App, buyer: httpx.AsyncClient) -> dict[str, Any]:
    response = await buyer.post("/api/orders", json={"ticketId": str(await a_ticket(app))})
    assert response.status_code == 201, response.text
    order: dict[str, Any] = response.json()
    return order


async def complete(app: App, order_id: str) -> None:
    database = app.running["orders"].database
    for status in ("awaiting:payment", "complete"):
        await database.execute(
            "UPDATE orders SET status = $2, version = version + 1, payment_id = coalesce(payment_id, $3) WHERE id = $1",
            UUID(order_id),
            status,
            new_id(),
        )


async def test_o01_an_unknown_ticket_is_not_found(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        response = await bob.post("/api/orders", json={"ticketId": str(new_id())})
        assert response.status_code == 404
        assert messages_of(response) == [("Not Found", None)]


async def test_a_ticket_whose_event_has_not_arrived_is_waited_for(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        ticket = listed()
        reserving = asyncio.create_task(bob.post("/api/orders", json={"ticketId": str(ticket.id)}))
        await bob.get("/api/orders")  # by now the request above has started
        await consume(app.running["orders"].database, ticket)
        assert (await reserving).status_code == 201


async def test_made_up_tickets_keep_nobody_else_from_reserving(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "_WAIT_SECONDS", 3600.0)
    async with signed_in(app, "eve") as eve, signed_in(app, "bob") as bob:
        flood = {asyncio.create_task(eve.post("/api/orders", json={"ticketId": str(new_id())})) for _ in range(1500)}
        waiting = flood
        while len(waiting) > 2:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            assert {each.result().status_code for each in done} == {404}
        ticket = listed()
        reserving = asyncio.create_task(bob.post("/api/orders", json={"ticketId": str(ticket.id)}))
        await bob.get("/api/orders")  # by now the request above has started
        await consume(app.running["orders"].database, ticket)
        assert (await reserving).status_code == 201
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_few_requests_wait_in_all_and_none_of_them_counts_as_in_progress() -> None:
    waits, in_progress = WaitLimit(per_account_max=2, in_all_max=32), InProgress(1)
    with ExitStack() as stack:
        assert [stack.enter_context(waits.of(new_id())) for _ in range(33)] == [True] * 32 + [False]
        with in_progress.counted(), in_progress.not_counted(), in_progress.counted():
            pass
    with waits.of(new_id()) as may_wait:
        assert may_wait


async def test_an_old_ticket_id_is_not_waited_for(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        long_ago = "01890000-0000-7000-8000-000000000000"
        assert (await bob.post("/api/orders", json={"ticketId": long_ago})).status_code == 404


async def test_o02_a_ticket_with_an_active_order_is_refused(app: App) -> None:
    async with signed_in(app, "bob") as bob, signed_in(app, "carol") as carol:
        ticket = {"ticketId": str(await a_ticket(app))}
        assert (await bob.post("/api/orders", json=ticket)).status_code == 201
        response = await carol.post("/api/orders", json=ticket)
        assert response.status_code == 400
        assert messages_of(response) == [("Ticket is already reserved", None)]


async def test_o03_g18_a_free_ticket_is_reserved_for_the_hold(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        ticket_id = await a_ticket(app, price_cents=1050)
        response = await bob.post("/api/orders", json={"ticketId": str(ticket_id)})
        assert response.status_code == 201
        order = response.json()
        assert order["status"] == "created"
        assert order["userId"] == str(await id_of(bob))
        assert order["version"] == 0
        assert order["ticket"] == {
            "id": str(ticket_id), "title": "Nina Simone, row 4", "price": 10.5, "currency": "usd", "version": 0,
        }  # fmt: skip
        assert order["expiresAt"].endswith("Z")
        seconds = await app.running["orders"].database.fetchval(
            "SELECT extract(epoch FROM $1::text::timestamptz - $2::text::timestamptz)", order["expiresAt"], order["now"]
        )
        assert seconds == app.running["orders"].settings.read(MarketplacePolicy).hold_seconds == 900


async def test_an_order_shows_the_face_value_of_its_ticket(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        ticket_id = await a_ticket(app, face_value_cents=5800)
        reserved = await bob.post("/api/orders", json={"ticketId": str(ticket_id)})
        assert '"faceValue":58.00' in reserved.text
        shown = await bob.get(f"/api/orders/{reserved.json()['id']}")
        assert '"faceValue":58.00' in shown.text
        assert "faceValue" not in (await an_order(app, bob))["ticket"]


async def test_o04_g08_a_new_order_is_published(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        order = await an_order(app, bob)
        [event] = await published_by(app, "orders")
        assert event == {
            "type": "OrderCreated",
            "id": order["id"],
            "version": 0,
            "status": "created",
            "userId": order["userId"],
            "expiresAt": order["expiresAt"],
            "ticket": {
                "id": order["ticket"]["id"],
                "version": 0,
                "priceCents": 1999,
                "currency": "usd",
                "revision": 0,
                "title": "Nina Simone, row 4",
            },
        }


async def test_o05_the_list_is_the_callers_newest_first_with_tickets(app: App) -> None:
    async with signed_in(app, "bob") as bob, signed_in(app, "carol") as carol:
        own = [(await an_order(app, bob))["id"] for _ in range(3)]
        await an_order(app, carol)
        listed_orders = (await bob.get("/api/orders")).json()
        assert [each["id"] for each in listed_orders["orders"]] == own[::-1]
        assert all(each["ticket"]["title"] for each in listed_orders["orders"])
        assert listed_orders["cursor"] is None


async def test_the_list_comes_in_pages(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        own = [(await an_order(app, bob))["id"] for _ in range(5)]
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 2}
        while True:
            page = (await bob.get("/api/orders", params=query)).json()
            seen += [each["id"] for each in page["orders"]]
            if page["cursor"] is None:
                break
            query["cursor"] = page["cursor"]
        assert seen == own[::-1]


async def test_o06_show_own(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        order = await an_order(app, bob)
        shown = (await bob.get(f"/api/orders/{order['id']}")).json()
        assert shown.pop("now") >= order.pop("now")
        assert shown == order


async def test_o07_show_anothers_is_refused(app: App) -> None:
    async with signed_in(app, "bob") as bob, signed_in(app, "carol") as carol:
        order = await an_order(app, bob)
        response = await carol.get(f"/api/orders/{order['id']}")
        assert response.status_code == 403
        assert messages_of(response) == [("This order belongs to somebody else", None)]


async def test_o08_o09_delete_cancels_and_publishes(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        order = await an_order(app, bob)
        response = await bob.delete(f"/api/orders/{order['id']}")
        assert (response.status_code, response.content) == (204, b"")
        assert (await bob.get(f"/api/orders/{order['id']}")).json()["status"] == "cancelled"
        [event] = await published_by(app, "orders", "OrderCancelled")
        assert event == {
            "type": "OrderCancelled", "id": order["id"], "version": 1, "userId": order["userId"],
            "ticketId": order["ticket"]["id"], "reason": "cancelled_by_buyer",
        }  # fmt: skip


async def test_s08_deleting_a_cancelled_order_again_changes_nothing(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        order = await an_order(app, bob)
        for _ in range(3):
            assert (await bob.delete(f"/api/orders/{order['id']}")).status_code == 204
        assert len(await published_by(app, "orders", "OrderCancelled")) == 1


async def test_s07_deleting_a_complete_order_is_refused(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        order = await an_order(app, bob)
        await complete(app, order["id"])
        response = await bob.delete(f"/api/orders/{order['id']}")
        assert response.status_code == 400
        assert messages_of(response) == [("A completed order cannot be cancelled", None)]
        assert (await bob.get(f"/api/orders/{order['id']}")).json()["status"] == "complete"


async def test_g07_unknown_orders_and_strangers(app: App) -> None:
    async with signed_in(app, "bob") as bob, signed_in(app, "carol") as carol:
        order = await an_order(app, bob)
        for method in ("GET", "DELETE"):
            assert (await bob.request(method, f"/api/orders/{new_id()}")).status_code == 404
        assert (await carol.delete(f"/api/orders/{order['id']}")).status_code == 403
        assert (await bob.get(f"/api/orders/{order['id']}")).json()["status"] == "created"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/api/orders"), ("GET", "/api/orders"), ("GET", "/api/orders/x"), ("DELETE", "/api/orders/x")],
)
async def test_g05_every_route_needs_a_session(app: App, method: str, path: str) -> None:
    async with app.client() as nobody:
        response = await nobody.request(method, path)
        assert response.status_code == 401
        assert messages_of(response) == [("Not authorized", None)]


async def test_a_buyer_cannot_reserve_their_own_ticket(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        ticket_id = await a_ticket(app, seller=await id_of(alice))
        response = await alice.post("/api/orders", json={"ticketId": str(ticket_id)})
        assert response.status_code == 400
        assert messages_of(response) == [("You cannot buy your own ticket", None)]


@pytest.mark.parametrize(
    "body",
    [{}, {"ticketId": None}, {"ticketId": ""}, {"ticketId": "x"}, {"ticketId": 7}, {"ticketId": {"$gt": ""}},
     {"ticketId": "0" * 36}, {"ticketId": ["0190b1f0-0000-7000-8000-000000000000"]}],
)  # fmt: skip
async def test_g06_a_missing_or_malformed_ticket_id(app: App, body: dict[str, Any]) -> None:
    async with signed_in(app, "bob") as bob:
        response = await bob.post("/api/orders", json=body)
        assert response.status_code == 400
        assert messages_of(response) == [("TicketId must be provided", "ticketId")]


HOSTILE_BODIES = {
    "malformed": (b'{"ticketId": ', 400),
    "empty": (b"", 400),
    "not an object": (b"[1]", 400),
    "1e309": (b'{"ticketId": 1e309}', 400),
    "NaN": (b'{"ticketId": NaN}', 400),
    "lone surrogate": (b'{"ticketId": "\\ud800"}', 400),
    "NUL": (b'{"ticketId": "\\u0000"}', 400),
    "100,000 nested brackets": (b"[" * 100_000, 413),
    "60,000 nested brackets": (b"[" * 60_000, 400),
    "10 MB": (b'{"ticketId": "' + b"a" * 10_000_000 + b'"}', 413),
    "unknown field": (b'{"ticketId": "0190b1f0-0000-7000-8000-000000000000", "isAdmin": true}', 400),
    "not UTF-8": (b'{"ticketId": "\xff\xfe"}', 400),
}


@pytest.mark.parametrize("name", HOSTILE_BODIES)
async def test_g16_hostile_bodies_are_refused_without_echo(app: App, name: str) -> None:
    body, status = HOSTILE_BODIES[name]
    async with signed_in(app, "bob") as bob:
        response = await bob.post("/api/orders", content=body, headers={"content-type": "application/json"})
        assert response.status_code == status
        assert messages_of(response)
        assert "isAdmin" not in response.text


async def test_a_body_that_is_not_json_is_refused(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        response = await bob.post("/api/orders", data={"ticketId": str(new_id())})
        assert response.status_code == 415


@pytest.mark.parametrize(
    "path", ["x", "0", "%00", "0190b1f0", "../users", "a" * 5000, "{0190b1f0-0000-7000-8000-000000000000}"]
)
async def test_g16_malformed_ids_are_not_found(app: App, path: str) -> None:
    async with signed_in(app, "bob") as bob:
        assert (await bob.get(f"/api/orders/{path}")).status_code == 404


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=101", "limit=x", "cursor=x", "limit=1&limit=2", "page=1", "limit=%FF"]
)
async def test_g16_bad_query_parameters_are_refused(app: App, query: str) -> None:
    async with signed_in(app, "bob") as bob:
        response = await bob.get(f"/api/orders?{query}")
        assert response.status_code == 400
        assert messages_of(response)


async def test_s05_only_one_of_200_buyers_gets_the_ticket(app: App) -> None:
    ticket = {"ticketId": str(await a_ticket(app))}
    buyers = [signed_in(app, f"buyer-{number}") for number in range(200)]
    responses = await asyncio.gather(*(each.post("/api/orders", json=ticket) for each in buyers))
    assert sorted(each.status_code for each in responses) == [201] + [400] * 199
    assert len(await published_by(app, "orders", "OrderCreated")) == 1


async def test_the_same_idempotency_key_reserves_once(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        ticket = {"ticketId": str(await a_ticket(app))}
        headers = {"Idempotency-Key": "first-try"}
        responses = await asyncio.gather(*(bob.post("/api/orders", json=ticket, headers=headers) for _ in range(10)))
        assert {each.status_code for each in responses} == {201}
        assert len({each.content for each in responses}) == 1
        assert len(await published_by(app, "orders", "OrderCreated")) == 1
        other = await bob.post("/api/orders", json={"ticketId": str(await a_ticket(app))}, headers=headers)
        assert other.status_code == 422


async def test_the_key_of_a_cancelled_order_still_gives_the_first_response(app: App) -> None:
    async with signed_in(app, "bob") as bob:
        ticket = {"ticketId": str(await a_ticket(app))}
        first = await bob.post("/api/orders", json=ticket, headers={"Idempotency-Key": "k"})
        await bob.delete(f"/api/orders/{first.json()['id']}")
        again = await bob.post("/api/orders", json=ticket, headers={"Idempotency-Key": "k"})
        assert (again.status_code, again.content) == (201, first.content)
