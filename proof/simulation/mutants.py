"""Bugs on purpose: each mutant takes one defence away while seeds run, and the simulator has to notice.

A defence that another one stands behind is taken away together with it: `and` in the name, and beside it what each of
the two is for. A mutant names the function or the part of a statement it replaces; if that is gone, it fails. Where a
defence is seldom needed, its mutant also causes more often what it defends against.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from uuid import UUID

import msgspec

from admitone.events import OrderCancelled, OrderCreated, PaymentAuthorized
from admitone.expiration import handlers as expiration_handlers
from admitone.expiration import store as expiration_store
from admitone.expiration.service import SERVICE as EXPIRATION
from admitone.kernel.database.pool import Transaction
from admitone.kernel.http import idempotency
from admitone.kernel.messaging import inbox, outbox, replicas
from admitone.kernel.messaging.event import Event
from admitone.kernel.messaging.inbox import BatchHandler, Inbox
from admitone.kernel.messaging.replicas import Versions
from admitone.kernel.service import Service
from admitone.orders import handlers as order_handlers
from admitone.orders import store as order_store
from admitone.orders.model import Order
from admitone.orders.service import SERVICE as ORDERS
from admitone.payments import handlers as payment_handlers
from admitone.payments import jobs as payment_jobs
from admitone.payments import store as payment_store
from admitone.payments.model import OrderReplica, Payment
from admitone.payments.service import SERVICE as PAYMENTS
from admitone.tickets import handlers as ticket_handlers
from admitone.tickets.model import Ticket
from admitone.tickets.service import SERVICE as TICKETS
from proof.simulation import faults, run
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


def _batch_handler(service: Service, event: type[Event], **changes: Any) -> Change:
    """Replace functions of a service's batch handler for an event."""
    handler = service.subscriptions[event]
    assert isinstance(handler, BatchHandler), f"{service.name} handles {event.__name__} without batches"
    return service.subscriptions, event, replace(handler, **changes)


def _more_often(kind: str, chance: float) -> Sequence[Change]:
    """Let half of all seeds have each kind of fault, and this one strike so often."""
    return (faults, "_ARE_ON", (0.5,)), (faults.CHANCES, kind, chance)


def first_catch(name: str, seeds: Sequence[int], databases: WorkerDatabases) -> tuple[int, str] | None:
    """Return the first of these seeds that catches a mutant, and the violation."""
    with MUTANTS[name](databases):
        for seed in seeds:
            if violations := run.run_seed(seed, databases).violations:
                return seed, violations[0]
    return None


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
    # It takes an order whose events arrive only after another one has the ticket.
    "the lock is released without checking whose it is",
    (Ticket, "is_reserved_for", lambda self, _order_id: self.status == "reserved"),
    *_more_often("message delayed", 0.5),
    (run, "HABITS", replace(run.HABITS, reorders=0.9)),
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
    _sql(expiration_store, "_TAKE_DUE", "instant() + make_interval", "'infinity'::timestamptz + make_interval"),
    (order_store, "overdue_orders", _no_rows),
)


def _accept_unconfirmed(tx: Transaction, batch: order_handlers.OrdersAndTickets, event: PaymentAuthorized) -> None:
    order = batch.orders.get(event.order_id)
    if order is not None and order.accepts(event.user_id, event.amount_cents, event.currency):
        batch.change(tx, order.awaiting_payment(event.id))
    else:
        order_handlers.payment_authorized(tx, batch, event)


def _reject_nothing(tx: Transaction, batch: order_handlers.OrdersAndTickets, event: PaymentAuthorized) -> None:
    order = batch.orders.get(event.order_id)
    if order is None or order.status == "created":
        order_handlers.payment_authorized(tx, batch, event)


def _only_advance(_tx: Transaction, batch: payment_handlers.OrderBatch, event: OrderCancelled) -> None:
    batch.advance(event, "cancelled")


