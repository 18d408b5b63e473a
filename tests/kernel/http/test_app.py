"""The HTTP edge: one error body, safe headers and an answer, whatever comes in."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.errors import Conflict
from admitone.kernel.http import openapi, parsing
from admitone.kernel.http.idempotency import request_hash, store_response, stored_response
from admitone.kernel.http.operations import CREATED, OK, Request, Response, operation
from admitone.kernel.http.parsing import Rule
from admitone.kernel.ids import new_id
from admitone.kernel.runner import App, MigrationsMissing
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from tests import engines
from tests.kernel.support import NoteWritten
from tests.support import StartNats, app_of, messages_of, running_app, set_token, settings_for, signed_in, told_by


class NoteTorn(Conflict):
    """Somebody tore the note up"""


class NewNote(msgspec.Struct, rename="camel"):
    """A note to write."""

    text: Annotated[str, msgspec.Meta(description="What it says"), Rule("Text is required", parsing.line(50, 1))]


class NoteSearch(msgspec.Struct):
    """What notes to show."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100), Rule("Limit must be 1 to 100", parsing.whole_number(1, 100))] = 20


class ShownNote(msgspec.Struct, rename="camel"):
    """A note."""

    id: UUID
    text: str


@operation(
    "POST",
    "/api/notes",
    status=CREATED,
    body=NewNote,
    returns=ShownNote,
    raises=(NoteTorn,),
    signed_in=True,
    idempotent=True,
)
async def write_note(call: Request[NewNote]) -> Response:
    """Write a note"""
    request = request_hash("POST /api/notes", call.body)
    async with call.db.transaction() as tx:
        if given := await stored_response(tx, call.person.id, call.idempotency_key, request):
            return given
        if call.body.text == "torn":
            raise NoteTorn
        note = NoteWritten(id=new_id(), text=call.body.text)
        tx.publish(note)
        answer = Response(CREATED, ShownNote(note.id, note.text))
        return await store_response(tx, call.person.id, call.idempotency_key, request, answer)


@operation("GET", "/api/notes", query=NoteSearch, returns=ShownNote)
async def list_notes(call: Request[None]) -> Response:
    """Show some notes"""
    return Response(OK, {"limit": call.query.limit})


@operation("GET", "/api/notes/{id}", returns=ShownNote)
async def show_note(call: Request[None]) -> Response:
    """Show a note"""
    return Response(OK, ShownNote(call.id(), "found"))


@operation("GET", "/api/notes/broken/now")
async def broken(call: Request[None]) -> Response:
    """Fail"""
    raise ZeroDivisionError("secret detail")


@operation("GET", "/api/notes/slow/now")
async def slow(call: Request[None]) -> Response:
    """Ask the database for too much"""
    await call.db.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)")
    return Response(OK)


async def plain_page(request: Request) -> PlainTextResponse:
    return PlainTextResponse("a page", headers={"content-security-policy": "default-src 'self'"})


def pages(_running: RunningService[Any]) -> list[Route]:
    return [Route("/page", plain_page)]


ALPHA = Service(
    "alpha",
    operations=[write_note, list_notes, show_note, broken, slow],
    publications=[NoteWritten],
    pages=pages,
)


