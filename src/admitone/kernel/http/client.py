"""An HTTP transport between services that compensates for two faults of the general client."""

import ssl
from functools import cache
from typing import Any, Final

import httpx

KEEP_ALIVE_SECONDS: Final = 3.0
"""Shorter than uvicorn's 5 s: a request on a connection that the server closes at that moment would fail."""

_LIMITS: Final = httpx.Limits(max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEEP_ALIVE_SECONDS)


@cache
def _tls() -> ssl.SSLContext:
    """Return httpx's default context: reading the certificates takes 20 ms, and every transport would do it again."""
    return httpx.create_ssl_context()


class Transport(httpx.AsyncHTTPTransport):
    """Raises only what httpx documents: a `TransportError` for every connection that breaks."""

    def __init__(self, limits: httpx.Limits = _LIMITS, **options: Any) -> None:
        super().__init__(verify=_tls(), limits=limits, **options)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except AttributeError as error:
            # anyio asks each new connection for its socket; uvloop has none if the server has reset the connection.
            raise httpx.ConnectError("the connection broke while it was opened", request=request) from error
