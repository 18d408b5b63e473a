"""Invariants of tickets: locks match orders, and what is sold is what the buyer saw."""

from collections.abc import Iterator, Mapping
from typing import Final
from uuid import UUID

import msgspec

from admitone.events import Offer, TicketCreated, TicketUpdated
from admitone.invariants.findings import Checked, Violation, once_settled
from admitone.invariants.snapshot import LIVE, Snapshot
from admitone.kernel.database.pool import from_row


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


@once_settled("I10", "an order is for the ticket as its buyer saw it, and a locked ticket is not edited")
async def _offers_hold(snapshot: Snapshot) -> Checked:
    edited = await snapshot.rows(
        "tickets",
        """
        SELECT aggregate, version FROM (
            SELECT aggregate, version, fact, lag(fact) OVER (PARTITION BY aggregate ORDER BY version) AS before
            FROM (SELECT aggregate, version, data::jsonb AS fact FROM outbox
                  WHERE type IN ('TicketCreated', 'TicketUpdated') AND version IS NOT NULL) AS tickets
        ) AS changes
        WHERE (before ->> 'status' <> 'available' OR (before IS NOT NULL AND fact ->> 'status' <> 'available'))
          -- Events of an earlier release lack fields.
          AND EXISTS (
              SELECT FROM jsonb_each(fact) AS is_now JOIN jsonb_each(before) AS was USING (key)
              WHERE key <> ALL ($1::text[]) AND is_now.value <> was.value
          )
        """,
        ["version", "status", "orderId", "userId"],
    )
    offered = await snapshot.rows(
        "tickets",
        """
        SELECT type, data
        FROM outbox JOIN unnest($1::uuid[], $2::integer[]) AS made (aggregate, version) USING (aggregate, version)
        WHERE type IN ('TicketCreated', 'TicketUpdated')
        """,
        [order["ticket_id"] for order in snapshot.orders.values()],
        [order["ticket_version"] for order in snapshot.orders.values()],
    )
    events = [msgspec.json.decode(row["data"], type=_TICKET_EVENTS[row["type"]]) for row in offered]
    violations = [
        Violation(f"ticket {row['aggregate']}", f"was edited while it was locked, in version {row['version']}")
        for row in edited
    ]
    violations += _changed_offers(snapshot, {(event.id, event.version): event for event in events})
    return len(snapshot.orders), violations


_TICKET_EVENTS: Final[Mapping[str, type[TicketCreated | TicketUpdated]]] = {
    "TicketCreated": TicketCreated,
    "TicketUpdated": TicketUpdated,
}


def _changed_offers(
    snapshot: Snapshot, offered: Mapping[tuple[UUID, int], TicketCreated | TicketUpdated]
) -> Iterator[Violation]:
    for order in snapshot.orders.values():
        kept = from_row(Offer, order)
        event = offered.get((order["ticket_id"], order["ticket_version"]))
        if event is not None and (Offer.of(event), event.revision) != (kept, order["ticket_revision"]):
            yield Violation(f"order {order['id']}", "keeps another offer than its ticket had")
        ticket = snapshot.tickets.get(order["ticket_id"])
        if ticket is None or ticket["order_id"] != order["id"]:
            continue
        locked = [ticket[name] for name in ("revision", "price_cents", "currency")]
        if locked != [order[name] for name in ("ticket_revision", "price_cents", "currency")]:
            yield Violation(f"order {order['id']}", "is for another revision than the ticket locked for it")
    for record in snapshot.history:
        made = snapshot.orders.get(record.order) if record.order else None
        if made is not None and record.price_cents not in {None, made["price_cents"]}:
            yield Violation(f"order {record.order}", "has another price than its buyer was shown")
