"""What payments is configured with: test cards buy nothing on a public address."""

import pytest

from admitone.kernel.settings import Settings, SettingsError
from admitone.payments.resources import refuse_public_test_payments

TEST_KEY = {"STRIPE_SECRET_KEY": "sk_test_1"}
RESTRICTED_TEST_KEY = {"STRIPE_SECRET_KEY": "rk_test_1"}
LIVE_KEY = {"STRIPE_SECRET_KEY": "sk_live_1"}
PUBLIC = {"ADMITONE_ORIGIN": "https://tickets.example"}
EVERY_ADDRESS = {"ADMITONE_HOST": "0.0.0.0"}  # noqa: S104


def refuse(environment: dict[str, str]) -> None:
    settings = Settings.from_environment(environment)
    refuse_public_test_payments(settings, listens_at=settings.host)


@pytest.mark.parametrize("keys", [{}, TEST_KEY, RESTRICTED_TEST_KEY], ids=str)
@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        EVERY_ADDRESS,
        {"ADMITONE_HOST": "::"},
        {"ADMITONE_HOST": "192.168.1.7"},
        EVERY_ADDRESS | {"ADMITONE_ORIGIN": "http://localhost:8000"},
        {"ADMITONE_ORIGIN": "http://localhost.example"},
    ],
    ids=str,
)
def test_nobody_elsewhere_gets_a_ticket_for_a_test_card(keys: dict[str, str], address: dict[str, str]) -> None:
    with pytest.raises(
        SettingsError, match=r"test cards, but .* set STRIPE_SECRET_KEY to a live key, or ADMITONE_ALLOW"
    ):
        refuse(keys | address)
    refuse(keys | address | {"ADMITONE_ALLOW_TEST_PAYMENTS": "1"})
    refuse(address | LIVE_KEY)


@pytest.mark.parametrize("keys", [{}, TEST_KEY], ids=str)
@pytest.mark.parametrize(
    "address",
    [
        {},
        {"ADMITONE_HOST": "::1"},
        {"ADMITONE_HOST": "localhost"},
        {"ADMITONE_ORIGIN": "http://tickets.localhost"},
        {"ADMITONE_ORIGIN": "https://127.0.0.2:8443"},
    ],
    ids=str,
)
def test_test_cards_are_for_this_machine(keys: dict[str, str], address: dict[str, str]) -> None:
    refuse(keys | address)


def test_behind_a_proxy_the_origin_decides() -> None:
    settings = Settings.from_environment(EVERY_ADDRESS | {"ADMITONE_ORIGIN": "http://localhost:8080"})
    refuse_public_test_payments(settings)
