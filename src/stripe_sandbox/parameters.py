"""Request parameters: form-encoded with brackets, parsed into the type that an operation declares.

A name that Stripe's SDK does not know is refused as Stripe refuses it, so that a misspelt name cannot pass here and
fail there.
"""

import re
from typing import Annotated, Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl

from msgspec import Meta, Struct, ValidationError, convert

from stripe_sandbox.errors import ApiError, Json

_FIELDS_MAX: Final = 500
_PART: Final = re.compile(r"\[([^\[\]]*)\]")
# What msgspec says: "Object contains unknown field `token` - at `$.payment_method_data.card`"; `[...]` is any key.
_COMPLAINT: Final = re.compile(r"(.*?)(?: field `([^`]*)`)?(?: - at .*?`\$\.?([^`]*?)(?:\[\.\.\.\])?`)?")

MetadataKey = Annotated[str, Meta(max_length=40)]
Metadata = Annotated[dict[MetadataKey, Annotated[str, Meta(max_length=500)]], Meta(max_length=50)]
Limit = Annotated[int, Meta(ge=1, le=100)]
PositiveCents = Annotated[int, Meta(ge=1)]
Timestamp = Annotated[int, Meta(ge=0, lt=2**53)]


class Params(Struct, kw_only=True, forbid_unknown_fields=True):
    """The parameters that an operation offers; `expand` names ids to return as objects."""

    expand: list[str] = []


class ListParams(Params):
    """Which page of a list is wanted, newest first."""

    limit: Limit = 10
    starting_after: str | None = None
    ending_before: str | None = None
    created: dict[Literal["gt", "gte", "lt", "lte"], Timestamp] | Timestamp | None = None


P = TypeVar("P", bound=Params)


def parse(encoded: str, params: type[P], sdk_params: type) -> P:
    """Parse form-encoded parameters; raises ApiError. `sdk_params` is their type in Stripe's SDK."""
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict")
    except ValueError:
        raise ApiError("Invalid request: the parameters could not be read.") from None
    sent: Json = {}
    for key, value in pairs:
        _insert(sent, key, value)
    if isinstance(expand := sent.get("expand"), dict):
        sent["expand"] = list(expand.values())
    try:
        return convert(sent, params, strict=False)
    except ValidationError as error:
        raise _refusal(str(error), sdk_params) from None


def _insert(sent: Json, key: str, value: str) -> None:
    """Put `a[b][c]=value` where it belongs: `{"a": {"b": {"c": value}}}`; lists become dicts of their indexes."""
    name, bracket, rest = key.partition("[")
    path = [name, *_PART.findall(bracket + rest)]
    node: Any = sent
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ApiError(f"Invalid object: {key}", param=key)
    node[path[-1] or str(len(node))] = value  # `expand[]=a` appends


def _refusal(complaint: str, sdk_params: type) -> ApiError:
    """Return Stripe's error for what msgspec says about a parameter."""
    parsed = _COMPLAINT.fullmatch(complaint)
    assert parsed is not None
    what, field, path = parsed.groups()
    first, *rest = [part for part in (*(path or "").split("."), field) if part]
    name = first + "".join(f"[{part}]" for part in rest)
    if what == "Object missing required":
        return ApiError(f"Missing required param: {name}.", param=name, code="parameter_missing")
    if what == "Object contains unknown":
        if name in sdk_params.__annotations__:
            return ApiError(f"This sandbox does not offer the parameter {name}", param=name)
        return ApiError(f"Received unknown parameter: {name}", param=name, code="parameter_unknown")
    code = "parameter_invalid_integer" if what.startswith("Expected `int`") else ""
    return ApiError(f"Invalid {name}: {what}", param=name, code=code)
