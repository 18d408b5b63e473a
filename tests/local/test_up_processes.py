"""`admitone up --processes` runs every service as a process of its own, behind one address."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from admitone import registry
from admitone.local.server import command_line, free_port, is_free
from tests.engines import short_folder, wait_until
from tests.whole import Up, running_up

SERVICES = [each.name for each in registry.SERVICES]


METRICS_PORT = next(first for first in iter(free_port, None) if all(map(is_free, range(first, first + len(SERVICES)))))


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with (
        short_folder() as folder,
        running_up(folder / "data", "--processes", ADMITONE_METRICS_PORT=str(METRICS_PORT)) as up,
    ):
        yield up


def test_each_process_serves_its_metrics_and_says_where(up: Up) -> None:
    for port, service in enumerate(SERVICES, METRICS_PORT):
        url = f"http://127.0.0.1:{port}/metrics"
        assert f"Metrics of {service}: {url}\n" in up.output
        assert f'admitone_bus_connected{{service="{service}"}}' in httpx.get(url).text


def test_each_service_is_a_process_with_only_its_own_secrets(up: Up) -> None:
    for service in SERVICES:
        pid = up.pid(f"processes/{service}")
        assert f"serve {service}" in command_line(pid)
        environment = Path(f"/proc/{pid}/environ").read_text()
        others = [each for each in SERVICES if each != service]
        assert not any(f"ADMITONE_{each.upper()}_DATABASE_URL" in environment for each in others)
        assert ("PRIVATE KEY" in environment) == (service == "auth")
        assert ("STRIPE_SECRET_KEY" in environment) == (service == "payments")


def test_a_purchase_works_across_all_services(up: Up) -> None:
    with up.person("alice") as alice, up.person("bob") as bob:
        ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
        wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders")
        order = bob.get("/api/orders").json()["orders"][0]["id"]
        paying = {"orderId": order, "token": "pm_card_visa"}
        wait_until(lambda: bob.post("/api/payments", json=paying).status_code == 201, "bob pays")
        wait_until(lambda: bob.get(f"/api/orders/{order}").json()["status"] == "complete", "the order is complete")
        wait_until(lambda: bob.get(f"/api/tickets/{ticket}").json()["status"] == "sold", "the ticket is sold")


def test_live_changes_are_forwarded_as_they_happen(up: Up) -> None:
    with up.person("alice") as alice, httpx.stream("GET", f"{up.url}/live", timeout=10) as live:
        lines = live.iter_lines()
        next(lines)
        ticket = alice.post("/api/tickets", json={"title": "Swan Lake", "price": 50}).json()["id"]
        assert any(ticket in line for line in lines)


def test_a_dead_service_is_unavailable_until_it_is_restarted(up: Up) -> None:
    killed = up.pid("processes/tickets")
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: httpx.get(f"{up.url}/api/tickets").status_code == 503, "the proxy notices")
    other = httpx.get(f"{up.url}/api/users/currentuser")
    assert other.status_code == 200, "the others go on"
    wait_until(lambda: httpx.get(f"{up.url}/api/tickets").status_code == 200, "tickets is restarted", 30)
    assert up.pid("processes/tickets") != killed
    wait_until(lambda: httpx.get(f"{up.url}/health/ready").status_code == 200, "all are ready")


def test_the_marketplace_is_not_ready_while_a_service_does_not_respond(up: Up) -> None:
    os.kill(up.pid("processes/orders"), signal.SIGSTOP)
    try:
        answer = httpx.get(f"{up.url}/health/ready", timeout=10)
    finally:
        os.kill(up.pid("processes/orders"), signal.SIGCONT)
    assert answer.status_code == 503
    assert answer.json()["errors"][0]["message"]
    assert answer.headers["retry-after"] == "1"
    wait_until(lambda: httpx.get(f"{up.url}/health/ready").status_code == 200, "ready again")


def test_the_api_document_covers_every_service(up: Up) -> None:
    paths = httpx.get(f"{up.url}/api/openapi.json").json()["paths"]
    assert {"/api/users/signup", "/api/tickets", "/api/orders", "/api/payments"} <= paths.keys()


def test_requests_are_forwarded_unchanged(up: Up) -> None:
    with up.person("alice") as alice:
        listed = alice.post(
            "/api/tickets", json={"title": "Night Bus Comedy", "price": 15}, headers={"Idempotency-Key": "once"}
        )
        assert listed.headers["etag"] == '"0"'
        assert len(listed.headers.get_list("date")) == 1
        path = f"/api/tickets/{listed.json()['id']}"
        assert alice.get(path, headers={"If-None-Match": '"0"'}).status_code == 304
        assert alice.head("/health/live").status_code == 200
        found = alice.get("/api/tickets", params={"q": "bus comedy", "limit": "1"}).json()["tickets"]
        assert [each["id"] for each in found] == [listed.json()["id"]]
        large = alice.post("/api/tickets", content=b"x" * 200_000, headers={"content-type": "application/json"})
        assert large.status_code == 413
        chunked = alice.post(
            "/api/tickets",
            content=iter([json.dumps({"title": "In pieces", "price": 5}).encode()]),
            headers={"content-type": "application/json"},
        )
        assert chunked.status_code == 201


def test_an_unknown_path_of_the_api_gets_the_error_body(up: Up) -> None:
    answer = httpx.get(f"{up.url}/api/nothing")
    assert answer.status_code == 404
    assert answer.json() == {"errors": [{"message": "Not Found"}]}


def test_ctrl_c_stops_every_process_although_a_client_reads_live_changes(folder: Path) -> None:
    with running_up(folder / "data", "--processes") as up, httpx.stream("GET", f"{up.url}/live", timeout=30) as live:
        pids = up.pids()
        assert len(pids) >= len(SERVICES) + 3
        lines = live.iter_lines()
        next(lines)
        assert up.stop() == 0
        list(lines)  # the stream ends properly; the connection is not cut off
    assert not any(map(command_line, pids))
