"""What the terminal shows when a study is done."""

from __future__ import annotations

import difflib
from pathlib import Path

from mem.errors import UserError
from mem.report.comparison import MANY_VARIANTS, chosen_by_val, reference_of, val_means
from mem.report.results import from_csv, to_text
from mem.report.scored import accuracy_table, difference_text


def summary(study: str, root: Path = Path()) -> str:
    """The method table of a study, paired differences over its runs, its report, and how to open MLflow.

    Raises:
        UserError: There is no report of that name.
    """
    folder = root / "results" / study / "report"
    path = folder / "results.csv"
    if not path.exists():
        there = sorted(p.parent.parent.name for p in root.glob("results/*/report/results.csv"))
        near = difflib.get_close_matches(study, there, n=1)
        hint = f" Did you mean {near[0]}?" if near else f" There are: {', '.join(there)}." if there else ""
        raise UserError(f"{path}: study {study} has no report yet; run it first.{hint}")
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
