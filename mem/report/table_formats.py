"""Format tables as Markdown, CSV or terminal text. A table is a list of lines; the first line is the header."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence


def markdown_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table. The first column is left-aligned; all others are right-aligned."""
    header, *body = [f"| {' | '.join(line)} |" for line in lines]
    rule = "|" + "|".join(["---", *["---:"] * (len(lines[0]) - 1)]) + "|"
    return "\n".join([header, rule, *body]) + "\n"


def csv_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as CSV."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def text_table(lines: Sequence[Sequence[str]]) -> str:
    """Return a table with aligned columns, for the terminal."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    aligned = [
        "  ".join([line[0].ljust(widths[0]), *[cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True)]])
        for line in lines
    ]
    return "\n".join([aligned[0], "-" * len(aligned[0]), *aligned[1:]])
