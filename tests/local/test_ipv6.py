"""`admitone up` at an IPv6 address. Not collected on machines without one."""

from pathlib import Path

import pytest

from tests.engines import wait_until
from tests.whole import running_up


@pytest.mark.parametrize("arguments", [(), ("--processes",)], ids=["one process", "processes"])
@pytest.mark.parametrize("host", ["::1", "::"])
def test_a_marketplace_at_an_ipv6_address_sells_a_ticket(host: str, arguments: tuple[str, ...], folder: Path) -> None:
    environment = {"ADMITONE_HOST": host, "ADMITONE_ALLOW_TEST_PAYMENTS": "1"}
    with running_up(folder / "data", *arguments, port=None, **environment) as up:
        up.host = "[::1]"
        assert f"http://[{host}]:{up.port}\n" in up.output
        with up.person("alice") as alice, up.person("bob") as bob:
            assert bob.get("/health/ready").status_code == 200
            ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
            wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders")
            order = bob.get("/api/orders").json()["orders"][0]["id"]
            paying = {"orderId": order, "token": "pm_card_visa"}
            wait_until(lambda: bob.post("/api/payments", json=paying).status_code == 201, "bob pays")
            wait_until(lambda: bob.get(f"/api/tickets/{ticket}").json()["status"] == "sold", "the ticket is sold")
            assert alice.get("/").status_code == 200
        assert up.run("check").returncode == 0
