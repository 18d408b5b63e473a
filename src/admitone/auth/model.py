"""Accounts, sessions and rate limits, and the rules for e-mail addresses, passwords and delays."""

import hashlib
import math
import unicodedata
from contextlib import suppress
from datetime import datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any, Final
from uuid import UUID

import idna
import msgspec

from admitone.kernel.errors import Invalid, TooManyRequests, Unavailable
from admitone.kernel.text import clean_line

EMAIL_OCTETS_MAX: Final = 254
PASSWORD_CHARACTERS_MIN: Final = 8
PASSWORD_CHARACTERS_MAX: Final = 128
# Of an account that was rebuilt from its events, which do not have the hash: no password matches.
LOST_HASH: Final = "$argon2id$lost"
_LOCAL_PART_OCTETS_MAX: Final = 64
_LABEL_CHARACTERS_MAX: Final = 63
# What a local part cannot contain outside quotes; quoted local parts are not supported. Source: RFC 5322, §3.2.3.
_NOT_IN_LOCAL_PART: Final = frozenset(' "(),:;<>@[\\]')

_DELAY_SECONDS_MAX: Final = 60
_FORGOTTEN_AFTER: Final = timedelta(hours=1)

# What one customer of a provider usually has. Source: RFC 6177, §2, for IPv6.
_IPV4_PREFIX: Final = 24
_IPV6_PREFIX: Final = 56
_UNKNOWN_NETWORK: Final = ip_network("0.0.0.0/24")

ClientNetwork = IPv4Network | IPv6Network


class EmailInUse(Invalid):
    """Email in use"""

    field = "email"


class InvalidCredentials(Invalid):
    """Invalid credentials"""


class WrongCurrentPassword(InvalidCredentials):
    """Invalid credentials"""

    field = "currentPassword"


class NothingToChange(Invalid):
    """Give a new email, a new password, or both"""


class TooBusyToHash(Unavailable):
    """Many people are signing in right now; try again in a moment"""

    retry_after_seconds = 2


class Account(msgspec.Struct, frozen=True):
    """The account of one user."""

    id: UUID
    email: str
    password_hash: str
    version: int = 0

    def changed(self, email: str | None, password_hash: str | None) -> "Account":
        """Return the account's next version; the account itself if nothing changes."""
        if email in {None, self.email} and password_hash is None:
            return self
        return Account(self.id, email or self.email, password_hash or self.password_hash, self.version + 1)


class Session(msgspec.Struct, frozen=True):
    """One sign-in of an account on one device, until it expires or ends."""

    id: UUID
    account_id: UUID
    expires_at: datetime


class RateLimit(msgspec.Struct, frozen=True):
    """What attempts are counted against, identified by a digest, and how many of them cause no delay."""

    key: bytes
    free_attempts: int

    @classmethod
    def of_account(cls, email: str, known_network: ClientNetwork | None) -> "RateLimit":
        """The limit of attempts on one account, with a separate counter for each network its owner is known in."""
        return cls(_digest("account", email, str(known_network or "anywhere")), free_attempts=5)

    @classmethod
    def of_network(cls, network: ClientNetwork) -> "RateLimit":
        """The limit of all attempts from one network; higher, since a school or an office has many users."""
        return cls(_digest("network", str(network)), free_attempts=30)


class Attempts(msgspec.Struct, frozen=True):
    """The counter of recent failed attempts against one limit."""

    key: bytes
    count: int
    last_at: datetime
    wait_until: datetime

    def one_more(self, now: datetime, free_attempts: int) -> "Attempts":
        """Return the counter after one more attempt; raises TooManyRequests if it comes before `wait_until`.

        Each attempt beyond the free ones doubles the next delay, up to a minute.
        """
        # Concurrent attempts may start in another order than they are counted in: that alone is no reason to refuse.
        if self.count >= free_attempts and now < self.wait_until:
            raise TooManyRequests(math.ceil((self.wait_until - now).total_seconds()))
        count = 1 if now - self.last_at > _FORGOTTEN_AFTER else self.count + 1
        # After six doublings the maximum is reached; without this bound the power would grow with the count.
        delay_seconds = 0 if count < free_attempts else min(2 ** min(count - free_attempts, 6), _DELAY_SECONDS_MAX)
        return Attempts(self.key, count, now, now + timedelta(seconds=delay_seconds))


