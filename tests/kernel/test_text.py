"""Cleaning of text that people type."""

from hypothesis import given
from hypothesis import strategies as st

from admitone.kernel.text import clean_line


@given(st.text(st.characters()))
def test_a_cleaned_line_is_visible_normalised_and_stays_as_it_is(text: str) -> None:
    try:
        cleaned = clean_line(text)
    except ValueError:
        return
    assert clean_line(cleaned) == cleaned
    assert cleaned == cleaned.strip()
    assert cleaned.isprintable() or not cleaned.isascii()
    cleaned.encode()
