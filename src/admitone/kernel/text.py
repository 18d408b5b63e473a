"""Cleaning of text that people type: normalised, and without characters that are invisible or reorder other text."""

import re
import unicodedata
from typing import Final

# Zero-width characters and bidirectional overrides: two titles could look the same, or one could read backwards.
# Source: Unicode Technical Report 36, §2.5 and §3.
_HIDDEN: Final = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062"
    "\u2063\u2064\u2065\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f\u3164\ufeff\uffa0\ufff9\ufffa\ufffb"
    # Blank symbols: of Braille, Khitan and music, and the place of an object.
    "\u2800\U00016fe4\U0001d159\ufffc"
)
# Tags, and the format controls of scripts that are no text.
_HIDDEN_RANGES: Final = (range(0x1BCA0, 0x1BCA4), range(0x1D173, 0x1D17B), range(0xE0000, 0xE0100))
_REFUSED_CATEGORIES: Final = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
# Unicode reserves all of this for pictures, so that an emoji newer than Python's tables is one already.
# Source: Unicode Technical Standard 51, Extended_Pictographic.
_PICTURES: Final = range(0x1F000, 0x1FB00)

_SPACES: Final = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")
# What copying leaves at the ends of words, where it means nothing.
_TRIMMED: Final = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\ufeff"

# A place to break a line in scripts that have no spaces between words: Thai, Lao, Burmese and Khmer.
_UNSPACED: Final = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
_LINE_BREAK: Final = re.compile(f"(?<={_UNSPACED})\u200b(?={_UNSPACED})")

# The only flags with tags: England, Scotland and Wales. Source: Unicode Technical Standard 51, annex C.
_BLACK_FLAG: Final = "\U0001f3f4"
_TAGS: Final = ("".join(chr(0xE0000 + ord(letter)) for letter in tag) for tag in ("gbeng", "gbsct", "gbwls"))
_TAGGED_FLAG: Final = re.compile(f"{_BLACK_FLAG}(?:{'|'.join(_TAGS)})\U000e007f")

_NON_JOINER: Final = "\u200c"
_JOINERS: Final = frozenset({_NON_JOINER, "\u200d"})
_VIRAMA: Final = 9  # the combining class of the signs that join two consonants
_SKIN_TONES: Final = range(0x1F3FB, 0x1F400)
_ARABIC_MARKS: Final = "".join(map(chr, range(0x064B, 0x0660))) + "\u0670"
_EMOJI: Final = "\ufe0f"
_EMOJI_VARIATION: Final = frozenset({"\ufe0e", _EMOJI})
# Emoji that are letters or punctuation: ‼, ⁉, ℹ, 〰.
_OTHER_PICTURES: Final = frozenset("\u203c\u2049\u2139\u3030")
_KEYCAPS: Final = frozenset("0123456789#*")
_KEYCAP: Final = "\u20e3"
_MONGOLIAN_VARIATION: Final = frozenset("\u180b\u180c\u180d\u180f")
_IDEOGRAPHIC_VARIATION: Final = (range(0xFE00, 0xFE0E), range(0xE0100, 0xE01F0))


def clean_line(text: str) -> str:
    """Return one line in NFC, trimmed, with single spaces; raises ValueError for control and invisible characters.

    Invisible characters at the ends of words, and places to break a line, are removed. A joiner or a variation selector
    stays where it changes how its neighbours look, as in Persian words and emoji.
    """
    words = (word.strip(_TRIMMED) for word in _SPACES.split(unicodedata.normalize("NFC", text)))
    line = _LINE_BREAK.sub("", " ".join(word for word in words if word))
    shown = _TAGGED_FLAG.sub(_BLACK_FLAG, line)
    if not all(_is_allowed(shown, place) for place in range(len(shown))):
        raise ValueError("Must not hold control or invisible characters")
    return line


def _is_allowed(line: str, place: int) -> bool:
    character = line[place]
    if character.isascii():
        return character.isprintable()
    if character in _JOINERS:
        return _is_joining(line, place)
    if _is_variation_selector(character):
        return place > 0 and _is_varying(line, place)
    if character in _HIDDEN or any(ord(character) in each for each in _HIDDEN_RANGES):
        return False
    category = unicodedata.category(character)
    return category not in _REFUSED_CATEGORIES or (category == "Cn" and ord(character) in _PICTURES)


def _is_joining(line: str, place: int) -> bool:
    """Whether a joiner changes how its neighbours look; it has two, since it is at no end of a word."""
    before, after = line[place - 1], line[place + 1]
    if unicodedata.combining(before) == _VIRAMA:
        return True
    if line[place] == _NON_JOINER:
        return _is_arabic(line[:place].rstrip(_ARABIC_MARKS)[-1:]) and _is_arabic(after)
    if unicodedata.combining(after) == _VIRAMA:
        return unicodedata.category(before) == "Lo"
    return _is_picture(after) and (before == _EMOJI or ord(before) in _SKIN_TONES or _is_picture(before))


def _is_arabic(character: str) -> bool:
    return unicodedata.bidirectional(character) == "AL" if character else False


def _is_picture(character: str) -> bool:
    return ord(character) in _PICTURES or (not character.isascii() and unicodedata.category(character) in {"So", "Sm"})


def _is_variation_selector(character: str) -> bool:
    return (
        character in _EMOJI_VARIATION
        or character in _MONGOLIAN_VARIATION
        or any(ord(character) in each for each in _IDEOGRAPHIC_VARIATION)
    )


def _is_varying(line: str, place: int) -> bool:
    """Whether a variation selector follows a character that has variants."""
    before, selector = line[place - 1], line[place]
    if selector not in _EMOJI_VARIATION:
        script = "MONGOLIAN" if selector in _MONGOLIAN_VARIATION else "CJK"
        return unicodedata.name(before, "").startswith(script)
    if before in _KEYCAPS:
        return line[place + 1 : place + 2] == _KEYCAP
    return _is_picture(before) or before in _OTHER_PICTURES
