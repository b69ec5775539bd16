"""What the figures in the text of pages are computed from: the results that the DAG wrote, and the paper's numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from mem.metrics import Interval, PairedDifference, interval, paired_student
from mem.report.paper_tables import numbers
from mem.report.results import SHOTS, Row, by_variant, from_csv
from tests.conftest import REPOSITORY

RESULTS = sorted((REPOSITORY / "docs" / "results").glob("*/results.csv"))
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "cluster" / "snakemake-executor-plugin-submitit" / "README.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
]
NAMED_READINGS = {"mem.ce.trained.class_balanced.free": "mem_joint", "mem.crt.frozen.class_balanced.additive": "mem"}
"""Readings of fashion_readings' grid that stand in its results under a name of their own."""
Repeat = tuple[int, int]
"""Class order and seed."""


@dataclass(frozen=True)
class Results:
    """The scores of a study, from the results.csv that its report stage wrote."""

    rows: Sequence[Row]

    def heads(self, pattern: str) -> list[str]:
        """The names that fit a pattern, such as `mem.xi*`."""
        found = [name for name in dict.fromkeys(row.variant for row in self.rows) if fnmatchcase(name, pattern)]
        if not found:
            raise KeyError(f"no head is named like {pattern!r}")
        return found

    def score(self, head: str, column: str = "all", split: str = "test", without: Repeat | None = None) -> Interval:
        """A head's mean and 95 % interval, of all its runs or of all but one."""
        return interval(list(self.runs(head, column, split, without).values()))

    def difference(self, head: str, reference: str, column: str = "all", split: str = "test") -> PairedDifference:
        """A head's score minus another's on the same runs, with the interval of the paired t-test."""
        ours, theirs = (self.runs(name, column, split) for name in (head, reference))
        if ours.keys() != theirs.keys():
            raise KeyError(f"{head} and {reference} were not run on the same seeds and class orders")
        return paired_student([ours[repeat] for repeat in ours], [theirs[repeat] for repeat in ours])

    def runs(
        self, head: str, column: str = "all", split: str = "test", without: Repeat | None = None
    ) -> dict[Repeat, float]:
        """A head's score in each run."""
        rows = by_variant(self.rows, split).get(head, [])
        if not rows or (without is not None and without not in {row.repeat for row in rows}):
            raise KeyError(f"no such head or run: {head} on {split}")
        return {row.repeat: getattr(row, column) for row in rows if row.repeat != without}


@cache
def studies() -> dict[str, Results]:
    """Every study whose results are in docs/results/."""
    return {path.parent.name: Results(from_csv(path)) for path in RESULTS}


def chance_interval(accuracy: float, images: int) -> float:
    """Half of the 95 % interval of an accuracy in % that was measured on so many images (normal approximation)."""
    return 100 * 1.96 * math.sqrt(accuracy / 100 * (1 - accuracy / 100) / images)


def reading(name: str) -> str:
    """The head that a point of the grid of MEM's readings is, `mem.<classifier from>.<state>.<sampler>.<weight>`."""
    return NAMED_READINGS.get(name, name)


def pooled(head: str) -> str:
    """The head with pooled features beside one on tokens, `mem_joint.tokens.<classifier from>.<state>`."""
    return reading(f"mem.{head.removeprefix('mem_joint.tokens.')}.class_balanced.free")


def class_balanced(head: str) -> str:
    """The head with class-balanced sampling beside a reading with instance sampling."""
    return reading(head.replace(".instance.", ".class_balanced."))


def table_5(recipe: str, head: str) -> float:
    """An accuracy over all classes in the paper's table 5."""
    (row,) = (row for row in numbers()["table5"] if (row["recipe"], row["head"]) == (recipe, head))
    return row["shots"][SHOTS.index("all")]


def paper_says(recipe: str, head: str) -> str | None:
    """A recipe's accuracy over all classes in the paper's tables 2 to 5, as it is printed."""
    for table in numbers()["tables"]:
        for column, backbone in enumerate(table["backbones"]):
            if f"{table['dataset']}_{backbone}" == recipe:
                return f"{table[head][column]:.2f}"
    known = {(row["recipe"], row["head"]) for row in numbers()["table5"]}
    return f"{table_5(recipe, head):.2f}" if (recipe, head) in known else None


def vocabulary(page: Path) -> dict[str, Any]:
    """The names that an expression on a page may use; a page of results has its own study's without a prefix."""
    names: dict[str, Any] = dict(studies())
    names |= {
        function.__name__: function
        for function in (chance_interval, gained_by_pretraining, pooled, class_balanced, table_5)
    }
    names["paper"] = numbers()
    if page.stem in studies() and page.parent.name == "results":
        own = studies()[page.stem]
        names |= {"heads": own.heads, "score": own.score, "difference": own.difference}
    return names


def gained_by_pretraining(head: str, column: str = "all") -> PairedDifference:
    """A head's score on test of Fashion-MNIST-LT with MAE pretraining minus that without, over seeds."""
    with_it, without = (studies()[name].runs(head, column) for name in ("fashion_lt", "fashion_scratch"))
    return paired_student([with_it[repeat] for repeat in without], list(without.values()))
