"""The HTTP edge: one error body, safe headers and a response, whatever the request is."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx
import msgspec
import pytest
import pytest_asyncio

from admitone.auth.service import SERVICE as AUTH
from admitone.kernel.http import app as edge
from admitone.kernel.http.operations import OK, Request, Response, operation
from admitone.kernel.http.server import bind_socket, listen
from admitone.kernel.ids import new_id
from admitone.kernel.runner import App
from admitone.kernel.service import Service
from admitone.kernel.settings import Settings
from admitone.local.postgres import Postgres
from admitone.local.server import LOOPBACK, free_port
from tests import engines
from tests.kernel.http.support import ALPHA, error_of, list_notes
from tests.support import (
    StartNats,
    app_of,
    eventually,
    messages_of,
    published_by,
    running_app,
    settings_for,
    signed_in,
)


def assert_safe_headers(response: httpx.Response) -> None:
    headers = response.headers
    assert "default-src" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert "camera=()" in headers["permissions-policy"]
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers
    for name in ("content-security-policy", "cache-control"):
        assert len(headers.get_list(name)) == 1


async def test_g16_every_refusal_has_the_one_error_body_and_safe_headers(app: App) -> None:
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
            response = await bob.request(method, path)
            assert response.status_code == status, (method, path, response.text)
            assert messages_of(response)
            assert response.headers["content-type"] == "application/json"
            assert "secret detail" not in response.text
            assert_safe_headers(response)
        for path in ("/health/live", "/health/ready", "/api/openapi.json", "/api", "/page", f"/api/notes/{new_id()}"):
            response = await bob.get(path)
            assert response.status_code == 200, (path, response.text)
            assert_safe_headers(response)
        assert (await bob.get("/page")).headers["content-security-policy"] == "default-src 'self'"
        assert (await bob.get("/api/notes/slow/now")).headers["retry-after"] == "1"


async def test_g16_a_wrong_method_is_refused_with_the_allowed_ones(app: App) -> None:
    async with app.client() as bob:
        for path, allowed in (("/api/notes", {"GET", "POST"}), ("/health/live", {"GET"}), ("/page", {"GET", "HEAD"})):
            response = await bob.delete(path)
            assert response.status_code == 405
            assert set(response.headers["allow"].split(", ")) - {"HEAD"} == allowed - {"HEAD"}


async def test_https_has_strict_transport_security(databases: engines.Databases, start_nats: StartNats) -> None:
    origin = "https://tickets.example"
    async with running_app(databases, start_nats, ALPHA, AUTH, origin=origin) as app, app.client() as bob:
        assert "max-age=31536000" in (await bob.get("/health/live")).headers["strict-transport-security"]
        assert (await bob.post("/api/notes", headers={"origin": origin})).status_code == 401


async def test_plain_http_has_no_strict_transport_security(app: App) -> None:
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
    ({"origin": ""}, True),
    ({"origin": "http://127.0.0.1:8000.evil.example"}, True),
    ({"origin": "http://other.local", "host": "other.local"}, False),
]


async def test_a_request_from_another_site_changes_nothing(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        for headers, is_refused in ORIGINS:
            before = len(await published_by(app, "alpha"))
            response = await alice.post("/api/notes", json={"text": "hello"}, headers=headers)
            assert response.status_code == (403 if is_refused else 201), headers
            assert len(await published_by(app, "alpha")) - before == (0 if is_refused else 1)
            assert (await alice.get("/api/notes", headers=headers)).status_code == 200


HOSTS = [
    ("tickets.example", 200),
    ("TICKETS.example", 200),
    ("tickets.example:443", 200),
    ("127.0.0.1:8000", 200),
    ("localhost", 200),
    ("[::1]:8000", 200),
    ("10.1.2.3:8000", 200),
    ("evil.example", 421),
    ("tickets.example.evil.example", 421),
    ("evil.example:443", 421),
    ("198.51.100.1.evil.example", 421),
    ("8.8.8.8", 421),
    ("tickets.example@evil.example", 421),
    ("[", 421),
    ("", 421),
]


async def test_only_requests_for_the_public_host_are_accepted(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    origin = "https://tickets.example"
    async with running_app(databases, start_nats, ALPHA, AUTH, origin=origin) as app, app.client() as visitor:
        for host, status in HOSTS:
            response = await visitor.get("/api/notes", headers={"host": host})
            assert response.status_code == status, host
            assert_safe_headers(response)
            assert (await visitor.get("/health/live", headers={"host": host})).status_code == 200


LOCAL_HOSTS = [
    *[
        (host, 200)
        for host in ("my-machine:8000", "localhost", "192.168.1.5:8000", "203.0.113.5", "[2001:db8::1]:8000")
    ],
    *[(host, 200) for host in ("box.local", "a.b.localhost:8000", "box.home.arpa", "box.lan")],
    *[(host, 421) for host in ("evil.example", "evil.example:8000", "localhost.evil.example")],
    *[(host, 421) for host in ("", "a b", "<script>", "a/b", "evil@localhost", "localhost:x", "localhost:99999")],
]


async def test_without_a_public_host_only_names_that_nobody_can_register_are_accepted(app: App) -> None:
    async with app.client() as visitor:
        for host, status in LOCAL_HOSTS:
            response = await visitor.get("/api/notes", headers={"host": host})
            assert response.status_code == status, host


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


async def test_only_json_bodies_are_accepted(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        for content_type, status in CONTENT_TYPES:
            response = await alice.post(
                "/api/notes", content=b'{"text": "hello"}', headers={"content-type": content_type}
            )
            assert response.status_code == status, content_type


async def test_a_large_body_is_refused_as_soon_as_it_exceeds_the_limit(app: App) -> None:
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
            response = await alice.post(
                "/api/notes", content=b"{}", headers={**json_headers, "content-length": announced}
            )
            assert error_of(response) == (413, [("The body is larger than 64 KiB", None)])
        fits = await alice.post("/api/notes", content=b'{"text": "x"}'.ljust(64 * 1024), headers=json_headers)
        too_large = await alice.post("/api/notes", content=b'{"text": "x"}'.ljust(64 * 1024 + 1), headers=json_headers)
    assert streamed.status_code == 413
    assert fits.status_code == 201
    assert too_large.status_code == 413


async def test_a_refused_request_publishes_nothing(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        response = await alice.post("/api/notes", json={"text": "torn"})
    assert error_of(response) == (409, [("Somebody tore the note up", None)])
    assert await published_by(app, "alpha") == []


# Load shedding.


async def test_requests_beyond_the_limit_of_an_operation_are_refused_and_no_others(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    gate = asyncio.Event()

    @operation("GET", "/api/notes/held")
    async def held(_request: Request[None, None]) -> Response:
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


@dataclass
class Connection:
    """A connection to the server, on which requests are written by hand."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    head: str = ""

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self) -> tuple[int, bytes]:
        """Read one response; return its status and its body."""
        async with asyncio.timeout(30):
            self.head = (await self.reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(self.head.partition("content-length: ")[2].partition("\r\n")[0])
            return int(self.head.split()[1]), await self.reader.readexactly(length)

    async def is_closed(self) -> bool:
        async with asyncio.timeout(30):
            return await self.reader.read() == b""


@dataclass
class Busy:
    """A server with one operation, `/api/held`, that accepts two requests at once and ends them when `gate` opens."""

    port: int
    app: App
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    in_progress: int = 0

    async def is_at_its_limit(self) -> bool:
        return self.in_progress == 2

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Connection]:
        reader, writer = await asyncio.open_connection(LOOPBACK, self.port)
        try:
            yield Connection(reader, writer)
        finally:
            writer.close()

    @asynccontextmanager
    async def at_its_limit(self) -> AsyncIterator[None]:
        """Have two requests in progress during the block; both complete afterwards."""
        async with self.connected() as first, self.connected() as second:
            for each in (first, second):
                each.send(HELD)
            await eventually(self.is_at_its_limit, "two requests are in progress")
            yield
            self.gate.set()
            assert await first.response() == (200, b"")
            assert await second.response() == (200, b"")


