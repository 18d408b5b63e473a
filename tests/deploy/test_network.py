"""Who may talk to whom in the cluster: exactly the arrows that the code draws, in both directions."""

import ast
import itertools
from typing import Any

import pytest

from admitone import registry
from admitone.local.proxy import service_for
from tests.deploy.manifests import COMPONENT, NAME, OVERLAYS, ROOT, SERVICES, Manifests, manifests, selects

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)

Arrow = tuple[str, str, int]

OUTSIDE = {"ingress-nginx", "kube-system", "monitoring", "cnpg-system"}


@pytest.fixture
def system(overlay: str) -> Manifests:
    return manifests(overlay)


def peers(system: Manifests, rules: list[dict[str, Any]], side: str) -> set[tuple[str, int]]:
    """Every pod, namespace or block of addresses that the rules let through, with the port."""
    found: set[tuple[str, int]] = set()
    for entry, ports in ((entry, rule["ports"]) for rule in rules for entry in rule[side]):
        if "ipBlock" in entry:
            names = [entry["ipBlock"]["cidr"]]
        elif "namespaceSelector" in entry:
            names = [entry["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]]
        else:
            names = [name for name, labels in system.pods().items() if selects(entry["podSelector"], labels)]
            assert names, f"{entry} picks nobody"
        found |= {(name, port["port"]) for name, port in itertools.product(names, ports)}
    return found


def arrows(system: Manifests, direction: str) -> set[Arrow]:
    """(from, to, port) of everything that policies allow, as one side sees it."""
    found: set[Arrow] = set()
    for policy in system.of("NetworkPolicy"):
        spec = policy["spec"]
        picked = [name for name, labels in system.pods().items() if selects(spec["podSelector"], labels)]
        assert picked, policy["metadata"]["name"]
        assert direction.capitalize() in spec["policyTypes"] or direction not in spec
        for name in picked:
            for peer, port in peers(system, spec.get(direction, []), "to" if direction == "egress" else "from"):
                found.add((name, peer, port) if direction == "egress" else (peer, name, port))
    return found


def inside(system: Manifests, found: set[Arrow]) -> set[Arrow]:
    return {arrow for arrow in found if {arrow[0], arrow[1]} <= set(system.pods())}


def calls() -> set[tuple[str, str]]:
    """Which service asks which other one by HTTP, read from the code: everybody asks auth for its keys."""
    found = {(name, "auth") for name in SERVICES if name != "auth"}
    for service in SERVICES:
        for file in (ROOT / "src" / "admitone" / service).rglob("*.py"):
            tree = ast.parse(file.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.DictComp) and "client_of" in ast.unparse(node.value):
                    found |= {(service, name) for name in ast.literal_eval(node.generators[0].iter)}
                elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("client_of"):
                    found |= {(service, str(each.value)) for each in node.args if isinstance(each, ast.Constant)}
    return found


def wanted(system: Manifests, overlay: str) -> set[Arrow]:
    """The arrows of the map: requests between services, each service to the bus and to its own database."""
    arrows = {(caller, callee, 8000) for caller, callee in calls()}
    for service in registry.SERVICES:
        arrows.add((service.name, "nats", 4222))
        if service.has_database:
            database = f"{service.name}-database" if overlay == "production" else "postgres"
            arrows |= {(service.name, database, 5432), (f"migrate-{service.name}", database, 5432)}
            if overlay == "production":
                arrows |= {(database, database, port) for port in (5432, 8000)}
    return arrows | {("nats", "nats", 6222)}


def test_the_web_pages_are_seen_to_call_every_service_they_show(overlay: str) -> None:
    """Reading the code must find what is there, or the next test would prove nothing."""
    assert {("web", name) for name in ("auth", "tickets", "orders", "payments")} <= calls(), overlay


def test_everything_is_closed_by_default(system: Manifests) -> None:
    closed = system.named("NetworkPolicy", "default-deny")["spec"]
    assert closed == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}


@pytest.mark.parametrize("direction", ["egress", "ingress"])
def test_the_arrows_inside_are_those_of_the_code(system: Manifests, overlay: str, direction: str) -> None:
    assert inside(system, arrows(system, direction)) == wanted(system, overlay)


def test_only_what_serves_pages_or_routes_is_reached_from_outside(system: Manifests) -> None:
    into = {arrow for arrow in arrows(system, "ingress") if arrow[0] not in system.pods()}
    reached = {name for peer, name, _ in into if peer == "ingress-nginx"}
    routes = {service_for(operation.path) for each in registry.SERVICES for operation in each.operations}
    assert reached == routes | {"web"}
    assert {(peer, port) for peer, _, port in into if peer != "ingress-nginx"} <= {
        ("monitoring", 9000),
        ("monitoring", 9187),
        ("cnpg-system", 8000),
        ("cnpg-system", 5432),
    }


def test_only_payments_and_the_databases_archives_reach_the_internet(system: Manifests) -> None:
    out = {arrow for arrow in arrows(system, "egress") if arrow[1] not in set(system.pods()) | OUTSIDE}
    databases = {name for name, labels in system.pods().items() if labels[COMPONENT] == "database"}
    assert {name for name, _, _ in out} <= {"payments"} | databases
    assert ("payments", "0.0.0.0/0", 443) in out
    private = system.named("NetworkPolicy", "payments")["spec"]["egress"][-1]["to"][0]["ipBlock"]["except"]
    assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16"} <= set(private)


def test_everybody_can_look_names_up(system: Manifests) -> None:
    asking = {name for name, peer, port in arrows(system, "egress") if (peer, port) == ("kube-system", 53)}
    assert asking == set(system.pods())
    assert all(NAME in labels for labels in system.pods().values())
