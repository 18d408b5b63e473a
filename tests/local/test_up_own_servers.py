"""`admitone up` with servers of one's own: those are used, and none is started beside them."""

from collections.abc import Callable
from pathlib import Path

import httpx

from admitone import registry
from admitone.local.nats import Nats
from tests.engines import Databases, wait_until
from tests.whole import running_up


async def test_servers_of_ones_own_are_used_and_not_started(
    databases: Databases, start_nats: Callable[..., Nats], folder: Path
) -> None:
    bus = start_nats()
    environ = {"NATS_URL": bus.url("admin")}
    for service in (each.name for each in registry.SERVICES if each.has_database):
        fresh = await databases.fresh(service)
        environ[f"ADMITONE_{service.upper()}_DATABASE_URL"] = fresh.url
        environ[f"ADMITONE_{service.upper()}_MIGRATOR_URL"] = fresh.migrator_url
    with running_up(folder / "data", port=None, **environ) as up:
        assert "PostgreSQL" not in up.said
        assert "NATS" not in up.said
        assert not (up.folder / "postgres").exists()
        assert not (up.folder / "nats").exists()
        with up.person("alice") as alice, up.person("bob") as bob:
            ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
            wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders")
        checked = up.run("check", **environ)
        assert checked.returncode == 0, checked.stdout
        assert up.stop() == 0


def test_a_bus_that_is_away_keeps_nobody_from_starting(folder: Path) -> None:
    environ = {"NATS_URL": "nats://127.0.0.1:9"}
    with running_up(folder / "data", port=None, **environ) as up:
        assert httpx.get(f"{up.url}/health/ready").status_code == 200
        with up.person("alice") as alice:
            assert alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).status_code == 201
        assert up.stop() == 0
