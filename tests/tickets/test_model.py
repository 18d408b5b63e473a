"""Rules of tickets that need no database."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitone.events import Offer, TicketCreated, TicketUpdated
from admitone.tickets.model import searchable_words, words_of


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


def finds(query: str, title: str) -> bool:
    """Whether a search finds a title: a word of the title begins with each word of the query."""
    words = searchable_words(Offer(title=title, price_cents=2000, currency="usd"))
    return all(any(word.startswith(wanted) for word in words) for wanted in words_of(query))


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("klusowski", "Kłusowski"), ("KŁUSOWSKI", "Klusowski"), ("bjork", "Björk"), ("bjornstad", "Bjørnstad"),
        ("aero", "Ærø"), ("dorde", "Đorđe"), ("thor", "Þór"), ("oeuvre", "Œuvre"), ("strasse", "Straße"),
        ("istanbul", "İstanbul"), ("diyarbakir", "Diyarbakır"), ("fig", "Ｆｉｇ ﬁgaro"), ("sid", "Sið"),
    ],
)  # fmt: skip
def test_a_search_finds_letters_with_strokes_and_ligatures_by_plain_ones(query: str, title: str) -> None:
    assert finds(query, title)
    assert finds(title, title)


@pytest.mark.parametrize(
    ("query", "title"),
    [
        ("コンサート", "大阪コンサート2027"),
        ("ｺﾝｻｰﾄ", "大阪コンサート"),
        ("コンサート2027", "大阪コンサート2027"),
        ("阪", "大阪"),
        ("フィルハーモニー交響楽団演奏", "大阪フィルハーモニー交響楽団演奏会"),
        ("演唱会", "周杰伦演唱会"),
        ("pop", "J-popコンサート"),
    ],
)
def test_a_search_finds_chinese_and_japanese_anywhere(query: str, title: str) -> None:
    assert finds(query, title)


@pytest.mark.parametrize(
    ("query", "title"), [("usowski", "Kłusowski"), ("コント", "コンサート"), ("京", "大阪"), ("阪大", "大阪")]
)
def test_a_search_does_not_find_what_is_not_there(query: str, title: str) -> None:
    assert not finds(query, title)
