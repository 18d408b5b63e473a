"""`admitone adopt` lets payments start with data that was moved or copied."""

import re
from pathlib import Path

from admitone.kernel.settings import Settings
from admitone.local.installation import running_settings
from tests.commands.conftest import change, value
from tests.engines import short_folder
from tests.whole import Up, run, running_up, start_up

_OPEN = """
INSERT INTO orders (id, version, status, buyer_id, price_cents, currency, expires_at)
VALUES (gen_random_uuid(), 0, 'created', gen_random_uuid(), 100, 'usd', now() + interval '1 hour');
INSERT INTO payment (id, order_id, attempt, buyer_id, amount_cents, currency, token, state, stripe_id, due_at)
SELECT gen_random_uuid(), id, 1, buyer_id, 100, 'usd', 'tok_visa', 'authorized', 'pi_1', now() + interval '1 hour'
FROM orders
"""


def settings_of(folder: Path) -> Settings:
    found = running_settings(folder)
    assert found is not None
    return found


async def test_payments_starts_again_once_its_data_is_adopted_and_a_copy_leaves_its_original_alone() -> None:
    with short_folder() as parent:
        folder = parent / "data"
        with running_up(folder) as up:
            await change(settings_of(folder), "payments", "UPDATE installation SET database = 'another one'")
            installation = await value(settings_of(folder), "payments", "SELECT id FROM installation")
        refused = start_up(folder)
        output, _ = refused.communicate(timeout=60)
        assert refused.returncode == 2, output
        assert re.search(r"copied from another database.*`admitone adopt`", output, re.DOTALL)
        adopted = run("adopt", "--cancel-unknown", ADMITONE_DATA=str(folder))
        assert adopted.returncode == 0, adopted.stderr
        with running_up(folder) as up:
            assert await value(settings_of(folder), "payments", "SELECT id FROM installation") == installation
            allowed = "SELECT cancel_unknown_before < instant() FROM installation"
            assert await value(settings_of(folder), "payments", allowed) is True
            await leaves_the_payments_of_its_original_alone(up, settings_of(folder))


async def leaves_the_payments_of_its_original_alone(up: Up, settings: Settings) -> None:
    await change(settings, "payments", _OPEN)
    before = await value(settings, "payments", "SELECT id FROM installation")
    not_owner = settings.database_urls["payments"]
    refused = up.run("adopt", "--new-installation", ADMITONE_PAYMENTS_MIGRATOR_URL=not_owner)
    assert (refused.returncode, "set ADMITONE_PAYMENTS_MIGRATOR_URL" in refused.stderr) == (2, True)
    adopted = up.run("adopt", "--new-installation")
    assert adopted.returncode == 0, adopted.stderr
    assert "1 open payments are left to the original" in adopted.stdout
    assert await value(settings, "payments", "SELECT id FROM installation") != before
    left = await value(settings, "payments", "SELECT (state, wanted, due_at) FROM payment WHERE stripe_id = 'pi_1'")
    assert left == ("failed", None, None)


async def test_without_a_known_database_the_command_says_what_to_set(tmp_path: Path) -> None:
    refused = run("adopt", ADMITONE_DATA=str(tmp_path / "nothing"))
    assert refused.returncode == 2
    assert "ADMITONE_PAYMENTS_MIGRATOR_URL" in refused.stderr
