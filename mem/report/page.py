"""The report page: one HTML file that contains every table and figure."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from mem.report.difference_plot import DifferencePlot
from mem.report.pictures import CaptionedPictures
from mem.report.plot_elements import RenderedFigure
from mem.report.table_formats import Emphasis, latex_table

_INTERVAL = re.compile(r"([+−]?\d[\d.,]*) (±.*|\((?:SE |[+−\d]).*\)|\[.*\])")
"""A number and its interval or standard error."""
LONG_NAME = 14
"""A name with more characters may wrap."""
LONG_TABLE_LINES = 26
"""A table with more lines gets a scroll bar of its own."""


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
    emphasis: Mapping[tuple[int, int], Emphasis] = field(default_factory=dict)
    """Emphasis of cells by line, where the header is line 0, and column."""

    @property
    def is_long(self) -> bool:
        """Whether the table gets a scroll bar of its own, so that the page stays short."""
        return len(self.lines) > LONG_TABLE_LINES

    @property
    def latex(self) -> str:
        """The table as LaTeX."""
        return latex_table(self.lines, f"{self.title}. {self.caption}", self.emphasis)


@dataclass(frozen=True)
class Answer:
    """The first screen of the page: which method is best, by how much, and how sure this is."""

    sentences: Sequence[Markup]
    plots: Sequence[DifferencePlot]
    """Differences between the methods, one figure per baseline. The first is shown; the others can be chosen."""
    caption: str
    """Caption of the figures."""


Content = CaptionedTable | CaptionedFigure | CaptionedImage | CaptionedPictures
"""An element of a section."""
KINDS = {
    CaptionedTable: "table",
    CaptionedFigure: "figure",
    CaptionedImage: "image",
    CaptionedPictures: "pictures",
}
"""Name of each kind of element in the template."""


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
        """Return one of `KINDS`, by which the template chooses how to render an element."""
        return KINDS[type(content)]


@dataclass(frozen=True)
class Page:
    """Content of the report page, from top to bottom."""

    title: str
    study_name: str
    description: str
    answer: Answer
    facts: Mapping[str, str]
    """Key facts shown below the answer."""
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
    return re.sub("(?<=±) | (?=%|GB|min$|[sh]$|to )|(?<= to) ", "\N{NO-BREAK SPACE}", cell)


def interval_html(cell: str) -> Markup:
    """Return a cell as HTML in which the interval after a number is smaller than the number."""
    text = nonbreaking(cell)
    found = _INTERVAL.fullmatch(text)
    return (
        Markup('<span class="number">{}</span> <small>{}</small>').format(*found.groups())
        if found
        else Markup("{}").format(text)
    )


def breakable(name: str) -> Markup:
    """Return a long name as HTML that may wrap after a dot or an underscore."""
    if len(name) <= LONG_NAME or " " in name:
        return escape(name)
    return Markup(re.sub(r"([._])(?=\w)", r"\1<wbr>", str(escape(name))))


def _render(template: str, **content: object) -> str:
    folder = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["interval"] = interval_html
    environment.filters["breakable"] = breakable
    environment.globals["long_table_lines"] = LONG_TABLE_LINES
    style, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template(template).render(style=style, script=script, **content)
