"""Reading form posts strictly."""

import re
from collections.abc import Sequence
from decimal import Decimal

import pytest
from starlette.requests import Request
from starlette.types import Message

from admitone.kernel.errors import BodyTooLarge, FieldError, Invalid, Refusal, UnsupportedMediaType
from admitone.web.forms import Form, amount_of, key_of, posted

FORM = "application/x-www-form-urlencoded"


def request(chunks: Sequence[bytes], media_type: str = FORM) -> Request:
    messages: list[Message] = [{"type": "http.request", "body": each, "more_body": True} for each in chunks]
    messages.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Message:
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "headers": [(b"content-type", media_type.encode())]}, receive)


async def test_fields_are_read_whatever_pieces_they_come_in() -> None:
    assert await posted(request([b"title=Fado+", b"n%C3%A3o&price="])) == {"title": "Fado não", "price": ""}


async def test_a_form_may_be_empty() -> None:
    assert await posted(request([])) == {}


@pytest.mark.parametrize(
    ("body", "media_type", "refusal"),
    [
        (b"a=1&a=2", FORM, Invalid),
        (b"a=%ff", FORM, Invalid),
        (b"a=\xff", FORM, Invalid),
        (b"novalue", FORM, Invalid),
        (b"&".join(b"a%d=1" % number for number in range(21)), FORM, Invalid),
        (b"a=" + b"x" * 65_536, FORM, BodyTooLarge),
        (b'{"a":1}', "application/json", UnsupportedMediaType),
        (b"--x", "multipart/form-data; boundary=x", UnsupportedMediaType),
    ],
)
async def test_what_no_form_of_ours_sends_is_refused(body: bytes, media_type: str, refusal: type[Refusal]) -> None:
    with pytest.raises(refusal):
        await posted(request([body], media_type))


def test_an_error_stands_beside_its_field() -> None:
    form = Form(("title",), {"title": "x"}, [FieldError("Title is required", "title"), FieldError("Try again")])
    assert form.error("title") == "Title is required"
    assert form.error("price") == ""
    assert form.value("title") == "x"


@pytest.mark.parametrize(
    ("typed", "amount"),
    [("19.5", "19.5"), (" 19,50 ", "19.50"), ("-3", "-3"), ("0", "0"), ("999999999.9999", "999999999.9999")],
)
def test_amounts_are_read_as_people_write_them(typed: str, amount: str) -> None:
    assert amount_of(typed) == Decimal(amount)


@pytest.mark.parametrize(
    "typed", ["", "x", "1e9", "1E+999999999", "NaN", "Infinity", "1_000", "1.000,50", "१९", "9" * 40]
)
def test_what_is_no_amount_is_none(typed: str) -> None:
    assert amount_of(typed) is None


def test_a_forms_key_is_kept_when_it_is_one() -> None:
    assert key_of({"key": "0123abc"}) == "0123abc"
    for key in ("", "é", "a\r\nb", "x" * 65):
        assert re.fullmatch("[0-9a-f]{32}", key_of({"key": key}))
