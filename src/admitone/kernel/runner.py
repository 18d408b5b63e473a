"""Runs services: starts what each one needs, serves them on one port, and stops them without losing anything."""

import asyncio
import contextlib
import errno
import logging
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Self

import httpx
import uvicorn
from starlette.requests import Request
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from admitone.kernel import http, migrations, openapi
from admitone.kernel.bus import Bus
from admitone.kernel.database import UNREACHABLE, Database, connect_patiently
from admitone.kernel.door import Door, Refusal
from admitone.kernel.http import Answer, Edge, api_routes, plain_route
from admitone.kernel.identity import FetchKeys, Identity, Tokens
from admitone.kernel.inbox import Inbox
from admitone.kernel.metrics import Measured, Metrics, Requests, Watched
from admitone.kernel.outbox import Relay
from admitone.kernel.pruning import keep_pruned
from admitone.kernel.refusals import Unavailable
from admitone.kernel.service import Running, Service
from admitone.kernel.settings import Settings
from admitone.kernel.tasks import end
from admitone.kernel.tracing import exported
from admitone.kernel.transport import Transport

log = logging.getLogger(__name__)

_RESTART_JOB_SECONDS: Final = 1.0
_DRAIN_SECONDS: Final = 20
_CLIENT_TIMEOUT_SECONDS: Final = 5.0


class Outdated(Exception):
    """The database lacks migrations; run `admitone migrate`"""


@asynccontextmanager
async def running(
    service: Service, settings: Settings, tokens: Tokens, client_of: Callable[[str], httpx.AsyncClient]
) -> AsyncIterator[tuple[Running, Relay | None]]:
    """Run one service's relay, inbox and jobs; yield it for as long as the block lasts.

    On the way out, what is being handled is finished or rolled back, and then everything is closed.
    """
    async with AsyncExitStack() as stack:
        database: Database | None = None
        if service.has_database:
            database = await connect_patiently(
                settings.database_url(service.name), application=service.name, connections=settings.database_connections
            )
            stack.push_async_callback(database.close)
            await _demand_migrations(service.name, database)
        bus = Bus(service.name, replicas=settings.nats_replicas)
        bus.start(settings.nats_url(service.name))
        stack.push_async_callback(bus.close)
        current = Running(service.name, settings, Identity(tokens), bus, database, client_of)
        current.own = await stack.enter_async_context(service.opens(current))

        background: list[Callable[[], Awaitable[None]]] = [_job(job, current) for job in service.jobs]
        relay: Relay | None = None
        if database is not None:
            own = database
            background.append(lambda: current.identity.follow_revocations(own))
            background.append(lambda: keep_pruned(own))
            inbox = Inbox(service.name, database, bus, service.all_heard)
            background += [_listen(inbox, producer) for producer in inbox.producers]
            if service.tells:
                relay = Relay(database, bus)
                background.append(relay.run)
        tasks = [asyncio.create_task(_keep_running(service.name, each)) for each in background]
        try:
            yield current, relay
        finally:
            await end(tasks)


def _job(job: Callable[[Running], Awaitable[None]], current: Running) -> Callable[[], Awaitable[None]]:
    return lambda: job(current)


def _listen(inbox: Inbox, producer: str) -> Callable[[], Awaitable[None]]:
    return lambda: inbox.run(producer)


