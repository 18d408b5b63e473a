"""A TCP proxy between one service and one server that cuts, delays or swallows, and breaks a commit."""

import asyncio
import contextlib
import socket
import struct
from typing import Final, Literal

from admitone.local.server import LOOPBACK
from proof.chaos.commits import CommitFinder, is_answered

# Closing with this sends RST instead of FIN: the peer notices at once, and data in flight is discarded.
_NO_LINGER: Final = struct.pack("ii", 1, 0)
_BREAK_SECONDS_MAX: Final = 5.0
_CHUNK_BYTES: Final = 65_536


class Link:
    """The way from one service to one server; `heal` ends every fault of it."""

    def __init__(self, port: int, to_port: int, *, is_postgres: bool = False) -> None:
        self.port = port
        self.to_port = to_port
        self.is_postgres = is_postgres
        self.state: Literal["well", "cut", "swallowing"] = "well"
        self.delay_seconds = 0.0
        self.breaking: asyncio.Future[None] | None = None
        self.breaks_before = False
        self.connections: set[LinkConnection] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = LinkConnection(self, reader, writer)
        self.connections.add(connection)
        try:
            await connection.run()
        finally:
            connection.close()
            self.connections.discard(connection)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset_all()

    def cut(self) -> None:
        """Break every connection, and every new one as soon as it is made."""
        self.state = "cut"
        self._reset_all()

    def swallow(self) -> None:
        """Keep connections open and lose what is sent on them, as if the other machine had vanished."""
        self.state = "swallowing"

    def delay(self, seconds: float) -> None:
        """Deliver everything later by so much, in both directions."""
        self.delay_seconds = seconds

    def heal(self) -> None:
        """Let everything pass again; connections that lost something are reset."""
        self.state, self.delay_seconds = "well", 0.0
        for connection in list(self.connections):
            if connection.has_lost:
                connection.reset()

    async def break_commit(self, *, before: bool, wait_seconds: float) -> bool:
        """Reset the connection on which the next change is committed; return whether there was one in time.

        Its client cannot know the outcome: `before` loses the commit on the way, otherwise it is committed and the
        response is lost.
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
        return any(each.local_port == port for each in self.connections)

    def _reset_all(self) -> None:
        for connection in list(self.connections):
            connection.reset()


class LinkConnection:
    """A client's connection and ours to the server, each forwarded to the other."""

    def __init__(self, link: Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.has_lost = False
        self.local_port = 0
        self._link = link
        self._client = reader, writer
        self._server_writer: asyncio.StreamWriter | None = None
        self._commits = CommitFinder() if link.is_postgres else None
        self._is_breaking = False

    async def run(self) -> None:
        """Forward both ways until one side closes the connection."""
        reader, writer = self._client
        if self._link.state == "cut":
            self.reset()
            return
        with contextlib.suppress(OSError):
            if self._link.state == "swallowing":
                self.has_lost = True
                while await reader.read(_CHUNK_BYTES):
                    pass
                return
            server_reader, server_writer = await asyncio.open_connection(LOOPBACK, self._link.to_port)
            self._server_writer = server_writer
            self.local_port = server_writer.get_extra_info("sockname")[1]
            forwarding = [
                asyncio.create_task(self._forward(reader, server_writer, from_client=True)),
                asyncio.create_task(self._forward(server_reader, writer, from_client=False)),
            ]
            try:
                await asyncio.wait(forwarding, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for each in forwarding:
                    each.cancel()
            return
        self.reset()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                if self._link.delay_seconds:
                    await asyncio.sleep(self._link.delay_seconds)
                writer.write(self._request(data) if from_client else self._response(data))
                await writer.drain()

    def _request(self, data: bytes) -> bytes:
        """Return what of a client's data goes on to the server."""
        commit = self._commits.find(data) if self._commits is not None else None
        if self._link.state == "swallowing" or self._is_breaking:
            self.has_lost = True
            return b""
        breaking = self._link.breaking
        if commit is None or breaking is None or breaking.done():
            return data
        breaking.set_result(None)
        begin, end = commit
        self._is_breaking = True
        if self._link.breaks_before:
            asyncio.get_running_loop().call_soon(self.reset)
            return data[:begin]
        asyncio.get_running_loop().call_later(_BREAK_SECONDS_MAX, self.reset)
        return data[:end]

    def _response(self, data: bytes) -> bytes:
        """Return what of a server's data goes on to the client."""
        if self._is_breaking:
            if is_answered(data):  # the response to the commit, which the client must not get
                self.reset()
            return b""
        if self._link.state == "swallowing":
            self.has_lost = True
            return b""
        return data

    def close(self) -> None:
        """Close both ends once everything was sent."""
        for writer in (self._client[1], self._server_writer):
            if writer is not None:
                writer.close()

    def reset(self) -> None:
        """Break both ends at once."""
        for writer in (self._client[1], self._server_writer):
            if writer is not None and not writer.is_closing():
                sock: socket.socket = writer.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
                writer.transport.abort()
