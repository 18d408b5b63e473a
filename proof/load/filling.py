"""Fills a marketplace with tickets, as if their events had passed."""

import asyncio
from typing import Final
from uuid import UUID

from proof.marketplace import Marketplace

SELLER: Final = UUID("00000000-0000-7000-8000-00000000a11c")

# Each statement gets the seller, the number of the first ticket, and how many; _ORDERS the buyer, too.
_NUMBERED: Final = """
(SELECT n, ('00000000-0000-7000-8000-' || lpad(to_hex($2::bigint + n), 12, '0'))::uuid AS id
FROM generate_series(0, $3::bigint - 1) AS n) AS numbered
"""
_TICKETS: Final = f"""
INSERT INTO ticket (id, seller_id, title, price_cents, currency, event_date, venue, words, shown)
SELECT id, $1, title, price_cents, 'usd', instant() + make_interval(days => (n % 300)::integer), venue,
    to_tsvector('simple', title || ' ' || venue), ''
FROM (
    SELECT n, id,
        (ARRAY['Fado night', 'Rainbow Chasers', 'Midsummer Quartet', 'Harbour derby', 'The Winter Play'])[n % 5 + 1]
            || ', company c' || n % 100 || ', seat ' || $2::bigint + n AS title,
        500 + (n * 7919) % 20000 AS price_cents,
        (ARRAY['Lisbon', 'Old Vic', 'Harbour Arena', 'Town Hall'])[n % 4 + 1] AS venue
    FROM {_NUMBERED}
) AS made
"""
REPLICAS: Final = f"""
INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status)
SELECT id, 0, 'Seat ' || n, 500 + (n * 7919) % 20000, 'usd', $1, 'available' FROM {_NUMBERED}
"""
_SOLD_TICKETS: Final = f"""
INSERT INTO ticket (id, version, seller_id, title, price_cents, currency, status, order_id, words, shown)
SELECT id, 2, $1, 'Seat ' || n, 2000, 'usd', 'sold', id, to_tsvector('simple', 'Seat ' || n), '{{}}' FROM {_NUMBERED}
"""
_SOLD_REPLICAS: Final = f"""
INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status, order_id)
SELECT id, 2, 'Seat ' || n, 2000, 'usd', $1, 'sold', id FROM {_NUMBERED}
"""
# Each buyer has ten orders, but for $4, who has the first 40.
_ORDERS: Final = f"""
INSERT INTO orders (id, version, status, buyer_id, ticket_id, ticket_version, title, price_cents, currency, expires_at,
    payment_id)
SELECT id, 2, 'complete',
    CASE WHEN n < 40 THEN $4::uuid ELSE ('00000000-0000-7000-9000-' || lpad(to_hex(n / 10), 12, '0'))::uuid END,
    id, 0, 'Seat ' || n, 2000, 'usd', instant() + interval '15 minutes', id
FROM {_NUMBERED} WHERE $1::uuid IS NOT NULL
"""


class Filler:
    """Adds tickets that are numbered one after another."""

    def __init__(self, marketplace: Marketplace) -> None:
        self._marketplace = marketplace
        self.next_number = 1 << 32

    async def list_tickets(self, count: int) -> list[UUID]:
        """Put tickets on sale, in tickets' database and in orders' replica."""
        execute, first = self._marketplace.execute, self._take(count)
        await asyncio.gather(
            execute("tickets", _TICKETS, SELLER, first, count), execute("orders", REPLICAS, SELLER, first, count)
        )
        for service in ("tickets", "orders"):
            await execute(service, "VACUUM ANALYZE ticket")
        return [UUID(f"00000000-0000-7000-8000-{first + number:012x}") for number in range(count)]

    async def sell_tickets(self, count: int, buyer: UUID) -> None:
        """Add tickets that were sold before, with their orders; 40 of them are the buyer's."""
        execute, first = self._marketplace.execute, self._take(count)
        await execute("tickets", "ALTER TABLE ticket DISABLE TRIGGER guard_ticket")
        await asyncio.gather(
            execute("tickets", _SOLD_TICKETS, SELLER, first, count),
            execute("orders", _SOLD_REPLICAS, SELLER, first, count),
            execute("orders", _ORDERS, SELLER, first, count, buyer),
        )
        await execute("tickets", "ALTER TABLE ticket ENABLE TRIGGER guard_ticket")
        await execute("orders", "VACUUM ANALYZE orders")

    async def checkpoint(self) -> None:
        """Let PostgreSQL write everything to disk, so that it need not do so during a measurement."""
        await self._marketplace.execute("postgres", "CHECKPOINT")

    def _take(self, count: int) -> int:
        first, self.next_number = self.next_number, self.next_number + count
        return first
