"""Parsing forms strictly."""

import re
from collections.abc import Sequence
from decimal import Decimal

import pytest
from starlette.requests import Request as HttpRequest
from starlette.types import Message

from admitone.kernel.errors import FieldError, Invalid, Refusal, UnsupportedMediaType
from admitone.web.forms import Form, NotAnAmount, idempotency_key, parse_amount, read_amount, read_form
from tests.web.amounts import AMOUNTS, NOT_AMOUNTS, UNCLEAR_AMOUNTS

FORM = "application/x-www-form-urlencoded"


def request(chunks: Sequence[bytes], media_type: str = FORM) -> HttpRequest:
    messages: list[Message] = [{"type": "http.request", "body": each, "more_body": True} for each in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    return HttpRequest({"type": "http", "method": "POST", "headers": [(b"content-type", media_type.encode())]}, receive)


async def test_a_form_may_arrive_in_several_chunks() -> None:
    assert await read_form(request([b"title=Fado+", b"n%C3%A3o&price="])) == {"title": "Fado não", "price": ""}


async def test_a_form_may_be_empty() -> None:
    assert await read_form(request([])) == {}


@pytest.mark.parametrize(
    ("body", "media_type", "refusal"),
    [
        (b"a=1&a=2", FORM, Invalid),
        (b"a=%ff", FORM, Invalid),
        (b"a=\xff", FORM, Invalid),
        (b"novalue", FORM, Invalid),
        (b"&".join(b"a%d=1" % number for number in range(21)), FORM, Invalid),
        (b'{"a":1}', "application/json", UnsupportedMediaType),
        (b"--x", "multipart/form-data; boundary=x", UnsupportedMediaType),
    ],
)
async def test_a_malformed_form_is_refused(body: bytes, media_type: str, refusal: type[Refusal]) -> None:
    with pytest.raises(refusal):
        await read_form(request([body], media_type))


def test_an_error_is_shown_at_its_field() -> None:
    form = Form(("title",), {"title": "x"}, [FieldError("Title is required", "title"), FieldError("Try again")])
    assert form.error("title") == "Title is required"
    assert form.error("price") == ""
    assert form.value("title") == "x"


@pytest.mark.parametrize("text", ["19.5", "-3", "0", "999999999.9999"])
def test_an_amount_that_a_page_wrote_is_read(text: str) -> None:
    assert parse_amount(text) == Decimal(text)


@pytest.mark.parametrize("text", ["", "x", "1e9", "1E+999999999", "NaN", "Infinity", "1_000", "1,5", "१९", "9" * 40])
def test_anything_else_is_not_an_amount_of_a_page(text: str) -> None:
    assert parse_amount(text) is None


@pytest.mark.parametrize(("typed", "amount"), AMOUNTS.items())
def test_an_amount_may_be_typed_as_people_write_it(typed: str, amount: str) -> None:
    assert read_amount(typed, "usd") == Decimal(amount)


@pytest.mark.parametrize("typed", UNCLEAR_AMOUNTS)
def test_an_amount_that_can_mean_two_is_refused_with_both(typed: str) -> None:
    with pytest.raises(NotAnAmount, match=r"is not clear: \S+ can mean \d+ or \d+\.\d\d\. Type one of these instead"):
        read_amount(typed, "usd")


@pytest.mark.parametrize("typed", NOT_AMOUNTS)
def test_anything_else_is_not_an_amount(typed: str) -> None:
    with pytest.raises(NotAnAmount, match=r"must be an amount in USD with at most two decimals, such as 45 or 19\.50"):
        read_amount(typed, "usd")


@pytest.mark.parametrize(("typed", "currency"), [("A$20", "aud"), ("20 €", "eur"), ("PLN 20", "pln")])
def test_an_amount_may_be_marked_with_its_own_currency_only(typed: str, currency: str) -> None:
    assert read_amount(typed, currency) == 20
    with pytest.raises(NotAnAmount):
        read_amount(typed, "gbp")


def test_a_malformed_idempotency_key_is_replaced() -> None:
    assert idempotency_key({"key": "0123abc"}) == "0123abc"
    for key in ("", "é", "a\r\nb", "x" * 65):
        assert re.fullmatch("[0-9a-f]{32}", idempotency_key({"key": key}))
