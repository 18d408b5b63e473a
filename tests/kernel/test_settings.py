"""Settings: what is missing or invalid is named in one clear line."""

from pathlib import Path

import pytest

from admitone.kernel.settings import Settings, SettingsError, environment_of
from admitone.payments.resources import PaymentSettings
from admitone.policy import MarketplacePolicy


def read(environment: dict[str, str]) -> tuple[Settings, MarketplacePolicy, PaymentSettings]:
    settings = Settings.from_environment(environment)
    return settings, settings.read(MarketplacePolicy), settings.read(PaymentSettings)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ADMITONE_PORT", "eighty", "ADMITONE_PORT must be a whole number"),
        ("ADMITONE_PORT", "0", "ADMITONE_PORT must be between 1 and 65535"),
        ("ADMITONE_PORT", "65536", "ADMITONE_PORT must be between 1 and 65535"),
        ("ADMITONE_ORDER_WINDOW_SECONDS", "-1", "ADMITONE_ORDER_WINDOW_SECONDS must be between 1 and 86400"),
        ("ADMITONE_ORDER_WINDOW_SECONDS", "1.5", "ADMITONE_ORDER_WINDOW_SECONDS must be a whole number"),
        ("ADMITONE_CURRENCY", "doubloon", "ADMITONE_CURRENCY must be one of "),
        ("ADMITONE_ORIGIN", "tickets.example", "ADMITONE_ORIGIN must begin with http:// or https://"),
        ("ADMITONE_LOG_LEVEL", "LOUD", "ADMITONE_LOG_LEVEL must be one of DEBUG, ERROR, INFO, WARNING"),
        ("STRIPE_SECRET_KEY_FILE", "/nowhere/at/all", "STRIPE_SECRET_KEY_FILE cannot be read: No such file"),
    ],
)
def test_an_invalid_setting_is_named_in_one_line(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({name: value})
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_a_missing_setting_is_named_when_it_is_read() -> None:
    settings = Settings.from_environment({})
    with pytest.raises(SettingsError, match="ADMITONE_ORDERS_DATABASE_URL is not set"):
        settings.database_url("orders")
    with pytest.raises(SettingsError, match="ADMITONE_ORDERS_NATS_URL is not set"):
        settings.nats_url("orders")


def test_a_secret_can_be_a_file_and_one_bus_url_can_serve_all(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_text("sk_test_1\n")
    settings, _, payments = read(
        {
            "STRIPE_SECRET_KEY_FILE": str(secret),
            "NATS_URL": "nats://bus",
            "ADMITONE_ORDERS_NATS_URL": "nats://orders",
            "ADMITONE_ORIGIN": "https://tickets.example/",
            "ADMITONE_PORT": "",
        }
    )
    assert payments.stripe_secret_key == "sk_test_1"
    assert (settings.nats_url("tickets"), settings.nats_url("orders")) == ("nats://bus", "nats://orders")
    assert (settings.public_origin, settings.is_https, settings.port) == ("https://tickets.example", True, 8000)


def test_settings_survive_the_way_through_an_environment() -> None:
    _, policy, _ = read({"ADMITONE_ORDER_WINDOW_SECONDS": "60", "ADMITONE_CURRENCY": "eur"})
    assert policy == MarketplacePolicy(hold_seconds=60, currency="eur")
    assert read(environment_of(policy))[1] == policy
