"""How amounts, times and states read: plain words, currency always, zone always."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

_SYMBOLS: Final = {"usd": "$", "eur": "€", "gbp": "£", "aud": "A$", "cad": "C$", "nzd": "NZ$", "sgd": "S$"}

_STUB_WORDS: Final = {"available": "Admit one", "reserved": "Being bought", "sold": "Sold"}
_LISTING_WORDS: Final = {"available": "on sale", "reserved": "being bought", "sold": "sold"}
_STATE_CLASSES: Final = {"available": "live", "reserved": "held", "sold": "done"}


def money(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency: `$1,250.00`, `€19.99`, `PLN 80.00`."""
    symbol = _SYMBOLS.get(currency, currency.upper() + "\u00a0")
    return f"{symbol}{amount:,.2f}"


def day(instant: datetime) -> str:
    return f"{instant:%a} {instant.day} {instant:%b %Y}"


def day_and_time(instant: datetime) -> str:
    """Return an instant as people write it, in UTC and saying so; a script puts it into the reader's own zone."""
    utc = instant.astimezone(UTC)
    return f"{day(utc)}, {utc:%H:%M} UTC"


def clock_time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%H:%M:%S} UTC"


def clock(milliseconds: int) -> str:
    """Return time left as minutes and seconds, rounded up: a deadline still ahead never reads 0:00."""
    seconds = max(0, -(-milliseconds // 1000))
    return f"{seconds // 60}:{seconds % 60:02}"


def minutes(seconds: float) -> str:
    """Return a length of time in words: `15 minutes`, `40 seconds`."""
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'' if whole == 1 else 's'}"
    whole = round(seconds / 60)
    return f"{whole} minutes"


def number(ticket_id: object) -> str:
    """Return the short number printed on a ticket: the last six digits of its id, which are the random ones."""
    return str(ticket_id)[-6:].upper()


def stub_word(status: str) -> str:
    return _STUB_WORDS[status]


def listing_word(status: str) -> str:
    return _LISTING_WORDS[status]


def state_class(status: str) -> str:
    return _STATE_CLASSES[status]
