"""The lean HTTP client against servers that behave, and against servers that do not."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from admitone.kernel.client import Client, Unreachable

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[str]:
    async def each(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(each, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def client_of(**changes: float) -> AsyncIterator[Client]:
    limits: dict[str, Any] = {"connect_seconds": 1.0, "answer_seconds": 1.0, "connections_max": 4, **changes}
    client = Client(**limits)
    try:
        yield client
    finally:
        await client.close()


async def head_of(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


def answer(body: bytes, *headers: bytes) -> bytes:
    lines = (b"HTTP/1.1 200 OK", b"content-length: %d" % len(body), *headers, b"", b"")
    return b"\r\n".join(lines) + body


async def test_a_request_arrives_whole_and_its_answer_comes_back() -> None:
    came = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await head_of(reader)
        came.append(head + await reader.readexactly(5))
        writer.write(answer(b"world", b"X-Name: v"))

    async with serving(serve) as url, client_of() as client:
        reply = await client.request("post", f"{url}/a/b?c=d", {"x-key": "1"}, b"hello")
        assert (reply.status, reply.body, reply.headers["x-name"], reply.is_success) == (200, b"world", "v", True)
        host = url.removeprefix("http://").encode()
        assert came == [b"POST /a/b?c=d HTTP/1.1\r\nhost: " + host + b"\r\nx-key: 1\r\ncontent-length: 5\r\n\r\nhello"]


async def test_a_connection_is_kept_for_the_next_request() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await head_of(reader)
            writer.write(answer(b"ok"))

    async with serving(serve) as url, client_of() as client:
        for _ in range(5):
            assert (await client.request("GET", url)).body == b"ok"
        assert connections == 1


async def test_no_more_connections_than_allowed_are_open_at_once() -> None:
    now_open, most = 0, 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal now_open, most
        while True:
            await head_of(reader)
            now_open += 1
            most = max(most, now_open)
            await asyncio.sleep(0)
            now_open -= 1
            writer.write(answer(b"ok"))

    async with serving(serve) as url, client_of(connections_max=3) as client:
        replies = await asyncio.gather(*(client.request("GET", url) for _ in range(40)))
        assert {reply.body for reply in replies} == {b"ok"}
        assert most <= 3


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer(b"ok"))  # and then it closes, without having said so

    async with serving(serve) as url, client_of() as client:
        for _ in range(5):
            assert (await client.request("GET", url)).body == b"ok"


async def test_chunks_interim_answers_and_bodies_without_a_length_are_understood() -> None:
    answers = [
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"abcde"),
        b"HTTP/1.1 200 OK\r\nx-name: v\r\n\r\nabcde",
        answer(b"abcde", b"connection: close"),
    ]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        for byte in answers.pop(0):
            writer.write(bytes([byte]))
        await writer.drain()

    async with serving(serve) as url, client_of() as client:
        for _ in range(4):
            assert (await client.request("GET", url)).body == b"abcde"


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf", b"this is no HTTP at all\r\n\r\n"]
)
async def test_an_answer_that_breaks_off_is_no_answer(said: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(said)

    async with serving(serve) as url, client_of() as client:
        with pytest.raises(Unreachable):
            await client.request("GET", url)


async def test_an_answer_that_breaks_off_on_a_kept_connection_is_not_asked_for_again() -> None:
    """Part of an answer came: the request took effect, and only a connection that was dead all along is replaced."""
    requests = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal requests
        await head_of(reader)
        requests += 1
        writer.write(answer(b"ok"))
        await head_of(reader)
        requests += 1
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf")

    async with serving(serve) as url, client_of() as client:
        await client.request("GET", url)
        with pytest.raises(Unreachable):
            await client.request("GET", url)
        assert requests == 2


async def test_waiting_has_an_end() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        await reader.read()

    async with serving(serve) as url, client_of(answer_seconds=0.05) as client:
        with pytest.raises(Unreachable, match="in time"):
            await client.request("GET", url)


async def test_a_server_that_is_not_there_is_unreachable() -> None:
    async with client_of() as client:
        with pytest.raises(Unreachable):
            await client.request("GET", "http://127.0.0.1:9")


async def test_an_answer_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("admitone.kernel.client._BODY_BYTES_MAX", 1000)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head_of(reader)
        writer.write(answer(b"x" * 2000))
        await writer.drain()

    async with serving(serve) as url, client_of() as client:
        with pytest.raises(Unreachable, match="too long"):
            await client.request("GET", url)


async def test_a_header_cannot_carry_another_one() -> None:
    async with client_of() as client:
        with pytest.raises(ValueError, match="line break"):
            await client.request("GET", "http://127.0.0.1:9", {"x": "1\r\ny: 2"})


async def test_a_request_that_is_cancelled_leaves_no_connection_half_used() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"/slow" in await head_of(reader):
            await reader.read()
        writer.write(answer(b"ok"))

    async with serving(serve) as url, client_of() as client:
        slow = asyncio.create_task(client.request("GET", f"{url}/slow"))
        await asyncio.sleep(0)
        await client.request("GET", url)
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert (await client.request("GET", url)).body == b"ok"
