"""The paper's figures 1, 3 and 4 as tables that show this study's results next to the paper's values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mem.config import Study
from mem.metrics import Interval, PairedDifference
from mem.report.collect import StudyResults
from mem.report.crop_marks import crops_mark
from mem.report.differences import format_difference, format_signed
from mem.report.paper_figure_numbers import (
    Figure1,
    Figure3,
    Figure4,
    MethodAccuracy,
    figure1_numbers,
    figure3_numbers,
    figure4_numbers,
)
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
    without_variants,
)
from mem.report.results import SHOTS, ScoreRow
from mem.report.results_store import ResultsStore

TITLES = {
    1: "Distribution of errors, and oracle accuracy",
    3: "Accuracy by shot group",
    4: "MEM heads that differ in one setting",
}


def build_figure_tables(store: ResultsStore, study: Study, results: StudyResults) -> list[PaperTable]:
    """Return the numbers of figures 1, 3 and 4 as one table per figure."""
    paper, rows = paper_numbers(), store.rows
    return [
        _figure1(rows, figure1_numbers(store, results, paper)),
        _figure3(rows, figure3_numbers(store, paper)),
        _figure4(rows, figure4_numbers(store, study, paper)),
    ]


def _figure1(rows: Sequence[ScoreRow], figure: Figure1) -> PaperTable:
    classifier = figure.classifier
    mark = crops_mark(rows)
    lines = [["on test, %", "ours", "runs", "paper", "difference"]]

    def add(quantity: str, result: Interval, paper: float) -> None:
        difference = minus_paper(result, paper) if figure.comparable else EMPTY
        lines.append(
            [f"{classifier}{mark}: {quantity}", str(result), str(figure.runs), format_accuracy(paper), difference]
        )

    for error in figure.error_shares:
        add(f"{error.true_shot} shot's errors that land in {error.predicted_shot}", error.share, error.paper)
    add("few among all classes", figure.few, figure.paper_few)
    add("few with the shot given", figure.oracle_few, figure.paper_oracle_few)
    gain = [NOT_RUN] if figure.mem_gain is None else [format_difference(figure.mem_gain)]
    gain += _gain_cells(figure.mem_gain, figure.paper_mem_gain, figure.comparable)
    lines.append([f"mem minus {classifier}{mark}: few", *gain])
    text = (
        "The table lists the share of one shot group's errors that are predicted as a class of another group, summed "
        f"over runs; the accuracy of {classifier} on few-shot classes, among all classes and among the few-shot "
        "classes; and the gain from MEM on few-shot classes. The paper's text states no other numbers for figure 1. "
        f"{_scope(figure.comparable)} For the few-shot accuracy of CE, the paper reports {figure.paper_few} in the "
        f"text and {figure.paper_few_in_table5} in table 5.{_finetuning(rows, figure)}"
    )
    return PaperTable(1, TITLES[1], paper_caption(rows, text, figure.missing), lines)


def _figure3(rows: Sequence[ScoreRow], figure: Figure3) -> PaperTable:
    lines = [["method", *SHOTS, "source"]]
    for method in figure.methods:
        lines += _method_lines(method, figure.comparable, crops_mark(rows))
    if figure.mem_minus_crt is not None:
        heads, differences = figure.mem_minus_crt
        lines.append([heads + crops_mark(rows), *_difference_cells(differences), "ours, paired"])
    lines.append(["mem minus crt", EMPTY, EMPTY, EMPTY, format_signed(figure.paper_mem_minus_crt), "paper"])
    text = (
        "The paper's text states no numbers for the bars of figure 3. The paper's accuracies in this table are taken "
        f"from its tables 2 and 5 for the same heads (MEM: {figure.paper_mem_in_table2} in table 2, "
        f"{figure.paper_mem_in_table5} in table 5). According to the text, MEM is more balanced than the other "
        "methods: its accuracy is higher on medium-shot and few-shot classes and slightly lower on many-shot classes. "
        f"{_scope(figure.comparable)}{without_variants(rows)}"
    )
    not_run = [method.method for method in figure.methods if method.variant is None]
    return PaperTable(3, TITLES[3], paper_caption(rows, text, not_run), lines)


def _method_lines(method: MethodAccuracy, comparable: bool, mark: str) -> list[list[str]]:
    """Return up to three table lines: this study's result, the paper's accuracies, and the difference.

    `mark` follows the names of this study's results.
    """
    name, variant = method.method, method.variant
    if variant is None:
        lines = [[name, *[NOT_RUN] * len(SHOTS), EMPTY]]
    else:
        label = variant if variant == name else f"{name}: {variant}"
        lines = [[label + mark, *map(str, method.accuracy.values()), format_runs(method.runs)]]
    if method.paper is not None:
        lines.append([name, *map(format_accuracy, method.paper), f"paper, table {method.paper_table}"])
        if variant is not None and comparable:
            lines.append([name + mark, *minus_paper_by_shot(method.accuracy, method.paper), "difference"])
    return lines


def _figure4(rows: Sequence[ScoreRow], figure: Figure4) -> PaperTable:
    lines = [["setting", "head", *SHOTS, "runs", "paper, all", "difference"]]
    not_run = [EMPTY, *[NOT_RUN] * len(SHOTS)]
    for head in figure.heads:
        value = f"{head.value:g}" if isinstance(head.value, float) else str(head.value)
        difference = minus_paper(head.accuracy["all"], head.paper) if figure.comparable else EMPTY
        result = [*map(str, head.accuracy.values()), str(head.runs)]
        name = head.variant + crops_mark(rows)
        lines.append([f"{head.setting} {value}", name, *result, format_accuracy(head.paper), difference])
    if all(head.paper is None for head in figure.heads):
        one_block = format_accuracy(figure.paper_one_block)
        lines.append(["depth 1, a transformer block", *not_run, EMPTY, one_block, EMPTY])
    smallest, largest = figure.xi_range
    gain: PairedDifference | None = None
    xi_cells = not_run
    if figure.xi_gain is not None:
        heads, differences = figure.xi_gain
        gain, xi_cells = differences["all"], [heads + crops_mark(rows), *_difference_cells(differences)]
    ending = _gain_cells(gain, figure.paper_xi_gain, figure.comparable)
    lines.append([f"xi {largest} minus xi {smallest}", *xi_cells, *ending])
    text = (
        "The MEM heads in this table differ in one setting. The paper's text states few numbers for its curves: "
        "accuracy hardly depends on width or depth, one transformer block reaches "
        f"{figure.paper_one_block} %, raising xi from {smallest} to {largest} at mu = 0 adds {figure.paper_xi_gain} "
        f"points, and mu has little effect. {_scope(figure.comparable)}{without_variants(rows)}"
    )
    missing = [f"other values of {', '.join(figure.constant_settings)}"] if figure.constant_settings else []
    return PaperTable(4, TITLES[4], paper_caption(rows, text, missing), lines)


def _scope(comparable: bool) -> str:
    if comparable:
        return "This study and the paper's numbers are both for ViT-Base on ImageNet-LT."
    return "The paper's numbers are for ViT-Base on ImageNet-LT, so no difference is computed."


def _finetuning(rows: Sequence[ScoreRow], figure: Figure1) -> str:
    """Return a sentence about the finetuning of the heads in figure 1; "" if the study has only one."""
    if not figure.finetuning:
        return without_variants(rows)
    return (
        f" The heads use the variant of finetuning `{figure.finetuning}`, because no head uses the section `finetune`. "
        "The paper has no number for it."
    )


def _difference_cells(differences: Mapping[str, PairedDifference]) -> list[str]:
    return [format_difference(difference) for difference in differences.values()]


def _gain_cells(gain: PairedDifference | None, paper: float, comparable: bool) -> list[str]:
    """Return the cells for a gain: the number of run pairs, the paper's gain, and the difference between the gains."""
    if gain is None:
        return [EMPTY, f"{paper:+g}", EMPTY]
    return [str(gain.pairs), f"{paper:+g}", minus_paper(gain, paper) if comparable else EMPTY]
