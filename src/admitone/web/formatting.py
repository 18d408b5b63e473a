"""How amounts, times and statuses read: amounts always with their currency, times always with their zone."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

_SYMBOLS: Final = {"usd": "$", "eur": "€", "gbp": "£", "aud": "A$", "cad": "C$", "nzd": "NZ$", "sgd": "S$"}

_STUB_WORDS: Final = {"available": "Admit one", "reserved": "Being bought", "sold": "Sold"}
_LISTING_WORDS: Final = {"available": "on sale", "reserved": "being bought", "sold": "sold"}
_STATUS_CLASSES: Final = {"available": "live", "reserved": "held", "sold": "done"}


def money(amount: Decimal, currency: str) -> str:
    """Return an amount with its currency: `$1,250.00`, `€19.99`, `PLN 80.00`."""
    symbol = _SYMBOLS.get(currency, currency.upper() + "\u00a0")
    return f"{symbol}{amount:,.2f}"


def currency_signs(currency: str) -> tuple[str, ...]:
    """Return how people mark an amount in a currency, in lower case and the longest first: `a$`, `aud`, `$`."""
    symbol = _SYMBOLS.get(currency, currency)
    signs = {currency, symbol.lower(), *([f"{currency[:2]}$", "$"] if symbol.endswith("$") else [])}
    return tuple(sorted(signs, key=lambda sign: (-len(sign), sign)))


def date_and_time(instant: datetime) -> str:
    """Return `Thu 1 Jul 2027, 20:30 UTC`; a script replaces it with the time in the reader's zone."""
    utc = instant.astimezone(UTC)
    return f"{utc:%a} {utc.day} {utc:%b %Y}, {utc:%H:%M} UTC"


def time_of_day(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%H:%M:%S} UTC"


def countdown(milliseconds: int) -> str:
    """Return the time left in minutes and seconds, rounded up: it reads 0:00 only when no time is left."""
    seconds = max(0, -(-milliseconds // 1000))
    return f"{seconds // 60}:{seconds % 60:02}"


def duration(seconds: float) -> str:
    """Return a duration in words: `15 minutes`, `40 seconds`."""
    if seconds < 90:
        whole = max(1, round(seconds))
        return f"{whole} second{'' if whole == 1 else 's'}"
    return f"{round(seconds / 60)} minutes"


def ticket_number(ticket_id: object) -> str:
    """Return the short number printed on a ticket: the last six digits of its id, which are random."""
    return str(ticket_id)[-6:].upper()


def stub_word(status: str) -> str:
    return _STUB_WORDS[status]


def listing_word(status: str) -> str:
    return _LISTING_WORDS[status]


def status_class(status: str) -> str:
    return _STATUS_CLASSES[status]
