"""What payments keeps: each statement, named by its purpose."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from admitone.kernel.database.pool import (
    Database,
    Row,
    Statements,
    Transaction,
    affected_rows,
    column_list,
    columns,
    from_row,
)
from admitone.payments.beginning import LEASE_SECONDS, PaymentRequest
from admitone.payments.model import OrderReplica, Payment

# The signals of the two jobs that wait for work; see `jobs.py`.
SETTLE_PAYMENTS: Final = "settle payments"
PROCESS_WEBHOOKS: Final = "process webhooks"

_ORDER: Final = column_list(OrderReplica)
_PAYMENT: Final = column_list(Payment)


# Orders


async def add_orders(tx: Transaction, added: Sequence[OrderReplica]) -> None:
    """Add replicas of orders; one that exists is not changed."""
    await tx.execute(
        "INSERT INTO orders (id, version, status, buyer_id, price_cents, currency, expires_at) "
        "SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::uuid[], $5::bigint[], $6::text[], "
        "$7::timestamptz[]) AS added (id) ORDER BY id ON CONFLICT DO NOTHING",
        *columns(added, "id", "version", "status", "buyer_id", "price_cents", "currency", "expires_at"),
    )


async def order(db: Statements, order_id: UUID) -> OrderReplica | None:
    row = await db.fetchrow(f"SELECT {_ORDER} FROM orders WHERE id = $1", order_id)  # noqa: S608
    return None if row is None else from_row(OrderReplica, row)


async def orders_for_change(tx: Transaction, order_ids: Sequence[UUID]) -> dict[UUID, OrderReplica]:
    """Return orders by id and lock their rows until the transaction ends.

    Every change of a payment locks its order first. Rows are locked in one order everywhere, so that two batches
    cannot deadlock.
    """
    rows = await tx.fetch(
        f"SELECT {_ORDER} FROM orders WHERE id = ANY($1::uuid[]) ORDER BY id FOR UPDATE",  # noqa: S608
        order_ids,
    )
    return {row["id"]: from_row(OrderReplica, row) for row in rows}


async def save_orders(tx: Transaction, changed: Sequence[OrderReplica]) -> None:
    """Write the version and status of locked orders."""
    if changed:
        tag = await tx.execute(
            "UPDATE orders SET version = changed.version, status = changed.status "
            "FROM unnest($1::uuid[], $2::integer[], $3::text[]) AS changed (id, version, status) "
            "WHERE orders.id = changed.id AND orders.version < changed.version",
            *columns(changed, "id", "version", "status"),
        )
        assert affected_rows(tag) == len(changed), "an order was changed while it was locked"


# Payments


async def paid_order_ids_after(db: Statements, order_id: UUID, limit: int) -> list[UUID]:
    """Return the ids of orders that have payments and follow one, in order."""
    rows = await db.fetch(
        "SELECT DISTINCT order_id FROM payment WHERE order_id > $1 ORDER BY order_id LIMIT $2", order_id, limit
    )
    return [row["order_id"] for row in rows]


async def payments_of(db: Statements, order_ids: Sequence[UUID]) -> list[Payment]:
    """Return every payment of these orders, the oldest attempt first."""
    rows = await db.fetch(
        f"SELECT {_PAYMENT} FROM payment WHERE order_id = ANY($1::uuid[]) ORDER BY order_id, attempt",  # noqa: S608
        order_ids,
    )
    return [from_row(Payment, row) for row in rows]


async def payment(db: Statements, payment_id: UUID) -> Payment | None:
    row = await db.fetchrow(f"SELECT {_PAYMENT} FROM payment WHERE id = $1", payment_id)  # noqa: S608
    return None if row is None else from_row(Payment, row)


async def lock_keys(tx: Transaction, requests: Sequence[PaymentRequest]) -> None:
    """Lock the Idempotency-Keys of these requests until the transaction ends.

    Keys are locked after orders, and in one order everywhere, so that two batches cannot deadlock.
    """
    await tx.execute(
        "SELECT pg_advisory_xact_lock(number) FROM ("
        "SELECT DISTINCT hashtextextended(buyer_id::text || key, 0) AS number "
        "FROM unnest($1::uuid[], $2::text[]) AS request (buyer_id, key) ORDER BY number) AS numbers",
        *columns(requests, "buyer_id", "idempotency_key"),
    )


async def payments_by_key(db: Statements, requests: Sequence[PaymentRequest]) -> list[Payment]:
    """Return the payments that the buyers of these requests began with the same Idempotency-Keys."""
    rows = await db.fetch(
        f"SELECT {_PAYMENT} FROM payment "  # noqa: S608
        "WHERE (buyer_id, idempotency_key) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))",
        *columns(requests, "buyer_id", "idempotency_key"),
    )
    return [from_row(Payment, row) for row in rows]


async def payments_at_stripe(
    db: Statements, payment_ids: Sequence[UUID], stripe_ids: Sequence[str]
) -> tuple[dict[UUID, Payment], dict[str, Payment]]:
    """Return the payments with these ids, and those with these ids at Stripe."""
    rows = await db.fetch(
        f"SELECT {_PAYMENT} FROM payment WHERE id = ANY($1::uuid[]) OR stripe_id = ANY($2::text[])",  # noqa: S608
        payment_ids,
        stripe_ids,
    )
    found = [from_row(Payment, row) for row in rows]
    return {each.id: each for each in found}, {each.stripe_id: each for each in found if each.stripe_id is not None}


async def orders_of_payments(tx: Transaction, payment_ids: Sequence[UUID]) -> list[UUID]:
    """Return the ids of the orders that these payments are for."""
    rows = await tx.fetch("SELECT DISTINCT order_id FROM payment WHERE id = ANY($1::uuid[])", payment_ids)
    return [row["order_id"] for row in rows]


async def add_payments(tx: Transaction, added: Sequence[Payment]) -> None:
    if added:
        await tx.execute(
            "INSERT INTO payment (id, order_id, attempt, buyer_id, amount_cents, currency, token, idempotency_key, "
            "traceparent, created_at, due_at) "
            "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::smallint[], $4::uuid[], $5::bigint[], $6::text[], "
            "$7::text[], $8::text[], $9::text[], $10::timestamptz[], $11::timestamptz[])",
            *columns(
                added,
                *("id", "order_id", "attempt", "buyer_id", "amount_cents", "currency", "token", "idempotency_key"),
                *("traceparent", "created_at", "due_at"),
            ),
        )


async def save_payments(tx: Transaction, changed: Sequence[Payment]) -> None:
    """Write what may change of payments whose orders are locked, and wake the job that settles them if one is due."""
    if not changed:
        return
    tag = await tx.execute(
        "UPDATE payment SET state = changed.state, wanted = changed.wanted, stripe_id = changed.stripe_id, "
        "client_secret = changed.client_secret, action_url = changed.action_url, reason_code = changed.reason_code, "
        "reason = changed.reason, traceparent = changed.traceparent, due_at = changed.due_at, tries = changed.tries, "
        "checked_at = changed.checked_at, refusals = changed.refusals, refunded_cents = changed.refunded_cents "
        "FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], "
        "$9::text[], $10::timestamptz[], $11::integer[], $12::integer[], $13::bigint[], $14::timestamptz[]) "
        "AS changed (id, state, wanted, stripe_id, client_secret, action_url, reason_code, reason, traceparent, "
        "due_at, tries, refusals, refunded_cents, checked_at) "
        "WHERE payment.id = changed.id",
        *columns(
            changed,
            *("id", "state", "wanted", "stripe_id", "client_secret", "action_url", "reason_code", "reason"),
            *("traceparent", "due_at", "tries", "refusals", "refunded_cents", "checked_at"),
        ),
    )
    assert affected_rows(tag) == len(changed), "a payment that was read for a change is gone"
    if any(each.due_at is not None and each.due_at <= tx.now for each in changed):
        tx.wake(SETTLE_PAYMENTS)


async def make_due(tx: Transaction, payment_ids: Sequence[UUID]) -> None:
    """Make payments due now and wake the job that settles them."""
    await tx.execute("UPDATE payment SET due_at = instant(), tries = 0 WHERE id = ANY($1::uuid[])", payment_ids)
    tx.wake(SETTLE_PAYMENTS)


async def make_waiting_due(database: Database, order_id: UUID, checked_seconds: float) -> None:
    """Make an order's payment that waits for its buyer due now, unless it is being checked or was so lately."""
    tag = await database.execute(
        "UPDATE payment SET due_at = instant() WHERE order_id = $1 AND state = 'requires_action' AND wanted IS NULL "
        "AND tries = 0 AND due_at > instant() AND checked_at < instant() - make_interval(secs => $2)",
        order_id,
        checked_seconds,
    )
    if affected_rows(tag):
        database.signal(SETTLE_PAYMENTS).set()


