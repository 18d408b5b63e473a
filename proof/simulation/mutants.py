"""Bugs on purpose: each mutant takes one defence away while seeds run, and the simulator has to notice.

A defence that another one stands behind is taken away together with it: `and` in the name, and beside it what each of
the two is for. A mutant names the part of a function or statement it replaces; if that is gone, it fails. Where a
defence is seldom needed, its mutant also causes more often what it defends against.
"""

import inspect
import itertools
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any, Final

from admitone.expiration import handlers as expiration_handlers
from admitone.expiration import store as expiration_store
from admitone.kernel.database.pool import Transaction
from admitone.kernel.http import idempotency
from admitone.kernel.messaging import dead_letters, inbox, outbox, replicas
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.replicas import Versions
from admitone.orders import handlers as order_handlers
from admitone.orders import store as order_store
from admitone.orders.model import Order
from admitone.payments import handlers as payment_handlers
from admitone.payments import jobs as payment_jobs
from admitone.payments import model as payment_model
from admitone.payments import store as payment_store
from admitone.payments.gateway import Gateway
from admitone.payments.model import Payment
from admitone.tickets import handlers as ticket_handlers
from admitone.tickets.model import Ticket
from proof.simulation import faults, run
from proof.simulation.bus import SimulatedBusConnection
from proof.simulation.databases import WorkerDatabases
from proof.simulation.world import Change, replaced

Mutant = Callable[[WorkerDatabases], AbstractContextManager[None]]

MUTANTS: Final[dict[str, Mutant]] = {}


def _mutant(name: str, *changes: Change) -> None:
    """Declare a mutant that replaces functions, constants, or parts of them."""
    MUTANTS[name] = lambda _databases: replaced(*changes)


def _sql(owner: Any, name: str, old: str, new: str, *more: tuple[str, str]) -> Change:
    """Replace parts of a statement."""
    statement: str = getattr(owner, name)
    for part, replacement in ((old, new), *more):
        assert part in statement, f"{owner.__name__}.{name} has no {part!r} any more"
        statement = statement.replace(part, replacement)
    return owner, name, statement


def _code(function: Any, old: str, new: str) -> Change:
    """Replace a part of a function's source, for everybody who has a reference to the function."""
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source, f"{function.__qualname__} has no {old!r} any more"
    made: dict[str, Any] = {}
    exec(compile(source.replace(old, new), function.__qualname__, "exec"), function.__globals__, made)  # noqa: S102
    return function, "__code__", made[function.__name__].__code__


def _more_often(kind: str, chance: float) -> Sequence[Change]:
    """Let half of all seeds have each kind of fault, and this one strike so often."""
    return (faults, "_ARE_ON", (0.5,)), (faults.CHANCES, kind, chance)


def _strikes(disaster: str) -> Sequence[Change]:
    """Let half of all seeds have each kind of fault, and of those of a whole machine only this one strike."""
    return (faults, "_ARE_ON", (0.5,)), (run, "DISASTERS", (disaster,))


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
        with replaced(_sql(order_store, "_RESERVE", _ON_CONFLICT, "")):
            yield
    finally:
        databases.execute("orders", "TRUNCATE orders")
        databases.execute("orders", _UNIQUE_INDEX)


