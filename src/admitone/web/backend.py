"""What the pages know of the other services: their HTTP API, typed, and nothing else."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import httpx
import msgspec
from starlette.requests import Request

from admitone.kernel import errors
from admitone.kernel.errors import FieldError, Refusal, Unavailable
from admitone.kernel.http.app import session_token, status_of
from admitone.kernel.http.client_address import client_address
from admitone.kernel.http.sessions import COOKIE
from admitone.kernel.tracing import current_traceparent

TicketStatus = Literal["available", "reserved", "sold"]
OrderStatus = Literal["created", "awaiting:payment", "complete", "cancelled"]

_TOKEN: Final = re.compile(r"[0-9A-Za-z_.-]+")
_TAG: Final = re.compile(r'"[0-9]+"')
_CODE_CHARACTERS_MAX: Final = 3
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")

T = TypeVar("T")


class Ticket(msgspec.Struct, frozen=True, rename="camel"):
    """A ticket as the tickets service shows it."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    user_id: UUID
    version: int
    status: TicketStatus
    created_at: datetime
    face_value: Decimal | None = None
    order_id: UUID | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None

    @property
    def place(self) -> str:
        """Where one sits, in words: `Section E4, row 3, seat 12`, or `Balcony, row F` where the section has a name."""
        section = (
            f"Section {self.section}" if self.section and len(self.section) <= _CODE_CHARACTERS_MAX else self.section
        )
        row = f"row {self.row}" if self.row else None
        seat = f"seat {self.seat}" if self.seat else None
        text = ", ".join(part for part in (section, row, seat) if part)
        return text[:1].upper() + text[1:]


class TicketPage(msgspec.Struct, frozen=True):
    """Some tickets, and where the next ones begin."""

    tickets: list[Ticket]
    cursor: str | None = None


class OrderedTicket(msgspec.Struct, frozen=True):
    """The ticket as it was when it was ordered."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    version: int


class Order(msgspec.Struct, frozen=True, rename="camel"):
    """One's own order as the orders service shows it; `now` is that service's clock when it answered."""

    id: UUID
    user_id: UUID
    status: OrderStatus
    created_at: datetime
    expires_at: datetime
    now: datetime
    version: int
    ticket: OrderedTicket
    cancel_reason: str | None = None


class OrderPage(msgspec.Struct, frozen=True):
    """Some orders, and where the next ones begin."""

    orders: list[Order]
    cursor: str | None = None


PaymentStatus = Literal["pending", "requires_action", "authorized", "captured", "voided", "failed", "refunded"]


class Confirmation(msgspec.Struct, frozen=True, rename="camel"):
    """How a buyer tells the bank that it is them: on the page at `url`, or by Stripe's script with the secret."""

    client_secret: str
    url: str | None = None


