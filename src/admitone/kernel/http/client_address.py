"""The address a request comes from; nothing else reads X-Forwarded-For."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

from starlette.datastructures import Headers
from starlette.types import Scope

ClientAddress = IPv4Address | IPv6Address

# Forwarded in place of an address that is not known: otherwise the address of who forwards counts (RFC 7239, §6.2).
UNKNOWN: Final = "unknown"


def client_address(scope: Scope, *, trust_proxy: bool) -> ClientAddress | None:
    """Return the client's address, or None if it is unknown or malformed.

    With `trust_proxy` it is the last address in X-Forwarded-For: the proxy wrote that one, and clients can write the
    others.
    """
    peer = scope.get("client")
    text = peer[0] if peer else ""
    if trust_proxy and (forwarded := Headers(scope=scope).getlist("x-forwarded-for")):
        text = forwarded[-1].rpartition(",")[2].strip()
    return parse_address(text)


def parse_address(text: str) -> ClientAddress | None:
    """Return the address a text has; an IPv4 address mapped into IPv6 is the IPv4 address."""
    try:
        # The zone of a link-local address (fe80::1%eth0) is a name on this machine only.
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address