HELD = b"POST /api/held HTTP/1.1\r\nhost: here\r\n\r\n"
HALF = b"POST /api/held HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n{"
OPEN = b"GET /api/open HTTP/1.1\r\nhost: here\r\n\r\n"
REFUSED = (503, b'{"errors":[{"message":"We are busy or restarting; try again in a moment"}]}')


@pytest_asyncio.fixture
async def busy(
    databases: engines.Databases, start_nats: StartNats, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Busy]:
    monkeypatch.setattr(edge, "_IN_PROGRESS_MAX", 2)

    @operation("POST", "/api/held")
    async def held(_request: Request[None, None]) -> Response:
        """Wait"""
        made.in_progress += 1
        await made.gate.wait()
        return Response(OK)

    @operation("GET", "/api/open")
    async def unlimited(_request: Request[None, None]) -> Response:
        """Do not wait"""
        return Response(OK, b"{}")

    service = Service("alpha", operations=[held, unlimited])
    async with running_app(databases, start_nats, service, AUTH, metrics_port=free_port()) as app:
        public, stop, ready = bind_socket(LOOPBACK, 0), asyncio.Event(), asyncio.Event()
        made = Busy(public.getsockname()[1], app)

        async def on_ready() -> None:
            ready.set()

        serving = asyncio.create_task(listen(app, public, Settings(), on_ready=on_ready, stop=stop))
        await ready.wait()
        yield made
        made.gate.set()
        stop.set()
        await serving