_TAKEN: Final = ", ".join(f"taken.{each}" for each in Payment.__struct_fields__)
_ITS_ORDER: Final = ", ".join(f"orders.{each} AS order_{each}" for each in OrderReplica.__struct_fields__)


async def take_due(db: Statements, limit: int) -> list[tuple[Payment, OrderReplica, datetime]]:
    """Lease payments that are due to the caller; return them with their orders and the time of the lease.

    A rebuilt payment waits until its order is known.
    """
    rows = await db.fetch(
        f"""
        WITH due AS (
            SELECT id FROM payment
            WHERE due_at <= instant() AND EXISTS (SELECT FROM orders WHERE orders.id = order_id)
            ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED
        ),
        taken AS (
            UPDATE payment SET due_at = instant() + make_interval(secs => $2), tries = tries + 1
            FROM due WHERE payment.id = due.id RETURNING payment.*
        )
        SELECT {_TAKEN}, {_ITS_ORDER}, instant() AS taken_at FROM taken JOIN orders ON orders.id = taken.order_id
        """,  # noqa: S608
        limit,
        LEASE_SECONDS,
    )
    return [(from_row(Payment, row), _order_beside(row), row["taken_at"]) for row in rows]


def _order_beside(row: Row) -> OrderReplica:
    return OrderReplica(**{name: row[f"order_{name}"] for name in OrderReplica.__struct_fields__})


