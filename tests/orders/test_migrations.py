"""What the database refuses, whatever the code does."""

import pytest

from admitone.kernel.ids import new_id
from tests import engines
from tests.orders.support import consume, listed, orders_database, reserve


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE orders SET status = 'created', version = 2, cancel_reason = NULL",
        "UPDATE orders SET version = version + 1",
        "DELETE FROM orders",
    ],
)
async def test_a_final_order_never_changes(databases: engines.Databases, statement: str) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id())
        await database.execute("UPDATE orders SET status = 'cancelled', version = 1, cancel_reason = 'expired'")
        with pytest.raises(Exception, match=r"never|permission denied"):
            await database.execute(statement)


@pytest.mark.parametrize(
    "change",
    ["buyer_id = ticket_id", "ticket_version = 7", "ticket_revision = 7", "title = 'Jazz'", "price_cents = 1",
     "face_value_cents = 1", "venue = 'Luso'", "seat = '1'", "event_date = '2027-01-01Z'", "note = 'Sold'",
     "currency = 'eur'", "expires_at = expires_at + interval '1 hour'", "created_at = '2020-01-01Z'"],
)  # fmt: skip
async def test_the_buyer_the_offer_and_the_deadline_never_change(databases: engines.Databases, change: str) -> None:
    async with orders_database(databases) as database:
        ticket = listed()
        await consume(database, ticket)
        await reserve(database, ticket.id, new_id())
        with pytest.raises(Exception, match="cannot change its buyer, ticket, price or deadline"):
            await database.execute(f"UPDATE orders SET version = version + 1, {change}")
