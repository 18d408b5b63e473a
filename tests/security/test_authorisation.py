"""The authorisation table: every operation and page, for every kind of caller."""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx
import pytest_asyncio
import stripe

from admitone.auth.tokens import new_signing_key
from admitone.kernel import clock, ids
from admitone.kernel.http.sessions import SignedInUser
from admitone.web.service import SERVICE as WEB
from tests import engines
from tests.auth.support import Forger, public_pem
from tests.stripe_sandbox.running import WEBHOOK_SECRET
from tests.support import PASSWORD, StartNats, eventually, messages_of, sign_up, signing_key_of, token_of
from tests.system.support import WITH_MONEY, Json, Market, marketplace

# The columns after the seller are callers whose token is right except for one defect: it has expired, its session has
# ended, it names another issuer, audience or type, it is unsigned, signed with the public key as a secret, under an
# unknown key id, or with another key under auth's key id. They get what a caller without a token gets.
TABLE = """
                                      nobody stranger buyer seller expired ended issuer audience type none hs256 kid key
POST   /api/users/signup              201    201      201   201    201     201   201    201      201  201  201   201 201
POST   /api/users/signin              200    200      200   200    200     200   200    200      200  200  200   200 200
POST   /api/users/signout             200    200      200   200    200     200   200    200      200  200  200   200 200
POST   /api/users/signout-everywhere  401    200      200   200    401     401   401    401      401  401  401   401 401
GET    /api/users/currentuser         200    200      200   200    200     200   200    200      200  200  200   200 200
PUT    /api/users/currentuser         401    200      200   200    401     401   401    401      401  401  401   401 401
GET    /api/users/jwks                200    200      200   200    200     200   200    200      200  200  200   200 200
GET    /api/tickets                   200    200      200   200    200     200   200    200      200  200  200   200 200
GET    /api/tickets/mine              401    200      200   200    401     401   401    401      401  401  401   401 401
GET    /api/tickets/{id}              200    200      200   200    200     200   200    200      200  200  200   200 200
POST   /api/tickets                   401    201      201   201    401     401   401    401      401  401  401   401 401
PUT    /api/tickets/{id}              401    403      403   200    401     401   401    401      401  401  401   401 401
POST   /api/orders                    401    201      201   400    401     401   401    401      401  401  401   401 401
GET    /api/orders                    401    200      200   200    401     401   401    401      401  401  401   401 401
GET    /api/orders/{id}               401    403      200   403    401     401   401    401      401  401  401   401 401
DELETE /api/orders/{id}               401    403      204   403    401     401   401    401      401  401  401   401 401
POST   /api/payments                  401    403      201   403    401     401   401    401      401  401  401   401 401
GET    /api/payments                  401    403      200   403    401     401   401    401      401  401  401   401 401
POST   /api/payments/webhook          200    200      200   200    200     200   200    200      200  200  200   200 200
"""

# The pages that need a session; 401 stands for a redirect to sign in, or for the page itself, 303 for the redirect
# after a successful form.
TABLE_OF_PAGES = """
                                      nobody stranger buyer seller expired ended issuer audience type none hs256 kid key
GET    /account                       401    200      200   200    401     401   401    401      401  401  401   401 401
POST   /account/email                 401    303      303   303    401     401   401    401      401  401  401   401 401
POST   /account/password              401    303      303   303    401     401   401    401      401  401  401   401 401
POST   /account/signout-everywhere    401    303      303   303    401     401   401    401      401  401  401   401 401
GET    /tickets/new                   401    200      200   200    401     401   401    401      401  401  401   401 401
POST   /tickets/new                   401    303      303   303    401     401   401    401      401  401  401   401 401
GET    /tickets/{id}/edit             401    403      403   200    401     401   401    401      401  401  401   401 401
POST   /tickets/{id}/edit             401    403      403   303    401     401   401    401      401  401  401   401 401
GET    /sell                          401    200      200   200    401     401   401    401      401  401  401   401 401
POST   /tickets/{id}/buy              401    303      303   409    401     401   401    401      401  401  401   401 401
GET    /orders                        401    200      200   200    401     401   401    401      401  401  401   401 401
GET    /orders/{id}                   401    403      200   403    401     401   401    401      401  401  401   401 401
POST   /orders/{id}/pay               401    403      303   403    401     401   401    401      401  401  401   401 401
POST   /orders/{id}/cancel            401    403      303   403    401     401   401    401      401  401  401   401 401
"""
PUBLIC_PAGES = {
    *("/static/{fingerprint}/{name}", "/live", "/", "/auth/signup", "/auth/signin", "/auth/signout", "/tickets/{id}"),
    *("/amount", "/{anything:path}"),
    # Like /auth/signin, they need no session but a password, and show a form to its user only.
    *("/tickets/new/signin", "/tickets/{id}/edit/signin", "/account/email/signin"),
}

PEOPLE = ("stranger", "buyer", "seller")
Table = dict[str, dict[str, int]]


