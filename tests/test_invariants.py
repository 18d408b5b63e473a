"""The invariants: a marketplace at rest keeps them all, and each is broken by what it forbids."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID, uuid4

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio

from admitone import registry
from admitone.invariants import INVARIANTS, ClientRecord, Finding, ProviderIntent, Sources, check, provider_at
from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from admitone.local.postgres import Postgres
from tests.engines import short_folder, wait_until
from tests.whole import Up, running_up

STORED = [each.name for each in registry.SERVICES if each.has_database]


class Traded(msgspec.Struct):
    """What was done: alice listed three tickets; bob bought one, holds one, and gave one back."""

    alice: UUID
    bob: UUID
    sold: dict[str, str]
    held: dict[str, str]
    cancelled: dict[str, str]


def trade(up: Up) -> Traded:
    with up.person("alice") as alice, up.person("bob") as bob:

        def ordered(title: str) -> dict[str, str]:
            key = {"Idempotency-Key": title}
            ticket = alice.post("/api/tickets", json={"title": title, "price": 19.99}, headers=key).json()["id"]
            answers: list[httpx.Response] = []

            def is_ordered() -> bool:
                answers.append(bob.post("/api/orders", json={"ticketId": ticket}))
                return answers[-1].status_code == 201

            wait_until(is_ordered, "bob orders")
            return {"order": answers[-1].json()["id"], "ticket": ticket}

        sold, held, cancelled = ordered("Fado night"), ordered("Swan Lake"), ordered("Brass on the Pier")
        assert bob.delete(f"/api/orders/{cancelled['order']}").status_code == 204
        paying = {"orderId": sold["order"], "token": "pm_card_visa"}
        wait_until(lambda: bob.post("/api/payments", json=paying).status_code == 201, "bob pays")
        complete = f"/api/orders/{sold['order']}"
        wait_until(lambda: bob.get(complete).json()["status"] == "complete", "the order is complete")
        ids = [UUID(each.get("/api/users/currentuser").json()["currentUser"]["id"]) for each in (alice, bob)]
        return Traded(ids[0], ids[1], sold, held, cancelled)


@dataclass(frozen=True)
class Rest:
    """The databases after the trade, with nothing running but PostgreSQL, and the provider's list."""

    postgres: Postgres
    settings: Settings
    intents: Sequence[ProviderIntent]
    traded: Traded


async def listed(settings: Settings) -> Sequence[ProviderIntent]:
    connection = await asyncpg.connect(settings.database_url("payments"))
    installation = await connection.fetchval("SELECT id FROM installation")
    await connection.close()
    return await provider_at(settings.stripe_url, settings.stripe_secret_key)(installation)


@pytest.fixture(scope="module")
def rest() -> Iterator[Rest]:
    with short_folder() as folder:
        with running_up(folder / "data") as up:
            traded = trade(up)
            settled = up.run("check")
            assert settled.returncode == 0, settled.stdout + settled.stderr
            settings = running_settings(up.folder)
            assert settings is not None
            intents = asyncio.run(listed(settings))
        postgres = Postgres(folder / "data" / "postgres", (folder / "data/secrets/database_superuser").read_text())
        postgres.start()
        try:
            yield Rest(postgres, settings, intents, traded)
        finally:
            postgres.stop()


numbers = itertools.count(1)


@dataclass
class Market:
    """Copies of the databases that a test may spoil."""

    rest: Rest
    urls: Mapping[str, str]
    intents: Sequence[ProviderIntent]

    @property
    def traded(self) -> Traded:
        return self.rest.traded

    async def spoil(self, service: str, sql: str, *arguments: object) -> None:
        """Change rows behind the back of every trigger."""
        connection = await asyncpg.connect(self.urls[service])
        try:
            await connection.execute("SET session_replication_role = replica")
            await connection.execute(sql, *arguments)
        finally:
            await connection.close()

    async def check(self, history: Sequence[ClientRecord] = ()) -> dict[str, Finding]:
        async def provider(_installation: UUID) -> Sequence[ProviderIntent]:
            return self.intents

        sources = Sources(self.urls, registry.SERVICES, provider)
        return {each.id: each for each in await check(sources, history=history, grace_seconds=0)}

    async def broken(self, history: Sequence[ClientRecord] = ()) -> set[str]:
        return {each.id for each in (await self.check(history)).values() if not each.holds}


