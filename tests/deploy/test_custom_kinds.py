"""Objects of operators, validated against our own schemas, which allow only the fields that we use."""

import copy
import json

import jsonschema_rs
import pytest

from tests.deploy.manifests import OVERLAYS, ROOT, manifests

SCHEMAS = ROOT / "tests" / "deploy" / "schemas"


def schema_of(kind: dict[str, object]) -> jsonschema_rs.Draft202012Validator:
    group = str(kind["apiVersion"]).partition("/")[0]
    return jsonschema_rs.Draft202012Validator(json.loads((SCHEMAS / f"{group}.{kind['kind']}.json").read_text()))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_custom_object_fits_its_schema(overlay: str) -> None:
    # Groups of Kubernetes itself are `apps`, `batch` and so on, or end with its domain.
    groups = [(each, each["apiVersion"].rpartition("/")[0]) for each in manifests(overlay).objects]
    custom = [each for each, group in groups if "." in group and not group.endswith(".k8s.io")]
    assert bool(custom) == (overlay == "production")
    for each in custom:
        schema_of(each).validate(each)


def test_a_misspelt_field_is_rejected() -> None:
    cluster = copy.deepcopy(manifests("production").of("Cluster")[0])
    cluster["spec"]["bootstrap"]["initdb"]["onwer"] = cluster["spec"]["bootstrap"]["initdb"].pop("owner")
    assert not schema_of(cluster).is_valid(cluster)
