"""The whole history told again: nobody sees anything twice, however often and in whatever order it comes."""

import pytest

from proof.load.ends import ENDS, People, every_end, everything_ended
from proof.load.storm import digests, history, told_again
from tests import engines
from tests.support import StartNats, sign_up
from tests.system.support import WITH_MONEY, marketplace

ROUNDS = 3
TIMES = 10


@pytest.mark.timeout(180)
async def test_s03_a_history_told_ten_times_again_changes_nothing(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    async with marketplace(databases, start_nats, *WITH_MONEY, order_window_seconds=3) as market:
        async with market.app.client() as dave:
            await sign_up(dave, "dave@example.com")
            await dave.post("/api/users/signout")
        async with market.person("alice") as alice, market.person("bob") as bob, market.person("carol") as carol:
            done = await every_end(People(alice, bob, carol), ROUNDS)
        assert done == {end.__name__: ROUNDS for end in ENDS}

        async def value(service: str, sql: str) -> object:
            return await market.database(service).fetchval(sql)

        await everything_ended(value)
        await market.settled()
        settings = market.app.running["orders"].settings
        events = await history(settings)
        assert {each.type for each in events} >= {
            *("UserCreated", "SessionRevoked", "TicketCreated", "TicketUpdated", "OrderCreated", "OrderCompleted"),
            *("OrderCancelled", "OrderExpired", "PaymentAuthorized", "PaymentCreated", "PaymentFailed"),
        }
        before = await digests(settings)

        await told_again(settings, market.services, events, TIMES)

        assert await digests(settings) == before
        assert {before[f"{each.name}.dead_letter"].split()[0] for each in market.services} == {"0"}
        await market.is_sound()