def network_of(address: IPv4Address | IPv6Address | None) -> ClientNetwork:
    """Return the network that clients at an address share with their neighbours."""
    if address is None:
        return _UNKNOWN_NETWORK
    return ip_network((address, _IPV4_PREFIX if isinstance(address, IPv4Address) else _IPV6_PREFIX), strict=False)


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()


def read_email(value: Any) -> str:
    """Return an e-mail address in the one spelling that makes accounts unique; raises ValueError.

    That is lower case, and Unicode for the domain: browsers send `xn--mller-kva.example` for `müller.example`.
    """
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 – a broken rule, reported to the caller like any other
    try:
        typed = clean_line(value)
    except ValueError:
        raise ValueError from None  # without the text, since the rule's own message applies
    # Lower-casing can denormalise text.
    email = unicodedata.normalize("NFC", typed.lower())
    local_part, _, typed_domain = email.rpartition("@")
    domain = _unicode_domain(typed_domain)
    email = f"{local_part}@{domain}"
    if len(email.encode()) > EMAIL_OCTETS_MAX:
        email = ascii_spelling(email)  # three octets of UTF-8 may be one of Punycode
    if len(email.encode()) > EMAIL_OCTETS_MAX or not (_is_local_part(local_part) and _is_domain(domain)):
        raise ValueError
    return email


def ascii_spelling(email: str) -> str:
    """Return an address that was read with its domain in ASCII, as accounts were stored for some browsers' users."""
    local_part, _, domain = email.rpartition("@")
    return f"{local_part}@{'.'.join(_ascii_label(label) or label for label in domain.split('.'))}"


def _unicode_domain(domain: str) -> str:
    """Return a domain in Unicode, as users know it. Source: RFC 5891, and UTS 46 for what may be typed."""
    if not domain.isascii():
        with suppress(UnicodeError):
            domain = idna.uts46_remap(domain, std3_rules=False, transitional=False)
    return ".".join(_unicode_label(label) for label in domain.split("."))


def _unicode_label(label: str) -> str:
    """Return a label in Unicode, or in ASCII if the rules of labels have no place for it; IDNA's others are kept."""
    encoded = _ascii_label(label)
    if encoded is None:
        return label
    decoded = idna.ulabel(encoded)
    return decoded if _is_label(decoded) else encoded


def _ascii_label(label: str) -> str | None:
    """Return an internationalised label in ASCII, or None for any other."""
    if label.isascii() and not label.startswith("xn--"):
        return None
    try:
        return idna.alabel(label).decode()
    except UnicodeError:
        return None


def _is_local_part(text: str) -> bool:
    return (
        0 < len(text.encode()) <= _LOCAL_PART_OCTETS_MAX
        and _NOT_IN_LOCAL_PART.isdisjoint(text)
        and all(text.split("."))
    )


def _is_domain(text: str) -> bool:
    labels = text.split(".")
    return len(labels) > 1 and all(_is_label(label) for label in labels)


def _is_label(text: str) -> bool:
    return (
        0 < len(text) <= _LABEL_CHARACTERS_MAX
        and not text.startswith("-")
        and not text.endswith("-")
        and all(each == "-" or each.isalnum() or unicodedata.category(each) in {"Mn", "Mc"} for each in text)
    )


def read_new_password(value: Any) -> str:
    """Return a password a user chooses: any characters, untrimmed; raises ValueError."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    if not PASSWORD_CHARACTERS_MIN <= len(value) <= PASSWORD_CHARACTERS_MAX:
        raise ValueError
    return value


def read_password(value: Any) -> str:
    """Return a password to verify; no rules of new passwords apply, since they may change. Raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError
    return value
