"""People who do several things at once, in several browsers: nobody waits for a lock until the database gives up."""

import asyncio
from contextlib import AsyncExitStack
from ipaddress import ip_network

import httpx

from admitone.auth.delays import count_try, take_back
from admitone.auth.model import Guess
from admitone.kernel.runner import App
from tests.support import PASSWORD, eventually, sign_in, sign_up

AT_ONCE = 4
ROUNDS = 8


async def browsers_of(stack: AsyncExitStack, app: App, email: str) -> list[httpx.AsyncClient]:
    """Somebody new, signed in in several browsers."""
    browsers = [await stack.enter_async_context(app.client()) for _ in range(AT_ONCE)]
    await sign_up(browsers[0], email)
    for each in browsers[1:]:
        await sign_in(each, email)
    return browsers


async def test_signing_out_everywhere_in_two_browsers_at_once_signs_out_both(app: App) -> None:
    for number in range(ROUNDS):
        async with AsyncExitStack() as stack:
            browsers = await browsers_of(stack, app, f"alice{number}@example.com")
            leaving = [each.post("/api/users/signout-everywhere") for each in browsers[:2]]
            answers = await asyncio.gather(*leaving)
            # Who was slower may be signed out already.
            assert {each.status_code for each in answers} <= {200, 401}
            for each in browsers:
                assert (await each.get("/api/users/currentuser")).json() == {"currentUser": None}


async def test_a_new_password_in_one_browser_while_another_signs_out_everywhere(app: App) -> None:
    for number in range(ROUNDS):
        async with AsyncExitStack() as stack:
            changing, leaving, *_ = await browsers_of(stack, app, f"alice{number}@example.com")
            fresh = {"currentPassword": PASSWORD, "password": "six-quiet-magpies"}
            answers = await asyncio.gather(
                changing.put("/api/users/currentuser", json=fresh), leaving.post("/api/users/signout-everywhere")
            )
            assert {each.status_code for each in answers} <= {200, 401}


async def test_who_succeeds_and_who_tries_meanwhile_do_not_wait_for_each_other_for_ever(app: App) -> None:
    """Half of all accounts come after their place in the order of locks, so there are several."""
    database = app.running["auth"].database
    from_place = Guess(Guess.from_place(ip_network("192.0.2.0/24")).about, free=1000)

    async def succeed(at_account: Guess) -> None:
        await count_try(database, [at_account, from_place])
        async with database.transaction() as tx:
            await take_back(tx, at_account, from_place)

    for number in range(ROUNDS):
        at_account = Guess(Guess.at_account(f"alice{number}@example.com", None).about, free=1000)
        await asyncio.gather(*(succeed(at_account) for _ in range(5 * AT_ONCE)))


async def test_somebody_who_waits_while_signing_in_holds_up_nobody_behind_the_same_address(app: App) -> None:
    async with app.client() as alice:
        await sign_up(alice, "alice@example.com")
        async with app.running["auth"].database.transaction() as tx:
            await tx.execute("SELECT id FROM account WHERE email = 'alice@example.com' FOR UPDATE")
            credentials = {"email": "alice@example.com", "password": PASSWORD}
            waiting = asyncio.create_task(alice.post("/api/users/signin", json=credentials))

            async def is_waiting() -> object:
                return await tx.fetchval("SELECT true FROM pg_locks WHERE NOT granted LIMIT 1")

            await eventually(is_waiting, "alice waits for her account")
            # What a try of anybody else in her network would be counted in.
            assert await tx.fetch("SELECT about FROM tries FOR UPDATE NOWAIT")
        assert (await waiting).status_code in {200, 503}  # a starved machine may let the lock time out
