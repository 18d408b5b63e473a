"""The OpenAPI document, generated from the operations' declarations, and a page for people."""

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any, Final

import jinja2
import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import HTMLResponse
from starlette.responses import Response as HttpResponse
from starlette.routing import Route

import admitone
from admitone.kernel import errors
from admitone.kernel.errors import Refusal
from admitone.kernel.http.app import ErrorBody, status_of
from admitone.kernel.http.operations import IDEMPOTENCY_KEY_CHARACTERS_MAX, Operation
from admitone.kernel.http.sessions import cookie_name
from admitone.kernel.settings import Settings

_SCHEMA_PATH: Final = "#/components/schemas/{name}"
_TEXT: Final[Mapping[str, Any]] = {"type": "string"}
# What `Request.idempotency_key` accepts; leading and trailing spaces are not part of a header's value.
_KEY: Final[Mapping[str, Any]] = {
    "type": "string",
    "minLength": 1,
    "maxLength": IDEMPOTENCY_KEY_CHARACTERS_MAX,
    "pattern": "^[!-~]([ -~]*[!-~])?$",
}


def document(operations: Sequence[Operation], settings: Settings) -> dict[str, Any]:
    """Return the OpenAPI 3.1 document of these operations.

    A response's field that defaults to None is described as left out, never null: responses omit their defaults.
    """
    bodies = {op.body for op in operations if op.body is not None}
    structs = bodies | {ErrorBody} | {op.returns for op in operations if op.returns is not None}
    _, components = _schemas(structs)
    for body in bodies:
        components[body.__name__]["additionalProperties"] = False
    for name in components.keys() - {body.__name__ for body in bodies}:
        fields = components[name].get("properties", {})
        fields.update({field: _without_null(schema) for field, schema in fields.items()})
    cookie = cookie_name(is_https=settings.is_https)
    paths: dict[str, dict[str, Any]] = {}
    for op in operations:
        paths.setdefault(op.path, {})[op.method.lower()] = _operation(op)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "AdmitOne",
            "version": admitone.__version__,
            "summary": admitone.__doc__,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": settings.public_origin}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"session": {"type": "apiKey", "in": "cookie", "name": cookie}},
        },
    }


def _schemas(types: Iterable[Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the JSON schemas of types, and of the structs they refer to by name."""
    schemas, components = msgspec.json.schema_components(sorted(types, key=str), ref_template=_SCHEMA_PATH)
    for component in components.values():
        if "description" in component:
            component["description"] = " ".join(component["description"].split())
    _show_decimals_as_numbers(components)
    return list(schemas), components


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


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a field that is absent rather than null if it defaults to None."""
    if schema.get("default", ...) is None and "anyOf" in schema:
        [kind] = [each for each in schema["anyOf"] if each != {"type": "null"}]
        description = {"description": schema["description"]} if "description" in schema else {}
        return {**kind, **description}
    return schema


def _operation(op: Operation) -> dict[str, Any]:
    summary, _, description = (op.use_case.__doc__ or "").strip().partition("\n")
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
    [schema], _ = _schemas([struct])
    return schema


def _path_parameters(op: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}}
        for name in re.findall(r"{(\w+)}", op.path)
    ]


def _query_parameters(op: Operation) -> list[dict[str, Any]]:
    if op.query is None:
        return []
    _, components = _schemas([op.query])
    schema = components[op.query.__name__]
    parameters = []
    for name, field in schema["properties"].items():
        described = dict(_without_null(field))
        parameter = {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": described}
        if description := described.pop("description", None):
            parameter["description"] = description
        parameters.append(parameter)
    return parameters


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
        if "response" in op.examples:
            content["example"] = op.examples["response"]
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
        found += [errors.Invalid, errors.NotInTime, errors.BodyTooLarge, errors.UnsupportedMediaType]
    if op.raw_body:
        found += [errors.NotInTime, errors.BodyTooLarge]
    if op.query is not None:
        found.append(errors.Invalid)
    if "{" in op.path:
        found.append(errors.NotFound)
    if op.idempotent:
        found += [errors.Invalid, errors.IdempotencyKeyReused]
    if op.method not in {"GET", "HEAD"}:
        found.append(errors.Forbidden)
    return [*found, errors.Unavailable]


def routes(operations: Sequence[Operation], settings: Settings) -> list[Route]:
    """Return the routes of the document and of its readable page, which are made for their first request."""

    @cache
    def rendered() -> tuple[bytes, str]:
        described = document(operations, settings)
        encoded = msgspec.json.format(msgspec.json.encode(described), indent=1)
        template = resources.files("admitone.kernel.http").joinpath("openapi.html").read_text()
        page = jinja2.Template(template, autoescape=True, trim_blocks=True, lstrip_blocks=True).render(described)
        return encoded, page

    async def show_document(_request: HttpRequest) -> HttpResponse:
        encoded, _ = await asyncio.to_thread(rendered)
        return HttpResponse(encoded, media_type="application/json")

    async def show_page(_request: HttpRequest) -> HttpResponse:
        _, page = await asyncio.to_thread(rendered)
        return HTMLResponse(page)

    return [
        Route("/api/openapi.json", show_document, methods=["GET"]),
        Route("/api", show_page, methods=["GET"]),
    ]
