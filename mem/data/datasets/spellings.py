"""Names that Unicode can spell in several ways: composed (NFC, usual on Linux and Windows) or decomposed (NFD, macOS).

Two spellings of one name look the same, but consist of different characters, and Linux treats them as different files.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def composed(name: str) -> str:
    """Return the composed form (NFC) of a name."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def form(name: str) -> str:
    """Return `NFC` if a name is composed, else `NFD`."""
    return "NFC" if name == composed(name) else "NFD"


def distinct_names(names: Iterable[str]) -> list[str]:
    """Return the names without other spellings of the same name, sorted. A composed spelling is preferred."""
    chosen: dict[str, str] = {}
    for name in sorted(set(names), key=lambda name: (form(name) != "NFC", name)):
        chosen.setdefault(composed(name), name)
    return sorted(chosen.values())


def several_spellings(names: Iterable[str]) -> list[str]:
    """Return one spelling of each name that occurs in several spellings."""
    found: dict[str, set[str]] = {}
    for name in set(names):
        found.setdefault(composed(name), set()).add(name)
    return sorted(name for name, spellings in found.items() if len(spellings) > 1)
