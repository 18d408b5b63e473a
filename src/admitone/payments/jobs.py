"""What payments does by itself: it carries out what is wanted, works off webhooks, and compares with Stripe's books.

Nothing here holds a transaction open while it waits for Stripe.
"""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

import msgspec
import stripe

from admitone.kernel.database.pool import UNREACHABLE
from admitone.kernel.errors import Unavailable
from admitone.kernel.running import RunningService
from admitone.kernel.tracing import trace_span
from admitone.payments import store
from admitone.payments.gateway import CLOCKS_DIFFER, Gateway, Intent, Told
from admitone.payments.model import Absent, Authorized, Finding, NeedsAction, Order, Payment, Taken, Unknown
from admitone.payments.paying import SETTLING, Learnt
from admitone.payments.resources import LISTENING, Resources
from admitone.payments.store import Webhook

log = logging.getLogger(__name__)

_SWEEP_SECONDS: Final = 1.0
_AT_ONCE: Final = 64

# How long a request to Stripe may still be on its way after we gave up on it.
_ON_ITS_WAY: Final = timedelta(seconds=60)
# Stripe forgets idempotency keys after a day: asking again later would hold the money a second time.
_KEY_HOLDS: Final = timedelta(hours=23)

_WEBHOOKS: Final = 200
# The answer that a webhook overtakes says the same; only when it does not come is the webhook news.
_OVERTAKES_SECONDS: Final = 2.0
# Nobody waits for a webhook: those that come close together are worked off together.
_GATHER_SECONDS: Final = 0.1
_WEBHOOK_DAYS: Final = 30

_RECONCILE_SECONDS: Final = 60.0
_SETTLES_WITHIN: Final = timedelta(seconds=30)
# What a payment in each state may look like at Stripe; anything else is looked at again.
_LOOKS_LIKE: Final = {
    "created": frozenset[str](),
    "requires_action": frozenset({"requires_action"}),
    "authorized": frozenset({"requires_capture"}),
    "captured": frozenset({"succeeded"}),
    "refunded": frozenset({"succeeded"}),
    "voided": frozenset({"canceled"}),
    "failed": frozenset({"canceled"}),
}
_OPEN_AT_STRIPE: Final = frozenset(
    {"requires_payment_method", "requires_confirmation", "requires_action", "requires_capture"}
)


def return_url(service: RunningService[Resources], order_id: UUID) -> str:
    """Return the page that the buyer comes back to from the bank."""
    return f"{service.settings.public_origin}/orders/{order_id}"


# What is wanted.


async def settle_payments(service: RunningService[Resources]) -> None:
    """Look at each payment that is due, woken at once when one is and sweeping for the rest, for ever."""
    alarm = service.database.signal(SETTLING)
    under_way: set[asyncio.Task[None]] = set()
    try:
        while True:
            alarm.clear()
            try:
                taken = await store.take_due(service.database, _AT_ONCE - len(under_way))
            except (Unavailable, *UNREACHABLE) as error:
                log.warning("payments wait for the database", extra={"error": repr(error)})
                taken = []
            for payment, order, now in taken:
                task = asyncio.create_task(_settle(service, payment, order, now))
                under_way.add(task)
                task.add_done_callback(under_way.discard)
            await _until_more(alarm, under_way)
    finally:
        for task in under_way:
            task.cancel()


async def _until_more(alarm: asyncio.Event, under_way: set[asyncio.Task[None]]) -> None:
    """Wait for an alarm or the next sweep, and in any case for a free place."""
    if len(under_way) >= _AT_ONCE:
        await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(alarm.wait(), _SWEEP_SECONDS)


async def _settle(service: RunningService[Resources], payment: Payment, order: Order, now: datetime) -> None:
    with trace_span(payment.traceparent, "payments looks after a payment"):
        try:
            finding = await _ask(service.resources.stripe, payment, order, now, return_url(service, order.id))
            after = await service.resources.learn(Learnt(payment.id, finding))
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("a payment waits for the database", extra={"payment": payment.id, "error": repr(error)})
        except Exception:
            log.exception("a payment could not be settled and is tried again", extra={"payment": payment.id})
        else:
            facts = {"payment": payment.id, "order": payment.order_id, "wanted": payment.wanted, "state": after.state}
            log.info("looked after a payment", extra={**facts, "finding": type(finding).__name__})


async def _ask(gateway: Gateway, payment: Payment, order: Order, now: datetime, url: str) -> Finding:
    """Ask Stripe for what a payment needs next."""
    if payment.stripe_id is None:
        return await _ask_about_unknown(gateway, payment, order, now, url)
    match payment.wanted:
        case "capture":
            return await gateway.capture(payment)
        case "void":
            return await gateway.void(payment)
        case "refund":
            return await gateway.refund(payment)
        case None:
            return await gateway.read(payment)


async def _ask_about_unknown(gateway: Gateway, payment: Payment, order: Order, now: datetime, url: str) -> Finding:
    """Find out what became of a payment whose first answer never came.

    While the order may be paid, asking again under the same key finishes what the buyer began and holds nothing
    twice. Stripe may answer that with the same failure for a day; then, and when the order is over, its books tell.
    Should the first request take effect even later, the webhook and the next comparison find what it holds.
    """
    age = now - payment.created_at
    if payment.state == "created" and payment.wanted is None and order.is_payable(now) and age < _KEY_HOLDS:
        finding = await gateway.authorise(payment, url)
        if isinstance(finding, Authorized | NeedsAction | Taken):
            # What was answered first; much may have happened since.
            return await gateway.read(msgspec.structs.replace(payment, stripe_id=finding.stripe_id))
        if not isinstance(finding, Unknown):
            return finding
    found = await gateway.find(payment)
    return Unknown("it may still be on its way") if isinstance(found, Absent) and age < _ON_ITS_WAY else found


