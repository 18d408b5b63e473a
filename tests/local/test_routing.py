"""Public paths are routed by what the services declare."""

from typing import Any

import pytest

from admitone.kernel.http.operations import Operation, Request, Response
from admitone.kernel.service import Service
from admitone.local.routing import path_prefixes, service_for
from admitone.registry import SERVICES


async def use_case(_request: Request[Any, Any]) -> Response:
    """Do nothing."""
    return Response(200)


@pytest.mark.parametrize(
    ("path", "service"),
    [
        ("/api/users/signup", "auth"),
        ("/api/tickets", "tickets"),
        ("/api/tickets/019aa5f0", "tickets"),
        ("/api/orders", "orders"),
        ("/api/payments/webhook", "payments"),
        ("/api/ticketsellers", "web"),
        ("/", "web"),
        ("/orders/1", "web"),
        ("/live", "web"),
    ],
)
def test_each_path_is_routed_to_its_service(path: str, service: str) -> None:
    assert service_for(path, path_prefixes(SERVICES)) == service


def test_a_service_that_serves_nothing_gets_no_requests() -> None:
    assert "expiration" not in path_prefixes(SERVICES).values()


def test_a_new_service_is_routed_by_its_operations() -> None:
    reminders = Service("reminders", operations=[Operation("GET", "/api/reminders/{id}", use_case)])
    prefixes = path_prefixes([*SERVICES, reminders])
    assert service_for("/api/reminders/7", prefixes) == "reminders"


def test_two_services_cannot_serve_the_same_prefix() -> None:
    second = Service("shop", operations=[Operation("GET", "/api/tickets/{id}/shop", use_case)])
    with pytest.raises(AssertionError, match="tickets and shop both serve /api/tickets"):
        path_prefixes([*SERVICES, second])
