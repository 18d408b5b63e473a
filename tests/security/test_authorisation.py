"""Who may do what: every operation of the API, for everybody who may come along, in one table."""

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
from admitone.kernel.identity import Person
from admitone.web.service import SERVICE as WEB
from tests import engines
from tests.auth.test_tokens import Forger, public_pem
from tests.stripe_sandbox.running import WEBHOOK_SECRET
from tests.support import PASSWORD, StartNats, eventually, messages_of, sign_up, token_of
from tests.system.support import WITH_MONEY, Json, Market, marketplace

# Those after the seller bring a token that says to be whoever may do it, with one thing wrong: it is out of time, its
# session was ended, it names another issuer, audience or type, it is signed with nothing, with the public key as a
# secret, under a key that auth does not have, or with another key under auth's name. They get what nobody gets.
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

# The pages that belong to somebody; 401 stands for being sent to sign in, and 303 for being sent on after a deed.
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
PAGES_FOR_EVERYBODY = {
    *("/static/{edition}/{name}", "/live", "/", "/auth/signup", "/auth/signin", "/auth/signout", "/tickets/{id}"),
    "/{anything:path}",
}

PEOPLE = ("stranger", "buyer", "seller")
Table = dict[str, dict[str, int]]


def read(table: str) -> Table:
    heads, *rows = [line.split() for line in table.strip().splitlines()]
    return {f"{row[0]} {row[1]}": dict(zip(heads, map(int, row[2:]), strict=True)) for row in rows}


def by_whom(row: dict[str, int]) -> str:
    """Whom a forger would like to be taken for."""
    return next((name for name in ("buyer", "seller", "stranger") if row[name] < 400), "buyer")


@dataclass
class Scene:
    """Real people, and a market in which a good token is the only thing that is missing."""

    market: Market
    people: dict[str, UUID]
    ended: dict[str, str]

    @property
    def forger(self) -> Forger:
        return Forger(self.market.app.running["auth"].settings.signing_key)

    def token(self, name: str) -> str:
        """Another session of somebody."""
        expires_at = clock.now().timestamp() + 3600
        person = Person(self.people[name], f"{name}@example.com", ids.new_id(), expires_at)
        return token_of(self.market.app, person)

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
            "none": lambda: forger.written("none", lambda _: b""),
            "hs256": lambda: forger.with_public_key_as_secret(public_pem(forger)),
            "kid": lambda: forger.sign(headers={"kid": "elsewhere"}),
            "key": lambda: forger.sign(pem=new_signing_key()),
        }
        return forged[column]()

    async def ask(self, operation: str, token: str | None, things: dict[str, str]) -> httpx.Response:
        """Ask for an operation with everything right except perhaps the token."""
        method, path = operation.split()
        path = path.replace("{id}", things["ticket" if "/tickets/" in path else "order"])
        headers = {} if token is None else {"cookie": f"session={token}"}
        kind, sent = SENT.get(operation, _nothing)(things)
        if operation == "POST /api/payments/webhook":
            headers["stripe-signature"] = stripe.WebhookSignature.generate_signature_header(sent, WEBHOOK_SECRET)
        if operation == "GET /api/payments":
            path += f"?orderId={things['order']}"
        async with self.market.app.client() as client:
            return await client.request(method, path, headers=headers, **{kind: sent})

    async def things(self, *, ordered: bool) -> dict[str, str]:
        """A ticket of the seller's, and on demand the buyer's order for it."""
        async with self.somebody("seller") as seller, self.somebody("buyer") as buyer:
            ticket = await self.market.lists(seller)
            order = await self.market.locked(buyer, ticket) if ordered else {"id": str(ids.new_id())}
        return {"ticket": ticket["id"], "order": order["id"], "new": f"{ids.new_token(8)}@example.com"}

    def somebody(self, name: str) -> httpx.AsyncClient:
        client = self.market.app.client()
        client.headers["cookie"] = f"session={self.token(name)}"
        return client

    async def state(self, things: dict[str, str]) -> list[Any]:
        """Everything the operations could have changed."""
        async with self.somebody("buyer") as buyer:
            ticket = (await buyer.get(f"/api/tickets/{things['ticket']}")).json()
            order = (await buyer.get(f"/api/orders/{things['order']}")).json()
        count = self.market.database
        counts = [
            await count("auth").fetchval("SELECT count(*) FROM account"),
            await count("tickets").fetchval("SELECT count(*) FROM ticket"),
            await count("orders").fetchval("SELECT count(*) FROM orders"),
            await count("payments").fetchval("SELECT count(*) FROM payment"),
        ]
        return [ticket, {name: value for name, value in order.items() if name != "now"}, *counts]


def _webhook() -> str:
    told = {"id": f"evt_{ids.new_token(8)}", "type": "customer.created", "livemode": False, "data": {"object": {}}}
    return json.dumps(told)


