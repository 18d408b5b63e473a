"""A TCP proxy of our own between one service and one server, which cuts, delays, swallows, and breaks a commit."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Literal, cast

from admitone.local.server import LOOPBACK
from proof.chaos.commits import Commits, is_answered

State = Literal["well", "cut", "swallowing"]
Broken = Literal["lost", "committed"]

# Closing with this sends RST instead of FIN: the peer learns of it at once, and what is under way is thrown away.
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_BREAK_SECONDS_MAX: Final = 5.0


class Link:
    """The way from one service to one server; `heal` takes every fault off it."""

    def __init__(self, name: str, port: int, to_port: int, *, is_postgres: bool = False) -> None:
        self.name = name
        self.port = port
        self.to_port = to_port
        self.is_postgres = is_postgres
        self.state: State = "well"
        self.delay_seconds = 0.0
        self.connections: set[Connection] = set()
        self.breaking: asyncio.Future[None] | None = None
        self.breaks_before = False
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self).near, LOOPBACK, self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset_all()

    def cut(self) -> None:
        """Break every connection, and every new one as soon as it is made."""
        self.state = "cut"
        self._reset_all()

    def swallow(self) -> None:
        """Keep connections open and lose what is sent on them, as behind a machine that has vanished."""
        self.state = "swallowing"

    def delay(self, seconds: float) -> None:
        """Hold everything back for so long, in both directions."""
        self.delay_seconds = seconds

    def heal(self) -> None:
        """Let everything pass again; connections that lost something cannot go on and are reset."""
        self.state, self.delay_seconds = "well", 0.0
        for connection in list(self.connections):
            if connection.has_lost:
                connection.reset()

    async def break_commit(self, *, before: bool, wait_seconds: float) -> bool:
        """Reset the connection on which the next change is committed; return whether there was one in time.

        Its client cannot know what became of it: `before` loses the commit on the way, otherwise it is committed and
        the answer is lost.
        """
        self.breaks_before = before
        self.breaking = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(wait_seconds):
                await self.breaking
        except TimeoutError:
            return False
        finally:
            self.breaking = None
        return True

    def leads_from(self, port: int) -> bool:
        """Whether the server sees one of this link's connections come from that port."""
        return any(each.far.local_port == port for each in self.connections)

    def _reset_all(self) -> None:
        for connection in list(self.connections):
            connection.reset()


class Connection:
    """A client's connection and ours to the server, each passing on to the other."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.near = End(self, self._sent)
        self.far = End(self, self._answered)
        self.has_lost = False
        self._commits = Commits() if link.is_postgres else None
        self._is_breaking = False
        self._connecting: asyncio.Task[None] | None = None

    def begun(self) -> None:
        """Reach for the server, now that the client is here."""
        self.link.connections.add(self)
        if self.link.state == "cut":
            self.reset()
        elif self.link.state == "swallowing":
            self.has_lost = True
        else:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: self.far, LOOPBACK, self.link.to_port)
        except OSError:
            self.reset()

    def ended(self, end: "End") -> None:
        """Let the other end go, too, once it has got what was said."""
        self.link.connections.discard(self)
        other = self.far if end is self.near else self.near
        other.finish()
        if self._connecting is not None and end is self.near:
            self._connecting.cancel()

    def reset(self) -> None:
        """Break both ends at once."""
        self.link.connections.discard(self)
        if self._connecting is not None:
            self._connecting.cancel()
        self.near.reset()
        self.far.reset()

    def _sent(self, data: bytes) -> None:
        commit = self._commits.find(data) if self._commits is not None else None
        if self.link.state == "swallowing" or self._is_breaking:
            self.has_lost = True
            return
        if commit is None or self.link.breaking is None or self.link.breaking.done():
            self.far.send(data)
            return
        self.link.breaking.set_result(None)
        begins, ends = commit
        if self.link.breaks_before:
            self.far.send(data[:begins])
            self.reset()
            return
        self._is_breaking = True
        self.far.send(data[:ends])
        asyncio.get_running_loop().call_later(_BREAK_SECONDS_MAX, self.reset)

    def _answered(self, data: bytes) -> None:
        if self._is_breaking:
            # Its last words are what the client shall never hear.
            if is_answered(data):
                self.reset()
        elif self.link.state == "swallowing":
            self.has_lost = True
        else:
            self.near.send(data)


class End(asyncio.Protocol):
    """One end of a connection: what is sent to it leaves in order, after the link's delay."""

    def __init__(self, connection: Connection, received: Callable[[bytes], None]) -> None:
        self._connection = connection
        self._received = received
        self._transport: asyncio.Transport | None = None
        self._leaving: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._is_finished = False
        self.local_port = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.local_port = transport.get_extra_info("sockname")[1]
        if self is self._connection.near:
            self._connection.begun()
        self._flush()

    def data_received(self, data: bytes) -> None:
        self._received(data)

    def connection_lost(self, _error: Exception | None) -> None:
        self._transport = None
        self._is_finished = True
        self._connection.ended(self)

    def send(self, data: bytes) -> None:
        if not data or self._is_finished:
            return
        delay = self._connection.link.delay_seconds
        if self._transport is not None and not delay and not self._leaving:
            self._transport.write(data)
            return
        self._leaving.append((asyncio.get_running_loop().time() + delay, data))
        self._flush()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is None:
            return
        loop = asyncio.get_running_loop()
        while self._leaving:
            due, data = self._leaving[0]
            if due > loop.time():
                self._timer = loop.call_at(due, self._flush)
                return
            self._leaving.popleft()
            self._transport.write(data)
        if self._is_finished:
            self._transport.close()

    def finish(self) -> None:
        """Close once everything has left."""
        self._is_finished = True
        self._flush()

    def reset(self) -> None:
        self._is_finished = True
        self._leaving.clear()
        if self._timer is not None:
            self._timer.cancel()
        transport, self._transport = self._transport, None
        if transport is not None:
            sock: socket.socket = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
            transport.abort()