_mutant(
    "a payment is accepted before the lock is confirmed",
    _batch_handler(ORDERS, PaymentAuthorized, handle=_accept_unconfirmed),
)
_mutant(
    # One of the two would do: the end of an order gives back all that is paid for it. Orders rejects late payments
    # nevertheless, because a restored database may have forgotten their orders and publishes no end of them.
    "a late payment is not rejected and the end of an order gives nothing back",
    _batch_handler(ORDERS, PaymentAuthorized, handle=_reject_nothing),
    _batch_handler(PAYMENTS, OrderCancelled, handle=_only_advance),
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


async def _save_any_version(tx: Transaction, changed: Sequence[OrderReplica]) -> None:
    for each in changed:
        sql = "UPDATE orders SET version = $2, status = $3 WHERE id = $1"
        await tx.execute(sql, each.id, each.version, each.status)


_mutant("the money is taken before orders decide", (Payment, "at_stripe", _capture_at_once))
_mutant(
    "no key for an attempt at the provider",
    (Payment, "provider_key", property(lambda self: f"{self.id} {next(_numbers)}")),
)
_mutant("nothing that is held is given back", (Payment, "cancel", lambda self, _now: self))
_mutant("a lost hold is not published", (Transaction, "publish", _publish_no_failure))
_mutant(
    # A webhook reports a hold that takes effect after it was given up; if that is lost, the books show it.
    "no comparison with the provider's books and every webhook is ignored",
    (payment_jobs, "reconcile", _nothing),
    (payment_jobs, "is_known", lambda *_: True),
    *_more_often("provider times out before", 0.4),
)
_mutant(
    "no version guard on the replica of orders",
    (payment_handlers, "is_next", lambda _event, have_version: have_version >= 0),
    (payment_store, "save_orders", _save_any_version),
)


# Events.

_save_versions = Versions.save
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


async def _load_without_versions(tx: Transaction, events: Sequence[OrderCreated]) -> ticket_handlers.TicketBatch:
    return replace(await ticket_handlers.load_ordered(tx, events), orders=Versions({}))


async def _load_no_versions(_tx: Transaction, _events: Sequence[OrderCreated]) -> expiration_handlers.DeadlineBatch:
    return expiration_handlers.DeadlineBatch(Versions({}))


async def _save_beginnings_only(self: Versions, tx: Transaction) -> set[UUID]:
    self._reached = {aggregate: version for aggregate, version in self._reached.items() if version == 0}
    return await _save_versions(self, tx)


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
    (order_handlers, "is_next", lambda *_: True),
    _sql(order_store, "_SAVE_TICKETS", "WHERE ticket.version = excluded.version - 1", ""),
)
_mutant(
    # A repeated event is known by its id, and a repeated beginning by its order.
    "no inbox and no memory of the orders seen",
    (inbox, "_CONSUME", _CONSUME_AGAIN),
    _batch_handler(TICKETS, OrderCreated, load=_load_without_versions),
    _batch_handler(EXPIRATION, OrderCreated, load=_load_no_versions),
    _sql(
        replicas,
        "_SAVE_VERSIONS",
        "version = excluded.version WHERE aggregate_version.version < excluded.version",
        "version = greatest(aggregate_version.version, excluded.version)",
    ),
)
_mutant("the end of an order is not remembered", (Versions, "save", _save_beginnings_only))
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
_mutant(
    # It takes a stream that is rolled back, and new events before the relay compares.
    "an event does not name the sequence before it",
    (SimulatedBusConnection, "publish", _publish_after_anything),
    *_more_often("message delayed", 0.15),
    (run, "DISASTERS", ("bus rolled back",)),
)
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
    _sql(
        order_store, "_RESERVE", "idempotent_response.user_id = request.buyer_id", "idempotent_response.user_id IS NULL"
    ),
)
_mutant("events are not in the transaction that makes them true", (Transaction, "write_events", _forget_some_events))
