"""The paper's tables, from this study and others of its kind that were run: ours, the paper's, the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mem.metrics import Interval, PairedDifference
from mem.report.differences import signed, val_means
from mem.report.results import SHOTS, Row, by_variant, from_csv, interval

FROM_SCRATCH = ("table5_scratch_100", "table5_scratch_500", "table5_scratch_1000")
"""Recipes of table 5 that leave pretraining out; they stand for no column of tables 1 to 4."""
METHODS = ("ce", "tau", "crt", "lws", "mem")
NONE = "-"
NOT_RUN = "not run"
TITLES = {
    1: "Comparison with previous works",
    2: "Methods and backbones on ImageNet-LT",
    3: "Methods and backbones on iNaturalist 2018",
    4: "Methods and backbones on Places-LT",
    5: "Pretraining and group partition",
}


@dataclass(frozen=True)
class PaperTable:
    """One of the paper's tables."""

    number: int
    title: str
    caption: str
    lines: list[list[str]]


@dataclass
class ResultsStore:
    """Rows of results of this study, and of others where they were run in the same folder."""

    study: str
    rows: Sequence[Row]
    root: Path = Path("results")
    _read: dict[str, Sequence[Row]] = field(default_factory=dict)

    def of(self, study: str) -> Sequence[Row]:
        """A study's rows; none where it was not run."""
        if study == self.study:
            return self.rows
        if study not in self._read:
            path = self.root / study / "report" / "results.csv"
            self._read[study] = from_csv(path) if path.exists() else []
        return self._read[study]

    def recipe(self, dataset: str, backbone: str) -> Sequence[Row]:
        """Rows of this study if it is of that data set and backbone, else of the recipe for them."""
        here = self.rows[0]
        if (here.dataset, here.backbone) == (dataset, backbone) and self.study not in FROM_SCRATCH:
            return self.rows
        return self.of(f"{dataset}_{backbone}")


def numbers() -> dict[str, Any]:
    """What the paper's tables say."""
    return yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))


def tables(library: ResultsStore, paper: Mapping[str, Any] | None = None) -> list[PaperTable]:
    """Tables 1 to 5."""
    paper = numbers() if paper is None else paper
    made = [_table1(library, paper["table1"])]
    made += [_methods(library, entry) for entry in paper["tables"]]
    made.append(_table5(library, paper["table5"]))
    return made


def head_for(rows: Sequence[Row], method: str) -> str | None:
    """The variant that stands for a method: the one with its name, else the best on val of those that have it."""
    variants = dict.fromkeys(row.variant for row in rows if row.method == method)
    if method in variants or any(row.variant == method for row in rows):
        return method
    means = val_means([row for row in rows if row.method == method])
    return max(variants, key=lambda variant: means.get(variant, 0.0), default=None)


def _table1(library: ResultsStore, paper: Mapping[str, Any]) -> PaperTable:
    """Methods of others as the paper cites them, and ours."""
    here = library.rows[0].dataset
    lines = [["data set", "method", *SHOTS, "source"]]
    not_run: list[str] = []
    for dataset, cited in paper.items() if here in paper else ():
        rows = library.recipe(dataset, "vit_large")
        for method, shots in cited.items():
            source = "paper" if method == "mem" else f"cited, {NOT_RUN}"
            lines.append([dataset, method, *map(format_accuracy, shots), source])
        ran = [method for method in cited if head_for(rows, method)]
        lines += [[dataset, *_ours(rows, method)] for method in ran]
        if "mem" in ran:
            found = scores_of(rows, "mem")
            lines.append(
                [
                    dataset,
                    "mem",
                    *[minus_paper(found[s], p) for s, p in zip(SHOTS, cited["mem"], strict=True)],
                    "difference",
                ]
            )
        else:
            not_run.append(f"{dataset} with ViT-Large")
    if here not in paper:
        variants = dict.fromkeys(filter(None, (head_for(library.rows, method) for method in methods_of(library.rows))))
        lines += [[here, *_ours(library.rows, variant)] for variant in variants]
        not_run += _absent(library.rows)
    text = (
        "The other methods stand as the paper cites them: they are not run here."
        if here in paper
        else "The paper's table compares with others' methods on its own data sets; this one is of the study's."
    )
    return PaperTable(1, TITLES[1], caption_of(library, text, not_run), lines)


def _methods(library: ResultsStore, entry: Mapping[str, Any]) -> PaperTable:
    """Methods by backbones, all classes."""
    here = library.rows[0]
    theirs = here.dataset == entry["dataset"]
    lines = [["backbone", "method", "ours", "runs", "paper", "difference"]]
    not_run: list[str] = []
    backbones = list(entry["backbones"]) if theirs else [here.backbone]
    if theirs and here.backbone not in backbones:
        backbones.append(here.backbone)
    for backbone in backbones:
        rows = library.recipe(entry["dataset"], backbone) if theirs else library.rows
        if not rows:
            not_run.append(backbone)
        for method in METHODS if theirs else methods_of(rows):
            known = theirs and backbone in entry["backbones"]
            paper = entry[method][entry["backbones"].index(backbone)] if known else None
            variant = head_for(rows, method)
            if variant is None:
                if known or theirs:
                    lines.append([backbone, method, NOT_RUN, NONE, format_accuracy(paper), NONE])
                continue
            ours = scores_of(rows, variant)["all"]
            name = variant if variant == method else f"{method}: {variant}"
            lines.append(
                [
                    backbone,
                    name,
                    str(ours),
                    str(runs_of(rows, variant)),
                    format_accuracy(paper),
                    minus_paper(ours, paper),
                ]
            )
    if not theirs:
        not_run += _absent(library.rows)
    text = "Top-1 accuracy of all classes on test, in percent."
    title = TITLES[entry["table"]]
    if not theirs:
        text += f" The paper's table is of {entry['dataset']}; this one is of {here.dataset}."
        title = f"Methods on {here.dataset}, where the paper has {title[0].lower()}{title[1:]}"
    return PaperTable(entry["table"], title, caption_of(library, text, not_run), lines)


