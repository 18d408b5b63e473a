"""Every account of the bus against every subject and verb: what a service's declaration calls for, and nothing else."""

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


def heard_by(service: Service) -> set[str]:
    return {event.producer for event in service.subscriptions}


def every_publication() -> set[str]:
    """Whatever one could send: every subject there is, every verb for every stream and every consumer."""
    found = {*EVERYWHERE}
    for owner in NAMES:
        found |= {f"$JS.API.STREAM.{verb}.{owner}" for verb in STREAM_VERBS}
        found |= {f"$JS.API.DIRECT.GET.{owner}", f"$JS.API.DIRECT.GET.{owner}.events.{owner}.any"}
        found |= {f"$JS.API.CONSUMER.{verb}.{owner}" for verb in ("CREATE", "NAMES", "LIST")}
        found |= {f"republish.{owner}", f"_INBOX_{owner}.any", f"events.{owner}.any"}
        for hearer in NAMES:
            found |= {f"$JS.API.CONSUMER.{verb}.{owner}.{hearer}" for verb in CONSUMER_VERBS}
            found |= {f"$JS.API.CONSUMER.CREATE.{owner}.{hearer}.events.{owner}.any"}
            found |= {f"$JS.ACK.{owner}.{hearer}.1.1.1.1.0", f"$JS.ACK._.account.{owner}.{hearer}.1.1.1.1.0.any"}
    return found | {f"events.{event.producer}.{name}" for name, event in event_types().items()}


def wanted_publications(service: Service) -> set[str]:
    """What this service must be able to send, said again by hand: not by the code that is tried."""
    name, found = service.name, set[str]()
    if service.publications:
        found |= {f"events.{name}.{event.__name__}" for event in service.publications} | {f"events.{name}.any"}
        found |= {f"$JS.API.STREAM.CREATE.{name}", f"$JS.API.STREAM.INFO.{name}"}
    for producer in heard_by(service) if service.has_database else ():
        consumer = f"{producer}.{name}"
        found |= {f"republish.{producer}", f"$JS.API.STREAM.INFO.{producer}"}
        found |= {f"$JS.API.CONSUMER.{verb}.{consumer}" for verb in ("CREATE", "DURABLE.CREATE", "INFO", "MSG.NEXT")}
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


def wanted_subscriptions(service: Service) -> set[str]:
    if not service.has_database:  # it watches what passes by, and says nothing
        return {"events.>", "events.*.*", *(f"events.{name}.{end}" for name in NAMES for end in (">", "any"))}
    own = {f"_INBOX_{service.name}.>", f"_INBOX_{service.name}.any"}
    return own | ({f"republish.{service.name}"} if service.publications else set())


@pytest.fixture
def server(start_nats: Callable[..., Nats]) -> Nats:
    return start_nats(*(bus_user(each) for each in SERVICES))


@pytest.mark.parametrize("service", SERVICES, ids=NAMES)
async def test_a_service_says_and_hears_what_it_declares_and_nothing_else(server: Nats, service: Service) -> None:
    publications, subscriptions = every_publication(), every_subscription()
    assert wanted_publications(service) <= publications
    assert wanted_subscriptions(service) <= subscriptions
    async with Wire.of(server, service.name) as wire:
        assert {each for each in publications if await wire.may_publish(each)} == wanted_publications(service)
        assert {each for each in subscriptions if await wire.may_subscribe(each)} == wanted_subscriptions(service)


def test_the_matrix_is_a_large_one() -> None:
    """Six accounts, each tried on several hundred subjects: too few of them would prove nothing."""
    assert len(NAMES) == 6
    assert len(every_publication()) > 500


@pytest_asyncio.fixture
async def streams(server: Nats) -> Nats:
    """Every producer's stream, made by the producer."""
    for service in (each for each in SERVICES if each.publications):
        bus = Bus(service.name)
        bus.start(server.url(service.name))
        await bus.ready()
        await bus.ensure_stream()
        await bus.close()
    return server


async def connected(server: Nats, user: str) -> Client:
    async def ignore(_: Exception) -> None:
        """A denial comes as an error of the connection; what counts here is what it had no effect on."""

    return await nats.connect(server.url(user), inbox_prefix=f"_INBOX_{user}".encode(), error_cb=ignore)


async def ask(client: Client, subject: str, request: dict[str, Any]) -> dict[str, Any]:
    answer = await client.request(subject, json.dumps(request).encode(), timeout=5)
    decoded: dict[str, Any] = json.loads(answer.data)
    return decoded


async def test_no_service_makes_its_stream_speak_as_another_one(streams: Nats) -> None:
    """A stream can republish what it gets under other subjects, past every account's own rights."""
    admin, orders = await connected(streams, "admin"), await connected(streams, "orders")
    config = (await ask(admin, "$JS.API.STREAM.INFO.orders", {}))["config"]
    forging = {**config, "republish": {"src": "events.orders.>", "dest": "events.tickets.>"}}
    with pytest.raises((TimeoutError, nats.errors.Error)):
        await orders.request("$JS.API.STREAM.UPDATE.orders", json.dumps(forging).encode(), timeout=0.5)
    refused = await ask(orders, "$JS.API.STREAM.CREATE.orders", forging)
    assert "error" in refused, "an existing stream is not changed by making it again"
    await orders.publish("events.orders.OrderCreated", b"{}")
    await orders.flush()

    async def stored() -> bool:
        state = (await ask(admin, "$JS.API.STREAM.INFO.orders", {}))["state"]
        return int(state["messages"]) == 1

    await eventually(stored, "the event is stored")
    assert (await ask(admin, "$JS.API.STREAM.INFO.tickets", {}))["state"]["messages"] == 0
    await asyncio.gather(admin.close(), orders.close())


async def test_no_consumer_delivers_into_another_service_s_stream(streams: Nats) -> None:
    """A consumer can be told to push what it reads to any subject; no stream may take that for an event."""
    admin, orders, tickets = [await connected(streams, name) for name in ("admin", "orders", "tickets")]
    await orders.publish("events.orders.OrderCreated", b"{}")
    await orders.flush()
    config = {"durable_name": "tickets", "deliver_subject": "events.auth.SessionRevoked", "ack_policy": "none"}
    await ask(tickets, "$JS.API.CONSUMER.DURABLE.CREATE.orders.tickets", {"stream_name": "orders", "config": config})

    async def stored() -> bool:
        state = (await ask(admin, "$JS.API.STREAM.INFO.orders", {}))["state"]
        return int(state["messages"]) == 1

    await eventually(stored, "the event is stored")
    await admin.flush()
    assert (await ask(admin, "$JS.API.STREAM.INFO.auth", {}))["state"]["messages"] == 0
    await asyncio.gather(*(client.close() for client in (admin, orders, tickets)))