class Payment(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt to pay an order."""

    id: UUID
    status: PaymentStatus
    reason: str | None = None
    action: Confirmation | None = None

    @property
    def is_unclear(self) -> bool:
        """Whether the money may be on its way: nobody should pay again before that is known."""
        return self.status in {"pending", "authorized", "captured"}


class Payments(msgspec.Struct, frozen=True, rename="camel"):
    """Every attempt to pay an order, newest first, and how many more there may be."""

    payments: list[Payment]
    attempts_left: int

    @property
    def last(self) -> Payment | None:
        return self.payments[0] if self.payments else None


class Session(msgspec.Struct, frozen=True):
    """What signing in gives: the cookies to set."""

    cookies: tuple[str, ...]


class Refused(Exception):
    """Another service said no"""

    def __init__(self, kind: type[Refusal], errors: list[FieldError], retry_after_seconds: int | None) -> None:
        super().__init__(kind.__name__)
        self.kind = kind
        self.errors = errors
        self.retry_after_seconds = retry_after_seconds


class _ErrorBody(msgspec.Struct):
    errors: list[FieldError] = []


_KINDS: Final[Mapping[int, type[Refusal]]] = {
    status_of(kind): kind
    for kind in (
        errors.Invalid,
        errors.NotSignedIn,
        errors.PaymentRequired,
        errors.Forbidden,
        errors.NotFound,
        errors.Conflict,
        errors.PreconditionFailed,
        errors.BodyTooLarge,
        errors.IdempotencyKeyReused,
        errors.TooManyRequests,
        errors.Unavailable,
    )
}


class Caller(msgspec.Struct, frozen=True):
    """On whose behalf a service is asked: the browser's session and its address."""

    session: str | None
    address: str | None

    @classmethod
    def of(cls, request: Request, *, trust_proxy: bool) -> "Caller":
        """Return the caller of a request.

        What cannot be a token is left out, since it would become part of another request's headers.
        """
        address = client_address(request.scope, trust_proxy=trust_proxy)
        session = session_token(request) or ""
        return cls(session if _TOKEN.fullmatch(session) else None, str(address) if address else None)


class Backend:
    """The other services, as their callers see them. Every method raises Refused when a service says no."""

    def __init__(self, client_of: Callable[[str], httpx.AsyncClient]) -> None:
        self._clients = {service: client_of(service) for service in ("auth", "tickets", "orders", "payments")}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def ask(
        self,
        service: str,
        method: str,
        path: str,
        caller: Caller | None = None,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send one request and return its success; raises Refused for everything else."""
        sent = {**(headers or {})}
        if (traceparent := current_traceparent()) is not None:
            sent["traceparent"] = traceparent
        if caller is not None:
            if caller.session is not None:
                sent["cookie"] = f"{COOKIE}={caller.session}"
            if caller.address is not None:
                sent["x-forwarded-for"] = caller.address
        content = None
        if body is not None:
            content = _ENCODER.encode(body)
            sent["content-type"] = "application/json"
        try:
            response = await self._clients[service].request(method, path, params=query, content=content, headers=sent)
        except httpx.TransportError:
            raise Refused(Unavailable, Unavailable().errors, Unavailable.retry_after_seconds) from None
        if response.is_success:
            return response
        raise _refused(response)

    # auth

    async def sign_up(self, caller: Caller, fields: Mapping[str, str], key: str) -> Session:
        headers = {"idempotency-key": key}
        return _session(await self.ask("auth", "POST", "/api/users/signup", caller, body=fields, headers=headers))

    async def sign_in(self, caller: Caller, fields: Mapping[str, str]) -> Session:
        return _session(await self.ask("auth", "POST", "/api/users/signin", caller, body=fields))

    async def sign_out(self, caller: Caller) -> Session:
        return _session(await self.ask("auth", "POST", "/api/users/signout", caller))

    async def sign_out_everywhere(self, caller: Caller) -> Session:
        return _session(await self.ask("auth", "POST", "/api/users/signout-everywhere", caller))

    async def change_person(self, caller: Caller, fields: Mapping[str, str]) -> Session:
        return _session(await self.ask("auth", "PUT", "/api/users/currentuser", caller, body=fields))

    # tickets

    async def tickets(self, query: Mapping[str, str]) -> bytes:
        """Return the JSON of tickets that can be bought now; `ticket_page` reads it."""
        return (await self.ask("tickets", "GET", "/api/tickets", query=query)).content

    async def own_tickets(self, caller: Caller, query: Mapping[str, str]) -> TicketPage:
        response = await self.ask("tickets", "GET", "/api/tickets/mine", caller, query=query)
        return ticket_page(response.content)

    async def ticket(self, ticket_id: str) -> tuple[Ticket, str]:
        """Return a ticket in whatever state, and the tag that an edit of this version must carry."""
        response = await self.ask("tickets", "GET", f"/api/tickets/{ticket_id}")
        return _read(response, Ticket), response.headers.get("etag", "")

    async def create_ticket(self, caller: Caller, fields: Mapping[str, Any], key: str) -> Ticket:
        response = await self.ask(
            "tickets", "POST", "/api/tickets", caller, body=fields, headers={"idempotency-key": key}
        )
        return _read(response, Ticket)

    async def edit_ticket(self, caller: Caller, ticket_id: str, fields: Mapping[str, Any], tag: str) -> Ticket:
        response = await self.ask(
            "tickets",
            "PUT",
            f"/api/tickets/{ticket_id}",
            caller,
            body=fields,
            headers={"if-match": tag if _TAG.fullmatch(tag) else '""'},
        )
        return _read(response, Ticket)

    # orders

    async def create_order(self, caller: Caller, ticket_id: str, key: str) -> Order:
        response = await self.ask(
            "orders", "POST", "/api/orders", caller, body={"ticketId": ticket_id}, headers={"idempotency-key": key}
        )
        return _read(response, Order)

    async def orders(self, caller: Caller, query: Mapping[str, str]) -> OrderPage:
        return _read(await self.ask("orders", "GET", "/api/orders", caller, query=query), OrderPage)

    async def order(self, caller: Caller, order_id: str) -> Order:
        return _read(await self.ask("orders", "GET", f"/api/orders/{order_id}", caller), Order)

    async def cancel_order(self, caller: Caller, order_id: str) -> None:
        await self.ask("orders", "DELETE", f"/api/orders/{order_id}", caller)

    # payments

    async def pay(self, caller: Caller, order_id: str, token: str, key: str) -> None:
        body = {"orderId": order_id, "token": token}
        await self.ask("payments", "POST", "/api/payments", caller, body=body, headers={"idempotency-key": key})

    async def payments(self, caller: Caller, order_id: str) -> Payments:
        return _read(await self.ask("payments", "GET", "/api/payments", caller, query={"orderId": order_id}), Payments)


def ticket_page(content: bytes) -> TicketPage:
    return msgspec.json.decode(content, type=TicketPage)


def _read(response: httpx.Response, kind: type[T]) -> T:
    return msgspec.json.decode(response.content, type=kind)


def _session(response: httpx.Response) -> Session:
    return Session(tuple(response.headers.get_list("set-cookie")))


def _refused(response: httpx.Response) -> Refused:
    try:
        errors = msgspec.json.decode(response.content, type=_ErrorBody).errors
    except msgspec.MsgspecError:
        errors = []
    after = response.headers.get("retry-after", "")
    kind = _KINDS.get(response.status_code, Unavailable)
    return Refused(kind, errors, int(after) if after.isdigit() else None)
