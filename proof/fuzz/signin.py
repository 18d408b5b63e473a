"""What signing in costs a known and an unknown e-mail: figures to look at, as time on a shared machine proves nothing.

Medians are compared, and a rank test (Mann and Whitney's, by its normal approximation) says how likely a difference
like the measured one is by chance alone.
"""

import math
import statistics
from contextlib import ExitStack
from typing import Final

import httpx

from admitone.auth.service import SERVICE
from admitone.kernel import clock
from tests import engines
from tests.support import running_app, sign_up

_WARM_UP: Final = 20


async def measure(tries: int) -> None:
    """Alternate wrong passwords for somebody and for nobody; print both medians and the rank test."""
    with ExitStack() as running:
        postgres = running.enter_context(engines.running_postgres())
        start_nats = lambda *users: running.enter_context(engines.running_nats(users))  # noqa: E731
        async with running_app(engines.Databases(postgres), start_nats, SERVICE) as app, app.client() as client:
            await sign_up(client, "alice@example.com")
            client.cookies.clear()
            database = app.running["auth"].database
            known: list[float] = []
            unknown: list[float] = []
            for number in range(_WARM_UP + tries):
                # In turns, and in both orders, so that what else the machine does meets both alike.
                turns = [("alice@example.com", known), (f"nobody{number}@example.com", unknown)]
                for email, found in turns if number % 2 else reversed(turns):
                    await database.execute("DELETE FROM attempts")
                    found.append(await _seconds(client, email))
    known, unknown = known[_WARM_UP:], unknown[_WARM_UP:]
    medians = [statistics.median(each) * 1000 for each in (known, unknown)]
    print(f"known   e-mail: median {medians[0]:.2f} ms of {tries}")
    print(f"unknown e-mail: median {medians[1]:.2f} ms of {tries}")
    apart, p = abs(medians[0] / medians[1] - 1), rank_test(known, unknown)
    print(f"difference {apart:.1%} (mark: 5 %), rank test p = {p:.2f} (mark: > 0.01)")


async def _seconds(client: httpx.AsyncClient, email: str) -> float:
    began = clock.monotonic_seconds()
    answer = await client.post("/api/users/signin", json={"email": email, "password": "not the password"})
    seconds = clock.monotonic_seconds() - began
    assert answer.status_code == 400, answer.text
    return seconds


def rank_test(ours: list[float], theirs: list[float]) -> float:
    """Return the probability of ranks at least this different where there is no difference."""
    ranked = sorted([(each, True) for each in ours] + [(each, False) for each in theirs])
    ranks = sum(rank for rank, (_, is_ours) in enumerate(ranked, 1) if is_ours)
    n, m = len(ours), len(theirs)
    statistic = ranks - n * (n + 1) / 2
    deviation = math.sqrt(n * m * (n + m + 1) / 12)
    return math.erfc(abs(statistic - n * m / 2) / deviation / math.sqrt(2))
