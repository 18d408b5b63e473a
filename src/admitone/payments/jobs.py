"""What payments does in the background: carry out what is wanted, process webhooks, and compare with Stripe's list.

No transaction stays open while a request to Stripe is in progress.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec

from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import Unavailable
from admitone.kernel.running import RunningService
from admitone.kernel.tracing import trace_span
from admitone.payments import store
from admitone.payments.gateway import NO_RESPONSE, Gateway
from admitone.payments.model import (
    Authorized,
    Captured,
    IntentNotFound,
    OrderReplica,
    Payment,
    ProviderResult,
    RequiresAction,
    Unknown,
)
from admitone.payments.resources import Resources
from admitone.payments.store import PROCESS_WEBHOOKS, SETTLE_PAYMENTS, StoredWebhook
from admitone.payments.stripe_objects import PaymentIntent, WebhookEvent

log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 1.0
_IN_PROGRESS_MAX: Final = 64

# How long a request to Stripe may still take effect after its response was given up.
_IN_FLIGHT: Final = timedelta(seconds=60)
# Stripe forgets idempotency keys after a day: the same request would then hold the money a second time.
_KEY_LIFETIME: Final = timedelta(hours=23)

_BATCH: Final = 200
# A webhook may arrive before the response that reports the same; it is checked only if that response does not arrive.
_RESPONSE_SECONDS: Final = 2.0
# Nobody waits for a webhook, so that those which arrive within a moment are processed together.
_GATHER_SECONDS: Final = 0.1
_WEBHOOK_DAYS: Final = 30

_RECONCILE_SECONDS: Final = 60.0
_SETTLES_WITHIN: Final = timedelta(seconds=30)
_PERIOD: Final = timedelta(minutes=10)
# An intent may appear in the list a moment after its time.
_OVERLAP: Final = timedelta(seconds=60)
# The statuses that the intent of a payment may have in each state; with any other the payment is checked.
_STATUSES: Final = {
    "created": frozenset[str](),
    "requires_action": frozenset({"requires_action"}),
    "authorized": frozenset({"requires_capture"}),
    "captured": frozenset({"succeeded"}),
    "refunded": frozenset({"succeeded"}),
    "voided": frozenset({"canceled"}),
    "failed": frozenset({"canceled"}),
}
_CANCELABLE: Final = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
)


def return_url(service: RunningService[Resources], order_id: UUID) -> str:
    """Return the page to which the bank sends the buyer back."""
    return f"{service.settings.public_origin}/orders/{order_id}"


async def _wait_for_signal(signal: asyncio.Event) -> None:
    """Return when the signal is set, or when it is time for the next sweep: another process may have been signalled."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(signal.wait(), _SWEEP_SECONDS)


# What is wanted


async def settle_payments(service: RunningService[Resources]) -> None:
    """Settle each payment that is due."""
    signal = service.database.signal(SETTLE_PAYMENTS)
    in_progress: set[asyncio.Task[None]] = set()
    try:
        while True:
            signal.clear()
            for payment, order, now in await store.take_due(service.database, _IN_PROGRESS_MAX - len(in_progress)):
                task = asyncio.create_task(_settle(service, payment, order, now))
                in_progress.add(task)
                task.add_done_callback(in_progress.discard)
            if len(in_progress) < _IN_PROGRESS_MAX:
                await _wait_for_signal(signal)
            else:
                await asyncio.wait(in_progress, return_when=asyncio.FIRST_COMPLETED)
    except (Unavailable, *UNREACHABLE):
        # Results of requests that were sent already may still be saved.
        await asyncio.gather(*in_progress)
        raise
    finally:
        for task in in_progress:
            task.cancel()


async def _settle(service: RunningService[Resources], payment: Payment, order: OrderReplica, now: datetime) -> None:
    """Request what a payment needs and apply the result; without one it stays due, and another try follows."""
    facts = {"payment": payment.id, "order": payment.order_id, "wanted": payment.wanted}
    with trace_span(payment.traceparent, "payments settles a payment"):
        try:
            result = await _request(service.resources.gateway, payment, order, now, return_url(service, order.id))
            after = await service.resources.apply((payment.id, result))
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("the database is unreachable; a payment waits", extra={**facts, "error": repr(error)})
        except Exception:
            log.exception("a payment could not be settled and is tried again", extra=facts)
        else:
            log.info("a result was applied", extra={**facts, "state": after.state, "result": type(result).__name__})


async def _request(gateway: Gateway, payment: Payment, order: OrderReplica, now: datetime, url: str) -> ProviderResult:
    """Send to Stripe what a payment needs next."""
    if payment.stripe_id is None:
        return await _request_unknown(gateway, payment, order, now, url)
    match payment.wanted:
        case "capture":
            return await gateway.capture(payment)
        case "void":
            return await gateway.void(payment)
        case "refund":
            return await gateway.refund(payment)
        case None:
            return await gateway.retrieve(payment)


