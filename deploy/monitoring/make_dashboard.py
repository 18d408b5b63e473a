"""Writes dashboard.json for Grafana: a list of panels is easier to read, and to review, than what Grafana wants."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("dashboard.json")

# Title, unit, legend and query, in rows of three.
PANELS: tuple[tuple[str, str, str, str], ...] = (
    ("Requests", "reqps", "{{route}}", "sum by (route) (rate(admitone_request_seconds_count[5m]))"),
    (
        "Slowest of a hundred",
        "s",
        "{{route}}",
        "histogram_quantile(0.99, sum by (route, le) (rate(admitone_request_seconds_bucket[5m])))",
    ),
    (
        "Requests that failed on our side",
        "reqps",
        "{{route}} {{status}}",
        'sum by (route, status) (rate(admitone_request_seconds_count{status=~"5.."}[5m]))',
    ),
    ("Orders by status", "short", "{{status}}", "max by (status) (admitone_orders)"),
    ("How late locks are released", "s", "lock", "max(admitone_lock_overdue_seconds)"),
    ("How late alarms ring", "s", "alarm", "max(admitone_alarm_overdue_seconds)"),
    ("Age of unpublished events", "s", "{{service}}", "max by (service) (admitone_outbox_age_seconds)"),
    ("Unpublished events", "short", "{{service}}", "max by (service) (admitone_outbox_unpublished)"),
    (
        "Events not taken yet",
        "short",
        "{{producer}} → {{service}}",
        "max by (service, producer) (admitone_consumer_pending)",
    ),
    (
        "Events being taken",
        "short",
        "{{producer}} → {{service}}",
        "max by (service, producer) (admitone_consumer_unacknowledged)",
    ),
    ("Dead letters", "short", "{{service}}", "max by (service) (admitone_dead_letters)"),
    ("Events that fail and are tried again", "short", "{{service}}", "max by (service) (admitone_failing_events)"),
    ("Open business at Stripe", "s", "oldest", "max(admitone_payment_unsettled_seconds)"),
    ("Stripe's messages waiting", "short", "waiting", "max(admitone_webhooks_waiting)"),
    ("Relays that publish", "short", "{{service}}", "sum by (service) (admitone_relay_leading)"),
    (
        "Waits for a database connection",
        "ops",
        "{{service}}",
        "sum by (service) (rate(admitone_pool_waits_total[5m]))",
    ),
    (
        "Time spent waiting for connections",
        "s",
        "{{service}}",
        "sum by (service) (rate(admitone_pool_wait_seconds_total[5m]))",
    ),
    (
        "No connection in time",
        "ops",
        "{{service}}",
        "sum by (service) (rate(admitone_pool_refusals_total[5m]))",
    ),
    ("Databases that answer", "short", "{{service}}", "min by (service) (admitone_database_up)"),
    ("Connections to the bus", "short", "{{service}}", "min by (service) (admitone_bus_connected)"),
    ("Memory", "bytes", "{{pod}}", "process_resident_memory_bytes"),
)


def panel(number: int, title: str, unit: str, legend: str, query: str) -> dict[str, Any]:
    source = {"type": "prometheus", "uid": "${source}"}
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": title,
        "datasource": source,
        "gridPos": {"x": number % 3 * 8, "y": number // 3 * 8, "w": 8, "h": 8},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [{"refId": "A", "datasource": source, "expr": query, "legendFormat": legend}],
    }


def rendered() -> str:
    """Return the file's text."""
    dashboard = {
        "title": "AdmitOne",
        "uid": "admitone",
        "schemaVersion": 39,
        "refresh": "30s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [{"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"}]},
        "panels": [panel(number, *each) for number, each in enumerate(PANELS)],
    }
    return json.dumps(dashboard, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(rendered())
