"""The routes of tickets, as sellers and others use them."""

import asyncio
from typing import Any
from uuid import UUID

import httpx

from admitone.kernel.runner import App
from tests.support import id_of, messages_of, published_by
from tests.tickets.support import (
    FADO,
    UNKNOWN,
    cancelled,
    completed,
    consume,
    database_of,
    list_ticket,
    order_of,
    show,
    shown,
)

# Listing


async def test_t01_post_route_exists(alice: httpx.AsyncClient) -> None:
    assert (await alice.post("/api/tickets", json={})).status_code != 404


async def test_t02_listing_a_ticket_needs_signing_in(nobody: httpx.AsyncClient) -> None:
    response = await nobody.post("/api/tickets", json=FADO)
    assert response.status_code == 401
    assert response.json() == {"errors": [{"message": "Not authorized"}]}


async def test_t03_a_signed_in_user_is_not_refused_as_a_stranger(alice: httpx.AsyncClient) -> None:
    assert (await alice.post("/api/tickets", json={})).status_code != 401


async def test_t04_a_blank_title_is_refused(alice: httpx.AsyncClient) -> None:
    for body in ({"title": "", "price": 10}, {"title": " \u00a0 ", "price": 10}, {"price": 10}):
        response = await alice.post("/api/tickets", json=body)
        assert response.status_code == 400
        assert messages_of(response) == [("Title is required", "title")]


async def test_t05_a_negative_or_missing_price_is_refused(alice: httpx.AsyncClient) -> None:
    for body in ({"title": "Fado", "price": -10}, {"title": "Fado", "price": 0}, {"title": "Fado"}):
        response = await alice.post("/api/tickets", json=body)
        assert response.status_code == 400
        assert messages_of(response) == [("Price must be greater than 0", "price")]


