"""How the SDK's requests travel: over kept connections, with time-outs that fit a waiting buyer."""

import asyncio
from collections.abc import AsyncIterable, Mapping
from typing import Any, Final, NoReturn

import stripe

from admitone.kernel.client import Client, Unreachable

_CONNECT_SECONDS: Final = 2.0
_ANSWER_SECONDS: Final = 6.0
_CONNECTIONS_MAX: Final = 128

# Or the SDK makes an id of its own in the home folder and reports how long requests took.
stripe.enable_telemetry = False


class Transport(stripe.HTTPClient):
    """The SDK's own extension point; its bundled clients cost more than the payments."""

    name = "admitone"

    def __init__(self) -> None:
        super().__init__()
        self._client = Client(
            connect_seconds=_CONNECT_SECONDS,
            answer_seconds=_ANSWER_SECONDS,
            connections_max=_CONNECTIONS_MAX,
            authorities_file=stripe.ca_bundle_path,
        )

    async def request_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[bytes, int, Mapping[str, str]]:
        """Send a request, which may be sent twice: Stripe's idempotency keys are on all that change something."""
        body = post_data.encode() if isinstance(post_data, str) else post_data
        try:
            reply = await self._client.request(method, url, headers, body)
        except Unreachable as error:
            raise stripe.APIConnectionError(str(error), should_retry=True) from error  # type: ignore[no-untyped-call]
        return reply.body, reply.status, reply.headers

    def request(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **_: Any
    ) -> NoReturn:
        raise NotImplementedError("the loop must not wait for Stripe")

    def request_stream(
        self, method: str, url: str, headers: Mapping[str, str] | None, post_data: Any = None, **_: Any
    ) -> NoReturn:
        raise NotImplementedError("the loop must not wait for Stripe")

    async def request_stream_async(
        self, method: str, url: str, headers: Mapping[str, str], post_data: Any = None
    ) -> tuple[AsyncIterable[bytes], int, Mapping[str, str]]:
        raise NotImplementedError("nothing of ours is streamed")

    async def sleep_async(self, secs: float) -> None:
        await asyncio.sleep(secs)

    def close(self) -> None:
        """Nothing is open for those who do not wait; see `close_async`."""

    async def close_async(self) -> None:
        await self._client.close()
