"""Forms as browsers post them: read strictly, and shown again with what was typed and what was wrong with it."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Final
from urllib.parse import parse_qsl

from starlette.requests import Request

from admitone.kernel import ids
from admitone.kernel.errors import BodyTooLarge, FieldError, Invalid, UnsupportedMediaType
from admitone.kernel.http.parsing import BODY_BYTES_MAX

_FIELDS_MAX: Final = 20
_KEY: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_AMOUNT: Final = re.compile(r"-?[0-9]{1,9}(\.[0-9]{1,4})?")


async def posted(request: Request) -> dict[str, str]:
    """Return the fields of a form post; raises a refusal when it is too large, malformed or names a field twice."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise BodyTooLarge
    if not body:
        return {}
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


def key_of(fields: Mapping[str, str]) -> str:
    """Return the key a form was given when it was shown, so that sending it twice does one thing; a new one without."""
    key = fields.get("key", "")
    return key if _KEY.fullmatch(key) else ids.new_token(16)


def amount_of(text: str) -> Decimal | None:
    """Return an amount as people write it, or None when it is none; a comma separates cents as well as a point."""
    typed = text.strip().replace(",", ".")
    return Decimal(typed) if _AMOUNT.fullmatch(typed) else None


class Form:
    """What a form shows: the values typed so far and, after a refusal, what to put right."""

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
        """Return what is wrong with one field; empty when nothing is."""
        return " ".join(each.message for each in self.errors if each.field == field)
