"""The hub: turns events into small messages and fans them out to the open pages.

A browser that reconnects sends the id of the last message it received and gets the ones it missed. If those are no
longer kept, or the bus was unreachable, it is sent `reset` and fetches its page again. The stream is a convenience:
every page is correct without it.
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
from admitone.web.formatting import money

log = logging.getLogger(__name__)

RECENT_MESSAGES_MAX: Final = 4096
HOLDS_MAX: Final = 20_000
UNSENT_BYTES_MAX: Final = 64 * 1024
_RECONNECT_MILLISECONDS: Final = 1000
_NUMBER_DIGITS_MAX: Final = 18


class _TicketMessage(msgspec.Struct, frozen=True):
    """The public state of a ticket."""

    id: UUID
    state: str
    version: int
    title: str
    price: str


class _OrderMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """An order or one of its payments changed; the order's page fetches the details."""

    id: UUID
    status: str | None = None


class _RecentMessage(msgspec.Struct, frozen=True):
    recipient_id: UUID | None
    text: bytes


class LiveConnection:
    """One open event stream: which messages it may receive, and those not yet sent."""

    __slots__ = ("_unsent", "_unsent_bytes", "_wake", "is_closed", "user")

    def __init__(self, user: SignedInUser | None) -> None:
        self.user = user
        self.is_closed = False
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._wake = asyncio.Event()

    def may_receive(self, recipient_id: UUID | None) -> bool:
        """Whether a message is for this connection; a message without a recipient is for everyone."""
        return recipient_id is None or (self.user is not None and self.user.id == recipient_id)

    def send(self, text: bytes) -> bool:
        """Queue a message; if the browser reads too slowly, close the connection and return False."""
        self._unsent_bytes += len(text)
        if self._unsent_bytes > UNSENT_BYTES_MAX:
            self.close()
            return False
        self._unsent.append(text)
        self._wake.set()
        return True

    def close(self) -> None:
        """End the stream; the browser reconnects with the id of the last message it received."""
        self.is_closed = True
        self._unsent.clear()
        self._wake.set()

    async def next_messages(self) -> bytes:
        """Wait for messages and return all that are queued; nothing once the connection is closed."""
        await self._wake.wait()
        self._wake.clear()
        messages = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        return messages


