"""Parses JSON bodies and query parameters into structs.

Every broken rule is reported, in the order of the struct's fields. The input is never repeated in a response.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache, partial
from typing import Annotated, Any, Final, TypeVar, get_type_hints
from urllib.parse import parse_qsl
from uuid import UUID

import msgspec

from admitone.kernel.errors import FieldError, Invalid, InvalidFields
from admitone.kernel.text import clean_line

BODY_BYTES_MAX: Final = 64 * 1024
_DEPTH_MAX: Final = 20
_NUMBER_CHARACTERS_MAX: Final = 40
_INTEGER_DIGITS_MAX: Final = 9
_UUID_CHARACTERS: Final = 36

T = TypeVar("T", bound=msgspec.Struct)

# A time in a response, as `json_time` writes it.
TimeText = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


def json_time(moment: datetime) -> str:
    """Return a time as the API writes it: ISO 8601, UTC, milliseconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Rule:
    """How one field is read: `read` gets the decoded JSON value and raises ValueError if the rule is broken.

    The ValueError's own text is the message if it has one; otherwise `message` is.
    """

    message: str
    read: Callable[[Any], Any]


@cache
def _rules(struct: type[msgspec.Struct]) -> Mapping[str, tuple[msgspec.structs.FieldInfo, Rule]]:
    """Return each field with its rule, by its name in JSON; a field without a rule must convert to its type."""
    hints = get_type_hints(struct, include_extras=True)
    rules = {}
    for field in msgspec.structs.fields(struct):
        metadata = getattr(hints[field.name], "__metadata__", ())
        declared = next((each for each in metadata if isinstance(each, Rule)), None)
        by_type = Rule(f"{field.encode_name} is missing or not valid", partial(msgspec.convert, type=field.type))
        rules[field.encode_name] = (field, declared or by_type)
    return rules


def _number(text: str) -> Decimal:
    """Read a number with a fraction or an exponent as an exact decimal, so that a price is never a float.

    NaN and the infinities are refused: they are Python's, not JSON's.
    """
    if len(text) > _NUMBER_CHARACTERS_MAX or not math.isfinite(float(text)):
        raise ValueError
    return Decimal(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a repeated key: two parsers might read two different values."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


def _check_values(value: Any, levels: int) -> None:
    """Refuse text that PostgreSQL cannot store (NUL and lone surrogates) and deep nesting."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError
        value.encode()
    elif isinstance(value, dict | list):
        if levels == 0:
            raise Invalid("The body is nested too deeply")
        for each in value:
            _check_values(each, levels - 1)
            if isinstance(value, dict):
                _check_values(value[each], levels - 1)


# Not msgspec, which accepts repeated keys. Source: RFC 8259, §4 and §6, on what parsers disagree about.
_JSON: Final = json.JSONDecoder(parse_float=_number, parse_constant=_number, object_pairs_hook=_object)


def read_body(body: bytes, struct: type[T]) -> T:
    """Parse a JSON body; raises Invalid if it is not a JSON object, InvalidFields for its fields."""
    try:
        decoded = _JSON.decode(body.decode())
        _check_values(decoded, _DEPTH_MAX)
    except (ValueError, RecursionError):
        raise Invalid("The body must be valid JSON") from None
    if not isinstance(decoded, dict):
        raise Invalid("The body must be a JSON object")
    return read_fields(decoded, struct)


def read_query(query: bytes, struct: type[T]) -> T:
    """Parse a query string; a repeated or unknown parameter is refused. Raises Invalid, or InvalidFields."""
    try:
        pairs = parse_qsl(query.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        raise Invalid("The query is not valid") from None
    values = dict(pairs)
    if repeated := len(pairs) - len(values):
        raise InvalidFields([FieldError("A parameter was given twice")] * repeated)
    return read_fields(values, struct)


def read_fields(values: Mapping[str, Any], struct: type[T]) -> T:
    """Read each field by its rule; raises InvalidFields with one entry per broken rule."""
    errors: list[FieldError] = []
    read: dict[str, Any] = {}
    rules = _rules(struct)
    for key, (field, rule) in rules.items():
        if key in values:
            try:
                read[field.name] = rule.read(values[key])
            except msgspec.ValidationError:  # its text may repeat the input
                errors.append(FieldError(rule.message, key))
            except (ValueError, ArithmeticError) as broken:
                errors.append(FieldError(str(broken) or rule.message, key))
        elif field.required:
            errors.append(FieldError(rule.message, key))
    errors += [FieldError("Unknown field") for key in values if key not in rules]
    if errors:
        raise InvalidFields(errors)
    return struct(**read)


# Readers that more than one service uses.


def line(length_max: int, length_min: int = 0) -> Callable[[Any], str]:
    """Return a reader of one line of text of `length_min` to `length_max` characters after cleaning."""

    def read(value: Any) -> str:
        if not isinstance(value, str):
            raise ValueError  # noqa: TRY004 – a broken rule, reported to the caller like any other
        cleaned = clean_line(value)
        if not length_min <= len(cleaned) <= length_max:
            raise ValueError(f"Must be {length_max} characters or fewer" if len(cleaned) > length_max else "")
        return cleaned

    return read


def uuid(value: Any) -> UUID:
    """Read an id in its canonical form of 36 characters."""
    if not isinstance(value, str) or len(value) != _UUID_CHARACTERS or not value.isascii():
        raise ValueError
    try:
        found = UUID(value)
    except ValueError:
        raise ValueError from None  # without a text of its own, which would become the message
    if str(found) != value.lower():
        raise ValueError  # Python reads more than the canonical form: braces, underscores, misplaced hyphens
    return found


def whole_number(lowest: int, highest: int) -> Callable[[Any], int]:
    """Return a reader of a query parameter that is a whole number in range."""

    def read(value: Any) -> int:
        is_number = isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= _INTEGER_DIGITS_MAX
        if not is_number or not lowest <= int(value) <= highest:
            raise ValueError
        return int(value)

    return read


def one_of(*allowed: str) -> Callable[[Any], str]:
    """Return a reader of one of a few words."""

    def read(value: Any) -> str:
        if value not in allowed:
            raise ValueError
        return str(value)

    return read
