"""Look up results of this study and of other studies in the same folder by study, recipe and method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mem.metrics import Interval
from mem.report.ranking import val_scores
from mem.report.results import SHOTS, ScoreRow, by_variant, from_csv, score_interval

FROM_SCRATCH = "table5_scratch_"
"""Start of the names of the recipes for table 5 without pretraining. Tables 1 to 4 do not contain their results."""
LAYER_DECAY = "_layer_decay"
"""End of the names of those recipes from scratch that have layer-wise learning-rate decay."""
METHODS = ("ce", "tau", "crt", "lws", "mem")
"""Methods in the paper's tables 2 to 4."""
TABLE1_METHODS = {
    "mislas": "mislas",
    "balanced_softmax": "finetuned_balanced_softmax",
    "lade": "finetuned_lade",
    "livt": "finetuned_balanced_bce",
    "ride": "finetuned_ride",
    "sade": "finetuned_sade",
    "ace": "finetuned_ace",
    "paco": "finetuned_paco",
    "ncl": "finetuned_ncl",
}
"""Methods for table 1 that have recipes, `config/table1/<dataset>_<method>.yaml`, and the method of the recipe's head.
The head `balanced_softmax` is another method: a classifier that is trained on frozen features."""


@dataclass
class ResultsStore:
    """Score rows of this study, and of other studies that have a report in `root`."""

    study: str
    rows: Sequence[ScoreRow]
    root: Path = Path("results")
    _cache: dict[str, Sequence[ScoreRow]] = field(default_factory=dict)

    @property
    def dataset(self) -> str:
        """Dataset of this study."""
        return self.rows[0].dataset

    @property
    def backbone(self) -> str:
        """Backbone of this study."""
        return self.rows[0].backbone

    def rows_of(self, study: str) -> Sequence[ScoreRow]:
        """Return the rows of a study, or an empty sequence if it has no report."""
        if study == self.study:
            return self.rows
        if study not in self._cache:
            path = self.root / study / "report" / "results.csv"
            self._cache[study] = from_csv(path) if path.exists() else []
        return self._cache[study]

    def is_recipe(self, dataset: str, backbone: str) -> bool:
        """Return whether this study uses the dataset and the backbone, and is not a recipe for another table.

        Recipes from scratch (table 5) and recipes of other methods (table 1) train the backbone differently.
        """
        if self.study.startswith(FROM_SCRATCH) or self.study in {f"{dataset}_{method}" for method in TABLE1_METHODS}:
            return False
        return (self.dataset, self.backbone) == (dataset, backbone)

    def recipe_rows(self, dataset: str, backbone: str) -> Sequence[ScoreRow]:
        """Return the rows of this study if `is_recipe`, otherwise those of the recipe for the dataset and backbone."""
        return self.rows if self.is_recipe(dataset, backbone) else self.rows_of(f"{dataset}_{backbone}")

    def related_studies(self) -> list[str]:
        """Return all other studies of the same dataset and backbone that have a report."""
        names = sorted(path.parent.parent.name for path in self.root.glob("*/report/results.csv"))
        related: list[str] = []
        for name in names:
            rows = self.rows_of(name)
            if name != self.study and rows and (rows[0].dataset, rows[0].backbone) == (self.dataset, self.backbone):
                related.append(name)
        return related


def head_for(rows: Sequence[ScoreRow], method: str) -> str | None:
    """Return the variant that represents a method: the one named after it, otherwise its best variant on val.

    A head of another method does not represent the method, even if it has the method's name.
    """
    rows_of_method = [row for row in rows if row.method == method]
    variants = dict.fromkeys(row.variant for row in rows_of_method)
    if method in variants:
        return method
    on_val = {variant: score.mean for variant, score in val_scores(rows_of_method).items()}
    return max(variants, key=lambda variant: on_val.get(variant, 0.0), default=None)


def methods_of(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the paper's methods, followed by all other methods in the rows."""
    return list(dict.fromkeys([*METHODS, *(row.method for row in rows)]))


def missing_methods(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the paper's methods for which there are no rows."""
    return [method for method in METHODS if head_for(rows, method) is None]


def accuracy_on_test(rows: Sequence[ScoreRow], variant: str) -> dict[str, Interval]:
    """Return a variant's accuracy on test for each shot group, averaged over its runs."""
    test_rows = by_variant(rows, "test")[variant]
    return {shot: score_interval(test_rows, shot) for shot in SHOTS}


def run_count(rows: Sequence[ScoreRow], variant: str) -> int:
    """Return the number of runs of a variant."""
    return len(by_variant(rows, "test")[variant])
