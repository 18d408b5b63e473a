"""The statements of payments; each says what it does in its name."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from admitone.events import OrderAwaitingPayment, OrderCreated
from admitone.kernel.database.pool import Row, Statements, Transaction, affected_rows, columns
from admitone.payments.model import LEASE_SECONDS, Order, OrderStatus, Payment

_ORDER: Final = "id, version, status, user_id, price_cents, currency, expires_at"
_PAYMENT: Final = """id, order_id, attempt, user_id, amount_cents, currency, token, request_key, created_at, due_at,
    state, wanted, stripe_id, client_secret, action_url, reason_code, reason, tries, traceparent"""


def _order(row: Row) -> Order:
    return Order(**dict(row.items()))


def _payment(row: Row) -> Payment:
    return Payment(**dict(row.items()))


# Orders, as they were told.


async def add_orders(tx: Transaction, told: Sequence[OrderCreated]) -> None:
    """Begin the orders' replicas; one that exists stays."""
    await tx.execute(
        "INSERT INTO orders (id, version, status, user_id, price_cents, currency, expires_at) "
        "SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[], $5::bigint[], $6::text[], "
        "$7::timestamptz[]) ON CONFLICT DO NOTHING",
        *columns(told, "id", "version", "status", "user_id", "ticket.price_cents", "ticket.currency", "expires_at"),
    )


async def advance_order(tx: Transaction, order_id: UUID, version: int, status: OrderStatus) -> bool:
    """Apply the next version of an order, and only the next; False when the replica is elsewhere."""
    tag = await tx.execute(
        "UPDATE orders SET version = $2, status = $3 WHERE id = $1 AND version = $2 - 1", order_id, version, status
    )
    return affected_rows(tag) == 1


async def await_payments(
    tx: Transaction, told: Sequence[OrderAwaitingPayment], traceparents: Sequence[str | None]
) -> dict[UUID, bool]:
    """Apply the orders' next versions and want the money held for them, in one statement: every purchase comes by here.

    Return the orders that were advanced, and of each whether its payment was held and free to be taken.
    """
    rows = await tx.fetch(
        """
        WITH advanced AS (
            UPDATE orders SET version = told.version, status = 'awaiting:payment'
            FROM unnest($1::uuid[], $2::integer[], $3::uuid[], $4::text[])
            AS told (id, version, payment_id, traceparent)
            WHERE orders.id = told.id AND orders.version = told.version - 1
            RETURNING orders.id, told.payment_id, told.traceparent
        ),
        wanted AS (
            UPDATE payment SET wanted = 'capture', due_at = instant(), tries = 0, traceparent = advanced.traceparent
            FROM advanced
            WHERE payment.id = advanced.payment_id AND payment.order_id = advanced.id
              AND state = 'authorized' AND wanted IS NULL
            RETURNING payment.order_id
        )
        SELECT advanced.id, wanted.order_id IS NOT NULL AS is_wanted
        FROM advanced LEFT JOIN wanted ON wanted.order_id = advanced.id
        """,
        *columns(told, "id", "version", "payment_id"),
        traceparents,
    )
    return {row["id"]: row["is_wanted"] for row in rows}


async def order(db: Statements, order_id: UUID) -> Order | None:
    row = await db.fetchrow(f"SELECT {_ORDER} FROM orders WHERE id = $1", order_id)  # noqa: S608
    return None if row is None else _order(row)


async def orders_for_change(tx: Transaction, order_ids: Sequence[UUID]) -> dict[UUID, Order]:
    """Return orders by id and lock their rows, in one sequence for everybody, until the transaction ends."""
    rows = await tx.fetch(
        f"SELECT {_ORDER} FROM orders WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE",  # noqa: S608
        order_ids,
    )
    return {row["id"]: _order(row) for row in rows}


# Payments.