def read(table: str) -> Table:
    heads, *rows = [line.split() for line in table.strip().splitlines()]
    return {f"{row[0]} {row[1]}": dict(zip(heads, map(int, row[2:]), strict=True)) for row in rows}


def impersonated(row: dict[str, int]) -> str:
    """Return the user a forger impersonates: one who is allowed to."""
    return next((name for name in ("buyer", "seller", "stranger") if row[name] < 400), "buyer")


@dataclass
class Scene:
    """Users, and requests in which everything is right except perhaps the token."""

    market: Market
    people: dict[str, UUID]
    ended: dict[str, str]

    @property
    def forger(self) -> Forger:
        return Forger(signing_key_of(self.market.app))

    def token(self, name: str) -> str:
        """Return the token of another session of a user."""
        expires_at = clock.now().timestamp() + 3600
        user = SignedInUser(self.people[name], f"{name}@example.com", ids.new_id(), expires_at)
        return token_of(self.market.app, user)

    def token_for(self, column: str, claimed: str) -> str | None:
        if column == "nobody":
            return None
        if column in PEOPLE:
            return self.token(column)
        if column == "ended":
            return self.ended[claimed]
        forger = self.forger
        forger.claims |= {"sub": str(self.people[claimed]), "email": f"{claimed}@example.com"}
        forged: dict[str, Callable[[], str]] = {
            "expired": lambda: forger.sign(exp=forger.claims["iat"] - 1),
            "issuer": lambda: forger.sign(iss="elsewhere"),
            "audience": lambda: forger.sign(aud="elsewhere"),
            "type": lambda: forger.sign(headers={"typ": "JWT"}),
            "none": lambda: forger.encode("none", lambda _: b""),
            "hs256": lambda: forger.with_public_key_as_secret(public_pem(forger)),
            "kid": lambda: forger.sign(headers={"kid": "elsewhere"}),
            "key": lambda: forger.sign(pem=new_signing_key()),
        }
        return forged[column]()

    async def send(self, operation: str, token: str | None, objects: dict[str, str]) -> httpx.Response:
        """Send the request of an operation, with everything right except perhaps the token."""
        method, path = operation.split()
        path = path.replace("{id}", objects["ticket" if "/tickets/" in path else "order"])
        headers = {} if token is None else {"cookie": f"session={token}"}
        kind, sent = SENT.get(operation, _nothing)(objects)
        if operation == "POST /api/payments/webhook":
            headers["stripe-signature"] = stripe.WebhookSignature.generate_signature_header(sent, WEBHOOK_SECRET)
        if operation == "GET /api/payments":
            path += f"?orderId={objects['order']}"
        async with self.market.app.client() as client:
            return await client.request(method, path, headers=headers, **{kind: sent})

    async def objects(self, *, ordered: bool) -> dict[str, str]:
        """Return a ticket's id, an order's id (the buyer's order for that ticket if `ordered`) and a new e-mail."""
        async with self.client_of("seller") as seller, self.client_of("buyer") as buyer:
            ticket = await self.market.lists(seller)
            order = await self.market.locked(buyer, ticket) if ordered else {"id": str(ids.new_id())}
        return {"ticket": ticket["id"], "order": order["id"], "new": f"{ids.new_token(8)}@example.com"}

    def client_of(self, name: str) -> httpx.AsyncClient:
        client = self.market.app.client()
        client.headers["cookie"] = f"session={self.token(name)}"
        return client

    async def state(self, objects: dict[str, str]) -> list[Any]:
        """Return everything the operations could have changed."""
        async with self.client_of("buyer") as buyer:
            ticket = (await buyer.get(f"/api/tickets/{objects['ticket']}")).json()
            order = (await buyer.get(f"/api/orders/{objects['order']}")).json()
        count = self.market.database
        counts = [
            await count("auth").fetchval("SELECT count(*) FROM account"),
            await count("tickets").fetchval("SELECT count(*) FROM ticket"),
            await count("orders").fetchval("SELECT count(*) FROM orders"),
            await count("payments").fetchval("SELECT count(*) FROM payment"),
        ]
        return [ticket, {name: value for name, value in order.items() if name != "now"}, *counts]


def _webhook() -> str:
    event = {"id": f"evt_{ids.new_token(8)}", "type": "customer.created", "livemode": False, "data": {"object": {}}}
    return json.dumps(event)


Sent = tuple[str, Any]


def _nothing(_objects: dict[str, str]) -> Sent:
    return "json", None