@pytest_asyncio.fixture
async def market(rest: Rest) -> AsyncIterator[Market]:
    server = rest.postgres.url().rpartition("/")[0]
    names = {service: f"copy_{next(numbers)}_{service}" for service in STORED}
    connection = await asyncpg.connect(rest.postgres.url())
    for service, name in names.items():
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {service}")
    try:
        yield Market(rest, {service: f"{server}/{name}" for service, name in names.items()}, rest.intents)
    finally:
        for name in names.values():
            await connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
        await connection.close()


async def test_a_market_at_rest_keeps_every_invariant(market: Market) -> None:
    findings = await market.check()
    assert list(findings) == [f"I{number}" for number in range(1, 15)] == [each.id for each in INVARIANTS]
    assert all(each.holds for each in findings.values()), findings
    assert findings["I1"].checked == 3
    assert findings["I2"].checked == 2, "our books and the provider's"


async def test_i01_two_orders_for_one_ticket(market: Market) -> None:
    await market.spoil("orders", "DROP INDEX one_live_order_per_ticket")
    await market.spoil(
        "orders",
        "INSERT INTO orders (id, buyer_id, ticket_id, ticket_version, title, price_cents, currency, expires_at) "
        "SELECT $1, buyer_id, ticket_id, ticket_version, title, price_cents, currency, expires_at "
        "FROM orders WHERE status = 'complete'",
        uuid4(),
    )
    findings = await market.check()
    assert findings["I1"].samples() == [f"ticket {market.traded.sold['ticket']} has 2 orders at once"]


@pytest.mark.parametrize(
    "change", ["amount_cents = amount_cents + 1", "currency = 'eur'", "buyer_id = gen_random_uuid()"]
)
async def test_i02_a_charge_that_does_not_match_its_order(change: str, market: Market) -> None:
    await market.spoil("payments", f"UPDATE payment SET {change}")
    assert "I2" in await market.broken()


async def test_i02_a_charge_at_the_provider_for_a_cancelled_order(market: Market) -> None:
    charged = market.intents[0]
    market.intents = [
        *market.intents,
        msgspec.structs.replace(charged, order_id=UUID(market.traded.cancelled["order"])),
    ]
    findings = await market.check()
    assert f"order {market.traded.cancelled['order']}, which is cancelled" in findings["I2"].samples()[0]


async def test_i03_an_order_charged_twice(market: Market) -> None:
    market.intents = [*market.intents, msgspec.structs.replace(market.intents[0], id="pi_again")]
    assert await market.broken() == {"I3"}


async def test_i04_a_complete_order_that_nobody_paid(market: Market) -> None:
    await market.spoil("payments", "UPDATE payment SET state = 'voided'")
    assert "I4" in await market.broken()


async def test_i04_a_complete_order_for_which_the_provider_took_nothing(market: Market) -> None:
    market.intents = []
    assert await market.broken() == {"I4"}


async def test_i05_an_authorisation_left_open(market: Market) -> None:
    open_one = msgspec.structs.replace(market.intents[0], id="pi_open", status="requires_capture", taken_cents=0)
    market.intents = [*market.intents, open_one]
    assert await market.broken() == {"I5"}


async def test_i06_an_order_past_its_deadline(market: Market) -> None:
    await market.spoil("orders", "UPDATE orders SET expires_at = now() - interval '1 minute' WHERE status = 'created'")
    assert "I6" in await market.broken()


async def test_i06_an_order_that_awaits_its_payment_for_an_hour(market: Market) -> None:
    await market.spoil(
        "orders",
        "UPDATE orders SET status = 'awaiting:payment', payment_id = gen_random_uuid() WHERE status = 'created'",
    )
    await market.spoil("orders", "UPDATE outbox SET recorded_at = now() - interval '1 hour'")
    assert "I6" in await market.broken()


async def test_i07_a_sold_ticket_that_is_on_sale_again(market: Market) -> None:
    await market.spoil("tickets", "UPDATE ticket SET status = 'available', order_id = NULL WHERE status = 'sold'")
    assert "I7" in await market.broken()


