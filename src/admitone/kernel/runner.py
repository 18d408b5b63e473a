"""Runs services: opens what each one needs, serves them on one port, and stops them without losing anything."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, nullcontext
from dataclasses import replace
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Final, Self
from urllib.parse import urlsplit

import httpx
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from admitone.kernel.database import migrations
from admitone.kernel.database.pool import UNREACHABLE, Database, connect_with_retries
from admitone.kernel.errors import Unavailable
from admitone.kernel.http import openapi
from admitone.kernel.http.app import HttpApp, operation_routes
from admitone.kernel.http.client import Transport
from admitone.kernel.http.client_address import UNKNOWN
from admitone.kernel.http.server import bind_socket, cancel_on_signals, listen, serving_in_background
from admitone.kernel.http.sessions import SessionAuthority, Sessions, TokenVerifier, cookie_name
from admitone.kernel.messaging.bus import Bus
from admitone.kernel.messaging.inbox import Inbox
from admitone.kernel.messaging.outbox import Relay
from admitone.kernel.messaging.recovery import DatabaseBehind, refuse_if_behind
from admitone.kernel.messaging.retention import prune_forever
from admitone.kernel.metrics import Metrics, RequestMetrics, process_registry
from admitone.kernel.running import RunningService
from admitone.kernel.service import Hosted, Service
from admitone.kernel.settings import Settings, SettingsError
from admitone.kernel.tasks import end
from admitone.kernel.tracing import export_traces

log = logging.getLogger(__name__)

_RESTART_JOB_SECONDS: Final = 1.0
_CLIENT_TIMEOUT_SECONDS: Final = 5.0
# How long a start waits for the bus, to see whether the database may be used.
_CHECK_SECONDS: Final = 2.0


class MigrationsMissing(Exception):
    """The database lacks migrations; run `admitone migrate`"""


async def _run_job(service: str, job: Callable[[], Awaitable[None]]) -> None:
    """Run a background job until cancelled, and restart it when it fails: jobs need no retry loop of their own."""
    while True:
        try:
            await job()
        except (Unavailable, *UNREACHABLE) as error:
            log.warning("the database is unreachable; a job waits", extra={"service": service, "error": repr(error)})
        except Exception:
            log.exception("a job failed and is restarted", extra={"service": service})
        await asyncio.sleep(_RESTART_JOB_SECONDS)


async def _run_unless_behind(
    database: Database, checking: "asyncio.Task[None]", job: Callable[[], Awaitable[None]]
) -> None:
    """Run a job once the database is known not to be behind; otherwise withdraw the database, and wait for ever."""
    try:
        await asyncio.shield(checking)
    except DatabaseBehind as error:
        if not database.is_withdrawn:
            log.error("the service does not work", extra={"error": str(error)})  # noqa: TRY400 – no bug
        database.is_withdrawn = True
        await asyncio.Event().wait()
    await job()


@asynccontextmanager
async def run_service(
    declaration: Service,
    settings: Settings,
    verifier: TokenVerifier,
    client_of: Callable[[str], httpx.AsyncClient],
    consumers: Collection[str],
) -> AsyncIterator[Hosted]:
    """Run one service's relay, inbox and jobs for as long as the block lasts.

    `consumers` are the services that subscribe to its events, wherever they run.

    On exit, events being handled are finished or rolled back; then everything is closed. Raises DatabaseBehind; if the
    bus can be read only later, requests are refused from then on instead.
    """
    name = declaration.name

    def declared_client_of(called: str) -> httpx.AsyncClient:
        assert called in declaration.calls, f"{name} calls {called} and does not declare it"
        return client_of(called)

    async with AsyncExitStack() as stack:
        database: Database | None = None
        if declaration.has_database:
            database = await connect_with_retries(
                settings.database_url(name), application=name, connections=settings.database_connections
            )
            stack.push_async_callback(database.close)
            if missing := await migrations.missing(name, database):
                raise MigrationsMissing(f"{name}: the database lacks {', '.join(missing)}; run `admitone migrate`")
        bus = Bus(name, replicas=settings.nats_replicas, stream_bytes_max=settings.nats_stream_bytes)
        bus.start(settings.nats_url(name))
        stack.push_async_callback(bus.close)
        checking: asyncio.Task[None] | None = None
        if database is not None and declaration.publications:
            checking = asyncio.create_task(refuse_if_behind(name, database, bus))
            stack.push_async_callback(end, [checking])
            if checking in (await asyncio.wait([checking], timeout=_CHECK_SECONDS))[0]:
                await checking
        sessions = Sessions(verifier, cookie_name(is_https=settings.is_https))
        bare: RunningService = RunningService(name, settings, sessions, bus, database, declared_client_of, None)
        service = replace(bare, resources=await stack.enter_async_context(declaration.lifespan(bare)))

        jobs: list[Callable[[], Awaitable[None]]] = [partial(job, service) for job in declaration.jobs]
        relay: Relay | None = None
        if database is not None:
            await service.sessions.read_revocations(database)  # no request may be served before
            jobs += [partial(service.sessions.follow_revocations, database), partial(prune_forever, database)]
            inbox = Inbox(name, database, bus, declaration.subscriptions)
            messaging: list[Callable[[], Awaitable[None]]] = [
                partial(inbox.run, producer) for producer in declaration.producers
            ]
            if declaration.publications:
                relay = Relay(database, bus, declaration.snapshots, consumers)
                messaging.append(relay.run)
            if checking is not None:
                messaging = [partial(_run_unless_behind, database, checking, job) for job in messaging]
            jobs += messaging
        tasks = [asyncio.create_task(_run_job(name, job)) for job in jobs]
        try:
            yield Hosted(declaration, service, relay)
        finally:
            await end(tasks)


class _InProcessTransport(httpx.AsyncBaseTransport):
    """Sends requests to an application in this process; the client's address is the one in X-Forwarded-For."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        address = request.headers.get("x-forwarded-for", UNKNOWN)
        return await httpx.ASGITransport(app=self._app, client=(address, 0)).handle_async_request(request)


