"""The list of the marketplace's services; everything that needs all of them reads it here."""

from collections.abc import Iterable
from typing import Final

from admitone.auth.service import AUTHORITY
from admitone.auth.service import SERVICE as AUTH
from admitone.expiration.service import SERVICE as EXPIRATION
from admitone.kernel.service import Service
from admitone.orders.service import SERVICE as ORDERS
from admitone.payments.service import SERVICE as PAYMENTS
from admitone.tickets.service import SERVICE as TICKETS
from admitone.web.service import SERVICE as WEB

__all__ = ["AUTHORITY", "SERVICES", "named"]

SERVICES: Final[tuple[Service, ...]] = (AUTH, TICKETS, ORDERS, EXPIRATION, PAYMENTS, WEB)


def named(names: Iterable[str]) -> list[Service]:
    """Return the services of these names, or all services if there are none; raises KeyError for an unknown name."""
    by_name = {each.name: each for each in SERVICES}
    return [by_name[name] for name in names] or list(SERVICES)
