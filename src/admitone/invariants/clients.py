"""The invariant of responses: what succeeded for a client is there, what was refused had no effect."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from admitone.invariants.findings import Checked, Violation, once_settled
from admitone.invariants.snapshot import Snapshot

_STORED_RESPONSES = {
    service: f"""
        SELECT response.body::jsonb ->> 'id' AS id, kept.id IS NULL AS is_gone
        FROM idempotent_response AS response
        LEFT JOIN {table} AS kept ON kept.id = (response.body::jsonb ->> 'id')::uuid
        WHERE response.status = 201
    """  # noqa: S608 – two constants
    for service, table in (("tickets", "ticket"), ("orders", "orders"))
}


@once_settled("I9", "what succeeded is there; what was refused had no effect")
async def _responses_are_true(snapshot: Snapshot) -> Checked:
    violations: list[Violation] = []
    responses = 0
    for service, sql in _STORED_RESPONSES.items():
        rows = await snapshot.rows(service, sql)
        responses += len(rows)
        violations += [
            Violation(f"{service} {row['id']}", "is in a stored response and is gone") for row in rows if row["is_gone"]
        ]
    accounts = {row["id"] for row in await snapshot.rows("auth", "SELECT id FROM account")}
    violations += _lost_successes(snapshot, accounts)
    violations += _refused_orders(snapshot)
    violations += _refused_tickets(snapshot)
    violations += _refused_charges(snapshot)
    return responses + len(snapshot.history), violations


def _lost_successes(snapshot: Snapshot, accounts: set[UUID]) -> Iterator[Violation]:
    """What succeeded for a client and cannot be found."""
    paid = {(row["order_id"], row["buyer_id"]) for row in snapshot.payments.values()}
    for record in snapshot.history:
        if record.outcome != "answered":
            continue
        ticket = snapshot.tickets.get(record.ticket) if record.ticket else None
        order = snapshot.orders.get(record.order) if record.order else None
        match record.action:
            case "sign up" if record.person not in accounts:
                yield Violation(f"person {record.person}", "signed up and is gone")
            case "list" if ticket is None or ticket["seller_id"] != record.person:
                yield Violation(f"ticket {record.ticket}", "was listed and is gone")
            case "edit" if ticket is None or ticket["version"] < (record.version or 0):
                yield Violation(f"ticket {record.ticket}", f"was edited to version {record.version}, and that is gone")
            case "order" if order is None or (order["buyer_id"], order["ticket_id"]) != (record.person, record.ticket):
                yield Violation(f"order {record.order}", "was made and is gone")
            case "cancel" if order is None or order["status"] != "cancelled":
                yield Violation(f"order {record.order}", "was cancelled and is not")
            case "pay" if (record.order, record.person) not in paid:
                yield Violation(f"order {record.order}", "was paid for, and the payment is gone")
            case _:
                continue


def _refused_orders(snapshot: Snapshot) -> Iterator[Violation]:
    """Orders of people in the history that no response explains: a refusal that had an effect after all."""
    succeeded = {each.order for each in snapshot.history if each.action == "order" and each.outcome == "answered"}
    possible = Counter(
        (each.person, each.ticket) for each in snapshot.history if each.action == "order" and each.outcome == "unknown"
    )
    people = {each.person for each in snapshot.history}
    unexplained = Counter(
        (order["buyer_id"], order["ticket_id"])
        for order in snapshot.orders.values()
        if order["buyer_id"] in people and order["id"] not in succeeded
    )
    for (person, ticket), count in (unexplained - possible).items():
        yield Violation(f"person {person}", f"has {count} refused or unrequested orders for ticket {ticket}")


def _refused_tickets(snapshot: Snapshot) -> Iterator[Violation]:
    listed = [each for each in snapshot.history if each.action == "list"]
    succeeded = {each.ticket for each in listed if each.outcome == "answered"}
    possible = Counter(each.person for each in listed if each.outcome == "unknown")
    people = {each.person for each in listed}
    unexplained = Counter(
        ticket["seller_id"]
        for ticket in snapshot.tickets.values()
        if ticket["seller_id"] in people and ticket["id"] not in succeeded
    )
    for person, count in (unexplained - possible).items():
        yield Violation(f"person {person}", f"has {count} refused or unrequested tickets")


def _refused_charges(snapshot: Snapshot) -> Iterator[Violation]:
    people = {each.person for each in snapshot.history}
    possible = {each.order for each in snapshot.history if each.action == "pay" and each.outcome != "refused"}
    for charge in snapshot.charges:
        order = snapshot.orders.get(charge.order_id)
        if order is not None and order["buyer_id"] in people and charge.order_id not in possible:
            yield Violation(charge.name, f"was taken for order {charge.order_id}, whose every payment was refused")
