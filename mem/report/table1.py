"""The paper's table 1: other methods as cited and as trained here, and MEM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mem.report.crop_marks import crops_mark
from mem.report.paper_format import (
    NOT_RUN,
    PaperTable,
    format_accuracy,
    format_runs,
    minus_paper_by_shot,
    paper_caption,
)
from mem.report.results import SHOTS, ScoreRow, of_finetune
from mem.report.results_store import (
    METHODS,
    TABLE1_METHODS,
    ResultsStore,
    accuracy_on_test,
    head_for,
    missing_methods,
    run_count,
)

TITLE = "Comparison with previous works"

Shots = Sequence[float | None]
"""Accuracy for each shot group and all classes, in percent."""


def build_table1(store: ResultsStore, paper: Mapping[str, Any]) -> PaperTable:
    """Return table 1 for the paper's datasets or, for another dataset, with the methods of the study.

    Args:
        store: Results of this study and of others.
        paper: Content of `paper.yaml`.
    """
    # A column of table1.csv: its name does not change.
    lines = [["data set", "method", *SHOTS, "source"]]
    not_run: list[str] = []
    if store.dataset in paper["table1"]:
        for dataset in paper["table1"]:
            dataset_lines, missing = _dataset_lines(store, dataset, paper)
            lines += [[dataset, *line] for line in dataset_lines]
            not_run += [f"{method} on {dataset}" for method in missing]
        without_recipe = dict.fromkeys(
            method
            for dataset, cited in paper["table1"].items()
            for method in cited
            if method not in {"mem", *TABLE1_METHODS, *paper["table1_names"].get(dataset, {}).values()}
        )
        text = (
            "Numbers that the paper cites, and results of the recipes in config/table1 and of this study. LiVT, and "
            "RIDE on Places-LT, are not in the paper: their numbers are from the code of LiVT and SADE. TADE is the "
            "first name of SADE."
        )
        if without_recipe:
            text += f" There is no recipe for {', '.join(without_recipe)}."
    else:
        text = (
            "The paper's table compares published methods on the paper's datasets. This table lists the methods of "
            "this study, for each variant of finetuning. A method is represented by the head with its name or, "
            'without such a head, by its best head on val; the table "Accuracy on test" of the report lists all heads.'
        )
        lines += [[store.dataset, *_result_line(store.rows, head)] for head in _heads_by_finetuning(store.rows)]
        not_run += missing_methods(store.rows)
    return PaperTable(1, TITLE, paper_caption(store.rows, text, not_run), lines)


def _dataset_lines(store: ResultsStore, dataset: str, paper: Mapping[str, Any]) -> tuple[list[list[str]], list[str]]:
    """Return the lines for one of the paper's datasets, and the methods that have a recipe but no results."""
    cited, names = paper["table1"][dataset], paper["table1_names"].get(dataset, {})
    other = paper["table1_other"].get(dataset, {})
    results = {method: _results(store, dataset, method) for method in TABLE1_METHODS}
    mem_rows = of_finetune(store.recipe_rows(dataset, "vit_large"))
    mem = head_for(mem_rows, "mem")
    has_result = {names.get(method, method) for method, found in results.items() if found}
    lines = [[method, *map(format_accuracy, shots), _source(method, has_result)] for method, shots in cited.items()]
    lines += [
        [method, *map(format_accuracy, shots), f"not in the paper{'' if method in has_result else f', {NOT_RUN}'}"]
        for method, shots in other.items()
    ]
    for method, found in results.items():
        name = names.get(method, method)
        published: Shots = (cited | other).get(name, [None] * len(SHOTS))
        reference = "" if name == method else f" from {name}"
        for study, rows, head in found:
            lines += _compared(rows, head, method, published, reference=reference, study=study)
    if mem is not None:
        lines += _compared(mem_rows, mem, mem, cited["mem"])
    missing = [method for method, found in results.items() if not found and names.get(method, method) in cited | other]
    return lines, [*missing, *([] if mem else ["mem (ViT-Large)"])]


def _source(method: str, has_result: set[str]) -> str:
    if method == "mem":
        return "paper"
    return "cited" if method in has_result else f"cited, {NOT_RUN}"


def _results(store: ResultsStore, dataset: str, method: str) -> list[tuple[str, Sequence[ScoreRow], str]]:
    """Return study, rows and head of each result of a method on a dataset: of this study and of the method's recipe."""
    own = [store.study] if store.dataset == dataset else []
    studies = dict.fromkeys([*own, f"{dataset}_{method}"])
    found = ((study, rows := store.rows_of(study), head_for(rows, TABLE1_METHODS[method])) for study in studies)
    return [(study, rows, head) for study, rows, head in found if head is not None and rows[0].dataset == dataset]


def _compared(
    rows: Sequence[ScoreRow], head: str, method: str, published: Shots, *, reference: str = "", study: str | None = None
) -> list[list[str]]:
    """Return the line of a result, and the line of its differences from published numbers if there are any.

    Args:
        rows: Rows of the study.
        head: Head that represents the method.
        method: Name of the method in the table.
        published: Published numbers.
        reference: End of the source of the differences, if the published row has another name.
        study: Study that the source names; None for the recipe of MEM.
    """
    _, *accuracies, source = _result_line(rows, head)
    origin = "" if study is None else f": {study}, {rows[0].backbone}, head {head}"
    name = method + crops_mark(rows)
    lines = [[name, *accuracies, f"{source}{origin}"]]
    if any(number is not None for number in published):
        of_study = "" if study is None else f": {study}"
        differences = minus_paper_by_shot(accuracy_on_test(rows, head), published)
        lines.append([name, *differences, f"difference{reference}{of_study}"])
    return lines


def _heads_by_finetuning(rows: Sequence[ScoreRow]) -> list[str]:
    """Return the head that represents each method on each variant of finetuning: first the paper's methods."""
    pairs = dict.fromkeys([*((method, "") for method in METHODS), *((row.method, row.finetuning) for row in rows)])
    heads = (head_for([row for row in rows if row.finetuning == name], method) for method, name in pairs)
    return [*dict.fromkeys(head for head in heads if head is not None)]


def _result_line(rows: Sequence[ScoreRow], head: str) -> list[str]:
    accuracies = map(str, accuracy_on_test(rows, head).values())
    return [head + crops_mark(rows), *accuracies, format_runs(run_count(rows, head))]
