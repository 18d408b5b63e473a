"""What an operation of the API is, and what its function works with."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from secrets import token_hex
from typing import Any, Final, Literal, get_type_hints

import msgspec

from stripe_sandbox.errors import ApiError, Json, no_such
from stripe_sandbox.parameters import ListParams, Params
from stripe_sandbox.store import Store

# Properties that hold an object's id, and the kind of the object.
_EXPANDABLE: Final = {"latest_charge": "charge"}
# Each kind's fields that no operation sets at first: Stripe leaves none out, whatever it is used for.
_DEFAULTS: Final = msgspec.json.decode((resources.files("stripe_sandbox") / "objects.json").read_bytes())


@dataclass(frozen=True)
class Context:
    """What an operation has beside its parameters; `object_id` is the id in the path, `now` is in epoch seconds.

    An operation runs in a transaction: it writes to the store and publishes events, or raises ApiError.
    """

    store: Store
    publish: Callable[[str, Json], None]
    now: int
    object_id: str
    base_url: str

    def new(self, kind: str, prefix: str, **fields: Any) -> Json:
        """Return a new object, which has the default of every field that is not given; it is not saved."""
        return {"id": new_id(prefix), "object": kind, "created": self.now, **_DEFAULTS[kind], **fields}

    def load(self, kind: str, object_id: str, param: str) -> Json:
        """Return the object that the path or a parameter names; raises ApiError."""
        if (found := self.store.find(kind, object_id)) is None:
            raise no_such(kind, object_id, param, 404 if object_id == self.object_id else 400)
        return found

    def list(self, kind: str, params: ListParams, **found_by: str | None) -> Json:
        """Return a page of the objects with these fields; those that are None may have any value."""
        wanted = {name: value for name, value in found_by.items() if value is not None}
        data, has_more = self.store.page(kind, params, wanted)
        return {"object": "list", "data": data, "has_more": has_more, "url": f"/v1/{kind}s"}

    def expanded(self, body: Json, names: Sequence[str], prefix: str = "") -> Json:
        """Return an object, or a list, with these properties as objects in place of their ids; raises ApiError."""
        if body["object"] in {"list", "search_result"}:
            return body | {"data": [self.expanded(each, names, "data.") for each in body["data"]]}
        for name in names:
            key = name.removeprefix(prefix)
            if name != prefix + key or key not in _EXPANDABLE or key not in body:
                raise ApiError(f"This property cannot be expanded ({name}).", param="expand")
            if body[key] is not None:
                body = body | {key: self.store.find(_EXPANDABLE[key], body[key])}
        return body


Run = Callable[[Context, Any], Json]


@dataclass(frozen=True)
class ApiOperation:
    """An operation of the API: the type of its parameters here, and in Stripe's SDK."""

    name: str
    method: str
    path: str
    run: Run
    params: type[Params]
    sdk_params: type


OPERATIONS: Final[list[ApiOperation]] = []


def operation(method: Literal["GET", "POST"], path: str, sdk_params: type) -> Callable[[Run], Run]:
    """Declare a function as an operation, which offers the parameters that its second argument has."""

    def declare(run: Run) -> Run:
        _context, params, _body = get_type_hints(run).values()
        OPERATIONS.append(ApiOperation(run.__name__, method, path, run, params, sdk_params))
        return run

    return declare


def new_id(prefix: str) -> str:
    """Return an unpredictable id in Stripe's form: `pi_` and 24 characters."""
    return f"{prefix}_{token_hex(12)}"