MUTANTS["no unique index: two live orders for a ticket"] = _no_unique_index
_mutant(
    # It takes an order whose events arrive only after another one has the ticket.
    "the lock is released without checking whose it is",
    _code(Ticket.is_reserved_for, " and self.order_id == order_id", ""),
    *_more_often("message delayed", 0.5),
    (run, "HABITS", replace(run.HABITS, reorders=0.9)),
)
_mutant(
    "the lock is given although the price changed",
    (Ticket, "is_as_ordered", lambda self, _: self.status == "available"),
)
_mutant(
    "the lock is given although all but the price changed",
    _code(Ticket.is_as_ordered, "(self.revision, ", "(ordered.revision, "),
)
_mutant("an order expires before its deadline", _code(Order.is_overdue, " and self.expires_at <= now", ""))
_mutant("an order expires in any status", _code(Order.is_overdue, 'self.status == "created" and ', ""))
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
_mutant("holds end although the bus is away", (SimulatedBusConnection, "is_caught_up", True))
_mutant(
    "a payment is accepted before the lock is confirmed",
    _code(order_handlers.payment_authorized, "ticket.order_id != order.id", "False"),
)
_mutant(
    # One of the two would do: the end of an order gives back all that is paid for it. Orders rejects late payments
    # nevertheless, because a restored database may have forgotten their orders and publishes no end of them.
    "a late payment is not rejected and the end of an order gives nothing back",
    _code(
        order_handlers.payment_authorized,
        "tx.publish(PaymentRejected(",
        '(order is None or order.status == "created") and tx.publish(PaymentRejected(',
    ),
    _code(payment_handlers.order_cancelled, "_cancel(tx, batch, payment)", "pass"),
)


# Money.

_numbers = itertools.count()

_mutant(
    "the money is taken before orders decide",
    _code(
        Payment._apply_in_progress,
        'self.at_stripe("authorized", stripe_id, order, now)',
        'self.at_stripe("authorized", stripe_id, order, now).with_wanted("capture", now)',
    ),
)
_mutant(
    "no key for an attempt at the provider",
    (Payment, "provider_key", property(lambda self: f"{self.id} {next(_numbers)}")),
)
_mutant("nothing that is held is given back", (Payment, "cancel", lambda self, _now: self))
_mutant(
    "a lost hold is not published",
    _code(Transaction.publish, "self._events", 'type(event).__name__ != "PaymentFailed" and self._events'),
)
_mutant(
    # A webhook reports a hold that takes effect after it was given up; if that is lost, the books show it.
    "no comparison with the provider's books and every webhook is ignored",
    (payment_jobs, "reconcile", _nothing),
    (payment_jobs, "is_known", lambda *_: True),
    *_more_often("provider times out before", 0.4),
)
_mutant(
    # A refusal that says nothing about the card is an unknown outcome, and what is wanted stays wanted all the same.
    "an intent that is not found decides and drops what is wanted",
    _code(Gateway.retrieve, "return _unknown(error)", 'return Declined("refused", "No such payment_intent")'),
    _code(
        Payment._apply_over,
        "return self.retried_later(now) if self.wanted is not None else self.at_rest()",
        "return self.at_rest()",
    ),
    *_strikes("intents not found"),
)
_mutant(
    # Nothing is decided by it, and the comparison reads that period again.
    "a list that fails is taken for an empty one",
    _code(
        Gateway.intents,
        'page = await self._send(PaymentIntents, "get", _INTENTS, params)',
        'try: page = await self._send(PaymentIntents, "get", _INTENTS, params)\n'
        "        except stripe.APIError: return [], None",
    ),
    *_strikes("lists fail"),
    *_more_often("provider times out before", 0.4),
)
_mutant(
    "a refused capture is tried for ever",
    (payment_model, "_REFUSALS_MAX", 1_000_000),
    *_more_often("capture refused for good", 0.5),
)
_mutant(
    "no version guard on the replica of orders",
    (payment_handlers, "is_next", lambda *_: True),
    _code(payment_handlers.OrderBatch.advance, "raise MissingEvents(event.producer, event.id)", "return False"),
    _code(payment_store.save_orders, " AND orders.version < changed.version", ""),
)


# Events.

_CONSUME_AGAIN: Final = """
WITH seen AS (INSERT INTO inbox (id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING)
SELECT DISTINCT unnest($1::uuid[]) AS id, true AS is_fresh, false AS has_failed
"""
_UNPUBLISHED_ONCE: Final = """
WITH sent AS (UPDATE outbox SET stream_sequence = 0 WHERE stream_sequence IS NULL RETURNING *)
SELECT position, id, type, aggregate, data, traceparent, recorded_at, copies FROM sent
ORDER BY position LIMIT greatest($1, 1000)
"""
_UNPUBLISH_NOTHING: Final = (
    "UPDATE outbox SET copies = copies WHERE false AND $1::bigint + $2::bigint > 0 AND $3::bigint[] = '{}'"
)

