"""The two transactions that move payments: begin them for requests, and apply the results that Stripe reports.

Each handles many payments at once: it locks their orders, lets the model decide about each, and saves what changed.
"""

from collections.abc import Sequence
from uuid import UUID

from admitone.kernel.database.pool import Database
from admitone.kernel.errors import Refusal
from admitone.kernel.tracing import trace_span
from admitone.payments import store
from admitone.payments.beginning import Begun, PaymentRequest, attempts_left, begin_payment
from admitone.payments.model import Payment, ProviderResult


async def begin_payments(
    database: Database, requests: Sequence[PaymentRequest], attempts_max: int
) -> list[Begun | Refusal]:
    """Begin a payment for each request that may have one, before anything is sent to Stripe.

    A refusal is returned, not raised, so that it concerns its own request only.
    """
    async with database.transaction() as tx:
        orders = await store.orders_for_change(tx, [request.order_id for request in requests])
        found = await store.payments_of(tx, list(orders))
        if keyed := [request for request in requests if request.idempotency_key is not None]:
            # Two orders may be paid with one key at once: the second waits, and finds the payment of the first.
            await store.lock_keys(tx, keyed)
            found += await store.payments_by_key(tx, keyed)
        known = {payment.id: payment for payment in found}
        added: dict[UUID, Payment] = {}
        changed: dict[UUID, Payment] = {}
        results: list[Begun | Refusal] = []
        for request in requests:
            try:
                begun = begin_payment(request, orders.get(request.order_id), list(known.values()), attempts_max, tx.now)
            except Refusal as refusal:
                results.append(refusal)
                continue
            payment = begun.payment
            if begun.kind == "new":
                added[payment.id] = payment
            elif payment is not known[payment.id]:
                changed[payment.id] = payment
            known[payment.id] = payment
            results.append(begun)
        await store.add_payments(tx, list(added.values()))
        await store.save_payments(tx, list(changed.values()))
    return results


async def apply_results(
    database: Database, results: Sequence[tuple[UUID, ProviderResult]], attempts_max: int
) -> list[Payment]:
    """Apply each payment's result and publish what follows; return the payments as they are afterwards."""
    async with database.transaction() as tx:
        order_ids = await store.orders_of_payments(tx, [payment_id for payment_id, _ in results])
        orders = await store.orders_for_change(tx, order_ids)
        known = {payment.id: payment for payment in await store.payments_of(tx, order_ids)}
        changed: dict[UUID, Payment] = {}
        applied = []
        for payment_id, result in results:
            before = known[payment_id]
            attempts = [payment for payment in known.values() if payment.order_id == before.order_id]
            is_last_attempt = attempts_left(attempts, attempts_max) <= 1
            after, events = before.apply(result, orders[before.order_id], tx.now, is_last_attempt=is_last_attempt)
            with trace_span(after.traceparent, "payments applies a result"):
                for event in events:
                    tx.publish(event)
            if after != before:
                known[payment_id] = changed[payment_id] = after
            applied.append(after)
        await store.save_payments(tx, list(changed.values()))
    return applied
