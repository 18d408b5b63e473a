"""One purchase through the services' own addresses: what a person does, without the pages."""

import sys
import time
from collections.abc import Callable
from typing import Any

import httpx

DEADLINE_SECONDS = 120.0
PASSWORD = "eleven-brass-owls"  # noqa: S105 – of people who live for a minute


def person(name: str) -> dict[str, httpx.Client]:
    """Sign somebody up and return a client of each service that carries the session."""
    services = ("auth", "tickets", "orders", "payments", "web")
    clients = {service: httpx.Client(base_url=f"http://{service}:8000", timeout=10) for service in services}
    body = {"email": f"{name}@example.com", "password": PASSWORD}
    signed_up = clients["auth"].post("/api/users/signup", json=body)
    assert signed_up.status_code == 201, signed_up.text
    for client in clients.values():
        client.headers["cookie"] = f"session={signed_up.cookies['session']}"
    return clients


def until(ask: Callable[[], httpx.Response], good: Callable[[httpx.Response], bool], what: str) -> Any:
    """Ask until the answer is good; fail with the last one when it does not become so in time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        try:
            answer = ask()
            if good(answer):
                return answer.json()
            last = f"{answer.status_code} {answer.text[:300]}"
        except httpx.HTTPError as error:
            last = repr(error)
        if time.monotonic() > deadline:
            sys.exit(f"not in {DEADLINE_SECONDS} s: {what}; the last answer was {last}")
        time.sleep(0.2)


def main() -> None:
    for service in ("auth", "tickets", "orders", "expiration", "payments", "web"):
        url = f"http://{service}:8000/health/ready"
        until(
            lambda url=url: httpx.get(url, timeout=5), lambda answer: answer.status_code == 200, f"{service} is ready"
        )
        print(f"{service} is ready")
    alice, bob = person("alice"), person("bob")
    ticket = alice["tickets"].post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()
    print(f"alice lists a ticket: {ticket['id']}")
    order = until(
        lambda: bob["orders"].post("/api/orders", json={"ticketId": ticket["id"]}),
        lambda answer: answer.status_code == 201,
        "bob holds it",
    )
    print(f"bob holds it until {order['expiresAt']}")
    body = {"orderId": order["id"], "token": "tok_visa"}
    until(lambda: bob["payments"].post("/api/payments", json=body), lambda answer: answer.is_success, "bob pays")
    print("bob pays")
    address = f"/api/orders/{order['id']}"
    until(
        lambda: bob["orders"].get(address),
        lambda answer: answer.json()["status"] == "complete",
        "the order is complete",
    )
    shown = f"/api/tickets/{ticket['id']}"
    until(lambda: bob["tickets"].get(shown), lambda answer: answer.json()["status"] == "sold", "the ticket is sold")
    page = bob["web"].get("/orders")
    assert page.status_code == 200, page.status_code
    assert "Fado night" in page.text
    print("the order is complete, the ticket is sold, and bob's page says so")


if __name__ == "__main__":
    main()
