"""What the terminal shows when a study is done."""

from __future__ import annotations

import difflib
from pathlib import Path

from mem.errors import UserError
from mem.report.results import from_csv, summarised, table, to_text


def summary(study: str, root: Path = Path()) -> str:
    """The method table of a study, its report, and how to open MLflow.

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
    runs = len({(row.seed, row.order) for row in rows})
    over = f", mean ± 95 % interval over {runs} runs" if runs > 1 else ""
    lines = to_text(table(summarised(rows, "test")))
    return (
        f"{rows[0].dataset}, {rows[0].backbone}: accuracy on test in % ({rows[0].thresholds}{over})\n\n{lines}\n\n"
        f"Report:    {folder / 'index.html'}\n"
        f"MLflow UI: mem track ui"
    )
