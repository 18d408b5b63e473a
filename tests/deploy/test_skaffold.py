"""Skaffold in a development cluster: what it builds, copies into running services, and deletes at its end."""

import copy
import re
from collections.abc import Iterator
from typing import Any

import yaml

from tests.deploy.manifests import ROOT, manifests

SKAFFOLD: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "skaffold.yaml").read_text())
DOCKERFILE = (ROOT / "deploy" / "image" / "Dockerfile").read_text()
(ARTIFACT,) = SKAFFOLD["build"]["artifacts"]
(FOLDER,) = SKAFFOLD["manifests"]["kustomize"]["paths"]
KUSTOMIZATION: dict[str, Any] = yaml.safe_load((ROOT / FOLDER / "kustomization.yaml").read_text())


def deployed() -> list[dict[str, Any]]:
    """Return the development manifests with the patches of the kustomization."""
    found = []
    for each in copy.deepcopy(manifests("development").objects):
        patches = [
            yaml.safe_load(patch["patch"])
            for patch in KUSTOMIZATION["patches"]
            if patch["target"]["kind"] == each["kind"]
            and patch["target"].get("name", each["metadata"]["name"]) == each["metadata"]["name"]
            and patch["target"].get("labelSelector", "").rpartition("=")[2]
            in ("", each["metadata"]["labels"].get("app.kubernetes.io/component"))
        ]
        if any(isinstance(patch, dict) and patch["$patch"] == "delete" for patch in patches):
            continue
        for operation in (operation for patch in patches for operation in patch):
            *names, last = operation["path"].lstrip("/").split("/")
            place: Any = each
            for name in names:
                place = place[int(name)] if isinstance(place, list) else place[name]
            assert operation["op"] in {"add", "replace"}
            assert operation["op"] == "add" or last in place
            place[last] = operation["value"]
        found.append(each)
    return found


def containers() -> Iterator[dict[str, Any]]:
    for each in deployed():
        if each["kind"] == "Deployment":
            yield from each["spec"]["template"]["spec"]["containers"]


def test_it_builds_an_existing_stage_as_the_image_of_the_manifests() -> None:
    assert ARTIFACT["docker"]["target"] in re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    assert KUSTOMIZATION["resources"] == ["rendered/development.yaml"]
    # Skaffold replaces images of the artifact's name, with any tag.
    assert {each["image"].partition(":")[0] for each in containers()} == {ARTIFACT["image"]}


def test_saved_files_can_be_written_into_every_container_of_the_image() -> None:
    (synchronised,) = ARTIFACT["sync"]["manual"]
    version = re.search(r"^FROM python:(\d+\.\d+)", DOCKERFILE, re.MULTILINE)
    assert version is not None
    assert f"/python{version[1]}/" in synchronised["dest"]
    assert {each["name"] for each in containers()} == {"service", "sandbox"}
    assert not [each["name"] for each in containers() if each["securityContext"]["readOnlyRootFilesystem"]]


def test_the_namespace_and_its_secrets_survive_the_end() -> None:
    kinds = {each["kind"] for each in deployed()}
    assert {"Deployment", "StatefulSet", "Job"} <= kinds
    assert not {"Namespace", "Secret"} & kinds
    guide = (ROOT / "docs" / "operating.md").read_text()
    created = guide.index("make_secrets development | kubectl create")
    assert guide.index("kubectl apply --filename deploy/kubernetes/namespace.yaml") < created
    assert created < guide.index("skaffold dev --filename deploy/skaffold.yaml")
