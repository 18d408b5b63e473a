"""Malformed and hostile input is refused with the one error body, which repeats nothing of it."""

from collections.abc import AsyncIterator

import httpx
import pytest

from admitone.auth.service import SERVICE
from admitone.kernel.http.operations import Operation
from admitone.kernel.http.parsing import BODY_BYTES_MAX
from admitone.kernel.runner import App
from tests.support import PASSWORD, messages_of

SECRET = "zxcvbnm-do-not-repeat"


WITH_BODY = [each for each in SERVICE.operations if each.body is not None]


EMAIL = b'"email": "alice@example.com"'


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "cut short": b'{"email": "' + SECRET.encode(),
    "null": b"null",
    "a list": b'["' + SECRET.encode() + b'"]',
    "a text": b'"' + SECRET.encode() + b'"',
    "a number": b"1",
    "two documents": b"{}{}",
    "1e309 alone": b"1e309",
    "1e309 in a field": b'{"email": 1e309, "password": 1e309, "currentPassword": 1e309}',
    "-1e309 in an unknown field": b'{"' + SECRET.encode() + b'": -1e309}',
    "a number of a million digits": b'{"password": ' + b"9" * 60_000 + b"}",
    "NaN": b'{"email": NaN}',
    "Infinity": b'{"email": Infinity}',
    "a lone surrogate": b'{"email": "\\ud800@example.com", "password": "\\udc00\\udc00\\udc00\\udc00"}',
    "NUL": b'{"email": "a\\u0000@example.com", "password": "pass\\u0000word", "currentPassword": "\\u0000"}',
    "a raw NUL": b'{"email": "a\x00@example.com"}',
    "bytes that are not UTF-8": b'{"email": "\xff\xfe@example.com"}',
    "UTF-16": '{"email": "alice@example.com"}'.encode("utf-16"),
    "100,000 brackets": b"[" * 100_000,
    "60,000 brackets": b"[" * 60_000,
    "brackets in a field": b'{"email": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "objects in objects": b'{"email": ' * 5_000 + b"1" + b"}" * 5_000,
    "21 levels": b'{"email": ' + b"[" * 21 + b"]" * 21 + b"}",
    "10 MB": b'{"email": "' + b"a" * 10_000_000 + b'"}',
    "an unknown field": b"{" + EMAIL + b', "' + SECRET.encode() + b'": 1}',
    "another's fields": b"{" + EMAIL + b', "password": "long enough", "id": "1", "version": 7, "isAdmin": true}',
    "an operator": b'{"email": {"$gt": ""}, "password": {"$gt": ""}, "currentPassword": {"$ne": null}}',
    "lists": b'{"email": [' + EMAIL[9:] + b'], "password": ["' + SECRET.encode() + b'"], "currentPassword": []}',
    "booleans": b'{"email": true, "password": false, "currentPassword": true}',
    "nulls": b'{"email": null, "password": null, "currentPassword": null}',
    "SQL": b'{"email": "\' OR 1=1 --", "password": "\'; DROP TABLE account; --", "currentPassword": "x"}',
    "a very long email": b'{"email": "' + b"a" * 60_000 + b'@example.com", "password": "long enough"}',
    "a very long password": b'{"email": "a", "password": "' + b"a" * 60_000 + b'"}',
}


@pytest.fixture(params=WITH_BODY, ids=lambda each: each.use_case.__name__)
def operation(request: pytest.FixtureRequest) -> Operation:
    declared = request.param
    assert isinstance(declared, Operation)
    return declared


def assert_refused(response: httpx.Response, *statuses: int) -> None:
    assert response.status_code in statuses
    assert response.headers["content-type"] == "application/json"
    assert messages_of(response)
    assert SECRET not in response.text
    assert len(response.content) < 2_000


async def test_g16_bad_bodies_are_refused(alice: httpx.AsyncClient, operation: Operation) -> None:
    for body in BAD_BODIES.values():
        response = await alice.request(
            operation.method, operation.path, content=body, headers={"content-type": "application/json"}
        )
        assert_refused(response, 400, 413)
    # Nothing has changed.
    assert (await alice.get("/api/users/currentuser")).json()["currentUser"]["email"] == "alice@example.com"
    assert (
        await alice.post("/api/users/signin", json={"email": "alice@example.com", "password": PASSWORD})
    ).status_code == 200


async def test_g16_more_than_64_kib_without_a_content_length_is_refused(
    alice: httpx.AsyncClient, operation: Operation
) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(10_000):
            yield b" " * 1_000

    response = await alice.request(
        operation.method, operation.path, content=endless(), headers={"content-type": "application/json"}
    )
    assert_refused(response, 413)


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
async def test_g16_content_types_other_than_json_are_refused(
    alice: httpx.AsyncClient, operation: Operation, kind: str | None
) -> None:
    headers = {"content-type": kind} if kind else {}
    response = await alice.request(operation.method, operation.path, content=b"{" + EMAIL + b"}", headers=headers)
    assert_refused(response, 415)


@pytest.mark.parametrize("path", ["signout", "currentuser", "jwks"])
async def test_g16_operations_without_input_ignore_body_and_query(alice: httpx.AsyncClient, path: str) -> None:
    method = "POST" if path == "signout" else "GET"
    for body in BAD_BODIES.values():
        response = await alice.request(method, f"/api/users/{path}?{SECRET}=1&%00=%ff", content=body)
        assert response.status_code == (200 if len(body) <= BODY_BYTES_MAX else 413)
        assert SECRET not in response.text


@pytest.mark.parametrize("path", ["", "/", "/nonsense", f"/{SECRET}", "/signup/", "/currentuser/1", "/%00", "/%ff"])
async def test_g16_unknown_routes_are_not_found(visitor: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE", "PATCH"):
        response = await visitor.request(method, f"/api/users{path}")
        assert_refused(response, 404)
        assert messages_of(response) == [("Not Found", None)]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/api/users/signup", "POST"),
        ("DELETE", "/api/users/currentuser", "GET, PUT"),
        ("PUT", "/api/users/signin", "POST"),
        ("GET", "/api/users/signout", "POST"),
        ("GET", "/api/users/signout-everywhere", "POST"),
        ("POST", "/api/users/jwks", "GET"),
    ],
)
async def test_g16_unsupported_methods_are_refused_with_the_allowed_ones(
    visitor: httpx.AsyncClient, method: str, path: str, allowed: str
) -> None:
    response = await visitor.request(method, path)
    assert_refused(response, 405)
    assert response.headers["allow"] == allowed


async def test_g05_every_protected_route_requires_a_session(app: App) -> None:
    protected = [each for each in SERVICE.operations if each.signed_in]
    assert {each.use_case.__name__ for each in protected} == {"change_account", "sign_out_everywhere"}
    async with app.client() as nobody:
        for each in protected:
            response = await nobody.request(each.method, each.path, json={})
            assert (response.status_code, messages_of(response)) == (401, [("Not authorized", None)])


async def test_g01_every_failed_rule_is_one_entry_in_the_order_of_the_fields(visitor: httpx.AsyncClient) -> None:
    response = await visitor.post("/api/users/signup", json={"nickname": "al", "password": "short", "email": "alice"})
    assert response.status_code == 400
    assert response.json() == {
        "errors": [
            {"message": "Email must be valid", "field": "email"},
            {"message": "Password must be between 8 and 128 characters", "field": "password"},
            {"message": "Unknown field"},
        ]
    }
