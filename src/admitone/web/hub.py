"""What happens in the marketplace, told to open pages as it happens: one subscription, any number of browsers.

A browser that reconnects says what it heard last and gets what it missed; when that is too long ago, or the bus itself
was away, it is told to read its page again. The stream is a convenience: every page is right without it.
"""

import asyncio
import logging
from collections import OrderedDict, deque
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from admitone import events
from admitone.kernel import clock, ids
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.messaging.event import Event
from admitone.kernel.money import decimal_of
from admitone.web.words import money

log = logging.getLogger(__name__)

KEPT_MESSAGES: Final = 4096
HOLDS_MAX: Final = 20_000
UNSENT_BYTES_MAX: Final = 64 * 1024
_RECONNECT_MILLISECONDS: Final = 1000


class _TicketMessage(msgspec.Struct, frozen=True):
    """The public state of a ticket."""

    id: UUID
    state: str
    version: int
    title: str
    price: str


class _OrderMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something happened to an order, or to its payment; its page asks what."""

    id: UUID
    status: str | None = None


class _Kept(msgspec.Struct, frozen=True):
    number: int
    audience: UUID | None
    text: bytes


class Browser:
    """One open connection: what it may hear, and what is still to be sent to it."""

    __slots__ = ("_unsent", "_unsent_bytes", "_wake", "is_closed", "person")

    def __init__(self, person: SignedInUser | None) -> None:
        self.person = person
        self.is_closed = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._wake = asyncio.Event()

    def subscriptions(self, audience: UUID | None) -> bool:
        return audience is None or (self.person is not None and self.person.id == audience)

    def tell(self, text: bytes) -> bool:
        """Queue a message; False when the browser reads too slowly and was given up."""
        self._unsent_bytes += len(text)
        if self._unsent_bytes > UNSENT_BYTES_MAX:
            self.close()
            return False
        self._unsent.append(text)
        self._wake.set()
        return True

    def close(self) -> None:
        """End the connection; the browser comes back and says what it heard last."""
        self.is_closed = True
        self._unsent.clear()
        self._wake.set()

    async def next_messages(self) -> bytes:
        """Wait for messages and take all there are; empty once the connection is to end."""
        await self._wake.wait()
        self._wake.clear()
        messages = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        return messages


class Hub:
    """All open browsers of this process, and the last messages for those who come back."""

    def __init__(self) -> None:
        self._epoch = ids.new_token(4)
        self._number = 0
        self._kept: deque[_Kept] = deque(maxlen=KEPT_MESSAGES)
        self._browsers: set[Browser] = set()
        self._held_until: OrderedDict[UUID, datetime] = OrderedDict()
        self.is_listening = False
        """Whether events are heard as they pass."""

    @property
    def last_id(self) -> str:
        """The id of the last message: a page made now misses nothing that comes after it."""
        return f"{self._epoch}-{self._number}"

    def __len__(self) -> int:
        return len(self._browsers)

    def join(self, person: SignedInUser | None, last_id: str) -> Browser:
        """Add a browser that has heard everything up to `last_id`."""
        browser = Browser(person)
        browser.tell(f"retry: {_RECONNECT_MILLISECONDS}\n\n".encode())
        missed = self._since(last_id)
        texts = [kept.text for kept in missed if browser.subscriptions(kept.audience)] if missed is not None else []
        # Reading the page again is cheaper than catching up on too much, and never more than may wait unsent.
        is_too_much = missed is None or sum(map(len, texts)) > UNSENT_BYTES_MAX // 2
        for text in [self._reset()] if is_too_much else texts:
            browser.tell(text)
        self._browsers.add(browser)
        return browser

    def leave(self, browser: Browser) -> None:
        self._browsers.discard(browser)

    def _since(self, last_id: str) -> list[_Kept] | None:
        """Return the messages after an id; None when some of them are no longer, or never were, kept here."""
        epoch, _, text = last_id.partition("-")
        if epoch != self._epoch or not text.isascii() or not text.isdigit() or len(text) > 18:
            return None
        number = int(text)
        if number > self._number or number < self._number - len(self._kept):
            return None
        missing = self._number - number
        return [self._kept[index] for index in range(len(self._kept) - missing, len(self._kept))]

    def _reset(self) -> bytes:
        return f"id: {self.last_id}\nevent: reset\ndata: {{}}\n\n".encode()

    def publish(self, name: str, message: msgspec.Struct, audience: UUID | None = None) -> None:
        """Tell everyone, or one person's browsers only."""
        self._number += 1
        text = b"id: %s\nevent: %s\ndata: %s\n\n" % (self.last_id.encode(), name.encode(), msgspec.json.encode(message))
        self._kept.append(_Kept(self._number, audience, text))
        self._tell(text, audience)

    def _tell(self, text: bytes, audience: UUID | None) -> None:
        slow = [each for each in self._browsers if each.subscriptions(audience) and not each.tell(text)]
        for browser in slow:
            log.info("a browser reads too slowly and is dropped")
            self._browsers.discard(browser)

    def heartbeat(self) -> None:
        """Keep connections open through proxies, and end those whose session is over."""
        now = clock.now().timestamp()
        for browser in [each for each in self._browsers if each.person and each.person.expires_at <= now]:
            browser.close()
            self.leave(browser)
        self._tell(b": still here\n\n", None)

    def lost_events(self) -> None:
        """Events may have passed unheard: everyone reads their page again, also those who come back later."""
        self._epoch = ids.new_token(4)
        self._number = 0
        self._kept.clear()
        self._tell(self._reset(), None)

    def end_session(self, session_id: UUID) -> None:
        """End the connections of a session that was signed out."""
        for browser in [each for each in self._browsers if each.person and each.person.session_id == session_id]:
            browser.close()
            self.leave(browser)

    def held_until(self, ticket_id: UUID) -> datetime | None:
        """Return when the hold on a ticket ends, as far as this process has heard of it."""
        until = self._held_until.get(ticket_id)
        return until if until is not None and until > clock.now() else None

    def _hold(self, ticket_id: UUID, until: datetime) -> None:
        self._held_until[ticket_id] = until
        self._held_until.move_to_end(ticket_id)
        if len(self._held_until) > HOLDS_MAX:
            self._held_until.popitem(last=False)

    def close(self) -> None:
        for browser in self._browsers:
            browser.close()
        self._browsers.clear()

    def hear(self, event: Event) -> None:
        """Turn an event into what pages need to know of it."""
        match event:
            case events.TicketCreated() | events.TicketUpdated():
                price = money(decimal_of(event.price_cents), event.currency)
                self.publish("ticket", _TicketMessage(event.id, event.status, event.version, event.title, price))
            case events.OrderCreated():
                self._hold(event.ticket.id, event.expires_at)
                self.publish("order", _OrderMessage(event.id, "created"), event.user_id)
            case events.OrderAwaitingPayment():
                self.publish("order", _OrderMessage(event.id, "awaiting:payment"), event.user_id)
            case events.OrderCompleted():
                self.publish("order", _OrderMessage(event.id, "complete"), event.user_id)
            case events.OrderCancelled():
                self._held_until.pop(event.ticket_id, None)
                self.publish("order", _OrderMessage(event.id, "cancelled"), event.user_id)
            case (
                events.PaymentAuthorized() | events.PaymentCreated() | events.PaymentVoided() | events.PaymentRefunded()
            ):
                self.publish("order", _OrderMessage(event.order_id), event.user_id)
            case _:
                pass  # nothing that a page shows
