"""`admitone demo` fills a marketplace."""

from pathlib import Path

import httpx

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


def test_the_demo_needs_a_marketplace(folder: Path) -> None:
    refused = run("demo", "--url", "http://127.0.0.1:9", ADMITONE_DATA=str(folder))
    assert refused.returncode == 2
    assert "No marketplace responds at http://127.0.0.1:9" in refused.stderr
