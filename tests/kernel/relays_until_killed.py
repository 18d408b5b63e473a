"""A process that runs alpha's relay until it is killed: `… relays_until_killed DATABASE_URL NATS_URL`."""

import asyncio
import sys

from admitone.kernel.database.pool import Database
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.outbox import Relay
from tests.kernel import support


async def main(database_url: str, nats_url: str) -> None:
    database = await Database.connect(database_url, application=support.ALPHA.name)
    bus = Bus(support.ALPHA.name)
    bus.start(nats_url)
    relay = Relay(database, bus)
    relay.silent_seconds_max = 1.0
    await relay.run()


asyncio.run(main(*sys.argv[1:]))