class App:
    """The ASGI application of the services that run in this process.

    Its API document has the operations of `documented`: those of the whole marketplace, whose other services run
    elsewhere behind the same address. Without it, the document has those of `services`.
    """

    def __init__(
        self,
        services: Sequence[Service],
        settings: Settings,
        authority: SessionAuthority,
        documented: Sequence[Service] | None = None,
    ) -> None:
        self._services = services
        self._documented = services if documented is None else documented
        self._settings = settings
        self._authority = authority
        self._stack = AsyncExitStack()
        self._app: ASGIApp | None = None
        self._registry = process_registry()
        self._hosted: Sequence[Hosted] = ()
        self._is_stopping = False
        self.running: dict[str, RunningService] = {}

    async def __aenter__(self) -> Self:
        for declaration in self._services:
            for struct in declaration.settings:
                self._settings.read(struct)
        async with AsyncExitStack() as stack:
            authority = await stack.enter_async_context(self._client_of(self._authority.service))

            async def fetch_keys() -> bytes:
                response = await authority.get(self._authority.keys_path)
                return response.raise_for_status().content

            self._hosted = await self._start(stack, TokenVerifier(fetch_keys))
            self.running = {each.service.name: each.service for each in self._hosted}
            routes = self._routes()
            self._app = HttpApp(routes, self._settings)
            if self._settings.metrics_port:
                self._app = RequestMetrics(self._app, self._registry)
            self._stack = stack.pop_all()
        return self

    async def _start(self, stack: AsyncExitStack, verifier: TokenVerifier) -> list[Hosted]:
        """Start all services concurrently; if one fails, cancel the others."""
        try:
            async with asyncio.TaskGroup() as group:
                starting = [
                    group.create_task(
                        stack.enter_async_context(
                            run_service(each, self._settings, verifier, self._client_of, self._consumers_of(each.name))
                        )
                    )
                    for each in self._services
                ]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return [each.result() for each in starting]

    def _consumers_of(self, producer: str) -> list[str]:
        return [each.name for each in self._documented if each.has_database and producer in each.producers]

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert self._app is not None
        await self._app(scope, receive, send)

    def stopping(self) -> None:
        """Report "not ready" from now on, and let event streams end."""
        self._is_stopping = True
        for service in self.running.values():
            service.stopping.set()

    def client(self) -> httpx.AsyncClient:
        """Return an HTTP client whose requests reach this application in process."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=self), base_url=self._settings.public_origin)

    def _client_of(self, service: str) -> httpx.AsyncClient:
        """Return a client for requests on behalf of many users: it keeps no cookies, or users would be mixed up."""
        is_here = any(each.name == service for each in self._services)
        return httpx.AsyncClient(
            transport=_InProcessTransport(self) if is_here else Transport(),
            base_url=self._settings.public_origin if is_here else self._settings.service_url(service),
            # Every service accepts requests for the public host only.
            headers={"host": urlsplit(self._settings.public_origin).netloc},
            timeout=_CLIENT_TIMEOUT_SECONDS,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        )

    def _routes(self) -> list[BaseRoute]:
        operations = [operation for each in self._documented for operation in each.operations]
        routes: list[BaseRoute] = [
            Route("/health/live", JSONResponse({"status": "live"}), methods=["GET"]),
            Route("/health/ready", self._ready),
            *openapi.routes(operations, self._settings),
        ]
        for each in self._hosted:
            routes += operation_routes(each.service, each.declaration.operations)
        for each in self._hosted:
            if each.declaration.pages is not None:
                routes += each.declaration.pages(each.service)
        return routes

    def metrics(self) -> Metrics:
        """Return the metrics of this process; requests are counted only if a metrics port is configured."""
        return Metrics(self._hosted, self._registry)

    async def _ready(self, _request: HttpRequest) -> JSONResponse:
        """Ready from the first connection to each database until the process stops.

        An outage of the database or the bus concerns every replica: were none ready, clients would get a load
        balancer's error page instead of a response with Retry-After.
        """
        if self._is_stopping:
            raise Unavailable
        return JSONResponse({"status": "ready"})


async def serve(
    services: Sequence[Service],
    settings: Settings,
    authority: SessionAuthority,
    *,
    documented: Sequence[Service] | None = None,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    stop: asyncio.Event | None = None,
    public: socket.socket | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM (or `stop`); then report "not ready", drain requests, finish handlers, close.

    `public` is the bound socket to listen on; without it, the address in the settings is bound.
    """
    stop = stop or asyncio.Event()
    cancel_on_signals(stop)
    name = services[0].name if len(services) == 1 else "admitone"
    with ExitStack() as sockets:
        public = public or sockets.enter_context(bind_socket(settings.host, settings.port))
        port, scraped = settings.metrics_port, None
        if port and port == public.getsockname()[1]:
            # Two sockets may be bound to one port until one of them listens.
            raise SettingsError("ADMITONE_METRICS_PORT must not be ADMITONE_PORT")
        if port:
            scraped = sockets.enter_context(bind_socket(settings.host, port, setting="ADMITONE_METRICS_PORT"))
        with export_traces(name, settings.otlp_endpoint):
            async with App(services, settings, authority, documented) as app:
                metrics = serving_in_background(app.metrics(), scraped, settings) if scraped else nullcontext()
                async with metrics:
                    await listen(
                        app,
                        public,
                        settings,
                        stop=stop,
                        on_ready=on_ready,
                        on_stopping=app.stopping,
                    )
