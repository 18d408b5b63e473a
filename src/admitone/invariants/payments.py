"""Invariants of money: every charge belongs to its order, once, and no authorisation stays open."""

from collections import Counter
from collections.abc import Iterator
from uuid import UUID

from admitone.invariants.findings import Checked, Violation, always, once_settled
from admitone.invariants.instants import CHARGED_ONCE, charge_problem
from admitone.invariants.snapshot import LIVE, Rows, Snapshot


@once_settled("I2", "every charge belongs to an order that is paid for, with its amount, currency and buyer")
async def _every_charge_has_its_order(snapshot: Snapshot) -> Checked:
    violations = [
        Violation(charge.name, problem)
        for charge in snapshot.charges
        if (problem := charge_problem(charge, snapshot.orders.get(charge.order_id))) is not None
    ]
    return len(snapshot.charges), violations


@always("I3", "at most one charge per order")
async def _one_charge_per_order(snapshot: Snapshot) -> Checked:
    taken = Counter(each.order_id for each in snapshot.intents or () if each.taken_cents)
    violations = [
        Violation(f"order {order_id}", f"was charged {count} times") for order_id, count in taken.items() if count > 1
    ]
    charged = {charge.order_id for charge in snapshot.charges}
    return len(charged), [*await CHARGED_ONCE.violations(snapshot), *violations]


@once_settled("I4", "every complete order was paid for")
async def _complete_orders_are_paid_for(snapshot: Snapshot) -> Checked:
    complete = [order for order in snapshot.orders.values() if order["status"] == "complete"]
    return len(complete), _unpaid(snapshot, complete)


def _unpaid(snapshot: Snapshot, complete: Rows) -> Iterator[Violation]:
    taken = {each.payment_id for each in snapshot.intents or () if each.status == "succeeded"}
    for order in complete:
        payment = snapshot.payments.get(order["payment_id"])
        if payment is None or payment["order_id"] != order["id"]:
            yield Violation(f"order {order['id']}", "is complete without a payment")
        elif payment["state"] not in {"captured", "refunded"}:
            yield Violation(f"order {order['id']}", f"is complete, and its payment is {payment['state']}")
        elif snapshot.intents is not None and payment["id"] not in taken:
            yield Violation(f"order {order['id']}", "is complete, and the provider took no money for it")


@once_settled("I5", "no authorisation stays open once its order is settled")
async def _no_forgotten_authorisation(snapshot: Snapshot) -> Checked:
    ours = [
        (f"payment {each['id']}", each["order_id"])
        for each in snapshot.payments.values()
        if each["state"] == "authorized"
    ]
    theirs = [
        (f"authorisation {each.id}", each.order_id)
        for each in snapshot.intents or ()
        if each.status == "requires_capture"
    ]
    violations = [
        Violation(name, f"is open, and its order {order_id} is {_status(snapshot, order_id)}")
        for name, order_id in ours + theirs
        if _status(snapshot, order_id) not in LIVE
    ]
    return len(ours + theirs), violations


def _status(snapshot: Snapshot, order_id: UUID) -> str:
    order = snapshot.orders.get(order_id)
    return "unknown" if order is None else str(order["status"])
