"""Growing delays for those who guess, per account and per network: kept in the database, and never a lock-out.

A try is counted before the password is looked at, so a hundred guesses at once gain nothing over a hundred in a row; a
success takes its count back.
"""

from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final

from starlette.requests import Request

from admitone.auth import store
from admitone.auth.model import Guess, Place
from admitone.kernel.database.pool import Database, Transaction

# What one customer of a provider usually has. Source: RFC 6177 for IPv6, §2.
_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 56
_NOWHERE: Final = ip_network("0.0.0.0/24")


async def count_try(db: Database, guesses: Sequence[Guess]) -> None:
    """Count a try at each; raises TooManyTries, and counts nothing, when one of them has to wait."""
    free = {guess.about: guess.free for guess in guesses}
    # A flood is refused here: it must not fill the connections with waiting for each other's locks.
    for now, tries in await store.find_tries(db, list(free)):
        tries.one_more(now, free[tries.about])
    async with db.transaction() as tx:
        before = await store.lock_tries(tx, list(free))
        await store.keep_tries(tx, [each.one_more(tx.now, free[each.about]) for each in before])


async def take_back(tx: Transaction, at_account: Guess | None, from_place: Guess) -> None:
    """Say that the last try was a success: the account starts afresh, its network has one try less against it.

    The last thing a transaction does: a whole network waits for it until the commit.
    """
    if at_account is not None:
        # Both at once and first, as whoever counts does: in two steps they would wait for each other.
        await store.lock_tries(tx, [at_account.about, from_place.about])
        await store.forget_tries(tx, at_account.about)
    await store.take_try_back(tx, from_place.about)


def place_of(request: Request, *, trust_proxy: bool) -> Place:
    """Return the network a request comes from.

    Behind a proxy that is the last address in X-Forwarded-For: the proxy wrote that one, the others anybody can write.
    """
    address = request.client.host if request.client else ""
    if trust_proxy and (forwarded := request.headers.getlist("x-forwarded-for")):
        address = forwarded[-1].rpartition(",")[2].strip()
    try:
        parsed = ip_address(address)
    except ValueError:
        return _NOWHERE
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return ip_network((parsed.packed, _IPV6_PREFIX), strict=False)
        parsed = parsed.ipv4_mapped
    return ip_network((parsed, _IPV4_PREFIX), strict=False)
