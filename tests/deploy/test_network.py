"""The network policies of the cluster allow exactly the connections that the services declare and make."""

import itertools
from typing import Any

import pytest

from admitone import registry
from tests.deploy.manifests import (
    COMPONENT,
    NAME,
    OVERLAYS,
    SERVED,
    SERVICES,
    Manifests,
    manifests,
    selects,
)

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)

Connection = tuple[str, str, int]

OUTSIDE = {"traefik", "kube-system", "monitoring", "cnpg-system"}


@pytest.fixture
def system(overlay: str) -> Manifests:
    return manifests(overlay)


def peers(system: Manifests, rules: list[dict[str, Any]], side: str) -> set[tuple[str, int]]:
    """Return every pod, namespace or block of addresses that the rules allow, with the port."""
    found: set[tuple[str, int]] = set()
    for entry, ports in ((entry, rule["ports"]) for rule in rules for entry in rule[side]):
        if "ipBlock" in entry:
            names = [entry["ipBlock"]["cidr"]]
        elif "namespaceSelector" in entry:
            names = [entry["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]]
        else:
            names = [name for name, labels in system.pods().items() if selects(entry["podSelector"], labels)]
            assert names, f"{entry} selects no pod"
        found |= {(name, port["port"]) for name, port in itertools.product(names, ports)}
    return found


def allowed(system: Manifests, direction: str) -> set[Connection]:
    """Return (from, to, port) of every connection that the policies of one direction allow."""
    found: set[Connection] = set()
    for policy in system.of("NetworkPolicy"):
        spec = policy["spec"]
        picked = [name for name, labels in system.pods().items() if selects(spec["podSelector"], labels)]
        assert picked, policy["metadata"]["name"]
        assert direction.capitalize() in spec["policyTypes"] or direction not in spec
        for name in picked:
            for peer, port in peers(system, spec.get(direction, []), "to" if direction == "egress" else "from"):
                found.add((name, peer, port) if direction == "egress" else (peer, name, port))
    return found


def inside(system: Manifests, found: set[Connection]) -> set[Connection]:
    return {each for each in found if {each[0], each[1]} <= set(system.pods())}


def required(overlay: str) -> set[Connection]:
    """Return the connections of services to each other, to the bus and to their own databases."""
    # The runner lets no service call another one that it does not declare.
    found = {(each.name, called, 8000) for each in registry.SERVICES for called in each.calls}
    # Every service fetches from auth the keys that verify sessions.
    found |= {(name, "auth", 8000) for name in SERVICES if name != "auth"}
    for service in registry.SERVICES:
        found.add((service.name, "nats", 4222))
        if service.has_database:
            database = f"{service.name}-database" if overlay == "production" else "postgres"
            found |= {(service.name, database, 5432), (f"migrate-{service.name}", database, 5432)}
            if overlay == "production":
                found |= {(database, database, port) for port in (5432, 8000)}
    return found | {("nats", "nats", 6222)}


def test_the_pages_declare_the_services_they_call(overlay: str) -> None:
    """With a service that does not declare its calls, the next test would prove nothing."""
    (web,) = registry.named(["web"])
    assert set(web.calls) >= {"auth", "tickets", "orders", "payments"}, overlay


def test_everything_is_closed_by_default(system: Manifests) -> None:
    closed = system.named("NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_connections_inside_are_those_of_the_declarations(system: Manifests, overlay: str, direction: str) -> None:
    assert inside(system, allowed(system, direction)) == required(overlay)


def test_only_services_with_pages_or_an_api_are_reached_from_outside(system: Manifests, overlay: str) -> None:
    into = {each for each in allowed(system, "ingress") if each[0] not in system.pods()}
    reached = {(name, port) for peer, name, port in into if peer == "traefik"}
    # Let's Encrypt has to reach the pod that answers for the host.
    solver = {("certificate-solver", 8089)} if overlay == "production" else set()
    assert reached == {(name, 8000) for name in SERVED} | solver
    assert "expiration" not in SERVED
    assert {(peer, port) for peer, _, port in into if peer != "traefik"} <= {
        ("monitoring", 9000),
        ("monitoring", 9187),
        ("cnpg-system", 8000),
        ("cnpg-system", 5432),
    }


def test_only_payments_and_the_archives_of_databases_reach_the_internet(system: Manifests) -> None:
    out = {each for each in allowed(system, "egress") if each[1] not in set(system.pods()) | OUTSIDE}
    databases = {name for name, labels in system.pods().items() if labels.get(COMPONENT) == "database"}
    assert {name for name, _, _ in out} <= {"payments"} | databases
    assert ("payments", "0.0.0.0/0", 443) in out
    private = system.named("NetworkPolicy", "payments")["spec"]["egress"][-1]["to"][0]["ipBlock"]["except"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(private)


def test_every_pod_can_resolve_names(system: Manifests) -> None:
    resolving = {name for name, peer, port in allowed(system, "egress") if (peer, port) == ("kube-system", 53)}
    assert resolving == set(system.pods())
    assert all(NAME in labels for name, labels in system.pods().items() if name != "certificate-solver")
