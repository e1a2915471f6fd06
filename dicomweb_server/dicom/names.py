"""Names of persons in the forms in which they are compared: folded, as words, and as sounds."""

import re
import unicodedata
from functools import lru_cache

MAX_TEXT = 1024
"""Characters of a text value that take part in matching; what follows is not compared."""

_WORD = re.compile(r"[^\W_]+")


@lru_cache(maxsize=4096)
def fold_name(text: str) -> str:
    """A name, or a pattern of one, without case, accents and width, and without empty components at the end of its
    groups."""
    return _without_tail(fold_whole_name(text))


@lru_cache(maxsize=4096)
def fold_whole_name(text: str) -> str:
    """As `fold_name`, with the empty components: "doe^^^^", which "doe^*" means."""
    decomposed = unicodedata.normalize("NFKD", text.strip(" \0").rstrip("=").casefold())
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    # Composed again, so that a Hangul syllable is one character for "?".
    return unicodedata.normalize("NFC", bare).casefold()[:MAX_TEXT]


def plain_name(text: str) -> str:
    """A name without case only, in as many characters as it was typed."""
    return _without_tail(text.casefold())


def _without_tail(name: str) -> str:
    return "=".join(group.strip(" \0").rstrip("^ ") for group in name.split("=")).rstrip("=")[:MAX_TEXT]


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """The words of a name in any of its components and groups, folded, in order; at most 64."""
    return tuple(dict.fromkeys(_WORD.findall(fold_name(name))))[:64]


_SPELLED = str.maketrans({"ø": "o", "æ": "e", "œ": "e", "ł": "l", "đ": "d", "ð": "d", "þ": "t", "ı": "i", "ß": "s"})
_FIRST = str.maketrans("cqzvj", "kksfi")
_CODES = {
    letter: code for code, letters in enumerate(("bfpv", "cgjkqsxz", "dt", "l", "mn", "r"), 1) for letter in letters
}


@lru_cache(maxsize=8192)
def sound(word: str) -> str:
    """What a folded word sounds like, as four characters in the manner of Soundex; "" where it has other than Latin
    letters. Unlike Soundex, first letters that sound alike count as one (Catherine, Katherine; Philip, Filip)."""
    latin = word.translate(_SPELLED).replace("ph", "f")
    if not latin.isascii() or not latin.isalpha():
        return ""
    code, last = latin[0].translate(_FIRST), _CODES.get(latin[0], 0)
    for letter in latin[1:]:
        digit = _CODES.get(letter, 0)
        if digit and digit != last:
            code += str(digit)
        if letter not in "hw":
            last = digit
    return (code + "000")[:4]
