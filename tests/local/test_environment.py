"""The process of a service gets its own settings, and only the secrets that it declares."""

import msgspec
import pytest

from admitone.kernel.service import Service
from admitone.kernel.settings import Settings, variables
from admitone.local.environment import environment_for
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
