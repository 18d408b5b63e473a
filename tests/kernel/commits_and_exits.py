"""A process that commits an event and exits before the event is published: `… commits_and_exits DATABASE_URL`."""

import asyncio
import os
import sys

from admitone.kernel.database.pool import Database
from tests.kernel.support import note


async def main(url: str) -> None:
    database = await Database.connect(url, application="alpha")
    database.published = lambda: os._exit(17)
    async with database.transaction() as tx:
        tx.publish(note("committed before the exit"))


asyncio.run(main(sys.argv[1]))
