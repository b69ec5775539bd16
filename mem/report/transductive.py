"""Marks of transductive results: of heads that were adapted to the test images, without their labels."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from mem.report.results import ScoreRow

MARK = " (transductive)"
"""Text after the name of a transductive head in all tables."""
NOTE = (
    "Transductive: the head was adapted to the test images, without their labels. Its predictions for an image depend "
    "on the other test images, so that it is not comparable with the other heads, and it is never chosen on val."
)

OTHER_NAMES = frozenset({"data set", "backbone", "study", "setting", "source"})
"""Columns whose cells are names of other things than heads, and can be equal to the name of a head."""
MINUS = "minus "
"""Start of the header of a column of differences, which ends with the name of the head that is subtracted."""
_OF_A_HEAD = re.compile(r"ours, (\d+ runs?|paired)")
"""Sources of the lines of tables of published results whose column `method` contains the name of a head."""


def transductive_heads(rows: Iterable[ScoreRow]) -> list[str]:
    """Return the names of the transductive heads."""
    return list(dict.fromkeys(row.variant for row in rows if row.transductive))


def marked_text(text: str, heads: Iterable[str]) -> str:
    """Return a text in which each name of a transductive head is followed by `MARK`."""
    for name in heads:
        text = re.sub(rf"(?<![\w.]){re.escape(name)}(?![\w]|\.\w|{re.escape(MARK)})", name + MARK, text)
    return text


def marked_lines(lines: Sequence[Sequence[str]], heads: Sequence[str]) -> list[list[str]]:
    """Return the lines of a table in which each name of a transductive head is followed by `MARK`.

    In the header, only the head that is subtracted is a head's name. Columns in `OTHER_NAMES` are not marked, and the
    column `method` only in lines with results of heads: a line of a published result has the name of the method.

    Args:
        lines: Lines of cells; the first line is the header.
        heads: Names of the transductive heads.
    """
    if not lines:
        return []
    header, *body = lines
    subtracted = {f"{MINUS}{name}" for name in heads}
    marked = [[cell + MARK if cell in subtracted else cell for cell in header]]
    for line in body:
        names_no_head = set(OTHER_NAMES)
        if "source" in header and not _OF_A_HEAD.fullmatch(line[header.index("source")]):
            names_no_head.add("method")
        columns = zip(header, line, strict=True)
        marked.append([cell if name in names_no_head else marked_text(cell, heads) for name, cell in columns])
    return marked