# Webhooks


class StoredWebhook(msgspec.Struct, frozen=True):
    """A webhook that was not processed yet; `age_seconds` since it arrived."""

    number: int
    body: str
    age_seconds: float


async def add_webhooks(database: Database, webhooks: Sequence[tuple[str, str]]) -> None:
    """Store webhooks (event id, body) as they arrived, except known ones, and wake the job that processes them."""
    await database.execute(
        "INSERT INTO webhook (source, event_id, body) "
        "SELECT 'stripe', * FROM unnest($1::text[], $2::text[]) ON CONFLICT DO NOTHING",
        [event_id for event_id, _ in webhooks],
        [body for _, body in webhooks],
    )
    database.signal(PROCESS_WEBHOOKS).set()


async def unprocessed_webhooks(db: Statements, limit: int) -> list[StoredWebhook]:
    rows = await db.fetch(
        "SELECT number, body, extract(epoch FROM instant() - received_at)::float8 AS age_seconds "
        "FROM webhook WHERE processed_at IS NULL ORDER BY number LIMIT $1",
        limit,
    )
    return [from_row(StoredWebhook, row) for row in rows]


async def finish_webhooks(tx: Transaction, outcomes: Sequence[tuple[int, str]]) -> None:
    """Record the outcomes of processed webhooks, by number."""
    await tx.execute(
        "UPDATE webhook SET processed_at = instant(), outcome = processed.outcome "
        "FROM unnest($1::bigint[], $2::text[]) AS processed (number, outcome) WHERE webhook.number = processed.number",
        [number for number, _ in outcomes],
        [outcome for _, outcome in outcomes],
    )


async def delete_old_webhooks(db: Statements, days: int) -> None:
    """Delete webhooks that were processed and are so old that Stripe does not send them again."""
    await db.execute(
        "DELETE FROM webhook WHERE processed_at IS NOT NULL AND received_at < instant() - make_interval(days => $1)",
        days,
    )


# The installation


class Binding(msgspec.Struct, frozen=True):
    """This installation's id at Stripe, the database it belongs to, and the one its data is in."""

    id: UUID
    database: str
    present_database: str


async def bind_installation(db: Statements) -> Binding:
    """Return the installation, which belongs to this database if it belongs to none yet."""
    row = await db.fetchrow(
        "UPDATE installation SET database = coalesce(database, present_database()) "
        "RETURNING id, database, present_database()"
    )
    assert row is not None
    return from_row(Binding, row)


