"""Serves an ASGI application with uvicorn until a signal arrives."""

import asyncio
import contextlib
import errno
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp

from admitone.kernel.http.app import response_bytes
from admitone.kernel.http.connection import Connection, answering, limited_connections
from admitone.kernel.settings import Settings

_DRAIN_SECONDS: Final = 20
_BACKLOG: Final = 4096


class CannotListen(Exception):
    """The address is in use, or does not belong to this machine"""


def bind_socket(host: str, port: int, *, setting: str = "ADMITONE_PORT") -> socket.socket:
    """Bind a TCP address; raises CannotListen, which names the setting of the port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        public = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise CannotListen(f"Nothing can listen at {host}: {error.strerror}.") from error
    try:
        # A port in TIME_WAIT is free; one that another program listens on is not.
        public.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        public.bind(address)
    except OSError as error:
        public.close()
        if error.errno == errno.EADDRINUSE:
            raise CannotListen(f"Port {port} is taken by another program; {setting} chooses another.") from error
        raise CannotListen(f"Nothing can listen at {host}, port {port}: {error.strerror}.") from error
    return public


def cancel_on_signals(stop: asyncio.Event) -> None:
    """Let SIGINT and SIGTERM cancel the current task, for the time before requests are served.

    `stop` is set as well, for `listen` to see: `asyncio.wait_for` of Python 3.11, which libraries use, loses a
    cancellation that arrives together with its result.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def interrupt() -> None:
        stop.set()
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, interrupt)


class _Server(uvicorn.Server):
    """Uvicorn with limited connections, and without its own signal handling: `listen` decides when to stop."""

    def __init__(self, app: ASGIApp, settings: Settings, **options: Any) -> None:
        connections = limited_connections(trust_proxy=settings.trust_proxy)
        render = partial(response_bytes, settings=settings)
        options |= {"access_log": False, "log_config": None, "lifespan": "off", "ws": "none", "server_header": False}
        # Typed as a class, and only called: with `config`, `server_state`, `app_state` and `_loop`.
        protocol: Any = partial(Connection, connections, render)
        super().__init__(uvicorn.Config(answering(app), http=protocol, **options))

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


async def listen(
    app: ASGIApp,
    public: socket.socket,
    settings: Settings,
    *,
    stop: asyncio.Event,
    on_ready: Callable[[], Awaitable[None]] | None = None,
    on_stopping: Callable[[], None] | None = None,
) -> None:
    """Serve requests on a bound socket until SIGINT or SIGTERM (or `stop`), then drain those in progress."""
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = _Server(
        app,
        settings,
        proxy_headers=False,  # client_address.py reads them
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        backlog=_BACKLOG,
    )
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


@asynccontextmanager
async def serving_in_background(app: ASGIApp, public: socket.socket, settings: Settings) -> AsyncIterator[None]:
    """Serve an application on another port for as long as the block lasts."""
    server = _Server(app, settings)
    serving = asyncio.create_task(server.serve(sockets=[public]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving
