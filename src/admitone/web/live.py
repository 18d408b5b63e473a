"""Live updates: the subscription to the bus, and the event stream that each open page reads."""

import asyncio
import logging
from typing import Final

from nats.aio.msg import Msg
from starlette.requests import Request as HttpRequest
from starlette.types import Message, Receive, Scope, Send

from admitone import events
from admitone.kernel.http.operations import NO_CONTENT, OK
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.running import RunningService
from admitone.web.api_client import ForwardedClient, ServiceRefused
from admitone.web.hub import LiveConnection
from admitone.web.resources import WebResources

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 15.0

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy must forward each message at once
]


async def follow_bus(service: RunningService[WebResources]) -> None:
    """Pass every event on the bus to the hub, until cancelled."""
    hub = service.resources.hub

    async def received(message: Msg) -> None:
        try:
            _, event = unwrap(message.data)
        except Undecodable as undecodable:
            log.warning("event cannot be decoded", extra={"subject": message.subject, "error": str(undecodable)})
            return
        if isinstance(event, events.SessionRevoked):
            service.sessions.revoke(event.session_id, event.expires_at.timestamp())
            hub.end_session(event.session_id)
        hub.publish(event)

    await service.bus.ready()
    service.bus.on_reconnect(hub.reset)
    subscription = await service.bus.subscribe("events.>", received)
    hub.reset()  # events before this moment were not received
    hub.is_subscribed = True
    try:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            hub.heartbeat()
    finally:
        hub.is_subscribed = False
        await subscription.unsubscribe()


class LiveStream:
    """The ASGI endpoint of `/live`, a stream of server-sent events."""

    def __init__(self, service: RunningService[WebResources]) -> None:
        self._service = service
        self._hub = service.resources.hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = HttpRequest(scope)
        user = await self._user(request)
        last_id = request.headers.get("last-event-id") or request.query_params.get("since", "")
        if self._service.stopping.is_set():
            await send({"type": "http.response.start", "status": NO_CONTENT, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": OK, "headers": list(_HEADERS)})
            await send({"type": "http.response.body", "body": b""})
            return
        connection = self._hub.connect(user, last_id)
        closing = asyncio.create_task(_close_when_gone(receive, connection))
        try:
            await send({"type": "http.response.start", "status": OK, "headers": list(_HEADERS)})
            while not connection.is_closed:
                messages = await connection.next_messages()
                if messages:
                    await send({"type": "http.response.body", "body": messages, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            closing.cancel()
            self._hub.disconnect(connection)

    async def _user(self, request: HttpRequest) -> SignedInUser | None:
        """Return whose messages the stream may have; None if auth cannot be asked.

        This process has no database: it learns of revocations from the bus, and of earlier ones from nobody.
        """
        user = await self._service.sessions.user_of(request.headers)
        if user is None:
            return None
        client = ForwardedClient.of(request, self._service.sessions, trust_proxy=self._service.settings.trust_proxy)
        try:
            return user if await self._service.resources.api.is_signed_in(client) else None
        except ServiceRefused:
            return None


async def _close_when_gone(receive: Receive, connection: LiveConnection) -> None:
    message: Message = {"type": "http.request"}
    while message["type"] != "http.disconnect":
        message = await receive()
    connection.close()


async def end_streams(service: RunningService[WebResources]) -> None:
    """End every stream when the service stops, since streams do not end by themselves."""
    await service.stopping.wait()
    service.resources.hub.close()
