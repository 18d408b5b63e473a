"""The invariant of replicas."""

import pytest

from tests.invariants.support import Copies


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("orders", "UPDATE ticket SET version = version + 1"),
        ("orders", "UPDATE ticket SET face_value_cents = 1"),
        ("orders", "DELETE FROM ticket"),
        ("payments", "UPDATE orders SET price_cents = price_cents + 1"),
        ("payments", "UPDATE orders SET status = 'created'"),
        ("expiration", "DELETE FROM deadline"),
        ("expiration", "UPDATE deadline SET expires_at = expires_at + interval '1 second'"),
        (
            "auth",
            """INSERT INTO session (id, account_id, network, expires_at, ended_at)
            SELECT gen_random_uuid(), id, '127.0.0.0/8', now() + interval '1 day', now() FROM account LIMIT 1""",
        ),
    ],
)
async def test_i8_a_replica_that_differs_from_its_source(service: str, change: str, copies: Copies) -> None:
    await copies.damage(service, change)
    assert await copies.violated() == {"I8"}
