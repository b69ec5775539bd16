"""The report: one HTML file with everything in it."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mem.report.figures import Picture


@dataclass(frozen=True)
class Figure:
    """A figure and what it shows."""

    name: str
    title: str
    caption: str
    picture: Picture


@dataclass(frozen=True)
class Photo:
    """A picture of pixels, as PNG."""

    caption: str
    png: bytes

    @property
    def address(self) -> str:
        """The picture itself as an address, so that the page needs no other file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class Table:
    """A table and what it says; a folded one is opened by a click."""

    title: str
    caption: str
    lines: Sequence[Sequence[str]]
    folded: bool = False
    kind: str = ""
    """Classes of page.css: `words` for text instead of numbers, `small` for a long list."""


@dataclass(frozen=True)
class Page:
    """What a report says."""

    title: str
    description: str
    facts: Mapping[str, str]
    """Key figures at the top."""
    scores: Sequence[Table]
    """Accuracy, differences between methods, other scores."""
    figures: Sequence[Figure]
    photos: Sequence[Photo]
    """Reconstructions."""
    paper: Sequence[Table]
    """The paper's tables and figures, in numbers."""
    rest: Sequence[Table]
    """Cost, deviations."""
    provenance: Mapping[str, str]
    runs: Sequence[Sequence[str]]
    study: str
    """The study as YAML."""

    def html(self) -> str:
        """The page; it asks nothing of the network."""
        return _rendered("page.html.j2", page=self)


def table_page(part: Table) -> str:
    """A page with one table."""
    return _rendered("table.html.j2", part=part)


def unbroken(cell: str) -> str:
    """A cell that is broken before its interval, on narrow screens, and not before a unit."""
    return re.sub("(?<=±) | (?=%|GB|to )|(?<= to) ", "\N{NO-BREAK SPACE}", cell)


def _rendered(template: str, **content: object) -> str:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["unbroken"] = unbroken
    style = (folder / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **content)
