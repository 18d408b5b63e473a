"""The rules of attempt counters and client networks."""

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from admitone.auth.model import Attempts, ascii_spelling, network_of, read_email
from admitone.kernel.errors import TooManyRequests

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
FREE_ATTEMPTS = 5


def test_each_attempt_beyond_the_free_ones_doubles_the_delay_up_to_a_minute() -> None:
    attempts, now, delays = Attempts(b"", 0, NOON, NOON), NOON, []
    for _ in range(40):
        attempts = attempts.one_more(now, FREE_ATTEMPTS)
        delays.append((attempts.wait_until - now).total_seconds())
        now = attempts.wait_until
    assert delays == [0, 0, 0, 0, 1, 2, 4, 8, 16, 32, *[60] * 30]


def test_an_early_attempt_is_refused_with_the_seconds_left() -> None:
    attempts = Attempts(b"", FREE_ATTEMPTS, NOON, NOON + timedelta(seconds=8))
    with pytest.raises(TooManyRequests) as refused:
        attempts.one_more(NOON + timedelta(seconds=1.5), FREE_ATTEMPTS)
    assert refused.value.retry_after_seconds == 7
    assert attempts.one_more(NOON + timedelta(seconds=8), FREE_ATTEMPTS).count == FREE_ATTEMPTS + 1


def test_attempts_older_than_an_hour_do_not_count() -> None:
    attempts = Attempts(b"", 500, NOON, NOON + timedelta(seconds=60))
    assert attempts.one_more(NOON + timedelta(hours=1), FREE_ATTEMPTS).count == 501
    assert attempts.one_more(NOON + timedelta(hours=1, seconds=1), FREE_ATTEMPTS).count == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.9", "203.0.113.0/24"),
        ("2001:db8:1:2ff:3::4", "2001:db8:1:200::/56"),
        ("2001:db8::1", "2001:db8::/56"),
        (None, "0.0.0.0/24"),
    ],
)
def test_a_client_network_is_the_prefix_of_one_customer(address: str | None, network: str) -> None:
    assert network_of(ip_address(address) if address else None) == ip_network(network)


@pytest.mark.parametrize(
    ("typed", "email"),
    [
        ("x@müller-karten.example", "x@müller-karten.example"),
        ("x@xn--mller-karten-dlb.example", "x@müller-karten.example"),
        ("x@XN--MLLER-KARTEN-DLB.EXAMPLE", "x@müller-karten.example"),
        ("x@MÜLLER-KARTEN.example", "x@müller-karten.example"),
        ("x@ｆａｄｏ.example", "x@fado.example"),
        ("x@例え。jp", "x@例え.jp"),
        ("x@faß.example", "x@faß.example"),
        ("x@col·lecció.example", "x@xn--collecci-ioa91d.example"),
        ("x@xn--collecci-ioa91d.example", "x@xn--collecci-ioa91d.example"),
        ("x@xn--a.example", "x@xn--a.example"),
        ("x@r3---sn.example", "x@r3---sn.example"),
    ],
)
def test_the_domain_of_an_email_has_one_spelling(typed: str, email: str) -> None:
    assert read_email(typed) == email
    assert read_email(email) == email


def test_an_email_that_is_short_enough_in_ascii_only_is_accepted() -> None:
    email = f"alice@{'.'.join(['座' * 30] * 3)}.example"
    assert len(email.encode()) > 254
    assert read_email(email) == read_email(ascii_spelling(email)) == ascii_spelling(email)


@given(st.text(st.characters(codec="utf-8", categories=["L", "M", "N"]), min_size=1, max_size=20))
def test_both_spellings_of_a_domain_are_one_email(label: str) -> None:
    try:
        email = read_email(f"x@{label}.example")
    except ValueError:
        return
    assert read_email(email) == email
    assert read_email(ascii_spelling(email)) == email
