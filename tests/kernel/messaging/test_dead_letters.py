"""Dead letters: an operator retries or drops them."""

import pytest

from admitone.kernel.database.pool import Transaction
from admitone.kernel.messaging import dead_letters
from admitone.kernel.messaging.bus import Bus
from tests.kernel.support import (
    SHORT_DELAYS_SECONDS,
    HandlerBroken,
    NoteWritten,
    World,
    dead_letters_of,
    enveloped,
    fails_on_poison,
    note,
    note_effect,
    publish_message,
)
from tests.support import eventually


async def test_s15_a_dead_letter_can_be_retried_once_the_handler_is_fixed(world: World, alpha_bus: Bus) -> None:
    await publish_message(alpha_bus, enveloped(note("poison")))
    await world.inbox(fails_on_poison, delays_seconds=SHORT_DELAYS_SECONDS)
    [letter] = await eventually(lambda: dead_letters_of(world), "the poison is a dead letter")

    broken = await world.inbox(fails_on_poison)
    with pytest.raises(HandlerBroken):
        await dead_letters.retry(world.beta, broken, letter)
    assert await dead_letters_of(world) == [letter]
    assert await world.effects() == []

    fixed = await world.inbox(note_effect)
    await dead_letters.retry(world.beta, fixed, letter)
    assert await world.effects() == ["poison"]
    assert await dead_letters_of(world) == []

    await dead_letters.retry(world.beta, fixed, letter)
    assert await world.effects() == ["poison"], "a second retry changes nothing"


async def test_a_dead_letter_that_is_delivered_again_and_succeeds_is_deleted(world: World, alpha_bus: Bus) -> None:
    is_fixed = False

    async def fixed_later(tx: Transaction, event: NoteWritten) -> None:
        await note_effect(tx, event)
        if not is_fixed:
            raise HandlerBroken

    message = enveloped(note("fixed"))
    await publish_message(alpha_bus, message)
    await world.inbox(fixed_later, delays_seconds=SHORT_DELAYS_SECONDS)
    await eventually(lambda: dead_letters_of(world), "it is a dead letter")

    is_fixed = True
    await publish_message(alpha_bus, message)

    await eventually(world.consumed(1), "the copy is consumed")
    assert await dead_letters_of(world) == []