async def payments_of(db: Statements, order_ids: Sequence[UUID]) -> list[Payment]:
    """Return every payment of these orders, the oldest attempt first."""
    rows = await db.fetch(
        f"SELECT {_PAYMENT} FROM payment WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, attempt",  # noqa: S608
        order_ids,
    )
    return [_payment(row) for row in rows]


async def payment(db: Statements, payment_id: UUID) -> Payment | None:
    row = await db.fetchrow(f"SELECT {_PAYMENT} FROM payment WHERE id = $1", payment_id)  # noqa: S608
    return None if row is None else _payment(row)


async def payments_by_key(db: Statements, people: Sequence[UUID], keys: Sequence[str | None]) -> list[Payment]:
    """Return the payments that these people began with these Idempotency-Keys, pair by pair."""
    rows = await db.fetch(
        f"SELECT {_PAYMENT} FROM payment "  # noqa: S608
        "WHERE (user_id, request_key) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))",
        people,
        keys,
    )
    return [_payment(row) for row in rows]


async def order_of_payment(tx: Transaction, payment_ids: Sequence[UUID]) -> dict[UUID, UUID]:
    rows = await tx.fetch("SELECT id, order_id FROM payment WHERE id = ANY($1::uuid[])", payment_ids)
    return {row["id"]: row["order_id"] for row in rows}


async def add_payments(tx: Transaction, begun: Sequence[Payment]) -> None:
    await tx.execute(
        "INSERT INTO payment "
        "(id, order_id, attempt, user_id, amount_cents, currency, token, request_key, traceparent, created_at, due_at) "
        "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::uuid[], $5::bigint[], $6::text[], "
        "$7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[])",
        *columns(
            begun,
            *("id", "order_id", "attempt", "user_id", "amount_cents", "currency", "token", "request_key"),
            *("traceparent", "created_at", "due_at"),
        ),
    )


async def save_payments(tx: Transaction, changed: Sequence[Payment]) -> None:
    """Write what may change of payments; their orders' rows must be locked."""
    tag = await tx.execute(
        "UPDATE payment SET state = new.state, wanted = new.wanted, stripe_id = new.stripe_id, "
        "client_secret = new.client_secret, action_url = new.action_url, reason_code = new.reason_code, "
        "reason = new.reason, traceparent = new.traceparent, due_at = new.due_at, tries = new.tries "
        "FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], "
        "$9::text[], $10::timestamptz[], $11::integer[]) AS new (id, state, wanted, stripe_id, client_secret, "
        "action_url, reason_code, reason, traceparent, due_at, tries) WHERE payment.id = new.id",
        *columns(
            changed,
            *("id", "state", "wanted", "stripe_id", "client_secret", "action_url", "reason_code", "reason"),
            *("traceparent", "due_at", "tries"),
        ),
    )
    assert affected_rows(tag) == len(changed), "a payment that was read for a change is gone"


_LENT: Final = ", ".join(f"lent.{each.strip()}" for each in _PAYMENT.split(","))
_WITH_ORDER: Final = ", ".join(f"orders.{each.strip()} AS order_{each.strip()}" for each in _ORDER.split(","))


async def take_due(db: Statements, limit: int) -> list[tuple[Payment, Order, datetime]]:
    """Take payments that are due and lend them to the caller, with their orders and the instant of the reading."""
    rows = await db.fetch(
        f"""
        WITH due AS (
            SELECT id FROM payment WHERE due_at <= instant() ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ),
        lent AS (
            UPDATE payment SET due_at = instant() + make_interval(secs => $2), tries = tries + 1
            FROM due WHERE payment.id = due.id RETURNING payment.*
        )
        SELECT {_LENT}, {_WITH_ORDER},
               instant() AS taken_at
        FROM lent JOIN orders ON orders.id = lent.order_id
        """,  # noqa: S608
        limit,
        LEASE_SECONDS,
    )
    return [_with_order(row) for row in rows]


def _with_order(row: Row) -> tuple[Payment, Order, datetime]:
    fields = dict(row.items())
    taken_at = fields.pop("taken_at")
    ordered = Order(
        **{name: fields.pop(f"order_{name}") for name in Order.__struct_fields__ if name != "id"}, id=fields["order_id"]
    )
    return Payment(**fields), ordered, taken_at


