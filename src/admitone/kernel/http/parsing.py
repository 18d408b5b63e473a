"""The one strict reader of what comes from outside: JSON bodies and query parameters, into structs.

Every failed rule is reported, in the order of the struct's fields. What came in is never repeated in an answer.
"""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Annotated, Any, Final, TypeVar, get_type_hints
from uuid import UUID

import msgspec

from admitone.kernel.errors import FieldError, Invalid, InvalidFields
from admitone.kernel.text import clean_line

BODY_BYTES_MAX: Final = 64 * 1024
_DEPTH_MAX: Final = 20
_NUMBER_CHARACTERS_MAX: Final = 40

T = TypeVar("T", bound=msgspec.Struct)

# A time in a response, as `json_time` writes it.
TimeText = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]


def json_time(moment: datetime) -> str:
    """Return a time as the API writes it: ISO 8601, UTC, milliseconds."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


@dataclass(frozen=True)
class Rule:
    """How one field is read: `read` gets the decoded JSON value and raises ValueError when the rule is broken.

    The ValueError's own text is the message if it has one; otherwise `message` is.
    """

    message: str
    read: Callable[[Any], Any]


@dataclass(frozen=True)
class _Field:
    key: str
    name: str
    is_required: bool
    message: str
    read: Callable[[Any], Any]


@cache
def _fields(struct: type[msgspec.Struct]) -> tuple[_Field, ...]:
    hints = get_type_hints(struct, include_extras=True)
    fields = []
    for field in msgspec.structs.fields(struct):
        rule = next((each for each in getattr(hints[field.name], "__metadata__", ()) if isinstance(each, Rule)), None)
        fields.append(
            _Field(
                key=field.encode_name,
                name=field.name,
                is_required=field.required,
                message=rule.message if rule else f"{field.encode_name} is missing or not valid",
                read=rule.read if rule else _converter(field.type),
            )
        )
    return tuple(fields)


def _converter(field_type: Any) -> Callable[[Any], Any]:
    def convert(value: Any) -> Any:
        try:
            return msgspec.convert(value, field_type)
        except msgspec.ValidationError:
            raise ValueError from None

    return convert


def _number(text: str) -> Decimal:
    """Read a number with a fraction or an exponent as an exact decimal: a float never sees a price."""
    if len(text) > _NUMBER_CHARACTERS_MAX or not math.isfinite(float(text)):
        raise ValueError
    return Decimal(text)


def _refuse_constant(_name: str) -> None:
    raise ValueError  # NaN and the infinities are Python's, not JSON's


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key that stands twice: two readers might take two different ones."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError
    return found


class _TooDeep(Exception):
    """The body is nested too deeply"""


def _demand_plain(value: Any, levels: int) -> None:
    """Refuse text that PostgreSQL cannot keep, NUL and halves of characters, at any depth."""
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError
        value.encode()
    elif isinstance(value, dict | list):
        if levels == 0:
            raise _TooDeep
        if isinstance(value, dict):
            for key in value:
                _demand_plain(key, levels)
            value = value.values()
        for each in value:
            _demand_plain(each, levels - 1)


# Not msgspec, which lets a key stand twice. Source: RFC 8259, §4 and §6 on what readers disagree about.
_JSON: Final = json.JSONDecoder(parse_float=_number, parse_constant=_refuse_constant, object_pairs_hook=_object)


def read_body(body: bytes, struct: type[T]) -> T:
    """Parse a JSON body; raises Invalid when it is no JSON object, InvalidFields for its fields."""
    try:
        decoded = _JSON.decode(body.decode())
        _demand_plain(decoded, _DEPTH_MAX)
    except _TooDeep:
        raise Invalid("The body is nested too deeply") from None
    except (ValueError, RecursionError):
        raise Invalid("The body must be valid JSON") from None
    if not isinstance(decoded, dict):
        raise Invalid("The body must be a JSON object")
    return read_fields(decoded, struct)


def read_query(pairs: Iterable[tuple[str, str]], struct: type[T]) -> T:
    """Parse query parameters; a parameter given twice or not known is refused."""
    values: dict[str, Any] = {}
    errors: list[FieldError] = []
    for key, value in pairs:
        if key in values:
            errors.append(FieldError("A parameter was given twice"))
        values[key] = value
    if errors:
        raise InvalidFields(errors)
    return read_fields(values, struct)


def read_fields(values: Mapping[str, Any], struct: type[T]) -> T:
    """Read each field by its rule; raises InvalidFields with one entry per failed rule."""
    errors: list[FieldError] = []
    read: dict[str, Any] = {}
    fields = _fields(struct)
    for field in fields:
        if field.key not in values:
            if field.is_required:
                errors.append(FieldError(field.message, field.key))
            continue
        try:
            read[field.name] = field.read(values[field.key])
        except (ValueError, ArithmeticError) as broken:
            errors.append(FieldError(str(broken) or field.message, field.key))
    known = {field.key for field in fields}
    errors += [FieldError("Unknown field") for key in values if key not in known]
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
    if not isinstance(value, str) or len(value) != 36 or not value.isascii():
        raise ValueError
    try:
        found = UUID(value)
    except ValueError:
        raise ValueError from None
    if str(found) != value.lower():
        raise ValueError  # Python reads more than the canonical form: braces, underscores, misplaced hyphens
    return found


def whole_number(lowest: int, highest: int) -> Callable[[Any], int]:
    """Return a reader of a query parameter that is a whole number in range."""

    def read(value: Any) -> int:
        if not isinstance(value, str) or not value.isascii() or not value.isdigit() or len(value) > 9:
            raise ValueError
        if not lowest <= int(value) <= highest:
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
