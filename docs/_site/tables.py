"""Result tables of the documentation, generated from results.csv files.

`make tables` rewrites the marked blocks in docs/results/*.md. A page reads the
results.csv in the folder with its name. A block names its table and, as KEY=VALUE, its options:

    <!-- table: scores split=test heads=mem,mem.reo_weight* columns=all,group_by_norm -->

    <!-- /table -->

- `accuracy`: test accuracy of every method; with many methods, the best on val first.
- `scores`: mean and 95 % interval of `columns` (default: the shot groups) on `split`.
- `differences`: paired differences from `minus` on `split`. With `heads`, those methods only and no p-values;
  otherwise every method, with p-values.
- `study_differences`: the scores of another `study` minus this one's on `split`, paired by seed and class order.

`heads` is a comma-separated list of names or patterns (`mem.xi*`). Rows keep the order of results.csv.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from mem.metrics import paired_student
from mem.report.differences import differences, signed
from mem.report.results import SHOTS, Row, by_variant, from_csv, summarised, table, to_markdown
from mem.report.tables import accuracy_table, difference_text

RESULTS = Path(__file__).parents[1] / "results"
BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- /table -->)", re.DOTALL)

Lines = list[list[str]]
Options = Mapping[str, str]


def regenerate(page: Path) -> str:
    """Return the text of a results page with every marked table recomputed.

    Raises:
        KeyError: A block names an unknown table, option, study or method.
    """
    rows = from_csv(page.with_suffix("") / "results.csv")

    def block(match: re.Match[str]) -> str:
        kind, *pairs = match[2].split()
        lines = TABLES[kind](rows, dict(pair.split("=", 1) for pair in pairs))
        return f"{match[1]}\n{to_markdown(lines)}\n{match[3]}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def _accuracy(rows: Sequence[Row], _: Options) -> Lines:
    return accuracy_table(rows)


def _scores(rows: Sequence[Row], options: Options) -> Lines:
    columns = options.get("columns", ",".join(SHOTS)).split(",")
    header, *body = table(summarised(_selected(rows, options), options["split"], columns))
    return [[name.replace("_", " ") for name in header], *body]


def _differences(rows: Sequence[Row], options: Options) -> Lines:
    if "heads" not in options:
        return difference_text(rows, options["split"]) or []
    reference = options["minus"]
    chosen = by_variant(_selected(rows, options), options["split"])
    found = differences(rows, options["split"], reference)
    body = [
        [head, *[signed(found[head][shot].mean, found[head][shot].half_width) for shot in SHOTS]]
        for head in chosen
        if head != reference
    ]
    return [[f"minus {reference}", *SHOTS], *body]


def _study_differences(rows: Sequence[Row], options: Options) -> Lines:
    others = by_variant(from_csv(RESULTS / options["study"] / "results.csv"), options["split"])
    lines = [["method", *SHOTS]]
    for head, mine in by_variant(rows, options["split"]).items():
        theirs = {row.repeat: row for row in others[head]}
        pairs = [(theirs[row.repeat], row) for row in mine]
        shots = [
            paired_student([getattr(a, shot) for a, _ in pairs], [getattr(b, shot) for _, b in pairs]) for shot in SHOTS
        ]
        lines.append([head, *[signed(shot.mean, shot.half_width) for shot in shots]])
    return lines


def _selected(rows: Sequence[Row], options: Options) -> list[Row]:
    """The rows of the methods that `heads` names, all without it."""
    patterns = options.get("heads", "*").split(",")
    for pattern in patterns:
        if not any(fnmatchcase(row.variant, pattern) for row in rows):
            raise KeyError(f"No method in results.csv matches {pattern!r}.")
    return [row for row in rows if any(fnmatchcase(row.variant, pattern) for pattern in patterns)]


TABLES: dict[str, Callable[[Sequence[Row], Options], Lines]] = {
    "accuracy": _accuracy,
    "scores": _scores,
    "differences": _differences,
    "study_differences": _study_differences,
}

if __name__ == "__main__":
    for page in sorted(RESULTS.glob("*.md")):
        page.write_text(regenerate(page), encoding="utf-8")
