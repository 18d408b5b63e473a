"""What the pages know of the other services: their HTTP API, typed."""

from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

import msgspec

TicketStatus = Literal["available", "reserved", "sold"]
OrderStatus = Literal["created", "awaiting:payment", "complete", "cancelled"]


class Ticket(msgspec.Struct, frozen=True, rename="camel"):
    """A ticket as the tickets service shows it."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    user_id: UUID
    version: int
    status: TicketStatus
    order_id: UUID | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None

    @property
    def place(self) -> str:
        """Where one sits, in words: `Section A, row 3, seat 12`."""
        named = (("section", self.section), ("row", self.row), ("seat", self.seat))
        text = ", ".join(f"{name} {value}" for name, value in named if value)
        return text[:1].upper() + text[1:]