async def _request_unknown(
    gateway: Gateway, payment: Payment, order: OrderReplica, now: datetime, url: str
) -> ProviderResult:
    """Find out what happened to a payment whose first response never arrived.

    While the order may be paid, the same request with the same key completes what the buyer began and holds nothing
    twice. Stripe may repeat an internal error under that key for a day; then, or if the order is over, its list
    decides. If the first request takes effect even later, the webhook or the next comparison finds what it holds.
    """
    age = now - payment.created_at
    if payment.state == "created" and payment.wanted is None and order.is_payable(now) and age < _KEY_LIFETIME:
        result = await gateway.authorize(payment, url)
        if isinstance(result, Authorized | RequiresAction | Captured):
            # This repeats the first response; much may have happened since.
            return await gateway.retrieve(msgspec.structs.replace(payment, stripe_id=result.stripe_id))
        if not isinstance(result, Unknown):
            return result
    found = await gateway.find(payment, age)
    return Unknown("it may still be in flight") if isinstance(found, IntentNotFound) and age < _IN_FLIGHT else found


# Webhooks


async def process_webhooks(service: RunningService[Resources]) -> None:
    """Process stored webhooks.

    A webhook is not trusted: if it reports something new, its payment is checked at Stripe.
    """
    signal = service.database.signal(PROCESS_WEBHOOKS)
    while True:
        signal.clear()
        while await _process_batch(service) == _BATCH:
            pass
        await asyncio.sleep(_GATHER_SECONDS)
        await _wait_for_signal(signal)


async def _process_batch(service: RunningService[Resources]) -> int:
    """Process webhooks and return how many are finished."""
    webhooks = await store.unprocessed_webhooks(service.database, _BATCH)
    if not webhooks:
        return 0
    events = [msgspec.json.decode(webhook.body, type=WebhookEvent) for webhook in webhooks]
    payments = await _payments_of(
        service, [(event.intent_id, event.intent.payment_id if event.intent else None) for event in events]
    )
    outcomes: list[tuple[int, str]] = []
    to_check: list[UUID] = []
    for webhook, event, payment in zip(webhooks, events, payments, strict=True):
        outcome = _outcome(webhook, event, payment, service.resources.gateway)
        if outcome is None:
            continue
        outcomes.append((webhook.number, outcome))
        if outcome == "checked" and payment is not None:
            to_check.append(payment.id)
        elif outcome not in {"known", "unknown object"}:
            log.error("a webhook is not trusted", extra={"event": event.id, "mismatch": outcome})
    if outcomes:
        async with service.database.transaction() as tx:
            await store.finish_webhooks(tx, outcomes)
            if to_check:
                await store.make_due(tx, to_check)
    return len(outcomes)


async def _payments_of(
    service: RunningService[Resources], ids: Sequence[tuple[str | None, UUID | None]]
) -> list[Payment | None]:
    """Return the payment for each pair of an id at Stripe and an id of ours; an id at Stripe takes precedence."""
    by_id, by_stripe_id = await store.payments_at_stripe(
        service.database,
        [payment_id for _, payment_id in ids if payment_id is not None],
        [stripe_id for stripe_id, _ in ids if stripe_id is not None],
    )
    return [by_stripe_id.get(stripe_id or "") or by_id.get(payment_id or UUID(int=0)) for stripe_id, payment_id in ids]


def _outcome(webhook: StoredWebhook, event: WebhookEvent, payment: Payment | None, gateway: Gateway) -> str | None:
    """Return the outcome of processing a webhook; None while the response that reports the same may still arrive."""
    if payment is None:
        return "unknown object"
    if event.livemode != gateway.livemode:
        return "mode differs"
    if event.intent is not None and (mismatch := gateway.mismatch(payment, event.intent)) is not None:
        return mismatch
    if is_known(event, payment):
        return "known"
    awaits_response = payment.state == "created" or payment.wanted is not None
    return None if awaits_response and webhook.age_seconds < _RESPONSE_SECONDS else "checked"


def is_known(event: WebhookEvent, payment: Payment) -> bool:
    """Whether a payment has reached the state that this event reports, or a later one."""
    match event.type:
        case "payment_intent.amount_capturable_updated":
            return payment.state in {"authorized", "captured", "refunded"} or payment.wanted == "void"
        case "payment_intent.succeeded":
            return payment.state in {"captured", "refunded"}
        case "payment_intent.canceled":
            return payment.state in {"voided", "failed"} and payment.wanted is None
        case "payment_intent.payment_failed":
            return payment.state in {"failed", "voided"}
        case "charge.refunded":
            return payment.state == "refunded"
        case _:
            return True


