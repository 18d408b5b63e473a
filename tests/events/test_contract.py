"""The contract of every event: messages equal the golden files, and every version ever shipped stays readable.

`golden/<Event>.json` is the whole message as it is published now. When a field is added, the previous file is kept as
`golden/<Event>-1.json` (then `-2`, …), and current code must still read it. A golden file is never edited.
"""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from admitone import catalogue, registry
from admitone.kernel.messaging.event import Event, event_types, subject_of, unwrap, wrap

GOLDEN = Path(__file__).parent / "golden"
DOCS = Path(__file__).parents[2] / "docs"
FILES = sorted(GOLDEN.glob("*.json"))
EVENTS = {each.__name__: each for each in catalogue.shipped()}


def name_of(file: Path) -> str:
    return file.stem.partition("-")[0]


def read(file: Path) -> dict[str, Any]:
    message: dict[str, Any] = json.loads(file.read_text())
    return message


def written_again(message: bytes) -> dict[str, Any]:
    """Return what current code writes after reading a message."""
    envelope, event = unwrap(message)
    traceparent = envelope.traceparent or None
    again = wrap(
        envelope.id, event.producer, envelope.type, event.aggregate, envelope.time, event.encode(), traceparent
    )
    written: dict[str, Any] = json.loads(again)
    return written


def test_every_event_has_a_golden_file_and_the_reverse() -> None:
    assert {file.stem for file in FILES if "-" not in file.stem} == set(EVENTS)
    assert {name_of(file) for file in FILES} == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_g08_an_event_is_written_exactly_as_its_golden_file(name: str) -> None:
    golden = read(GOLDEN / f"{name}.json")
    assert written_again(json.dumps(golden).encode()) == golden
    fields = [each.encode_name for each in msgspec.structs.fields(EVENTS[name])]
    assert list(golden["data"]) == fields, "the golden file shows every field, in order"


def _has_all(written: object, golden: object) -> bool:
    if isinstance(written, dict) and isinstance(golden, dict):
        return all(name in written and _has_all(written[name], each) for name, each in golden.items())
    return written == golden


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_shipped_version_is_read_without_losing_a_field(file: Path) -> None:
    golden = read(file)
    written = written_again(file.read_bytes())
    assert _has_all(written["data"], golden["data"]), "fields are only ever added"
    for attribute in ("id", "source", "type", "subject", "time", "specversion", "datacontenttype"):
        assert written[attribute] == golden[attribute]


@pytest.mark.parametrize("name", EVENTS)
def test_fields_that_a_later_version_adds_are_ignored(name: str) -> None:
    golden = read(GOLDEN / f"{name}.json")
    later = {**golden, "partitionkey": "7", "data": {**golden["data"], "addedLater": {"deep": [1]}}}
    assert unwrap(json.dumps(later).encode())[1] == unwrap(json.dumps(golden).encode())[1]


@pytest.mark.parametrize("name", EVENTS)
def test_a_field_with_a_default_may_be_absent_and_no_other(name: str) -> None:
    """The default is what an older producer means by omitting the field."""
    golden = read(GOLDEN / f"{name}.json")
    optional = {each.encode_name for each in msgspec.structs.fields(EVENTS[name]) if not each.required}
    bare = {key: value for key, value in golden["data"].items() if key not in optional}
    unwrap(json.dumps({**golden, "data": bare}).encode())
    oldest = min(
        (file for file in FILES if name_of(file) == name), key=lambda file: (len(file.stem) == len(name), file)
    )
    assert set(read(oldest)["data"]) >= set(bare), "a field added later needs a default"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_message_is_a_cloud_event(file: Path) -> None:
    """Source: CloudEvents 1.0.2, §3.1 (required attributes and their types)."""
    golden = read(file)
    event = EVENTS[name_of(file)]
    assert golden["specversion"] == "1.0"
    assert golden["source"] == f"/admitone/{event.producer}"
    assert golden["type"] == event.__name__
    assert golden["dataschema"].startswith(f"/events/{event.__name__}/")
    assert all(key.isascii() and key.isalnum() and key == key.lower() for key in golden)
    assert golden["time"].endswith("Z")
    assert golden["subject"] in golden["data"].values()


def test_every_event_is_published_by_its_producer_and_no_other_service() -> None:
    publishers = {event: service.name for service in registry.SERVICES for event in service.publications}
    assert {event.__name__: service for event, service in publishers.items()} == {
        name: event.producer for name, event in EVENTS.items()
    }
    assert sum(len(service.publications) for service in registry.SERVICES) == len(EVENTS)


def test_every_consumed_event_exists_and_is_published_by_a_service() -> None:
    published = {event for service in registry.SERVICES for event in service.publications}
    for service in registry.SERVICES:
        for consumed in service.subscriptions:
            assert consumed in EVENTS.values()
            assert consumed in published, f"{service.name} consumes {consumed.__name__}, which no service publishes"


def test_every_event_of_a_versioned_aggregate_has_its_version() -> None:
    """It guards replicas: each event carries the aggregate's version after the change."""
    for event in EVENTS.values():
        if event.aggregate_field == "id" and event.producer in {"auth", "tickets", "orders"}:
            assert "version" in {each.name for each in msgspec.structs.fields(event)}, event.__name__


def test_no_event_carries_a_float() -> None:
    assert '"number"' not in (DOCS / "asyncapi.json").read_text()


def test_every_golden_message_is_far_smaller_than_the_bus_allows() -> None:
    assert max(file.stat().st_size for file in FILES) < 4096


def test_the_committed_catalogue_is_current(tmp_path: Path) -> None:
    """When this fails: `python -m admitone.catalogue docs`."""
    catalogue.write(tmp_path)
    for made in sorted(tmp_path.iterdir()):
        assert (DOCS / made.name).read_text() == made.read_text(), f"docs/{made.name} is out of date"


def test_the_asyncapi_document_is_complete() -> None:
    """Source: AsyncAPI 3.0.0, structure of channels, operations, messages and references."""
    document = json.loads((DOCS / "asyncapi.json").read_text())
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    assert {each["address"] for each in document["channels"].values()} == {subject_of(each) for each in EVENTS.values()}
    for operation in document["operations"].values():
        assert operation["action"] in {"send", "receive"}
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]
    for reference in references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]
        assert isinstance(found, dict)


def test_every_golden_message_fits_its_schema_in_the_asyncapi_document() -> None:
    schemas = json.loads((DOCS / "asyncapi.json").read_text())["components"]
    for name in EVENTS:
        golden = read(GOLDEN / f"{name}.json")
        payload = schemas["messages"][name]["payload"]
        assert set(payload["required"]) <= golden.keys() <= payload["properties"].keys()
        for attribute, schema in payload["properties"].items():
            assert golden[attribute] == schema.get("const", golden[attribute])
        data = schemas["schemas"][name]
        assert set(data["required"]) <= golden["data"].keys() <= data["properties"].keys()


def references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if "$ref" in value else []
        return own + [found for each in value.values() for found in references(each)]
    if isinstance(value, list):
        return [found for each in value for found in references(each)]
    return []


def test_every_event_is_registered_and_documented() -> None:
    for name, event in EVENTS.items():
        assert issubclass(event, Event)
        assert event_types()[name] is event
        assert event.__doc__
        assert event.schema_version >= 1