Sent = tuple[str, Any]


def _nothing(_things: dict[str, str]) -> Sent:
    return "json", None


SENT: dict[str, Callable[[dict[str, str]], Sent]] = {
    "POST /api/users/signup": lambda things: ("json", {"email": things["new"], "password": PASSWORD}),
    "POST /api/users/signin": lambda _: ("json", {"email": "seller@example.com", "password": PASSWORD}),
    "PUT /api/users/currentuser": lambda _: ("json", {"currentPassword": PASSWORD, "password": PASSWORD}),
    "POST /api/tickets": lambda _: ("json", {"title": "Fado night", "price": 20}),
    "PUT /api/tickets/{id}": lambda _: ("json", {"title": "Another night", "price": 30}),
    "POST /api/orders": lambda things: ("json", {"ticketId": things["ticket"]}),
    "POST /api/payments": lambda things: ("json", {"orderId": things["order"], "token": "tok_visa"}),
    "POST /api/payments/webhook": lambda _: ("content", _webhook()),
    "POST /account/email": lambda things: ("data", {"email": things["new"], "emailPassword": PASSWORD}),
    "POST /account/password": lambda _: ("data", {"currentPassword": PASSWORD, "password": PASSWORD}),
    "POST /tickets/new": lambda _: ("data", {"title": "Fado night", "price": "20"}),
    "POST /tickets/{id}/edit": lambda _: ("data", {"title": "Another night", "price": "30", "etag": '"0"'}),
    "POST /orders/{id}/pay": lambda _: ("data", {"token": "tok_visa"}),
}
# Every cell that would take the ticket or change the account needs one of its own.
ONE_EACH = {
    "POST /api/users/signup", "POST /api/orders", "POST /tickets/{id}/buy", "POST /account/email",
}  # fmt: skip
ON_A_FREE_TICKET = {"PUT /api/tickets/{id}", "POST /api/orders"} | {
    f"{method} /tickets/{{id}}/{deed}" for method in ("GET", "POST") for deed in ("edit", "buy")
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
                    running = market.app.running.values()
                    return not any([await each.identity.person(token) for each in running])

                await eventually(is_ended_everywhere, "every service refuses the ended session")
        yield found


def status(answer: httpx.Response) -> int:
    return 401 if answer.headers.get("location", "").startswith("/auth/signin") else answer.status_code


async def fill(scene: Scene, expected: Table) -> Table:
    """Ask for everything by everybody, those who are refused first; nothing may have changed until then."""
    found: Table = {}
    for operation, row in expected.items():
        claimed = by_whom(row)
        is_ordered = operation not in ON_A_FREE_TICKET
        things = await scene.things(ordered=is_ordered)
        before = await scene.state(things)
        refused = [column for column, status in row.items() if status >= 400 or column not in PEOPLE]
        is_open = row["nobody"] < 300
        answered: dict[str, int] = {}
        for column in [*refused, *(each for each in row if each not in refused)]:
            if column not in refused and not is_open and len(answered) == len(refused):
                assert await scene.state(things) == before, operation
            if operation in ONE_EACH and (is_open or column not in refused):
                things = await scene.things(ordered=is_ordered)
            answer = await scene.ask(operation, scene.token_for(column, claimed), things)
            answered[column] = status(answer)
            if "/api/" in operation and answer.status_code >= 400:
                assert messages_of(answer), (operation, column)
        found[operation] = {column: answered[column] for column in row}
    return found


def differences(found: Table, expected: Table) -> list[str]:
    return [
        f"{operation} by {column}: {status}, not {expected[operation][column]}"
        for operation, row in found.items()
        for column, status in row.items()
        if status != expected[operation][column]
    ]


async def test_everybody_may_do_what_the_table_says_and_a_new_operation_needs_a_row(scene: Scene) -> None:
    expected = read(TABLE)
    async with scene.market.app.client() as anybody:
        document: Json = (await anybody.get("/api/openapi.json")).json()
    described = {f"{method.upper()} {path}" for path, methods in document["paths"].items() for method in methods}
    assert described == set(expected)
    assert differences(await fill(scene, expected), expected) == []
    for column in expected["GET /api/users/currentuser"]:
        answer = await scene.ask("GET /api/users/currentuser", scene.token_for(column, "buyer"), {"order": ""})
        assert (answer.json()["currentUser"] is not None) == (column in PEOPLE), column


async def test_every_page_is_for_everybody_or_in_the_table_and_does_what_that_says(scene: Scene) -> None:
    expected = read(TABLE_OF_PAGES)
    assert WEB.pages is not None
    routes: list[Any] = list(WEB.pages(scene.market.app.running["web"]))
    wanted = {
        f"{method} {route.path}"
        for route in routes
        if route.path not in PAGES_FOR_EVERYBODY
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert wanted == set(expected)
    assert differences(await fill(scene, expected), expected) == []