class Hub:
    """The open connections of this process, and the recent messages for browsers that reconnect."""

    def __init__(self) -> None:
        self._epoch = ids.new_token(4)
        self._number = 0
        self._recent: deque[_RecentMessage] = deque(maxlen=RECENT_MESSAGES_MAX)
        self._connections: set[LiveConnection] = set()
        self._held_until: OrderedDict[UUID, datetime] = OrderedDict()
        self.is_subscribed = False
        """Whether events arrive from the bus."""

    @property
    def last_id(self) -> str:
        """The id of the last message; a page made after reading it misses none of the later ones."""
        return f"{self._epoch}-{self._number}"

    def __len__(self) -> int:
        return len(self._connections)

    def connect(self, user: SignedInUser | None, last_id: str) -> LiveConnection:
        """Add a connection of a browser that received everything up to `last_id`."""
        connection = LiveConnection(user)
        connection.send(f"retry: {_RECONNECT_MILLISECONDS}\n\n".encode())
        missed = self._since(last_id)
        texts = [each.text for each in missed if connection.may_receive(each.recipient_id)] if missed else []
        # Fetching the page again is cheaper than catching up on many messages, and there is a limit to what may queue.
        is_too_much = missed is None or sum(map(len, texts)) > UNSENT_BYTES_MAX // 2
        for text in [self._reset_message()] if is_too_much else texts:
            connection.send(text)
        self._connections.add(connection)
        return connection

    def disconnect(self, connection: LiveConnection) -> None:
        self._connections.discard(connection)

    def _since(self, last_id: str) -> list[_RecentMessage] | None:
        """Return the messages after an id; None if this process does not keep all of them, or never sent that id."""
        epoch, _, text = last_id.partition("-")
        if epoch != self._epoch or not text.isascii() or not text.isdigit() or len(text) > _NUMBER_DIGITS_MAX:
            return None
        missed = self._number - int(text)
        if not 0 <= missed <= len(self._recent):
            return None
        return list(self._recent)[len(self._recent) - missed :]

    def _reset_message(self) -> bytes:
        return f"id: {self.last_id}\nevent: reset\ndata: {{}}\n\n".encode()

    def _publish(self, name: str, message: msgspec.Struct, recipient_id: UUID | None = None) -> None:
        """Send a message to everyone, or to the browsers of one user."""
        self._number += 1
        text = b"id: %s\nevent: %s\ndata: %s\n\n" % (self.last_id.encode(), name.encode(), msgspec.json.encode(message))
        self._recent.append(_RecentMessage(recipient_id, text))
        self._send(text, recipient_id)

    def _send(self, text: bytes, recipient_id: UUID | None = None) -> None:
        recipients = [each for each in self._connections if each.may_receive(recipient_id)]
        for connection in recipients:
            if not connection.send(text):
                log.info("live connection closed: the browser reads too slowly")
                self.disconnect(connection)

    def heartbeat(self) -> None:
        """Keep connections open through proxies, and close those whose session has expired."""
        now = clock.now().timestamp()
        self._close([each for each in self._connections if each.user and each.user.expires_at <= now])
        self._send(b": still here\n\n")

    def reset(self) -> None:
        """Make every page be fetched again, also by browsers that reconnect later: events may have been missed.

        One of them may have revoked a session: streams of signed-in users end, and their browsers reconnect.
        """
        self._epoch = ids.new_token(4)
        self._number = 0
        self._recent.clear()
        self._send(self._reset_message())
        self._close([each for each in self._connections if each.user])

    def end_session(self, session_id: UUID) -> None:
        """Close the connections of a revoked session."""
        self._close([each for each in self._connections if each.user and each.user.session_id == session_id])

    def close(self) -> None:
        self._close(list(self._connections))

    def _close(self, connections: list[LiveConnection]) -> None:
        for connection in connections:
            connection.close()
            self.disconnect(connection)

    def held_until(self, ticket_id: UUID) -> datetime | None:
        """Return when the hold on a ticket ends, if it is held as far as this process knows."""
        until = self._held_until.get(ticket_id)
        return until if until is not None and until > clock.now() else None

    def _hold(self, ticket_id: UUID, until: datetime) -> None:
        self._held_until[ticket_id] = until
        self._held_until.move_to_end(ticket_id)
        if len(self._held_until) > HOLDS_MAX:
            self._held_until.popitem(last=False)

    def publish(self, event: Event) -> None:
        """Send what an event means for pages: a ticket's state to everyone, an order only to its buyer."""
        match event:
            case events.TicketCreated() | events.TicketUpdated():
                price = money(decimal_of(event.price_cents), event.currency)
                self._publish("ticket", _TicketMessage(event.id, event.status, event.version, event.title, price))
            case events.OrderCreated():
                self._hold(event.ticket.id, event.expires_at)
                self._publish("order", _OrderMessage(event.id, "created"), event.user_id)
            case events.OrderAwaitingPayment():
                self._publish("order", _OrderMessage(event.id, "awaiting:payment"), event.user_id)
            case events.OrderCompleted():
                self._publish("order", _OrderMessage(event.id, "complete"), event.user_id)
            case events.OrderCancelled():
                self._held_until.pop(event.ticket_id, None)
                self._publish("order", _OrderMessage(event.id, "cancelled"), event.user_id)
            case (
                events.PaymentAuthorized() | events.PaymentCreated() | events.PaymentVoided() | events.PaymentRefunded()
            ):
                self._publish("order", _OrderMessage(event.order_id), event.user_id)
            case _:
                pass  # no page shows it