async def test_i07_a_ticket_locked_by_a_dead_order(market: Market) -> None:
    await market.spoil(
        "tickets",
        "UPDATE ticket SET status = 'reserved', order_id = $1 WHERE id = $2",
        UUID(market.traded.cancelled["order"]),
        UUID(market.traded.cancelled["ticket"]),
    )
    assert {"I7", "I8"} <= await market.broken()


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("orders", "UPDATE ticket SET version = version + 1"),
        ("orders", "DELETE FROM ticket"),
        ("payments", "UPDATE orders SET price_cents = price_cents + 1"),
        ("payments", "UPDATE orders SET status = 'created'"),
        ("expiration", "DELETE FROM deadline"),
        ("expiration", "UPDATE deadline SET expires_at = expires_at + interval '1 second'"),
        (
            "auth",
            """INSERT INTO session (id, account_id, place, expires_at, ended_at)
            SELECT gen_random_uuid(), id, '127.0.0.0/8', now() + interval '1 day', now() FROM account LIMIT 1""",
        ),
    ],
)
async def test_i08_a_replica_that_differs(service: str, change: str, market: Market) -> None:
    await market.spoil(service, change)
    assert await market.broken() == {"I8"}


async def test_i09_an_answered_ticket_that_is_gone(market: Market) -> None:
    await market.spoil("tickets", "DELETE FROM ticket WHERE id = $1", UUID(market.traded.cancelled["ticket"]))
    findings = await market.check()
    assert findings["I9"].samples() == [f"tickets {market.traded.cancelled['ticket']} was answered and is gone"]


async def test_i10_a_locked_ticket_edited(market: Market) -> None:
    await market.spoil("tickets", "UPDATE ticket SET price_cents = 1 + price_cents WHERE status = 'reserved'")
    await market.spoil("orders", "UPDATE ticket SET price_cents = 1 + price_cents WHERE status = 'reserved'")
    assert await market.broken() == {"I10"}


async def test_i10_a_locked_ticket_edited_and_put_right_again(market: Market) -> None:
    await market.spoil(
        "tickets",
        "UPDATE outbox SET data = jsonb_set(data::jsonb, '{priceCents}', '1')::text "
        "WHERE data::jsonb ->> 'status' = 'sold'",
    )
    findings = await market.check()
    assert "was edited while it was locked" in findings["I10"].samples()[0]


async def test_i11_a_version_that_nobody_told(market: Market) -> None:
    await market.spoil("auth", "UPDATE account SET version = version + 1")
    assert await market.broken() == {"I11"}


async def test_i11_a_complete_order_that_was_cancelled(market: Market) -> None:
    await market.spoil(
        "orders", "UPDATE orders SET status = 'cancelled', cancel_reason = 'expired' WHERE status = 'complete'"
    )
    assert "I11" in await market.broken()


async def test_i12_an_order_that_expired_too_early(market: Market) -> None:
    await market.spoil("orders", "UPDATE orders SET cancel_reason = 'expired' WHERE status = 'cancelled'")
    assert await market.broken() == {"I12"}


async def test_i13_a_seller_who_bought_from_themselves(market: Market) -> None:
    await market.spoil("orders", "UPDATE ticket SET seller_id = $1 WHERE status = 'sold'", market.traded.bob)
    assert "I13" in await market.broken()


async def test_i13_a_ticket_that_changed_its_owner(market: Market) -> None:
    await market.spoil(
        "tickets",
        "UPDATE outbox SET data = jsonb_set(data::jsonb, '{userId}', to_jsonb(gen_random_uuid()))::text "
        "WHERE version = 1",
    )
    assert await market.broken() == {"I13"}


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("orders", "UPDATE outbox SET stream_sequence = NULL WHERE type = 'OrderCompleted'"),
        ("orders", "DELETE FROM inbox"),
        ("expiration", "DELETE FROM inbox WHERE id = (SELECT max(id::text)::uuid FROM inbox)"),
        ("tickets", "INSERT INTO inbox (id) VALUES (uuidv7())"),
    ],
)
async def test_i14_an_event_that_did_not_arrive_or_came_from_nowhere(service: str, change: str, market: Market) -> None:
    await market.spoil(service, change)
    assert await market.broken() == {"I14"}


