"""Parsing forms strictly."""

import re
from collections.abc import Sequence
from decimal import Decimal

import pytest
from starlette.requests import Request as HttpRequest
from starlette.types import Message

from admitone.kernel.errors import FieldError, Invalid, Refusal, UnsupportedMediaType
from admitone.web.forms import Form, idempotency_key, parse_amount, read_form

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


@pytest.mark.parametrize(
    ("typed", "amount"),
    [("19.5", "19.5"), (" 19,50 ", "19.50"), ("-3", "-3"), ("0", "0"), ("999999999.9999", "999999999.9999")],
)
def test_an_amount_may_have_a_comma_or_spaces_around_it(typed: str, amount: str) -> None:
    assert parse_amount(typed) == Decimal(amount)


@pytest.mark.parametrize(
    "typed", ["", "x", "1e9", "1E+999999999", "NaN", "Infinity", "1_000", "1.000,50", "१९", "9" * 40]
)
def test_anything_else_is_not_an_amount(typed: str) -> None:
    assert parse_amount(typed) is None


def test_a_malformed_idempotency_key_is_replaced() -> None:
    assert idempotency_key({"key": "0123abc"}) == "0123abc"
    for key in ("", "é", "a\r\nb", "x" * 65):
        assert re.fullmatch("[0-9a-f]{32}", idempotency_key({"key": key}))
