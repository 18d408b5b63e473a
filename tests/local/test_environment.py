"""The process of a service gets its own settings, and only the secrets that it declares."""

import msgspec
import pytest

from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, SettingsError, variables
from admitone.local.environment import environment_for, metrics_ports
from admitone.registry import SERVICES, read_settings

SECRETS = {
    service.name: {each.name for struct in service.settings for each in variables(struct).values() if each.is_secret}
    for service in SERVICES
}
URLS = {each.name: f"http://127.0.0.1/{each.name}" for each in SERVICES}


def settings() -> Settings:
    """Return settings in which the value of every secret is the secret's name."""
    secrets = {name: name for names in SECRETS.values() for name in names}
    return msgspec.structs.replace(
        Settings(),
        database_urls={each.name: f"DATABASE of {each.name}" for each in SERVICES if each.has_database},
        migrator_urls={each.name: f"MIGRATOR of {each.name}" for each in SERVICES if each.has_database},
        nats_urls={each.name: f"NATS of {each.name}" for each in SERVICES},
    ).with_variables(ADMITONE_ORDER_WINDOW_SECONDS="77", **secrets)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_gets_the_secrets_it_declares_and_no_others(service: Service) -> None:
    values = set(environment_for(service, settings(), URLS).values())
    others = {secret for names in SECRETS.values() for secret in names} - SECRETS[service.name]
    assert SECRETS[service.name] <= values
    assert not others & values


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_gets_its_own_accounts_and_no_others(service: Service) -> None:
    values = environment_for(service, settings(), URLS).values()
    accounts = {each for each in values if each.startswith(("DATABASE", "MIGRATOR", "NATS"))}
    assert accounts == {f"NATS of {service.name}"} | (
        {f"DATABASE of {service.name}"} if service.has_database else set()
    )


def test_only_known_services_have_secrets() -> None:
    assert SECRETS["auth"] == {"ADMITONE_SIGNING_KEY"}
    assert SECRETS["payments"] == {"STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET"}
    assert not SECRETS["tickets"] | SECRETS["orders"] | SECRETS["expiration"] | SECRETS["web"]


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_reads_the_settings_of_the_whole_marketplace(service: Service) -> None:
    read = read_settings(environment_for(service, settings(), URLS))
    for struct in service.settings:
        assert read.read(struct) == settings().read(struct)
    assert read.service_urls == URLS


def test_every_process_serves_its_metrics_at_a_port_of_its_own() -> None:
    assert metrics_ports(SERVICES, Settings()) == {}
    ports = metrics_ports(SERVICES, Settings(metrics_port=9000))
    assert list(ports.values()) == list(range(9000, 9000 + len(SERVICES)))
    for service in SERVICES:
        read = read_settings(environment_for(service, settings(), URLS, ports[service.name]))
        assert read.metrics_port == ports[service.name]


def test_a_metrics_port_with_too_few_ports_above_it_is_refused() -> None:
    assert metrics_ports(SERVICES, Settings(metrics_port=65_536 - len(SERVICES)))
    with pytest.raises(SettingsError, match="ADMITONE_METRICS_PORT must be at most "):
        metrics_ports(SERVICES, Settings(metrics_port=65_537 - len(SERVICES)))


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_sends_its_traces_where_the_marketplace_does(service: Service) -> None:
    chosen = msgspec.structs.replace(settings(), otlp_endpoint="http://collector:4318")
    assert read_settings(environment_for(service, chosen, URLS)).otlp_endpoint == "http://collector:4318"
