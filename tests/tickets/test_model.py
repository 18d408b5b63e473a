"""Rules of tickets that need no database."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from admitone.events import Offer, TicketCreated, TicketUpdated
from admitone.tickets.model import words_of


def test_ticket_events_carry_every_field_of_the_offer() -> None:
    for event in (TicketCreated, TicketUpdated):
        fields = {field.name: field.type for field in msgspec.structs.fields(event)}
        for field in msgspec.structs.fields(Offer):
            assert fields[field.name] == field.type


@given(st.text(max_size=200))
def test_words_are_letters_and_digits_that_the_database_takes(text: str) -> None:
    for word in words_of(text):
        assert word.isalnum()
        assert 0 < len(word.encode()) <= 2046
