"""One table of the results of several studies: the output of `mem results STUDY STUDY ...`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mem.report.captions import interval_units
from mem.report.crop_marks import crops_mark
from mem.report.method_tables import sorted_summary
from mem.report.results import SHOTS, ScoreRow, score_table
from mem.report.table_formats import text_table
from mem.report.terminal import TEXT_WIDTH, rows_of_study
from mem.report.transductive import NOTE, marked_lines, transductive_heads


def studies_summary(studies: Sequence[str], root: Path = Path()) -> str:
    """Return one table with the accuracy of each method of several studies on test, and what is not comparable.

    Args:
        studies: Names of the studies.
        root: Working folder of the studies.

    Raises:
        UserError: A study has no report, or its results are empty.
    """
    rows = {study: rows_of_study(study, root) for study in studies}
    transductive = transductive_heads([row for study_rows in rows.values() for row in study_rows])
    parts = [
        f"Accuracy on test in %: {', '.join(studies)}",
        text_table(comparison_table(rows)),
        *(textwrap.fill(note, TEXT_WIDTH) for note in _notes(rows)),
        *([textwrap.fill(NOTE, TEXT_WIDTH)] if transductive else []),
        "\n".join(f"Report of {study}: {root / 'results' / study / 'report' / 'index.html'}" for study in rows),
    ]
    return "\n\n".join(parts)


def comparison_table(rows: Mapping[str, Sequence[ScoreRow]]) -> list[list[str]]:
    """Return a table with one line per study and method.

    Args:
        rows: Scores by study.
    """
    lines: list[list[str]] = []
    for study, study_rows in rows.items():
        header, *body = score_table(sorted_summary(study_rows, "test", SHOTS))
        marked = marked_lines([header, *body], transductive_heads(study_rows))
        if not lines:
            lines.append(["study", "backbone", *header, "runs"])
        for line, (variant, *_) in zip(marked[1:], body, strict=True):
            runs = len({row.repeat for row in study_rows if row.variant == variant and row.split == "test"})
            lines.append([study, study_rows[0].backbone, *line, str(runs)])
    return lines


def _notes(rows: Mapping[str, Sequence[ScoreRow]]) -> list[str]:
    """Return sentences about the intervals, and about differences between the studies beside the methods."""
    properties: dict[str, Callable[[Sequence[ScoreRow]], str]] = {
        "datasets": lambda study_rows: study_rows[0].dataset,
        "shot groups": lambda study_rows: study_rows[0].thresholds,
        "class orders": lambda study_rows: ", ".join(map(str, sorted({row.order for row in study_rows}))),
        "crops": lambda study_rows: crops_mark(study_rows).strip(" ,()") or "1",
    }
    notes = []
    for name, value in properties.items():
        values = {study: value(study_rows) for study, study_rows in rows.items()}
        if len(set(values.values())) > 1:
            listed = "; ".join(f"{study}: {text}" for study, text in values.items())
            notes.append(f"The studies have different {name} ({listed}). Do not compare their scores.")
    units = {study: interval_units(study_rows) for study, study_rows in rows.items()}
    if any(units.values()):
        listed = "; ".join(f"{study}: {unit or 'a single run'}" for study, unit in units.items())
        notes.append(f"± is the half-width of a 95 % interval over {listed}.")
    return notes
