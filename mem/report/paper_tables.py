"""The paper's tables 1 to 5: results of this study and other recipes, the paper's numbers, and the differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mem.report.paper_format import (
    EMPTY,
    NOT_RUN,
    PaperTable,
    format_accuracy,
    format_runs,
    minus_paper,
    minus_paper_by_shot,
    paper_caption,
    paper_numbers,
)
from mem.report.results import SHOTS, ScoreRow
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

TITLES = {
    1: "Comparison with previous works",
    2: "Methods and backbones on ImageNet-LT",
    3: "Methods and backbones on iNaturalist 2018",
    4: "Methods and backbones on Places-LT",
    5: "Pretraining and group partition",
}


def build_paper_tables(store: ResultsStore) -> list[PaperTable]:
    """Return tables 1 to 5."""
    paper = paper_numbers()
    return [
        _table1(store, paper["table1"]),
        *[_methods_by_backbone(store, entry) for entry in paper["tables"]],
        _table5(store, paper["table5"]),
    ]


# --- table 1 -------------------------------------------------------------------------------------------


def _table1(store: ResultsStore, paper: Mapping[str, Any]) -> PaperTable:
    # A column of table1.csv: its name does not change.
    lines = [["data set", "method", *SHOTS, "source"]]
    not_run: list[str] = []
    if store.dataset in paper:
        text = "The numbers for other methods are those cited in the paper; these methods are not run here."
        for dataset, cited in paper.items():
            rows = store.recipe_rows(dataset, "vit_large")
            lines += [[dataset, *line] for line in _cited_methods(rows, cited)]
            if head_for(rows, "mem") is None:
                not_run.append(f"{dataset} with ViT-Large")
    else:
        text = (
            "The paper's table compares published methods on the paper's datasets. This table lists the methods of "
            "this study."
        )
        heads = [head_for(store.rows, method) for method in methods_of(store.rows)]
        lines += [[store.dataset, *_result_line(store.rows, head)] for head in dict.fromkeys(filter(None, heads))]
        not_run += missing_methods(store.rows)
    return PaperTable(1, TITLES[1], paper_caption(store.rows, text, not_run), lines)


def _cited_methods(rows: Sequence[ScoreRow], cited: Mapping[str, Sequence[float | None]]) -> list[list[str]]:
    """Return the lines for one dataset: numbers from the paper, results of this project, and the difference for MEM."""
    lines = [
        [method, *map(format_accuracy, shots), "paper" if method == "mem" else f"cited, {NOT_RUN}"]
        for method, shots in cited.items()
    ]
    lines += [_result_line(rows, head) for method in cited if (head := head_for(rows, method))]
    if (mem := head_for(rows, "mem")) is not None:
        lines.append(["mem", *minus_paper_by_shot(accuracy_on_test(rows, mem), cited["mem"]), "difference"])
    return lines


def _result_line(rows: Sequence[ScoreRow], head: str) -> list[str]:
    return [head, *map(str, accuracy_on_test(rows, head).values()), format_runs(run_count(rows, head))]


# --- tables 2 to 4 -------------------------------------------------------------------------------------


def _methods_by_backbone(store: ResultsStore, entry: Mapping[str, Any]) -> PaperTable:
    lines = [["backbone", "method", "ours", "runs", "paper", "difference"]]
    text = "Top-1 accuracy on test over all classes, in percent."
    title = TITLES[entry["table"]]
    if store.dataset == entry["dataset"]:
        text += f" {entry['note']}" if "note" in entry else ""
        not_run: list[str] = []
        for backbone in dict.fromkeys([*entry["backbones"], store.backbone]):
            rows = store.recipe_rows(entry["dataset"], backbone)
            if not rows:
                not_run.append(backbone)
            for method in METHODS:
                lines.append([backbone, *_method_line(rows, method, _paper_accuracy(entry, method, backbone))])
    else:
        for method in methods_of(store.rows):
            if head_for(store.rows, method) is not None:
                lines.append([store.backbone, *_method_line(store.rows, method, None)])
        not_run = missing_methods(store.rows)
        text += f" The paper's table is for {entry['dataset']}; this table is for {store.dataset}."
        title = f"Methods on {store.dataset} (in the paper: {title[0].lower()}{title[1:]})"
    return PaperTable(entry["table"], title, paper_caption(store.rows, text, not_run), lines)


def _paper_accuracy(entry: Mapping[str, Any], method: str, backbone: str) -> float | None:
    return entry[method][entry["backbones"].index(backbone)] if backbone in entry["backbones"] else None


def _method_line(rows: Sequence[ScoreRow], method: str, paper: float | None) -> list[str]:
    head = head_for(rows, method)
    if head is None:
        return [method, NOT_RUN, EMPTY, format_accuracy(paper), EMPTY]
    accuracy = accuracy_on_test(rows, head)["all"]
    return [
        head if head == method else f"{method}: {head}",
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
            rows = store.recipe_rows("imagenet_lt", "vit_base") if study.endswith("vit_base") else store.rows_of(study)
            if any(row.variant == head for row in rows):
                lines.append([study, *_head_line(rows, head, paper)])
            else:
                not_run.append(f"{study} {head}")
                lines.append([study, head, *[NOT_RUN] * len(SHOTS), EMPTY, format_accuracy(paper), EMPTY])
            # The paper does not say which of the two recipes its row from scratch corresponds to.
            decayed = f"{study}{LAYER_DECAY}"
            if any(row.variant == head for row in store.rows_of(decayed)):
                lines.append([decayed, *_head_line(store.rows_of(decayed), head, paper)])
    else:
        text = (
            "Finetuned classifiers (ce) and MEM with its partitions, from this study and from other studies of the "
            "same dataset and backbone in this folder. The paper's table is for ViT-Base on ImageNet-LT."
        )
        rows_by_study = {study: store.rows_of(study) for study in [store.study, *store.related_studies()]}
        heads = {row.variant for rows in rows_by_study.values() for row in rows}
        not_run += [head for head in ("ce", "mem") if head not in heads]
        not_run += [] if any("even" in head for head in heads) else ["mem with other partitions"]
        for study, rows in rows_by_study.items():
            for head in dict.fromkeys(row.variant for row in rows):
                if head in ("ce", "mem") or "even" in head:
                    lines.append([study, *_head_line(rows, head, None)])
    return PaperTable(5, TITLES[5], paper_caption(store.rows, text, not_run), lines)


def _head_line(rows: Sequence[ScoreRow], head: str, paper: float | None) -> list[str]:
    accuracy = accuracy_on_test(rows, head)
    runs = str(run_count(rows, head))
    return [head, *map(str, accuracy.values()), runs, format_accuracy(paper), minus_paper(accuracy["all"], paper)]