def _table5(library: ResultsStore, entries: Sequence[Mapping[str, Any]]) -> PaperTable:
    """What pretraining and the partition of classes into groups are worth."""
    here = library.rows[0]
    lines = [["study", "head", *SHOTS, "runs", "paper, all", "difference"]]
    not_run: list[str] = []
    if here.dataset == "imagenet_lt":
        for entry in entries:
            rows = (
                library.recipe("imagenet_lt", "vit_base")
                if "vit_base" in entry["recipe"]
                else library.of(entry["recipe"])
            )
            paper = entry["shots"][-1]
            if not any(row.variant == entry["head"] for row in rows):
                not_run.append(f"{entry['recipe']} {entry['head']}")
                lines.append([entry["recipe"], entry["head"], *[NOT_RUN] * 4, NONE, format_accuracy(paper), NONE])
                continue
            found = scores_of(rows, entry["head"])
            cells = [str(found[shot]) for shot in SHOTS]
            ending = [str(runs_of(rows, entry["head"])), format_accuracy(paper), minus_paper(found["all"], paper)]
            lines.append([entry["recipe"], entry["head"], *cells, *ending])
    else:
        studies = [library.study, *_relatives(library)]
        ran = {row.variant for study in studies for row in library.of(study)}
        not_run += [name for name in ("ce", "mem") if name not in ran]
        not_run += [] if any("even" in name for name in ran) else ["mem with other partitions"]
        for study in studies:
            rows = library.of(study)
            for variant in dict.fromkeys(row.variant for row in rows):
                if variant in ("ce", "mem") or "even" in variant:
                    found = scores_of(rows, variant)
                    cells = [str(found[shot]) for shot in SHOTS]
                    lines.append([study, variant, *cells, str(runs_of(rows, variant)), NONE, NONE])
    text = (
        "ViT-Base on ImageNet-LT: from scratch, with pretraining, and MEM with three partitions of the classes."
        if here.dataset == "imagenet_lt"
        else "Finetuned classifiers (ce) and MEM with its partitions, of this study and of others of the same data set "
        "and backbone that were run here. The paper's table is of ViT-Base on ImageNet-LT."
    )
    return PaperTable(5, TITLES[5], caption_of(library, text, not_run), lines)


def _relatives(library: ResultsStore) -> list[str]:
    """Other studies of the same data set and backbone that have a report."""
    here = library.rows[0]
    names = sorted(path.parent.parent.name for path in library.root.glob("*/report/results.csv"))
    found: list[str] = []
    for name in names:
        rows = library.of(name)
        if name != library.study and rows and (rows[0].dataset, rows[0].backbone) == (here.dataset, here.backbone):
            found.append(name)
    return found


def _absent(rows: Sequence[Row]) -> list[str]:
    """The paper's methods that a study does not have."""
    return [method for method in METHODS if head_for(rows, method) is None]


def methods_of(rows: Sequence[Row]) -> list[str]:
    """The paper's methods, then what else a study has."""
    return list(dict.fromkeys([*METHODS, *(row.method for row in rows)]))


def scores_of(rows: Sequence[Row], variant: str) -> dict[str, Interval]:
    """Accuracy of a variant by shot on test, over its runs."""
    mine = by_variant(rows, "test")[variant]
    return {shot: interval([getattr(row, shot) for row in mine]) for shot in SHOTS}


def runs_of(rows: Sequence[Row], variant: str) -> int:
    """How many runs a variant has."""
    return len(by_variant(rows, "test")[variant])


def _ours(rows: Sequence[Row], method: str) -> list[str]:
    variant = head_for(rows, method) or method
    runs = runs_of(rows, variant)
    return [
        variant,
        *[str(score) for score in scores_of(rows, variant).values()],
        f"ours, {runs} run{'s' * (runs > 1)}",
    ]


def format_accuracy(value: float | None) -> str:
    """A number of the paper's as it has it; a dash for none."""
    return NONE if value is None else f"{value:.2f}".removesuffix("0")


def minus_paper(ours: Interval | PairedDifference, paper: float | None) -> str:
    """Ours minus the paper's, with the interval of ours."""
    return NONE if paper is None else signed(ours.mean - paper, ours.half_width)


def caption_of(library: ResultsStore, text: str, not_run: Sequence[str]) -> str:
    """What a table says, with thresholds, seeds, and what was not run."""
    repeats = sorted({row.repeat for row in library.rows})
    seeds = sorted({seed for _, seed in repeats})
    orders = sorted({order for order, _ in repeats})
    over = f"Seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    over += f", class orders {', '.join(map(str, orders))}" if len(orders) > 1 else ""
    spread = "mean ± 95 % interval (Student's t) over runs" if len(repeats) > 1 else "one run, no interval"
    missing = f" Not run: {', '.join(not_run)}." if not_run else ""
    return f"{text} Shots are {library.rows[0].thresholds} training images. {over}: {spread}.{missing}"
