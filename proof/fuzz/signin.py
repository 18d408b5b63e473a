"""How long signing in takes for a known and for an unknown e-mail: figures to judge by eye.

Medians are compared, and a rank test (Mann and Whitney's, by its normal approximation) gives the probability of a
difference like the measured one by chance alone.
"""

import math
import statistics
import time
from typing import Final

from proof.clients import HttpClient, http_client
from proof.marketplace import Marketplace, running_marketplace
from proof.people import PASSWORD

_WARM_UP: Final = 20


async def measure(tries: int) -> None:
    """Alternate wrong passwords for a known and an unknown e-mail; print both medians and the rank test."""
    async with running_marketplace() as marketplace, http_client(marketplace.url) as http:
        client = HttpClient(http)
        body = {"email": "alice@example.com", "password": PASSWORD}
        assert (await client.request("POST", "/api/users/signup", "", body, {})).status == 201
        known: list[float] = []
        unknown: list[float] = []
        for number in range(_WARM_UP + tries):
            # In turns and in both orders, so that the machine's other work slows both equally.
            turns = [("alice@example.com", known), (f"nobody{number}@example.com", unknown)]
            for email, seconds in turns if number % 2 else reversed(turns):
                seconds.append(await _seconds(marketplace, client, email))
    known, unknown = known[_WARM_UP:], unknown[_WARM_UP:]
    medians_ms = [statistics.median(each) * 1000 for each in (known, unknown)]
    print(f"known   e-mail: median {medians_ms[0]:.2f} ms of {tries}")
    print(f"unknown e-mail: median {medians_ms[1]:.2f} ms of {tries}")
    difference = abs(medians_ms[0] / medians_ms[1] - 1)
    print(f"difference {difference:.1%} (mark: 5 %), rank test p = {rank_test(known, unknown):.2f} (mark: > 0.01)")


async def _seconds(marketplace: Marketplace, client: HttpClient, email: str) -> float:
    await marketplace.execute("auth", "DELETE FROM attempts")
    began = time.monotonic()
    body = {"email": email, "password": "not the password"}
    reply = await client.request("POST", "/api/users/signin", "", body, {})
    seconds = time.monotonic() - began
    assert reply.status == 400, reply
    return seconds


def rank_test(ours: list[float], theirs: list[float]) -> float:
    """Return the probability of ranks at least this different if there is no difference."""
    ranked = sorted([(each, True) for each in ours] + [(each, False) for each in theirs])
    ranks = sum(rank for rank, (_, is_ours) in enumerate(ranked, 1) if is_ours)
    n, m = len(ours), len(theirs)
    statistic = ranks - n * (n + 1) / 2
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(statistic - n * m / 2) / deviation / math.sqrt(2))
