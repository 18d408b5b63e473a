"""Input of every kind on every route: read exactly, or refused with its reason and never repeated in the response."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, Final
from urllib.parse import quote
from uuid import UUID

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from admitone.kernel.errors import InvalidFields
from admitone.kernel.http.parsing import read_body
from admitone.kernel.money import cents_of, decimal_of
from admitone.tickets.model import Position
from admitone.tickets.views import BadCursor, TicketListing, read_cursor, write_cursor
from tests.support import messages_of
from tests.tickets.support import FADO, UNKNOWN, list_ticket

TICKET: Final = UUID(UNKNOWN)
JSON: Final = {"content-type": "application/json"}
INVISIBLE: Final = "Must not hold control or invisible characters"

NOT_JSON: Final = [
    b"",
    b"{",
    b'{"title": "Fado", "price": 1',
    b"nonsense",
    b'{"title": "Fado", "price": NaN}',
    b'{"title": "Fado", "price": 1e309}',
    b'{"title": "Fado", "price": -1e309}',
    b'{"title": "Fado", "price": 1e999999}',
    b'{"title": "Fado", "price": 1e999999999}',
    b'{"title": "Fado\\u0000", "price": 1}',
    b'{"title": "Fado", "price": 1, "price": 2}',
    b'{"title": "Fado", "price": Infinity}',
    b'{"title": "Fado", "price": -Infinity}',
    b'{"title": "\\ud800", "price": 1}',
    b'{"title": "\\udc00\\ud800", "price": 1}',
    b'{"title": "\xff", "price": 1}',
    b'{"title": "\xed\xa0\x80", "price": 1}',
    b'{"title": "\x00", "price": 1}',
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b"1" * 60_000,
    b'{"title": "Fado", "price": ' + b"9" * 60_000 + b"}",
    b'{"title": "Fado", "price": 1e9999999999999999999999}',
    "{}".encode("utf-16"),
    b"\xef\xbb\xbf{}",
    b"title=Fado&price=1",
]
NOT_AN_OBJECT: Final = [b"null", b"true", b"7", b"19.99", b'"Fado"', b"[]", b'[{"title": "Fado", "price": 1}]']

WRONG_PRICES: Final[list[tuple[str, str]]] = [
    ("0", "Price must be greater than 0"),
    ("-0.0", "Price must be greater than 0"),
    ("-1", "Price must be greater than 0"),
    ("1e300", "Price must be 999999.99 or less"),
    ("1000000", "Price must be 999999.99 or less"),
    ("999999.991", "Price must be 999999.99 or less"),
    ("9" * 300, "Price must be 999999.99 or less"),
    ("19.9900000000000000000000000000000001", "Price must have at most two decimals"),
    ("19.999", "Price must have at most two decimals"),
    ("1e-999999999", "Price must have at most two decimals"),
    ("0.001", "Price must have at most two decimals"),
    ("0.49", "Price must be at least 0.50: our payment provider takes nothing smaller"),
    ("0.01", "Price must be at least 0.50: our payment provider takes nothing smaller"),
    ('"19.99"', "Price must be a number"),
    ("true", "Price must be a number"),
    ("null", "Price must be a number"),
    ("[19.99]", "Price must be a number"),
    ('{"$gt": 0}', "Price must be a number"),
]
RIGHT_PRICES: Final = ["0.5", "0.50", "0.5000", "1", "19.99", "1.999e1", "999999.99", "5e-1", "100", "1E2"]

WRONG_FACE_VALUES: Final[list[tuple[str, str]]] = [
    ("-0.01", "FaceValue must be 0 or more"),
    ("-1e300", "FaceValue must be 0 or more"),
    ("1000000", "FaceValue must be 999999.99 or less"),
    ("999999.991", "FaceValue must be 999999.99 or less"),
    ("1e300", "FaceValue must be 999999.99 or less"),
    ("58.001", "FaceValue must have at most two decimals"),
    ("0.001", "FaceValue must have at most two decimals"),
    ("1e-999999999", "FaceValue must have at most two decimals"),
    ('"58.00"', "FaceValue must be a number"),
    ('""', "FaceValue must be a number"),
    ("true", "FaceValue must be a number"),
    ("[58]", "FaceValue must be a number"),
]
RIGHT_FACE_VALUES: Final = ["0", "0.00", "-0.0", "0.01", "58", "58.5", "5.8e1", "999999.99"]

WRONG_TITLES: Final[list[tuple[Any, str]]] = [
    ("", "Title is required"),
    ("   ", "Title is required"),
    ("\u00a0\u2003", "Title is required"),
    (None, "Title is required"),
    (7, "Title is required"),
    (["Fado"], "Title is required"),
    ({"$ne": ""}, "Title is required"),
    ("x" * 201, "Must be 200 characters or fewer"),
    ("Fado\x07", INVISIBLE),
    ("Fa\tdo", INVISIBLE),
    ("Fado\n", INVISIBLE),
    ("Fado\u202e50% off", INVISIBLE),
    ("Fa\u200bdo", INVISIBLE),
    ("Fa\u200ddo", INVISIBLE),
    ("Fa\ufeffdo", INVISIBLE),
    ("\u200b\ufeff", "Title is required"),
    ("Fa\u2066do", INVISIBLE),
    ("Fa\u00addo", INVISIBLE),
    ("Fa\u061cdo", INVISIBLE),
    ("\u3164", INVISIBLE),
    ("Fado\ue000", INVISIBLE),
    ("Fado\u2028", INVISIBLE),
    ("Fado\u0085", INVISIBLE),
]
WRONG_DATES: Final = [
    "tomorrow", "2027-05-01", "2027-05-01T19:30:00", "2027-02-30T19:30:00Z", "2027-05-01T25:00:00Z", "", 7, 1.5, True,
    [], {}, "2027-05-01T19:30:00+99:99", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "1999-12-31T23:59:59Z", "2000-01-01T00:00:00+14:00", "2199-12-31T23:59:59-14:00", "2200-01-01T00:00:00Z",
    "２０２７-05-01T19:30:00Z", "2027-05-01T19:30:00Z\x07",
]  # fmt: skip


async def on_every_route(client: httpx.AsyncClient, ticket_id: str, body: bytes) -> list[httpx.Response]:
    """Send a body to each route that reads one."""
    return [
        await client.post("/api/tickets", content=body, headers=JSON),
        await client.put(f"/api/tickets/{ticket_id}", content=body, headers=JSON),
    ]


async def test_g16_a_body_that_is_not_a_json_object_is_refused(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for bodies, message in (
        (NOT_JSON, "The body must be valid JSON"),
        (NOT_AN_OBJECT, "The body must be a JSON object"),
    ):
        for body in bodies:
            for response in await on_every_route(alice, ticket["id"], body):
                assert response.status_code == 400, body[:60]
                assert response.json() == {"errors": [{"message": message}]}, body[:60]


async def test_deep_nesting_is_refused(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    body = b'{"title": ' + b"[" * 40 + b"]" * 40 + b', "price": 1}'
    for response in await on_every_route(alice, ticket["id"], body):
        assert response.status_code == 400
        assert messages_of(response) == [("The body is nested too deeply", None)]


async def test_a_large_body_is_refused(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for body in (b"x" * 10_000_000, b"[" * 100_000, b'{"title": "' + b"x" * 65_536 + b'"}'):
        for response in await on_every_route(alice, ticket["id"], body):
            assert response.status_code == 413
            assert messages_of(response) == [("The body is larger than 64 KiB", None)]


async def test_another_media_type_is_refused(alice: httpx.AsyncClient) -> None:
    for media_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/jsonx",
        "",
    ):
        response = await alice.post("/api/tickets", content=json.dumps(FADO), headers={"content-type": media_type})
        assert response.status_code == 415
        assert messages_of(response) == [("The body must be application/json", None)]


async def test_unknown_fields_are_refused(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for name in (
        "userId",
        "id",
        "version",
        "status",
        "orderId",
        "currency",
        "price_cents",
        "__proto__",
        "x\u202e",
        "$ne",
    ):
        for response in await on_every_route(alice, ticket["id"], json.dumps({**FADO, name: "secret-7"}).encode()):
            assert response.status_code == 400
            assert messages_of(response) == [("Unknown field", None)]
            assert "secret-7" not in response.text


async def test_every_broken_rule_is_reported_in_the_order_of_the_fields(alice: httpx.AsyncClient) -> None:
    response = await alice.post("/api/tickets", json={"seat": 4, "price": 0, "venue": "x" * 201, "extra": 1})
    assert response.status_code == 400
    assert messages_of(response) == [
        ("Title is required", "title"),
        ("Price must be greater than 0", "price"),
        ("Must be 200 characters or fewer", "venue"),
        ("Seat must be text of at most 40 characters", "seat"),
        ("Unknown field", None),
    ]


@pytest.mark.parametrize(("price", "message"), WRONG_PRICES)
def test_a_wrong_price_is_refused_with_its_reason(price: str, message: str) -> None:
    with pytest.raises(InvalidFields) as refused:
        read_body(f'{{"title": "Fado", "price": {price}}}'.encode(), TicketListing)
    assert [(each.message, each.field) for each in refused.value.errors] == [(message, "price")]


async def test_wrong_prices_are_refused_on_every_route(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for price, message in WRONG_PRICES:
        body = f'{{"title": "Fado", "price": {price}}}'.encode()
        for response in await on_every_route(alice, ticket["id"], body):
            assert response.status_code == 400, price
            assert messages_of(response) == [(message, "price")]


async def test_right_prices_are_stored_to_the_cent(alice: httpx.AsyncClient) -> None:
    for price in RIGHT_PRICES:
        body = f'{{"title": "Fado", "price": {price}}}'
        response = await alice.post("/api/tickets", content=body, headers=JSON)
        assert response.status_code == 201, price
        assert f'"price":{float(price):.2f},' in response.text


async def test_wrong_face_values_are_refused_on_every_route(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for face_value, message in WRONG_FACE_VALUES:
        body = f'{{"title": "Fado", "price": 10, "faceValue": {face_value}}}'.encode()
        for response in await on_every_route(alice, ticket["id"], body):
            assert response.status_code == 400, face_value
            assert messages_of(response) == [(message, "faceValue")]


async def test_right_face_values_are_stored_to_the_cent(alice: httpx.AsyncClient) -> None:
    for face_value in RIGHT_FACE_VALUES:
        body = f'{{"title": "Fado", "price": 10, "faceValue": {face_value}}}'
        response = await alice.post("/api/tickets", content=body, headers=JSON)
        assert response.status_code == 201, face_value
        assert f'"faceValue":{abs(float(face_value)):.2f},' in response.text


@given(st.integers(50, 99_999_999))
def test_s11_every_price_is_read_exactly(cents: int) -> None:
    text = f"{cents // 100}.{cents % 100:02}"
    listing = read_body(f'{{"title": "Fado", "price": {text}}}'.encode(), TicketListing)
    assert listing.offer("usd").price_cents == cents


def test_s11_every_price_from_050_to_10000_is_read_and_shown_exactly() -> None:
    encoder = msgspec.json.Encoder(decimal_format="number")
    for cents in range(50, 10_001):
        written = f"{cents // 100}.{cents % 100:02d}"
        listing = read_body(f'{{"title":"Seat","price":{written}}}'.encode(), TicketListing)
        assert cents_of(listing.price) == cents
        assert encoder.encode(decimal_of(cents)).decode() == written


async def test_wrong_titles_are_refused_on_every_route(alice: httpx.AsyncClient) -> None:
    ticket = await list_ticket(alice)
    for title, message in WRONG_TITLES:
        for response in await on_every_route(alice, ticket["id"], json.dumps({"title": title, "price": 10}).encode()):
            assert response.status_code == 400, title
            assert messages_of(response) == [(message, "title")], title


async def test_titles_and_searches_are_trimmed_of_invisible_characters(alice: httpx.AsyncClient) -> None:
    for character in ("\u200b", "\ufeff", "\u00ad"):
        ticket = await list_ticket(alice, title=f"{character}Fado {character}")
        assert ticket["title"] == "Fado"
        for query in (f"fado{character}", f"{character} fado", character):
            found = await alice.get("/api/tickets", params={"q": query})
            assert found.status_code == 200
            assert ticket in found.json()["tickets"]


async def test_other_fields_are_lines_of_bounded_length(alice: httpx.AsyncClient) -> None:
    for name, length_max in (("venue", 200), ("section", 40), ("row", 40), ("seat", 40), ("note", 500)):
        longest = await alice.post("/api/tickets", json={**FADO, name: "é" * length_max})
        assert longest.status_code == 201
        assert longest.json()[name] == "é" * length_max
        for wrong, message in (
            ("x" * (length_max + 1), f"Must be {length_max} characters or fewer"),
            ("a\u202eb", INVISIBLE),
            ("a\x07", INVISIBLE),
            (4, f"{name.capitalize()} must be text of at most {length_max} characters"),
            (["a"], f"{name.capitalize()} must be text of at most {length_max} characters"),
        ):
            response = await alice.post("/api/tickets", json={**FADO, name: wrong})
            assert response.status_code == 400
            assert messages_of(response) == [(message, name)]


async def test_event_dates_are_times_with_a_zone(alice: httpx.AsyncClient) -> None:
    for wrong in WRONG_DATES:
        response = await alice.post("/api/tickets", json={**FADO, "eventDate": wrong})
        assert response.status_code == 400, wrong
        assert [field for _, field in messages_of(response)] == ["eventDate"]
    for right in ("2000-01-01T14:00:00+14:00", "2199-12-31T09:59:59-14:00", "2027-05-01t19:30:00z"):
        response = await alice.post("/api/tickets", json={**FADO, "eventDate": right})
        assert response.status_code == 201, right


async def test_bad_parameters_of_the_list_are_refused(alice: httpx.AsyncClient) -> None:
    for query, field in (
        ("limit=0", "limit"), ("limit=101", "limit"), ("limit=-1", "limit"), ("limit=1.5", "limit"),
        ("limit=", "limit"), ("limit=%D9%A3", "limit"), ("limit=99999999999999999999", "limit"), ("limit=%00", "limit"),
        ("sort=title", "sort"), ("sort=", "sort"), ("sort=newest;drop", "sort"),
        ("q=" + "x" * 201, "q"), ("q=%00", "q"), ("q=a%E2%80%AEb", "q"), ("q=a%E2%80%8Bb", "q"),
        ("cursor=", "cursor"), ("cursor=x", "cursor"), ("cursor=" + "A" * 43, "cursor"),
        ("cursor=" + "A" * 500, "cursor"),
        ("cursor=%F0%9F%8E%AB", "cursor"), ("cursor=%00", "cursor"),
        ("limit=1&limit=2", None), ("seller=me", None), ("Limit=1", None),
        ("q=%FF", None), ("q=%ED%A0%80", None), ("&".join(f"q{n}=1" for n in range(30)), None),
    ):  # fmt: skip
        response = await alice.get(f"/api/tickets?{query}")
        assert response.status_code == 400, query
        assert field in [name for _, name in messages_of(response)], query
    for query in ("limit=0", "cursor=x", "sort=price", "q=fado"):
        assert (await alice.get(f"/api/tickets/mine?{query}")).status_code == 400


async def test_bad_idempotency_keys_are_refused(alice: httpx.AsyncClient) -> None:
    for key in (b"", b"x" * 256, b"a\x7fb", b"\xe9", b"a\tb"):
        response = await alice.post("/api/tickets", json=FADO, headers=[(b"idempotency-key", key)])
        assert response.status_code == 400, key
        assert messages_of(response) == [("Idempotency-Key must be 1 to 255 visible characters", None)]


async def test_a_page_of_another_site_cannot_list_or_edit(alice: httpx.AsyncClient) -> None:
    for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        for response in (
            await alice.post("/api/tickets", json=FADO, headers=headers),
            await alice.put(f"/api/tickets/{UNKNOWN}", json=FADO, headers=headers),
        ):
            assert response.status_code == 403
            assert messages_of(response)


ANYTHING: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES: Final = (
    st.sampled_from(["title", "price", "faceValue", "eventDate", "venue", "section", "row", "seat", "note"]) | st.text()
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(fields=st.dictionaries(NAMES, ANYTHING), query=st.text(max_size=30), garbage=st.binary(max_size=200))
async def test_every_input_gets_a_response(
    alice: httpx.AsyncClient, fields: dict[str, Any], query: str, garbage: bytes
) -> None:
    body = json.dumps({"title": "Fado", "price": 10, **fields}).encode()
    responses = [
        await alice.post("/api/tickets", content=body, headers=JSON),
        await alice.post("/api/tickets", content=garbage, headers=JSON),
        await alice.get("/api/tickets", params={"q": query}),
        await alice.get("/api/tickets", params={"cursor": query}),
        await alice.get("/api/tickets/" + quote(query, safe="") + "x"),
    ]
    for response in responses:
        assert response.status_code in {200, 201, 400, 404}
        if response.is_error:
            assert messages_of(response)


# Cursors


@given(st.text(st.characters(codec="utf-8")), st.integers(-(2**63), 2**63 - 1), st.uuids())
def test_a_cursor_is_read_as_the_position_it_was_written_for(scope: str, key: int, ticket_id: UUID) -> None:
    assert read_cursor(scope, write_cursor(scope, Position(key, ticket_id))) == Position(key, ticket_id)


@given(st.text(alphabet=st.characters(max_codepoint=255), max_size=60))
def test_an_invented_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(BadCursor):
        read_cursor("newest", cursor)


@given(st.integers(0, 42), st.sampled_from("ABCxyz019-_!= \n"))
def test_a_damaged_cursor_is_refused(at: int, character: str) -> None:
    cursor = write_cursor("price", Position(1999, TICKET))
    damaged = cursor[:at] + character + cursor[at + 1 :]
    if damaged != cursor:
        with pytest.raises(BadCursor):
            read_cursor("price", damaged)


def test_a_cursor_contains_only_its_position() -> None:
    cursor = write_cursor("newest", Position(1, TICKET))
    raw = urlsafe_b64decode(cursor + "=")
    assert raw[8:24] == TICKET.bytes
    assert len(raw) == 32
    assert urlsafe_b64encode(raw).decode().rstrip("=") == cursor