async def test_t06_a_valid_post_stores_one_ticket(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    [row] = await database_of(app).fetch("SELECT id, title, price_cents, currency, seller_id, version FROM ticket")
    assert dict(row.items()) == {
        "id": UUID(ticket["id"]),
        "title": "Fado night",
        "price_cents": 1999,
        "currency": "usd",
        "seller_id": await id_of(alice),
        "version": 0,
    }


async def test_t07_g08_listing_publishes_ticket_created(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    assert await published_by(app, "tickets") == [
        {
            "type": "TicketCreated",
            "id": ticket["id"],
            "version": 0,
            "title": "Fado night",
            "priceCents": 1999,
            "currency": "usd",
            "userId": ticket["userId"],
            "status": "available",
            "orderId": None,
            "revision": 0,
            "faceValueCents": None,
            "eventDate": None,
            "venue": None,
            "section": None,
            "row": None,
            "seat": None,
            "note": None,
        }
    ]


async def test_the_response_has_every_field_of_the_listing(alice: httpx.AsyncClient) -> None:
    response = await alice.post(
        "/api/tickets",
        json={
            "title": "  Fado   night ",
            "price": 20,
            "faceValue": 58,
            "eventDate": "2027-05-01T21:30:00.250+02:00",
            "venue": "Cafe\u0301 Luso",
            "section": "A",
            "row": "3",
            "seat": "12",
            "note": "Two stairs, no lift",
        },
    )
    ticket = shown(response)
    assert '"price":20.00,' in response.text
    assert response.headers["etag"] == '"0"'
    assert ticket == {
        "id": ticket["id"],
        "title": "Fado night",
        "price": 20.0,
        "faceValue": 58.0,
        "currency": "usd",
        "userId": str(await id_of(alice)),
        "version": 0,
        "status": "available",
        "eventDate": "2027-05-01T19:30:00Z",
        "venue": "Café Luso",
        "section": "A",
        "row": "3",
        "seat": "12",
        "note": "Two stairs, no lift",
        "createdAt": ticket["createdAt"],
    }
    assert await show(alice, ticket["id"]) == ticket


async def test_blank_and_null_fields_are_absent(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(
        alice, venue=" ", section=None, row="", seat=None, note="", eventDate=None, faceValue=None
    )
    assert ticket.keys() == {"id", "title", "price", "currency", "userId", "version", "status", "createdAt"}


async def test_a_repeated_post_with_its_key_lists_one_ticket(app: App, alice: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "first-try"}
    tries = await asyncio.gather(*(alice.post("/api/tickets", json=FADO, headers=headers) for _ in range(8)))
    again = await alice.post("/api/tickets", json={"title": "Fado night ", "price": 19.990}, headers=headers)
    assert {each.status_code for each in [*tries, again]} == {201}
    assert len({each.text for each in [*tries, again]}) == 1
    assert {each.headers["etag"] for each in [*tries, again]} == {'"0"'}
    assert await database_of(app).fetchval("SELECT count(*) FROM ticket") == 1
    assert len(await published_by(app, "tickets")) == 1


async def test_an_idempotency_key_belongs_to_one_user_and_one_request(
    alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    headers = {"idempotency-key": "first-try"}
    first = await alice.post("/api/tickets", json=FADO, headers=headers)
    other = await alice.post("/api/tickets", json={**FADO, "price": 20}, headers=headers)
    bobs = await bob.post("/api/tickets", json=FADO, headers=headers)
    assert other.status_code == 422
    assert bobs.status_code == 201
    assert bobs.json()["id"] != first.json()["id"]


# Reading


async def test_t08_the_list_shows_what_was_listed(alice: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    tickets = [await list_ticket(alice, title=f"Fado {number}") for number in range(3)]
    response = await nobody.get("/api/tickets")
    assert response.status_code == 200
    assert response.json() == {"tickets": tickets[::-1], "cursor": None}


async def test_without_listings_the_list_is_empty(nobody: httpx.AsyncClient) -> None:
    assert (await nobody.get("/api/tickets")).json() == {"tickets": [], "cursor": None}


async def test_g04_the_list_leaves_out_reserved_and_sold_tickets(app: App, alice: httpx.AsyncClient) -> None:
    free, reserved, sold = [await list_ticket(alice) for _ in range(3)]
    order = order_of(sold)
    await consume(database_of(app), order_of(reserved), order, completed(order))
    for query in ("", "?sort=price", "?sort=-price", "?sort=date", "?q=fado"):
        assert (await alice.get(f"/api/tickets{query}")).json()["tickets"] == [free]
    for ticket, status in ((reserved, "reserved"), (sold, "sold")):
        assert (await show(alice, ticket["id"]))["status"] == status


async def test_a_released_ticket_is_on_the_list_again(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await consume(database_of(app), order, cancelled(order))
    assert (await alice.get("/api/tickets")).json()["tickets"] == [{**ticket, "version": 2}]


async def test_t09_an_unknown_ticket_is_not_found(nobody: httpx.AsyncClient) -> None:
    response = await nobody.get(f"/api/tickets/{UNKNOWN}")
    assert response.status_code == 404
    assert response.json() == {"errors": [{"message": "Not Found"}]}


async def test_t10_anybody_can_read_a_ticket(alice: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    assert await show(nobody, ticket["id"]) == ticket


async def test_a_current_copy_is_not_sent_again(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    path = f"/api/tickets/{ticket['id']}"
    tag = (await alice.get(path)).headers["etag"]
    for condition in (tag, f'"7", {tag}', f"W/{tag}", "*"):
        response = await alice.get(path, headers={"if-none-match": condition})
        assert response.status_code == 304
        assert response.content == b""
        assert response.headers["etag"] == tag
    await alice.put(path, json=FADO)
    response = await alice.get(path, headers={"if-none-match": tag})
    assert response.status_code == 200
    assert response.headers["etag"] == '"1"'


async def test_own_tickets_are_listed_in_every_state(
    app: App, alice: httpx.AsyncClient, bob: httpx.AsyncClient, nobody: httpx.AsyncClient
) -> None:
    free, reserved, sold = [await list_ticket(alice) for _ in range(3)]
    await list_ticket(bob)
    order = order_of(sold)
    await consume(database_of(app), order_of(reserved), order, completed(order))
    mine = (await alice.get("/api/tickets/mine")).json()
    assert [each["id"] for each in mine["tickets"]] == [sold["id"], reserved["id"], free["id"]]
    assert [each["status"] for each in mine["tickets"]] == ["sold", "reserved", "available"]
    assert mine["cursor"] is None
    assert (await nobody.get("/api/tickets/mine")).status_code == 401


async def test_own_tickets_are_paged_like_the_listings(
    app: App, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    tickets = [await list_ticket(alice) for _ in range(7)]
    order = order_of(tickets[2])
    await consume(database_of(app), order, completed(order))
    seen: list[str] = []
    cursors: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    while True:
        page = (await alice.get("/api/tickets/mine", params=query)).json()
        seen += [ticket["id"] for ticket in page["tickets"]]
        if page["cursor"] is None:
            break
        cursors.append(page["cursor"])
        query["cursor"] = page["cursor"]
    assert seen == [ticket["id"] for ticket in tickets[::-1]]
    assert len(cursors) == 2
    listings = (await alice.get("/api/tickets", params={"limit": 3})).json()
    for client, foreign in ((bob, cursors[0]), (alice, listings["cursor"])):
        response = await client.get("/api/tickets/mine", params={"cursor": foreign})
        assert response.status_code == 400
        assert messages_of(response) == [("Cursor is not valid for this list", "cursor")]


# Editing


async def test_t11_editing_an_unknown_ticket_finds_nothing(alice: httpx.AsyncClient) -> None:
    for unknown in (UNKNOWN, "7", "mine", UNKNOWN.replace("-", ""), f"{{{UNKNOWN[:-2]}}}", "%00", "null"):
        response = await alice.put(f"/api/tickets/{unknown}", json=FADO)
        # "mine" is a path, but not one that can be edited.
        assert response.status_code == (405 if unknown == "mine" else 404), unknown
        assert messages_of(response)


async def test_t12_editing_needs_signing_in(alice: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for ticket_id in (ticket["id"], UNKNOWN, "7"):
        response = await nobody.put(f"/api/tickets/{ticket_id}", json={})
        assert response.status_code == 401
        assert response.json() == {"errors": [{"message": "Not authorized"}]}


async def test_t13_a_stranger_cannot_edit(app: App, alice: httpx.AsyncClient, bob: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    response = await bob.put(f"/api/tickets/{ticket['id']}", json={"title": "Mine now", "price": 1})
    assert response.status_code == 403
    assert messages_of(response) == [("Only its seller can edit a ticket", None)]
    assert await show(alice, ticket["id"]) == ticket
    assert len(await published_by(app, "tickets")) == 1


async def test_t14_an_invalid_edit_is_refused_and_changes_nothing(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for body, expected in (
        ({"title": "", "price": 20}, [("Title is required", "title")]),
        ({"title": "Fado", "price": -20}, [("Price must be greater than 0", "price")]),
        ({}, [("Title is required", "title"), ("Price must be greater than 0", "price")]),
    ):
        response = await alice.put(f"/api/tickets/{ticket['id']}", json=body)
        assert response.status_code == 400
        assert messages_of(response) == expected
    assert await show(alice, ticket["id"]) == ticket


async def test_the_body_is_validated_before_the_ticket_is_loaded(bob: httpx.AsyncClient) -> None:
    assert (await bob.put(f"/api/tickets/{UNKNOWN}", json={})).status_code == 400


async def test_t15_a_valid_edit_replaces_the_whole_listing(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice, venue="Clube de Fado", note="Aisle")
    response = await alice.put(f"/api/tickets/{ticket['id']}", json={"title": "Late fado", "price": 25.5, "seat": "4"})
    assert response.status_code == 200
    assert response.headers["etag"] == '"1"'
    expected = {**ticket, "title": "Late fado", "price": 25.5, "seat": "4", "version": 1}
    del expected["venue"], expected["note"]
    assert shown(response) == expected == await show(alice, ticket["id"])
    assert (await alice.get("/api/tickets?q=late")).json()["tickets"] == [expected]
    assert (await alice.get("/api/tickets?q=clube")).json()["tickets"] == []


async def test_an_edit_changes_and_removes_the_face_value(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice, faceValue=58)
    path = f"/api/tickets/{ticket['id']}"
    assert ticket["faceValue"] == 58
    changed = await alice.put(path, json={**FADO, "faceValue": 0})
    assert '"faceValue":0.00,' in changed.text
    removed = await alice.put(path, json=FADO)
    assert "faceValue" not in shown(removed)
    assert "faceValue" not in await show(alice, ticket["id"])
    assert [each["faceValueCents"] for each in await published_by(app, "tickets")] == [5800, 0, None]


async def test_t16_an_edit_publishes_ticket_updated(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    await alice.put(f"/api/tickets/{ticket['id']}", json={"title": "Late fado", "price": 25})
    assert await published_by(app, "tickets", "TicketUpdated") == [
        {
            "type": "TicketUpdated",
            "id": ticket["id"],
            "version": 1,
            "title": "Late fado",
            "priceCents": 2500,
            "currency": "usd",
            "userId": ticket["userId"],
            "status": "available",
            "orderId": None,
            "revision": 1,
            "faceValueCents": None,
            "eventDate": None,
            "venue": None,
            "section": None,
            "row": None,
            "seat": None,
            "note": None,
            "snapshot": False,
        }
    ]


async def test_t17_a_reserved_or_sold_ticket_cannot_be_edited(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    order = order_of(ticket)
    await consume(database_of(app), order)
    for headers in ({}, {"if-match": '"1"'}, {"if-match": '"0"'}):
        response = await alice.put(f"/api/tickets/{ticket['id']}", json=FADO, headers=headers)
        assert response.status_code == 400
        assert messages_of(response) == [("Cannot edit a reserved ticket", None)]
    await consume(database_of(app), completed(order))
    response = await alice.put(f"/api/tickets/{ticket['id']}", json=FADO)
    assert response.status_code == 400
    assert messages_of(response) == [("Cannot edit a sold ticket", None)]
    assert (await show(alice, ticket["id"]))["price"] == ticket["price"]


async def test_t18_the_second_of_two_stale_saves_fails(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    path, headers = f"/api/tickets/{ticket['id']}", {"if-match": '"0"'}
    first = await alice.put(path, json={**FADO, "price": 30}, headers=headers)
    second = await alice.put(path, json={**FADO, "price": 40}, headers=headers)
    assert first.status_code == 200
    assert second.status_code == 412
    assert messages_of(second) == [("The ticket changed since you read it; read it again", None)]
    assert (await show(alice, ticket["id"]))["price"] == 30
    assert (await alice.put(path, json=FADO, headers={"if-match": "*"})).status_code == 200
    assert (await alice.put(path, json=FADO, headers={"if-match": '"1", "2"'})).status_code == 200
    for unparsable in ("3", '"3', "", '"x"'):
        assert (await alice.put(path, json=FADO, headers={"if-match": unparsable})).status_code == 412


async def test_t18_only_one_of_many_saves_of_one_version_succeeds(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    responses = await asyncio.gather(
        *(
            alice.put(f"/api/tickets/{ticket['id']}", json={**FADO, "price": 10 + n}, headers={"if-match": '"0"'})
            for n in range(10)
        )
    )
    assert sorted(each.status_code for each in responses) == [200] + 9 * [412]
    assert (await show(alice, ticket["id"]))["version"] == 1


async def test_t19_versions_count_every_edit(app: App, alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    path = f"/api/tickets/{ticket['id']}"
    edits = [await alice.put(path, json=FADO) for _ in range(2)]
    assert [ticket["version"], *(each.json()["version"] for each in edits)] == [0, 1, 2]
    assert [each["version"] for each in await published_by(app, "tickets")] == [0, 1, 2]


async def test_g05_every_protected_route_needs_signing_in(nobody: httpx.AsyncClient) -> None:
    for method, path in (("POST", "/api/tickets"), ("PUT", f"/api/tickets/{UNKNOWN}"), ("GET", "/api/tickets/mine")):
        response = await nobody.request(method, path)
        assert response.status_code == 401
        assert messages_of(response) == [("Not authorized", None)]


async def test_g16_unknown_routes_and_malformed_ids_are_not_found(alice: httpx.AsyncClient) -> None:
    paths = [f"/api/tickets/{each}" for each in ("7", "%00", "%ff", "null", UNKNOWN + "0", "a" * 4000)]
    for path in [*paths, "/api/tickets/", f"/api/tickets/{UNKNOWN}/price", "/api/ticket", "/api/tickets/mine/x"]:
        response = await alice.get(path)
        assert response.status_code == 404, path
        assert messages_of(response) == [("Not Found", None)]


async def test_a_wrong_method_is_not_allowed(alice: httpx.AsyncClient) -> None:
    response = await alice.delete("/api/tickets")
    assert response.status_code == 405
    assert response.headers["allow"] == "GET, POST"
    assert messages_of(response)
