"""Bugs on purpose: each takes one defence away while seeds run, and the simulator has to notice.

A defence that another one stands behind is taken away together with it: `and` in the name, and beside it what each of
the two is for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from admitone.events import OrderCreated
from admitone.expiration import store as expiration_store
from admitone.kernel.database.pool import Transaction
from admitone.kernel.http import idempotency
from admitone.kernel.messaging import inbox, outbox, replicas
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.inbox import BatchHandler, Inbox
from admitone.orders import handlers as order_handlers
from admitone.orders import jobs as order_jobs
from admitone.orders import store as order_store
from admitone.orders.model import Order
from admitone.orders.service import SERVICE as ORDERS
from admitone.payments import handlers as payment_handlers
from admitone.payments import jobs as payment_jobs
from admitone.payments import store as payment_store
from admitone.payments.model import Payment
from admitone.payments.service import SERVICE as PAYMENTS
from admitone.tickets import handlers as ticket_handlers
from admitone.tickets.model import Ticket
from admitone.tickets.service import SERVICE as TICKETS
from proof.simulation import faults
from proof.simulation.bus import BusOfProcess
from proof.simulation.engine import Engine

Mutate = Callable[[Engine], Any]
MUTANTS: Final[dict[str, Mutate]] = {}


def _mutant(name: str) -> Callable[[Callable[[Engine], Iterator[None]]], Mutate]:
    def declare(mutate: Callable[[Engine], Iterator[None]]) -> Mutate:
        MUTANTS[name] = contextmanager(mutate)
        return MUTANTS[name]

    return declare


@contextmanager
def _replaced(*changes: tuple[Any, Any, Any]) -> Iterator[None]:
    """Set attributes (or, in a mapping, entries) for as long as the block lasts."""
    with ExitStack() as undo:
        for owner, name, value in changes:
            if isinstance(owner, dict):
                undo.callback(owner.__setitem__, name, owner[name])
                owner[name] = value
            else:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
        yield


def _plain(name: str, *changes: tuple[Any, Any, Any]) -> None:
    """Declare a mutant that is nothing but attributes."""

    def mutate(_engine: Engine) -> Iterator[None]:
        with _replaced(*changes):
            yield

    _mutant(name)(mutate)


async def _nothing(*_: object, **__: object) -> None:
    return None


# What tickets, orders and payments decide.


@_mutant("no unique index: two live orders for a ticket")
def _no_unique_index(engine: Engine) -> Iterator[None]:
    owner = engine.stores["orders"].owner
    engine.driver.run(owner.execute("DROP INDEX one_live_order_per_ticket"))
    without = order_store._RESERVE.replace(
        "ON CONFLICT (ticket_id) WHERE status IN ('created', 'awaiting:payment', 'complete') DO NOTHING", ""
    )
    try:
        with _replaced((order_store, "_RESERVE", without)):
            yield
    finally:
        engine.driver.run(owner.execute("TRUNCATE orders"))
        engine.driver.run(
            owner.execute(
                "CREATE UNIQUE INDEX one_live_order_per_ticket ON orders (ticket_id) "
                "WHERE status IN ('created', 'awaiting:payment', 'complete')"
            )
        )


_plain(
    # It takes an order of which nothing came until another one had the ticket, so what is told is late more often here.
    "the lock is released without looking whose it is",
    (Ticket, "is_reserved_for", lambda self, _order_id: self.status == "reserved"),
    (faults, "_ARE_ON", (0.5,)),
    (faults.CHANCES, "message delayed", 0.5),
)
_plain(
    "the lock is given although the price changed",
    (Ticket, "is_as_ordered", lambda self, _: self.status == "available"),
)
_plain("an order expires whatever the clock says", (Order, "is_overdue", lambda self, _now: self.status == "created"))
_plain("an order expires whatever its status is", (Order, "is_overdue", lambda self, now: self.expires_at <= now))
_plain(
    "a hold is evicted before its deadline",
    (
        order_store,
        "_RESERVE",
        order_store._RESERVE.replace("orders.expires_at <= instant()", "orders.created_at < instant()"),
    ),
)
_plain(
    # A ring that is lost is repeated until the order is over, and orders ends what no ring ended.
    "no alarm is repeated and nobody sweeps",
    (
        expiration_store,
        "_RING",
        expiration_store._RING.replace("instant() + make_interval", "'infinity'::timestamptz + make_interval"),
    ),
    (order_jobs, "_end_some", _nothing),
)


async def _accepts_unconfirmed(tx: Transaction, event: Any) -> None:
    order = await order_store.order_for_change(tx, event.order_id)
    if order is not None and order.accepts(event.user_id, event.amount_cents, event.currency):
        await order_store.save(tx, order.awaiting_payment(event.id))
        return
    await order_handlers.payment_authorized(tx, event)


_heard_by_orders: Any = ORDERS.subscriptions
_heard_by_payments: Any = PAYMENTS.subscriptions
_by_name = {event.__name__: event for event in (*ORDERS.subscriptions, *PAYMENTS.subscriptions)}

_plain(
    "a payment is accepted before the lock is confirmed",
    (_heard_by_orders, _by_name["PaymentAuthorized"], _accepts_unconfirmed),
)


async def _rejects_nothing(tx: Transaction, event: Any) -> None:
    order = await order_store.order_for_change(tx, event.order_id)
    if order is None or order.status == "created":
        await order_handlers.payment_authorized(tx, event)


async def _only_notes_the_end(tx: Transaction, event: Any) -> None:
    if not await payment_store.advance_order(tx, event.id, event.version, "cancelled"):
        await payment_handlers._note_other_version(tx, event.id, event.version)


_plain(
    # Either would do: the end of an order gives back whatever is paid for it. Orders reject late payments all the same
    # because of orders that they do not know: a restored database forgot them, and their end will not be told.
    "a late payment is not rejected and the end of an order gives nothing back",
    (_heard_by_orders, _by_name["PaymentAuthorized"], _rejects_nothing),
    (_heard_by_payments, _by_name["OrderCancelled"], _only_notes_the_end),
)


# Money.


def _captures_at_once(self: Payment, *arguments: Any, **named: Any) -> Payment:
    found = _at_stripe(self, *arguments, **named)
    if found.state == "authorized":
        return msgspec.structs.replace(found, wanted="capture", due_at=arguments[2])
    return found


_at_stripe = Payment.at_stripe
_plain("the money is taken before orders decide", (Payment, "at_stripe", _captures_at_once))
_calls = iter(range(10**9))
_plain(
    "no key for an attempt at the provider",
    (Payment, "provider_key", property(lambda self: f"{self.id} {next(_calls)}")),
)
_plain("nothing that is held is given back", (Payment, "to_give_up", lambda self, _now: self))
_publish = Transaction.publish


def _keeps_quiet_about(name: str) -> Callable[[Transaction, Event], None]:
    def publish(self: Transaction, event: Event) -> None:
        if type(event).__name__ != name:
            _publish(self, event)

    return publish


_plain("a lost hold is told to nobody", (Transaction, "publish", _keeps_quiet_about("PaymentFailed")))
_plain(
    # A hold that takes effect after it was given up is told by a webhook; where that is lost, the books show it.
    "no comparison with the provider's books and no webhook is news",
    (payment_jobs, "reconcile", _nothing),
    (payment_jobs, "is_known", lambda *_: True),
)


async def _advances_anyhow(tx: Transaction, order_id: UUID, version: int, status: str) -> bool:
    await tx.execute("UPDATE orders SET version = $2, status = $3 WHERE id = $1", order_id, version, status)
    return True


_plain("no version guard on the replica of orders", (payment_store, "advance_order", _advances_anyhow))


# Events.


_plain(
    "no version guard on the replica of tickets",
    (
        order_store,
        "_ADVANCE_TICKETS",
        order_store._ADVANCE_TICKETS.replace("ticket.version = told.version - 1", "told.version >= 0"),
    ),
)


async def _load_without_versions(tx: Transaction, events: Sequence[OrderCreated]) -> ticket_handlers.OrderBatch:
    return replace(await ticket_handlers.load_for_created(tx, events), versions={})


_plain(
    # An event that comes again is known by its id, and a beginning that comes again by its order.
    "no inbox and no memory of followed orders",
    (
        inbox,
        "_CONSUME",
        (
            "WITH seen AS (INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING) "
            "SELECT DISTINCT unnest($1::uuid[]) AS id"
        ),
    ),
    (
        TICKETS.subscriptions,
        OrderCreated,
        replace(cast("BatchHandler[Any, Any]", TICKETS.subscriptions[OrderCreated]), load=_load_without_versions),
    ),
    (
        expiration_store,
        "_SET",
        expiration_store._SET.replace(
            "ON CONFLICT DO NOTHING RETURNING aggregate",
            "ON CONFLICT (aggregate) DO UPDATE SET version = aggregate_version.version RETURNING aggregate",
        ),
    ),
)
_save_versions = replicas.save_versions


async def _save_beginnings_only(tx: Transaction, reached: Mapping[UUID, int]) -> None:
    await _save_versions(tx, {aggregate: version for aggregate, version in reached.items() if version == 0})


_plain("the end of an order is not remembered", (replicas, "save_versions", _save_beginnings_only))
_plain(
    "the relay goes by the last number",
    (
        outbox,
        "_UNPUBLISHED",
        outbox._UNPUBLISHED.replace(
            "stream_sequence IS NULL",
            "position > (SELECT coalesce(max(position), 0) FROM outbox WHERE stream_sequence IS NOT NULL)",
        ),
    ),
)
_FORGET_NONE: Final = (
    "UPDATE outbox SET copies = copies WHERE false AND $1::bigint + $2::bigint > 0 AND $3::bigint[] = '{}'"
)
_plain(
    # What was sent once is not sent again, whether it arrived or not: all that an outbox is for.
    "events are published directly and not kept until they have arrived",
    (
        outbox,
        "_UNPUBLISHED",
        (
            "WITH sent AS (UPDATE outbox SET stream_sequence = 0 WHERE stream_sequence IS NULL RETURNING *) "
            "SELECT position, id, type, aggregate, data, traceparent, recorded_at, copies FROM sent "
            "ORDER BY position LIMIT greatest($1, 1000)"
        ),
    ),
    (outbox, "_UNPUBLISH_LOST", _FORGET_NONE),
    (outbox, "_UNPUBLISH_AGGREGATE", f"{outbox._UNPUBLISH_AGGREGATE} AND false"),
)
_plain(
    "no comparison with the stream",
    (outbox, "_UNPUBLISH_LOST", _FORGET_NONE),
)
_plain(
    # Who misses a version asks for it; the producer finds by itself what the stream has lost.
    "no gap is asked for and single lost messages are not looked for",
    (BusOfProcess, "request_republish", _nothing),
    (outbox, "_UNPUBLISH_LOST", outbox._UNPUBLISH_LOST.replace("= ANY($3::bigint[])", "= ANY($3::bigint[]) AND false")),
)
_publish_for_process = BusOfProcess.publish


async def _published_for_sure(self: BusOfProcess, *arguments: Any) -> Any:
    future = await _publish_for_process(self, *arguments)
    if not future.done():
        future.set_result(1)
    return future


_plain("a publication counts without its acknowledgement", (BusOfProcess, "publish", _published_for_sure))


async def _publishes_whatever_was_before(
    self: BusOfProcess, subject: str, message: bytes, message_id: str, _expected_last: int
) -> Any:
    return await _publish_for_process(self, subject, message, message_id)


_plain("an event does not name the sequence before it", (BusOfProcess, "publish", _publishes_whatever_was_before))
_receive_decoded = Inbox._receive_decoded


async def _acknowledges_first(self: Inbox, received: Sequence[Any]) -> None:
    for each in received:
        await each.message.ack()
    await _receive_decoded(self, received)


_plain("acknowledged before the commit", (Inbox, "_receive_decoded", _acknowledges_first))
_consume = Inbox.consume


async def _drops_what_must_wait(self: Inbox, tx: Transaction, events: Sequence[Any]) -> dict[int, Any]:
    await _consume(self, tx, events)
    return {}


_plain("what must wait is dropped", (Inbox, "consume", _drops_what_must_wait))
_plain(
    "what is asked twice is made twice",
    (idempotency, "stored_response", _nothing),
    (idempotency, "_STORE", idempotency._STORE + " ON CONFLICT DO NOTHING"),
)
_plain(
    "an order asked for twice is made twice",
    (
        order_store,
        "_RESERVE",
        order_store._RESERVE.replace(
            "idempotent_response.user_id = asked.user_id", "idempotent_response.user_id IS NULL"
        ),
    ),
)
_write_events = Transaction.write_events


async def _forgets_some_events(self: Transaction) -> bool:
    """The outbox is written in a transaction of its own, which a crash may come before."""
    if self._events and self._connection._world.faults.happens("crash before commit"):
        self._events.clear()
    return await _write_events(self)


_plain("events are not in the transaction that makes them true", (Transaction, "write_events", _forgets_some_events))
