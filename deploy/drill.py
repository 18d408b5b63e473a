"""Restores each service's database to an earlier time while the others stay, and recovers it.

    python -m deploy.drill [SERVICE]...
    python -m deploy.drill --together

With `--together`, the databases of all services are restored at once.

People trade, the database is saved, people trade on. Then the service stops, the saved database replaces its
database, and `admitone recover` runs before the service starts. People go on with what they began: every response
that they got must stay true, and every invariant must hold.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import asyncpg
import httpx
import uvloop

from admitone.kernel.database.pool import Database
from admitone.kernel.ids import new_id
from admitone.local.environment import environment_for
from admitone.local.errors import LocalError
from admitone.local.postgres import binaries
from admitone.payments import store as payments
from admitone.registry import SERVICES, named
from deploy.marketplace import REPLICAS, Marketplace, prepared_marketplace, running

_DEADLINE_SECONDS: Final = 180.0
# Longer than a restore and what follows it take, so that a hold made before can be paid after it.
_HOLD_SECONDS: Final = 300
_PASSWORD: Final = "eleven-brass-owls"  # noqa: S105 – of accounts that exist for a minute
_VISA: Final = "tok_visa"
_ASKS_THE_BANK: Final = "pm_card_authenticationRequired"

_EVENTS: Final = "SELECT count(*) FROM outbox"

Order = dict[str, Any]


async def until(holds: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not await holds():
        assert time.monotonic() < deadline, f"not in {_DEADLINE_SECONDS:.0f} s: {what}"
        await asyncio.sleep(0.1)


@dataclass
class Person:
    """Somebody with a browser, who is signed in."""

    client: httpx.AsyncClient
    email: str

    async def send(self, method: str, path: str, **body: Any) -> httpx.Response:
        """Send a request; repeat it with its key while something made a moment ago has not arrived everywhere."""
        headers = {"idempotency-key": str(new_id())} if method == "POST" else {}
        for _ in range(200):
            response = await self.client.request(method, path, json=body or None, headers=headers)
            if response.status_code not in {404, 503}:
                break
            await asyncio.sleep(0.1)
        assert response.is_success, f"{self.email}: {method} {path}: {response.status_code} {response.text}"
        return response

    async def get(self, path: str) -> Any:
        return (await self.send("GET", path)).json()

    async def sign_up(self) -> None:
        await self.send("POST", "/api/users/signup", email=self.email, password=_PASSWORD)

    async def list_ticket(self, price: float = 19.99) -> str:
        listed = await self.send("POST", "/api/tickets", title="Fado night", price=price)
        return str(listed.json()["id"])

    async def reserve(self, ticket: str) -> Order:
        order: Order = (await self.send("POST", "/api/orders", ticketId=ticket)).json()
        return order

    async def pay(self, order: Order, token: str = _VISA) -> Any:
        return (await self.send("POST", "/api/payments", orderId=order["id"], token=token)).json()

    async def has_bought(self, order: Order) -> None:
        async def is_complete() -> bool:
            return bool((await self.get(f"/api/orders/{order['id']}"))["status"] == "complete")

        await until(is_complete, f"{self.email} has bought {order['id']}")


@dataclass
class Trade:
    """What people did before and after the database was saved."""

    alice: Person
    bob: Person
    carol: Person
    bought: list[Order] = field(default_factory=list)
    tickets: dict[str, str] = field(default_factory=dict)
    orders: dict[str, Order] = field(default_factory=dict)
    actions: dict[str, Any] = field(default_factory=dict)

    async def begin(self) -> None:
        """Trade, until the database is saved."""
        await asyncio.gather(self.alice.sign_up(), self.bob.sign_up())
        for name in ("bought", "paid later", "cancelled later", "confirmed later", "never paid"):
            self.orders[name] = await self.bob.reserve(await self.alice.list_ticket())
        self.tickets["edited later"] = await self.alice.list_ticket()
        self.actions["confirmed later"] = await self.bob.pay(self.orders["confirmed later"], _ASKS_THE_BANK)
        await self._buy("bought")

    async def go_on(self) -> None:
        """Trade on: the saved database knows nothing of this."""
        await self._buy("paid later")
        await self.bob.send("DELETE", f"/api/orders/{self.orders['cancelled later']['id']}")
        await self._confirm("confirmed later")
        await self.alice.send("PUT", f"/api/tickets/{self.tickets['edited later']}", title="Fado night", price=25)
        for name in ("bought since", "held since", "at the bank", "never paid, either"):
            self.orders[name] = await self.bob.reserve(await self.alice.list_ticket())
        # The cancelled order's ticket has another buyer, whose card is declined first.
        await self.carol.sign_up()
        ticket = self.orders["cancelled later"]["ticket"]["id"]
        resold = await self.carol.reserve(ticket)
        declined = await self.carol.client.post(
            "/api/payments", json={"orderId": resold["id"], "token": "tok_chargeDeclined"}
        )
        assert declined.is_client_error, declined.text
        await self.carol.pay(resold)
        await self.carol.has_bought(resold)
        await self._buy("bought since")
        self.actions["at the bank"] = await self.bob.pay(self.orders["at the bank"], _ASKS_THE_BANK)

    async def finish(self) -> None:
        """End what was begun, and trade as before."""
        await self._confirm("at the bank")
        await self._buy("held since")
        self.orders["new"] = await self.carol.reserve(await self.alice.list_ticket())
        await self.carol.pay(self.orders["new"])
        await self.carol.has_bought(self.orders["new"])
        for order in self.bought:
            await self.bob.has_bought(order)
        cancelled = await self.bob.get(f"/api/orders/{self.orders['cancelled later']['id']}")
        assert cancelled["status"] == "cancelled", cancelled
        edited = await self.alice.get(f"/api/tickets/{self.tickets['edited later']}")
        assert edited["price"] == 25, edited

    async def _buy(self, name: str) -> None:
        await self.bob.pay(self.orders[name])
        await self._has_bought(name)

    async def _confirm(self, name: str) -> None:
        """Do what the buyer does on the page of the bank."""
        action = self.actions[name]["action"]
        form = {"client_secret": action["clientSecret"], "outcome": "approve"}
        async with httpx.AsyncClient(timeout=20) as browser:
            response = await browser.post(action["url"].partition("?")[0], data=form)
        assert response.has_redirect_location, response.text
        await self._has_bought(name)

    async def _has_bought(self, name: str) -> None:
        await self.bob.has_bought(self.orders[name])
        self.bought.append(self.orders[name])


async def run_program(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    await asyncio.to_thread(subprocess.run, [str(binaries() / name), *arguments], check=True)


async def adopt(market: Marketplace) -> None:
    """Let payments act on Stripe with the restored data, as `admitone adopt --cancel-unknown` does."""
    database = await Database.connect(market.settings.migrator_urls["payments"], application="drill", connections=2)
    async with database.transaction() as tx:
        await payments.adopt_database(tx)
        await payments.cancel_unknown_intents(tx)
    await database.close()


async def recover(market: Marketplace, service: str) -> None:
    """Run `admitone recover`."""
    [declaration] = named([service])
    environment = environment_for(declaration, market.settings, {})
    command = [sys.executable, "-m", "admitone", "recover", service]
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout, end="", flush=True)


async def value(market: Marketplace, service: str, sql: str) -> int:
    connection = await asyncpg.connect(market.settings.database_urls[service])
    try:
        return int(await connection.fetchval(sql))
    finally:
        await connection.close()


async def is_published(market: Marketplace, service: str) -> None:
    """Wait until everything is on the bus: what was never published cannot be recovered."""

    async def holds() -> bool:
        return not await value(market, service, "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL")

    await until(holds, f"{service} has published its events")


async def refuses_to_start(market: Marketplace, service: str) -> None:
    try:
        await market.start_replica(service)
    except LocalError as error:
        assert f"admitone recover {service}" in str(error), error  # noqa: PT017 – this is no test
    else:
        raise AssertionError(f"{service} starts with a database that is behind")


async def restore(market: Marketplace, services: Sequence[str], folder: Path) -> None:
    """Stop services, replace their databases by the saved ones, recover them, and start the services."""
    server_url = market.postgres.url()
    events = {}
    for each in services:
        await is_published(market, each)
        events[each] = await value(market, each, _EVENTS)
    stopping = [replica for replica in market.replicas if replica.service in services]
    await asyncio.gather(*(market.stop_replica(each) for each in stopping))
    connection = await asyncpg.connect(server_url)
    for each in services:
        await connection.execute(f"DROP DATABASE {each} WITH (FORCE)")
        await run_program("pg_restore", "--create", f"--dbname={server_url}", str(folder / each))
    await connection.close()
    if "payments" in services:
        await adopt(market)
    for each in services:
        if await value(market, each, _EVENTS) < events[each]:
            await refuses_to_start(market, each)
        await recover(market, each)
    for _ in range(REPLICAS):
        await asyncio.gather(*(market.start_replica(each) for each in services))


async def refunds(market: Marketplace) -> int:
    """Return how many payments were refunded or are to be."""
    return await value(
        market,
        "payments",
        "SELECT count(*) FROM payment WHERE wanted = 'refund' OR state = 'refunded' OR refunded_cents > 0",
    )


async def drill(market: Marketplace, services: Sequence[str], folder: Path) -> list[str]:
    """Run the drill with some services; return the invariants that are still broken after the deadline."""
    title = ", ".join(services)
    async with AsyncExitStack() as stack:
        alice, bob, carol = [
            Person(
                await stack.enter_async_context(httpx.AsyncClient(base_url=market.settings.public_origin, timeout=20)),
                f"{name}-{'-'.join(services)}@example.com",
            )
            for name in ("alice", "bob", "carol")
        ]
        trade = Trade(alice, bob, carol)
        await trade.begin()
        for each in services:
            url = f"{market.postgres.url().rpartition('/')[0]}/{each}"
            await run_program("pg_dump", "--format=custom", f"--file={folder / each}", url)
        await trade.go_on()
        began = time.monotonic()
        await restore(market, services, folder)
        print(f"{title}: unavailable for {time.monotonic() - began:.1f} s and restored", flush=True)
        began = time.monotonic()
        await trade.finish()
        assert await refunds(market) == 0, "a captured payment was refunded"
        while broken := await market.broken_invariants(grace_seconds=5):
            if time.monotonic() - began > _DEADLINE_SECONDS:
                return broken
        print(f"{title}: every invariant holds after {time.monotonic() - began:.1f} s", flush=True)
        return []


async def drills(market: Marketplace, groups: Sequence[Sequence[str]], folder: Path) -> list[str]:
    async with running(market):
        return [broken for each in groups for broken in await drill(market, each, folder)]


def main(arguments: list[str]) -> int:
    every = [each.name for each in SERVICES if each.has_database]
    parser = argparse.ArgumentParser(prog="python -m deploy.drill", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("services", nargs="*", choices=[*every, []], metavar="SERVICE", help="default: each in turn")
    parser.add_argument("--together", action="store_true", help="restore the databases of all services at once")
    options = parser.parse_args(arguments)
    groups = [every] if options.together else [[each] for each in options.services or every]
    with tempfile.TemporaryDirectory(prefix="admitone-drill-") as folder:
        # PostgreSQL may run as `nobody`, who must be able to enter the folder.
        Path(folder).chmod(0o711)
        settings = {"ADMITONE_ORDER_WINDOW_SECONDS": str(_HOLD_SECONDS)}
        with prepared_marketplace(Path(folder) / "data", **settings) as market:
            broken = uvloop.run(drills(market, groups, Path(folder)))
    if broken:
        print("still broken:", *broken, sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
