"""Figures of accuracy in the text of a page, and the expressions that say where each comes from.

A sentence that states an accuracy has its source in a comment at the end of its paragraph, list item or table line, one
expression for each figure, in their order:

    MEM is level with cRT: −0.05 ± 0.31 points, and +1.58 ± 1.29 on medium-shot classes. <!-- figures:
    difference("mem", "crt")
    difference("mem", "crt", "medium") -->

`tests/docs/sources.py` says what an expression may use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

NUMBER = r"[+−-]?\d+(?:\.\d+)?"
WORDS = {
    "half a": 0.5,
    **{
        word: float(n)
        for n, word in enumerate("one two three four five six seven eight nine ten eleven twelve".split(), 1)
    },
    "fifteen": 15.0,
    "twenty": 20.0,
    "thirty": 30.0,
}
AMOUNT = rf"(?:{NUMBER}|\b(?:{'|'.join(WORDS)})\b)"
UNIT = r"(?:%|per ?cent\b|(?:percentage )?points?\b)"

FIGURE = re.compile(
    rf"(?<![\w.+−-])(?:{NUMBER}\s?±\s?\d+(?:\.\d+)?"  # with an interval
    rf"|±\s?\d+(?:\.\d+)?"
    rf"|{AMOUNT}(?=(?:\s(?:to|and|or)\s{AMOUNT})*\s?{UNIT})"  # with a unit, which comes last in "one to two points"
    r"|[+−]\d+\.\d+)(?![\w.]*\d)",
    re.IGNORECASE,
)
DECIMAL = re.compile(r"(?<![\w.+−-])[+−-]?\d+\.\d{1,2}(?![\w.]*\d)(?!\s?(?:million|GB|MB|s|seconds|minutes|hours)\b)")
"""A bare decimal, which may be an accuracy where the text is about them."""
ABOUT_ACCURACY = re.compile(
    r"\baccurac|\bpoints?\b|\bon (?:val|test)\b|[a-z]-shot\b|\b(?:CE|cRT|LWS|MEM)\b", re.IGNORECASE
)

Bare = Literal["all", "in sentences about accuracy", "none"]
OTHERWISE = {
    r"95 %\s+interval": "how sure a figure is",
    r"below 0\.05": "a p-value",
    r"in bfloat16 at 40 %": "the part of its peak at which a GPU is counted",
    r"plus 15 %": "memory",
    r"stage by stage, to 10 %": "disk",
    r"[\d.]+ %\s+of\s+a\s+core": "a processor's time",
    r"404 points in the curve": "points of a curve",
}
"""What looks like an accuracy and is none, as it stands on some page, and what it is."""
NO_ACCURACY = re.compile("|".join(OTHERWISE))

MARKER = re.compile(r"<!-- figures:(.*?)-->", re.DOTALL)
COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
NO_TEXT = re.compile(r"`[^`]*`|\]\([^)]*\)|\{ width=[^}]*\}")
FENCE = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
NEW_BLOCK = re.compile(r"^\s*(?:[-*] |\d+\. |\||#)|^\s*$")


@dataclass(frozen=True)
class Figure:
    """A number as the text has it."""

    text: str
    line: int
    """Of the page; the first is 1."""

    @property
    def parts(self) -> list[str]:
        """The number, and the half-width of its interval where it has one."""
        return [part.strip() for part in self.text.split("±") if part.strip()]


@dataclass(frozen=True)
class Block:
    """A paragraph, a list item, a heading or a line of a table."""

    text: str
    line: int

    @property
    def is_table_line(self) -> bool:
        """Whether it is a line of a table."""
        return self.text.startswith("|")

    @property
    def expressions(self) -> list[str]:
        """What its comments give as sources, in order."""
        lines = "\n".join(MARKER.findall(self.text)).splitlines()
        return [line.strip() for line in lines if line.strip()]

    def figures(self, *, bare: Bare) -> list[Figure]:
        """Its figures in order."""
        text = self.text
        for no_figure in (COMMENT, NO_TEXT, NO_ACCURACY):
            text = no_figure.sub(_blank, text)
        spans = [match.span() for match in FIGURE.finditer(text)]
        about = bare == "in sentences about accuracy" and not self.is_table_line and ABOUT_ACCURACY.search(text)
        if about or bare == "all":
            inside = [match.span() for match in DECIMAL.finditer(text)]
            spans += [(a, b) for a, b in inside if not any(start <= a < end for start, end in spans)]
        return [Figure(text[a:b], self.line + text[:a].count("\n")) for a, b in sorted(spans)]


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page of Markdown, without its code."""
    lines: list[str] = []
    start = 1
    in_comment = False
    for number, line in enumerate(FENCE.sub(_blank, page).splitlines(), start=1):
        if lines and not in_comment and NEW_BLOCK.match(line):
            yield Block("\n".join(lines), start)
            lines = []
        if not lines:
            start = number
        if line.strip() or lines:
            lines.append(line)
        in_comment = line.rfind("<!--") > line.rfind("-->") or (in_comment and "-->" not in line)
    if lines:
        yield Block("\n".join(lines), start)


def complaints(page: str, names: Mapping[str, Any], *, bare: Bare) -> list[str]:
    """What is wrong with the figures of a page: those without a source, and those that their source contradicts.

    Args:
        page: Its Markdown.
        names: What an expression may use.
        bare: Which decimals count that have neither sign, interval nor unit.
    """
    found: list[str] = []
    for block in blocks(page):
        figures, expressions = block.figures(bare=bare), block.expressions
        if len(figures) != len(expressions):
            stated = ", ".join(f"{figure.text!r} (line {figure.line})" for figure in figures) or "none"
            found.append(
                f"line {block.line}: the text has {len(figures)} figures of accuracy: {stated}, and "
                f"{len(expressions)} sources. Give each its source, in order, in a comment at the paragraph's end, "
                "<!-- figures: ... -->, as tests/docs/figures.py says. What is no accuracy goes into backticks, or "
                "into OTHERWISE in that file."
            )
            continue
        for figure, expression in zip(figures, expressions, strict=True):
            try:
                value = eval(expression, dict(names))
            except Exception as error:
                error.add_note(f"line {figure.line}: {figure.text!r} comes from {expression!r}")
                raise
            if fault := wrong(figure, value):
                found.append(f"line {figure.line}: {fault}, which is {expression}")
    return found


def wrong(figure: Figure, value: object) -> str | None:
    """What is wrong with a figure whose source says `value`: a number, or a mean with its interval."""
    mean = getattr(value, "mean", value)
    expected = [mean, getattr(value, "half_width", None)]
    if figure.text.startswith("±"):
        expected = [mean]
    shown = f"{mean:+.4f}" + (f" ± {expected[1]:.4f}" if len(expected) > 1 and expected[1] is not None else "")
    for part, number in zip(figure.parts, expected, strict=False):
        if number is None:
            return f"says {figure.text!r}, but the source has no interval: {shown}"
        written, last_digit = _read(part)
        # A value in the middle of two roundings may be written as either.
        if abs(written - number) > last_digit / 2 + 1e-6 or (part[0] in "+−-" and written * number < 0):
            return f"says {figure.text!r}, but the source says {shown}"
    return None


def _read(part: str) -> tuple[float, float]:
    """A number as text: its value, and what its last digit is worth."""
    if part.lower() in WORDS:
        return WORDS[part.lower()], min(1.0, WORDS[part.lower()])
    return float(part.replace("−", "-")), 10.0 ** -len(part.partition(".")[2])


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])
