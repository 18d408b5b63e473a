"""The transport of HTTP clients, with a workaround for a bug in anyio."""

import httpx


class Transport(httpx.AsyncHTTPTransport):
    """Raises a `TransportError` for every connection that breaks, as httpx documents."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            # anyio reads each new connection's socket, which uvloop no longer has if the server has reset it.
            raise httpx.ConnectError("the connection broke while it was opened", request=request) from error
