"""The Grafana dashboard: a list of panels, easier to read and review than what Grafana stores.

Every gauge that a service declares has a panel of its own.
"""

import json
from typing import Any, Final, NamedTuple

from admitone.kernel.service import Gauge
from admitone.registry import SERVICES


class Panel(NamedTuple):
    """A time series: its title, unit, legend and query."""

    title: str
    unit: str
    legend: str
    query: str


_OF_EVERY_SERVICE: Final = (
    Panel("Requests", "reqps", "{{route}}", "sum by (route) (rate(admitone_request_seconds_count[5m]))"),
    Panel(
        "99th percentile of response times",
        "s",
        "{{route}}",
        "histogram_quantile(0.99, sum by (route, le) (rate(admitone_request_seconds_bucket[5m])))",
    ),
    Panel(
        "Server errors",
        "reqps",
        "{{route}} {{status}}",
        'sum by (route, status) (rate(admitone_request_seconds_count{status=~"5.."}[5m]))',
    ),
    Panel("Age of unpublished events", "s", "{{service}}", "max by (service) (admitone_outbox_age_seconds)"),
    Panel("Unpublished events", "short", "{{service}}", "max by (service) (admitone_outbox_unpublished)"),
    Panel(
        "Events not delivered yet",
        "short",
        "{{producer}} → {{service}}",
        "max by (service, producer) (admitone_consumer_pending)",
    ),
    Panel(
        "Events being handled",
        "short",
        "{{producer}} → {{service}}",
        "max by (service, producer) (admitone_consumer_unacknowledged)",
    ),
    Panel("Dead letters", "short", "{{service}}", "max by (service) (admitone_dead_letters)"),
    Panel("Events stored by the bus", "bytes", "{{service}}", "max by (service) (admitone_stream_bytes)"),
    Panel(
        "Events stored by the bus, of their limit",
        "percentunit",
        "{{service}}",
        "max by (service) (admitone_stream_bytes) / max by (service) (admitone_stream_bytes_max)",
    ),
    Panel("Events that failed and are retried", "short", "{{service}}", "max by (service) (admitone_failing_events)"),
    Panel("Relays that publish", "short", "{{service}}", "sum by (service) (admitone_relay_leading)"),
    Panel(
        "Waits for a database connection",
        "ops",
        "{{service}}",
        "sum by (service) (rate(admitone_pool_waits_total[5m]))",
    ),
    Panel(
        "Time spent waiting for database connections",
        "s",
        "{{service}}",
        "sum by (service) (rate(admitone_pool_wait_seconds_total[5m]))",
    ),
    Panel(
        "Waits that ended without a database connection",
        "ops",
        "{{service}}",
        "sum by (service) (rate(admitone_pool_refusals_total[5m]))",
    ),
    Panel("Reachable databases", "short", "{{service}}", "min by (service) (admitone_database_up)"),
    Panel("Connections to the bus", "short", "{{service}}", "min by (service) (admitone_bus_connected)"),
    Panel("Memory", "bytes", "{{pod}}", "process_resident_memory_bytes"),
)


def _of_gauge(service: str, gauge: Gauge) -> Panel:
    unit = "s" if gauge.name.endswith("_seconds") else "short"
    if gauge.label is None:
        return Panel(gauge.description, unit, service, f"max({gauge.name})")
    return Panel(gauge.description, unit, f"{{{{{gauge.label}}}}}", f"max by ({gauge.label}) ({gauge.name})")


def panels() -> list[Panel]:
    """Return the panels, in rows of three."""
    return [*_OF_EVERY_SERVICE, *(_of_gauge(each.name, gauge) for each in SERVICES for gauge in each.gauges)]


def _grafana_panel(number: int, panel: Panel) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "datasource": source,
        "gridPos": {"x": number % 3 * 8, "y": number // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": source, "expr": panel.query, "legendFormat": panel.legend}],
    }


def rendered() -> str:
    """Return the text of dashboard.json."""
    dashboard = {
        "title": "AdmitOne",
        "uid": "admitone",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}]},
        "panels": [_grafana_panel(number, each) for number, each in enumerate(panels())],
    }
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"
