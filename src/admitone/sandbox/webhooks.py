"""Webhooks: each event is sent, signed, to the one endpoint until that takes it, as Stripe does.

Nothing is promised about their order, and an event may come twice. Source: Stripe documentation, "Receive Stripe
events in your webhook endpoint": retries, event ordering, signatures.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Final

import httpx
from stripe import WebhookSignature

from admitone.sandbox.faults import Faults, WebhookFault
from admitone.sandbox.ids import new_id
from admitone.sandbox.ledger import Ledger, Told, encode
from admitone.sandbox.problems import Json

log = logging.getLogger(__name__)

API_VERSION: Final = "2026-10-28.endive"
# After the last one the event is given up; Stripe tries for three days in live mode and a few hours in test mode.
RETRY_DELAYS_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 3600.0)
_SENDERS: Final = 16
_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 10.0
_NOTE_EVERY_SECONDS: Final = 0.05


@dataclass(frozen=True)
class _Post:
    event_id: str
    type: str
    body: str
    tries: int
    had_fault: bool = False


class Webhooks:
    """Makes events and sends those the endpoint asked for."""

    def __init__(
        self,
        ledger: Ledger,
        faults: Faults,
        *,
        url: str,
        secret: str,
        types: Collection[str],
        retry_delays_seconds: tuple[float, ...] = RETRY_DELAYS_SECONDS,
    ) -> None:
        self._ledger = ledger
        self._faults = faults
        self._url = url
        self._secret = secret
        self._types = frozenset(types)
        self._delays = retry_delays_seconds
        self._outgoing: asyncio.Queue[_Post] = asyncio.Queue()
        self._taken: list[str] = []
        self._held_back: list[_Post] = []
        self._later: set[asyncio.TimerHandle] = set()
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS))

    def told(self, type_: str, subject: Json, now: int) -> Told:
        """Make the event that something happened to an object."""
        event_id = new_id("evt")
        body = encode(
            {
                "id": event_id,
                "object": "event",
                "api_version": API_VERSION,
                "created": now,
                "data": {"object": subject},
                "livemode": False,
                "pending_webhooks": 1 if self._url else 0,
                "request": {"id": None, "idempotency_key": None},
                "type": type_,
            }
        )
        return Told(event_id, now, type_, body, bool(self._url) and type_ in self._types)

    def send(self, told: Sequence[Told]) -> None:
        """Send events that were recorded; the senders do it in the background."""
        for each in told:
            if each.is_wanted:
                self._outgoing.put_nowait(_Post(each.id, each.type, each.body, 0))

    async def run(self) -> None:
        """Send until cancelled, beginning with what an earlier run could not."""
        for row in await self._ledger.waiting_events():
            self._put_later(_Post(row["id"], row["type"], row["body"], row["tries"]), max(row["due_in_seconds"], 0.0))
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._note_taken())
                for _ in range(_SENDERS):
                    group.create_task(self._send_each())
        finally:
            for timer in self._later:
                timer.cancel()
            if self._taken:
                await self._ledger.sent(self._taken)
            await self._client.aclose()

    async def _send_each(self) -> None:
        while True:
            post = await self._outgoing.get()
            fault = None if post.had_fault else self._faults.for_webhook(post.type)
            if fault is not None and self._suffers(replace(post, had_fault=True), fault):
                continue
            await self._send(post)
            if fault is not None and fault.kind == "duplicate":
                await self._send(post)
            overtaken, self._held_back = self._held_back, []
            for each in overtaken:
                await self._send(each)

    def _suffers(self, post: _Post, fault: WebhookFault) -> bool:
        """Lose or hold back an event; False when it is sent now all the same."""
        match fault.kind:
            case "lose":
                log.info("a webhook is lost on demand", extra={"event": post.event_id})
                self._taken.append(post.event_id)
                return True
            case "delay":
                self._put_later(post, fault.delay_ms / 1000)
                return True
            case "reorder":
                self._held_back.append(post)
                self._at(fault.delay_ms / 1000, lambda: self._let_go(post))
                return True
            case "duplicate":
                return False

    def _let_go(self, post: _Post) -> None:
        if post in self._held_back:
            self._held_back.remove(post)
            self._outgoing.put_nowait(post)

    def _put_later(self, post: _Post, delay_seconds: float) -> None:
        self._at(delay_seconds, lambda: self._outgoing.put_nowait(post))

    def _at(self, delay_seconds: float, act: Callable[[], None]) -> None:
        def acting() -> None:
            self._later.discard(timer)
            act()

        timer = asyncio.get_running_loop().call_later(delay_seconds, acting)
        self._later.add(timer)

    async def _send(self, post: _Post) -> None:
        signature = WebhookSignature.generate_signature_header(post.body, self._secret, timestamp=int(time.time()))
        headers = {"content-type": "application/json; charset=utf-8", "stripe-signature": signature}
        try:
            is_taken = (await self._client.post(self._url, headers=headers, content=post.body.encode())).is_success
        except httpx.TransportError as error:
            log.debug("the webhook endpoint does not answer", extra={"event": post.event_id, "error": repr(error)})
            is_taken = False
        if is_taken:
            self._taken.append(post.event_id)
        elif post.tries < len(self._delays):
            delay_seconds = self._delays[post.tries]
            await self._ledger.not_sent(post.event_id, delay_seconds)
            self._put_later(replace(post, tries=post.tries + 1), delay_seconds)
        else:
            log.warning("a webhook is given up", extra={"event": post.event_id, "tries": post.tries + 1})
            await self._ledger.not_sent(post.event_id, None)

    async def _note_taken(self) -> None:
        """Note in batches what the endpoint took: a crash in between sends a few events twice, as Stripe may too."""
        while True:
            await asyncio.sleep(_NOTE_EVERY_SECONDS)
            if self._taken:
                noted, self._taken = self._taken, []
                await self._ledger.sent(noted)
