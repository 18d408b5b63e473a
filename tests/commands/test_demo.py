"""`admitone demo` fills a marketplace."""

import asyncio
from pathlib import Path

import httpx
import pytest
from starlette.responses import PlainTextResponse

from admitone.kernel.http.server import bind_socket, serving_in_background
from admitone.kernel.settings import Settings
from admitone.local.server import LOOPBACK, free_port
from tests.whole import Up, run


def test_the_demo_lists_tickets_and_changes_nothing_when_run_again(up: Up) -> None:
    first = up.run("demo", "--password", "one-ticket-one-holder")
    assert first.returncode == 0, first.stderr
    assert "12 people, 300 tickets" in first.stdout
    assert "The password is one-ticket-one-holder" in first.stdout
    with httpx.Client(base_url=up.url) as alice:
        body = {"email": "alice@demo.example", "password": "one-ticket-one-holder"}
        assert alice.post("/api/users/signin", json=body).status_code == 200
        mine = alice.get("/api/tickets/mine", params={"limit": 100}).json()["tickets"]
        assert {"available", "reserved", "sold"} <= {each["status"] for each in mine}
        second = up.run("demo")
        assert second.returncode == 0, second.stderr
        assert len(alice.get("/api/tickets/mine", params={"limit": 100}).json()["tickets"]) == len(mine)
    assert up.run("check").returncode == 0
    stranger = up.run("demo", "--password", "another-password")
    assert stranger.returncode == 1
    assert "exists with another password" in stranger.stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "localhost:9", "http://[::1"])
def test_the_demo_needs_a_marketplace_and_prints_nothing_without_one(url: str, folder: Path) -> None:
    refused = run("demo", "--url", url, ADMITONE_DATA=str(folder))
    assert refused.returncode == 2
    assert refused.stderr.startswith(f"Error: No marketplace responds at {url}: start `admitone up`")
    assert refused.stdout == ""


async def test_the_demo_is_not_written_into_another_program(folder: Path) -> None:
    public = bind_socket(LOOPBACK, free_port())
    port = public.getsockname()[1]
    async with serving_in_background(PlainTextResponse("hello"), public, Settings(port=port)):
        refused = await asyncio.to_thread(run, "demo", "--url", f"http://{LOOPBACK}:{port}", ADMITONE_DATA=str(folder))
    assert refused.returncode == 1
    assert refused.stderr == f"Error: What responds at http://{LOOPBACK}:{port} is not AdmitOne\n"
    assert refused.stdout == ""