async def bind_account(db: Statements, account: str) -> str:
    """Return the account of Stripe that the payments are in, which is the given one if none is known yet."""
    row = await db.fetchrow(
        "UPDATE installation SET stripe_account = coalesce(stripe_account, $1) RETURNING stripe_account", account
    )
    assert row is not None
    return str(row["stripe_account"])


async def add_unknown_intents(db: Statements, found: Sequence[tuple[str, datetime]]) -> None:
    """Keep intents (id, time of creation) that no payment knows, except those that are kept already."""
    await db.execute(
        "INSERT INTO unknown_intent (stripe_id, created_at) "
        "SELECT * FROM unnest($1::text[], $2::timestamptz[]) ON CONFLICT DO NOTHING",
        [stripe_id for stripe_id, _ in found],
        [created_at for _, created_at in found],
    )


async def unknown_intents_after(db: Statements, stripe_id: str, limit: int) -> list[tuple[str, bool]]:
    """Return the ids of unknown intents that follow one, in order, and whether each may be canceled."""
    rows = await db.fetch(
        "SELECT stripe_id, coalesce(created_at < cancel_unknown_before, false) AS may_cancel "
        "FROM unknown_intent CROSS JOIN installation WHERE stripe_id > $1 ORDER BY stripe_id LIMIT $2",
        stripe_id,
        limit,
    )
    return [(row["stripe_id"], row["may_cancel"]) for row in rows]


async def delete_unknown_intent(db: Statements, stripe_id: str) -> None:
    await db.execute("DELETE FROM unknown_intent WHERE stripe_id = $1", stripe_id)


async def cancel_unknown_intents(tx: Transaction) -> None:
    """Let intents be canceled that no payment knows and that were created before now."""
    await tx.execute("UPDATE installation SET cancel_unknown_before = instant()")


async def adopt_database(tx: Transaction) -> None:
    """Let the data belong to the database it is in."""
    await tx.execute("UPDATE installation SET database = present_database()")


async def forget_account(tx: Transaction) -> None:
    """Let the data belong to the account whose key is used next."""
    await tx.execute("UPDATE installation SET stripe_account = NULL")


async def renew_installation(tx: Transaction) -> None:
    """Give the installation another id, by which its payments differ from the original's."""
    await tx.execute("UPDATE installation SET id = gen_random_uuid()")
    await tx.execute("DELETE FROM unknown_intent")


async def abandon_payments(tx: Transaction) -> int:
    """End every open payment without a request to Stripe; return how many there were."""
    tag = await tx.execute(
        "UPDATE payment SET wanted = NULL, due_at = NULL, "
        "state = CASE WHEN is_open THEN 'failed' ELSE state END, "
        "reason_code = CASE WHEN is_open THEN 'abandoned' ELSE reason_code END, "
        "reason = CASE WHEN is_open THEN 'The payment belongs to another installation' ELSE reason END "
        "FROM (SELECT id, state IN ('created', 'requires_action', 'authorized') AS is_open FROM payment) AS found "
        "WHERE found.id = payment.id AND (is_open OR due_at IS NOT NULL)"
    )
    return affected_rows(tag)


async def reconciled_until(db: Statements) -> datetime:
    """Return the time, by Stripe's clock, up to which payments were compared with its list."""
    until = await db.fetchval("SELECT reconciled_until FROM installation")
    assert isinstance(until, datetime)
    return until


async def save_reconciled_until(db: Statements, until: datetime) -> None:
    await db.execute("UPDATE installation SET reconciled_until = greatest(reconciled_until, $1)", until)


# Gauges


async def seconds_unsettled(db: Statements) -> float:
    """Return the age of the oldest payment for which something is wanted at Stripe or whose outcome is open."""
    seconds = await db.fetchval(
        "SELECT extract(epoch FROM instant() - min(created_at)) FROM payment WHERE due_at IS NOT NULL"
    )
    return float(seconds or 0)


async def webhooks_waiting(db: Statements) -> float:
    return float(await db.fetchval("SELECT count(*) FROM webhook WHERE processed_at IS NULL"))


async def unknown_intents(db: Statements) -> float:
    return float(await db.fetchval("SELECT count(*) FROM unknown_intent"))