@pytest_asyncio.fixture
async def app(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[App]:
    async with running_app(databases, start_nats, ALPHA, AUTH) as running:
        yield running


def error_of(answer: httpx.Response) -> tuple[int, list[tuple[str, str | None]]]:
    return answer.status_code, messages_of(answer)


def demand_safe_headers(answer: httpx.Response) -> None:
    headers = answer.headers
    assert "default-src" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    for name in ("content-security-policy", "cache-control"):
        assert len(headers.get_list(name)) == 1


async def test_g16_every_answer_is_the_one_error_body_with_safe_headers(app: App) -> None:
    async with app.client() as bob:
        expected = {
            ("GET", "/api/nowhere"): 404,
            ("GET", "/api/notes/"): 404,
            ("GET", "/api/notes/not-an-id"): 404,
            ("GET", "/api/notes?limit=0"): 400,
            ("GET", "/api/notes?limit=1&limit=2"): 400,
            ("GET", "/api/notes?limit=%ff"): 400,
            ("GET", "/api/notes?" + "&".join(f"x{n}=1" for n in range(30))): 400,
            ("PATCH", "/api/notes"): 405,
            ("POST", "/api/notes/" + str(new_id())): 405,
            ("POST", "/health/live"): 405,
            ("DELETE", "/api/openapi.json"): 405,
            ("POST", "/page"): 405,
            ("POST", "/api/notes"): 401,
            ("GET", "/api/notes/broken/now"): 500,
            ("GET", "/api/notes/slow/now"): 503,
        }
        for (method, path), status in expected.items():
            answer = await bob.request(method, path)
            assert answer.status_code == status, (method, path, answer.text)
            assert messages_of(answer)
            assert answer.headers["content-type"] == "application/json"
            assert "secret detail" not in answer.text
            demand_safe_headers(answer)
        for path in ("/health/live", "/health/ready", "/api/openapi.json", "/api", "/page", f"/api/notes/{new_id()}"):
            answer = await bob.get(path)
            assert answer.status_code == 200, (path, answer.text)
            demand_safe_headers(answer)
        assert (await bob.get("/page")).headers["content-security-policy"] == "default-src 'self'"
        assert (await bob.get("/api/notes/slow/now")).headers["retry-after"] == "1"


async def test_g16_a_wrong_method_names_the_right_ones(app: App) -> None:
    async with app.client() as bob:
        for path, allowed in (("/api/notes", {"GET", "POST"}), ("/health/live", {"GET"}), ("/page", {"GET", "HEAD"})):
            answer = await bob.delete(path)
            assert answer.status_code == 405
            assert set(answer.headers["allow"].split(", ")) - {"HEAD"} == allowed - {"HEAD"}


async def test_https_is_demanded_of_browsers_only_where_it_is_served(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    origin = "https://tickets.example"
    async with running_app(databases, start_nats, ALPHA, AUTH, origin=origin) as app, app.client() as bob:
        assert "max-age=31536000" in (await bob.get("/health/live")).headers["strict-transport-security"]
        assert (await bob.post("/api/notes", headers={"origin": origin})).status_code == 401


async def test_plain_http_announces_no_transport_security(app: App) -> None:
    async with app.client() as bob:
        assert "strict-transport-security" not in (await bob.get("/health/live")).headers


ORIGINS = [
    ({}, False),
    ({"sec-fetch-site": "same-origin"}, False),
    ({"sec-fetch-site": "none"}, False),
    ({"sec-fetch-site": "cross-site"}, True),
    ({"sec-fetch-site": "same-site"}, True),
    ({"sec-fetch-site": ""}, True),
    ({"sec-fetch-site": "cross-site", "origin": "http://127.0.0.1:8000"}, True),
    ({"origin": "http://127.0.0.1:8000"}, False),
    ({"origin": "http://evil.example"}, True),
    ({"origin": "null"}, True),
    ({"origin": "null", "host": ""}, True),
    ({"origin": ""}, True),
    ({"origin": "http://127.0.0.1:8000.evil.example"}, True),
    ({"origin": "http://other.example", "host": "other.example"}, False),
]


async def test_a_request_from_another_site_changes_nothing(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        for headers, is_refused in ORIGINS:
            before = len(await told_by(app, "alpha"))
            answer = await alice.post("/api/notes", json={"text": "hello"}, headers=headers)
            assert answer.status_code == (403 if is_refused else 201), headers
            assert len(await told_by(app, "alpha")) - before == (0 if is_refused else 1)
            assert (await alice.get("/api/notes", headers=headers)).status_code == 200


CONTENT_TYPES = [
    ("application/json", 201),
    ("application/json; charset=utf-8", 201),
    ("Application/JSON", 201),
    ("text/plain", 415),
    ("application/x-www-form-urlencoded", 415),
    ("multipart/form-data", 415),
    ("application/jsonp", 415),
    ("", 415),
]


async def test_only_json_is_read(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        for content_type, status in CONTENT_TYPES:
            answer = await alice.post(
                "/api/notes", content=b'{"text": "hello"}', headers={"content-type": content_type}
            )
            assert answer.status_code == status, content_type


async def test_a_large_body_is_refused_as_soon_as_it_is_too_large(app: App) -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(1000):
            read += 1024
            yield b" " * 1024

    json_headers = {"content-type": "application/json"}
    async with signed_in(app, "alice") as alice:
        streamed = await alice.post("/api/notes", content=endless(), headers=json_headers)
        for announced in ("99999", "9" * 5000, "70000"):
            answer = await alice.post(
                "/api/notes", content=b"{}", headers={**json_headers, "content-length": announced}
            )
            assert error_of(answer) == (413, [("The body is larger than 64 KiB", None)])
        fits = await alice.post("/api/notes", content=b'{"text": "x"}'.ljust(64 * 1024), headers=json_headers)
        too_large = await alice.post("/api/notes", content=b'{"text": "x"}'.ljust(64 * 1024 + 1), headers=json_headers)
    assert streamed.status_code == 413
    assert fits.status_code == 201
    assert too_large.status_code == 413


async def test_a_refused_request_tells_nothing(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        answer = await alice.post("/api/notes", json={"text": "torn"})
    assert error_of(answer) == (409, [("Somebody tore the note up", None)])
    assert await told_by(app, "alpha") == []


# Answers given once.


async def test_more_than_can_be_served_soon_is_refused_at_once_and_nothing_else_is(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    gate = asyncio.Event()

    @operation("GET", "/api/notes/held")
    async def held(_call: Request[None]) -> Response:
        """Wait"""
        await gate.wait()
        return Response(OK)

    service = Service("alpha", operations=[held, list_notes])
    async with running_app(databases, start_nats, service, AUTH) as app, app.client() as client:
        waiting = {asyncio.create_task(client.get("/api/notes/held")) for _ in range(2000)}
        refused: set[asyncio.Task[httpx.Response]] = set()
        while len(waiting) > 1500:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            refused |= done
        assert {(each.result().status_code, each.result().headers["retry-after"]) for each in refused} == {(503, "1")}
        assert (await client.get("/api/notes")).status_code == 200
        gate.set()
        served, _ = await asyncio.wait(waiting)
        assert {each.result().status_code for each in served} == {200}
        assert len(served) == 1500
        assert (await client.get("/api/notes/held")).status_code == 200


async def test_the_same_key_at_the_same_time_has_one_effect_and_one_answer(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        headers = {"idempotency-key": "one"}
        answers = await asyncio.gather(
            *(alice.post("/api/notes", json={"text": "hello"}, headers=headers) for _ in range(8))
        )
    assert {answer.status_code for answer in answers} <= {201, 503}
    assert len({answer.text for answer in answers if answer.status_code == 201}) == 1
    assert len(await told_by(app, "alpha")) == 1


async def test_a_key_used_for_another_body_is_refused(app: App) -> None:
    async with signed_in(app, "alice") as alice, signed_in(app, "bob") as bob:
        headers = {"idempotency-key": "one"}
        first = await alice.post("/api/notes", json={"text": "hello"}, headers=headers)
        reordered = await alice.post(
            "/api/notes", content=b' {"text" : "hello"}', headers={**headers, "content-type": "application/json"}
        )
        other = await alice.post("/api/notes", json={"text": "goodbye"}, headers=headers)
        bobs = await bob.post("/api/notes", json={"text": "goodbye"}, headers=headers)
    assert first.text == reordered.text
    assert error_of(other) == (422, [("This Idempotency-Key was used for a different request", None)])
    assert bobs.status_code == 201, "a key is its caller's own"
    assert len(await told_by(app, "alpha")) == 2


async def test_a_refusal_is_not_kept_under_a_key(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        headers = {"idempotency-key": "one"}
        assert (await alice.post("/api/notes", json={"text": "torn"}, headers=headers)).status_code == 409
        assert (await alice.post("/api/notes", json={"text": "whole"}, headers=headers)).status_code == 201


async def test_a_key_of_invisible_or_too_many_characters_is_refused(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        for key in ("", "x" * 256, "ümlaut", "tab\there"):
            headers = [(b"idempotency-key", key.encode("latin-1"))]
            answer = await alice.post("/api/notes", json={"text": "hello"}, headers=headers)
            assert error_of(answer) == (400, [("Idempotency-Key must be 1 to 255 visible characters", None)])
    assert await told_by(app, "alpha") == []


# Sessions.


def forged(header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes = b"{}") -> str:
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "c2ln"])


NO_TOKENS = [
    "x",
    "..",
    "a.b.c",
    "x" * 5000,
    forged(b"[" * 1400),
    forged({"alg": "none", "typ": "at+jwt", "kid": "x"}),
    forged({"alg": "HS256", "typ": "at+jwt", "kid": "x"}),
    forged({"alg": "EdDSA", "typ": "JWT", "kid": "x"}),
    forged({"alg": "EdDSA", "typ": "at+jwt", "kid": ["x"]}),
    forged({"alg": "EdDSA", "typ": "at+jwt", "kid": "unknown"}),
    forged({"alg": "EdDSA", "typ": "at+jwt"}),
    forged(b"[]"),
    forged(b"\xff"),
]


async def test_g03_what_is_no_token_signs_nobody_in(app: App) -> None:
    async with app.client() as mallory:
        for token in NO_TOKENS:
            set_token(mallory, token)
            answer = await mallory.post("/api/notes", json={"text": "x"})
            assert error_of(answer) == (401, [("Not authorized", None)]), token[:40]


async def test_g03_a_token_with_any_part_changed_signs_nobody_in(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        token = alice.cookies["session"]
        assert (await alice.post("/api/notes", json={"text": "x"})).status_code == 201
    head, body, signature = token.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    swapped = base64.urlsafe_b64encode(json.dumps({**claims, "sub": str(new_id())}).encode()).decode().rstrip("=")
    for changed in (f"{head}.{swapped}.{signature}", f"{head}.{body}.{'A' * len(signature)}", f"{head}.{body}."):
        async with app.client() as mallory:
            set_token(mallory, changed)
            assert (await mallory.post("/api/notes", json={"text": "x"})).status_code == 401


# Health, and the document.


async def test_a_service_starts_and_is_ready_without_the_bus_and_outdated_tables_are_refused(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    settings = await settings_for(databases, start_nats, ALPHA, AUTH)
    without_bus = msgspec.structs.replace(
        settings, nats_urls=dict.fromkeys(settings.nats_urls, "nats://alpha:wrong@127.0.0.1:9")
    )
    async with app_of([ALPHA, AUTH], without_bus) as app, signed_in(app, "alice") as alice:
        assert (await alice.post("/api/notes", json={"text": "kept"})).status_code == 201
        assert (await alice.get("/health/ready")).status_code == 200
        assert await told_by(app, "alpha")
        app.stopping()
        assert (await alice.get("/health/ready")).status_code == 503
        assert (await alice.get("/health/live")).status_code == 200


def test_the_openapi_document_is_whole() -> None:
    document = openapi.document(ALPHA.operations, Settings())
    encoded = json.loads(msgspec.json.encode(document))

    assert encoded["openapi"].startswith("3.1")
    schemas = encoded["components"]["schemas"]
    for reference in re.findall(r'"\$ref": "([^"]+)"', json.dumps(encoded)):
        assert reference.removeprefix("#/components/schemas/") in schemas
    seen = set()
    for path, methods in encoded["paths"].items():
        for method, described in methods.items():
            assert method in {"get", "post", "put", "patch", "delete"}
            assert described["operationId"] not in seen
            seen.add(described["operationId"])
            in_path = {each["name"] for each in described["parameters"] if each["in"] == "path"}
            assert in_path == set(re.findall(r"{(\w+)}", path))
            for status, response in described["responses"].items():
                assert re.fullmatch(r"[1-5]\d\d", status)
                assert response["description"]
            assert {"503"} <= described["responses"].keys()
    writing = encoded["paths"]["/api/notes"]["post"]
    assert set(writing["responses"]) >= {"201", "400", "401", "403", "409", "413", "415", "422", "503"}
    assert "Somebody tore the note up" in writing["responses"]["409"]["description"]
    assert writing["security"] == [{"session": []}]
    assert schemas["NewNote"]["additionalProperties"] is False
    [limit] = encoded["paths"]["/api/notes"]["get"]["parameters"]
    assert limit["schema"]["maximum"] == 100


async def test_one_outdated_database_ends_the_start_of_all_at_once(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    """The other service's database is away: alone, it would be waited for."""
    settings = await settings_for(databases, start_nats, ALPHA, AUTH)
    urls = {**settings.database_urls, "auth": "postgresql://auth:x@127.0.0.1:9/auth"}
    outdated = await databases.fresh("alpha")
    owner = await asyncpg.connect(outdated.migrator_url)
    await owner.execute("DELETE FROM applied_migration WHERE name = 'kernel/0002_outbox.sql'")
    await owner.close()
    app = app_of([ALPHA, AUTH], msgspec.structs.replace(settings, database_urls={**urls, "alpha": outdated.url}))
    before = asyncio.all_tasks()
    with pytest.raises(MigrationsMissing, match="alpha: the database lacks kernel/0002_outbox"):
        async with app:
            pass
    assert asyncio.all_tasks() == before
