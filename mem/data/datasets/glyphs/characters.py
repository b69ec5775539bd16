"""The characters that can be classes of Glyphs-LT, their names, and look-alikes in different scripts.

All properties are those of Unicode 3.2, which every version of Python contains, so that they do not depend on the
version of Python.
"""

from __future__ import annotations

import unicodedata
from functools import cache

_UNICODE = unicodedata.ucd_3_2_0
_DRAWN_CATEGORIES = "LNPS"
"""First letters of the general categories letter, number, punctuation and symbol. The others are marks, which are drawn
on another character, separators, and control, private-use and unassigned characters."""

_DRAWN_ALIKE = (
    # Latin, followed by the Greek and Cyrillic letters that are drawn in the same way
    "AΑА BΒВ CС EΕЕ HΗН IΙІӀ JЈ KΚК MΜМ NΝ OΟО PΡР SЅ TΤТ XΧХ YΥҮ ZΖ ÆӔ ƏӘ "
    "aа cс eе hһ iі jј oοо pр sѕ xх yу æӕ əә "
    # Greek, followed by Cyrillic
    "ΓГ ΠП ΦФ "
    # letters of one script with different small letters, and letters that are also symbols or punctuation
    "ĐÐƉ μµ Δ∆ ’ʼ ′ʹ ″ʺ ¯ˉ "
    # punctuation and symbols that Unicode distinguishes only by their use
    "-\u00ad‐‑ .․ ·∙⋅ ⁄∕"
).split()
"""Groups of characters that are drawn alike in upright fonts; the first represents the others. Source: a selection
from Unicode's confusables (UTS #39, confusables.txt), restricted to characters that differ in script or use, but not in
shape. Characters that merely resemble each other in some fonts, such as ν and v, are not included, and neither are 0, O
and o, or 1, l and I."""
_SAME_AS = {ord(other): group[0] for group in _DRAWN_ALIKE for other in group[1:]}
_GREEK = range(0x370, 0x400)
_DIAERESIS = "\u0308"


def is_candidate(code: int) -> bool:
    """Return whether a character has a drawing of its own: letters, numbers, punctuation and symbols."""
    return _UNICODE.category(chr(code))[0] in _DRAWN_CATEGORIES


def class_name(code: int) -> str:
    """Return the name of the class of a character, such as `U+0041 LATIN CAPITAL LETTER A`. It is in ASCII."""
    return f"U+{code:04X} {_UNICODE.name(chr(code), '')}".rstrip()


@cache
def look_alike(code: int) -> int:
    """Return the character that represents all characters that are drawn like the given one.

    These are canonically equivalent characters (the ohm sign and Ω) and letters of other scripts, with the same
    diacritics or none (Cyrillic Ё and Latin Ë). Greek accents have another position on capital letters, so accented
    Greek letters are not merged with letters of other scripts.
    """
    letters = unicodedata.normalize("NFD", chr(code))
    greek_accent = ord(letters[0]) in _GREEK and set(letters[1:]) - {_DIAERESIS}
    if not greek_accent:
        letters = letters[0].translate(_SAME_AS) + letters[1:]
    composed = unicodedata.normalize("NFC", letters)
    return ord(composed) if len(composed) == 1 else code
