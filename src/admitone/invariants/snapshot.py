"""What the invariants are checked against: every database at one instant, the provider's list, the client history."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg
import msgspec

from admitone.events import Offer
from admitone.kernel.database.pool import column_list
from admitone.kernel.service import Service

Rows = Sequence[asyncpg.Record]

# An order in one of these statuses holds its ticket and can still end in either way.
LIVE: Final = frozenset({"created", "awaiting:payment"})

_PAYMENTS: Final = "SELECT id, order_id, buyer_id, amount_cents, currency, state FROM payment"
_OFFER: Final = column_list(Offer)
_ORDERS: Final = f"""
SELECT id, version, status, buyer_id, ticket_id, ticket_version, ticket_revision, expires_at, payment_id, cancel_reason,
    {_OFFER}
FROM orders
"""  # noqa: S608
# What tickets has of a ticket, and orders of its replica.
TICKET_COLUMNS: Final = f"id, version, revision, seller_id, status, order_id, {_OFFER}"
_TICKETS: Final = f"SELECT {TICKET_COLUMNS} FROM ticket"  # noqa: S608


class ClientRecord(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    omit_defaults=True,
    rename={"action": "did", "price_cents": "priceCents"},
):
    """One request as its client saw it.

    `answered` means success. `unknown` means that no response arrived (a broken connection, a 5xx): it may have had its
    effect or not. A request repeated with its Idempotency-Key is one record. A payment that still needs the buyer is
    unknown.
    """

    action: Literal["sign up", "list", "edit", "order", "cancel", "pay"]
    outcome: Literal["answered", "refused", "unknown"]
    person: UUID
    ticket: UUID | None = None
    order: UUID | None = None
    title: str | None = None
    version: int | None = None
    price_cents: int | None = None


class ProviderIntent(msgspec.Struct, frozen=True):
    """One payment in the provider's books; `taken_cents` is what the buyer is charged after refunds.

    A part that was refunded in Stripe's dashboard leaves a charge of the whole amount.
    """

    id: str
    status: str
    amount_cents: int
    taken_cents: int
    currency: str
    order_id: UUID
    payment_id: UUID
    refunded_cents: int = 0


@dataclass(frozen=True)
class TakenCharge:
    """Money taken for an order; the provider does not know the buyer."""

    name: str
    order_id: UUID
    amount_cents: int
    currency: str
    buyer: UUID | None = None


class Snapshot:
    """Every database at one instant each, and the provider's list as it was just before.

    The provider is read first, so that a charge is never seen without the order it was taken for.
    """

    def __init__(
        self,
        connections: Mapping[str, "asyncpg.Connection[Any]"],
        services: Sequence[Service],
        history: Sequence[ClientRecord],
        intents: Sequence[ProviderIntent] | None,
    ) -> None:
        self._connections = connections
        self.services = [each for each in services if each.has_database]
        self.history = history
        self.intents = intents
        self.tickets: Mapping[UUID, asyncpg.Record] = {}
        self.orders: Mapping[UUID, asyncpg.Record] = {}
        self.payments: Mapping[UUID, asyncpg.Record] = {}

    async def rows(self, service: str, sql: str, *arguments: object) -> Rows:
        rows: Rows = await self._connections[service].fetch(sql, *arguments)
        return rows

    async def load(self) -> None:
        """Read what several invariants compare."""
        self.payments = {row["id"]: row for row in await self.rows("payments", _PAYMENTS)}
        self.orders = {row["id"]: row for row in await self.rows("orders", _ORDERS)}
        self.tickets = {row["id"]: row for row in await self.rows("tickets", _TICKETS)}

    @cached_property
    def charges(self) -> list[TakenCharge]:
        """Every charge that was not refunded, from our own books and from the provider's where they can be read."""
        ours = [
            TakenCharge(f"payment {row['id']}", row["order_id"], row["amount_cents"], row["currency"], row["buyer_id"])
            for row in self.payments.values()
            if row["state"] == "captured"
        ]
        theirs = [
            TakenCharge(f"charge {each.id}", each.order_id, each.taken_cents + each.refunded_cents, each.currency)
            for each in self.intents or ()
            if each.taken_cents
        ]
        return ours + theirs
