"""Idempotency: a repeated request with the same key has one effect and one response."""

import asyncio

from admitone.kernel.runner import App
from tests.kernel.http.support import error_of
from tests.support import published_by, signed_in


async def test_concurrent_requests_with_the_same_key_have_one_effect_and_one_response(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        headers = {"idempotency-key": "one"}
        responses = await asyncio.gather(
            *(alice.post("/api/notes", json={"text": "hello"}, headers=headers) for _ in range(8))
        )
    assert {response.status_code for response in responses} <= {201, 503}
    assert len({response.text for response in responses if response.status_code == 201}) == 1
    assert len(await published_by(app, "alpha")) == 1


async def test_a_key_used_for_another_body_is_refused(app: App) -> None:
    async with signed_in(app, "alice") as alice, signed_in(app, "bob") as bob:
        headers = {"idempotency-key": "one"}
        first = await alice.post("/api/notes", json={"text": "hello"}, headers=headers)
        reordered = await alice.post(
            "/api/notes", content=b' {"text" : "hello"}', headers={**headers, "content-type": "application/json"}
        )
        other = await alice.post("/api/notes", json={"text": "goodbye"}, headers=headers)
        bobs = await bob.post("/api/notes", json={"text": "goodbye"}, headers=headers)
    assert first.text == reordered.text
    assert error_of(other) == (422, [("This Idempotency-Key was used for a different request", None)])
    assert bobs.status_code == 201, "each user has keys of their own"
    assert len(await published_by(app, "alpha")) == 2


async def test_a_refusal_is_not_stored_under_a_key(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        headers = {"idempotency-key": "one"}
        assert (await alice.post("/api/notes", json={"text": "torn"}, headers=headers)).status_code == 409
        assert (await alice.post("/api/notes", json={"text": "whole"}, headers=headers)).status_code == 201


async def test_a_key_of_invisible_or_too_many_characters_is_refused(app: App) -> None:
    async with signed_in(app, "alice") as alice:
        for key in ("", "x" * 256, "ümlaut", "tab\there"):
            headers = [(b"idempotency-key", key.encode("latin-1"))]
            response = await alice.post("/api/notes", json={"text": "hello"}, headers=headers)
            assert error_of(response) == (400, [("Idempotency-Key must be 1 to 255 visible characters", None)])
    assert await published_by(app, "alpha") == []
