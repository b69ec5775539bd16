"""What the terminal shows when a study is done."""

from __future__ import annotations

import csv
import difflib
import textwrap
from pathlib import Path

from mem.errors import UserError
from mem.report.differences import MANY_VARIANTS, chosen_by_val, reference_of, val_means
from mem.report.results import from_csv, to_text
from mem.report.tables import accuracy_table, difference_text

PARTS = (*(f"table{number}" for number in range(1, 6)), "figure1", "figure3", "figure4")
"""What `mem results STUDY PART` knows."""
COLUMNS = 100
"""Width of text in the terminal."""


def paper_part(study: str, part: str, root: Path = Path()) -> str:
    """One of the paper's tables or figures as a study has it: its numbers, what they are, and its files.

    Raises:
        UserError: There is no such table or figure, or the study has no report.
    """
    if part not in PARTS:
        raise UserError(f"{part}: no table or figure of the paper that is made here; there are: {', '.join(PARTS)}")
    path = root / "results" / study / f"{part[:-1]}s" / part
    if not path.with_suffix(".csv").exists():
        _check_reported(study, root)
        raise UserError(
            f"{path.with_suffix('.csv')}: not there, though study {study} has a report: an older one. Make it: "
            f"snakemake --config study={study} {part}"
        )
    title, caption = _title_and_caption(path.with_suffix(".md"), f"snakemake --config study={study} --forcerun report")
    with open(path.with_suffix(".csv"), encoding="utf-8", newline="") as file:
        lines = list(csv.reader(file))
    made = sorted(str(each) for each in path.parent.glob(f"{part}.*"))
    return "\n\n".join(
        [f"{title.removeprefix('# ')} ({study})", to_text(lines), textwrap.fill(caption, COLUMNS), "\n".join(made)]
    )


def _title_and_caption(path: Path, again: str) -> tuple[str, str]:
    """What the first and the third line of a part's text say."""
    try:
        title, _, caption, *_ = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: not there, though its table is. Make the report again: {again}") from None
    except ValueError:
        raise UserError(
            f"{path}: damaged: expected a title, an empty line and a caption. Make the report again: {again}"
        ) from None
    return title, caption


def _check_reported(study: str, root: Path) -> Path:
    """The study's results.csv."""
    path = root / "results" / study / "report" / "results.csv"
    if not path.exists():
        there = sorted(p.parent.parent.name for p in root.glob("results/*/report/results.csv"))
        near = difflib.get_close_matches(study, there, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(there)}." if there else ""
        raise UserError(f"{path}: study {study} has no report yet; run it first.{hint}")
    return path


def summary(study: str, root: Path = Path()) -> str:
    """The method table of a study, paired differences over its runs, its report, and how to open MLflow.

    Raises:
        UserError: There is no report of that name.
    """
    path = _check_reported(study, root)
    folder = path.parent
    rows = from_csv(path)
    if not rows:
        raise UserError(f"{path}: has no rows. Make the report again: snakemake --config study={study}")
    runs = len({row.repeat for row in rows})
    over = f", mean ± 95 % interval over {runs} runs" if runs > 1 else ""
    variants = len({row.variant for row in rows})
    order = ", the best on val first" if variants > MANY_VARIANTS and val_means(rows) else ""
    parts = [
        f"{rows[0].dataset}, {rows[0].backbone}: accuracy on test in % ({rows[0].thresholds}{over}{order})",
        to_text(accuracy_table(rows)),
    ]
    if (lines := difference_text(rows)) is not None:
        parts += [
            f"Minus {reference_of(rows)} on the same backbone, in points (paired t-test; p adjusted by Holm)",
            to_text(lines),
        ]
        parts.append(f"Highest on val: {chosen_by_val(rows)}" if val_means(rows) else "There is no val split.")
    parts.append(f"Report:    {folder / 'index.html'}\nMLflow UI: mem track ui")
    return "\n\n".join(parts)
