"""What every answer carries, whatever was asked for: headers that browsers obey, cookies that scripts cannot read."""

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
# What may be kept, and nothing else may: it holds nothing of anybody's.
MAY_BE_KEPT = ("/api/users/jwks", "/static/")
MUST_BE_ASKED_FOR_AGAIN = ("no-store", "no-cache", "private, no-cache")


@pytest_asyncio.fixture
async def market(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[Market]:
    async with marketplace(databases, start_nats, *WITH_MONEY, "web", origin=ORIGIN) as running:
        yield running


async def addresses(market: Market) -> list[tuple[str, str]]:
    """Every method and path that something answers, and some that nothing does."""
    async with market.app.client() as anybody:
        document = (await anybody.get("/api/openapi.json")).json()
    assert WEB.pages is not None
    routes: list[Any] = list(WEB.pages(market.app.running["web"]))
    found = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    found += [(method, route.path) for route in routes for method in sorted(route.methods or ["GET"])]
    found += [("GET", path) for path in ("/api", "/api/openapi.json", "/health/live", "/health/ready", "/api/nothing")]
    found += [("TRACE", "/"), ("OPTIONS", "/api/tickets"), ("DELETE", "/"), ("PATCH", "/api/orders"), ("GET", "/x")]
    edition, _, name = assets.address("style.css").removeprefix("/static/").partition("/")
    named = {"{id}": str(ids.new_id()), "{edition}": edition, "{name}": name, "{anything:path}": "nothing/here"}
    for placeholder, value in named.items():
        found = [(method, path.replace(placeholder, value)) for method, path in found]
    return [each for each in found if each[1] != "/live"]  # which never ends; its headers are in the mutated requests


async def test_every_answer_of_every_route_carries_the_headers_that_browsers_obey(market: Market) -> None:
    missing: list[str] = []
    async with market.person("alice") as alice, market.app.client() as nobody:
        for method, path in await addresses(market):
            for client in (alice, nobody):
                answer = await client.request(method, path)
                missing += [
                    f"{method} {path} ({answer.status_code}) lacks {name}"
                    for name, value in HEADERS.items()
                    if not answer.headers.get(name, "-").startswith(value)
                ]
                kept = answer.headers["cache-control"]
                if not path.startswith(MAY_BE_KEPT) and kept not in MUST_BE_ASKED_FOR_AGAIN:
                    missing.append(f"{method} {path} may be kept: {kept}")
                policy = answer.headers["content-security-policy"]
                if "unsafe" in policy or "*" in policy or "frame-ancestors 'none'" not in policy:
                    missing.append(f"{method} {path} allows too much: {policy}")
                if {"server", "x-powered-by", "access-control-allow-origin"} & set(answer.headers):
                    missing.append(f"{method} {path} tells or allows too much")
    assert missing == []


def assert_is_kept_from_scripts(answer: httpx.Response) -> None:
    (cookie,) = answer.headers.get_list("set-cookie")
    attributes = {each.strip().lower().partition("=")[0] for each in cookie.split(";")[1:]}
    assert {"httponly", "secure", "samesite", "path", "max-age"} <= attributes
    assert "domain" not in attributes
    assert "samesite=lax" in cookie.lower()


async def test_only_deeds_of_an_account_set_a_cookie_and_always_one_that_scripts_cannot_read(market: Market) -> None:
    async with market.app.client() as alice, market.app.client() as nobody:
        await sign_up(alice, "alice@example.com")
        credentials = {"email": "alice@example.com", "password": "correct horse battery staple"}
        for deed in ("/api/users/signin", "/auth/signin"):
            kind = "json" if "/api/" in deed else "data"
            answer = await nobody.request("POST", deed, **{kind: credentials})  # type: ignore[arg-type]
            assert answer.status_code in {200, 303}
            assert_is_kept_from_scripts(answer)
        await sign_in(alice, "alice@example.com")
        change = {"currentPassword": credentials["password"], "email": "alice@example.org"}
        assert_is_kept_from_scripts(await alice.put("/api/users/currentuser", json=change))
        assert_is_kept_from_scripts(await alice.post("/api/users/signout"))
        for method, path in await addresses(market):
            if "sign" not in path and not path.startswith("/account"):
                assert "set-cookie" not in (await alice.request(method, path)).headers, path


NO_IDS = [
    *("/tickets/mine", "/tickets/x%3Flimit=1", "/tickets/%2e%2e", "/tickets/%00", "/tickets/a%0d%0aset-cookie:%20a=b"),
    "/orders/a%0d%0aset-cookie:%20session=evil?payment_intent=pi_1",
    "/tickets/%F0%9F%8E%AB/edit",
]
NO_TOKENS = [b"session=\xff", b'session="\\015\\012x-forwarded-for: 1.2.3.4"', b"session=\x01"]
NONSENSE = [
    {"price": "1e999999999"},
    {"price": "1", "eventDate": "0001-01-01T00:00", "eventInstant": "0001-01-01T00:00:00+23:59"},
    {"price": "1", "eventDate": "9999-12-31T23:59", "eventInstant": "9999-12-31T23:59:59-23:59"},
    {"price": "19.99", "key": "\u00e9\r\nx: y", "title": ""},
    {"price": "\u0663", "title": "<script>alert(1)</script>"},
]


async def test_what_once_broke_a_page_is_refused_and_goes_no_further(market: Market) -> None:
    async with market.person("alice") as alice, market.app.client() as nobody:
        for path in NO_IDS:
            answer = await alice.get(path)
            assert (answer.status_code, answer.headers.get("set-cookie")) == (404, None), path
            # A word that the API knows in the same place must not be taken for being signed out.
            assert (await alice.get("/account")).status_code == 200
        for cookie in NO_TOKENS:
            wrong = {"email": "a@example.com", "password": "wrong"}
            assert (await nobody.post("/auth/signin", data=wrong, headers=[(b"cookie", cookie)])).status_code == 400
            assert (await nobody.get("/", headers=[(b"cookie", cookie)])).status_code == 200
        for fields in NONSENSE:
            answer = await alice.post("/tickets/new", data={"title": "Fado night", **fields})
            assert answer.status_code == 400, fields
            assert len(answer.content) < 20_000
            assert "<script>alert" not in answer.text
