"""Tables of the report page in which transductive heads are marked.

`mem.report.transductive` marks text. It is another file because `mem results` needs no page, whose import takes long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from mem.report.page import CaptionedTable
from mem.report.paper_format import PaperTable
from mem.report.transductive import MARK, NOTE, marked_lines, marked_text

Table = TypeVar("Table", CaptionedTable, PaperTable)


def marked_table(table: Table, heads: Sequence[str]) -> Table:
    """Return a table with marked names. If it contains such a name, its caption explains the mark."""
    lines = marked_lines(table.lines, heads)
    note = f" {NOTE}" if any(MARK in cell for line in lines for cell in line) else ""
    return replace(table, lines=lines, caption=marked_text(table.caption, heads) + note)
