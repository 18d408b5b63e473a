"""Cleaning of text that people type."""

import unicodedata

import pytest
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


@pytest.mark.parametrize(
    "text",
    [
        "علی‌رضا",
        "می‌خواهم",
        "بچّه‌ها",
        "کار‌ها",
        "ශ්‍රී ලංකා",
        "र्‍य",
        "র‍্যাপ",
        "\U0001fa77 Fado",  # pink heart, Unicode 15: unassigned in the tables of Python 3.11
        "\U0001fae9\U0001f6d8",
        "👩‍🎤 👨‍👩‍👧 🏳️‍🌈 ❤️‍🔥 👩🏽‍❤️‍👨🏻 🙂‍↔️ 🧑‍\U0001fa70",
        "1️⃣ ❤️ ‼️ ℹ️ ☎︎",
        "葛\U000e0100城",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f England v Wales",
    ],
)
def test_a_joiner_or_selector_that_changes_its_neighbours_is_accepted(text: str) -> None:
    assert clean_line(text) == unicodedata.normalize("NFC", text)


# Every character that Unicode calls ignorable by default, without unassigned ones.
IGNORABLE = [
    *"\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u180f\u200b\u200c\u200d\u200e\u200f",
    *map(chr, (*range(0x202A, 0x202F), *range(0x2060, 0x2070), 0x3164, *range(0xFE00, 0xFE10), 0xFEFF, 0xFFA0)),
    *map(chr, (*range(0xFFF9, 0xFFFC), *range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE0200))),
]


@pytest.mark.parametrize("around", ["a{}b", "1{}2", "!{}!", "я{}я", "א{}א", "コ{}コ", "a{}🎤"])
def test_a_character_that_nobody_sees_is_refused(around: str) -> None:
    for character in IGNORABLE:
        with pytest.raises(ValueError, match="invisible"):
            clean_line(around.format(character))


@pytest.mark.parametrize(
    "text",
    [
        *("ی\u200c\u200cر", "🎤\u200d\u200d🎤", "🎤\u200da", "🎤\ufe0f\ufe0f", "علی\u200dرضا", "1\ufe0f2"),
        *("Fado\u202e50% off", "\u202eFado", "Fado\u2066x", "\U0001f3f4\U000e0067\U000e0062\U000e007f"),
        *("\u2800", "a\u2800b", "\U00016fe4", "\U0001d159", "\ufffc"),
        *("\u0378", "\ue000", "\U000e0080", "\U0001fffe", "\ufdd0", "Fado\n", "Fa\tdo", "Fado\u2028", "\u3164"),
    ],
)
def test_tricks_and_noise_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invisible"):
        clean_line(text)


@pytest.mark.parametrize("character", ["\u200b", "\ufeff", "\u00ad", "\u2060", "\u200e", "\u200f", "\u200c", "\u200d"])
def test_what_copying_leaves_at_the_ends_of_words_is_removed(character: str) -> None:
    assert clean_line(f"{character}Fado{character}") == "Fado"
    assert clean_line(f"{character} Fado{character}\u00a0{character}night {character}") == "Fado night"
    assert clean_line(character) == ""


@pytest.mark.parametrize("text", ["ห้อง\u200bสมุด", "ភាសា\u200bខ្មែរ", "မြန်မာ\u200bစာ", "ພາສາ\u200bລາວ"])
def test_places_to_break_a_line_are_removed_where_words_have_no_spaces(text: str) -> None:
    assert clean_line(text) == unicodedata.normalize("NFC", text.replace("\u200b", ""))
