"""`admitone check` reports broken invariants."""

import json
from pathlib import Path
from uuid import uuid4

from admitone.kernel.settings import Settings
from tests.commands.conftest import change
from tests.whole import Up


async def test_check_reports_that_every_invariant_holds(up: Up) -> None:
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
    await change(settings, "orders", insert, phantom)
    try:
        checked = up.run("check", "--grace", "1")
        as_json = up.run("check", "--grace", "0", "--json")
    finally:
        await change(settings, "orders", "DELETE FROM ticket WHERE id = $1", phantom)
    assert checked.returncode == 1
    assert "Broken: I8" in checked.stdout
    assert f"ticket {phantom} is known to orders and does not exist" in checked.stdout
    assert as_json.returncode == 1
    findings = {each["id"]: each for each in map(json.loads, as_json.stdout.splitlines())}
    assert findings["I8"]["violations"] == 1
    assert findings["I1"]["holds"] is True


def test_check_compares_a_client_history_with_the_databases(up: Up, folder: Path) -> None:
    order = {
        "did": "order",
        "outcome": "answered",
        "person": str(uuid4()),
        "ticket": str(uuid4()),
        "order": str(uuid4()),
    }
    file = folder / "history.jsonl"
    file.write_text(json.dumps(order) + "\n")
    checked = up.run("check", "--grace", "0", "--history", str(file))
    assert checked.returncode == 1
    assert "was made and is gone" in checked.stdout
    file.write_text("nonsense\n")
    unreadable = up.run("check", "--history", str(file))
    assert unreadable.returncode == 2
    assert "line 1" in unreadable.stderr
