"""Format tables as Markdown, CSV or terminal text. A table is a list of lines; the first line is the header."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from mem.errors import printable

_FORMULA = re.compile(r"[=@\t\r]|[+-](?!(?:[\d\s.,;±%()\[\]–−e+-]| to )*$)")
"""Start of a cell that a spreadsheet program would execute as a formula. Signed numbers, also with an interval, and
dashes are no formulas."""


Emphasis = Literal["best", "near"]
"""Emphasis of a cell: the best value of its column, or a value within the interval of the best value."""
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "−": "$-$",
    "<": "$<$", ">": "$>$", "τ": r"$\tau$", "…": r"\ldots{}", "–": "--", "\N{NO-BREAK SPACE}": "~",
    "\N{RIGHTWARDS ARROW}": r"$\rightarrow$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}  # fmt: skip
_LATEX_EMPHASIS = {"best": r"\textbf{%s}", "near": r"\underline{%s}"}


def latex_table(
    lines: Sequence[Sequence[str]], caption: str, emphasis: Mapping[tuple[int, int], Emphasis] | None = None
) -> str:
    """Return a LaTeX table that needs the package `booktabs`. All columns but the first are right-aligned.

    Args:
        lines: Lines of cells; the first line is the header.
        caption: Caption of the table as plain text.
        emphasis: Emphasis of cells by line and column.
    """
    marked = [
        [_latex_cell(cell, (emphasis or {}).get((row, column))) for column, cell in enumerate(line)]
        for row, line in enumerate(lines)
    ]
    header, *body = [f"    {' & '.join(line)} \\\\" for line in marked]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            f"  \\caption{{{latex_text(caption)}}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(lines[0]) - 1)}}}",
            r"    \toprule",
            header,
            r"    \midrule",
            *body,
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _latex_cell(cell: str, emphasis: Emphasis | None) -> str:
    """Return a cell as LaTeX. The interval after a number is not emphasised."""
    if emphasis is None:
        return latex_text(cell)
    number, space, interval = cell.partition(" ")
    return _LATEX_EMPHASIS[emphasis] % latex_text(number) + latex_text(space + interval)


def latex_text(text: str) -> str:
    """Return plain text as LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. The first column is left-aligned; all others are right-aligned."""
    header, *body = [f"| {' | '.join(line)} |" for line in lines]
    rule = "|" + "|".join(["---", *["---:"] * (len(lines[0]) - 1)]) + "|"
    return "\n".join([header, rule, *body]) + "\n"


def csv_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as CSV. A cell that a spreadsheet program would execute as a formula starts with `'`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([[without_formula(cell) for cell in line] for line in lines])
    return text.getvalue()


def without_formula(cell: str) -> str:
    """Return a cell of a CSV file, with `'` in front if a spreadsheet program would execute it as a formula.

    Numbers, names of studies and datasets, and keys never start with such a character and are not changed.
    """
    return f"'{cell}" if _FORMULA.match(cell) else cell


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns, for the terminal."""
    lines = [[printable(cell) for cell in line] for line in lines]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        "  ".join([line[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]])
        for line in lines
    ]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])
