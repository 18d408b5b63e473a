"""Which messages the hub sends to which connection, and how many it keeps."""

from datetime import UTC, datetime, timedelta
from uuid import UUID

import msgspec

from admitone.events import OrderCancelled, OrderCreated, OrderedTicket, TicketUpdated
from admitone.kernel import clock, ids
from admitone.kernel.http.sessions import SignedInUser
from admitone.web.hub import RECENT_MESSAGES_MAX, UNSENT_BYTES_MAX, Hub, LiveConnection


def user(seconds: float = 3600) -> SignedInUser:
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


async def received(connection: LiveConnection) -> list[str]:
    """Return the names of the messages queued for a connection."""
    text = (await connection.next_messages()).decode()
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


async def test_ticket_messages_go_to_everyone_and_order_messages_only_to_the_buyer() -> None:
    hub = Hub()
    bob, carol = user(), user()
    connections = {
        name: hub.connect(user, hub.last_id) for name, user in [("bob", bob), ("carol", carol), ("nobody", None)]
    }
    hub.publish(ticket_updated())
    hub.publish(order_created(bob.id))
    assert await received(connections["bob"]) == ["ticket", "order"]
    assert await received(connections["carol"]) == ["ticket"]
    assert await received(connections["nobody"]) == ["ticket"]


async def test_a_ticket_message_contains_only_public_fields() -> None:
    hub = Hub()
    connection = hub.connect(None, hub.last_id)
    event = ticket_updated()
    hub.publish(event)
    text = (await connection.next_messages()).decode()
    data = next(line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: "))
    assert msgspec.json.decode(data) == {
        "id": str(event.id),
        "state": "reserved",
        "version": 1,
        "title": "Fado night",
        "price": "$19.50",
    }


async def test_a_browser_that_reconnects_gets_what_it_missed_and_nothing_of_other_users() -> None:
    hub = Hub()
    bob, carol = user(), user()
    last_id = hub.last_id
    hub.publish(ticket_updated())
    hub.publish(order_created(bob.id))
    hub.publish(order_created(carol.id))
    assert await received(hub.connect(bob, last_id)) == ["ticket", "order"]
    assert await received(hub.connect(None, last_id)) == ["ticket"]
    assert await received(hub.connect(bob, hub.last_id)) == []


async def test_an_id_that_is_too_old_or_from_another_process_gets_a_reset() -> None:
    hub = Hub()
    last_id = hub.last_id
    for _ in range(RECENT_MESSAGES_MAX + 1):
        hub.publish(ticket_updated())
    assert await received(hub.connect(None, last_id)) == ["reset"]
    for unknown in ("", "x", "other-3", last_id + "0000", last_id.replace("-0", "--1"), last_id.replace("-0", "-²")):
        assert await received(hub.connect(None, unknown)) == ["reset"]


async def test_a_browser_that_missed_more_than_may_queue_gets_a_reset() -> None:
    hub = Hub()
    last_id = hub.last_id
    for _ in range(RECENT_MESSAGES_MAX - 1):
        hub.publish(ticket_updated())
    connection = hub.connect(None, last_id)
    assert not connection.is_closed
    assert await received(connection) == ["reset"]


async def test_after_the_bus_was_unreachable_everyone_gets_a_reset() -> None:
    hub = Hub()
    connection = hub.connect(None, hub.last_id)
    last_id = hub.last_id
    await connection.next_messages()
    hub.reset()
    assert await received(connection) == ["reset"]
    assert await received(hub.connect(None, last_id)) == ["reset"]


async def test_after_the_bus_was_unreachable_streams_of_users_end_since_a_revocation_may_have_been_missed() -> None:
    hub = Hub()
    bob = SignedInUser(ids.new_id(), "bob@example.com", ids.new_id(), clock.now().timestamp() + 60)
    connection = hub.connect(bob, hub.last_id)
    hub.reset()
    assert connection.is_closed
    assert len(hub) == 0


async def test_a_connection_that_reads_too_slowly_is_closed_and_its_queue_is_freed() -> None:
    hub = Hub()
    slow, quick = hub.connect(None, hub.last_id), hub.connect(None, hub.last_id)
    messages = 0
    while len(hub) == 2:
        hub.publish(ticket_updated())
        assert await received(quick) == ["ticket"]
        messages += 1
        assert messages * 100 < UNSENT_BYTES_MAX
    assert slow.is_closed
    assert not quick.is_closed
    assert await slow.next_messages() == b""


async def test_ending_a_session_closes_only_its_connections() -> None:
    hub = Hub()
    bob, carol = user(), user()
    connections = [hub.connect(bob, hub.last_id), hub.connect(bob, hub.last_id), hub.connect(carol, hub.last_id)]
    hub.end_session(bob.session_id)
    assert [each.is_closed for each in connections] == [True, True, False]
    assert len(hub) == 1


async def test_the_heartbeat_closes_connections_with_an_expired_session() -> None:
    hub = Hub()
    expired, current = hub.connect(user(seconds=-1), hub.last_id), hub.connect(user(), hub.last_id)
    hub.heartbeat()
    assert (expired.is_closed, current.is_closed) == (True, False)


def test_the_end_of_a_hold_is_known_until_the_order_is_cancelled() -> None:
    hub = Hub()
    event = order_created(ids.new_id())
    assert hub.held_until(event.ticket.id) is None
    hub.publish(event)
    assert hub.held_until(event.ticket.id) == event.expires_at
    hub.publish(
        OrderCancelled(
            id=event.id, version=1, user_id=event.user_id, ticket_id=event.ticket.id, reason="cancelled_by_buyer"
        )
    )
    assert hub.held_until(event.ticket.id) is None
