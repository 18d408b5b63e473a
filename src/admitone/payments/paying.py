"""The two decisions of a payment: may it begin, and what follows from what Stripe said.

Both are made for many payments at once, in one transaction each time, under the locks of their orders.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal
from uuid import UUID

import msgspec

from admitone.kernel import ids
from admitone.kernel.database.pool import Database, Transaction
from admitone.kernel.errors import IdempotencyKeyReused, Refusal
from admitone.kernel.tracing import current_traceparent, trace_span
from admitone.payments import store
from admitone.payments.model import (
    LEASE_SECONDS,
    BeingPaid,
    Finding,
    NoAttemptsLeft,
    NoSuchOrder,
    NotYourOrder,
    Order,
    OrderHasExpired,
    OrderIsCancelled,
    Payment,
)

# The background job that carries out what is wanted; see `jobs.py`.
SETTLING = "settle payments"


@dataclass(frozen=True)
class Ask:
    """A buyer wants to pay an order with a card."""

    order_id: UUID
    user_id: UUID
    token: str
    key: str | None
    traceparent: str | None = None


@dataclass(frozen=True)
class Begun:
    """What may happen now: pay (`new`), follow the same payment (`same`), or wait until another is given up (`other`).

    A refusal says no instead.
    """

    payment: Payment | None = None
    kind: Literal["new", "same", "other"] = "new"
    refusal: type[Refusal] | None = None


@dataclass(frozen=True)
class Learnt:
    """Stripe said something about a payment."""

    payment_id: UUID
    finding: Finding


async def begin(database: Database, asks: Sequence[Ask], attempts_max: int) -> list[Begun]:
    """Begin a payment for each ask that may have one, before Stripe is asked anything."""
    async with database.transaction() as tx:
        orders = await store.orders_for_change(tx, [ask.order_id for ask in asks])
        keyed = [ask for ask in asks if ask.key is not None]
        found = await store.payments_of(tx, list(orders))
        if keyed:
            found += await store.payments_by_key(tx, [ask.user_id for ask in keyed], [ask.key for ask in keyed])
        known = {payment.id: payment for payment in found}
        changed: dict[UUID, Payment] = {}
        added: list[Payment] = []
        answers = []
        for ask in asks:
            begun = _decide(ask, orders.get(ask.order_id), list(known.values()), attempts_max, tx)
            if begun.payment is not None:
                if begun.kind == "new":
                    added.append(begun.payment)
                elif begun.payment is not known[begun.payment.id]:
                    changed[begun.payment.id] = begun.payment
                known[begun.payment.id] = begun.payment
            answers.append(begun)
        if added:
            await store.add_payments(tx, added)
        if changed:
            await store.save_payments(tx, list(changed.values()))
            tx.wake(SETTLING)
    return answers


def _decide(ask: Ask, order: Order | None, known: Sequence[Payment], attempts_max: int, tx: Transaction) -> Begun:
    if order is None:
        return Begun(refusal=NoSuchOrder)
    if order.user_id != ask.user_id:
        return Begun(refusal=NotYourOrder)
    attempts = [payment for payment in known if payment.order_id == order.id]
    if (repeated := _repeated(ask, known, attempts)) is not None:
        return repeated
    if order.status == "cancelled":
        return Begun(refusal=OrderIsCancelled)
    if live := [payment for payment in attempts if payment.is_live]:
        return _beside(live[0], tx)
    if not order.is_payable(tx.now):
        return Begun(refusal=OrderHasExpired)
    if attempts_left(attempts, attempts_max) == 0:
        return Begun(refusal=NoAttemptsLeft)
    return Begun(
        Payment(
            id=ids.new_id(),
            order_id=order.id,
            attempt=len(attempts) + 1,
            user_id=order.user_id,
            amount_cents=order.price_cents,
            currency=order.currency,
            token=ask.token,
            request_key=ask.key,
            traceparent=ask.traceparent,
            created_at=tx.now,
            due_at=tx.now + timedelta(seconds=LEASE_SECONDS),
        )
    )


def _repeated(ask: Ask, known: Sequence[Payment], attempts: Sequence[Payment]) -> Begun | None:
    """Find the payment that this ask began before: by its key, or because it asks for the very same."""
    for payment in known:
        if ask.key is not None and (payment.user_id, payment.request_key) == (ask.user_id, ask.key):
            is_same = (payment.order_id, payment.token) == (ask.order_id, ask.token)
            return Begun(payment, "same") if is_same else Begun(refusal=IdempotencyKeyReused)
    for payment in attempts:
        if payment.is_live and payment.wanted in {None, "capture"} and payment.token == ask.token:
            return Begun(payment, "same")
    return None


def _beside(live: Payment, tx: Transaction) -> Begun:
    """Another card, while a payment is under way: only one that still waits for the buyer can be given up for it."""
    if live.state == "requires_action":
        return Begun(live.to_give_up(tx.now), "other")
    return Begun(live, "other") if live.wanted == "void" else Begun(refusal=BeingPaid)


def attempts_left(attempts: Sequence[Payment], attempts_max: int) -> int:
    """Return how many more attempts an order may have: each that failed counts, one that was given up does not."""
    return max(0, attempts_max - sum(payment.state == "failed" for payment in attempts))


async def learn(database: Database, learnt: Sequence[Learnt], attempts_max: int) -> list[Payment]:
    """Bring payments to where Stripe says they are, and tell what follows; return them as they are then."""
    async with database.transaction() as tx:
        return await learn_within(tx, learnt, attempts_max)


async def learn_within(tx: Transaction, learnt: Sequence[Learnt], attempts_max: int) -> list[Payment]:
    """Do what `learn` does, inside a transaction of the caller's."""
    order_ids = await store.order_of_payment(tx, [each.payment_id for each in learnt])
    orders = await store.orders_for_change(tx, list(order_ids.values()))
    known = {payment.id: payment for payment in await store.payments_of(tx, list(orders))}
    changed: dict[UUID, Payment] = {}
    answers = []
    for each in learnt:
        before = known[each.payment_id]
        attempts = [payment for payment in known.values() if payment.order_id == before.order_id]
        after, told = before.learn(
            each.finding, orders[before.order_id], tx.now, is_last=attempts_left(attempts, attempts_max) <= 1
        )
        with trace_span(after.traceparent, "payments learns of a payment"):
            for event in told:
                tx.publish(event)
        if after != before:
            known[after.id] = changed[after.id] = after
            if after.due_at is not None and after.due_at <= tx.now:
                tx.wake(SETTLING)
        answers.append(after)
    if changed:
        await store.save_payments(tx, list(changed.values()))
    return answers


async def give_up(tx: Transaction, payments: Sequence[Payment]) -> None:
    """Want payments back whose order's row is locked; the background job does it after the commit."""
    changed = [
        msgspec.structs.replace(after, traceparent=current_traceparent())
        for payment in payments
        if (after := payment.to_give_up(tx.now)) != payment
    ]
    if changed:
        await store.save_payments(tx, changed)
        tx.wake(SETTLING)
