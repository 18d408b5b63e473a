"""The rendered manifests as plain values, with the queries that tests need."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from admitone import registry
from deploy.render import OVERLAYS, RENDERED

__all__ = [
    "COMPONENT",
    "NAME",
    "OVERLAYS",
    "ROOT",
    "SERVED",
    "SERVICES",
    "STORING",
    "Manifests",
    "Workload",
    "manifests",
    "selects",
]

ROOT = Path(__file__).parents[2]
SERVICES = tuple(each.name for each in registry.SERVICES)
STORING = tuple(each.name for each in registry.SERVICES if each.has_database)
SERVED = tuple(each.name for each in registry.SERVICES if each.operations or each.pages is not None)
Object = dict[str, Any]
NAME, COMPONENT = "app.kubernetes.io/name", "app.kubernetes.io/component"


@dataclass(frozen=True)
class Workload:
    """An object that runs pods."""

    whole: Object

    @property
    def kind(self) -> str:
        return str(self.whole["kind"])

    @property
    def name(self) -> str:
        return str(self.whole["metadata"]["name"])

    @property
    def labels(self) -> dict[str, str]:
        return dict(self.whole["spec"]["template"]["metadata"]["labels"])

    @property
    def pod(self) -> Object:
        return dict(self.whole["spec"]["template"]["spec"])

    @property
    def containers(self) -> list[Object]:
        return [*self.pod["containers"], *self.pod.get("initContainers", ())]

    @property
    def main(self) -> Object:
        """The container of the service, without any sidecar."""
        return next((each for each in self.containers if each["name"] == "service"), self.containers[0])

    @property
    def is_service(self) -> bool:
        return self.kind == "Deployment"

    def secrets(self) -> Iterator[tuple[str, str]]:
        """Return every (secret, key) that the pod mounts."""
        for volume in self.pod["volumes"]:
            if "secret" in volume:
                yield volume["secret"]["secretName"], "password"
            for source in volume.get("projected", {}).get("sources", ()):
                for item in source["secret"]["items"]:
                    yield source["secret"]["name"], item["key"]


@dataclass(frozen=True)
class Manifests:
    """One overlay."""

    overlay: str
    objects: tuple[Object, ...]

    def of(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        return next(each for each in self.of(kind) if each["metadata"]["name"] == name)

    @property
    def workloads(self) -> list[Workload]:
        return [Workload(each) for each in self.of("Deployment", "StatefulSet", "Job")]

    @property
    def services(self) -> list[Workload]:
        return [each for each in self.workloads if each.is_service]

    def workload(self, name: str) -> Workload:
        return next(each for each in self.workloads if each.name == name)

    def pods(self) -> dict[str, dict[str, str]]:
        """Return the labels of every kind of pod, including those that an operator creates."""
        found = {each.name: each.labels for each in self.workloads}
        for cluster in self.of("Cluster"):
            found[cluster["metadata"]["name"]] = cluster["spec"]["inheritedMetadata"]["labels"]
        if self.of("Issuer"):
            found["certificate-solver"] = {"acme.cert-manager.io/http01-solver": "true"}
        return found


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Return whether a label selector of Kubernetes selects a pod. It may use only `matchLabels`."""
    assert set(selector) <= {"matchLabels"}
    wanted: dict[str, str] = selector.get("matchLabels", {})
    return wanted.items() <= labels.items()


@cache
def manifests(overlay: str) -> Manifests:
    text = (RENDERED / f"{overlay}.yaml").read_text()
    return Manifests(overlay, tuple(yaml.safe_load_all(text)))
