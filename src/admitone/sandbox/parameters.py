"""Request parameters: Stripe's bracketed forms, checked against the types that Stripe's own SDK publishes.

A parameter that the SDK's types do not know is refused as Stripe refuses it, so that a typing mistake in our code
cannot pass here and fail there.
"""

import collections.abc
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from urllib.parse import parse_qsl

from stripe import RequestOptions

from admitone.sandbox.problems import Json, invalid

_FIELDS_MAX: Final = 500
_DEPTH_MAX: Final = 6
_PART: Final = re.compile(r"\[([^\[\]]*)\]")

# Names that the SDK's types use and do not import.
_UNIMPORTED: Final = {"StripeContext": object, "Mapping": collections.abc.Mapping}

# The API takes a card's token inside `payment_method_data`; the SDK's generated types leave the whole hash out because
# it could also hold a card number. Numbers are refused here as any other unknown parameter.
_PAYMENT_METHOD: Final = "payment_method_data"

Kind = Literal["text", "integer", "boolean", "object", "list", "map"]


@dataclass(frozen=True)
class Shape:
    """What one parameter may be."""

    kind: Kind
    fields: Mapping[str, "Shape"] = field(default_factory=dict)
    required: frozenset[str] = frozenset()
    item: "Shape | None" = None
    is_text_too: bool = False


_TEXT: Final = Shape("text")
_CARD: Final = Shape("object", {"token": _TEXT}, frozenset({"token"}))


@cache
def shape_of(params: type) -> Shape:
    """Return the shape of one of the SDK's `…Params` types."""
    hints = get_type_hints(params, localns=_UNIMPORTED)
    options = RequestOptions.__annotations__ if _is_whole_request(params) else {}
    fields = {name: _shape(hint) for name, hint in hints.items() if name not in options}
    if _PAYMENT_METHOD in fields:
        data = fields[_PAYMENT_METHOD]
        fields[_PAYMENT_METHOD] = Shape("object", {**data.fields, "card": _CARD}, data.required)
    required = frozenset(name for name in getattr(params, "__required_keys__", ()) if name in fields)
    return Shape("object", fields, required)


def _is_whole_request(params: type) -> bool:
    """Whether a type is one of a whole request, which mixes the SDK's own options with the API's parameters."""
    return RequestOptions in getattr(params, "__orig_bases__", ())


def _shape(hint: Any) -> Shape:
    origin = get_origin(hint)
    if origin is Union or origin is types.UnionType:
        return _either([_shape(each) for each in get_args(hint)])
    if hasattr(hint, "__required_keys__"):  # a TypedDict, whichever library made it
        return shape_of(hint)
    if origin is list:
        return Shape("list", item=_shape(get_args(hint)[0]))
    if origin in {dict, collections.abc.Mapping} or "UntypedStripeObject" in str(hint):
        return Shape("map")
    if hint is bool:
        return Shape("boolean")
    if hint is int:
        return Shape("integer")
    return _TEXT


def _either(shapes: list[Shape]) -> Shape:
    """Return the most specific of several shapes; an empty text ("unset this") may stand beside any of them."""
    structured = [each for each in shapes if each.kind in {"object", "list", "map"}]
    plain = [each for each in shapes if each.kind not in {"object", "list", "map"}]
    if not structured:
        return plain[0] if all(each.kind == plain[0].kind for each in plain) else _TEXT
    first = structured[0]
    return Shape(first.kind, first.fields, first.required, first.item, is_text_too=bool(plain))


def read(encoded: str, params: type) -> Json:
    """Parse form-encoded parameters into the shape of one of the SDK's types; raises Problem as Stripe words it."""
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=_FIELDS_MAX, errors="strict")
    except ValueError:
        raise invalid("Invalid request: the parameters could not be read.") from None
    tree: Json = {}
    for key, value in pairs:
        _insert(tree, key, value)
    checked = _check(tree, shape_of(params), "")
    assert isinstance(checked, dict)
    return checked


def _insert(tree: Json, key: str, value: str) -> None:
    head, _, rest = key.partition("[")
    path = [head, *_PART.findall(f"[{rest}")] if rest else [head]
    if len(path) > _DEPTH_MAX:
        raise invalid(f"Received unknown parameter: {key}", param=key, code="parameter_unknown")
    node = tree
    for part in path[:-1]:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise invalid(f"Invalid object: {key}", param=key)
    last = path[-1] or str(len(node))  # `expand[]=a` appends
    node[last] = value


def _check(value: Any, shape: Shape, name: str) -> Any:
    if isinstance(value, str):
        return _check_text(value, shape, name)
    match shape.kind:
        case "map":
            if any(not isinstance(each, str) for each in value.values()):
                raise invalid(f"Invalid string: {name}", param=name)
            return value
        case "list":
            assert shape.item is not None
            return [_check(each, shape.item, f"{name}[{index}]") for index, each in enumerate(value.values())]
        case "object":
            return _check_object(value, shape, name)
        case _:
            raise invalid(f"Invalid string: {name}", param=name)


def _check_object(value: Json, shape: Shape, name: str) -> Json:
    checked: Json = {}
    for key, each in value.items():
        full = f"{name}[{key}]" if name else key
        if key not in shape.fields:
            raise invalid(f"Received unknown parameter: {full}", param=full, code="parameter_unknown")
        checked[key] = _check(each, shape.fields[key], full)
    for key in sorted(shape.required - checked.keys()):
        full = f"{name}[{key}]" if name else key
        raise invalid(f"Missing required param: {full}.", param=full, code="parameter_missing")
    return checked


def _check_text(value: str, shape: Shape, name: str) -> Any:
    match shape.kind:
        case "text":
            return value
        case "integer":
            if not re.fullmatch(r"-?[0-9]{1,18}", value):
                raise invalid(f"Invalid integer: {value}", param=name, code="parameter_invalid_integer")
            return int(value)
        case "boolean":
            if value not in {"true", "false"}:
                raise invalid(f"Invalid boolean: {value}", param=name)
            return value == "true"
        case _:
            if shape.is_text_too or (value == "" and shape.kind == "map"):
                return value
            raise invalid(f"Invalid {'array' if shape.kind == 'list' else 'object'}", param=name)
