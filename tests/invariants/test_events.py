"""The invariants of events."""

import pytest

from tests.invariants.support import Copies


async def test_i11_a_version_without_its_event(copies: Copies) -> None:
    await copies.damage("auth", "UPDATE account SET version = version + 1")
    assert await copies.violated() == {"I11"}


async def test_i11_a_complete_order_that_was_cancelled(copies: Copies) -> None:
    await copies.damage(
        "orders", "UPDATE orders SET status = 'cancelled', cancel_reason = 'expired' WHERE status = 'complete'"
    )
    assert "I11" in await copies.violated()


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("orders", "UPDATE outbox SET stream_sequence = NULL WHERE type = 'OrderCompleted'"),
        ("orders", "DELETE FROM inbox"),
        ("expiration", "DELETE FROM inbox WHERE id = (SELECT max(id::text)::uuid FROM inbox)"),
        ("tickets", "INSERT INTO inbox (id) VALUES (uuidv7())"),
    ],
)
async def test_i14_an_event_that_was_lost_or_invented(service: str, change: str, copies: Copies) -> None:
    await copies.damage(service, change)
    assert await copies.violated() == {"I14"}


@pytest.mark.parametrize("service", ["tickets", "orders", "payments"])
@pytest.mark.parametrize("kept", [2, 0])
async def test_events_removed_early_for_want_of_room_were_published(service: str, kept: int, copies: Copies) -> None:
    await copies.damage(service, "DELETE FROM outbox WHERE position <= (SELECT max(position) - $1 FROM outbox)", kept)
    assert await copies.violated() == set()


@pytest.mark.parametrize(("is_event", "violated"), [(False, set()), (True, {"I14"})])
async def test_i14_a_dead_letter_is_a_violation_unless_it_is_no_event(
    is_event: bool, violated: set[str], copies: Copies
) -> None:
    event = b"""{"id": "01980000-0000-7000-8000-000000000000", "source": "/admitone/expiration", "type": "OrderExpired",
        "subject": "01980000-0000-7000-8000-000000000000", "time": "2026-11-21T09:00:00Z", "dataschema": "/events/x",
        "data": {"orderId": "01980000-0000-7000-8000-000000000000"}}"""
    await copies.damage(
        "orders",
        "INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at) "
        "VALUES ($1, 's', $2, 5, 'e', now())",
        "01980000-0000-7000-8000-000000000000",
        event if is_event else b"\xff not an event",
    )
    assert await copies.violated() == violated
