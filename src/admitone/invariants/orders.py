"""Invariants of orders: a ticket is sold once, orders end in time, and everybody buys for themselves."""

from typing import Final

from admitone.invariants.findings import Checked, Violation, always, once_settled
from admitone.invariants.instants import SOLD_ONCE
from admitone.invariants.snapshot import Snapshot

# The deadline's event ends an unpaid order, or orders itself 10 seconds later.
OVERDUE_SECONDS: Final = 30.0
# Between an authorisation and its capture is one request to the provider, repeated while the provider is unreachable.
UNSETTLED_SECONDS: Final = 600.0


@always("I1", "at most one live or complete order per ticket")
async def _one_order_per_ticket(snapshot: Snapshot) -> Checked:
    return len(snapshot.orders), await SOLD_ONCE.violations(snapshot)


@once_settled("I6", "every order is settled or payable; none is overdue or stuck")
async def _no_overdue_order(snapshot: Snapshot) -> Checked:
    overdue = await snapshot.rows(
        "orders",
        "SELECT id FROM orders WHERE status = 'created' AND expires_at < instant() - make_interval(secs => $1)",
        OVERDUE_SECONDS,
    )
    stuck = await snapshot.rows(
        "orders",
        """
        SELECT orders.id FROM orders JOIN outbox ON outbox.aggregate = orders.id AND outbox.version = orders.version
        WHERE status = 'awaiting:payment' AND recorded_at < instant() - make_interval(secs => $1)
        """,
        UNSETTLED_SECONDS,
    )
    violations = [Violation(f"order {row['id']}", "is past its deadline and still holds its ticket") for row in overdue]
    violations += [Violation(f"order {row['id']}", "has been awaiting its payment for too long") for row in stuck]
    return len(snapshot.orders), violations


@always("I12", "no order expires before its deadline")
async def _nothing_expires_early(snapshot: Snapshot) -> Checked:
    expired = [order for order in snapshot.orders.values() if order["cancel_reason"] == "expired"]
    early = await snapshot.rows(
        "orders",
        """
        SELECT orders.id FROM orders JOIN outbox ON outbox.aggregate = orders.id AND outbox.type = 'OrderCancelled'
        WHERE cancel_reason = 'expired' AND recorded_at < expires_at
        """,
    )
    return len(expired), [Violation(f"order {row['id']}", "expired before its deadline") for row in early]


@always("I13", "nobody buys their own ticket, and no order, ticket or payment changes its owner")
async def _owners_stay(snapshot: Snapshot) -> Checked:
    own = await snapshot.rows(
        "orders", "SELECT orders.id FROM orders JOIN ticket ON ticket.id = ticket_id WHERE seller_id = buyer_id"
    )
    violations = [Violation(f"order {row['id']}", "is by the ticket's own seller") for row in own]
    for service, kind in (("tickets", "ticket"), ("orders", "order")):
        moved = await snapshot.rows(
            service,
            """
            SELECT aggregate FROM outbox WHERE version IS NOT NULL
            GROUP BY aggregate HAVING count(DISTINCT data::jsonb ->> 'userId') > 1
            """,
        )
        violations += [Violation(f"{kind} {row['aggregate']}", "changed its owner") for row in moved]
    for payment in snapshot.payments.values():
        order = snapshot.orders.get(payment["order_id"])
        if order is not None and order["buyer_id"] != payment["buyer_id"]:
            violations.append(Violation(f"payment {payment['id']}", "is not by the order's buyer"))
    return len(snapshot.orders) + len(snapshot.payments), violations
