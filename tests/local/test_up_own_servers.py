"""`admitone up` with the operator's own servers, which it uses instead of starting any."""

from collections.abc import Callable
from pathlib import Path

import httpx

from admitone import registry
from admitone.local.nats import Nats
from tests.engines import Databases, wait_until
from tests.whole import running_up


async def test_named_servers_are_used_and_none_is_started(
    databases: Databases, start_nats: Callable[..., Nats], folder: Path
) -> None:
    bus = start_nats()
    environment = {"NATS_URL": bus.url("admin")}
    for service in (each.name for each in registry.SERVICES if each.has_database):
        fresh = await databases.fresh(service)
        environment[f"ADMITONE_{service.upper()}_DATABASE_URL"] = fresh.url
        environment[f"ADMITONE_{service.upper()}_MIGRATOR_URL"] = fresh.migrator_url
    with running_up(folder / "data", port=None, **environment) as up:
        assert "PostgreSQL" not in up.output
        assert "NATS" not in up.output
        assert not (up.folder / "postgres").exists()
        assert not (up.folder / "nats").exists()
        with up.person("alice") as alice, up.person("bob") as bob:
            ticket = alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).json()["id"]
            wait_until(lambda: bob.post("/api/orders", json={"ticketId": ticket}).status_code == 201, "bob orders")
        checked = up.run("check", **environment)
        assert checked.returncode == 0, checked.stdout
        assert up.stop() == 0


def test_an_unreachable_bus_does_not_prevent_the_start(folder: Path) -> None:
    environment = {"NATS_URL": "nats://127.0.0.1:9"}
    with running_up(folder / "data", port=None, **environment) as up:
        assert "Warning: NATS at 127.0.0.1:9 cannot be reached: Connection refused. Events wait" in up.output
        assert httpx.get(f"{up.url}/health/ready").status_code == 200
        with up.person("alice") as alice:
            assert alice.post("/api/tickets", json={"title": "Fado night", "price": 19.99}).status_code == 201
        assert up.stop() == 0


def test_a_bus_that_refuses_the_login_is_reported(start_nats: Callable[..., Nats], folder: Path) -> None:
    bus = start_nats()
    with running_up(folder / "data", "--processes", port=None, NATS_URL=f"nats://bob:bob@127.0.0.1:{bus.port}") as up:
        assert f"Warning: NATS at 127.0.0.1:{bus.port} cannot be reached: nats: 'Authorization Violation'" in up.output