async def _keep_running(service: str, job: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await job()
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("background job waits for the database", extra={"service": service, "error": repr(error)})
        except Exception:
            log.exception("background job failed and starts again", extra={"service": service})
        await asyncio.sleep(_RESTART_JOB_SECONDS)


async def _demand_migrations(service: str, database: Database) -> None:
    if missing := await missing_migrations(service, database):
        raise Outdated(f"{service}: the database lacks {', '.join(missing)}; run `admitone migrate`")


async def missing_migrations(service: str, database: Database) -> list[str]:
    """Return the migrations this version needs and the database has not had."""
    known = [name for name, _ in migrations.known(service)]
    if not await database.fetchval("SELECT to_regclass('applied_migration') IS NOT NULL"):
        return known
    applied = {row["name"] for row in await database.fetch("SELECT name FROM applied_migration")}
    return [name for name in known if name not in applied]


class _DirectTransport(httpx.AsyncBaseTransport):
    """Calls the application without a network; whoever X-Forwarded-For names is taken to be the one who asks."""

    def __init__(self, app: "App") -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        address = request.headers.get("x-forwarded-for", "127.0.0.1")
        return await httpx.ASGITransport(app=self._app, client=(address, 0)).handle_async_request(request)


class App:
    """The ASGI application of the services that run in this process; `client` calls it without a network."""

    def __init__(self, services: Sequence[Service], settings: Settings) -> None:
        self._services = services
        self._settings = settings
        self._stack = AsyncExitStack()
        self._edge: Edge | None = None
        self._answers: ASGIApp | None = None
        self._requests: Requests | None = None
        self._is_stopping = False
        self.running: dict[str, Running] = {}
        self._relays: dict[str, Relay] = {}

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        try:
            tokens = Tokens(await self._stack.enter_async_context(self._fetch_keys()))
            for current, relay in await self._start(tokens):
                self.running[current.name] = current
                self._relays |= {current.name: relay} if relay is not None else {}
            routes = self._routes()
            self._edge = self._answers = Edge(routes, self._settings)
            if self._settings.metrics_port:
                self._requests = Requests(routes)
                self._answers = Measured(self._edge, self._requests)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def _start(self, tokens: Tokens) -> list[tuple[Running, Relay | None]]:
        """Start every service at once; when one of them cannot, none goes on trying."""
        starting = [
            asyncio.ensure_future(
                self._stack.enter_async_context(running(each, self._settings, tokens, self._client_of))
            )
            for each in self._services
        ]
        try:
            return await asyncio.gather(*starting)
        except BaseException:
            for each in starting:
                each.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._answers is not None
        await self._answers(scope, receive, send)

    def refusal(self, method: bytes, url: bytes) -> bytes | None:
        """Return the whole answer to a request that there is no room for; None when it is to be served."""
        assert self._edge is not None
        refused = self._edge.refused_at_the_door(method, url)
        if refused is None:
            return None
        endpoint, answer = refused
        if self._requests is not None:
            self._requests.note(method.decode("ascii"), endpoint, http.status_of(Unavailable), 0.0)
        return answer

    def stopping(self) -> None:
        """Answer "not ready" from now on, and let requests that never end by themselves end."""
        self._is_stopping = True
        for current in self.running.values():
            current.stopping.set()

    def client(self, origin: str | None = None) -> httpx.AsyncClient:
        """Return an HTTP client whose requests reach this application in process."""
        return httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self), base_url=origin or self._settings.public_origin
        )

    def _client_of(self, service: str) -> httpx.AsyncClient:
        """Return a client for many people's requests: it keeps no cookies, or one would act as another."""
        is_here = any(each.name == service for each in self._services)
        return httpx.AsyncClient(
            transport=_DirectTransport(self) if is_here else Transport(),
            base_url=self._settings.public_origin if is_here else self._settings.service_url(service),
            timeout=_CLIENT_TIMEOUT_SECONDS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    @asynccontextmanager
    async def _fetch_keys(self) -> AsyncIterator[FetchKeys]:
        async with self._client_of("auth") as client:

            async def fetch() -> bytes:
                answer = await client.get("/api/users/jwks")
                return answer.raise_for_status().content

            yield fetch

    def _routes(self) -> list[BaseRoute]:
        operations = [each for service in self._services for each in service.operations]
        document = openapi.document(operations, self._settings)
        routes: list[BaseRoute] = [
            plain_route("/health/live", self._live),
            plain_route("/health/ready", self._ready),
            *openapi.routes(document),
        ]
        for service in self._services:
            current = self.running[service.name]
            routes += api_routes(current, service.operations)
        for service in self._services:
            if service.pages is not None:
                routes += service.pages(self.running[service.name])
        return routes

    def metrics(self) -> Metrics:
        """Return what can be seen of this process from outside; only with a metrics port are requests counted."""
        return Metrics(self._requests or Requests(()), [self._watched(each) for each in self._services])

    def _watched(self, service: Service) -> Watched:
        current, relay = self.running[service.name], self._relays.get(service.name)
        producers = sorted({heard.producer for heard in service.all_heard}) if service.has_database else ()
        is_leading = (lambda: relay.is_leading) if relay is not None else None
        return Watched(service.name, current.bus, current.maybe_database, producers, service.gauges, is_leading)

    async def _live(self, _request: Request) -> Answer:
        return Answer(http.OK, {"status": "live"})

    async def _ready(self, _request: Request) -> Answer:
        """Ready: each service's database answers and its relay lives. The bus or Stripe being away is no reason."""
        if self._is_stopping or not all(relay.is_alive for relay in self._relays.values()):
            raise Unavailable
        for current in self.running.values():
            if current.maybe_database is not None and await missing_migrations(current.name, current.database):
                raise Unavailable
        return Answer(http.OK, {"status": "ready"})


class _Server(uvicorn.Server):
    """Uvicorn without its own signal handling: the runner decides when to stop."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


class CannotListen(Exception):
    """The public address is taken, or is not this machine's"""


def bound(host: str, port: int) -> socket.socket:
    """Take the public port, before anything is started that might not be needed; raises CannotListen."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        public = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"Nothing can listen at {host}: {error.strerror}.") from error
    try:
        # A port whose last connections are still being forgotten is free; one that somebody listens on is not.
        public.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        public.bind(address)
    except OSError as error:
        public.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(f"Port {port} is taken by another program; ADMITONE_PORT chooses another.") from error
        raise CannotListen(f"Nothing can listen at {host}, port {port}: {error.strerror}.") from error
    return public


async def serve(
    services: Sequence[Service],
    settings: Settings,
    *,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
    public: socket.socket | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM (or `stop`): unready, drain requests, finish handlers, close.

    `public` is the bound socket to listen on, where somebody took it already.
    """
    public = public or bound(settings.host, settings.port)
    stop = stop or asyncio.Event()
    cancel_on_signals(stop)
    name = services[0].name if len(services) == 1 else "admitone"
    with exported(name, settings.otlp_endpoint):
        async with App(services, settings) as app, _metrics_served(app, settings):
            await listen(
                app, public, settings, stop=stop, on_ready=on_ready, on_stopping=app.stopping, refusal=app.refusal
            )


@asynccontextmanager
async def _metrics_served(app: App, settings: Settings) -> AsyncIterator[None]:
    """Serve metrics on their own port until the very end, where one is chosen: people never reach it."""
    if not settings.metrics_port:
        yield
        return
    port = bound(settings.host, settings.metrics_port)
    config = uvicorn.Config(app.metrics(), access_log=False, log_config=None, lifespan="off", ws="none")
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[port]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def cancel_on_signals(stop: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM cancel what the current task does: nothing is served yet that would have to end well.

    `stop` is set as well, for `listen` to see: `asyncio.wait_for` of Python 3.11, which libraries use, forgets a
    cancellation that arrives together with its result.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        stop.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)


async def listen(
    app: ASGIApp,
    public: socket.socket,
    settings: Settings,
    *,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    on_stopping: Callable[[], None] | None = None,
    stop: asyncio.Event | None = None,
    refusal: Refusal = lambda _method, _url: None,
) -> None:
    """Answer HTTP requests on a bound socket until SIGINT or SIGTERM (or `stop`), then let those that began end.

    `refusal` says which requests are answered before `app` is asked, and how.
    """
    stop = stop or asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    config = uvicorn.Config(
        app,
        http=partial(Door, refusal),  # type: ignore[arg-type]  # it is called like the class
        access_log=False,
        log_config=None,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=settings.trust_proxy,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        backlog=4096,
    )
    server = _Server(config)
    serving = asyncio.create_task(server.serve(sockets=[public]))
    while not server.started and not serving.done():  # noqa: ASYNC110 – uvicorn offers no event to wait for
        await asyncio.sleep(0.01)
    if on_ready is not None and not serving.done():
        await on_ready()
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({stopped, serving}, return_when=asyncio.FIRST_COMPLETED)
    if on_stopping is not None:
        on_stopping()
    server.should_exit = True
    await serving
    stopped.cancel()
