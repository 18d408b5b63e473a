"""How scripted people reach the marketplace: over HTTP, in process, or inside a simulation."""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from types import MappingProxyType
from typing import Any, Final, Protocol
from urllib.parse import urlencode
from uuid import UUID

import httpx
import jwt
import msgspec

from admitone.auth.tokens import SigningKeys
from admitone.kernel import clock
from admitone.kernel.http.client import Transport
from admitone.kernel.http.sessions import SignedInUser
from admitone.kernel.ids import new_id

Json = dict[str, Any]

NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})
TIMEOUT_SECONDS: Final = 10.0
_SESSION_SECONDS: Final = 12 * 3600


@dataclass(frozen=True)
class Reply:
    """What a client received; `status` is None if no response arrived."""

    status: int | None
    body: Json = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    text: str = ""


class Client(Protocol):
    """Sends one request, or a buyer's decision to the bank; never raises because no response arrived."""

    async def request(
        self, method: str, path: str, session: str, body: Json | None, headers: Mapping[str, str]
    ) -> Reply: ...

    async def confirm(self, payment: Json, *, agrees: bool) -> None: ...


def http_client(base_url: str) -> httpx.AsyncClient:
    """Return a client for many people: it keeps no cookies, and drops idle connections before the server does."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=2)
    return httpx.AsyncClient(
        base_url=base_url,
        transport=Transport(limits=limits, trust_env=False),
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        timeout=TIMEOUT_SECONDS,
    )


@dataclass(frozen=True)
class HttpClient:
    """People's requests over httpx, and their confirmations at the sandbox's page."""

    http: httpx.AsyncClient

    async def request(
        self, method: str, path: str, session: str, body: Json | None, headers: Mapping[str, str]
    ) -> Reply:
        content = None if body is None else msgspec.json.encode(body)
        sent = {**headers} | ({"cookie": f"session={session}"} if session else {})
        if content is not None:
            sent["content-type"] = "application/json"
        try:
            response = await self.http.request(method, path, content=content, headers=sent)
        except httpx.TransportError:
            return Reply(None)
        is_json = response.content and response.headers.get("content-type", "").startswith("application/json")
        decoded = msgspec.json.decode(response.content) if is_json else {}
        return Reply(response.status_code, decoded, response.headers, response.text)

    async def confirm(self, payment: Json, *, agrees: bool) -> None:
        """Confirm or refuse; does nothing if payments does not know yet how."""
        action = payment.get("action", {})
        if "url" not in action:
            return
        form = {"client_secret": action["clientSecret"], "outcome": "approve" if agrees else "fail"}
        headers = {"content-type": "application/x-www-form-urlencoded"}
        try:
            await self.http.post(action["url"], content=urlencode(form), headers=headers)
        except httpx.TransportError:
            return  # the payment waits for its confirmation until its order expires


def session_of(keys: SigningKeys, user_id: UUID) -> str:
    """Return a session of anybody: hashing the passwords of thousands would take too long."""
    now = clock.now()
    user = SignedInUser(user_id, "somebody@example.com", new_id(), now.timestamp() + _SESSION_SECONDS)
    return keys.sign(user, now)


def user_id_of(session: str) -> UUID:
    """Return whose session a token is."""
    return UUID(jwt.decode(session, options={"verify_signature": False})["sub"])


def stripe_signature(body: bytes, secret: str, at_seconds: int) -> str:
    """Return the header of a webhook. Source: Stripe documentation, "Verify webhook signatures manually"."""
    signature = hmac.new(secret.encode(), b"%d.%b" % (at_seconds, body), hashlib.sha256).hexdigest()
    return f"t={at_seconds},v1={signature}"
