"""What the manifests promise, asserted over every rendered object: nothing runs with more than it needs."""

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from admitone.local.proxy import service_for
from deploy import make_secrets
from deploy.kubernetes import render
from deploy.kubernetes.base.nats import users
from tests.deploy.manifests import NAME, OVERLAYS, ROOT, SERVICES, Manifests, Workload, manifests, selects

pytestmark = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.fixture
def system(overlay: str) -> Manifests:
    return manifests(overlay)


def place(workload: Workload, container: dict[str, Any] | None = None) -> str:
    return f"{workload.kind} {workload.name}" + (f", {container['name']}" if container else "")


def test_the_rendered_manifests_are_those_of_the_sources(overlay: str) -> None:
    text = (render.RENDERED / f"{overlay}.yaml").read_text()
    assert render.digest() in text.partition("\n")[0], "run `make manifests`"
    if render.has_kubectl():  # without it, the digest above is the proof
        assert list(yaml.safe_load_all(render.rendered(overlay))) == list(yaml.safe_load_all(text))


def test_every_service_is_deployed_from_one_image_by_its_argument(system: Manifests) -> None:
    assert {each.name for each in system.services} == set(SERVICES)
    for each in system.services:
        container = each.main
        assert container["args"] == ["serve", each.name]
        assert "command" not in container, "the image's entry point is in exec form; a shell would swallow signals"
    assert len({each.main["image"] for each in system.services}) == 1


def test_every_image_names_a_version(system: Manifests) -> None:
    images = [container["image"] for each in system.workloads for container in each.containers]
    images += [each["spec"]["imageName"] for each in system.of("Cluster")]
    floating = [image for image in images if not re.search(r"@sha256:[0-9a-f]{64}$|:[a-z0-9][\w.-]*$", image)]
    assert not floating
    assert not [image for image in images if image.endswith((":latest", ":main", ":stable"))]


def test_every_pod_is_restricted(system: Manifests) -> None:
    """The rules of Kubernetes' pod security standard `restricted`, and a read-only root file system."""
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


def test_no_pod_may_ask_the_cluster_anything(system: Manifests) -> None:
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
    """Removal from the endpoints, then requests under way, then handlers: see the runner's own limits."""
    for each in system.services:
        assert "sleep(5)" in each.main["lifecycle"]["preStop"]["exec"]["command"][-1]
        assert each.pod["terminationGracePeriodSeconds"] >= 5 + 20 + 5


