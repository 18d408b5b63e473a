"""The client of the other services' HTTP API, and the JSON it returns as types."""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from decimal import Decimal
from http.cookies import SimpleCookie
from typing import Any, Final, Literal, TypeVar
from uuid import UUID

import httpx
import msgspec
from starlette.requests import Request as HttpRequest

from admitone.events import OrderStatus, TicketStatus
from admitone.kernel import errors
from admitone.kernel.errors import FieldError, Refusal, Unavailable
from admitone.kernel.http.app import ErrorBody, status_of
from admitone.kernel.http.client_address import UNKNOWN, client_address
from admitone.kernel.http.sessions import Sessions, session_tokens
from admitone.kernel.tracing import current_traceparent

PaymentStatus = Literal["pending", "requires_action", "authorized", "captured", "voided", "failed", "refunded"]

_SERVICES: Final = ("auth", "tickets", "orders", "payments")
_ETAG: Final = re.compile(r'"[0-9]+"')
_SECTION_CODE_CHARACTERS_MAX: Final = 3
_ENCODER: Final = msgspec.json.Encoder(decimal_format="number")

T = TypeVar("T")


class TicketJson(msgspec.Struct, frozen=True, rename="camel"):
    """A ticket, as the tickets service returns it."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    user_id: UUID
    version: int
    status: TicketStatus
    created_at: datetime
    order_id: UUID | None = None
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None
    face_value: Decimal | None = None

    @property
    def place(self) -> str:
        """The seat in words: `Section E4, row 3, seat 12`, or `Balcony, row F` if the section has a name."""
        is_code = self.section and len(self.section) <= _SECTION_CODE_CHARACTERS_MAX
        section = f"Section {self.section}" if is_code else self.section
        row = f"row {self.row}" if self.row else None
        seat = f"seat {self.seat}" if self.seat else None
        text = ", ".join(part for part in (section, row, seat) if part)
        return text[:1].upper() + text[1:]


class TicketListJson(msgspec.Struct, frozen=True):
    """One page of tickets; `cursor` leads to the next page."""

    tickets: list[TicketJson]
    cursor: str | None = None


class OrderedTicketJson(msgspec.Struct, frozen=True, rename="camel"):
    """The ticket as it was when it was ordered."""

    id: UUID
    title: str
    price: Decimal
    currency: str
    version: int
    event_date: datetime | None = None
    venue: str | None = None
    section: str | None = None
    row: str | None = None
    seat: str | None = None
    note: str | None = None
    face_value: Decimal | None = None


class OrderJson(msgspec.Struct, frozen=True, rename="camel"):
    """An order of the user, as the orders service returns it; `now` is that service's clock."""

    id: UUID
    user_id: UUID
    status: OrderStatus
    created_at: datetime
    expires_at: datetime
    now: datetime
    version: int
    ticket: OrderedTicketJson
    cancel_reason: str | None = None


class OrderListJson(msgspec.Struct, frozen=True):
    """One page of orders; `cursor` leads to the next page."""

    orders: list[OrderJson]
    cursor: str | None = None


class PaymentActionJson(msgspec.Struct, frozen=True, rename="camel"):
    """How the buyer authenticates to the bank: on the page at `url`, or with Stripe's script and the secret."""

    client_secret: str
    url: str | None = None


class PaymentJson(msgspec.Struct, frozen=True, rename="camel"):
    """One attempt to pay an order."""

    id: UUID
    status: PaymentStatus
    reason: str | None = None
    action: PaymentActionJson | None = None

    @property
    def is_unclear(self) -> bool:
        """Whether money may have moved: nobody should pay again before the outcome is known."""
        return self.status in {"pending", "authorized", "captured"}


class PaymentListJson(msgspec.Struct, frozen=True, rename="camel"):
    """All attempts to pay an order, newest first, and how many more are allowed."""

    payments: list[PaymentJson]
    attempts_left: int

    @property
    def last(self) -> PaymentJson | None:
        return self.payments[0] if self.payments else None


class ServiceRefused(Exception):
    """Another service refused a request, or cannot be reached"""

    def __init__(self, kind: type[Refusal], errors: list[FieldError], retry_after_seconds: int | None) -> None:
        super().__init__(kind.__name__)
        self.kind = kind
        self.errors = errors
        self.retry_after_seconds = retry_after_seconds


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


class ForwardedClient(msgspec.Struct, frozen=True):
    """The browser's session cookies and IP address, which requests to other services carry."""

    cookies: str | None
    ip_address: str

    @classmethod
    def of(cls, request: HttpRequest, sessions: Sessions, *, trust_proxy: bool) -> "ForwardedClient":
        """Return the client of a request; other services find out which of the cookies is valid, as this one does."""
        address = client_address(request.scope, trust_proxy=trust_proxy)
        cookies = [f"{sessions.cookie}={each}" for each in session_tokens(request.headers, sessions.cookie)]
        return cls("; ".join(cookies) or None, str(address or UNKNOWN))


