"""Messages name servers without logins."""

import socket

import pytest

from admitone.kernel.addresses import address_of, reason_of


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("postgresql://orders:secret@database/orders", "database:5432"),
        ("postgresql://orders:secret@database:6432/orders?sslmode=require", "database:6432"),
        ("postgresql://orders:secret@[::1]/orders", "[::1]:5432"),
        ("postgresql://orders:secret@[::1]:6432/orders", "[::1]:6432"),
        ("postgresql://orders:secret@one,two:6432/orders", "one:5432,two:6432"),
        ("database", "database:5432"),
    ],
)
def test_an_address_is_host_and_port(url: str, address: str) -> None:
    assert address_of(url, 5432) == address


@pytest.mark.parametrize("password", ["s/ecret", "s?ecret", "s@ecret", "s:ecret", "s#ecret", "s://ecret", "s?e/cret"])
def test_an_address_has_no_part_of_a_password_that_is_not_encoded(password: str) -> None:
    for url in (f"postgresql://orders:{password}@database/orders", f"postgresql://database/?password={password}"):
        assert "ecret" not in address_of(url, 5432)
        assert "cret" not in address_of(url, 5432)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 9)"), "Connection refused"),
        (TimeoutError(), "it does not respond"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_a_reason_is_in_words(error: Exception, reason: str) -> None:
    assert reason_of(error) == reason
