"""The commands that look at, and put right, a marketplace that runs."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import nats
import pytest

from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from tests.engines import short_folder, wait_until
from tests.whole import Up, run, running_up


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with short_folder() as folder, running_up(folder / "data") as up:
        yield up


@pytest.fixture
def settings(up: Up) -> Settings:
    found = running_settings(up.folder)
    assert found is not None
    return found


async def changed(settings: Settings, service: str, sql: str, *arguments: object) -> str:
    """Change a service's database as its owner; return PostgreSQL's command tag."""
    connection = await asyncpg.connect(settings.migrator_urls[service])
    try:
        return str(await connection.execute(sql, *arguments))
    finally:
        await connection.close()


async def value(settings: Settings, service: str, sql: str, *arguments: object) -> object:
    connection = await asyncpg.connect(settings.database_urls[service])
    try:
        return await connection.fetchval(sql, *arguments)
    finally:
        await connection.close()


async def dead(settings: Settings, message: bytes, letter_id: str | None = None) -> str:
    """Put a dead letter into orders, as its inbox does after the last attempt; return its id."""
    letter_id = letter_id or str(uuid4())
    await changed(
        settings,
        "orders",
        "INSERT INTO dead_letter (id, subject, message, attempts, error, given_up_at) "
        "VALUES ($1, 'events.expiration.OrderExpired', $2, 5, $3, now())",
        letter_id,
        message,
        "ValueError: the clock struck thirteen\n  at midnight",
    )
    return letter_id


async def taken_in(settings: Settings, event_id: str) -> None:
    """Demand that orders took an event in, and forget it again: nobody told it, and `check` would notice."""
    assert await changed(settings, "orders", "DELETE FROM inbox WHERE id = $1", UUID(event_id)) == "DELETE 1"


def expired(event_id: str) -> bytes:
    """An event about an order that nobody knows; orders takes it in and does nothing."""
    order = str(uuid4())
    return json.dumps(
        {
            "specversion": "1.0",
            "id": event_id,
            "source": "/admitone/expiration",
            "type": "OrderExpired",
            "subject": order,
            "time": "2026-11-21T09:00:00Z",
            "dataschema": "/events/OrderExpired/1",
            "data": {"orderId": order},
        }
    ).encode()


async def test_s15_a_dead_letter_is_listed_shown_and_handled_again(up: Up, settings: Settings) -> None:
    event_id = str(uuid4())
    await dead(settings, expired(event_id), event_id)
    listed = up.run("dead-letters", "list", "--service", "orders")
    assert listed.returncode == 0
    assert f"orders  {event_id}  events.expiration.OrderExpired  5 attempts  ValueError" in listed.stdout
    assert "1 dead letters" in listed.stdout
    shown = up.run("dead-letters", "show", event_id)
    assert "at midnight" in shown.stdout
    assert '"type": "OrderExpired"' in shown.stdout
    retried = up.run("dead-letters", "retry", event_id)
    assert retried.returncode == 0, retried.stderr
    assert "1 handled, 0 failed again" in retried.stdout
    assert await value(settings, "orders", "SELECT count(*) FROM dead_letter") == 0
    await taken_in(settings, event_id)


async def test_s15_what_fails_again_stays_and_the_exit_code_says_so(up: Up, settings: Settings) -> None:
    letter_id = await dead(settings, b"\xff no event", "expiration:17")
    retried = up.run("dead-letters", "retry", "--all", "--service", "orders")
    assert retried.returncode == 1
    assert "failed again: it is no event" in retried.stderr
    dropped = up.run("dead-letters", "drop", letter_id)
    assert dropped.returncode == 0
    assert await value(settings, "orders", "SELECT count(*) FROM dead_letter") == 0


async def test_a_dropped_event_does_not_come_back_with_a_replay(up: Up, settings: Settings) -> None:
    event_id = str(uuid4())
    await dead(settings, expired(event_id), event_id)
    assert up.run("dead-letters", "drop", "--all").returncode == 0
    await taken_in(settings, event_id)


def test_a_dead_letter_that_is_not_there_is_exit_code_1_and_no_choice_at_all_is_2(up: Up) -> None:
    unknown = up.run("dead-letters", "retry", "nowhere:1")
    assert unknown.returncode == 1
    assert "There is no dead letter nowhere:1" in unknown.stderr
    assert up.run("dead-letters", "retry").returncode == 2
    assert up.run("dead-letters", "drop", "nowhere:1", "--all").returncode == 2


async def test_a_replay_publishes_everything_again_and_changes_nothing(up: Up, settings: Settings) -> None:
    with up.person("alice") as alice:
        ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
        alice.put(f"/api/tickets/{ticket}", json={"title": "Fado night", "price": 25})
    replica = "SELECT version FROM ticket WHERE id = $1"
    await reached(settings, "orders", replica, UUID(ticket), wanted=1)
    copies = "SELECT min(copies) FROM outbox WHERE stream_sequence IS NOT NULL HAVING bool_and(stream_sequence > 0)"
    before = await value(settings, "tickets", copies)
    replayed = up.run("replay", "tickets", "auth")
    assert replayed.returncode == 0, replayed.stderr
    assert replayed.stdout.startswith("tickets: ")
    assert "auth: " in replayed.stdout
    assert "orders: " not in replayed.stdout
    assert isinstance(before, int)
    await reached(settings, "tickets", "SELECT count(*) FROM outbox WHERE stream_sequence IS NULL", wanted=0)
    assert await value(settings, "tickets", copies) == before + 1
    assert await value(settings, "orders", replica, UUID(ticket)) == 1
    assert up.run("check").returncode == 0


async def reached(settings: Settings, service: str, sql: str, *arguments: object, wanted: object) -> None:
    deadline = time.monotonic() + 20
    while (found := await value(settings, service, sql, *arguments)) != wanted:
        assert time.monotonic() < deadline, f"{found} and not {wanted}"
        await asyncio.sleep(0.02)


async def test_a_replay_heals_a_replica_that_was_lost(up: Up, settings: Settings) -> None:
    with up.person("alice") as alice, up.person("bob") as bob:
        ticket = alice.post("/api/tickets", json={"title": "Swan Lake", "price": 85}).json()["id"]
        await reached(settings, "orders", "SELECT version FROM ticket WHERE id = $1", UUID(ticket), wanted=0)
        await changed(settings, "orders", "DELETE FROM inbox")
        await changed(settings, "orders", "DELETE FROM ticket WHERE id = $1", UUID(ticket))
        assert bob.post("/api/orders", json={"ticketId": ticket}).status_code == 404
        assert up.run("replay", "tickets").returncode == 0
        wait_until(
            lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "orders knows it again"
        )
    assert up.run("replay").returncode == 0
    assert up.run("check").returncode == 0


async def test_check_says_that_every_invariant_holds(up: Up) -> None:
    checked = up.run("check")
    assert checked.returncode == 0, checked.stdout
    lines = checked.stdout.splitlines()
    assert [line.split()[0] for line in lines[:14]] == [f"I{number}" for number in range(1, 15)]
    assert all(line.split()[1] == "ok" for line in lines[:14])
    assert lines[-1] == "Every invariant holds."


async def test_check_counts_a_planted_violation_and_exits_with_1(up: Up, settings: Settings) -> None:
    phantom = uuid4()
    insert = (
        "INSERT INTO ticket (id, version, title, price_cents, currency, seller_id, status) "
        "VALUES ($1, 0, 'Nobody''s', 100, 'usd', $1, 'available')"
    )
    await changed(settings, "orders", insert, phantom)
    try:
        checked = up.run("check", "--grace", "1")
        as_json = up.run("check", "--grace", "0", "--json")
    finally:
        await changed(settings, "orders", "DELETE FROM ticket WHERE id = $1", phantom)
    assert checked.returncode == 1
    assert "Broken: I8" in checked.stdout
    assert f"ticket {phantom} is known to orders and does not exist" in checked.stdout
    assert as_json.returncode == 1
    findings = {each["id"]: each for each in map(json.loads, as_json.stdout.splitlines())}
    assert findings["I8"]["violations"] == 1
    assert findings["I1"]["holds"] is True


def test_check_holds_a_history_against_the_databases(up: Up, folder: Path) -> None:
    promise = {
        "did": "order",
        "outcome": "answered",
        "person": str(uuid4()),
        "ticket": str(uuid4()),
        "order": str(uuid4()),
    }
    file = folder / "history.jsonl"
    file.write_text(json.dumps(promise) + "\n")
    checked = up.run("check", "--grace", "0", "--history", str(file))
    assert checked.returncode == 1
    assert "was made and is gone" in checked.stdout
    file.write_text("nonsense\n")
    unreadable = up.run("check", "--history", str(file))
    assert unreadable.returncode == 2
    assert "line 1" in unreadable.stderr


def test_the_demo_fills_the_shelf_and_run_twice_it_changes_nothing(up: Up) -> None:
    first = up.run("demo", "--password", "one-ticket-one-holder")
    assert first.returncode == 0, first.stderr
    assert "12 people, 300 tickets" in first.stdout
    assert "The password is one-ticket-one-holder" in first.stdout
    with httpx.Client(base_url=up.url) as alice:
        body = {"email": "alice@demo.example", "password": "one-ticket-one-holder"}
        assert alice.post("/api/users/signin", json=body).status_code == 200
        mine = alice.get("/api/tickets/mine", params={"limit": 100}).json()["tickets"]
        assert {"available", "reserved", "sold"} <= {each["status"] for each in mine}
        second = up.run("demo")
        assert second.returncode == 0, second.stderr
        assert len(alice.get("/api/tickets/mine", params={"limit": 100}).json()["tickets"]) == len(mine)
    assert up.run("check").returncode == 0
    stranger = up.run("demo", "--password", "another-password")
    assert stranger.returncode == 1
    assert "exists with another password" in stranger.stderr


def test_migrate_finds_the_databases_of_what_runs(up: Up) -> None:
    migrated = up.run("migrate", "orders")
    assert migrated.returncode == 0
    assert migrated.stdout == "orders: up to date\n"


async def test_a_service_may_do_on_the_bus_only_what_it_must(settings: Settings) -> None:
    refused: asyncio.Queue[Exception] = asyncio.Queue()
    client = await nats.connect(settings.nats_urls["expiration"], error_cb=refused.put)
    try:
        await client.publish("events.orders.OrderCompleted", b"{}")
        error = await asyncio.wait_for(refused.get(), timeout=10)
        assert "permissions violation" in str(error).lower()
    finally:
        await client.close()


@pytest.mark.parametrize("words", [("check",), ("replay",), ("dead-letters", "list"), ("migrate",)])
def test_where_nothing_runs_a_command_says_so_in_one_line(words: tuple[str, ...], folder: Path) -> None:
    refused = run(*words, ADMITONE_DATA=str(folder))
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: No database of ")
    assert len(refused.stderr.strip().splitlines()) == 1


def test_the_demo_needs_a_marketplace(folder: Path) -> None:
    refused = run("demo", "--url", "http://127.0.0.1:9", ADMITONE_DATA=str(folder))
    assert refused.returncode == 2
    assert "Nothing answers at http://127.0.0.1:9" in refused.stderr
