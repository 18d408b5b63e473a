"""A made-up service with an HTTP API for notes."""

import base64
import json
from typing import Annotated, Any
from uuid import UUID

import httpx
import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from admitone.kernel.errors import Conflict
from admitone.kernel.http import parsing
from admitone.kernel.http.idempotency import request_hash, store_response, stored_response
from admitone.kernel.http.operations import CREATED, OK, Request, Response, operation
from admitone.kernel.http.parsing import Rule
from admitone.kernel.ids import new_id
from admitone.kernel.running import RunningService
from admitone.kernel.service import Service
from tests.kernel.support import NoteWritten
from tests.support import messages_of


class NoteTorn(Conflict):
    """Somebody tore the note up"""


class NewNote(msgspec.Struct, rename="camel"):
    """A note to write."""

    text: Annotated[str, msgspec.Meta(description="What it says"), Rule("Text is required", parsing.line(50, 1))]


class NoteSearch(msgspec.Struct):
    """Which notes to show."""

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
async def write_note(request: Request[NewNote, None]) -> Response:
    """Write a note"""
    hashed = request_hash("POST /api/notes", request.input)
    async with request.db.transaction() as tx:
        if stored := await stored_response(tx, request.user.id, request.idempotency_key, hashed):
            return stored
        if request.input.text == "torn":
            raise NoteTorn
        note = NoteWritten(id=new_id(), text=request.input.text)
        tx.publish(note)
        response = Response(CREATED, ShownNote(note.id, note.text))
        return await store_response(tx, request.user.id, request.idempotency_key, hashed, response)


@operation("GET", "/api/notes", query=NoteSearch, returns=ShownNote)
async def list_notes(request: Request[NoteSearch, None]) -> Response:
    """Show some notes"""
    return Response(OK, {"limit": request.input.limit})


@operation("GET", "/api/notes/{id}", returns=ShownNote)
async def show_note(request: Request[None, None]) -> Response:
    """Show a note"""
    return Response(OK, ShownNote(request.id(), "found"))


@operation("GET", "/api/notes/broken/now")
async def broken(_request: Request[None, None]) -> Response:
    """Fail"""
    raise ZeroDivisionError("secret detail")


@operation("GET", "/api/notes/slow/now")
async def slow(request: Request[None, None]) -> Response:
    """Run a statement that takes too long"""
    await request.db.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(5)")
    return Response(OK)


async def plain_page(_request: HttpRequest) -> PlainTextResponse:
    return PlainTextResponse("a page", headers={"content-security-policy": "default-src 'self'"})


def pages(_service: RunningService[None]) -> list[Route]:
    return [Route("/page", plain_page)]


ALPHA = Service(
    "alpha",
    operations=[write_note, list_notes, show_note, broken, slow],
    publications=[NoteWritten],
    pages=pages,
)


def error_of(response: httpx.Response) -> tuple[int, list[tuple[str, str | None]]]:
    return response.status_code, messages_of(response)


def forged(header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes = b"{}") -> str:
    """Return a token with these parts and a signature that is none."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, payload))
    return ".".join([*(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts), "c2ln"])
