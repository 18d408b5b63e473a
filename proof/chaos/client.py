"""A small HTTP client for many people at once: a library's pool costs more than the marketplace's own work here."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from admitone.local.server import LOOPBACK

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

NO_ANSWER = (OSError, TimeoutError, EOFError, ValueError, RuntimeError)
"""Whatever keeps an answer away: nobody knows then whether the request had its effect.

The last one is uvloop's word for a connection that has just been closed.
"""


@dataclass(frozen=True)
class Response:
    """What came back; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Client:
    """Sends requests to one port of this machine, over connections that are kept."""

    port: int
    _idle: list[Streams] = field(default_factory=list)

    async def ask(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, timeout_seconds: float
    ) -> Response:
        """Send a request once and return the answer. Raises one of NO_ANSWER."""
        streams = None
        try:
            async with asyncio.timeout(timeout_seconds):
                streams = await self._connection()
                reader, writer = streams
                writer.write(_request(method, path, headers, body or b""))
                answer = await _answer(reader)
        except BaseException:
            # What comes later on this connection would be taken for another request's answer.
            if streams is not None:
                streams[1].transport.abort()
            raise
        if answer.headers.get("connection") == "close":
            writer.close()
        else:
            self._idle.append(streams)
        return answer

    async def _connection(self) -> Streams:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        return await asyncio.open_connection(LOOPBACK, self.port)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.transport.abort()


def _request(method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", f"host: {LOOPBACK}", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def _answer(reader: asyncio.StreamReader) -> Response:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    status = int(head[0].split(" ")[1])
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:]) if name}
    if headers.get("transfer-encoding") == "chunked":
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return Response(status, headers, body)
    return Response(status, headers, await reader.readexactly(int(headers.get("content-length", 0))))
