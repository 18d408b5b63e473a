"""The invariant of responses, with and without a client history."""

from uuid import uuid4

import msgspec
import pytest

from admitone.invariants import ClientRecord
from tests.invariants.support import Copies


async def test_i9_a_ticket_of_a_stored_response_that_is_gone(copies: Copies) -> None:
    ticket = copies.trade.cancelled.ticket
    await copies.damage("tickets", "DELETE FROM ticket WHERE id = $1", ticket)
    findings = await copies.check()
    assert findings["I9"].samples() == [f"tickets {ticket} is in a stored response and is gone"]


async def test_i9_holds_for_what_the_clients_saw(copies: Copies) -> None:
    assert await copies.violated(copies.trade.history) == set()


@pytest.mark.parametrize("action", ["sign up", "list", "order", "cancel", "pay", "edit"])
async def test_i9_a_success_that_is_lost(action: str, copies: Copies) -> None:
    nothing = uuid4()
    lost = ClientRecord(
        action=action,  # type: ignore[arg-type]
        outcome="answered",
        person=uuid4(),
        ticket=nothing,
        order=nothing,
        version=1,
    )
    assert await copies.violated([lost]) == {"I9"}


@pytest.mark.parametrize("action", ["list", "order", "pay"])
async def test_i9_a_refusal_that_had_an_effect(action: str, copies: Copies) -> None:
    history = list(copies.trade.history)
    at = next(index for index, each in enumerate(history) if (each.action, each.outcome) == (action, "answered"))
    for outcome, violated in (("unknown", set()), ("refused", {"I9"})):
        history[at] = msgspec.structs.replace(history[at], outcome=outcome)
        assert await copies.violated(history) == violated