async def test_a_refused_request_leaves_its_connection_usable(busy: Busy) -> None:
    async with busy.connected() as connection:
        async with busy.at_its_limit():
            for path in (b"/api/held", b"/api/held?again=1"):
                connection.send(b"POST " + path + b' HTTP/1.1\r\nhost: here\r\ncontent-length: 9\r\n\r\n{"a":"b"}')
                assert await connection.response() == REFUSED
                assert "\r\nretry-after: 1\r\n" in connection.head
                assert "\r\nx-content-type-options: nosniff\r\n" in connection.head
                assert "\r\ncontent-type: application/json\r\n" in connection.head
            connection.send(OPEN)
            assert await connection.response() == (200, b"{}")
        connection.send(HELD)
        assert await connection.response() == (200, b"")


async def test_half_sent_bodies_take_no_place_of_an_operation(busy: Busy) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3):
            slow = await stack.enter_async_context(busy.connected())
            slow.send(HALF)
        async with busy.at_its_limit():
            pass


async def test_a_body_that_does_not_arrive_in_time_is_refused(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge, "_BODY_SECONDS", 0.1)
    async with busy.connected() as slow:
        slow.send(HALF)
        assert await slow.response() == (
            408,
            b'{"errors":[{"message":"The request did not arrive in time; send it again"}]}',
        )
        assert await slow.is_closed()


async def test_a_client_that_expects_to_be_asked_for_the_body_is_asked(busy: Busy) -> None:
    busy.gate.set()
    async with busy.connected() as connection:
        connection.send(b"POST /api/held HTTP/1.1\r\nhost: here\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        async with asyncio.timeout(30):
            assert await connection.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"{}")
        assert await connection.response() == (200, b"")


async def test_responses_keep_the_order_of_pipelined_requests(busy: Busy) -> None:
    async with busy.connected() as connection, busy.at_its_limit():
        connection.send(HELD + OPEN + HELD + HELD + OPEN)
        assert [(await connection.response())[0] for _ in range(5)] == [503, 200, 503, 503, 200]


@pytest.mark.parametrize(
    ("request_line", "headers", "closes"),
    [
        (b"POST /api/held HTTP/1.1", b"connection: close\r\n", True),
        (b"POST /api/held HTTP/1.0", b"", True),
        (b"POST /api/held HTTP/1.1", b"upgrade: h2c\r\nconnection: upgrade\r\n", False),
        (b"POST /api/%68eld HTTP/1.1", b"", False),
    ],
)
async def test_unusual_requests_are_refused_as_well(
    busy: Busy, request_line: bytes, headers: bytes, closes: bool
) -> None:
    async with busy.connected() as connection, busy.at_its_limit():
        connection.send(request_line + b"\r\nhost: here\r\n" + headers + b"\r\n")
        assert await connection.response() == REFUSED
        assert not closes or await connection.is_closed()


async def test_refused_requests_are_counted_like_all_others(busy: Busy) -> None:
    async with busy.connected() as connection, busy.at_its_limit():
        for _ in range(3):
            connection.send(HELD)
            await connection.response()
        shown = (await busy.app.metrics().text()).decode()
        assert 'admitone_request_seconds_count{method="POST",route="/api/held",status="503"} 3' in shown


async def test_an_idle_connection_is_closed_after_a_refusal(busy: Busy) -> None:
    async with busy.connected() as connection, busy.at_its_limit():
        connection.send(HELD)
        assert await connection.response() == REFUSED
        assert await connection.is_closed()


@pytest.mark.parametrize("lines", [b"", b"host: here\r\nhost: here\r\n", b"host: here\r\nHost: there\r\n"])
async def test_a_missing_or_second_host_is_refused(busy: Busy, lines: bytes) -> None:
    async with busy.connected() as connection:
        connection.send(b"GET /api/open HTTP/1.1\r\n" + lines + b"\r\n")
        assert await connection.response() == (400, b'{"errors":[{"message":"The request must have one Host field"}]}')


# Health.


async def test_a_service_starts_and_is_ready_without_the_bus(
    databases: engines.Databases, start_nats: StartNats
) -> None:
    settings = await settings_for(databases, start_nats, ALPHA, AUTH)
    without_bus = msgspec.structs.replace(
        settings, nats_urls=dict.fromkeys(settings.nats_urls, "nats://alpha:wrong@127.0.0.1:9")
    )
    async with app_of([ALPHA, AUTH], without_bus) as app, signed_in(app, "alice") as alice:
        assert (await alice.post("/api/notes", json={"text": "kept"})).status_code == 201
        assert (await alice.get("/health/ready")).status_code == 200
        assert await published_by(app, "alpha")
        app.stopping()
        assert (await alice.get("/health/ready")).status_code == 503
        assert (await alice.get("/health/live")).status_code == 200


async def test_a_service_stays_ready_while_its_database_is_away_and_answers_itself(
    private_postgres: Postgres, start_nats: StartNats
) -> None:
    databases = engines.Databases(private_postgres)
    settings = await settings_for(databases, start_nats, ALPHA, AUTH)
    async with app_of([ALPHA, AUTH], settings) as app, signed_in(app, "alice") as alice:
        private_postgres.stop()
        refused = await alice.post("/api/notes", json={"text": "later"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert (await alice.get("/health/ready")).status_code == 200
