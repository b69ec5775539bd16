"""The paper's tables 1 to 5: results of this study and other recipes, the paper's numbers, and the differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mem.report.crop_marks import crops_mark
from mem.report.paper_format import (
    EMPTY,
    NOT_RUN,
    PaperTable,
    format_accuracy,
    minus_paper,
    paper_caption,
    paper_numbers,
    without_variants,
)
from mem.report.results import SHOTS, ScoreRow, of_finetune
from mem.report.results_store import (
    LAYER_DECAY,
    METHODS,
    ResultsStore,
    accuracy_on_test,
    head_for,
    methods_of,
    missing_methods,
    run_count,
)
from mem.report.table1 import build_table1

TITLES = {
    2: "Methods and backbones on ImageNet-LT",
    3: "Methods and backbones on iNaturalist 2018",
    4: "Methods and backbones on Places-LT",
    5: "Pretraining and group partition",
}


def build_paper_tables(store: ResultsStore) -> list[PaperTable]:
    """Return tables 1 to 5."""
    paper = paper_numbers()
    return [
        build_table1(store, paper),
        *[_methods_by_backbone(store, entry) for entry in paper["tables"]],
        _table5(store, paper["table5"]),
    ]


# --- tables 2 to 4 -------------------------------------------------------------------------------------


def _methods_by_backbone(store: ResultsStore, entry: Mapping[str, Any]) -> PaperTable:
    lines = [["backbone", "method", "ours", "runs", "paper", "difference"]]
    text = "Top-1 accuracy on test over all classes, in percent."
    title = TITLES[entry["table"]]
    if store.dataset == entry["dataset"]:
        text += f" {entry['note']}" if "note" in entry else ""
        not_run: list[str] = []
        own = [store.backbone] if store.is_recipe(store.dataset, store.backbone) else []
        for backbone in dict.fromkeys([*entry["backbones"], *own]):
            rows = of_finetune(store.recipe_rows(entry["dataset"], backbone))
            if not rows:
                not_run.append(backbone)
            for method in METHODS:
                lines.append([backbone, *_method_line(rows, method, _paper_accuracy(entry, method, backbone))])
    else:
        rows = of_finetune(store.rows)
        for method in methods_of(rows):
            if head_for(rows, method) is not None:
                lines.append([store.backbone, *_method_line(rows, method, None)])
        not_run = missing_methods(rows)
        text += f" The paper's table is for {entry['dataset']}; this table is for {store.dataset}."
        title = f"Methods on {store.dataset} (in the paper: {title[0].lower()}{title[1:]})"
    text += without_variants(store.rows)
    return PaperTable(entry["table"], title, paper_caption(store.rows, text, not_run), lines)


def _paper_accuracy(entry: Mapping[str, Any], method: str, backbone: str) -> float | None:
    return entry[method][entry["backbones"].index(backbone)] if backbone in entry["backbones"] else None


def _method_line(rows: Sequence[ScoreRow], method: str, paper: float | None) -> list[str]:
    head = head_for(rows, method)
    if head is None:
        return [method, NOT_RUN, EMPTY, format_accuracy(paper), EMPTY]
    accuracy = accuracy_on_test(rows, head)["all"]
    return [
        (head if head == method else f"{method}: {head}") + crops_mark(rows),
        str(accuracy),
        str(run_count(rows, head)),
        format_accuracy(paper),
        minus_paper(accuracy, paper),
    ]


# --- table 5 -------------------------------------------------------------------------------------------


def _table5(store: ResultsStore, entries: Sequence[Mapping[str, Any]]) -> PaperTable:
    lines = [["study", "head", *SHOTS, "runs", "paper, all", "difference"]]
    not_run: list[str] = []
    if store.dataset == "imagenet_lt":
        text = (
            "ViT-Base on ImageNet-LT: trained from scratch, pretrained, and MEM with three partitions of the classes."
        )
        for entry in entries:
            study, head, paper = entry["recipe"], entry["head"], entry["shots"][SHOTS.index("all")]
            recipe = study.endswith("vit_base")
            rows = of_finetune(store.recipe_rows("imagenet_lt", "vit_base") if recipe else store.rows_of(study))
            if any(row.variant == head for row in rows):
                lines.append([study, *_head_line(rows, head, paper)])
            else:
                not_run.append(f"{study} {head}")
                lines.append([study, head, *[NOT_RUN] * len(SHOTS), EMPTY, format_accuracy(paper), EMPTY])
            # The paper does not say which of the two recipes its row from scratch corresponds to.
            decayed = f"{study}{LAYER_DECAY}"
            decayed_rows = of_finetune(store.rows_of(decayed))
            if any(row.variant == head for row in decayed_rows):
                lines.append([decayed, *_head_line(decayed_rows, head, paper)])
    else:
        text = (
            "Finetuned classifiers (ce) and MEM with its partitions, from this study and from other studies of the "
            "same dataset and backbone in this folder. The paper's table is for ViT-Base on ImageNet-LT."
        )
        studies = [store.study, *store.related_studies()]
        rows_by_study = {study: of_finetune(store.rows_of(study)) for study in studies}
        heads = {row.variant for rows in rows_by_study.values() for row in rows}
        not_run += [head for head in ("ce", "mem") if head not in heads]
        not_run += [] if any("even" in head for head in heads) else ["mem with other partitions"]
        for study, rows in rows_by_study.items():
            for head in dict.fromkeys(row.variant for row in rows):
                if head in ("ce", "mem") or "even" in head:
                    lines.append([study, *_head_line(rows, head, None)])
    text += without_variants(store.rows)
    return PaperTable(5, TITLES[5], paper_caption(store.rows, text, not_run), lines)


def _head_line(rows: Sequence[ScoreRow], head: str, paper: float | None) -> list[str]:
    accuracy = accuracy_on_test(rows, head)
    runs = str(run_count(rows, head))
    name, difference = head + crops_mark(rows), minus_paper(accuracy["all"], paper)
    return [name, *map(str, accuracy.values()), runs, format_accuracy(paper), difference]