class ApiClient:
    """The other services' API. Every method raises ServiceRefused unless the service answers with success."""

    def __init__(self, client_of: Callable[[str], httpx.AsyncClient]) -> None:
        self._clients = {service: client_of(service) for service in _SERVICES}

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()

    async def _send(
        self,
        service: str,
        method: str,
        path: str,
        client: ForwardedClient | None = None,
        *,
        body: object = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        sent = {**(headers or {})}
        if (traceparent := current_traceparent()) is not None:
            sent["traceparent"] = traceparent
        if client is not None:
            if client.cookies is not None:
                sent["cookie"] = client.cookies
            sent["x-forwarded-for"] = client.ip_address
        content = None
        if body is not None:
            content = _ENCODER.encode(body)
            sent["content-type"] = "application/json"
        try:
            response = await self._clients[service].request(method, path, params=query, content=content, headers=sent)
        except httpx.TransportError:
            raise ServiceRefused(Unavailable, Unavailable().errors, Unavailable.retry_after_seconds) from None
        if response.is_success:
            return response
        raise _refused(response)

    # auth: each method returns the cookies to set

    async def sign_up(self, client: ForwardedClient, fields: Mapping[str, str], key: str) -> list[str]:
        headers = {"idempotency-key": key}
        return _cookies(await self._send("auth", "POST", "/api/users/signup", client, body=fields, headers=headers))

    async def sign_in(self, client: ForwardedClient, fields: Mapping[str, str]) -> list[str]:
        return _cookies(await self._send("auth", "POST", "/api/users/signin", client, body=fields))

    async def sign_out(self, client: ForwardedClient) -> list[str]:
        return _cookies(await self._send("auth", "POST", "/api/users/signout", client))

    async def sign_out_everywhere(self, client: ForwardedClient) -> list[str]:
        return _cookies(await self._send("auth", "POST", "/api/users/signout-everywhere", client))

    async def is_signed_in(self, client: ForwardedClient) -> bool:
        """Whether auth accepts the session; it also knows those that were revoked before this process started."""
        response = await self._send("auth", "GET", "/api/users/currentuser", client)
        return bool(msgspec.json.decode(response.content)["currentUser"])

    async def change_account(self, client: ForwardedClient, fields: Mapping[str, str]) -> list[str]:
        return _cookies(await self._send("auth", "PUT", "/api/users/currentuser", client, body=fields))

    # tickets

    async def tickets(self, query: Mapping[str, str]) -> bytes:
        """Return tickets that can be bought now, as JSON; `parse_tickets` parses it."""
        return (await self._send("tickets", "GET", "/api/tickets", query=query)).content

    async def tickets_of_user(self, client: ForwardedClient, query: Mapping[str, str]) -> TicketListJson:
        response = await self._send("tickets", "GET", "/api/tickets/mine", client, query=query)
        return parse_tickets(response.content)

    async def ticket(self, ticket_id: UUID) -> tuple[TicketJson, str]:
        """Return a ticket in any status, and the ETag that an edit of this version must carry."""
        response = await self._send("tickets", "GET", f"/api/tickets/{ticket_id}")
        return _parse(response, TicketJson), response.headers.get("etag", "")

    async def create_ticket(self, client: ForwardedClient, fields: Mapping[str, Any], key: str) -> TicketJson:
        headers = {"idempotency-key": key}
        response = await self._send("tickets", "POST", "/api/tickets", client, body=fields, headers=headers)
        return _parse(response, TicketJson)

    async def edit_ticket(
        self, client: ForwardedClient, ticket_id: UUID, fields: Mapping[str, Any], etag: str
    ) -> TicketJson:
        headers = {"if-match": etag if _ETAG.fullmatch(etag) else '""'}
        response = await self._send("tickets", "PUT", f"/api/tickets/{ticket_id}", client, body=fields, headers=headers)
        return _parse(response, TicketJson)

    # orders

    async def create_order(self, client: ForwardedClient, ticket_id: UUID, key: str) -> OrderJson:
        body, headers = {"ticketId": ticket_id}, {"idempotency-key": key}
        response = await self._send("orders", "POST", "/api/orders", client, body=body, headers=headers)
        return _parse(response, OrderJson)

    async def orders(self, client: ForwardedClient, query: Mapping[str, str]) -> OrderListJson:
        return _parse(await self._send("orders", "GET", "/api/orders", client, query=query), OrderListJson)

    async def order(self, client: ForwardedClient, order_id: UUID) -> OrderJson:
        return _parse(await self._send("orders", "GET", f"/api/orders/{order_id}", client), OrderJson)

    async def cancel_order(self, client: ForwardedClient, order_id: UUID) -> None:
        await self._send("orders", "DELETE", f"/api/orders/{order_id}", client)

    # payments

    async def pay(self, client: ForwardedClient, order_id: UUID, token: str, key: str) -> None:
        body, headers = {"orderId": order_id, "token": token}, {"idempotency-key": key}
        await self._send("payments", "POST", "/api/payments", client, body=body, headers=headers)

    async def payments(self, client: ForwardedClient, order_id: UUID) -> PaymentListJson:
        query = {"orderId": str(order_id)}
        return _parse(await self._send("payments", "GET", "/api/payments", client, query=query), PaymentListJson)


def parse_tickets(content: bytes) -> TicketListJson:
    return msgspec.json.decode(content, type=TicketListJson)


def _parse(response: httpx.Response, kind: type[T]) -> T:
    return msgspec.json.decode(response.content, type=kind)


def _cookies(response: httpx.Response) -> list[str]:
    return response.headers.get_list("set-cookie")


def session_of(cookies: Iterable[str], name: str) -> str | None:
    """Return the session token that cookies to set contain, in the one of this name."""
    jar: SimpleCookie = SimpleCookie()
    for cookie in cookies:
        jar.load(cookie)
    return jar[name].value if name in jar else None


def _refused(response: httpx.Response) -> ServiceRefused:
    try:
        errors = msgspec.json.decode(response.content, type=ErrorBody).errors
    except msgspec.MsgspecError:
        errors = []
    retry_after = response.headers.get("retry-after", "")
    kind = _KINDS.get(response.status_code, Unavailable)
    return ServiceRefused(kind, errors, int(retry_after) if retry_after.isdigit() else None)
