"""Invariants of one database that can be checked at any instant, even after every statement of a simulation."""

from dataclasses import dataclass
from typing import Final

import asyncpg

from admitone.invariants.findings import Violation
from admitone.invariants.snapshot import Snapshot, TakenCharge

_PAID: Final = frozenset({"awaiting:payment", "complete"})


@dataclass(frozen=True)
class InstantCheck:
    """An invariant as one statement that returns its violations: `subject` and `problem`."""

    id: str
    service: str
    sql: str

    async def violations(self, snapshot: Snapshot) -> list[Violation]:
        return [Violation(row["subject"], row["problem"]) for row in await snapshot.rows(self.service, self.sql)]


SOLD_ONCE: Final = InstantCheck(
    "I1",
    "orders",
    """
    SELECT 'ticket ' || ticket_id AS subject, 'has ' || count(*) || ' orders at once' AS problem FROM orders
    WHERE status IN ('created', 'awaiting:payment', 'complete') GROUP BY ticket_id HAVING count(*) > 1
    """,
)
CHARGED_ONCE: Final = InstantCheck(
    "I3",
    "payments",
    """
    SELECT 'order ' || order_id AS subject, 'was charged ' || count(*) || ' times' AS problem FROM payment
    WHERE state = 'captured' GROUP BY order_id HAVING count(*) > 1
    """,
)
INSTANT_CHECKS: Final = (SOLD_ONCE, CHARGED_ONCE)

ORDER_OF_CHARGE: Final = "SELECT status, price_cents, currency, buyer_id FROM orders WHERE id = $1"


def charge_problem(charge: TakenCharge, order: asyncpg.Record | None) -> str | None:
    """Return why a charge must not exist, given the order it names; None if it is correct.

    The provider must take money only for such an order, at that very instant. Our own books agree once everything
    has arrived.
    """
    if order is None:
        return f"was taken for order {charge.order_id}, which does not exist"
    if order["status"] not in _PAID:
        return f"was taken for order {charge.order_id}, which is {order['status']}"
    if (charge.amount_cents, charge.currency) != (order["price_cents"], order["currency"]):
        return f"is not the price of order {charge.order_id}"
    if charge.buyer not in {None, order["buyer_id"]}:
        return f"was not taken from the buyer of order {charge.order_id}"
    return None


_UNPUBLISHED: Final = "SELECT 'event ' || id FROM outbox WHERE stream_sequence IS NULL LIMIT 1"
# By service, what can still be in progress: once no statement returns a row and the bus is drained, nothing changes.
IN_PROGRESS: Final = (
    ("tickets", _UNPUBLISHED),
    ("tickets", "SELECT 'lock of ticket ' || id FROM ticket WHERE status = 'reserved' LIMIT 1"),
    ("orders", _UNPUBLISHED),
    ("orders", "SELECT 'order ' || id FROM orders WHERE status IN ('created', 'awaiting:payment') LIMIT 1"),
    ("expiration", _UNPUBLISHED),
    ("expiration", "SELECT 'deadline of order ' || order_id FROM deadline LIMIT 1"),
    ("payments", _UNPUBLISHED),
    ("payments", "SELECT 'webhook ' || number FROM webhook WHERE processed_at IS NULL LIMIT 1"),
    (
        "payments",
        """
        SELECT 'payment ' || id FROM payment
        WHERE wanted IS NOT NULL OR state IN ('created', 'requires_action', 'authorized') LIMIT 1
        """,
    ),
)
