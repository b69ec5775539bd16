"""Generate the result tables in the documentation from results.csv files.

`make tables` rewrites the marked blocks in docs/results/*.md. The data for the page NAME.md is in
docs/results/NAME/results.csv. The start page, docs/index.md, shows results of Glyphs-LT. A block specifies the name of
a table and its options as KEY=VALUE:

    <!-- table: scores split=test heads=mem,mem.reo_weight* columns=all,group_by_norm -->

    <!-- /table -->

- `accuracy`: test accuracy of every method. A table with many methods is sorted by the mean per-class
  accuracy on val, best first.
- `scores`: mean and 95 % confidence interval of each column in `columns` (default: the shot groups) on `split`. Class
  orders are the units of all intervals; with one class order, its seeds.
- `val`: the score on val by which methods are ranked, with its standard error, and the accuracy on val.
- `differences`: paired differences between each method and a reference on `split`. With `heads`, the table contains
  only those methods, without p-values, and `minus` specifies the reference. Otherwise, it contains every method, with
  p-values.
- `group_naming`: percentage of images whose shot group is named correctly by the predicted class and by the largest
  norm of a sub-network, and the norms minus the predicted classes of `minus`, paired. MEM heads must have the partition
  `shot`. `classes` is the number of many-, medium- and few-shot classes on a split with equally many images per class;
  it is used for files of earlier versions, which lack the column `group_recall_all`.
- `chosen`: MEM minus cRT, and minus all other methods, each represented by the head that val chooses in each run.
- `study_differences`: the scores of another study, `study`, minus the scores of this study on `split`, paired by seed
  and class order. `heads` selects methods that both studies have.

- `errors_by_group`: percentage of the errors of `head` on test whose predicted class is in each shot group, by the shot
  group of the image, from the predictions of `study`.
- `paper_differences`: the paper's accuracies of the methods `heads` minus that of the method `minus` (tables 2 to 4).

With `given=NAME,...`, these methods have a second row: their oracle accuracies ("NAME, group given").

`heads` is a comma-separated list of names or patterns (`mem.xi*`). Except in a sorted `accuracy` table, rows have
the same order as in results.csv.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mem.longtail import SHOT_NAMES
from mem.metrics import interval, paired_student
from mem.report.chosen_heads import chosen_head_table
from mem.report.crop_marks import named_with_crops
from mem.report.differences import format_difference, paired_differences, paired_scores
from mem.report.method_tables import accuracy_table, paired_difference_table, val_table
from mem.report.paper_format import paper_numbers
from mem.report.results import SHOTS, ScoreRow, by_variant, from_csv, score_table, summarise, with_group_given
from mem.report.table_formats import markdown_table

RESULTS = Path(__file__).parents[1] / "results"
START_PAGE = RESULTS.parent / "index.md"
START_PAGE_RESULTS = RESULTS / "glyphs_readings"
BLOCK = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- /table -->)", re.DOTALL)

Lines = list[list[str]]
Options = Mapping[str, str]


def regenerate(page: Path) -> str:
    """Return the text of a results page, or of the start page, with all marked tables regenerated.

    Raises:
        KeyError: A block specifies an unknown table, option or method.
    """
    folder = START_PAGE_RESULTS if page == START_PAGE else page.with_suffix("")
    rows = from_csv(folder / "results.csv")

    def block(match: re.Match[str]) -> str:
        kind, *pairs = match[2].split()
        options = dict(pair.split("=", 1) for pair in pairs)
        given = options.pop("given", "")
        lines = TABLES[kind](with_group_given(rows, given.split(",") if given else []), options)
        lines = named_with_crops(lines, rows)
        return f"{match[1]}\n{markdown_table(lines)}\n{match[3]}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def _accuracy(rows: Sequence[ScoreRow], _: Options) -> Lines:
    return accuracy_table(rows)


def _val(rows: Sequence[ScoreRow], _: Options) -> Lines:
    return val_table(rows)


def _scores(rows: Sequence[ScoreRow], options: Options) -> Lines:
    columns = options.get("columns", ",".join(SHOTS)).split(",")
    header, *body = score_table(summarise(_selected(rows, options), options["split"], columns))
    return [[name.replace("_", " ") for name in header], *body]


def _differences(rows: Sequence[ScoreRow], options: Options) -> Lines:
    if "heads" not in options:
        return paired_difference_table(rows, options["split"]) or []
    reference = options["minus"]
    chosen = by_variant(_selected(rows, options), options["split"])
    differences = paired_differences(rows, options["split"], reference)
    body = [
        [head, *[format_difference(differences[head][shot]) for shot in SHOTS]] for head in chosen if head != reference
    ]
    return [[f"minus {reference}", *SHOTS], *body]


def _chosen(rows: Sequence[ScoreRow], _: Options) -> Lines:
    lines = chosen_head_table(rows)
    if lines is None:
        raise KeyError("There is no choice on val between several MEM heads in several runs.")
    return lines


def _errors_by_group(_: Sequence[ScoreRow], options: Options) -> Lines:
    files = sorted((RESULTS / options["study"] / "predictions").glob("*.parquet"))
    shares = np.stack([_error_shares(file, options["head"]) for file in files])
    lines = [[f"errors of {options['head']}", *(f"to {shot}" for shot in SHOT_NAMES)]]
    for group, shot in enumerate(SHOT_NAMES):
        lines.append(
            [f"of {shot}", *(str(interval(shares[:, group, other].tolist())) for other in range(len(SHOT_NAMES)))]
        )
    return lines


def _error_shares(file: Path, head: str) -> np.ndarray:
    """Return the percentages of a head's errors, by the shot groups of the image (row) and of the predicted class."""
    table = pq.read_table(file, columns=["label", head])
    shot_of_class = np.asarray(json.loads(table.schema.metadata[b"shot_of_class"]))
    labels, predicted = table["label"].to_numpy(), table[head].to_numpy()
    errors = predicted != labels
    counts = np.zeros((len(SHOT_NAMES), len(SHOT_NAMES)))
    np.add.at(counts, (shot_of_class[labels[errors]], shot_of_class[predicted[errors]]), 1)
    return 100 * counts / counts.sum(axis=1, keepdims=True)


