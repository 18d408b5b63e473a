"""`admitone dead-letters` lists, retries and drops events that a service could not handle."""

import json
from uuid import UUID, uuid4

from admitone.kernel.settings import Settings
from tests.commands.conftest import change, value
from tests.whole import Up


async def add_dead_letter(settings: Settings, message: bytes, letter_id: str | None = None) -> str:
    """Add a dead letter to orders, as its inbox does after the last attempt; return its id."""
    letter_id = letter_id or str(uuid4())
    await change(
        settings,
        "orders",
        "INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at) "
        "VALUES ($1, 'events.expiration.OrderExpired', $2, 5, $3, now())",
        letter_id,
        message,
        "ValueError: the clock struck thirteen\n  at midnight",
    )
    return letter_id


async def assert_consumed(settings: Settings, event_id: str) -> None:
    """Check that orders consumed an event, and undo it: the event was never published, which `check` would report."""
    assert await change(settings, "orders", "DELETE FROM inbox WHERE id = $1", UUID(event_id)) == "DELETE 1"


def expired(event_id: str) -> bytes:
    """Return an event about an order that does not exist; orders consumes it and does nothing."""
    order = str(uuid4())
    return json.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "/admitone/expiration",
            "type": "OrderExpired",
            "subject": order,
            "time": "2026-11-21T09:00:00Z",
            "dataschema": "/events/OrderExpired/1",
            "data": {"orderId": order},
        }
    ).encode()


async def test_s15_a_dead_letter_is_listed_shown_and_retried(up: Up, settings: Settings) -> None:
    event_id = str(uuid4())
    await add_dead_letter(settings, expired(event_id), event_id)
    listed = up.run("dead-letters", "list", "--service", "orders")
    assert listed.returncode == 0
    assert f"orders  {event_id}  events.expiration.OrderExpired  5 attempts  ValueError" in listed.stdout
    assert "1 dead letters" in listed.stdout
    shown = up.run("dead-letters", "show", event_id)
    assert "at midnight" in shown.stdout
    assert '"type": "OrderExpired"' in shown.stdout
    retried = up.run("dead-letters", "retry", event_id)
    assert retried.returncode == 0, retried.stderr
    assert "1 handled, 0 failed again" in retried.stdout
    assert await value(settings, "orders", "SELECT count(*) FROM dead_letter") == 0
    await assert_consumed(settings, event_id)


async def test_an_event_that_is_still_tried_is_listed_only_when_wanted(up: Up, settings: Settings) -> None:
    letter_id = await add_dead_letter(settings, b"{}")
    await change(settings, "orders", "UPDATE dead_letter SET given_up_at = NULL")
    try:
        assert "0 dead letters" in up.run("dead-letters", "list").stdout
        waiting = up.run("dead-letters", "list", "--waiting", "--service", "orders").stdout
        assert f"orders  {letter_id}  events.expiration.OrderExpired  5 attempts  ValueError" in waiting
        assert "1 events wait" in waiting
    finally:
        await change(settings, "orders", "DELETE FROM dead_letter")


async def test_s15_a_dead_letter_that_fails_again_remains_and_the_exit_code_is_1(up: Up, settings: Settings) -> None:
    letter_id = await add_dead_letter(settings, b"\xff not an event", "expiration:17")
    retried = up.run("dead-letters", "retry", "--all", "--service", "orders")
    assert retried.returncode == 1
    assert "failed again: it is not an event" in retried.stderr
    dropped = up.run("dead-letters", "drop", letter_id)
    assert dropped.returncode == 0
    assert await value(settings, "orders", "SELECT count(*) FROM dead_letter") == 0


async def test_a_dropped_event_counts_as_consumed(up: Up, settings: Settings) -> None:
    event_id = str(uuid4())
    await add_dead_letter(settings, expired(event_id), event_id)
    assert up.run("dead-letters", "drop", "--all").returncode == 0
    await assert_consumed(settings, event_id)


def test_an_unknown_dead_letter_is_exit_code_1_and_a_missing_argument_is_2(up: Up) -> None:
    unknown = up.run("dead-letters", "retry", "nowhere:1")
    assert unknown.returncode == 1
    assert "There is no dead letter nowhere:1" in unknown.stderr
    assert up.run("dead-letters", "retry").returncode == 2
    assert up.run("dead-letters", "drop", "nowhere:1", "--all").returncode == 2
