"""Bugs on purpose: each mutant takes one defence away while seeds run, and the simulator has to notice.

A defence that another one stands behind is taken away together with it: `and` in the name, and beside it what each of
the two is for. A mutant names the function or the part of a statement it replaces; if that is gone, it fails.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final, cast
from uuid import UUID

import msgspec

from admitone.events import OrderCancelled, OrderCreated, PaymentAuthorized
from admitone.expiration import store as expiration_store
from admitone.kernel.database.pool import Transaction
from admitone.kernel.http import idempotency
from admitone.kernel.messaging import inbox, outbox, replicas
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.inbox import BatchHandler, Inbox
from admitone.orders import handlers as order_handlers
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
from proof.simulation.bus import SimulatedBusConnection
from proof.simulation.databases import WorkerDatabases

Mutant = Callable[[WorkerDatabases], AbstractContextManager[None]]
Change = tuple[Any, Any, Any]

MUTANTS: Final[dict[str, Mutant]] = {}


@contextmanager
def _replaced(*changes: Change) -> Iterator[None]:
    """Set attributes, or entries of a mapping, for as long as the block lasts."""
    with ExitStack() as undo:
        for owner, name, value in changes:
            if isinstance(owner, dict):
                undo.callback(owner.__setitem__, name, owner[name])
                owner[name] = value
            else:
                undo.callback(setattr, owner, name, getattr(owner, name))
                setattr(owner, name, value)
        yield


def _mutant(name: str, *changes: Change) -> None:
    """Declare a mutant that replaces functions and constants."""
    MUTANTS[name] = lambda _databases: _replaced(*changes)


def _sql(owner: Any, name: str, old: str, new: str) -> Change:
    """Replace a part of a statement."""
    statement: str = getattr(owner, name)
    assert old in statement, f"{owner.__name__}.{name} has no {old!r} any more"
    return owner, name, statement.replace(old, new)


async def _nothing(*_: object, **__: object) -> None:
    return None


async def _no_rows(*_: object, **__: object) -> list[Any]:
    return []


# Tickets and orders.

_ON_CONFLICT: Final = "ON CONFLICT (ticket_id) WHERE status IN ('created', 'awaiting:payment', 'complete') DO NOTHING"
_UNIQUE_INDEX: Final = """
CREATE UNIQUE INDEX one_live_order_per_ticket ON orders (ticket_id)
WHERE status IN ('created', 'awaiting:payment', 'complete')
"""


@contextmanager
def _no_unique_index(databases: WorkerDatabases) -> Iterator[None]:
    databases.execute("orders", "DROP INDEX one_live_order_per_ticket")
    try:
        with _replaced(_sql(order_store, "_RESERVE", _ON_CONFLICT, "")):
            yield
    finally:
        databases.execute("orders", "TRUNCATE orders")
        databases.execute("orders", _UNIQUE_INDEX)


MUTANTS["no unique index: two live orders for a ticket"] = _no_unique_index
_mutant(
    # It takes an order whose events arrive only after another one has the ticket, so events are late more often here.
    "the lock is released without checking whose it is",
    (Ticket, "is_reserved_for", lambda self, _order_id: self.status == "reserved"),
    (faults, "_ARE_ON", (0.5,)),
    (faults.CHANCES, "message delayed", 0.5),
)
_mutant(
    "the lock is given although the price changed",
    (Ticket, "is_as_ordered", lambda self, _: self.status == "available"),
)
_mutant("an order expires before its deadline", (Order, "is_overdue", lambda self, _now: self.status == "created"))
_mutant("an order expires in any status", (Order, "is_overdue", lambda self, now: self.expires_at <= now))
_mutant(
    "a hold is evicted before its deadline",
    _sql(order_store, "_RESERVE", "orders.expires_at <= instant()", "orders.created_at < instant()"),
)
_mutant(
    # A lost OrderExpired is published again until the order is over, and orders ends what no event ended.
    "no deadline is published again and overdue orders are not ended",
    _sql(expiration_store, "_RING", "instant() + make_interval", "'infinity'::timestamptz + make_interval"),
    (order_store, "overdue_orders", _no_rows),
)


async def _accept_unconfirmed(tx: Transaction, event: PaymentAuthorized) -> None:
    order = await order_store.order_for_change(tx, event.order_id)
    if order is not None and order.accepts(event.user_id, event.amount_cents, event.currency):
        await order_store.save(tx, order.awaiting_payment(event.id))
        return
    await order_handlers.payment_authorized(tx, event)


async def _reject_nothing(tx: Transaction, event: PaymentAuthorized) -> None:
    order = await order_store.order_for_change(tx, event.order_id)
    if order is None or order.status == "created":
        await order_handlers.payment_authorized(tx, event)


async def _only_note_the_end(tx: Transaction, event: OrderCancelled) -> None:
    if not await payment_store.advance_order(tx, event.id, event.version, "cancelled"):
        await payment_handlers._note_other_version(tx, event.id, event.version)


_mutant(
    "a payment is accepted before the lock is confirmed",
    (ORDERS.subscriptions, PaymentAuthorized, _accept_unconfirmed),
)
_mutant(
    # One of the two would do: the end of an order gives back all that is paid for it. Orders rejects late payments
    # nevertheless, because a restored database may have forgotten their orders and publishes no end of them.
    "a late payment is not rejected and the end of an order gives nothing back",
    (ORDERS.subscriptions, PaymentAuthorized, _reject_nothing),
    (PAYMENTS.subscriptions, OrderCancelled, _only_note_the_end),
)


# Money.

_at_stripe = Payment.at_stripe
_numbers = iter(range(10**9))
_publish = Transaction.publish


def _capture_at_once(self: Payment, *arguments: Any, **named: Any) -> Payment:
    found = _at_stripe(self, *arguments, **named)
    if found.state == "authorized":
        return msgspec.structs.replace(found, wanted="capture", due_at=arguments[2])
    return found


def _publish_no_failure(self: Transaction, event: Event) -> None:
    if type(event).__name__ != "PaymentFailed":
        _publish(self, event)


async def _advance_anyhow(tx: Transaction, order_id: UUID, version: int, status: str) -> bool:
    await tx.execute("UPDATE orders SET version = $2, status = $3 WHERE id = $1", order_id, version, status)
    return True


_mutant("the money is taken before orders decide", (Payment, "at_stripe", _capture_at_once))
_mutant(
    "no key for an attempt at the provider",
    (Payment, "provider_key", property(lambda self: f"{self.id} {next(_numbers)}")),
)
_mutant("nothing that is held is given back", (Payment, "to_give_up", lambda self, _now: self))
_mutant("a lost hold is not published", (Transaction, "publish", _publish_no_failure))
_mutant(
    # A webhook reports a hold that takes effect after it was given up; if that is lost, the books show it.
    "no comparison with the provider's books and no webhook is news",
    (payment_jobs, "reconcile", _nothing),
    (payment_jobs, "is_known", lambda *_: True),
)
_mutant("no version guard on the replica of orders", (payment_store, "advance_order", _advance_anyhow))


# Events.

_save_versions = replicas.save_versions
_publish_on_bus = SimulatedBusConnection.publish
_receive_decoded = Inbox._receive_decoded
_consume = Inbox.consume
_write_events = Transaction.write_events

_CONSUME_AGAIN: Final = """
WITH seen AS (INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING)
SELECT DISTINCT unnest($1::uuid[]) AS id
"""
_UNPUBLISHED_ONCE: Final = """
WITH sent AS (UPDATE outbox SET stream_sequence = 0 WHERE stream_sequence IS NULL RETURNING *)
SELECT position, id, type, aggregate, data, traceparent, recorded_at, copies FROM sent
ORDER BY position LIMIT greatest($1, 1000)
"""
_UNPUBLISH_NOTHING: Final = (
    "UPDATE outbox SET copies = copies WHERE false AND $1::bigint + $2::bigint > 0 AND $3::bigint[] = '{}'"
)


async def _load_without_versions(tx: Transaction, events: Sequence[OrderCreated]) -> ticket_handlers.OrderBatch:
    return replace(await ticket_handlers.load_for_created(tx, events), versions={})


async def _save_beginnings_only(tx: Transaction, reached: Mapping[UUID, int]) -> None:
    await _save_versions(tx, {aggregate: version for aggregate, version in reached.items() if version == 0})


async def _publish_without_acknowledgement(self: SimulatedBusConnection, *arguments: Any) -> Any:
    future = await _publish_on_bus(self, *arguments)
    if not future.done():
        future.set_result(1)
    return future


async def _publish_after_anything(
    self: SimulatedBusConnection, subject: str, message: bytes, message_id: str, _expected_last: int
) -> Any:
    return await _publish_on_bus(self, subject, message, message_id)


async def _acknowledge_first(self: Inbox, received: Sequence[Any]) -> None:
    for each in received:
        await each.message.ack()
    await _receive_decoded(self, received)


async def _drop_what_must_wait(self: Inbox, tx: Transaction, events: Sequence[Any]) -> dict[int, Any]:
    await _consume(self, tx, events)
    return {}


async def _forget_some_events(self: Transaction) -> bool:
    """The outbox is written in a transaction of its own, which a crash may prevent."""
    if self._events and self._connection._world.faults.strikes("crash before commit"):
        self._events.clear()
    return await _write_events(self)


_mutant(
    "no version guard on the replica of tickets",
    _sql(order_store, "_ADVANCE_TICKETS", "ticket.version = told.version - 1", "told.version >= 0"),
)
_mutant(
    # A repeated event is known by its id, and a repeated beginning by its order.
    "no inbox and no memory of the orders seen",
    (inbox, "_CONSUME", _CONSUME_AGAIN),
    (
        TICKETS.subscriptions,
        OrderCreated,
        replace(cast("BatchHandler[Any, Any]", TICKETS.subscriptions[OrderCreated]), load=_load_without_versions),
    ),
    _sql(
        expiration_store,
        "_SET",
        "ON CONFLICT DO NOTHING RETURNING aggregate",
        "ON CONFLICT (aggregate) DO UPDATE SET version = aggregate_version.version RETURNING aggregate",
    ),
)
_mutant("the end of an order is not remembered", (replicas, "save_versions", _save_beginnings_only))
_mutant(
    "the relay goes by the last number",
    _sql(
        outbox,
        "_UNPUBLISHED",
        "stream_sequence IS NULL",
        "position > (SELECT coalesce(max(position), 0) FROM outbox WHERE stream_sequence IS NOT NULL)",
    ),
)
_mutant(
    # What was sent once is not sent again, whether it arrived or not: all that an outbox is for.
    "events are published directly and not kept until they have arrived",
    (outbox, "_UNPUBLISHED", _UNPUBLISHED_ONCE),
    (outbox, "_UNPUBLISH_LOST", _UNPUBLISH_NOTHING),
    (outbox, "_UNPUBLISH_AGGREGATE", f"{outbox._UNPUBLISH_AGGREGATE} AND false"),
)
_mutant("an event does not name the sequence before it", (SimulatedBusConnection, "publish", _publish_after_anything))
_mutant("no comparison with the stream", (outbox, "_UNPUBLISH_LOST", _UNPUBLISH_NOTHING))
_mutant(
    # A consumer that misses a version requests it; the producer finds by itself what the stream has lost.
    "no gap is requested and single lost messages are not looked for",
    (SimulatedBusConnection, "request_republish", _nothing),
    _sql(outbox, "_UNPUBLISH_LOST", "= ANY($3::bigint[])", "= ANY($3::bigint[]) AND false"),
)
_mutant(
    "a publication counts without its acknowledgement",
    (SimulatedBusConnection, "publish", _publish_without_acknowledgement),
)
_mutant("acknowledged before the commit", (Inbox, "_receive_decoded", _acknowledge_first))
_mutant("what must wait is dropped", (Inbox, "consume", _drop_what_must_wait))
_mutant(
    "a repeated request is executed twice",
    (idempotency, "stored_response", _nothing),
    (idempotency, "_STORE", f"{idempotency._STORE} ON CONFLICT DO NOTHING"),
)
_mutant(
    "a repeated order is made twice",
    _sql(order_store, "_RESERVE", "idempotent_response.user_id = asked.user_id", "idempotent_response.user_id IS NULL"),
)
_mutant("events are not in the transaction that makes them true", (Transaction, "write_events", _forget_some_events))
