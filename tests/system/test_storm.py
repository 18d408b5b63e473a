"""The whole history published again: nothing changes, however often and in whatever order it arrives."""

import httpx
import pytest

from proof.clients import HttpClient, user_id_of
from proof.endings import ENDINGS, Cast, every_ending
from proof.load.storm import digests, history, publish_again
from proof.marketplace import settled
from proof.people import Person
from tests import engines
from tests.support import StartNats, sign_up
from tests.system.support import WITH_MONEY, marketplace

ROUNDS = 3
TIMES = 10


def person(client: httpx.AsyncClient) -> Person:
    session = client.cookies["session"]
    return Person(user_id_of(session), session, HttpClient(client))


@pytest.mark.proof
@pytest.mark.timeout(180)
async def test_s03_a_history_published_ten_times_again_changes_nothing(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    async with marketplace(databases, start_nats, *WITH_MONEY, hold_seconds=8) as market:
        async with market.app.client() as dave:
            await sign_up(dave, "dave@example.com")
            await dave.post("/api/users/signout")
        async with market.person("alice") as alice, market.person("bob") as bob, market.person("carol") as carol:
            done = await every_ending(Cast(person(alice), person(bob), person(carol)), ROUNDS)
        assert done == dict.fromkeys(ENDINGS, ROUNDS)

        async def value(service: str, sql: str) -> object:
            return await market.database(service).fetchval(sql)

        await settled(value)
        await market.settled()
        settings = market.app.running["orders"].settings
        events = await history(settings)
        assert {each.type for each in events} >= {
            *("UserCreated", "SessionRevoked", "TicketCreated", "TicketUpdated", "OrderCreated", "OrderCompleted"),
            *("OrderCancelled", "OrderExpired", "PaymentAuthorized", "PaymentCreated", "PaymentFailed"),
        }
        before = await digests(settings)

        await publish_again(settings, events, TIMES)

        assert await digests(settings) == before
        assert {before[f"{each.name}.dead_letter"].split()[0] for each in market.services} == {"0"}
        await market.is_sound()
