"""A new signing key takes over while people are signed in, and nobody is asked to sign in again."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn

from admitone.auth.service import SERVICE as AUTH
from admitone.auth.tokens import new_signing_key
from admitone.kernel.runner import App
from admitone.kernel.settings import Settings
from admitone.local.server import LOOPBACK, free_port
from admitone.tickets.service import SERVICE as TICKETS
from tests.engines import Databases
from tests.stripe_sandbox.running import served
from tests.support import StartNats, app_of, settings_for, sign_in, sign_up, with_settings


@asynccontextmanager
async def auth_process(settings: Settings, port: int) -> AsyncIterator[httpx.AsyncClient]:
    """Auth as a process of its own would be, at an address of its own."""
    async with app_of([AUTH], settings) as app:
        config = uvicorn.Config(app, host=LOOPBACK, port=port, lifespan="off", log_config=None)
        async with served(lambda: uvicorn.Server(config)), app.client() as client:
            yield client


async def test_a_key_is_replaced_under_load_without_signing_anyone_out(
    databases: Databases, start_nats: StartNats
) -> None:
    port, (old, new) = free_port(), (new_signing_key(), new_signing_key())
    base = await settings_for(databases, start_nats, AUTH, TICKETS, service_urls={"auth": f"http://{LOOPBACK}:{port}"})

    def signing_with(keys: str) -> Settings:
        return with_settings(base, signing_key=keys)

    async with auth_process(signing_with(old), port) as alice:
        await sign_up(alice, "alice@example.com")
    answers: Counter[int] = Counter()
    async with app_of([TICKETS], base) as tickets:
        # The new key is published while the old one signs: a client that fetches keys from now on gets both.
        async with auth_process(signing_with(old + new), port):
            await ask(tickets, alice, answers, times=50)
        stop = asyncio.Event()
        load = asyncio.create_task(ask_until(tickets, alice, answers, stop))
        # The new key signs; bob's session is the first of it, alice's is of the old one.
        async with auth_process(signing_with(new + old), port) as bob:
            await sign_up(bob, "bob@example.com")
            await ask(tickets, bob, answers, times=50)
            await sign_in(bob, "bob@example.com")
            await ask(tickets, bob, answers, times=50)
        stop.set()
        await load
        # Auth is away: the last good keys are kept, and both sessions are still good.
        await ask(tickets, alice, answers, times=50)
        await ask(tickets, bob, answers, times=50)
    assert set(answers) == {200}, answers
    assert answers[200] > 250


async def ask(tickets: App, person: httpx.AsyncClient, answers: Counter[int], *, times: int) -> None:
    """Ask what only somebody signed in is answered."""
    async with tickets.client() as client:
        cookie = {"cookie": f"session={person.cookies['session']}"}
        for _ in range(times):
            answers[(await client.get("/api/tickets/mine", headers=cookie)).status_code] += 1


async def ask_until(tickets: App, person: httpx.AsyncClient, answers: Counter[int], stop: asyncio.Event) -> None:
    while not stop.is_set():
        await ask(tickets, person, answers, times=1)
