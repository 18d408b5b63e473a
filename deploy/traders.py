"""People who trade through the public API during a drill, and a count of the responses they get."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

import httpx

from admitone.kernel.ids import new_id

_PASSWORD: Final = "eleven-brass-owls"  # noqa: S105 – of accounts that exist for a minute


@dataclass
class Traders:
    """Sellers and buyers. A 5xx, a 401 or a broken connection is a failure."""

    origin: str
    statuses: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    bought: int = 0
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())

    async def trade_until_stopped(self, number: int) -> None:
        """List and buy one ticket after the other; the buyer pays for some, and signs in again from time to time."""
        async with self._client() as seller, self._client() as buyer:
            await self._sign_up(seller, f"alice{number}@example.com")
            await self._sign_up(buyer, f"bob{number}@example.com")
            rounds = 0
            while not self.stopping.is_set():
                rounds += 1
                await self._trade_one(seller, buyer, pays=rounds % 3 == 0)
                if rounds % 10 == 0:
                    body = {"email": f"bob{number}@example.com", "password": _PASSWORD}
                    await self._send(buyer, "POST", "/api/users/signin", json=body)

    def _client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url=self.origin, timeout=20)

    async def _sign_up(self, person: httpx.AsyncClient, email: str) -> None:
        await self._send(person, "POST", "/api/users/signup", json={"email": email, "password": _PASSWORD})

    async def _trade_one(self, seller: httpx.AsyncClient, buyer: httpx.AsyncClient, *, pays: bool) -> None:
        listed = await self._send(seller, "POST", "/api/tickets", json={"title": "Fado night", "price": 19.99})
        for _ in range(4):
            await self._send(buyer, "GET", "/api/tickets")
            await self._send(buyer, "GET", "/api/users/currentuser")
            await self._send(seller, "GET", "/")
        if listed is None or not listed.is_success:
            return
        order = await self._post_until_found(buyer, "/api/orders", {"ticketId": listed.json()["id"]})
        if order is None:
            return
        await self._send(buyer, "GET", f"/api/orders/{order['id']}")
        payment = {"orderId": order["id"], "token": "tok_visa"}
        if pays and await self._post_until_found(buyer, "/api/payments", payment):
            self.bought += 1

    async def _post_until_found(
        self, person: httpx.AsyncClient, path: str, body: dict[str, str]
    ) -> dict[str, Any] | None:
        """Repeat a request about something created in another service until this service has consumed the event."""
        key = {"idempotency-key": str(new_id())}
        for _ in range(200):
            response = await self._send(person, "POST", path, json=body, headers=key)
            if response is not None and response.status_code == httpx.codes.CREATED:
                found: dict[str, Any] = response.json()
                return found
            if response is not None and response.status_code != httpx.codes.NOT_FOUND:
                return None
            await asyncio.sleep(0.05)
        self.failures.append(f"{path}: {body} was never found")
        return None

    async def _send(self, person: httpx.AsyncClient, method: str, path: str, **rest: Any) -> httpx.Response | None:
        """Send a request once: a retry would hide a failure."""
        try:
            response = await person.request(method, path, **rest)
        except httpx.HTTPError as error:
            self.statuses[0] += 1
            self.failures.append(f"{method} {path}: {error!r}")
            return None
        self.statuses[response.status_code] += 1
        if response.is_server_error or response.status_code == httpx.codes.UNAUTHORIZED:
            self.failures.append(f"{method} {path}: {response.status_code} {response.text[:200]}")
        return response
