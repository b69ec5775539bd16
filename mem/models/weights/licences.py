"""Licences of weights: what a model card states, and what a user has to know before the weights are used."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CARD = "README.md"
"""File name of a model card."""
_OPEN = re.compile(
    r"(apache-2\.0|mit|bsd(-[\w-]+)?|isc|zlib|unlicense|wtfpl|cc0-1\.0|cc-by(-sa)?-\d\.\d|cdla-permissive-[\d.]+|"
    r"bsl-1\.0|mpl-2\.0|ecl-2\.0|artistic-2\.0|[al]?gpl(-[\d.]+)?(-only|-or-later)?)"
)
"""Licences without terms that depend on the purpose of use."""
_NON_COMMERCIAL = re.compile(r"(^|[-_ ])nc([-_ ]|$)|non-?commercial|(^|[-_ ])research(-only|$)|apple-amlr")
"""Licences that forbid commercial use, by a part of their name. `apple-amlr` is Apple's licence for research."""
_DINOV3 = "dinov3-license"
_DINOV3_LINK = "https://ai.meta.com/resources/models-and-libraries/dinov3-license"
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Licence:
    """The licence that a publisher states for weights."""

    name: str | None = None
    """Identifier in small letters, for example `apache-2.0`. None if no licence is stated."""
    link: str | None = None

    def document(self) -> dict[str, str | None]:
        """Return the licence as JSON data for run.json."""
        return {"name": self.name, "link": self.link}

    def __str__(self) -> str:
        return f"{self.name or 'none stated'}{f' ({self.link})' if self.link else ''}"


def licence_of_card(content: str) -> Licence:
    """Return the licence in the metadata at the start of a model card (`license`, `license_name`, `license_link`)."""
    found = _FRONT_MATTER.match(content)
    try:
        metadata = yaml.safe_load(found[1]) if found else None
    except yaml.YAMLError:
        metadata = None
    return licence_of_metadata(metadata if isinstance(metadata, Mapping) else {})


def licence_of_metadata(metadata: Mapping[str, Any]) -> Licence:
    """Return the licence in the metadata of a model card."""
    stated = metadata.get("license")
    name = ", ".join(map(str, stated)) if isinstance(stated, list) else str(stated or "")
    if name.lower() in ("other", ""):
        name = str(metadata.get("license_name") or name)
    link = metadata.get("license_link")
    known = name.lower() not in ("", "unknown")
    return Licence(name.lower() if known else None, str(link) if link else None)


def licence_in_folder(folder: Path) -> Licence:
    """Return the licence in the model card of a folder. Without a card, no licence is stated."""
    try:
        return licence_of_card((folder / CARD).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Licence()


def licence_warning(name: str, licence: Licence) -> str:
    """Return what a user has to know about the licence of weights, or an empty text.

    Args:
        name: Name of the weights.
        licence: Their licence.
    """
    stated = licence.name
    where = f" Read it before you use the weights: {licence.link}" if licence.link else " Read it before you use them."
    if stated is None:
        return f"Warning: {name} states no licence. Ask the authors before you use or share the weights."
    if stated == _DINOV3:
        return (
            f"Warning: {name} has Meta's DINOv3 License, which is not an open-source licence. It has terms of its own "
            "for prohibited uses, for publications and for sharing the weights and what is derived from them, such as "
            f"finetuned networks. Read it before you use the weights: {licence.link or _DINOV3_LINK}"
        )
    if _NON_COMMERCIAL.search(stated):
        return (
            f"Warning: the licence of {name} ({stated}) forbids commercial use, also of networks that are finetuned "
            f"from the weights.{where}"
        )
    if not all(_OPEN.fullmatch(each) for each in stated.split(", ")):
        return f"Warning: the licence of {name} ({stated}) has terms of its own.{where}"
    return ""
