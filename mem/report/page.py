"""The report page: one HTML file that contains every table and figure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from mem.report.plot_elements import RenderedFigure


@dataclass(frozen=True)
class CaptionedFigure:
    """A plotted figure with its title and caption."""

    name: str
    """File name without suffix. It is also the anchor on the page."""
    title: str
    caption: str
    rendered: RenderedFigure


@dataclass(frozen=True)
class CaptionedImage:
    """A PNG image with its caption."""

    caption: str
    png: bytes

    @property
    def data_uri(self) -> str:
        """The image as a `data:` URI, so that the page does not depend on other files."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class CaptionedTable:
    """A table with its title and caption."""

    title: str
    caption: str
    lines: Sequence[Sequence[str]]
    """Lines of cells; the first line is the header."""
    folded: bool = False
    """Whether the table is collapsed until its title is clicked."""
    css_class: str = ""
    """CSS classes defined in page.css: `text` for text instead of numbers, `small` for long lists."""


Content = CaptionedTable | CaptionedFigure | CaptionedImage
"""An element of a section."""


@dataclass(frozen=True)
class Section:
    """A part of the page. The table of contents links to it."""

    anchor: str
    """Identifier of the section in links: lower-case letters and hyphens, unique on the page."""
    title: str
    intro: str
    """Text below the title; can be empty."""
    content: Sequence[Content]

    def kind(self, content: Content) -> str:
        """Return `table`, `figure` or `image`, by which the template chooses how to render an element."""
        return {CaptionedTable: "table", CaptionedFigure: "figure", CaptionedImage: "image"}[type(content)]


@dataclass(frozen=True)
class Page:
    """Content of the report page, from top to bottom."""

    title: str
    description: str
    facts: Mapping[str, str]
    """Key facts shown at the top of the page."""
    sections: Sequence[Section]
    """The sections in order. Sections without content are left out."""
    provenance: Mapping[str, str]
    runs: Sequence[Sequence[str]]
    """Table of runs."""
    study: str
    """The study as YAML."""

    @property
    def figures(self) -> list[CaptionedFigure]:
        """The figures of all sections."""
        return [
            element for section in self.sections for element in section.content if isinstance(element, CaptionedFigure)
        ]

    def html(self) -> str:
        """Return the page as HTML. The page loads nothing from the network.

        Raises:
            ValueError: Two sections have the same anchor.
        """
        sections = [section for section in self.sections if section.content]
        anchors = [section.anchor for section in sections]
        if len(set(anchors)) < len(anchors):
            raise ValueError(f"Expected anchors that are unique, got {', '.join(anchors)}.")
        return _render("page.html.j2", page=self, sections=sections)


def table_page(table: CaptionedTable) -> str:
    """Return an HTML page with a single table."""
    return _render("table.html.j2", table=table)


def nonbreaking(cell: str) -> str:
    """Insert non-breaking spaces, so that narrow screens wrap a cell only before its interval."""
    return re.sub("(?<=±) | (?=%|GB|to )|(?<= to) ", "\N{NO-BREAK SPACE}", cell)


def _render(template: str, **content: object) -> str:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["nonbreaking"] = nonbreaking
    style = (folder / "page.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(style=style, **content)
