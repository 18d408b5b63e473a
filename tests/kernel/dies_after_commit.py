"""A process that commits an event and is gone before anybody could publish it: `… dies_after_commit DATABASE_URL`."""

import asyncio
import os
import sys

from admitone.kernel.database.pool import Database
from tests.kernel.support import note


async def main(url: str) -> None:
    database = await Database.connect(url, application="alpha")
    database.on_publish(lambda: os._exit(17))
    async with database.transaction() as tx:
        tx.publish(note("told by the dead"))


asyncio.run(main(sys.argv[1]))
