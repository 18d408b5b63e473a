"""The invariant of replicas: what services know of each other's data equals its source."""

from collections.abc import Callable, Iterator, Mapping
from uuid import UUID

import asyncpg

from admitone.events import SessionRevoked
from admitone.invariants.findings import Checked, Violation, once_settled
from admitone.invariants.snapshot import TICKET_COLUMNS, Snapshot


@once_settled("I8", "every replica equals its source")
async def _replicas_equal_their_source(snapshot: Snapshot) -> Checked:
    tickets = {row["id"]: row for row in await snapshot.rows("orders", f"SELECT {TICKET_COLUMNS} FROM ticket")}  # noqa: S608
    orders = {
        row["id"]: row
        for row in await snapshot.rows(
            "payments", "SELECT id, status, buyer_id, price_cents, currency, expires_at FROM orders"
        )
    }
    deadlines = {row["order_id"]: row for row in await snapshot.rows("expiration", "SELECT * FROM deadline")}
    violations = [
        *_differences("ticket", "orders", snapshot.tickets, tickets),
        *_differences("order", "payments", snapshot.orders, orders, source_value=_as_payments_knows_it),
        *_wrong_deadlines(snapshot, deadlines),
        *await _missing_revocations(snapshot),
    ]
    return len(snapshot.tickets) + 2 * len(snapshot.orders), violations


def _differences(
    kind: str,
    service: str,
    sources: Mapping[UUID, asyncpg.Record],
    replicas: Mapping[UUID, asyncpg.Record],
    source_value: Callable[[asyncpg.Record, str], object] = lambda row, column: row[column],
) -> Iterator[Violation]:
    for missing in sources.keys() - replicas.keys():
        yield Violation(f"{kind} {missing}", f"is unknown to {service}")
    for invented in replicas.keys() - sources.keys():
        yield Violation(f"{kind} {invented}", f"is known to {service} and does not exist")
    for shared in sources.keys() & replicas.keys():
        source, replica = sources[shared], replicas[shared]
        columns = [column for column, value in replica.items() if source_value(source, column) != value]
        if columns:
            yield Violation(f"{kind} {shared}", f"has another {', '.join(columns)} at {service}")


def _as_payments_knows_it(order: asyncpg.Record, column: str) -> object:
    # Payments does not subscribe to the completion of an order, which follows its own event.
    value = order[column]
    return "awaiting:payment" if (column, value) == ("status", "complete") else value


def _wrong_deadlines(snapshot: Snapshot, deadlines: Mapping[UUID, asyncpg.Record]) -> Iterator[Violation]:
    for order in snapshot.orders.values():
        deadline = deadlines.get(order["id"])
        if order["status"] != "created":
            if deadline is not None:
                yield Violation(f"order {order['id']}", f"is {order['status']} and still has a deadline at expiration")
        elif deadline is None:
            yield Violation(f"order {order['id']}", "has no deadline at expiration")
        elif deadline["expires_at"] != order["expires_at"]:
            yield Violation(f"order {order['id']}", "has another deadline at expiration")


async def _missing_revocations(snapshot: Snapshot) -> list[Violation]:
    ended = {
        row["id"]
        for row in await snapshot.rows(
            "auth",
            "SELECT id FROM session WHERE ended_at IS NOT NULL AND expires_at > instant() + interval '1 minute'",
        )
    }
    violations = []
    # A service without routes subscribes to no revocations.
    for service in [each for each in snapshot.services if SessionRevoked in each.subscriptions]:
        revoked = {
            row["session_id"] for row in await snapshot.rows(service.name, "SELECT session_id FROM revoked_session")
        }
        violations += [
            Violation(f"session {each}", f"has ended, and {service.name} accepts it") for each in ended - revoked
        ]
    return violations
