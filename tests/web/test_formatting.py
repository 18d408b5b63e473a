"""How amounts, times and durations read."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest

from admitone.policy import CURRENCIES
from admitone.web import formatting


def test_amounts_have_a_currency() -> None:
    assert formatting.money(Decimal("19.5"), "usd") == "$19.50"
    assert formatting.money(Decimal(1250), "eur") == "€1,250.00"
    assert formatting.money(Decimal("80.00"), "pln") == "PLN\u00a080.00"


def test_no_two_currencies_read_the_same() -> None:
    assert len({formatting.money(Decimal(1), currency) for currency in CURRENCIES}) == len(CURRENCIES)


def test_times_have_a_zone() -> None:
    lisbon = timezone(timedelta(hours=1))
    assert formatting.date_and_time(datetime(2027, 7, 1, 21, 30, tzinfo=lisbon)) == "Thu 1 Jul 2027, 20:30 UTC"
    assert formatting.time_of_day(datetime(2027, 7, 1, 20, 30, 5, tzinfo=UTC)) == "20:30:05 UTC"


@pytest.mark.parametrize(
    ("milliseconds", "text"), [(900_000, "15:00"), (899_999, "15:00"), (1, "0:01"), (0, "0:00"), (-5, "0:00")]
)
def test_the_countdown_is_rounded_up(milliseconds: int, text: str) -> None:
    assert formatting.countdown(milliseconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (900, "15 minutes"),
        (60, "60 seconds"),
        (1, "1 second"),
        (0.2, "1 second"),
        (95, "2 minutes"),
        (871, "15 minutes"),
    ],
)
def test_durations_are_in_seconds_or_minutes(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text
