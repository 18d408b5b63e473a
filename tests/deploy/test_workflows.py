"""The workflows on GitHub: their actions are pinned, and their rights are minimal."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.manifests import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture(params=FILES, ids=lambda file: file.stem)
def workflow(request: pytest.FixtureRequest) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(Path(request.param).read_text())
    return loaded


def steps(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job.get("steps", ())]


def test_every_action_is_pinned_by_its_digest(workflow: dict[str, Any]) -> None:
    used = [step["uses"] for step in steps(workflow) if "uses" in step]
    assert used
    assert not [each for each in used if not re.fullmatch(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}", each)]


def test_no_right_is_granted_that_is_not_requested(workflow: dict[str, Any]) -> None:
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        assert job["permissions"] == {"contents": "read"}, name
    for step in steps(workflow):
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


def test_a_job_that_reads_a_secret_names_the_environment_that_has_it(workflow: dict[str, Any]) -> None:
    for name, job in workflow["jobs"].items():
        assert "secrets." not in str(job) or job["environment"] == "production", name


def test_no_step_inserts_untrusted_text_into_a_shell(workflow: dict[str, Any]) -> None:
    assert not [step["run"] for step in steps(workflow) if "${{" in step.get("run", "")]


def test_every_job_ends(workflow: dict[str, Any]) -> None:
    assert all("timeout-minutes" in job or "uses" in job for job in workflow["jobs"].values())


def test_only_the_image_that_was_checked_and_built_is_deployed() -> None:
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "deploy.yml").read_text())["jobs"]
    assert jobs["image"]["needs"] == "check"
    assert jobs["deploy"]["needs"] == "image"
    build = next(step for step in jobs["image"]["steps"] if step.get("id") == "build")["with"]
    assert build["sbom"] is True
    assert build["provenance"] == "mode=max"
    assert jobs["image"]["outputs"]["digest"] == "${{ steps.build.outputs.digest }}"
    assert any("apply.sh production" in step.get("run", "") for step in jobs["deploy"]["steps"])
