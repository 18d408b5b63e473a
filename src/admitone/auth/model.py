"""Accounts, sessions and guesses: their values, and the rules for e-mail addresses, passwords and delays."""

import hashlib
import math
import unicodedata
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Any, Final
from uuid import UUID

import msgspec

from admitone.kernel.errors import Invalid, TooManyRequests, Unavailable
from admitone.kernel.text import clean_line

EMAIL_OCTETS_MAX: Final = 254
PASSWORD_CHARACTERS_MIN: Final = 8
PASSWORD_CHARACTERS_MAX: Final = 128
_LOCAL_PART_OCTETS_MAX: Final = 64
_LABEL_CHARACTERS_MAX: Final = 63
# Source: RFC 5322, §3.2.3: what a local part cannot hold outside quotes, which nobody's address has.
_NOT_IN_LOCAL_PART: Final = frozenset(' "(),:;<>@[\\]')

_WAIT_SECONDS_MAX: Final = 60
_FORGOTTEN_AFTER: Final = timedelta(hours=1)

Place = IPv4Network | IPv6Network


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
    """Somebody who signed up."""

    id: UUID
    email: str
    password_hash: str
    version: int = 0

    def changed(self, email: str | None, password_hash: str | None) -> "Account":
        """Return the account with what was given replaced, one version on; the same when that changes nothing."""
        if email in {None, self.email} and password_hash is None:
            return self
        return Account(self.id, email or self.email, password_hash or self.password_hash, self.version + 1)


class Session(msgspec.Struct, frozen=True):
    """A time for which somebody is signed in, on one device."""

    id: UUID
    account_id: UUID
    expires_at: datetime


class Guess(msgspec.Struct, frozen=True):
    """What may be guessed at: something, told apart by a digest, and how often that is free."""

    about: bytes
    free: int

    @classmethod
    def at_account(cls, email: str, familiar_place: Place | None) -> "Guess":
        """A password of an account; counted apart in a place its owner is known to be."""
        return cls(_digest("account", email, str(familiar_place or "anywhere")), free=5)

    @classmethod
    def from_place(cls, place: Place) -> "Guess":
        """Anything, by anybody in a place: a school or an office has many people, so more is free."""
        return cls(_digest("place", str(place)), free=30)


class Tries(msgspec.Struct, frozen=True):
    """How often something was guessed at lately without success."""

    about: bytes
    count: int
    last_at: datetime
    wait_until: datetime

    def one_more(self, now: datetime, free: int) -> "Tries":
        """Return the count after one more try; raises TooManyTries when it comes too early.

        Each try beyond the free ones makes the next wait twice as long, up to a minute.
        """
        # Those who try at once may have begun in another order than they are counted in: that alone is no reason.
        if self.count >= free and now < self.wait_until:
            raise TooManyRequests(math.ceil((self.wait_until - now).total_seconds()))
        count = 1 if now - self.last_at > _FORGOTTEN_AFTER else self.count + 1
        # From the sixth doubling on it is a minute anyway, and a power without bound is a number without end.
        wait_seconds = 0 if count < free else min(2 ** min(count - free, 6), _WAIT_SECONDS_MAX)
        return Tries(self.about, count, now, now + timedelta(seconds=wait_seconds))


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("\n".join(parts).encode()).digest()


def read_email(value: Any) -> str:
    """Read an e-mail address, in the lower case in which accounts are told apart; raises ValueError."""
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 – a broken rule, reported to the caller like any other
    try:
        typed = clean_line(value)
    except ValueError:
        raise ValueError from None  # without its reason: the message is the rule's own
    # Lower case may take a text out of its normal form.
    email = unicodedata.normalize("NFC", typed.lower())
    local_part, _, domain = email.rpartition("@")
    if len(email.encode()) > EMAIL_OCTETS_MAX or not (_is_local_part(local_part) and _is_domain(domain)):
        raise ValueError
    return email


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
    """Read a password somebody chooses: any characters, none trimmed; raises ValueError."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError
    if not PASSWORD_CHARACTERS_MIN <= len(value) <= PASSWORD_CHARACTERS_MAX:
        raise ValueError
    return value


def read_password(value: Any) -> str:
    """Read a password that is to be compared with one chosen before; raises ValueError."""
    if not isinstance(value, str) or not value:
        raise ValueError
    return value
