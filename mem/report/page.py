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
    """File name without suffix, and anchor on the page."""
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
        """The image as a `data:` URI, so that the page needs no other file."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True)
class CaptionedTable:
    """A table with its title and caption."""

    title: str
    caption: str
    lines: Sequence[Sequence[str]]
    """Cells; the first line is the header."""
    folded: bool = False
    """Whether the page shows only the title until it is clicked."""
    css_class: str = ""
    """Classes of page.css: `text` for words instead of numbers, `small` for a long list."""


@dataclass(frozen=True)
class Page:
    """Content of the report page, from top to bottom."""

    title: str
    description: str
    facts: Mapping[str, str]
    """Key figures at the top."""
    score_tables: Sequence[CaptionedTable]
    """Accuracy, differences between methods, other scores."""
    figures: Sequence[CaptionedFigure]
    reconstructions: Sequence[CaptionedImage]
    """Images reconstructed in pretraining."""
    paper_tables: Sequence[CaptionedTable]
    """The paper's tables, and its figures in numbers."""
    other_tables: Sequence[CaptionedTable]
    """Deviations from the paper, and cost."""
    provenance: Mapping[str, str]
    runs: Sequence[Sequence[str]]
    """Table of runs."""
    study: str
    """The study as YAML."""

    def html(self) -> str:
        """Return the page as HTML. It loads nothing from the network."""
        return _render("page.html.j2", page=self)


def table_page(table: CaptionedTable) -> str:
    """Return an HTML page with a single table."""
    return _render("table.html.j2", table=table)


def nonbreaking(cell: str) -> str:
    """Return a cell with non-breaking spaces, so that narrow screens wrap it only before its interval."""
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