# The comparison with Stripe's list


async def reconcile_payments(service: RunningService[Resources]) -> None:
    """Compare Stripe's list of our intents with our payments once a minute.

    This finds what nothing else reports: a lost webhook, a response that never arrived, a payment this database lost.
    """
    while True:
        await asyncio.sleep(_RECONCILE_SECONDS)
        await store.delete_old_webhooks(service.database, _WEBHOOK_DAYS)
        try:
            await reconcile(service)
        except NO_RESPONSE as error:
            log.warning("payments could not be compared with Stripe's list", extra={"error": repr(error)})
        await review_unknown_intents(service)


async def reconcile(service: RunningService[Resources]) -> int:
    """Compare the intents created since the last comparison that had time to settle; return how many differed.

    Times are by Stripe's clock. Each period that was compared is saved, so that a failure costs no more than one.
    """
    gateway = service.resources.gateway
    await gateway.check_account()
    since = await store.reconciled_until(service.database)
    end = gateway.now() - _SETTLES_WITHIN
    differing = 0
    while True:
        until = min(since + _PERIOD, end)
        intents, after = await gateway.intents(since - _OVERLAP, until)
        differing += await _compare(service, intents)
        while after is not None:
            intents, after = await gateway.intents(since - _OVERLAP, until, after)
            differing += await _compare(service, intents)
        await store.save_reconciled_until(service.database, until)
        if until == end:
            return differing
        since = until


async def _compare(service: RunningService[Resources], intents: Sequence[PaymentIntent]) -> int:
    payments = await _payments_of(service, [(intent.id, intent.payment_id) for intent in intents])
    to_check: list[UUID] = []
    unknown: list[tuple[str, datetime]] = []
    for intent, payment in zip(intents, payments, strict=True):
        if payment is None and not intent.is_over:
            about = {"intent": intent.id, "status": intent.status, "order": intent.metadata.get("order_id")}
            log.error("no payment knows an intent of this installation; an operator must decide", extra=about)
            unknown.append((intent.id, datetime.fromtimestamp(intent.created, UTC)))
        elif payment is not None and payment.wanted is None and intent.status not in _STATUSES[payment.state]:
            facts = {"payment": payment.id, "state": payment.state, "status": intent.status}
            log.warning("a payment differs from its intent", extra=facts)
            to_check.append(payment.id)
    if to_check:
        async with service.database.transaction() as tx:
            await store.make_due(tx, to_check)
    if unknown:
        await store.add_unknown_intents(service.database, unknown)
    return len(to_check) + len(unknown)


async def review_unknown_intents(service: RunningService[Resources]) -> None:
    """Look again at each intent that no payment knows; rebuild its payment or cancel it if an operator allowed that."""
    last = ""
    while found := await store.unknown_intents_after(service.database, last, _BATCH):
        for stripe_id, may_cancel in found:
            try:
                await _review(service, stripe_id, may_cancel=may_cancel)
            except NO_RESPONSE as error:
                facts = {"intent": stripe_id, "error": repr(error)}
                log.warning("an intent that no payment knows could not be reviewed", extra=facts)
            last = stripe_id


async def _review(service: RunningService[Resources], stripe_id: str, *, may_cancel: bool) -> None:
    intent = await service.resources.gateway.intent(stripe_id)
    if may_cancel and not intent.is_over and await _rebuild(service, intent):
        log.warning("the payment of an intent is rebuilt", extra={"intent": stripe_id, "payment": intent.payment_id})
    elif may_cancel and intent.status in _CANCELABLE:
        log.warning("an intent that no payment knows is canceled", extra={"intent": stripe_id})
        await service.resources.gateway.cancel_intent(intent)
    elif not intent.is_over:
        return
    await store.delete_unknown_intent(service.database, stripe_id)


async def _rebuild(service: RunningService[Resources], intent: PaymentIntent) -> bool:
    """Rebuild the payment of an intent if its order can still be paid by it; its present state is read soon after."""
    order_id, payment_id = intent.order_id, intent.payment_id
    if order_id is None or payment_id is None:
        return False
    async with service.database.transaction() as tx:
        order = (await store.orders_for_change(tx, [order_id])).get(order_id)
        known = await store.payments_of(tx, [order_id])
        if order is None or order.status == "cancelled" or any(each.is_live for each in known):
            return False
        created_at = datetime.fromtimestamp(intent.created, UTC)
        price = (intent.amount, intent.currency)
        payment = Payment.rebuilt(payment_id, order_id, order.buyer_id, price, created_at, known)
        if service.resources.gateway.mismatch(payment, intent) is not None:
            return False
        await store.add_payments(tx, [payment])
        await store.save_payments(tx, [msgspec.structs.replace(payment, stripe_id=intent.id, due_at=tx.now)])
    return True