def test_a_new_version_serves_before_the_old_one_goes(system: Manifests) -> None:
    for each in system.services:
        assert each.whole["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_selectors_pick_their_own_pods_and_no_others(system: Manifests) -> None:
    pods = system.pods()
    for each in system.workloads:
        selector = each.whole["spec"].get("selector")
        if selector is not None:  # a job has none of ours
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
            # The scaler decides how many; a number here would undo that with every deployment.
            assert each.name not in scaled or "replicas" not in each.whole["spec"]
    if overlay == "production":
        assert set(scaled) == set(SERVICES) - {"expiration"}


def test_every_mounted_configuration_exists(system: Manifests) -> None:
    maps = {each["metadata"]["name"]: each["data"] for each in system.of("ConfigMap")}
    for each in system.workloads:
        mounted = [volume["configMap"]["name"] for volume in each.pod["volumes"] if "configMap" in volume]
        told = [
            source["configMapRef"]["name"] for container in each.containers for source in container.get("envFrom", ())
        ]
        assert set(mounted + told) <= set(maps), place(each)
        names = [volume["name"] for volume in each.pod["volumes"]]
        names += [claim["metadata"]["name"] for claim in each.whole["spec"].get("volumeClaimTemplates", ())]
        for container in each.containers:
            assert {mount["name"] for mount in container["volumeMounts"]} <= set(names), place(each, container)


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


def test_nobody_reads_another_service_s_secrets(system: Manifests) -> None:
    for each in system.services:
        own = {f"{each.name}-database", f"{each.name}-bus"}
        own |= {"jwt-secret"} if each.name == "auth" else set()
        own |= {"stripe-secret"} if each.name == "payments" else set()
        assert {name for name, _ in each.secrets()} <= own, place(each)
    for each in system.workloads:
        if each.kind == "Job":
            assert {name for name, _ in each.secrets()} == {f"{each.name.removeprefix('migrate-')}-migrator"}


def test_every_service_with_a_database_is_migrated_as_its_owner(system: Manifests) -> None:
    jobs = {each.name: each for each in system.workloads if each.kind == "Job"}
    assert set(jobs) == {f"migrate-{name}" for name in SERVICES if name != "web"}
    for name in set(SERVICES) - {"web"}:
        assert jobs[f"migrate-{name}"].containers[0]["args"] == ["migrate", name]


def test_nothing_secret_is_in_the_tree(system: Manifests) -> None:
    assert not system.of("Secret")
    text = (render.RENDERED / f"{system.overlay}.yaml").read_text()
    assert not re.search(r"sk_(live|test)_|whsec_|BEGIN [A-Z ]*PRIVATE KEY|postgresql://\w+:\w", text)


def made_for(overlay: str) -> make_secrets.Secrets:
    given = ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET", "BACKUP_ACCESS_KEY_ID", "BACKUP_SECRET_ACCESS_KEY")
    if overlay == "development":
        return make_secrets.development()
    return make_secrets.production(dict.fromkeys(given, "given"))


def test_every_secret_is_made_and_none_in_vain(system: Manifests, overlay: str) -> None:
    wanted = {secret for each in system.workloads for secret in each.secrets()}
    for cluster in system.of("Cluster"):
        initdb = cluster["spec"]["bootstrap"]["initdb"]
        wanted |= {(initdb["secret"]["name"], key) for key in ("username", "password")}
        wanted |= {(role["passwordSecret"]["name"], "password") for role in cluster["spec"]["managed"]["roles"]}
    for store in system.of("ObjectStore"):
        credentials = store["spec"]["configuration"]["s3Credentials"].values()
        wanted |= {(each["name"], each["key"]) for each in credentials}
    found = made_for(overlay)
    made = {(name, key) for name, data in found.items() for key in data}
    assert wanted <= made
    assert {name for name, _ in made} - {name for name, _ in wanted} == set()
    guide = (ROOT / "docs" / "operating.md").read_text()
    for name in ("jwt-secret", "stripe-secret"):  # those that people bring along or replace
        assert f"kubectl create secret generic {name} " in guide


def test_a_secret_leads_to_the_database_and_the_bus_of_this_overlay(system: Manifests, overlay: str) -> None:
    found = made_for(overlay)
    # CloudNativePG makes a service of this name in front of a cluster's leader.
    hosts = {each["metadata"]["name"] for each in system.of("Service")}
    hosts |= {f"{each['metadata']['name']}-rw" for each in system.of("Cluster")}
    for name, data in found.items():
        if "url" in data:
            assert urlsplit(data["url"]).hostname in hosts, name


def test_the_ingress_leads_each_path_to_the_service_that_answers_it(system: Manifests) -> None:
    (rule,) = system.of("Ingress")[0]["spec"]["rules"]
    for path in rule["http"]["paths"]:
        assert path["pathType"] == "Prefix"
        assert path["backend"]["service"]["name"] == service_for(path["path"]), path["path"]
    assert {path["backend"]["service"]["name"] for path in rule["http"]["paths"]} == set(SERVICES) - {"expiration"}


def test_the_bus_keeps_what_it_acknowledged_and_knows_every_service(system: Manifests, overlay: str) -> None:
    bus = system.workload("nats")
    settings = next(volume["configMap"]["name"] for volume in bus.pod["volumes"] if "configMap" in volume)
    files = system.named("ConfigMap", settings)["data"]
    assert re.search(r"^ +sync_interval: always$", files["nats.conf"], re.MULTILINE)
    assert files["users.conf"] == users.rendered(), "run `make manifests`"
    assert {name for name, _ in bus.secrets()} >= {f"{name}-bus" for name in SERVICES}
    assert bus.whole["spec"]["volumeClaimTemplates"]
    version = re.search(r":(\d+)\.(\d+)", bus.containers[0]["image"])
    assert version is not None
    assert (int(version[1]), int(version[2])) >= (2, 14)
    if overlay == "production":
        assert bus.whole["spec"]["replicas"] == 3
        assert "cluster {" in files["cluster.conf"]
        told = next(each["data"] for each in system.of("ConfigMap") if "ADMITONE_ORIGIN" in each["data"])
        assert told["ADMITONE_NATS_REPLICAS"] == "3"


def test_every_service_has_a_database_of_its_own_with_backups(system: Manifests, overlay: str) -> None:
    if overlay == "development":
        volumes = system.workload("postgres").whole["spec"]["volumeClaimTemplates"]
        assert [each["metadata"]["name"] for each in volumes] == ["store"]
        return
    clusters = {each["metadata"]["name"]: each["spec"] for each in system.of("Cluster")}
    assert set(clusters) == {f"{name}-database" for name in SERVICES if name != "web"}
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
