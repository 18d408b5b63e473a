"""The general HTTP client's way to a server, with an answer to what that client forgets."""

import httpx


class Transport(httpx.AsyncHTTPTransport):
    """Raises only what httpx says it raises: a `TransportError` for every connection that breaks."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            # anyio asks each new connection for its socket; uvloop has none any more when the server has reset it.
            raise httpx.ConnectError("the connection broke while it was made", request=request) from error
