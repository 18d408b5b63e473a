"""The checker: which snapshots count, and for how long events may be in progress."""

import itertools
from collections.abc import Sequence
from uuid import UUID

import msgspec

from admitone import registry
from admitone.invariants import INVARIANTS, ProviderIntent, Sources, check
from tests.invariants.support import Copies


async def test_a_marketplace_at_rest_keeps_every_invariant(copies: Copies) -> None:
    findings = await copies.check()
    assert list(findings) == [f"I{number}" for number in range(1, 15)] == [each.id for each in INVARIANTS]
    assert all(each.holds for each in findings.values()), findings
    assert findings["I1"].checked == 3
    assert findings["I2"].checked == 2, "our books and the provider's"


async def test_what_settles_within_the_grace_period_is_no_violation(copies: Copies) -> None:
    """An event is still on its way when the first snapshot is taken."""
    await copies.damage("orders", "UPDATE outbox SET stream_sequence = NULL")
    snapshots = itertools.count(1)

    async def list_intents(_installation: UUID) -> Sequence[ProviderIntent]:
        if next(snapshots) == 2:
            await copies.damage("orders", "UPDATE outbox SET stream_sequence = position")
        return copies.intents

    findings = await check(Sources(copies.urls, registry.SERVICES, list_intents), grace_seconds=20)
    assert all(each.holds for each in findings)
    assert next(snapshots) == 3


async def test_what_must_always_hold_is_not_forgiven_by_a_later_snapshot(copies: Copies) -> None:
    again = msgspec.structs.replace(copies.intents[0], id="pi_again")
    snapshots = iter([[*copies.intents, again], copies.intents])
    # Something else that does not settle keeps the check running.
    await copies.damage("orders", "UPDATE outbox SET stream_sequence = NULL")

    async def list_intents(_installation: UUID) -> Sequence[ProviderIntent]:
        return next(snapshots, copies.intents)

    findings = await check(Sources(copies.urls, registry.SERVICES, list_intents), grace_seconds=1)
    assert {each.id for each in findings if not each.holds} == {"I3", "I14"}
