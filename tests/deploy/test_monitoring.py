"""Dashboard and alerts query metrics that exist, and the guide explains every alert."""

import re
from pathlib import Path

import yaml

from admitone.kernel.metrics import FAMILIES
from admitone.registry import SERVICES
from deploy import dashboard
from tests.deploy.manifests import ROOT

RULES = ROOT / "deploy" / "monitoring" / "rules.yaml"
GAUGES = {gauge.name: (gauge.label,) if gauge.label else () for service in SERVICES for gauge in service.gauges}
LABELS = {name: set(labels) for name, (_, labels) in FAMILIES.items()} | {
    name: {"service", *labels} for name, labels in GAUGES.items()
}


def rules() -> list[dict[str, str]]:
    return list(yaml.safe_load(RULES.read_text())["groups"][0]["rules"])


def queries() -> list[str]:
    return [query for *_, query in dashboard.panels()] + [rule["expr"] for rule in rules()]


def family(name: str) -> str:
    return name if name in LABELS else re.sub(r"_(total|count|bucket|sum)$", "", name)


def test_every_queried_metric_exists() -> None:
    for query in queries():
        for name in re.findall(r"\badmitone_\w+", query):
            assert family(name) in LABELS, query


def test_every_queried_label_exists() -> None:
    for query in queries():
        grouped = {label.strip() for labels in re.findall(r"by \(([^)]*)\)", query) for label in labels.split(",")}
        grouped |= set(re.findall(r"[{,](\w+)=", query))
        for name in re.findall(r"\badmitone_\w+", query):
            assert grouped - {"le"} <= LABELS[family(name)], query


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {family(name) for *_, query in dashboard.panels() for name in re.findall(r"\badmitone_\w+", query)}
    assert set(LABELS) - shown == set()


def test_every_alert_has_a_severity_and_is_explained_in_the_guide() -> None:
    guide = Path(ROOT / "docs" / "operating.md").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in {"page", "notice"}  # type: ignore[index]
        assert f"**{rule['alert']}**" in guide, rule["alert"]
    assert set(re.findall(r"\*\*([A-Z][A-Za-z]+[a-z][A-Z]\w+|DeadLetters)\*\*", guide)) <= {
        rule["alert"] for rule in rules()
    }
