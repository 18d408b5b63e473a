"""The OpenAPI document, generated from the operations' declarations, and a page for people."""

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any, Final

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.routing import Route

from admitone import __version__
from admitone.kernel import errors
from admitone.kernel.errors import Refusal
from admitone.kernel.http.app import ErrorBody, document_route, status_of
from admitone.kernel.http.operations import IDEMPOTENCY_KEY_CHARACTERS_MAX, OK, Operation, Response
from admitone.kernel.settings import Settings

_SCHEMA_PATH: Final = "#/components/schemas/{name}"
_HTML: Final = (b"content-type", b"text/html; charset=utf-8")
_IMPLIED: Final[tuple[type[Refusal], ...]] = (errors.Unavailable,)
_TEXT: Final[Mapping[str, Any]] = {"type": "string"}
# What `Request.idempotency_key` accepts; leading and trailing spaces are not part of a header's value.
_KEY: Final[Mapping[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": IDEMPOTENCY_KEY_CHARACTERS_MAX,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
}


def document(operations: Sequence[Operation], settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of these operations."""
    structs = {ErrorBody} | {each for op in operations for each in (op.body, op.query, op.returns) if each is not None}
    (*_,), components = msgspec.json.schema_components(sorted(structs, key=str), ref_template=_SCHEMA_PATH)
    _show_decimals_as_numbers(components)
    for answered in _response_structs(op.returns for op in operations):
        if answered.__struct_config__.omit_defaults:
            _leave_out_null(components[answered.__name__])
    for component in components.values():
        if "description" in component:
            component["description"] = " ".join(component["description"].split())
    for op in operations:
        if op.body is not None:
            components[op.body.__name__]["additionalProperties"] = False
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AdmitOne",
            "version": __version__,
            "summary": "Resale of tickets: one ticket, one holder.",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": settings.public_origin}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"session": {"type": "apiKey", "in": "cookie", "name": "session"}},
        },
    }


def _show_decimals_as_numbers(schema: Any) -> None:
    """Describe decimals as the JSON numbers they are in requests and responses; msgspec describes them as strings."""
    if isinstance(schema, dict):
        if schema.get("format") == "decimal":
            schema["type"] = "number"
        for each in schema.values():
            _show_decimals_as_numbers(each)
    elif isinstance(schema, list):
        for each in schema:
            _show_decimals_as_numbers(each)


def _response_structs(types: Iterable[Any]) -> set[type[msgspec.Struct]]:
    """Return the structs that responses consist of."""
    found: set[type[msgspec.Struct]] = set()
    waiting = msgspec.inspect.multi_type_info([each for each in (*types, ErrorBody) if each is not None])
    left: list[Any] = list(waiting)
    while left:
        each = left.pop()
        if isinstance(each, msgspec.inspect.StructType) and each.cls not in found:
            found.add(each.cls)
            left += [field.type for field in each.fields]
        elif isinstance(each, msgspec.inspect.UnionType):
            left += each.types
        elif isinstance(each, msgspec.inspect.ListType):
            left.append(each.item_type)
    return found


def _leave_out_null(schema: dict[str, Any]) -> None:
    """Describe a response's absent fields as omitted, never null."""
    for name, each in schema["properties"].items():
        if each.get("default", ...) is None and "anyOf" in each:
            [said] = [kind for kind in each["anyOf"] if kind != {"type": "null"}]
            schema["properties"][name] = said


def _operation(op: Operation) -> dict[str, Any]:
    summary, _, description = op.summary.partition("\n")
    described: dict[str, Any] = {
        "operationId": op.use_case.__name__,
        "summary": summary.strip(),
        "tags": [op.path.split("/")[2]],
        "parameters": [*_path_parameters(op), *_query_parameters(op), *_header_parameters(op)],
        "responses": _responses(op),
    }
    if description.strip():
        described["description"] = " ".join(description.split())
    if op.signed_in:
        described["security"] = [{"session": []}]
    if op.body is not None:
        content: dict[str, Any] = {"schema": _reference(op.body)}
        if "request" in op.examples:
            content["example"] = op.examples["request"]
        described["requestBody"] = {"required": True, "content": {"application/json": content}}
    elif op.raw_body:
        described["requestBody"] = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
    return described


def _reference(struct: Any) -> dict[str, Any]:
    (schema,), _ = msgspec.json.schema_components([struct], ref_template=_SCHEMA_PATH)
    return schema


def _path_parameters(op: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"{(\w+)}", op.path)
    ]


def _query_parameters(op: Operation) -> list[dict[str, Any]]:
    if op.query is None:
        return []
    _, components = msgspec.json.schema_components([op.query], ref_template=_SCHEMA_PATH)
    schema = components[op.query.__name__]
    return [
        {
            "name": name,
            "in": "query",
            "required": name in schema.get("required", ()),
            "schema": _in_a_query(each),
            **({"description": each["description"]} if "description" in each else {}),
        }
        for name, each in schema["properties"].items()
    ]


def _in_a_query(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a parameter's schema without its description, and without null, which a query cannot express."""
    shown = {key: value for key, value in schema.items() if key != "description"}
    if "default" in shown and shown["default"] is None:
        [text] = [each for each in shown["anyOf"] if each != {"type": "null"}]
        return dict(text)
    return shown


def _header_parameters(op: Operation) -> list[dict[str, Any]]:
    headers = [(name, meaning, _TEXT) for name, meaning in op.request_headers.items()]
    if op.idempotent:
        meaning = "Chosen by the caller; a repeat with the same key gets the first answer again."
        headers.append(("Idempotency-Key", meaning, _KEY))
    return [
        {"name": name, "in": "header", "required": False, "description": meaning, "schema": schema}
        for name, meaning, schema in headers
    ]


def _response_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": meaning, "required": True, "schema": _TEXT} for name, meaning in headers.items()}


def _responses(op: Operation) -> dict[str, Any]:
    refused: dict[int, list[type[Refusal]]] = {}
    for refusal in _all_refusals(op):
        refused.setdefault(status_of(refusal), []).append(refusal)
    success: dict[str, Any] = {"description": "Done."}
    if op.returns is not None:
        content: dict[str, Any] = {"schema": _reference(op.returns)}
        if "answer" in op.examples:
            content["example"] = op.examples["answer"]
        success["content"] = {"application/json": content}
    if op.response_headers:
        success["headers"] = _response_headers(op.response_headers)
    responses = {str(op.status): success}
    responses |= {str(status): {"description": meaning} for status, meaning in op.other_responses.items()}
    for status, kinds in sorted(refused.items()):
        responses[str(status)] = {
            "description": " · ".join(dict.fromkeys(kind.meaning() for kind in kinds)),
            "content": {"application/json": {"schema": _reference(ErrorBody)}},
        }
        if all(kind.retry_after_seconds is not None or issubclass(kind, errors.TooManyRequests) for kind in kinds):
            responses[str(status)]["headers"] = _response_headers({"Retry-After": "In how many seconds to try again."})
    return responses


def _all_refusals(op: Operation) -> list[type[Refusal]]:
    found: list[type[Refusal]] = list(op.raises)
    if op.signed_in:
        found.append(errors.NotSignedIn)
    if op.body is not None:
        found += [errors.Invalid, errors.BodyTooLarge, errors.UnsupportedMediaType]
    if op.raw_body:
        found.append(errors.BodyTooLarge)
    if op.query is not None:
        found.append(errors.Invalid)
    if "{" in op.path:
        found.append(errors.NotFound)
    if op.idempotent:
        found += [errors.Invalid, errors.IdempotencyKeyReused]
    if op.method not in {"GET", "HEAD"}:
        found.append(errors.Forbidden)
    return [*found, *_IMPLIED]


def routes(described: Mapping[str, Any]) -> list[Route]:
    """Return the routes of the document and of its readable page."""
    encoded = msgspec.json.format(msgspec.json.encode(described), indent=1)
    page = _page(described).encode()

    async def as_json(_request: HttpRequest) -> Response:
        return Response(OK, encoded)

    async def as_page(_request: HttpRequest) -> Response:
        return Response(OK, page, headers=(_HTML,))

    return [
        document_route("/api/openapi.json", as_json),
        document_route("/api", as_page),
    ]


def _page(described: Mapping[str, Any]) -> str:
    """Return a page without script or style: operations with their parameters, bodies and responses."""
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        "<title>AdmitOne API</title><h1>AdmitOne API</h1>",
        '<p>The same, for programs: <a href="/api/openapi.json">openapi.json</a>.</p>',
    ]
    schemas = described["components"]["schemas"]
    for path, methods in described["paths"].items():
        for method, op in methods.items():
            parts.append(f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(op['summary'])}</p>")
            if "description" in op:
                parts.append(f"<p>{escape(op['description'])}</p>")
            if parameters := op["parameters"]:
                items = (
                    f"<li><code>{escape(p['name'])}</code> ({p['in']}) {escape(p.get('description', ''))}"
                    for p in parameters
                )
                parts.append(f"<ul>{''.join(items)}</ul>")
            body = op.get("requestBody", {"content": {"application/json": {"schema": {}}}})
            if "$ref" in (schema := body["content"]["application/json"]["schema"]):
                name = schema["$ref"].rsplit("/", 1)[-1]
                fields = ", ".join(f"<code>{escape(each)}</code>" for each in schemas[name]["properties"])
                parts.append(f"<p>Body: {fields}</p>")
            answers = (f"<dt>{status}<dd>{escape(each['description'])}" for status, each in op["responses"].items())
            parts.append(f"<dl>{''.join(answers)}</dl>")
    return "".join(parts) + "</html>"
