"""Events: a record of each change, which is listed, and sent, signed, to one endpoint until it is accepted.

As with Stripe, events may arrive in any order and more than once. Source: Stripe documentation, "Receive Stripe events
in your webhook endpoint": retries, event ordering, signatures.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, closing, suppress
from typing import Final
from urllib.parse import urlsplit

import stripe.params as sdk
from stripe import WebhookSignature

from stripe_sandbox.errors import Json
from stripe_sandbox.faults import Faults, take
from stripe_sandbox.operations import Context, new_id, operation
from stripe_sandbox.parameters import ListParams, Params
from stripe_sandbox.store import Store, encode

log = logging.getLogger(__name__)

API_VERSION: Final = "2026-10-28.endive"
# What a marketplace's endpoint subscribes to; other events are only listed.
EVENT_TYPES: Final = {
    *("payment_intent.amount_capturable_updated", "payment_intent.payment_failed", "payment_intent.succeeded"),
    *("payment_intent.canceled", "charge.refunded"),
}
# After the last one the event is given up; Stripe tries for three days in live mode and a few hours in test mode.
RETRY_DELAYS_SECONDS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 3600.0)

_CONNECTIONS_MAX: Final = 64
_RESPONSE_SECONDS: Final = 10.0


class ListEventsParams(ListParams):
    type: str | None = None


@operation("GET", "/v1/events/{id}", sdk.EventRetrieveParams)
def retrieve_event(context: Context, _params: Params) -> Json:
    return context.load("event", context.object_id, "id")


@operation("GET", "/v1/events", sdk.EventListParams)
def list_events(context: Context, params: ListEventsParams) -> Json:
    return context.list("event", params, type=params.type)


class Webhooks:
    """Publishes events, and delivers them in the background: a task for each one until it is accepted.

    Without a `url`, which has to be one of plain HTTP, events are only listed. The secret signs them.
    """

    def __init__(
        self, store: Store, faults: Faults, url: str, secret: str, retry_delays_seconds: Sequence[float]
    ) -> None:
        self._store = store
        self._faults = faults
        self._url = urlsplit(url)
        assert self._url.scheme in {"", "http"}
        self._secret = secret
        self._retry_delays_seconds = retry_delays_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(_CONNECTIONS_MAX)
        self._sent = asyncio.Event()

    def publish(self, type_: str, subject: Json) -> None:
        """Record an event in the current transaction; it is delivered if that is committed."""
        event_id, now = new_id("evt"), time.time()
        is_sent = bool(self._url.netloc) and type_ in EVENT_TYPES
        event = {
            "id": event_id,
            "object": "event",
            "api_version": API_VERSION,
            "created": int(now),
            "data": {"object": subject},
            "livemode": False,
            "pending_webhooks": int(is_sent),
            "request": {"id": None, "idempotency_key": None},
            "type": type_,
        }
        self._store.save(event)
        if is_sent:
            self._store.save_delivery(event_id, 0, now)
            self._start(event_id)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver events inside the block, beginning with those that an earlier process left."""
        for event_id, attempts, due_at in self._store.deliveries() if self._url.netloc else ():
            self._start(event_id, attempts, due_at - time.time())
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self, event_id: str, attempts: int = 0, delay_seconds: float = 0.0) -> None:
        task = asyncio.create_task(self._deliver(event_id, attempts, delay_seconds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _deliver(self, event_id: str, attempts: int, delay_seconds: float) -> None:
        await asyncio.sleep(max(delay_seconds, 0.0))
        event = self._store.find("event", event_id)
        if event is None:
            return  # its transaction was rolled back
        fault = take(self._faults.webhooks, event["type"])
        kind, fault_seconds = (fault.kind, fault.delay_ms / 1000) if fault is not None else ("", 0.0)
        if kind == "delay":
            await asyncio.sleep(fault_seconds)
        elif kind == "reorder":
            with suppress(TimeoutError):
                await asyncio.wait_for(self._sent.wait(), fault_seconds)
        elif kind == "duplicate":
            await self._send(event)
        is_accepted = False
        while kind != "lose" and not (is_accepted := await self._send(event)):
            if attempts == len(self._retry_delays_seconds):
                break
            delay_seconds = self._retry_delays_seconds[attempts]
            attempts += 1
            self._store.save_delivery(event_id, attempts, time.time() + delay_seconds)
            await asyncio.sleep(delay_seconds)
        if is_accepted:
            self._store.save(event | {"pending_webhooks": 0})
        self._store.delete_delivery(event_id)

    async def _send(self, event: Json) -> bool:
        """Send the event once, on a connection of its own; return whether the endpoint accepted it.

        Written out because a general HTTP client uses several times as much processor time.
        """
        body = encode(event)
        signature = WebhookSignature.generate_signature_header(body, self._secret, timestamp=int(time.time()))
        message = (
            f"POST {self._url.path or '/'} HTTP/1.1\r\nhost: {self._url.netloc}\r\nstripe-signature: {signature}\r\n"
            "content-type: application/json; charset=utf-8\r\nconnection: close\r\n"
            f"content-length: {len(body.encode())}\r\n\r\n{body}"
        )
        try:
            async with self._slots, asyncio.timeout(_RESPONSE_SECONDS):
                reader, writer = await asyncio.open_connection(self._url.hostname, self._url.port or 80)
                with closing(writer):
                    writer.write(message.encode())
                    response = await reader.read()
            return 200 <= int(response.split(maxsplit=2)[1]) < 300
        except (OSError, ValueError, IndexError) as error:  # TimeoutError is an OSError
            log.debug("event %s was not delivered: %r", event["id"], error)
            return False
        finally:
            self._sent.set()
            self._sent = asyncio.Event()