_mutant(
    "no version guard on the replica of tickets",
    (order_handlers, "is_next", lambda *_: True),
    _sql(order_store, "_SAVE_TICKETS", "WHERE ticket.version <= excluded.version", ""),
)
_mutant(
    # A repeated event is known by its id, and a repeated beginning by its order.
    "no inbox and no memory of the orders seen",
    (inbox, "_CONSUME", _CONSUME_AGAIN),
    _code(ticket_handlers.load_ordered, "[event.id for event in events]", "[]"),
    _code(
        expiration_handlers.load, "await load", "Versions({}) if isinstance(events[0], OrderCreated) else await load"
    ),
    _sql(
        replicas,
        "_SAVE_VERSIONS",
        "version = excluded.version WHERE aggregate_version.version < excluded.version",
        "version = greatest(aggregate_version.version, excluded.version)",
    ),
)
_mutant(
    "the end of an order is not remembered",
    _code(
        Versions.save,
        "    if not self._reached",
        "    self._reached = {order: version for order, version in self._reached.items() if version == 0}\n"
        "    if not self._reached",
    ),
)
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
    _code(SimulatedBusConnection.publish, "message_id, expected_last, sequence", "message_id, None, sequence"),
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
    _code(
        SimulatedBusConnection.publish,
        "    return sequence",
        "    sequence.done() or sequence.set_result(1)\n    return sequence",
    ),
)
_mutant(
    "acknowledged before the commit",
    _code(
        Inbox._receive_decoded, "    try:\n", "    for each in received:\n        await each.message.ack()\n    try:\n"
    ),
)
_mutant(
    "an event that keeps failing is not kept",
    _code(
        Inbox._record_failure,
        "    if is_given_up:\n",
        "    if is_given_up:\n"
        '        await self._database.execute("DELETE FROM dead_letter WHERE id = $1", letter_id)\n',
    ),
)
_mutant(
    "later events wait for one that was dropped",
    (dead_letters, "_advance", _nothing),
    *_more_often("handler fails", 0.2),
)
_mutant(
    "a dead letter that must wait is deleted when it is retried",
    _code(dead_letters.retry, "raise missing", "pass"),
    *_more_often("handler fails", 0.2),
)
_mutant(
    "the release that announced last decides what is delivered",
    _code(Inbox._subscribe, "await announced(self._database, producer, self.announced_seconds)", "own"),
)
_mutant("what only another release subscribes to is acknowledged", (Inbox, "_is_wanted", _nothing))
_mutant(
    "what only another release can read is a dead letter at once",
    _code(
        Inbox._receive_all,
        "self._let_wait(message, reason.event_id, str(reason), message.metadata.num_delivered)",
        "self._record_failure(message, str(reason.event_id), str(reason), attempts_max=1)",
    ),
)
_mutant("what must wait is dropped", _code(Inbox.consume, "return {", "return {} and {"))
_mutant(
    "a repeated request is executed twice",
    (idempotency, "stored_response", _nothing),
    (idempotency, "_STORE", f"{idempotency._STORE} ON CONFLICT DO NOTHING"),
)
_mutant(
    # The response would be stored twice, which the table's key forbids.
    "a repeated order is made twice",
    _sql(
        order_store,
        "_RESERVE",
        "idempotent_response.user_id = request.buyer_id",
        "idempotent_response.user_id IS NULL",
        ("WHERE key IS NOT NULL ORDER BY buyer_id, key", "WHERE key IS NOT NULL ON CONFLICT DO NOTHING"),
    ),
)
_mutant(
    # The outbox is written in a transaction of its own, which a crash may prevent.
    "events are not in the transaction that makes them true",
    _code(
        Transaction.write_events,
        "if not events",
        'if not events or self._connection._world.faults.strikes("crash before commit")',
    ),
)
