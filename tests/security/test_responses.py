"""Every response has the security headers, and cookies are out of the reach of scripts."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio

from admitone.kernel import ids
from admitone.web import assets
from admitone.web.service import SERVICE as WEB
from tests import engines
from tests.support import StartNats, sign_in, sign_up
from tests.system.support import WITH_MONEY, Market, marketplace

ORIGIN = "https://tickets.example"
HEADERS = {
    "content-security-policy": "default-src 'none'",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=()",
    "cache-control": "",
}
# Only these paths may be cached: they contain nothing personal.
CACHEABLE = ("/api/users/jwks", "/static/")
UNCACHED = ("no-store", "no-cache", "private, no-cache")


@pytest_asyncio.fixture
async def market(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[Market]:
    choices = {"origin": ORIGIN, "allow_test_payments": True}
    async with marketplace(databases, start_nats, *WITH_MONEY, "web", **choices) as running:
        yield running


async def methods_and_paths(market: Market) -> list[tuple[str, str]]:
    """Return the method and path of every operation, page and document, and of some that do not exist."""
    async with market.app.client() as visitor:
        document = (await visitor.get("/api/openapi.json")).json()
    assert WEB.pages is not None
    routes: list[Any] = list(WEB.pages(market.app.running["web"]))
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    found += [(method, route.path) for route in routes for method in sorted(route.methods or ["GET"])]
    found += [("GET", path) for path in ("/api", "/api/openapi.json", "/health/live", "/health/ready", "/api/nothing")]
    found += [("TRACE", "/"), ("OPTIONS", "/api/tickets"), ("DELETE", "/"), ("PATCH", "/api/orders"), ("GET", "/x")]
    fingerprint, _, name = assets.url("style.css").removeprefix("/static/").partition("/")
    named = {"{id}": str(ids.new_id()), "{fingerprint}": fingerprint, "{name}": name, "{anything:path}": "nothing/here"}
    for placeholder, value in named.items():
        found = [(method, path.replace(placeholder, value)) for method, path in found]
    return [each for each in found if each[1] != "/live"]  # an endless stream; the mutated requests check its headers


async def test_every_response_has_the_security_headers(market: Market) -> None:
    missing: list[str] = []
    async with market.person("alice") as alice, market.app.client() as visitor:
        for method, path in await methods_and_paths(market):
            for client in (alice, visitor):
                response = await client.request(method, path)
                missing += [
                    f"{method} {path} ({response.status_code}) lacks {name}"
                    for name, value in HEADERS.items()
                    if not response.headers.get(name, "-").startswith(value)
                ]
                caching = response.headers["cache-control"]
                if not path.startswith(CACHEABLE) and caching not in UNCACHED:
                    missing.append(f"{method} {path} may be cached: {caching}")
                policy = response.headers["content-security-policy"]
                if "unsafe" in policy or "*" in policy or "frame-ancestors 'none'" not in policy:
                    missing.append(f"{method} {path} allows too much: {policy}")
                if {"server", "x-powered-by", "access-control-allow-origin"} & set(response.headers):
                    missing.append(f"{method} {path} reveals or allows too much")
    assert missing == []


def assert_cookie_is_protected(response: httpx.Response) -> None:
    (cookie,) = response.headers.get_list("set-cookie")
    attributes = {each.strip().lower().partition("=")[0] for each in cookie.split(";")[1:]}
    assert {"httponly", "secure", "samesite", "path", "max-age"} <= attributes
    assert "domain" not in attributes
    assert "samesite=lax" in cookie.lower()


async def test_only_account_operations_set_cookies_and_always_http_only(market: Market) -> None:
    async with market.app.client() as alice, market.app.client() as visitor:
        await sign_up(alice, "alice@example.com")
        credentials = {"email": "alice@example.com", "password": "correct horse battery staple"}
        for path in ("/api/users/signin", "/auth/signin"):
            kind = "json" if "/api/" in path else "data"
            response = await visitor.request("POST", path, **{kind: credentials})  # type: ignore[arg-type]
            assert response.status_code in {200, 303}
            assert_cookie_is_protected(response)
        await sign_in(alice, "alice@example.com")
        change = {"currentPassword": credentials["password"], "email": "alice@example.org"}
        assert_cookie_is_protected(await alice.put("/api/users/currentuser", json=change))
        assert_cookie_is_protected(await alice.post("/api/users/signout"))
        for method, path in await methods_and_paths(market):
            if "sign" not in path and not path.startswith("/account"):
                assert "set-cookie" not in (await alice.request(method, path)).headers, path


BAD_IDS = [
    *("/tickets/mine", "/tickets/x%3Flimit=1", "/tickets/%2e%2e", "/tickets/%00", "/tickets/a%0d%0aset-cookie:%20a=b"),
    "/orders/a%0d%0aset-cookie:%20session=evil?payment_intent=pi_1",
    "/tickets/%F0%9F%8E%AB/edit",
]
BAD_COOKIES = [b"session=\xff", b'session="\\015\\012x-forwarded-for: 1.2.3.4"', b"session=\x01"]
BAD_FORMS = [
    {"price": "1e999999999"},
    {"price": "1", "eventDate": "0001-01-01T00:00", "eventInstant": "0001-01-01T00:00:00+23:59"},
    {"price": "1", "eventDate": "9999-12-31T23:59", "eventInstant": "9999-12-31T23:59:59-23:59"},
    {"price": "19.99", "key": "\u00e9\r\nx: y", "title": ""},
    {"price": "\u0663", "title": "<script>alert(1)</script>"},
]


async def test_input_that_once_broke_a_page_is_refused(market: Market) -> None:
    async with market.person("alice") as alice, market.app.client() as visitor:
        for path in BAD_IDS:
            response = await alice.get(path)
            assert (response.status_code, response.headers.get("set-cookie")) == (404, None), path
            # Some of these words have a meaning in the API; its response must not look like a lost session.
            assert (await alice.get("/account")).status_code == 200
        for cookie in BAD_COOKIES:
            wrong = {"email": "a@example.com", "password": "wrong"}
            assert (await visitor.post("/auth/signin", data=wrong, headers=[(b"cookie", cookie)])).status_code == 400
            assert (await visitor.get("/", headers=[(b"cookie", cookie)])).status_code == 200
        for fields in BAD_FORMS:
            response = await alice.post("/tickets/new", data={"title": "Fado night", **fields})
            assert response.status_code == 400, fields
            assert len(response.content) < 20_000
            assert "<script>alert" not in response.text
