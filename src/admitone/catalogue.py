"""Generates the catalogue of events, for people (`docs/events.md`) and for programs (`docs/asyncapi.json`).

`python -m admitone.catalogue docs` writes both into a folder.
"""

import sys
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from admitone import __version__, events, registry
from admitone.kernel.messaging.event import Envelope, Event, event_types, subject_of

_PAGE: Final = "events.md"
_DOCUMENT: Final = "asyncapi.json"
_SCHEMA_PATH: Final = "#/components/schemas/{name}"
_CONTENT_TYPE: Final = "application/cloudevents+json"

_INTRODUCTION: Final = """\
# Events

Every event that services publish. This page is generated from `src/admitone/events.py` and the services' declarations
by `python -m admitone.catalogue docs`; `docs/asyncapi.json` is the same for programs.

An event travels as JSON in a [CloudEvents 1.0](https://github.com/cloudevents/spec) envelope: `id` (the same for every
delivery), `source`, `type`, `subject` (the aggregate's id), `time` (of the change, by the producer's database),
`dataschema` (type and version) and `traceparent`. The event's fields are in `data`. Fields are only ever added, with
defaults; consumers ignore fields they do not know.

Each producer has one stream, named after it; each subscribing service has one durable consumer on that stream. An event
can arrive more than once and out of order. The consuming transaction records its id, so it has one effect; `version`
counts an aggregate's changes, so that consumers recognise older ones. The web pages watch all events in order to
refresh themselves; they store nothing.
"""


def shipped() -> list[type[Event]]:
    """Return every event of the marketplace, in the order of `events.py`."""
    return [each for each in event_types().values() if each.__module__ == events.__name__]


def subscribers(event: type[Event]) -> list[str]:
    """Return the names of the services that have a handler for an event."""
    return [each.name for each in registry.SERVICES if event in each.subscriptions]


def watchers() -> list[str]:
    """Return the names of the services that watch all events as they are published, and store nothing."""
    return [each.name for each in registry.SERVICES if not each.has_database]


def page() -> str:
    """Return the Markdown page."""
    parts = [_INTRODUCTION]
    for producer in dict.fromkeys(each.producer for each in shipped()):
        parts.append(f"## {producer}\n")
        parts += [_section(each) for each in shipped() if each.producer == producer]
    return "\n".join(parts)


def _section(event: type[Event]) -> str:
    assert event.__doc__
    schema = _schemas()[event.__name__]
    rows = "".join(
        f"| `{name}` | {_type_of(field)} | {_default_of(name, field, schema)} |\n"
        for name, field in schema["properties"].items()
    )
    consumers = ", ".join(subscribers(event)) or "no service"
    return (
        f"### {event.__name__}\n\n{event.__doc__.strip()}\n\n"
        f"Subject `{subject_of(event)}` · schema version {event.schema_version} · consumed by {consumers}\n\n"
        f"| Field | Type | Default |\n|---|---|---|\n{rows}"
    )


def _type_of(field: dict[str, Any]) -> str:
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[-1]
        inner = ", ".join(f"`{key}` {_type_of(value)}" for key, value in _schemas()[name]["properties"].items())
        return f"object: {inner}"
    if "anyOf" in field:
        return " or ".join(_type_of(each) for each in field["anyOf"])
    if "enum" in field:
        return " or ".join(f"`{each}`" for each in field["enum"])
    return str(field.get("format", field["type"]))


def _default_of(name: str, field: dict[str, Any], schema: dict[str, Any]) -> str:
    return "" if name in schema.get("required", ()) else f"`{msgspec.json.encode(field.get('default')).decode()}`"


def _schemas() -> dict[str, Any]:
    _, schemas = msgspec.json.schema_components(shipped(), ref_template=_SCHEMA_PATH)
    for event in shipped():
        for field in msgspec.structs.fields(event):
            if field.type is datetime:
                schemas[event.__name__]["properties"][field.encode_name]["format"] = "date-time"
    return schemas


def document() -> dict[str, Any]:
    """Return the AsyncAPI 3.0 document.

    Source: AsyncAPI specification 3.0.0; `send` and `receive` are from the point of view of the marketplace's services.
    """
    published = shipped()
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "AdmitOne's events",
            "version": __version__,
            "description": "The events that the services of the marketplace publish on NATS JetStream.",
            "license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
        },
        "defaultContentType": _CONTENT_TYPE,
        "channels": {each.__name__: _channel(each) for each in published},
        "operations": dict(operation for each in published for operation in _operations(each)),
        "components": {"messages": {each.__name__: _message(each) for each in published}, "schemas": _schemas()},
    }


def _channel(event: type[Event]) -> dict[str, Any]:
    return {
        "address": subject_of(event),
        "messages": {event.__name__: {"$ref": f"#/components/messages/{event.__name__}"}},
    }


def _operations(event: type[Event]) -> list[tuple[str, dict[str, Any]]]:
    def operation(service: str, verb: str, action: str) -> tuple[str, dict[str, Any]]:
        channel = {"$ref": f"#/channels/{event.__name__}"}
        return f"{service}.{verb}.{event.__name__}", {"action": action, "channel": channel, "tags": [{"name": service}]}

    return [
        operation(event.producer, "publishes", "send"),
        *(operation(service, "consumes", "receive") for service in subscribers(event)),
    ]


def _message(event: type[Event]) -> dict[str, Any]:
    assert event.__doc__
    return {
        "name": event.__name__,
        "summary": event.__doc__.strip(),
        "contentType": _CONTENT_TYPE,
        "payload": _envelope(event),
    }


def _envelope(event: type[Event]) -> dict[str, Any]:
    """Return the schema of the whole message: the envelope, with what is fixed for this event and its data."""
    _, components = msgspec.json.schema_components([Envelope], ref_template=_SCHEMA_PATH)
    schema: dict[str, Any] = components["Envelope"]
    fixed = {
        "source": f"/admitone/{event.producer}",
        "type": event.__name__,
        "dataschema": f"/events/{event.__name__}/{event.schema_version}",
    }
    properties = schema["properties"] | {name: {"const": value} for name, value in fixed.items()}
    properties["data"] = {"$ref": _SCHEMA_PATH.format(name=event.__name__)}
    properties["time"] = {"type": "string", "format": "date-time"}
    return {"type": "object", "properties": properties, "required": [*schema["required"], "specversion"]}


def write(folder: Path) -> None:
    """Write the page and the document into a folder."""
    (folder / _PAGE).write_text(page())
    (folder / _DOCUMENT).write_bytes(msgspec.json.format(msgspec.json.encode(document()), indent=1) + b"\n")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
