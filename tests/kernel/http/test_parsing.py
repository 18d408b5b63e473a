"""Parsing: input is read exactly, or refused without being repeated."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from admitone.kernel.errors import Refusal
from admitone.kernel.http import parsing
from admitone.kernel.http.parsing import Rule, read_body, read_query
from admitone.kernel.money import cents_of, decimal_of


def read_price(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError  # noqa: TRY004 – a broken rule
    return cents_of(Decimal(value))


class Line(msgspec.Struct, rename="camel"):
    """A made-up body with one field of each kind."""

    title: Annotated[str, Rule("Title is required", parsing.line(100, 1))]
    price: Annotated[Any, Rule("Price must be a number", read_price)] = 0
    note_id: Annotated[Any, Rule("Note must be an id", parsing.uuid)] = None
    colour: Annotated[str, Rule("Colour is not one of ours", parsing.one_of("red", "blue"))] = "red"
    many: list[int] = []
    count: int = 0


class Anything(msgspec.Struct):
    """A made-up body with a field of any type."""

    value: Annotated[Any, Rule("Value is missing", lambda value: value)]


class Page(msgspec.Struct):
    """Made-up query parameters."""

    limit: Annotated[int, Rule("Limit must be 1 to 100", parsing.whole_number(1, 100))] = 20
    order: Annotated[str, Rule("Order must be up or down", parsing.one_of("up", "down"))] = "up"


MARK = "zq7"  # is part of the input, and must never be part of a refusal
FINE = '{"value": %s}'

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters())
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)


def errors_of(reading: Callable[[], object]) -> list[tuple[str, str | None]] | None:
    """Return what was refused, or None; any other error is raised."""
    try:
        reading()
    except Refusal as refusal:
        return [(each.message, each.field) for each in refusal.errors]
    return None


def messages(refusal: Refusal) -> str:
    return json.dumps([[each.message, each.field] for each in refusal.errors])


def read(body: bytes | str) -> Any:
    return read_body(body.encode() if isinstance(body, str) else body, Anything).value


def refusal_of(body: bytes | str) -> str:
    with pytest.raises(Refusal) as caught:
        read(body)
    return messages(caught.value)


@given(st.binary(max_size=200))
@example(b"\xff\xfe{\x00}\x00")
@example(b'\xef\xbb\xbf{"value": 1}')
def test_any_bytes_are_read_or_refused_and_nothing_else_is_raised(body: bytes) -> None:
    for struct in (Line, Anything):
        assert errors_of(lambda: read_body(body, struct)) != []  # noqa: B023 – called at once


@given(values)
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_any_json_is_read_or_refused_without_being_repeated(value: Any) -> None:
    body = json.dumps({"title": value, "price": value, "noteId": value, "colour": value, "many": value, "count": value})
    errors = errors_of(lambda: read_body(body.encode(), Line))
    assert errors is None or {field for _, field in errors} <= {None, *json.loads(body)}


@pytest.mark.parametrize(
    "body",
    [
        '{"title": "%s", "price": "%s", "noteId": "%s", "colour": "%s", "many": "%s", "count": "%s", "%s": 1}',
        '{"title": ["%s"], "price": {"%s": 1}, "noteId": ["%s"], "colour": ["%s"], "many": ["%s"], "count": ["%s"]}',
        '{"%s',
        '"%s"',
    ],
)
def test_a_refusal_never_repeats_the_input(body: str) -> None:
    with pytest.raises(Refusal) as caught:
        read_body(body.replace("%s", MARK + "\\u200b").encode(), Line)
    assert MARK not in messages(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "body",
    [
        FINE % "NaN",
        FINE % "Infinity",
        FINE % "-Infinity",
        FINE % "1e309",
        FINE % "-1e309",
        FINE % ("1" * 5000),
        FINE % ("0." + "1" * 100),
        FINE % '"\\ud800"',
        FINE % '["\\udc00"]',
        FINE % '"\\u0000"',
        FINE % '{"\\u0000": 1}',
        FINE % '{"\\ud800": 1}',
        FINE % '"\n"',
        FINE % "'single'",
        FINE % "01",
        FINE % "1.",
        FINE % "[1,]",
        '{"value": 1, "value": 2}',
        FINE % '{"twice": 1, "twice": 1}',
        '{"value": 1} {"value": 1}',
        "",
        b'{"value": "\xff"}',
        '\ufeff{"value": 1}',
    ],
)
def test_json_that_parsers_disagree_about_is_refused(body: str | bytes) -> None:
    assert refusal_of(body) == '[["The body must be valid JSON", null]]'


@pytest.mark.parametrize("body", ["[]", "1", '"text"', "null", "true"])
def test_a_body_that_is_not_an_object_is_refused(body: str) -> None:
    assert refusal_of(body) == '[["The body must be a JSON object", null]]'


def test_twenty_levels_of_nesting_are_read_and_one_more_is_refused() -> None:
    assert read(FINE % ("[" * 19 + "]" * 19)) is not None
    for levels in (20, 100, 900):
        assert refusal_of(FINE % ("[" * levels + "]" * levels)) == '[["The body is nested too deeply", null]]'
    assert "The body" in refusal_of(FINE % ("[" * 30_000 + "]" * 30_000))


def test_every_broken_rule_is_reported_in_the_order_of_the_fields() -> None:
    with pytest.raises(Refusal) as caught:
        read_body(b'{"colour": "green", "noteId": "x", "price": "y", "surprise": 1}', Line)
    assert [(each.message, each.field) for each in caught.value.errors] == [
        ("Title is required", "title"),
        ("Price must be a number", "price"),
        ("Note must be an id", "noteId"),
        ("Colour is not one of ours", "colour"),
        ("Unknown field", None),
    ]


def test_absent_fields_get_a_default_of_their_own() -> None:
    first, second = (read_body(b'{"title": "x"}', Line) for _ in range(2))
    assert (first.colour, first.many) == ("red", [])
    first.many.append(1)
    assert second.many == []
    assert read_body(b'{"title": "x"}', Line).many == []


def test_the_message_of_a_broken_rule_is_the_rule_s_own() -> None:
    body = json.dumps({"title": "x", "noteId": "g" * 36, "count": "one"})
    assert errors_of(lambda: read_body(body.encode(), Line)) == [
        ("Note must be an id", "noteId"),
        ("count is missing or not valid", "count"),
    ]


@given(st.text(max_size=60))
def test_an_id_is_read_in_its_canonical_form_only(text: str) -> None:
    try:
        found = parsing.uuid(text)
    except ValueError:
        return
    assert str(found) == text.lower()


@pytest.mark.parametrize(
    "text",
    [
        "----0199f3a0b7c47d3e8a1b2c3d4e5f6071",
        "{0199f3a0b7c47d3e8a1b2c3d4e5f6071}--",
        "0199f3a0-b7c4-7d3e-8a1b-2c3d4e5f607",
        "0199f3a0-b7c4-7d3e-8a1b-2c3d4e5f6_71",
        "٠199f3a0-b7c4-7d3e-8a1b-2c3d4e5f6071",
    ],
)
def test_other_spellings_of_an_id_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parsing.uuid(text)


@given(st.integers(0, 99_999_999))
def test_money_survives_the_round_trip_through_json_exactly(cents: int) -> None:
    written = msgspec.json.Encoder(decimal_format="number").encode({"value": decimal_of(cents)})
    assert cents_of(Decimal(read(written))) == cents


@given(st.text("0123456789-+_ ٣²x", max_size=12))
def test_a_number_in_a_query_is_read_or_refused(text: str) -> None:
    errors = errors_of(lambda: read_query(urlencode({"limit": text}).encode(), Page))
    assert errors in (None, [("Limit must be 1 to 100", "limit")])
    assert (errors is None) == (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= 100)


def test_a_repeated_or_unknown_query_parameter_is_refused_without_being_repeated_in_the_refusal() -> None:
    for query in ("limit=1&limit=1", f"{MARK}={MARK}"):
        with pytest.raises(Refusal) as caught:
            read_query(query.encode(), Page)
        assert MARK not in messages(caught.value)