SENT: dict[str, Callable[[dict[str, str]], Sent]] = {
    "POST /api/users/signup": lambda objects: ("json", {"email": objects["new"], "password": PASSWORD}),
    "POST /api/users/signin": lambda _: ("json", {"email": "seller@example.com", "password": PASSWORD}),
    "PUT /api/users/currentuser": lambda _: ("json", {"currentPassword": PASSWORD, "password": PASSWORD}),
    "POST /api/tickets": lambda _: ("json", {"title": "Fado night", "price": 20}),
    "PUT /api/tickets/{id}": lambda _: ("json", {"title": "Another night", "price": 30}),
    "POST /api/orders": lambda objects: ("json", {"ticketId": objects["ticket"]}),
    "POST /api/payments": lambda objects: ("json", {"orderId": objects["order"], "token": "tok_visa"}),
    "POST /api/payments/webhook": lambda _: ("content", _webhook()),
    "POST /account/email": lambda objects: ("data", {"email": objects["new"], "emailPassword": PASSWORD}),
    "POST /account/password": lambda _: ("data", {"currentPassword": PASSWORD, "password": PASSWORD}),
    "POST /tickets/new": lambda _: ("data", {"title": "Fado night", "price": "20"}),
    "POST /tickets/{id}/edit": lambda _: ("data", {"title": "Another night", "price": "30", "etag": '"0"'}),
    "POST /orders/{id}/pay": lambda _: ("data", {"token": "tok_visa"}),
}
# Each cell of these operations needs a ticket or an e-mail of its own.
ONE_EACH = {
    "POST /api/users/signup", "POST /api/orders", "POST /tickets/{id}/buy", "POST /account/email",
}  # fmt: skip
ON_A_FREE_TICKET = {"PUT /api/tickets/{id}", "POST /api/orders"} | {
    f"{method} /tickets/{{id}}/{action}" for method in ("GET", "POST") for action in ("edit", "buy")
}


@pytest_asyncio.fixture
async def scene(databases: engines.Databases, start_nats: StartNats) -> AsyncIterator[Scene]:
    async with marketplace(databases, start_nats, *WITH_MONEY, "web") as market:
        people: dict[str, UUID] = {}
        for name in PEOPLE:
            async with market.app.client() as client:
                people[name] = await sign_up(client, f"{name}@example.com")
        found = Scene(market, people, {})
        found.ended = {name: found.token(name) for name in PEOPLE}
        for token in found.ended.values():
            async with market.app.client() as client:
                await client.post("/api/users/signout", headers={"cookie": f"session={token}"})

                async def is_ended_everywhere(token: str = token) -> bool:
                    serving = [each.name for each in market.services if each.operations or each.pages]
                    return not any([await market.app.running[name].sessions.user(token) for name in serving])

                await eventually(is_ended_everywhere, "every service refuses the ended session")
        yield found


def status(response: httpx.Response) -> int:
    return 401 if response.headers.get("location", "").startswith("/auth/signin") else response.status_code


async def actual_table(scene: Scene, expected: Table) -> Table:
    """Send every operation as every caller, refused ones first, and check that those change nothing."""
    found: Table = {}
    for operation, row in expected.items():
        claimed = impersonated(row)
        is_ordered = operation not in ON_A_FREE_TICKET
        objects = await scene.objects(ordered=is_ordered)
        before = await scene.state(objects)
        refused = [column for column, status in row.items() if status >= 400 or column not in PEOPLE]
        is_open = row["nobody"] < 300
        statuses: dict[str, int] = {}
        for column in [*refused, *(each for each in row if each not in refused)]:
            if column not in refused and not is_open and len(statuses) == len(refused):
                assert await scene.state(objects) == before, operation
            if operation in ONE_EACH and (is_open or column not in refused):
                objects = await scene.objects(ordered=is_ordered)
            response = await scene.send(operation, scene.token_for(column, claimed), objects)
            statuses[column] = status(response)
            if "/api/" in operation and response.status_code >= 400:
                assert messages_of(response), (operation, column)
        found[operation] = {column: statuses[column] for column in row}
    return found


def differences(found: Table, expected: Table) -> list[str]:
    return [
        f"{operation} by {column}: {status}, not {expected[operation][column]}"
        for operation, row in found.items()
        for column, status in row.items()
        if status != expected[operation][column]
    ]


async def test_the_api_follows_the_authorisation_table(scene: Scene) -> None:
    expected = read(TABLE)
    async with scene.market.app.client() as visitor:
        document: Json = (await visitor.get("/api/openapi.json")).json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == set(expected)
    assert differences(await actual_table(scene, expected), expected) == []
    for column in expected["GET /api/users/currentuser"]:
        response = await scene.send("GET /api/users/currentuser", scene.token_for(column, "buyer"), {"order": ""})
        assert (response.json()["currentUser"] is not None) == (column in PEOPLE), column


async def test_the_pages_follow_the_authorisation_table(scene: Scene) -> None:
    expected = read(TABLE_OF_PAGES)
    assert WEB.pages is not None
    routes: list[Any] = list(WEB.pages(scene.market.app.running["web"]))
    wanted = {
        f"{method} {route.path}"
        for route in routes
        if route.path not in PUBLIC_PAGES
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert wanted == set(expected)
    assert differences(await actual_table(scene, expected), expected) == []
