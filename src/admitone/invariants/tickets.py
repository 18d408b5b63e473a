"""Invariants of tickets: locks match orders, and the price shown is the price charged."""

from collections.abc import Iterator, Mapping
from uuid import UUID

from admitone.invariants.findings import Checked, Violation, once_settled
from admitone.invariants.snapshot import LIVE, Snapshot


@once_settled("I7", "a ticket is sold exactly when its order is complete, and locked exactly by a live order")
async def _locks_match_orders(snapshot: Snapshot) -> Checked:
    return len(snapshot.tickets), _mismatches(snapshot)


def _mismatches(snapshot: Snapshot) -> Iterator[Violation]:
    for ticket in snapshot.tickets.values():
        if ticket["status"] == "available":
            continue
        holder = snapshot.orders.get(ticket["order_id"])
        allowed = {"complete"} if ticket["status"] == "sold" else LIVE
        if holder is None or holder["ticket_id"] != ticket["id"]:
            yield Violation(f"ticket {ticket['id']}", f"is {ticket['status']} for an order that is not its own")
        elif holder["status"] not in allowed:
            name = f"order {holder['id']}, which is {holder['status']}"
            yield Violation(f"ticket {ticket['id']}", f"is {ticket['status']} for {name}")
    for order in snapshot.orders.values():
        if order["status"] == "cancelled":
            continue
        wanted = "sold" if order["status"] == "complete" else "reserved"
        its = snapshot.tickets.get(order["ticket_id"])
        if its is None or (its["status"], its["order_id"]) != (wanted, order["id"]):
            yield Violation(f"order {order['id']}", f"is {order['status']}, and its ticket is not {wanted} for it")


@once_settled("I10", "the price charged is the price shown, and a locked ticket is not edited")
async def _prices_hold(snapshot: Snapshot) -> Checked:
    edited = await snapshot.rows(
        "tickets",
        """
        SELECT aggregate, version FROM (
            SELECT aggregate, version, fact, lag(fact) OVER (PARTITION BY aggregate ORDER BY version) AS before
            FROM (SELECT aggregate, version, data::jsonb AS fact FROM outbox
                  WHERE type IN ('TicketCreated', 'TicketUpdated')) AS tickets
        ) AS changes
        WHERE (before ->> 'status' <> 'available' OR (before IS NOT NULL AND fact ->> 'status' <> 'available'))
          AND (fact ->> 'title', fact ->> 'priceCents', fact ->> 'currency')
              IS DISTINCT FROM (before ->> 'title', before ->> 'priceCents', before ->> 'currency')
        """,
    )
    offered = await snapshot.rows(
        "tickets",
        """
        SELECT aggregate, version, (data::jsonb ->> 'priceCents')::bigint AS price_cents
        FROM outbox JOIN unnest($1::uuid[], $2::integer[]) AS made (aggregate, version) USING (aggregate, version)
        WHERE type IN ('TicketCreated', 'TicketUpdated')
        """,
        [order["ticket_id"] for order in snapshot.orders.values()],
        [order["ticket_version"] for order in snapshot.orders.values()],
    )
    prices = {(row["aggregate"], row["version"]): row["price_cents"] for row in offered}
    violations = [
        Violation(f"ticket {row['aggregate']}", f"was edited while it was locked, in version {row['version']}")
        for row in edited
    ]
    violations += _changed_prices(snapshot, prices)
    return len(snapshot.orders), violations


def _changed_prices(snapshot: Snapshot, offered: Mapping[tuple[UUID, int], int]) -> Iterator[Violation]:
    for order in snapshot.orders.values():
        price_cents = offered.get((order["ticket_id"], order["ticket_version"]))
        if price_cents is not None and price_cents != order["price_cents"]:
            yield Violation(f"order {order['id']}", "has another price than its ticket had")
        ticket = snapshot.tickets.get(order["ticket_id"])
        if ticket is not None and ticket["order_id"] == order["id"] and ticket["price_cents"] != order["price_cents"]:
            yield Violation(f"order {order['id']}", "has another price than the ticket locked for it")
    for record in snapshot.history:
        made = snapshot.orders.get(record.order) if record.order else None
        if made is not None and record.price_cents not in {None, made["price_cents"]}:
            yield Violation(f"order {record.order}", "has another price than its buyer was shown")
