"""Stripe's form of responses and events, which everything that the sandbox returns in tests must have.

`make_schema.mjs` derives it from Stripe's own package for Node.js.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

import jsonschema_rs

SCHEMA: Final = json.loads(Path(__file__).with_name("schema.json").read_text())


def violations(body: dict[str, Any]) -> list[str]:
    """Return in what the body of a response, or an event, differs from Stripe's."""
    if "error" in body:
        return _differences("error", body["error"])
    found = _differences(body["type"] if body["object"] == "event" else body["object"], body)
    if body["object"] in {"list", "search_result"}:
        found += [each for element in body["data"] for each in violations(element)]
    return found


def _differences(name: str, value: dict[str, Any]) -> list[str]:
    if name not in SCHEMA["bodies"]:
        return [f"{name} is not in schema.json: add it to make_schema.mjs if Stripe has it"]
    return [
        f"{'.'.join(str(part) for part in (name, *error.instance_path))}: {error.message}"
        for error in _validator(name).iter_errors(value)
    ]


@cache
def _validator(name: str) -> Any:
    return jsonschema_rs.validator_for({**SCHEMA["bodies"][name], "$defs": SCHEMA["$defs"]})
