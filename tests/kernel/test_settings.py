"""Settings: what is missing or invalid is named in one clear line."""

import re
from pathlib import Path

import pytest

from admitone import registry
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
        *(
            ("ADMITONE_ORIGIN", value, "ADMITONE_ORIGIN must be a scheme and a host, such as https://www.example")
            for value in (
                *("tickets.example", "ftp://tickets.example", "https://", "https://tickets.example/shop"),
                *("https://[::1", "https://tickets.example:many", "https://me@tickets.example"),
            )
        ),
        ("ADMITONE_TRUST_PROXY", "maybe", "ADMITONE_TRUST_PROXY must be 1 or 0 (or true, false, yes, no, on, off)"),
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
            "ADMITONE_ORIGIN": "https://Tickets.example/",
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


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((text, True) for text in ("1", "true", "True", "yes", "on")),
        *((text, False) for text in ("0", "false", "NO", "off", "")),
    ],
)
def test_a_boolean_is_spelt_as_in_other_programs(text: str, value: bool) -> None:
    assert Settings.from_environment({"ADMITONE_TRUST_PROXY": text}).trust_proxy == value


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("ADMITONE_ORDER_WINDOW", "did you mean ADMITONE_ORDER_WINDOW_SECONDS?"),
        ("ADMITONE_TRUST_PROXIES", "did you mean ADMITONE_TRUST_PROXY?"),
        ("ADMITONE_SIGNINGKEY_FILE", "did you mean ADMITONE_SIGNING_KEY?"),
        ("ADMITONE_ORDER_DATABASE_URL", "did you mean ADMITONE_ORDERS_DATABASE_URL?"),
        ("ADMITONE_WEB_DATABASE_URL_FILE", "did you mean"),
        ("ADMITONE_SANDBOX_DATABASE_URL", "did you mean"),
        ("ADMITONE_QZJ", "unset it; README.md lists the settings."),
    ],
)
def test_a_variable_that_is_no_setting_is_refused_with_the_nearest_one(name: str, advice: str) -> None:
    with pytest.raises(SettingsError) as caught:
        registry.read_settings({name: "1"})
    assert str(caught.value).startswith(f"{name} is not a setting: {advice}")


def test_every_setting_may_be_a_file_and_other_programs_have_variables_of_their_own(tmp_path: Path) -> None:
    url = tmp_path / "url"
    url.write_text("postgresql://orders@database/orders\n")
    read = registry.read_settings({"ADMITONE_ORDERS_DATABASE_URL_FILE": str(url), "STRIPE_API_KEY": "", "PATH": "/bin"})
    assert read.database_url("orders") == "postgresql://orders@database/orders"


def test_the_readme_lists_every_setting() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    services = "|".join(each.name.upper() for each in registry.SERVICES)
    for name in registry.setting_names():
        general = re.sub(rf"ADMITONE_({services})_((\w+_)?URL)", r"ADMITONE_<SERVICE>_\2", name)
        assert f"`{general}`" in readme, general


@pytest.mark.parametrize(
    ("host", "origin", "local"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://0.0.0.0:8000", "http://127.0.0.1:8000"),  # noqa: S104
        ("tickets.example", "http://tickets.example:8000", "http://tickets.example:8000"),
        ("::1", "http://[::1]:8000", "http://[::1]:8000"),
        ("::", "http://[::]:8000", "http://[::1]:8000"),
    ],
)
def test_an_address_of_either_kind_is_part_of_a_url(host: str, origin: str, local: str) -> None:
    settings = Settings.from_environment({"ADMITONE_HOST": host})
    assert (settings.public_origin, settings.local_url, settings.service_url("auth")) == (origin, local, local)
