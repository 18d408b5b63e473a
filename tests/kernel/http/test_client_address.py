"""The client's address is the peer's, or the one a trusted proxy wrote."""

from ipaddress import ip_address

import pytest
from starlette.types import Scope

from admitone.kernel.http.client_address import client_address


def scope_of(peer: str | None, *forwarded: str) -> Scope:
    headers = [(b"x-forwarded-for", each.encode()) for each in forwarded]
    return {"type": "http", "client": (peer, 1) if peer else None, "headers": headers}


@pytest.mark.parametrize(
    ("peer", "forwarded", "trust_proxy", "address"),
    [
        ("203.0.113.9", [], False, "203.0.113.9"),
        ("2001:db8:1:2ff:3::4", [], False, "2001:db8:1:2ff:3::4"),
        ("::ffff:203.0.113.9", [], False, "203.0.113.9"),
        ("fe80::1%eth0", [], False, "fe80::1"),
        ("10.0.0.1", ["203.0.113.9"], False, "10.0.0.1"),
        ("10.0.0.1", ["203.0.113.9"], True, "203.0.113.9"),
        ("10.0.0.1", ["192.0.2.66, 203.0.113.9"], True, "203.0.113.9"),
        ("10.0.0.1", ["192.0.2.66", "198.51.100.1, 2001:db8::1"], True, "2001:db8::1"),
        ("10.0.0.1", [], True, "10.0.0.1"),
        ("10.0.0.1", ["unknown"], True, None),
        ("10.0.0.1", [""], True, None),
        (None, [], False, None),
    ],
)
def test_only_a_trusted_proxy_can_name_the_client(
    peer: str | None, forwarded: list[str], trust_proxy: bool, address: str | None
) -> None:
    expected = ip_address(address) if address else None
    assert client_address(scope_of(peer, *forwarded), trust_proxy=trust_proxy) == expected