async def look_again(db: Statements, payment_ids: Sequence[UUID]) -> None:
    """Make payments due now, whatever they wait for."""
    await db.execute("UPDATE payment SET due_at = instant(), tries = 0 WHERE id = ANY($1::uuid[])", payment_ids)


# Webhooks.


class Webhook(msgspec.Struct, frozen=True):
    """A webhook that was stored and not worked off yet; `age_seconds` since it came."""

    number: int
    body: str
    age_seconds: float


async def add_webhooks(db: Statements, source: str, event_ids: Sequence[str], bodies: Sequence[str]) -> None:
    """Store webhooks as they came; those that came before are left alone."""
    await db.execute(
        "INSERT INTO webhook (source, event_id, body) "
        "SELECT $1, * FROM unnest($2::text[], $3::text[]) ON CONFLICT DO NOTHING",
        source,
        event_ids,
        bodies,
    )


async def waiting_webhooks(db: Statements, limit: int) -> list[Webhook]:
    rows = await db.fetch(
        "SELECT number, body, extract(epoch FROM instant() - received_at)::float8 AS age_seconds "
        "FROM webhook WHERE processed_at IS NULL ORDER BY number LIMIT $1",
        limit,
    )
    return [Webhook(**dict(row.items())) for row in rows]


async def finish_webhooks(db: Statements, numbers: Sequence[int], findings: Sequence[str]) -> None:
    await db.execute(
        "UPDATE webhook SET processed_at = instant(), finding = new.finding "
        "FROM unnest($1::bigint[], $2::text[]) AS new (number, finding) WHERE webhook.number = new.number",
        numbers,
        findings,
    )


async def payments_at_stripe(
    db: Statements, payment_ids: Sequence[UUID], stripe_ids: Sequence[str]
) -> tuple[dict[UUID, Payment], dict[str, Payment]]:
    """Return the payments with these ids, and those with these ids at Stripe."""
    rows = await db.fetch(
        f"SELECT {_PAYMENT} FROM payment WHERE id = ANY($1::uuid[]) OR stripe_id = ANY($2::text[])",  # noqa: S608
        payment_ids,
        stripe_ids,
    )
    found = [_payment(row) for row in rows]
    return {each.id: each for each in found}, {each.stripe_id: each for each in found if each.stripe_id is not None}


async def forget_webhooks(db: Statements, days: int) -> None:
    """Delete webhooks that were worked off longer ago than Stripe could send them again."""
    await db.execute(
        "DELETE FROM webhook WHERE processed_at IS NOT NULL AND received_at < instant() - make_interval(days => $1)",
        days,
    )


# The installation.


async def installation_id(db: Statements) -> UUID:
    found = await db.fetchval("SELECT id FROM installation")
    assert isinstance(found, UUID)
    return found


async def reconciled_until(db: Statements) -> tuple[datetime, datetime]:
    """Return up to when Stripe's list was compared with ours, and the present instant."""
    row = await db.fetchrow("SELECT reconciled_until, instant() AS now FROM installation")
    assert row is not None
    return row["reconciled_until"], row["now"]


async def note_reconciled(db: Statements, until: datetime) -> None:
    await db.execute("UPDATE installation SET reconciled_until = greatest(reconciled_until, $1)", until)


async def seconds_unsettled(db: Statements) -> float:
    """Return for how long the oldest open business at Stripe has been open: something wanted, or an unknown outcome."""
    seconds = await db.fetchval(
        "SELECT extract(epoch FROM instant() - min(created_at)) FROM payment WHERE due_at IS NOT NULL"
    )
    return float(seconds or 0)


async def webhooks_waiting(db: Statements) -> float:
    """Return how many of Stripe's messages are not worked off yet."""
    return float(await db.fetchval("SELECT count(*) FROM webhook WHERE processed_at IS NULL"))
