"""HTML forms: parsing what a browser posts, and what a form shows when it is rendered again with errors."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request as HttpRequest

from admitone.kernel import ids
from admitone.kernel.errors import FieldError, Invalid, UnsupportedMediaType
from admitone.kernel.text import clean_line
from admitone.web.formatting import currency_signs

_FIELDS_MAX: Final = 20
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_AMOUNT: Final = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,4})?")
# A point or a comma before exactly three digits: both separators of thousands and decimal points look like this.
_UNCLEAR: Final = re.compile(r"([1-9][0-9]{0,2})[.,]([0-9]{3})")
# Without groups; groups after spaces or apostrophes; and after commas or points, with the other one before decimals.
_GROUPED: Final = tuple(
    re.compile(rf"(?P<whole>{whole})(?:{point}(?P<decimals>[0-9]{{1,2}}))?")
    for whole, point in (
        (r"[0-9]{1,9}", "[.,]"),
        (r"[1-9][0-9]{0,2}(?: [0-9]{3}){1,2}", "[.,]"),
        (r"[1-9][0-9]{0,2}(?:'[0-9]{3}){1,2}", "[.,]"),
        (r"[1-9][0-9]{0,2}(?:,[0-9]{3}){1,2}", r"\."),
        (r"[1-9][0-9]{0,2}(?:\.[0-9]{3}){1,2}", ","),
    )
)


async def read_form(request: HttpRequest) -> dict[str, str]:
    """Return the fields of a posted form.

    Raises UnsupportedMediaType, or Invalid if the form is malformed or repeats a field.
    """
    body = await request.body()
    if not body:
        return {}
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/x-www-form-urlencoded":
        raise UnsupportedMediaType("The body must be a form")
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:
        raise Invalid("The form is malformed") from None
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise Invalid("A field was given twice")
    return fields


def idempotency_key(fields: Mapping[str, str]) -> str:
    """Return the key the form was rendered with, so that posting it twice has one effect; a new key if it has none."""
    key = fields.get("key", "")
    return key if _KEY.fullmatch(key) else ids.new_token(16)


def parse_amount(text: str) -> Decimal | None:
    """Return an amount that a page wrote, such as a hidden field's `1250.00`, or None if the text is not one."""
    return Decimal(text) if _AMOUNT.fullmatch(text) else None


class NotAnAmount(ValueError):
    """What is typed is no amount, or can mean two; the text continues a sentence that begins with the field's name"""


def read_amount(typed: str, currency: str) -> Decimal:
    """Return the amount that somebody typed, in the ways people write one: `1500`, `$1,500.00`, `1 500`, `1.234,50`.

    Raises NotAnAmount for anything else, and for `1,500`, which can be 1500 or 1.50.
    """
    try:
        text = clean_line(typed).replace("’", "'")
    except ValueError:
        text = ""
    minus, text = ("-", text[1:].lstrip()) if text.startswith("-") else ("", text)
    for sign in currency_signs(currency):
        if text.lower().startswith(sign):
            text = text[len(sign) :].lstrip()
            break
        if text.lower().endswith(sign):
            text = text[: -len(sign)].rstrip()
            break
    if unclear := _UNCLEAR.fullmatch(text):
        whole, rest = unclear.groups()
        raise NotAnAmount(
            f"is not clear: {text} can mean {whole}{rest} or {whole}.{rest[:2]}. Type one of these instead"
        )
    for grouped in _GROUPED:
        if found := grouped.fullmatch(text):
            whole = re.sub("[^0-9]", "", found["whole"])
            return Decimal(f"{minus}{whole}.{found['decimals'] or '00'}")
    raise NotAnAmount(f"must be an amount in {currency.upper()} with at most two decimals, such as 45 or 19.50")


class Form:
    """What a form shows: the values typed so far and, after a refusal, the errors."""

    def __init__(
        self,
        fields: Sequence[str] = (),
        values: Mapping[str, str] | None = None,
        errors: Sequence[FieldError] = (),
        heading: str = "Please check this",
    ) -> None:
        self._fields = frozenset(fields)
        self._values = values or {}
        self.errors = list(errors)
        self.heading = heading

    def has(self, field: str) -> bool:
        return field in self._fields

    def value(self, field: str) -> str:
        return self._values.get(field, "")

    def error(self, field: str) -> str:
        """Return the errors of one field as one text, empty if there are none."""
        return " ".join(each.message for each in self.errors if each.field == field)
