"""Comparison of two ways to name the group of an image: the norms of MEM's sub-networks, and the predicted class."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mem import config
from mem.metrics import interval, paired_student
from mem.metrics.predictions import PREDICTIONS_FILE, read_metadata, read_predictions
from mem.report.captions import interval_units
from mem.report.collect import StudyResults
from mem.report.differences import format_difference
from mem.report.page import CaptionedTable
from mem.report.results import ScoreRow, by_variant

CAPTION = (
    "Percentage of test images whose group in MEM's partition is named correctly: by the largest norm of a "
    "sub-network, by the class that the MEM head predicts, and by the class that the head predicts from which MEM's "
    "classifier starts (without the modulator). Norms that name the group less often than the classifier can help it "
    "only on images on which they are right and it is wrong. MEM heads that differ only in the fusion or the "
    "classifier have nearly the same norms, because almost only the regularisation objective trains the sub-networks."
)


def group_naming_tables(study: config.Study, results: StudyResults) -> list[CaptionedTable]:
    """Return the table with one line per MEM head, or an empty list if the study has none."""
    shares = _BaseShares(results)
    lines = [["method", "norms", "its classes", "classes of its base", "norms minus base", "base"]]
    for variant, rows in by_variant(results.rows, "test").items():
        head = study.heads[variant]
        if not isinstance(head, config.Mem):
            continue
        orders = [row.order for row in rows]
        norms, own = [row.group_by_norm for row in rows], [row.group_by_class for row in rows]
        base = list(shares.of(rows, head))
        means = [str(interval(values, orders)) for values in (norms, own, base)]
        lines.append([variant, *means, format_difference(paired_student(norms, base, orders)), head.start or "-"])
    units = interval_units(results.rows)
    spread = f" Intervals are 95 % intervals (Student's t) over {units}." if units else ""
    return [CaptionedTable("Who names the group", f"{CAPTION}{spread}", lines)] if len(lines) > 1 else []


class _BaseShares:
    """Shares of images whose group is named by the predicted class of the head that MEM's classifier starts from."""

    def __init__(self, results: StudyResults) -> None:
        self._results = results
        self._row = {(row.variant, row.order, row.seed): row for row in results.rows if row.split == "test"}

    def of(self, rows: list[ScoreRow], head: config.Mem) -> Iterator[float]:
        """Yield the share in percent for each run of a MEM head; NaN if it has no base head that was evaluated."""
        for row in rows:
            base = (head.start or "", row.order, row.seed)
            if base not in self._row:
                yield float("nan")
            elif head.partition == "shot":
                yield self._row[base].group_recall_all
            else:
                yield self._share(self._results.evaluations[base], self._results.evaluations[row.variant, *base[1:]])

    def _share(self, base: Path, mem: Path) -> float:
        groups = np.asarray(read_metadata(mem / PREDICTIONS_FILE).group_of_class)
        predictions = read_predictions(base / PREDICTIONS_FILE)[1]["test"]
        return 100 * float((groups[predictions.predictions] == groups[predictions.labels]).mean())