# What Stripe tells.


async def work_off_webhooks(service: RunningService[Resources]) -> None:
    """Work off stored webhooks, woken when one came and sweeping for the rest, for ever.

    A webhook is never believed: when it says something new, its payment is looked at again at Stripe.
    """
    alarm = service.database.signal(LISTENING)
    while True:
        alarm.clear()
        try:
            while await _work_off_some(service) == _WEBHOOKS:
                pass
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("webhooks wait for the database", extra={"error": repr(error)})
        await asyncio.sleep(_GATHER_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(alarm.wait(), _SWEEP_SECONDS)


async def _work_off_some(service: RunningService[Resources]) -> int:
    """Work off what can be; return how many were done."""
    database = service.database
    waiting = await store.waiting_webhooks(database, _WEBHOOKS)
    if not waiting:
        return 0
    told = [msgspec.json.decode(each.body, type=Told) for each in waiting]
    by_id, by_stripe_id = await store.payments_at_stripe(
        database,
        [payment_id for each in told if (payment_id := _payment_id(each.intent)) is not None],
        [intent_id for each in told if (intent_id := each.intent_id) is not None],
    )
    livemode = service.resources.stripe.livemode
    done: list[tuple[int, str]] = []
    news: list[UUID] = []
    for webhook, each in zip(waiting, told, strict=True):
        payment = by_stripe_id.get(each.intent_id or "") or by_id.get(_payment_id(each.intent) or UUID(int=0))
        finding = _judge(webhook, each, payment, livemode=livemode)
        if finding is None:
            continue
        done.append((webhook.number, finding))
        if finding == "news" and payment is not None:
            news.append(payment.id)
        elif finding not in {"known", "unknown object"}:
            log.error("a webhook is not believed", extra={"event": each.id, "mismatch": finding})
    if done:
        async with database.transaction() as tx:
            await store.finish_webhooks(tx, [number for number, _ in done], [finding for _, finding in done])
            if news:
                await store.look_again(tx, news)
                tx.wake(SETTLING)
    return len(done)


def _judge(webhook: Webhook, told: Told, payment: Payment | None, *, livemode: bool) -> str | None:
    """Return what a webhook comes to; None while the answer it overtook may still come."""
    if payment is None:
        return "unknown object"
    if told.livemode != livemode:
        return "another mode"
    if told.intent is not None and (mismatch := told.intent.mismatch(payment, livemode=livemode)) is not None:
        return mismatch
    if is_known(told, payment):
        return "known"
    is_being_asked = payment.state == "created" or payment.wanted is not None
    return None if is_being_asked and webhook.age_seconds < _OVERTAKES_SECONDS else "news"


def is_known(told: Told, payment: Payment) -> bool:
    """Whether a payment is where this event leads, or beyond."""
    match told.type:
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


def _payment_id(intent: Intent | None) -> UUID | None:
    try:
        return None if intent is None else UUID(intent.metadata.get("payment_id", ""))
    except ValueError:
        return None


# What Stripe's books say.


async def reconcile_payments(service: RunningService[Resources]) -> None:
    """Compare Stripe's list of our intents with our payments, once a minute, for ever.

    Whatever was never told is found here: a lost webhook, an answer that never came, a payment this database forgot.
    """
    while True:
        await asyncio.sleep(_RECONCILE_SECONDS)
        try:
            await reconcile(service)
            await store.forget_webhooks(service.database, _WEBHOOK_DAYS)
        except (TimeoutError, stripe.StripeError, msgspec.MsgspecError, Unavailable, *UNREACHABLE) as error:
            log.warning("payments could not be compared with Stripe's", extra={"error": repr(error)})


async def reconcile(service: RunningService[Resources]) -> int:
    """Compare what was made since the last time and had time to settle; return how many differed."""
    since, now = await store.reconciled_until(service.database)
    until = now - _SETTLES_WITHIN
    differing = 0
    page: list[Intent] = []
    async for intent in service.resources.stripe.intents(since - CLOCKS_DIFFER, until):
        page.append(intent)
        if len(page) == _WEBHOOKS:
            differing += await _compare(service, page)
            page = []
    differing += await _compare(service, page)
    await store.note_reconciled(service.database, until)
    return differing


async def _compare(service: RunningService[Resources], intents: Sequence[Intent]) -> int:
    by_id, by_stripe_id = await store.payments_at_stripe(
        service.database,
        [payment_id for each in intents if (payment_id := _payment_id(each)) is not None],
        [each.id for each in intents],
    )
    differing: list[UUID] = []
    strangers = 0
    for intent in intents:
        payment = by_stripe_id.get(intent.id) or by_id.get(_payment_id(intent) or UUID(int=0))
        if payment is None:
            strangers += 1
            await _close_stranger(service, intent)
        elif payment.wanted is None and intent.status not in _LOOKS_LIKE[payment.state]:
            log.warning(
                "a payment differs from Stripe's",
                extra={"payment": payment.id, "state": payment.state, "at": intent.status},
            )
            differing.append(payment.id)
    if differing:
        async with service.database.transaction() as tx:
            await store.look_again(tx, differing)
            tx.wake(SETTLING)
    return len(differing) + strangers


async def _close_stranger(service: RunningService[Resources], intent: Intent) -> None:
    """An intent of this installation that this database does not know: a restored backup forgot it."""
    facts = {"intent": intent.id, "status": intent.status, "order": intent.metadata.get("order_id")}
    if intent.status in _OPEN_AT_STRIPE:
        log.error("an intent that nobody knows is closed", extra=facts)
        await service.resources.stripe.close_intent(intent)
    elif intent.status != "canceled":
        log.error("money was taken for a payment that nobody knows; people must decide", extra=facts)
