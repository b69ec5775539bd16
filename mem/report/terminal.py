"""Print the results of a study in the terminal: the output of `mem results`."""

from __future__ import annotations

import csv
import difflib
import shlex
import textwrap
from pathlib import Path

from mem.errors import UserError
from mem.report.agreement import disagreement_text
from mem.report.captions import (
    SEVERAL_METHODS,
    coverage,
    equal_results,
    interval_units,
    same_backbone,
    several_finetunings,
    val_error,
)
from mem.report.chosen_heads import CAPTION as CHOSEN_HEADS
from mem.report.chosen_heads import chosen_finetunings, chosen_head_table
from mem.report.crop_marks import crops_mark, crops_note
from mem.report.differences import equal_sets, identities
from mem.report.method_tables import accuracy_table, paired_difference_table
from mem.report.ranking import MANY_VARIANTS, best_on_val_text, reference_variant, val_scores
from mem.report.results import ScoreRow, from_csv, is_refitted
from mem.report.table_formats import text_table
from mem.report.transductive import NOTE, marked_lines, marked_text, transductive_heads

PARTS = (*(f"table{number}" for number in range(1, 6)), "figure1", "figure3", "figure4")
"""Tables and figures that `mem results STUDY PART` prints."""
TEXT_WIDTH = 100
"""Maximum width of captions in characters."""


def paper_part(study: str, part: str, root: Path = Path()) -> str:
    """Return the numbers, caption and file paths of one of the paper's tables or figures for a study.

    Raises:
        UserError: The table or figure is unknown, or the study has no report.
    """
    if part not in PARTS:
        raise UserError(f"Unknown table or figure {part}. Choose one of: {', '.join(PARTS)}.")
    path = root / "results" / study / f"{part[:-1]}s" / part
    if not path.with_suffix(".csv").exists():
        _results_csv(study, root)
        raise UserError(
            f"{path.with_suffix('.csv')} does not exist: the report of study {study} is from an older version. Run: "
            f"{_workflow(study, root)} {part}"
        )
    command = f"{_workflow(study, root)} --forcerun report"
    title, caption = _read_title_and_caption(path.with_suffix(".md"), command)
    with open(path.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    paths = sorted(str(file) for file in path.parent.glob(f"{part}.*"))
    return "\n\n".join(
        [
            f"{title.removeprefix('# ')} ({study})",
            text_table(lines),
            textwrap.fill(caption, TEXT_WIDTH),
            "\n".join(paths),
        ]
    )


def _read_title_and_caption(path: Path, command: str) -> tuple[str, str]:
    """Return the first and third lines of a Markdown file. Error messages name `command`, which rewrites the file."""
    try:
        title, _, caption, *_ = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(
            f"{path} does not exist, although its CSV file does. Write the report again: {command}"
        ) from None
    except ValueError:
        raise UserError(
            f"{path} is damaged: expected a title, an empty line and a caption. Write the report again: {command}"
        ) from None
    return title, caption


def _results_csv(study: str, root: Path) -> Path:
    """Return the path of a study's results.csv.

    Raises:
        UserError: The study has no report.
    """
    path = root / "results" / study / "report" / "results.csv"
    if not path.exists():
        studies = sorted(p.parent.parent.name for p in root.glob("results/*/report/results.csv"))
        similar = difflib.get_close_matches(study, studies, n=1)
        hint = f" Studies with a report: {', '.join(studies)}." if studies else ""
        if similar:
            hint = f" Did you mean {similar[0]}?"
        raise UserError(f"{path} does not exist: study {study} has no report yet. Run the study first.{hint}")
    return path


def rows_of_study(study: str, root: Path = Path()) -> list[ScoreRow]:
    """Return the scores of a study from its report.

    Raises:
        UserError: The study has no report, or its results are empty.
    """
    path = _results_csv(study, root)
    rows = from_csv(path)
    if not rows:
        raise UserError(f"{path} has no rows. Write the report again: {_workflow(study, root)} --forcerun report")
    return rows


def study_summary(study: str, root: Path = Path(), minus: str | None = None) -> str:
    """Return a study's table of methods, the differences over its runs, and the path of its report.

    Args and errors are those of `study_tables`.
    """
    tables = study_tables(study, root, minus)
    change_directory = "" if root == Path() else f"cd {shlex.quote(str(root))} && "
    report = _results_csv(study, root).parent / "index.html"
    return f"{tables}\n\nReport:    {report}\nMLflow UI: {change_directory}mem track ui {study}"


def study_tables(study: str, root: Path = Path(), minus: str | None = None) -> str:
    """Return a study's table of methods and the differences over its runs.

    Args:
        study: Name of the study.
        root: Working folder of the study.
        minus: The head that is subtracted in the differences. Default: cRT or, without cRT, the first head that
            is not transductive.

    Raises:
        UserError: The study has no report or only one run of `minus`, its results are empty, or there is no such head.
    """
    rows = rows_of_study(study, root)
    units = interval_units(rows)
    spread = f", mean ± 95 % interval over {units}" if units else ""
    has_val = bool(val_scores(rows))
    sorting = ", best on val first" if len({row.variant for row in rows}) > MANY_VARIANTS and has_val else ""
    val = "held-out training images; test: heads trained on all of them; " if is_refitted(rows) else ""
    transductive = transductive_heads(rows)
    parts = [
        f"{rows[0].dataset}, {rows[0].backbone}: accuracy on test in %{crops_mark(rows)} "
        f"({rows[0].thresholds}{spread}{sorting})",
        text_table(marked_lines(accuracy_table(rows), transductive)),
        *([textwrap.fill(NOTE, TEXT_WIDTH)] if transductive else []),
        *([textwrap.fill(note, TEXT_WIDTH)] if (note := crops_note(rows)) else []),
        textwrap.fill(coverage(rows) + (val_error(rows) if has_val else ""), TEXT_WIDTH),
        f"Best on val ({val}mean per-class accuracy): {best_on_val_text(rows)}"
        if has_val
        else "There is no val split.",
        *([textwrap.fill(warning, TEXT_WIDTH)] if (warning := disagreement_text(rows)) else []),
    ]
    if (lines := paired_difference_table(rows, reference=minus)) is not None:
        reference = minus or reference_variant(rows)
        finetunings, equal = several_finetunings(rows, reference), equal_results(equal_sets(identities(rows, "test")))
        parts += [
            f"Difference from {marked_text(reference, transductive)} {same_backbone(rows, reference)}, on test, in "
            "points (paired t-test; p adjusted by Holm's method)",
            text_table(marked_lines(lines, transductive)),
            textwrap.fill(SEVERAL_METHODS + finetunings + equal, TEXT_WIDTH),
        ]
        if (chosen := chosen_head_table(rows)) is not None:
            parts += [textwrap.fill(CHOSEN_HEADS + chosen_finetunings(rows), TEXT_WIDTH), text_table(chosen)]
    elif minus is not None:
        raise UserError(f"--minus {minus}: study {study} has a single run or head, so there are no paired differences.")
    return "\n\n".join(parts)


def _workflow(study: str, root: Path) -> str:
    """Return the first words of a command that runs a study in `root`."""
    return f"mem run {shlex.quote(study)}" + ("" if root == Path() else f" --directory {shlex.quote(str(root))}")
