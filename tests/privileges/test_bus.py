"""Every account of the bus against every subject: a service has only the rights that its declaration requires."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import nats
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client

from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.event import event_types
from admitone.kernel.service import Service
from admitone.local.nats import Nats
from admitone.registry import SERVICES
from tests.local.test_nats import Wire
from tests.support import bus_user, eventually

NAMES = [service.name for service in SERVICES]
STREAM_VERBS = (
    *("CREATE", "UPDATE", "INFO", "DELETE", "PURGE", "MSG.GET", "MSG.DELETE", "SNAPSHOT", "RESTORE"),
    *("LEADER.STEPDOWN", "PEER.REMOVE", "CANCEL_MOVE"),
)
CONSUMER_VERBS = (
    *("CREATE", "DURABLE.CREATE", "INFO", "DELETE", "PAUSE", "RESET", "UNPIN", "MSG.NEXT", "LEADER.STEPDOWN"),
)
EVERYWHERE = (
    *("$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.TEMPLATE.CREATE.any"),
    *("$JS.API.SERVER.REMOVE", "$JS.API.META.LEADER.STEPDOWN", "$JS.API.ACCOUNT.PURGE.any", "$JS.FC.any.any.any"),
    *("$SYS.REQ.SERVER.PING", "$SYS.REQ.ACCOUNT.PING.CONNZ", "$SYS.ACCOUNT.any.CONNECT", "$SRV.PING"),
    *("$KV.any.key", "$O.any.C.any", "$JS.EVENT.ADVISORY.API", "_INBOX.any", "anything", "events", "republish"),
)


def producers_of(service: Service) -> set[str]:
    return {event.producer for event in service.subscriptions}


def every_publication() -> set[str]:
    """Return every subject, and every verb of the API for every stream and every consumer."""
    found = {*EVERYWHERE}
    for owner in NAMES:
        found |= {f"$JS.API.STREAM.{verb}.{owner}" for verb in STREAM_VERBS}
        found |= {f"$JS.API.DIRECT.GET.{owner}", f"$JS.API.DIRECT.GET.{owner}.events.{owner}.any"}
        found |= {f"$JS.API.CONSUMER.{verb}.{owner}" for verb in ("CREATE", "NAMES", "LIST")}
        found |= {f"republish.{owner}", f"_INBOX_{owner}.any", f"events.{owner}.any"}
        for consumer in NAMES:
            found |= {f"$JS.API.CONSUMER.{verb}.{owner}.{consumer}" for verb in CONSUMER_VERBS}
            found |= {f"$JS.API.CONSUMER.CREATE.{owner}.{consumer}.events.{owner}.any"}
            found |= {f"$JS.ACK.{owner}.{consumer}.1.1.1.1.0", f"$JS.ACK._.account.{owner}.{consumer}.1.1.1.1.0.any"}
    return found | {f"events.{event.producer}.{name}" for name, event in event_types().items()}


def required_publications(service: Service) -> set[str]:
    """Return the subjects that a service must be able to publish to, written again by hand, not by the tested code."""
    name, found = service.name, set[str]()
    if service.publications:
        found |= {f"events.{name}.{event.__name__}" for event in service.publications} | {f"events.{name}.any"}
        found |= {f"$JS.API.STREAM.{verb}.{name}" for verb in ("CREATE", "INFO", "MSG.GET", "PURGE")}
        found |= {f"$JS.API.CONSUMER.LIST.{name}"}
    for producer in producers_of(service) if service.has_database else ():
        consumer = f"{producer}.{name}"
        found |= {f"republish.{producer}", f"$JS.API.STREAM.INFO.{producer}"}
        verbs = ("CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT")
        found |= {f"$JS.API.CONSUMER.{verb}.{consumer}" for verb in verbs}
        found |= {f"$JS.API.CONSUMER.CREATE.{consumer}.events.{producer}.any"}
        found |= {f"$JS.ACK.{consumer}.1.1.1.1.0", f"$JS.ACK._.account.{consumer}.1.1.1.1.0.any"}
    return found | ({"$JS.API.INFO"} if found else set())


def every_subscription() -> set[str]:
    found = {">", "*.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.ADVISORY.>", "$SYS.>", "_INBOX.>", "_INBOX_*.>"}
    found |= {"events.>", "events.*.*", "republish.*", "republish.>", "$KV.>", "anything"}
    for name in NAMES:
        found |= {
            f"events.{name}.>",
            f"events.{name}.any",
            f"republish.{name}",
            f"_INBOX_{name}.>",
            f"_INBOX_{name}.any",
        }
    return found


def required_subscriptions(service: Service) -> set[str]:
    if not service.has_database:  # it watches all events and publishes nothing
        return {"events.>", "events.*.*", *(f"events.{name}.{end}" for name in NAMES for end in (">", "any"))}
    own = {f"_INBOX_{service.name}.>", f"_INBOX_{service.name}.any"}
    return own | ({f"republish.{service.name}"} if service.publications else set())


@pytest.fixture
def server(start_nats: Callable[..., Nats]) -> Nats:
    return start_nats(*(bus_user(each) for each in SERVICES))


@pytest.mark.parametrize("service", SERVICES, ids=NAMES)
async def test_a_service_can_publish_and_subscribe_to_what_it_declares_and_nothing_else(
    server: Nats, service: Service
) -> None:
    publications, subscriptions = every_publication(), every_subscription()
    assert required_publications(service) <= publications
    assert required_subscriptions(service) <= subscriptions
    async with Wire.of(server, service.name) as wire:
        assert {each for each in publications if await wire.may_publish(each)} == required_publications(service)
        assert {each for each in subscriptions if await wire.may_subscribe(each)} == required_subscriptions(service)


def test_the_matrix_is_large() -> None:
    """Fewer accounts or subjects would prove little."""
    assert len(NAMES) >= 6
    assert len(every_publication()) > 500


@pytest_asyncio.fixture
async def streams(server: Nats) -> Nats:
    """Let every producer create its stream."""
    for service in (each for each in SERVICES if each.publications):
        bus = Bus(service.name)
        bus.start(server.url(service.name))
        await bus.ready()
        await bus.ensure_stream()
        await bus.close()
    return server


async def connected(server: Nats, user: str) -> Client:
    async def ignore(_: Exception) -> None:
        """A denial is an error of the connection; these tests look at its effects instead."""

    return await nats.connect(server.url(user), inbox_prefix=f"_INBOX_{user}".encode(), error_cb=ignore)


async def send_request(client: Client, subject: str, request: dict[str, Any]) -> dict[str, Any]:
    response = await client.request(subject, json.dumps(request).encode(), timeout=5)
    decoded: dict[str, Any] = json.loads(response.data)
    return decoded


async def test_no_stream_can_republish_as_another_service(streams: Nats) -> None:
    """A stream can republish messages under other subjects, whatever the rights of the account."""
    admin, orders = await connected(streams, "admin"), await connected(streams, "orders")
    config = (await send_request(admin, "$JS.API.STREAM.INFO.orders", {}))["config"]
    forged = {**config, "republish": {"src": "events.orders.>", "dest": "events.tickets.>"}}
    with pytest.raises((TimeoutError, nats.errors.Error)):
        await orders.request("$JS.API.STREAM.UPDATE.orders", json.dumps(forged).encode(), timeout=0.5)
    refused = await send_request(orders, "$JS.API.STREAM.CREATE.orders", forged)
    assert "error" in refused, "creating an existing stream must not change it"
    await orders.publish("events.orders.OrderCreated", b"{}")
    await orders.flush()

    async def stored() -> bool:
        state = (await send_request(admin, "$JS.API.STREAM.INFO.orders", {}))["state"]
        return int(state["messages"]) == 1

    await eventually(stored, "the event is stored")
    assert (await send_request(admin, "$JS.API.STREAM.INFO.tickets", {}))["state"]["messages"] == 0
    await asyncio.gather(admin.close(), orders.close())


async def test_no_consumer_can_deliver_into_another_service_s_stream(streams: Nats) -> None:
    """A consumer can be configured to deliver to any subject; no stream may accept that as an event."""
    admin, orders, tickets = [await connected(streams, name) for name in ("admin", "orders", "tickets")]
    await orders.publish("events.orders.OrderCreated", b"{}")
    await orders.flush()
    config = {"durable_name": "tickets", "deliver_subject": "events.auth.SessionRevoked", "ack_policy": "none"}
    await send_request(
        tickets, "$JS.API.CONSUMER.DURABLE.CREATE.orders.tickets", {"stream_name": "orders", "config": config}
    )

    async def stored() -> bool:
        state = (await send_request(admin, "$JS.API.STREAM.INFO.orders", {}))["state"]
        return int(state["messages"]) == 1

    await eventually(stored, "the event is stored")
    await admin.flush()
    assert (await send_request(admin, "$JS.API.STREAM.INFO.auth", {}))["state"]["messages"] == 0
    await asyncio.gather(*(client.close() for client in (admin, orders, tickets)))
