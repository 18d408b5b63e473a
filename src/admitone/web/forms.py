"""HTML forms: parsing what a browser posts, and what a form shows when it is rendered again with errors."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request as HttpRequest

from admitone.kernel import ids
from admitone.kernel.errors import FieldError, Invalid, UnsupportedMediaType

_FIELDS_MAX: Final = 20
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_AMOUNT: Final = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,4})?")


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
    """Return an amount, or None if the text is not one; a comma is accepted as the decimal point."""
    typed = text.strip().replace(",", ".")
    return Decimal(typed) if _AMOUNT.fullmatch(typed) else None


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
