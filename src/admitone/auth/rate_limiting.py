"""Rate limiting of password attempts, per account and per client network, with growing delays and never a lock-out.

Counters are in the database. An attempt is counted before its password is verified, so that a hundred concurrent
attempts gain nothing over a hundred in a row; a success is uncounted.
"""

from collections.abc import Sequence

from admitone.auth import store
from admitone.auth.model import RateLimit
from admitone.kernel.database.pool import Database, Transaction


async def count_attempt(db: Database, limits: Sequence[RateLimit]) -> None:
    """Count an attempt against every limit; raises TooManyRequests, and counts nothing, if one of them is exceeded."""
    free = {limit.key: limit.free_attempts for limit in limits}
    # A flood is refused by this read, before it can fill the connection pool with waits for row locks.
    for now, attempts in await store.find_attempts(db, list(free)):
        attempts.one_more(now, free[attempts.key])
    async with db.transaction() as tx:
        before = await store.lock_attempts(tx, list(free))
        await store.save_attempts(tx, [each.one_more(tx.now, free[each.key]) for each in before])


async def record_success(tx: Transaction, network_limit: RateLimit, account_limit: RateLimit | None = None) -> None:
    """Uncount a successful attempt: the account's counter is reset, the network's loses one.

    This must be the last statement of a transaction: all clients of the network wait for it until the commit.
    """
    if account_limit is not None:
        # Both rows in one statement, as in count_attempt: locked one by one, the two could deadlock.
        await store.lock_attempts(tx, [account_limit.key, network_limit.key])
        await store.delete_attempts(tx, account_limit.key)
    await store.uncount_attempt(tx, network_limit.key)
