"""The report: one HTML file with everything in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2


@dataclass(frozen=True)
class Figure:
    """A figure and what it shows."""

    name: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Page:
    """What a report says."""

    title: str
    description: str
    facts: Mapping[str, str]
    """Key figures at the top."""
    scores: Sequence[Sequence[str]]
    scores_caption: str
    selection: Sequence[Sequence[str]] | None
    """The same table on val, where there is one."""
    figures: Sequence[Figure]
    cost: Sequence[Sequence[str]]
    runs: Sequence[Sequence[str]]
    provenance: Mapping[str, str]
    study: str
    """The study as YAML."""

    def html(self) -> str:
        """The page; it asks nothing of the network."""
        folder = Path(__file__).parent
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(folder),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        style = (folder / "page.css").read_text(encoding="utf-8")
        return environment.get_template("page.html.j2").render(page=self, style=style)
