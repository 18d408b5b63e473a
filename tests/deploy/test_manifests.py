"""Every rendered object of the manifests: nothing runs with more rights than it needs."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from admitone import registry
from admitone.kernel.settings import refuse_unknown
from admitone.local.routing import path_prefixes
from deploy import make_secrets, render
from tests.deploy.manifests import (
    NAME,
    OVERLAYS,
    ROOT,
    SERVED,
    SERVICES,
    STORING,
    Manifests,
    Workload,
    manifests,
    selects,
)

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture
def system(overlay: str) -> Manifests:
    return manifests(overlay)


def place(workload: Workload, container: dict[str, Any] | None = None) -> str:
    return f"{workload.kind} {workload.name}" + (f", {container['name']}" if container else "")


def test_every_service_runs_the_same_image_with_its_own_argument(system: Manifests) -> None:
    assert {each.name for each in system.services} == set(SERVICES)
    for each in system.services:
        container = each.main
        assert container["args"] == ["serve", each.name]
        assert "command" not in container, "the image's entry point is in exec form; a shell would not forward signals"
    assert len({each.main["image"] for each in system.services}) == 1


def test_every_image_names_a_version(system: Manifests) -> None:
    images = [container["image"] for each in system.workloads for container in each.containers]
    images += [each["spec"]["imageName"] for each in system.of("Cluster")]
    floating = [image for image in images if not re.search(r"@sha256:[0-9a-f]{64}$|:[a-z0-9][\w.-]*$", image)]
    assert not floating
    assert not [image for image in images if image.endswith((":latest", ":main", ":stable"))]


def test_every_pod_is_restricted(system: Manifests) -> None:
    """Kubernetes' pod security standard `restricted`, and a read-only root file system."""
    labels = system.of("Namespace")[0]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    for each in system.workloads:
        security = each.pod["securityContext"]
        assert security["runAsNonRoot"] is True, place(each)
        assert security["runAsUser"] > 0, place(each)
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, place(each)
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(each.pod), place(each)
        for container in each.containers:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, place(each, container)
            assert not [port for port in container.get("ports", ()) if "hostPort" in port], place(each, container)
        kinds = {kind for volume in each.pod["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "projected", "secret"}, place(each)


def test_no_pod_has_access_to_the_api_of_the_cluster(system: Manifests) -> None:
    accounts = {each["metadata"]["name"]: each for each in system.of("ServiceAccount")}
    for each in system.workloads:
        assert each.pod["automountServiceAccountToken"] is False, place(each)
        assert accounts[each.pod["serviceAccountName"]]["automountServiceAccountToken"] is False, place(each)
    assert {each.pod["serviceAccountName"] for each in system.services} == set(SERVICES)
    assert not system.of("Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def test_every_container_has_limits_and_every_server_has_probes(system: Manifests) -> None:
    for each in system.workloads:
        for container in each.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} == set(resources["requests"]) == set(resources["limits"]), place(each, container)
            if each.kind != "Job":
                assert {"livenessProbe", "readinessProbe"} <= set(container), place(each, container)
    for each in system.services:
        container = each.main
        assert container["livenessProbe"]["httpGet"]["path"] == "/health/live"
        assert container["readinessProbe"]["httpGet"]["path"] == "/health/ready"
        assert "startupProbe" in container


def test_a_pod_has_time_to_finish(system: Manifests) -> None:
    """Removal from the endpoints, then requests in progress, then event handlers: see the limits of the runner."""
    for each in system.services:
        assert "sleep(5)" in each.main["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert each.pod["terminationGracePeriodSeconds"] >= 5 + 20 + 5


def test_a_new_version_serves_before_the_old_one_stops(system: Manifests) -> None:
    for each in system.services:
        assert each.whole["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_selectors_select_only_their_own_pods(system: Manifests) -> None:
    pods = system.pods()
    for each in system.workloads:
        selector = each.whole["spec"].get("selector")
        if selector is not None:  # a job has none
            assert [name for name, labels in pods.items() if selects(selector, labels)] == [each.name]
    for service in system.of("Service"):
        picked = [name for name, labels in pods.items() if service["spec"]["selector"].items() <= labels.items()]
        assert picked == [service["metadata"]["name"]]
    for budget in system.of("PodDisruptionBudget"):
        picked = [name for name, labels in pods.items() if selects(budget["spec"]["selector"], labels)]
        assert picked == [budget["metadata"]["name"]]


def test_ports_line_up(system: Manifests) -> None:
    for service in system.of("Service"):
        workload = system.workload(service["metadata"]["name"])
        named = {port["name"]: port["containerPort"] for each in workload.containers for port in each.get("ports", ())}
        for port in service["spec"]["ports"]:
            assert named[port["targetPort"]] == port["port"], place(workload)
    for workload in system.workloads:
        for container in workload.containers:
            named = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
            for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
                if "httpGet" in container.get(probe, {}):
                    assert container[probe]["httpGet"]["port"] in named, place(workload, container)


def test_services_survive_the_loss_of_one_replica(system: Manifests, overlay: str) -> None:
    scaled = {each["spec"]["scaleTargetRef"]["name"]: each["spec"] for each in system.of("HorizontalPodAutoscaler")}
    budgets = {each["metadata"]["name"]: each["spec"] for each in system.of("PodDisruptionBudget")}
    for each in system.services:
        assert budgets[each.name]["maxUnavailable"] == 1
        keys = [constraint["topologyKey"] for constraint in each.pod["topologySpreadConstraints"]]
        assert keys == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        for constraint in each.pod["topologySpreadConstraints"]:
            assert selects(constraint["labelSelector"], each.labels)
        if overlay == "production":
            replicas = scaled[each.name]["minReplicas"] if each.name in scaled else each.whole["spec"]["replicas"]
            assert replicas >= 2, each.name
            # The autoscaler sets the number; one in the manifest would reset it with every deployment.
            assert each.name not in scaled or "replicas" not in each.whole["spec"]
    if overlay == "production":
        assert set(scaled) == set(SERVED)
        assert "expiration" not in scaled


def test_every_mounted_configuration_exists(system: Manifests) -> None:
    maps = {each["metadata"]["name"]: each["data"] for each in system.of("ConfigMap")}
    for each in system.workloads:
        mounted = [volume["configMap"]["name"] for volume in each.pod["volumes"] if "configMap" in volume]
        read = [
            source["configMapRef"]["name"] for container in each.containers for source in container.get("envFrom", ())
        ]
        assert set(mounted + read) <= set(maps), place(each)
        names = [volume["name"] for volume in each.pod["volumes"]]
        names += [claim["metadata"]["name"] for claim in each.whole["spec"].get("volumeClaimTemplates", ())]
        for container in each.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(names), place(each, container)


def test_every_variable_of_a_service_is_a_setting(system: Manifests) -> None:
    for workload in (each for each in system.workloads if each.kind != "StatefulSet"):
        container = workload.main
        if container.get("args", [""])[0] in {"serve", "migrate"}:
            given = [each["name"] for each in container.get("env", ())]
            for source in container.get("envFrom", ()):
                given += system.named("ConfigMap", source["configMapRef"]["name"])["data"]
            assert given
            refuse_unknown(given, registry.setting_names())


def test_secrets_come_as_files_that_are_mounted(system: Manifests) -> None:
    for each in system.workloads:
        for container in each.containers:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            volumes = {volume["name"]: volume for volume in each.pod["volumes"]}
            for variable in container.get("env", ()):
                assert "secretKeyRef" not in variable.get("valueFrom", {}), place(each, container)
                if variable["name"].endswith("_FILE"):
                    folder, _, file = variable["value"].rpartition("/")
                    volume = volumes[mounts[folder]]
                    if "projected" in volume:
                        sources = volume["projected"]["sources"]
                        files = [item["path"] for source in sources for item in source["secret"]["items"]]
                        assert file in files, place(each, container)


def test_no_service_reads_secrets_of_another(system: Manifests) -> None:
    for each in system.services:
        own = {f"{each.name}-database", f"{each.name}-bus"}
        own |= {"jwt-secret"} if each.name == "auth" else set()
        own |= {"stripe-secret"} if each.name == "payments" else set()
        # By default, a secret is named after its setting, such as ADMITONE_<SERVICE>_KEY.
        others = {name for name, _ in each.secrets() if not name.startswith(f"admitone-{each.name}-")}
        assert others <= own, place(each)
    for each in system.workloads:
        if each.kind == "Job":
            assert {name for name, _ in each.secrets()} == {f"{each.name.removeprefix('migrate-')}-migrator"}


def test_every_service_with_a_database_is_migrated_as_its_owner(system: Manifests) -> None:
    jobs = {each.name: each for each in system.workloads if each.kind == "Job"}
    assert set(jobs) == {f"migrate-{name}" for name in STORING}
    for name in STORING:
        assert jobs[f"migrate-{name}"].containers[0]["args"] == ["migrate", name]


def test_nothing_secret_is_in_the_tree(system: Manifests) -> None:
    assert not system.of("Secret")
    text = (render.RENDERED / f"{system.overlay}.yaml").read_text()
    assert not re.search(r"sk_(live|test)_|whsec_|BEGIN [A-Z ]*PRIVATE KEY|postgresql://\w+:\w", text)


def made_for(overlay: str) -> make_secrets.Secrets:
    if overlay == "development":
        return make_secrets.development()
    return make_secrets.production(dict.fromkeys(make_secrets.GIVEN, "given"))


def test_every_secret_that_is_used_is_generated_and_no_other(system: Manifests, overlay: str) -> None:
    used = {secret for each in system.workloads for secret in each.secrets()}
    for cluster in system.of("Cluster"):
        initdb = cluster["spec"]["bootstrap"]["initdb"]
        used |= {(initdb["secret"]["name"], key) for key in ("username", "password")}
        used |= {(role["passwordSecret"]["name"], "password") for role in cluster["spec"]["managed"]["roles"]}
    for store in system.of("ObjectStore"):
        credentials = store["spec"]["configuration"]["s3Credentials"].values()
        used |= {(each["name"], each["key"]) for each in credentials}
    found = made_for(overlay)
    made = {(name, key) for name, data in found.items() for key in data}
    assert used <= made
    assert {name for name, _ in made} - {name for name, _ in used} == set()
    guide = (ROOT / "docs" / "operating.md").read_text()
    for name in ("jwt-secret", "stripe-secret"):  # those that operators create or replace
        assert f"kubectl create secret generic {name} " in guide


def test_the_urls_in_secrets_name_the_databases_and_the_bus_of_this_overlay(system: Manifests, overlay: str) -> None:
    found = made_for(overlay)
    # CloudNativePG creates a Service of this name in front of a cluster's primary.
    hosts = {each["metadata"]["name"] for each in system.of("Service")}
    hosts |= {f"{each['metadata']['name']}-rw" for each in system.of("Cluster")}
    for name, data in found.items():
        if "url" in data:
            assert urlsplit(data["url"]).hostname in hosts, name


def test_the_ingress_routes_each_path_to_the_service_that_serves_it(system: Manifests) -> None:
    (rule,) = system.of("Ingress")[0]["spec"]["rules"]
    paths = rule["http"]["paths"]
    assert {path["pathType"] for path in paths} == {"Prefix"}
    routes = {path["path"]: path["backend"]["service"]["name"] for path in paths}
    assert routes == path_prefixes(registry.SERVICES)
    assert set(routes.values()) == set(SERVED)


def test_the_bus_is_durable_and_has_an_account_for_every_service(system: Manifests, overlay: str) -> None:
    bus = system.workload("nats")
    config_map = next(volume["configMap"]["name"] for volume in bus.pod["volumes"] if "configMap" in volume)
    files = system.named("ConfigMap", config_map)["data"]
    assert re.search(r"^ +sync_interval: always$", files["nats.conf"], re.MULTILINE)
    assert files["users.conf"] == render.nats_users(), "run `make manifests`"
    assert {name for name, _ in bus.secrets()} >= {f"{name}-bus" for name in SERVICES}
    assert bus.whole["spec"]["volumeClaimTemplates"]
    version = re.search(r":(\d+)\.(\d+)", bus.containers[0]["image"])
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (2, 14)
    if overlay == "production":
        assert bus.whole["spec"]["replicas"] == 3
        assert "cluster {" in files["cluster.conf"]
        settings = next(each["data"] for each in system.of("ConfigMap") if "ADMITONE_ORIGIN" in each["data"])
        assert settings["ADMITONE_NATS_REPLICAS"] == "3"


def test_every_service_has_a_database_of_its_own_with_backups(system: Manifests, overlay: str) -> None:
    if overlay == "development":
        volumes = system.workload("postgres").whole["spec"]["volumeClaimTemplates"]
        assert [each["metadata"]["name"] for each in volumes] == ["store"]
        return
    clusters = {each["metadata"]["name"]: each["spec"] for each in system.of("Cluster")}
    assert set(clusters) == {f"{name}-database" for name in STORING}
    backups = {each["spec"]["cluster"]["name"] for each in system.of("ScheduledBackup")}
    assert backups == set(clusters)
    for name, spec in clusters.items():
        service = name.removesuffix("-database")
        assert spec["instances"] == 3
        assert spec["bootstrap"]["initdb"]["owner"] == f"{service}_migrator"
        assert [role["name"] for role in spec["managed"]["roles"]] == [service]
        assert spec["postgresql"]["synchronous"]["dataDurability"] == "required"
        assert [plugin["isWALArchiver"] for plugin in spec["plugins"]] == [True]
        assert spec["inheritedMetadata"]["labels"][NAME] == name


def test_certificates_can_be_issued_and_everything_is_sent_to_https(system: Manifests, overlay: str) -> None:
    (ingress,) = system.of("Ingress")
    if overlay == "development":
        assert "tls" not in ingress["spec"]
        return
    annotations = ingress["metadata"]["annotations"]
    (issuer,) = system.of("Issuer")
    assert annotations["cert-manager.io/issuer"] == issuer["metadata"]["name"]
    (solver,) = issuer["spec"]["acme"]["solvers"]
    # The same proxy; test_network.py has the connection to the pod that cert-manager starts.
    assert solver["http01"]["ingress"]["ingressClassName"] == ingress["spec"]["ingressClassName"] == "traefik"
    assert ingress["spec"]["tls"][0]["hosts"] == [ingress["spec"]["rules"][0]["host"]]
    used = annotations["traefik.ingress.kubernetes.io/router.middlewares"].split(",")
    made = {each["metadata"]["name"]: each["spec"] for each in system.of("Middleware")}
    assert used == [f"admitone-{name}@kubernetescrd" for name in made]
    assert {kind for spec in made.values() for kind in spec} == {"redirectScheme", "rateLimit", "inFlightReq"}


def test_the_proxy_of_the_cluster_has_the_limits_of_compose(system: Manifests, overlay: str) -> None:
    if overlay == "development":
        assert not system.of("Middleware")
        return
    nginx = (ROOT / "deploy" / "compose" / "nginx.conf").read_text()
    limits = system.named("Middleware", "requests")["spec"]["rateLimit"]
    assert f"rate={limits['average']}r/s" in nginx
    assert f"burst={limits['burst']} " in nginx
    amount = system.named("Middleware", "connections")["spec"]["inFlightReq"]["amount"]
    assert f"limit_conn connections {amount};" in nginx


def test_images_of_a_private_registry_can_be_pulled(system: Manifests, overlay: str) -> None:
    accounts = {each["metadata"]["name"]: each for each in system.of("ServiceAccount")}
    for each in system.workloads:
        if each.kind in {"Deployment", "Job"}:
            found = accounts[each.pod["serviceAccountName"]].get("imagePullSecrets", [])
            assert found == ([{"name": "registry"}] if overlay == "production" else []), place(each)


def test_three_nodes_take_every_volume(system: Manifests, overlay: str) -> None:
    """A node of DigitalOcean takes seven. Servers of the same cluster are on different nodes."""
    volumes = [1 for each in system.workloads for _ in each.whole["spec"].get("volumeClaimTemplates", ())]
    for cluster in system.of("Cluster"):
        assert cluster["spec"]["instances"] == 3
        assert cluster["spec"]["affinity"]["podAntiAffinityType"] == "required"
        volumes += [1 for kind in ("storage", "walStorage") if kind in cluster["spec"]]
    assert len(volumes) <= 7, overlay


@pytest.mark.parametrize("document", ["README.md", "docs/operating.md"])
def test_the_steps_of_the_first_deployment_are_in_their_order(document: str, overlay: str) -> None:
    text = (ROOT / document).read_text()
    text = text[text.index("apply --filename deploy/kubernetes/namespace.yaml") :]
    steps = ("make_secrets production | kubectl create --filename -", "deploy/kubernetes/apply.sh production REGISTRY/")
    at = [text.index(step) for step in steps]
    assert at == sorted(at), overlay
    assert "STRIPE_SECRET_KEY=" in text[: at[0]]


DIGEST = f"registry.example.org/admitone@sha256:{'0' * 64}"


def apply(folder: Path, *arguments: str, is_edited: bool = True) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run `apply.sh` on a copy, with a kubectl that only records how it is called; return its calls, too."""
    copied, calls = folder / "kubernetes", folder / "calls"
    shutil.copytree(ROOT / "deploy" / "kubernetes", copied)
    production = copied / "rendered" / "production.yaml"
    if is_edited:
        production.write_text(production.read_text().replace("example.com", "example.org").replace("replace_me", "1"))
    (folder / "kubectl").write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\nfor file in "$@"; do\n'
        f'case $file in */all.yaml) cp "$file" {folder}/applied.yaml ;; esac\ndone\n'
    )
    (folder / "kubectl").chmod(0o755)
    calls.touch()
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    command = [str(copied / "apply.sh"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return done, calls.read_text()


def test_deploying_waits_for_every_service(system: Manifests, overlay: str, tmp_path: Path) -> None:
    done, calls = apply(tmp_path, overlay, DIGEST)
    assert done.returncode == 0, done.stderr
    waited = set(re.findall(r"rollout status deployment/(\w+)", calls))
    assert waited == {each.name for each in system.services}
    applied = (tmp_path / "applied.yaml").read_text()
    assert set(re.findall(r"image: (\S*admitone\S*)", applied)) == {DIGEST}


@pytest.mark.parametrize(
    ("arguments", "is_edited", "complaint"),
    [
        (["production"], True, "Name the image to deploy"),
        (["production", "registry.example.org/admitone:latest"], True, "Name the image to deploy"),
        (["production", DIGEST], False, "production.toml has examples"),
    ],
)
def test_production_is_deployed_only_by_digest_and_without_example_values(
    overlay: str,
    tmp_path: Path,
    arguments: list[str],
    is_edited: bool,
    complaint: str,
) -> None:
    done, calls = apply(tmp_path, *arguments, is_edited=is_edited)
    assert done.returncode == 2, overlay
    assert complaint in done.stderr
    assert calls == "", "the cluster is not touched"
