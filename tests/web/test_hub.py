"""What the hub tells whom: everyone the tickets, each person their own orders, and nobody more than they can read."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from admitone.events import OrderCancelled, OrderCreated, OrderedTicket, TicketUpdated
from admitone.kernel import clock, ids
from admitone.kernel.http.sessions import SignedInUser
from admitone.web.hub import KEPT_MESSAGES, UNSENT_BYTES_MAX, Browser, Hub


def person(seconds: float = 3600) -> SignedInUser:
    return SignedInUser(ids.new_id(), "bob@example.com", ids.new_id(), clock.now().timestamp() + seconds)


def ticket_updated(version: int = 1) -> TicketUpdated:
    return TicketUpdated(
        id=ids.new_id(),
        version=version,
        title="Fado night",
        price_cents=1950,
        currency="usd",
        user_id=ids.new_id(),
        status="reserved",
    )


def order_created(buyer: UUID, expires_at: datetime | None = None) -> OrderCreated:
    return OrderCreated(
        id=ids.new_id(),
        version=0,
        status="created",
        user_id=buyer,
        expires_at=expires_at or datetime.now(UTC) + timedelta(minutes=15),
        ticket=OrderedTicket(id=ids.new_id(), version=0, price_cents=1950, currency="usd"),
    )


async def heard(browser: Browser) -> list[str]:
    """Return the names of the messages that wait for a browser."""
    text = (await browser.next_messages()).decode()
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def test_everyone_hears_of_tickets_and_only_the_buyer_of_an_order() -> None:
    hub = Hub()
    bob, carol = person(), person()
    browsers = {name: hub.join(who, hub.last_id) for name, who in [("bob", bob), ("carol", carol), ("nobody", None)]}
    hub.hear(ticket_updated())
    hub.hear(order_created(bob.id))
    assert await heard(browsers["bob"]) == ["ticket", "order"]
    assert await heard(browsers["carol"]) == ["ticket"]
    assert await heard(browsers["nobody"]) == ["ticket"]


async def test_a_ticket_message_says_what_is_public_and_nothing_else() -> None:
    hub = Hub()
    browser = hub.join(None, hub.last_id)
    event = ticket_updated()
    hub.hear(event)
    text = (await browser.next_messages()).decode()
    data = next(line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    assert msgspec.json.decode(data) == {
        "id": str(event.id),
        "state": "reserved",
        "version": 1,
        "title": "Fado night",
        "price": "$19.50",
    }


async def test_who_comes_back_hears_what_they_missed_and_no_secret_of_others() -> None:
    hub = Hub()
    bob, carol = person(), person()
    last_id = hub.last_id
    hub.hear(ticket_updated())
    hub.hear(order_created(bob.id))
    hub.hear(order_created(carol.id))
    assert await heard(hub.join(bob, last_id)) == ["ticket", "order"]
    assert await heard(hub.join(None, last_id)) == ["ticket"]
    assert await heard(hub.join(bob, hub.last_id)) == []


async def test_who_was_away_too_long_or_comes_from_another_process_is_told_to_read_the_page_again() -> None:
    hub = Hub()
    last_id = hub.last_id
    for _ in range(KEPT_MESSAGES + 1):
        hub.hear(ticket_updated())
    assert await heard(hub.join(None, last_id)) == ["reset"]
    for strange in ("", "x", "other-3", last_id + "0000", last_id.replace("-0", "--1"), last_id.replace("-0", "-²")):
        assert await heard(hub.join(None, strange)) == ["reset"]


async def test_who_missed_more_than_may_wait_unsent_reads_the_page_again_instead() -> None:
    hub = Hub()
    last_id = hub.last_id
    for _ in range(KEPT_MESSAGES - 1):
        hub.hear(ticket_updated())
    browser = hub.join(None, last_id)
    assert not browser.is_closed
    assert await heard(browser) == ["reset"]


async def test_after_the_bus_was_away_everyone_reads_the_page_again() -> None:
    hub = Hub()
    browser = hub.join(None, hub.last_id)
    away = hub.last_id
    await browser.next_messages()
    hub.lost_events()
    assert await heard(browser) == ["reset"]
    assert await heard(hub.join(None, away)) == ["reset"]


async def test_a_browser_that_reads_too_slowly_is_dropped_and_keeps_no_memory() -> None:
    hub = Hub()
    slow, quick = hub.join(None, hub.last_id), hub.join(None, hub.last_id)
    messages = 0
    while len(hub) == 2:
        hub.hear(ticket_updated())
        assert await heard(quick) == ["ticket"]
        messages += 1
        assert messages * 100 < UNSENT_BYTES_MAX
    assert slow.is_closed
    assert not quick.is_closed
    assert await slow.next_messages() == b""


async def test_the_end_of_a_session_ends_its_connections_only() -> None:
    hub = Hub()
    bob, carol = person(), person()
    browsers = [hub.join(bob, hub.last_id), hub.join(bob, hub.last_id), hub.join(carol, hub.last_id)]
    hub.end_session(bob.session_id)
    assert [each.is_closed for each in browsers] == [True, True, False]
    assert len(hub) == 1


async def test_a_session_that_expires_ends_its_connection_with_the_next_heartbeat() -> None:
    hub = Hub()
    expired, current = hub.join(person(seconds=-1), hub.last_id), hub.join(person(), hub.last_id)
    hub.heartbeat()
    assert (expired.is_closed, current.is_closed) == (True, False)


def test_the_end_of_a_hold_is_known_while_it_lasts() -> None:
    hub = Hub()
    event = order_created(ids.new_id())
    assert hub.held_until(event.ticket.id) is None
    hub.hear(event)
    assert hub.held_until(event.ticket.id) == event.expires_at
    hub.hear(
        OrderCancelled(
            id=event.id, version=1, user_id=event.user_id, ticket_id=event.ticket.id, reason="cancelled_by_buyer"
        )
    )
    assert hub.held_until(event.ticket.id) is None
