"""Live updates: one subscription to the bus, and the event stream that each open page reads."""

import asyncio
import logging
from typing import Final

from nats.aio.msg import Msg
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from admitone import events
from admitone.kernel.http.app import session_token
from admitone.kernel.http.operations import NO_CONTENT, OK
from admitone.kernel.messaging.event import Undecodable, unwrap
from admitone.kernel.running import RunningService
from admitone.web.hub import Browser
from admitone.web.resources import Web

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS: Final = 15.0

_HEADERS: Final = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # a proxy in between must pass messages on at once
]


async def follow_bus(service: RunningService[Web]) -> None:
    """Tell browsers what passes on the bus, until cancelled."""
    hub = service.resources.hub

    async def received(message: Msg) -> None:
        try:
            _, event = unwrap(message.data)
        except Undecodable as undecodable:
            log.warning("an event cannot be read", extra={"subject": message.subject, "error": str(undecodable)})
            return
        if isinstance(event, events.SessionRevoked):
            service.sessions.revoke(event.session_id)
            hub.end_session(event.session_id)
        hub.hear(event)

    await service.bus.ready()
    service.bus.on_reconnect(hub.lost_events)
    subscription = await service.bus.subscribe("events.>", received)
    hub.lost_events()  # what passed before this moment was not heard
    hub.is_listening = True
    try:
        while True:
            await asyncio.sleep(HEARTBEAT_SECONDS)
            hub.heartbeat()
    finally:
        hub.is_listening = False
        await subscription.unsubscribe()


class LiveStream:
    """The ASGI application behind `/live`."""

    def __init__(self, service: RunningService[Web]) -> None:
        self._service = service
        self._hub = service.resources.hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope)
        person = await self._service.sessions.user(session_token(request))
        last_id = request.headers.get("last-event-id") or request.query_params.get("since", "")
        if self._service.stopping.is_set():
            await send({"type": "http.response.start", "status": NO_CONTENT, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return
        browser = self._hub.join(person, last_id)
        gone = asyncio.create_task(_wait_until_gone(receive, browser))
        try:
            await send({"type": "http.response.start", "status": OK, "headers": list(_HEADERS)})
            while not browser.is_closed:
                messages = await browser.next_messages()
                if messages:
                    await send({"type": "http.response.body", "body": messages, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()
            self._hub.leave(browser)


async def _wait_until_gone(receive: Receive, browser: Browser) -> None:
    message: Message = {"type": "http.request"}
    while message["type"] != "http.disconnect":
        message = await receive()
    browser.close()


async def end_streams(service: RunningService[Web]) -> None:
    """End every stream when the service is to stop: they would never end by themselves."""
    await service.stopping.wait()
    service.resources.hub.close()