def _paper_differences(_: Sequence[ScoreRow], options: Options) -> Lines:
    names = options["heads"].split(",")
    lines = [[f"the paper's numbers minus {options['minus']}", *names]]
    for entry in paper_numbers()["tables"]:
        for column, backbone in enumerate(entry["backbones"]):
            gains = [entry[name][column] - entry[options["minus"]][column] for name in names]
            lines.append([f"{entry['dataset']}, {backbone}", *(f"{gain:+.2f}".replace("-", "−") for gain in gains)])
    return lines


def _study_differences(rows: Sequence[ScoreRow], options: Options) -> Lines:
    other_rows = by_variant(from_csv(RESULTS / options["study"] / "results.csv"), options["split"])
    lines = [["method", *SHOTS]]
    for head, head_rows in by_variant(_selected(rows, options), options["split"]).items():
        other_row = {row.repeat: row for row in other_rows[head]}
        pairs = [(other_row[row.repeat], row) for row in head_rows]
        differences = paired_scores(pairs, SHOTS)
        lines.append([head, *map(format_difference, differences.values())])
    return lines


def _group_naming(rows: Sequence[ScoreRow], options: Options) -> Lines:
    reference = options["minus"]
    classes = [int(number) for number in options["classes"].split(",")]
    reference_share = {row.repeat: _named(row, classes) for row in by_variant(rows, options["split"])[reference]}
    lines = [["method", "classes", "norms", f"norms minus classes of {reference}"]]
    for head, head_rows in by_variant(_selected(rows, options), options["split"]).items():
        orders = [row.order for row in head_rows]
        norms = [row.group_by_norm for row in head_rows]
        difference = paired_student(norms, [reference_share[row.repeat] for row in head_rows], orders)
        named = interval([_named(row, classes) for row in head_rows], orders)
        lines.append([head, str(named), str(interval(norms, orders)), format_difference(difference)])
    return lines


def _named(row: ScoreRow, classes: Sequence[int]) -> float:
    """Return the percentage of images that are predicted as any class of their shot group."""
    if not math.isnan(row.group_recall_all):
        return row.group_recall_all
    recall = [row.group_recall_many, row.group_recall_medium, row.group_recall_few]
    return float(np.average(recall, weights=classes))


def _selected(rows: Sequence[ScoreRow], options: Options) -> list[ScoreRow]:
    """Return the rows of the methods in `heads`, or all rows if `heads` is not set."""
    patterns = options.get("heads", "*").split(",")
    for pattern in patterns:
        if not any(fnmatchcase(row.variant, pattern) for row in rows):
            raise KeyError(f"No method in results.csv matches {pattern!r}.")
    return [row for row in rows if any(fnmatchcase(row.variant, pattern) for pattern in patterns)]


TABLES: dict[str, Callable[[Sequence[ScoreRow], Options], Lines]] = {
    "accuracy": _accuracy,
    "val": _val,
    "chosen": _chosen,
    "scores": _scores,
    "differences": _differences,
    "group_naming": _group_naming,
    "study_differences": _study_differences,
    "paper_differences": _paper_differences,
    "errors_by_group": _errors_by_group,
}

if __name__ == "__main__":
    for page in (START_PAGE, *sorted(RESULTS.glob("*.md"))):
        page.write_text(regenerate(page), encoding="utf-8")