@pytest.mark.parametrize(("is_poison", "broken"), [(True, set()), (False, {"I14"})])
async def test_i14_a_dead_letter_is_a_violation_unless_it_is_no_event(
    is_poison: bool, broken: set[str], market: Market
) -> None:
    event = b"""{"id": "01980000-0000-7000-8000-000000000000", "source": "/admitone/expiration", "type": "OrderExpired",
        "subject": "01980000-0000-7000-8000-000000000000", "time": "2026-11-21T09:00:00Z", "dataschema": "/events/x",
        "data": {"orderId": "01980000-0000-7000-8000-000000000000"}}"""
    await market.spoil(
        "orders",
        "INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at) "
        "VALUES ($1, 's', $2, 5, 'e', now())",
        "01980000-0000-7000-8000-000000000000",
        b"\xff not an event" if is_poison else event,
    )
    assert await market.broken() == broken


def told(market: Market) -> list[ClientRecord]:
    """The history of the trade as its clients saw it."""
    alice, bob, traded = market.traded.alice, market.traded.bob, market.traded
    history = []
    for each in (traded.sold, traded.held, traded.cancelled):
        ticket, order = UUID(each["ticket"]), UUID(each["order"])
        history.append(ClientRecord(action="list", outcome="answered", person=alice, ticket=ticket))
        history.append(
            ClientRecord(action="order", outcome="answered", person=bob, ticket=ticket, order=order, price_cents=1999)
        )
    for did, each in (("pay", traded.sold), ("cancel", traded.cancelled)):
        history.append(ClientRecord(action=did, outcome="answered", person=bob, order=UUID(each["order"])))  # type: ignore[arg-type]
    return [ClientRecord(action="sign up", outcome="answered", person=bob), *history]


async def test_i09_a_true_history_is_kept(market: Market) -> None:
    assert await market.broken(told(market)) == set()


@pytest.mark.parametrize("did", ["sign up", "list", "order", "cancel", "pay", "edit"])
async def test_i09_a_promise_that_was_not_kept(did: str, market: Market) -> None:
    nothing = uuid4()
    promise = ClientRecord(
        action=did,  # type: ignore[arg-type]
        outcome="answered",
        person=uuid4(),
        ticket=nothing,
        order=nothing,
        version=1,
    )
    assert await market.broken([promise]) == {"I9"}


@pytest.mark.parametrize("did", ["list", "order", "pay"])
async def test_i09_a_refusal_that_had_an_effect(did: str, market: Market) -> None:
    history = told(market)
    at = next(index for index, each in enumerate(history) if each.did == did)
    for outcome, broken in (("unknown", set()), ("refused", {"I9"})):
        history[at] = msgspec.structs.replace(history[at], outcome=outcome)
        assert await market.broken(history) == broken


async def test_i10_another_price_than_the_buyer_was_shown(market: Market) -> None:
    history = [msgspec.structs.replace(each, price_cents=1) if each.did == "order" else each for each in told(market)]
    assert await market.broken(history) == {"I10"}


async def test_what_settles_within_the_grace_is_no_violation(market: Market) -> None:
    """An event still on its way when the first reading is taken."""
    await market.spoil("orders", "UPDATE outbox SET stream_sequence = NULL")

    readings = itertools.count(1)

    async def provider(_installation: UUID) -> Sequence[ProviderIntent]:
        if next(readings) == 2:
            await market.spoil("orders", "UPDATE outbox SET stream_sequence = position")
        return market.intents

    findings = await check(Sources(market.urls, registry.SERVICES, provider), grace_seconds=20)
    assert all(each.holds for each in findings)
    assert next(readings) == 3


async def test_what_never_may_be_is_not_forgiven_by_a_later_reading(market: Market) -> None:
    readings = iter([[*market.intents, msgspec.structs.replace(market.intents[0], id="pi_again")], market.intents])
    # Something else that does not settle keeps the check reading.
    await market.spoil("orders", "UPDATE outbox SET stream_sequence = NULL")

    async def provider(_installation: UUID) -> Sequence[ProviderIntent]:
        return next(readings, market.intents)

    findings = await check(Sources(market.urls, registry.SERVICES, provider), grace_seconds=1)
    assert {each.id for each in findings if not each.holds} == {"I3", "I14"}
