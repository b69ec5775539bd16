"""Marks of results whose logits are means over several crops of each image (`evaluate.crops`).

All heads of a study have the same crops, so that the title of a table of the study contains them. In tables that also
contain results of other studies and published numbers, each name has the mark.
"""

from __future__ import annotations

from collections.abc import Sequence

from mem.report.results import ScoreRow


def crops_mark(rows: Sequence[ScoreRow]) -> str:
    """Return the text after a name of a study with these rows, for example ` (five crops at 248)`; "" without crops."""
    crops = ", ".join(dict.fromkeys(row.crops for row in rows if row.crops))
    return f" ({crops})" if crops else ""


def crops_note(rows: Sequence[ScoreRow]) -> str:
    """Return sentences about the crops of a study with these rows; "" without crops."""
    mark = crops_mark(rows)
    if not mark:
        return ""
    return (
        f"Scores marked{mark} are of logits that are averaged over these crops of each image (`evaluate.crops`). They "
        "are not comparable with scores of one central crop."
    )


def named_with_crops(lines: Sequence[Sequence[str]], rows: Sequence[ScoreRow]) -> list[list[str]]:
    """Return the lines of a table of a study in which the first cell of each line, a head's name, has the mark."""
    mark = crops_mark(rows)
    header, *body = lines
    return [list(header), *([line[0] + mark, *line[1:]] for line in body)]
