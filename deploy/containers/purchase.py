"""One purchase through the API of the services, and the page that shows it.

purchase.py HOST SERVICE…
"""

import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx

DEADLINE_SECONDS = 120.0
PASSWORD = "eleven-brass-owls"  # noqa: S105 – of accounts that exist for a minute


def person(name: str, host: str) -> dict[str, httpx.Client]:
    """Sign somebody up and return a client of each service that carries the session.

    Services accept requests for the public host only.
    """
    clients = {
        service: httpx.Client(base_url=f"http://{service}:8000", headers={"host": host}, timeout=10)
        for service in ("auth", "tickets", "orders", "payments", "web")
    }
    body = {"email": f"{name}@example.com", "password": PASSWORD}
    signed_up = clients["auth"].post("/api/users/signup", json=body)
    assert signed_up.status_code == 201, signed_up.text
    for client in clients.values():
        client.headers["cookie"] = f"session={signed_up.cookies['session']}"
    return clients


def wait_for(send: Callable[[], httpx.Response], accept: Callable[[httpx.Response], bool], what: str) -> Any:
    """Repeat a request until its response is accepted; fail with the last response after the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            response = send()
            if accept(response):
                return response.json()
            last = f"{response.status_code} {response.text[:300]}"
        except httpx.HTTPError as error:
            last = repr(error)
        if time.monotonic() > deadline:
            sys.exit(f"not in {DEADLINE_SECONDS} s: {what}; the last response was {last}")
        time.sleep(0.2)


def main(host: str, services: list[str]) -> None:
    for service in services:
        url = f"http://{service}:8000/health/ready"
        wait_for(
            partial(httpx.get, url, timeout=5),
            lambda response: response.status_code == 200,
            f"{service} is ready",
        )
        print(f"{service} is ready")
    alice, bob = person("alice", host), person("bob", host)
    ticket = alice["tickets"].post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()
    print(f"alice lists a ticket: {ticket['id']}")
    order = wait_for(
        lambda: bob["orders"].post("/api/orders", json={"ticketId": ticket["id"]}),
        lambda response: response.status_code == 201,
        "bob holds it",
    )
    print(f"bob holds it until {order['expiresAt']}")
    body = {"orderId": order["id"], "token": "tok_visa"}
    wait_for(lambda: bob["payments"].post("/api/payments", json=body), lambda response: response.is_success, "bob pays")
    print("bob pays")
    address = f"/api/orders/{order['id']}"
    wait_for(
        lambda: bob["orders"].get(address),
        lambda response: response.json()["status"] == "complete",
        "the order is complete",
    )
    shown = f"/api/tickets/{ticket['id']}"
    wait_for(
        lambda: bob["tickets"].get(shown), lambda response: response.json()["status"] == "sold", "the ticket is sold"
    )
    page = bob["web"].get("/orders")
    assert page.status_code == 200, page.status_code
    assert "Fado night" in page.text
    print("the order is complete, the ticket is sold, and bob's page says so")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
