"""Cleaning of text that people type: normalised, and without characters that are invisible or reorder other text."""

import unicodedata
from typing import Final

# Zero-width characters and bidirectional overrides: two titles could look the same, or one could read backwards.
# Source: Unicode Technical Report 36, §2.5 and §3.
_HIDDEN: Final = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f\u3164\ufeff\uffa0"
)
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})


def clean_line(text: str) -> str:
    """Return one line in NFC, trimmed, with single spaces; raises ValueError for control and invisible characters."""
    normal = unicodedata.normalize("NFC", text)
    for character in normal:
        if character in _HIDDEN or unicodedata.category(character) in _REFUSED_CATEGORIES:
            raise ValueError("Must not hold control or invisible characters")
    return " ".join(normal.split())
