"""Numbers for the paper's figures 1, 3 and 4: results of this study and the paper's values for the same quantities.

`mem.report.paper_figures` formats these numbers as tables with captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mem.config import Mem, Study
from mem.longtail import SHOT_NAMES
from mem.metrics import Interval, PairedDifference
from mem.report.ablation import Ablation, find_ablations
from mem.report.collect import StudyResults
from mem.report.differences import difference_of
from mem.report.results import ScoreRow, by_variant, of_finetune, score_interval, with_finetuning_of
from mem.report.results_store import METHODS, ResultsStore, accuracy_on_test, head_for, methods_of, run_count

DATASET, BACKBONE = "imagenet_lt", "vit_base"
"""All three figures use ViT-Base on ImageNet-LT."""
VARIED_SETTINGS = ("width", "depth", "xi", "mu")
"""MEM settings that the paper's figure 4 varies."""


@dataclass(frozen=True)
class ErrorShare:
    """Percentage of the misclassified images of one shot group that are predicted as a class of another group."""

    true_shot: str
    predicted_shot: str
    share: Interval
    paper: float


@dataclass(frozen=True)
class Figure1:
    """Errors and few-shot accuracy of one classifier, and the gain from MEM."""

    comparable: bool
    """Whether this study uses the paper's dataset and backbone."""
    classifier: str
    finetuning: str
    """Variant of finetuning that the heads use; empty for the section `finetune`."""
    runs: int
    error_shares: Sequence[ErrorShare]
    few: Interval
    """Accuracy on few-shot classes."""
    paper_few: float
    paper_few_in_table5: float
    oracle_few: Interval
    """Oracle accuracy on few-shot classes: predictions are restricted to the few-shot classes."""
    paper_oracle_few: float
    mem_gain: PairedDifference | None
    """Accuracy of MEM on few-shot classes minus that of the classifier; `None` if either head was not run."""
    paper_mem_gain: float
    missing: Sequence[str]
    """Methods in the paper's figure that were not run."""


@dataclass(frozen=True)
class MethodAccuracy:
    """Accuracy of one method by shot group."""

    method: str
    variant: str | None
    """The head that represents the method; `None` if it was not run."""
    runs: int
    accuracy: Mapping[str, Interval]
    paper: Sequence[float | None] | None
    """The paper's accuracies for the shot groups and all classes; `None` if the paper does not report the method."""
    paper_table: int
    """Number of the paper's table that contains the accuracies."""


@dataclass(frozen=True)
class Figure3:
    """Accuracy of all methods by shot group."""

    comparable: bool
    methods: Sequence[MethodAccuracy]
    mem_minus_crt: tuple[str, Mapping[str, PairedDifference]] | None
    """Names of the two heads, and the differences by shot group; `None` if either head was not run."""
    paper_mem_minus_crt: float
    paper_mem_in_table2: float
    paper_mem_in_table5: float


@dataclass(frozen=True)
class SettingAccuracy:
    """Accuracy of one MEM head of an ablation."""

    setting: str
    value: object
    variant: str
    runs: int
    accuracy: Mapping[str, Interval]
    paper: float | None
    """The paper's accuracy over all classes. The paper states it only for one transformer block."""


@dataclass(frozen=True)
class Figure4:
    """Accuracy of MEM heads that differ in one setting."""

    comparable: bool
    heads: Sequence[SettingAccuracy]
    paper_one_block: float
    xi_range: tuple[float, float]
    """The two values of xi that the paper's text compares at mu = 0."""
    xi_gain: tuple[str, Mapping[str, PairedDifference]] | None
    """Names of the two heads, and the differences by shot group; `None` if either head was not run."""
    paper_xi_gain: float
    constant_settings: Sequence[str]
    """Settings that are varied in the paper's figure but not in this study."""


def classifier_of(rows: Sequence[ScoreRow]) -> str:
    """Return the head shown in figure 1: the finetuned classifier if it was run, otherwise the first head.

    Only if no head uses the section `finetune`, it is a head on a variant of finetuning.
    """
    candidates = of_finetune(rows) or rows
    return head_for(candidates, "ce") or candidates[0].variant


def figure1_heads(rows: Sequence[ScoreRow]) -> tuple[str, str | None]:
    """Return the heads shown in figure 1: the classifier, and MEM on the same finetuning if it was run."""
    classifier = classifier_of(rows)
    return classifier, head_for(with_finetuning_of(rows, classifier), "mem")


def figure1_numbers(store: ResultsStore, results: StudyResults, paper: Mapping[str, Any]) -> Figure1:
    """Return the numbers for figure 1."""
    rows = store.rows
    classifier, mem = figure1_heads(rows)
    shares = results.error_shares([classifier])[classifier]
    error_shares: list[ErrorShare] = []
    for name, number in paper["figure1"]["misclassified_to"].items():
        true_shot, predicted_shot = name.split("_to_")
        share = float(shares[SHOT_NAMES.index(true_shot), SHOT_NAMES.index(predicted_shot)])
        error_shares.append(ErrorShare(true_shot, predicted_shot, Interval(share, None), number))
    test_rows = by_variant(rows, "test")[classifier]
    paper_few = paper["figure1"]["few_accuracy"]
    missing = ["mem"] if mem is None else ["ce"] if mem == classifier else []
    return Figure1(
        comparable=store.is_recipe(DATASET, BACKBONE) and not test_rows[0].finetuning,
        classifier=classifier,
        finetuning=test_rows[0].finetuning,
        runs=run_count(rows, classifier),
        error_shares=error_shares,
        few=score_interval(test_rows, "few"),
        paper_few=paper_few["entire_set"],
        paper_few_in_table5=_table5_accuracies(paper)["ce"][2],
        oracle_few=score_interval(test_rows, "oracle_few"),
        paper_oracle_few=paper_few["x_shot_oracle"],
        mem_gain=None if mem is None or missing else difference_of(rows, mem, classifier)["few"],
        paper_mem_gain=paper_few["mem_gain"],
        missing=missing,
    )


def figure3_numbers(store: ResultsStore, paper: Mapping[str, Any]) -> Figure3:
    """Return the numbers for figure 3. The paper's values are from its tables 2 and 5.

    Like tables 2 to 4, the figure contains only heads on the section `finetune`, which share a backbone.
    """
    rows = of_finetune(store.rows)
    table2 = next(entry for entry in paper["tables"] if entry["table"] == 2)
    column = table2["backbones"].index(BACKBONE)
    table5 = _table5_accuracies(paper)
    methods: list[MethodAccuracy] = []
    for method in methods_of(rows):
        variant = head_for(rows, method)
        stated = None if method not in METHODS else table5.get(method, [None, None, None, table2[method][column]])
        runs, accuracy = (0, {}) if variant is None else (run_count(rows, variant), accuracy_on_test(rows, variant))
        methods.append(MethodAccuracy(method, variant, runs, accuracy, stated, 5 if method in table5 else 2))
    mem, crt = head_for(rows, "mem"), head_for(rows, "crt")
    return Figure3(
        comparable=store.is_recipe(DATASET, BACKBONE),
        methods=methods,
        mem_minus_crt=None if mem is None or crt is None else (f"{mem} minus {crt}", difference_of(rows, mem, crt)),
        paper_mem_minus_crt=table2["mem"][column] - table2["crt"][column],
        paper_mem_in_table2=table2["mem"][column],
        paper_mem_in_table5=table5["mem"][-1],
    )


def figure4_numbers(store: ResultsStore, study: Study, paper: Mapping[str, Any]) -> Figure4:
    """Return the numbers for figure 4. It contains only heads on the section `finetune`."""
    rows, stated = of_finetune(store.rows), paper["figure4"]
    study_heads = {name: head for name, head in study.heads.items() if head.finetuning is None}
    ablations = {ablation.setting: ablation for ablation in find_ablations(study_heads)}
    mem = study_heads.get("mem")
    if "depth" not in ablations and isinstance(mem, Mem):
        ablations["depth"] = Ablation("depth", ("mem",), (mem.depth,))
    heads = [
        SettingAccuracy(
            setting=ablation.setting,
            value=value,
            variant=variant,
            runs=run_count(rows, variant),
            accuracy=accuracy_on_test(rows, variant),
            paper=stated["one_block_subnetwork_all"] if _is_one_block(study, ablation, value) else None,
        )
        for ablation in ablations.values()
        for variant, value in zip(ablation.variants, ablation.values, strict=True)
    ]
    smallest, largest = stated["xi_range_at_mu_0"]
    return Figure4(
        comparable=store.is_recipe(DATASET, BACKBONE),
        heads=heads,
        paper_one_block=stated["one_block_subnetwork_all"],
        xi_range=(smallest, largest),
        xi_gain=_xi_gain(rows, study, ablations.get("xi"), smallest, largest),
        paper_xi_gain=stated["xi_gain_at_mu_0"],
        constant_settings=[
            setting for setting in VARIED_SETTINGS if setting not in ablations or len(ablations[setting].values) < 2
        ],
    )


def _table5_accuracies(paper: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """Return the accuracies of the heads on the pretrained ViT-Base, in the order many, medium, few, all."""
    return {entry["head"]: entry["shots"] for entry in paper["table5"] if entry["recipe"].endswith(BACKBONE)}


def _is_one_block(study: Study, ablation: Ablation, value: object) -> bool:
    """Return whether a head has one transformer block on tokens, the only case for which the paper states a number."""
    head = study.heads[ablation.variants[0]]
    return ablation.setting == "depth" and value == 1 and isinstance(head, Mem) and head.input == "tokens"


def _xi_gain(
    rows: Sequence[ScoreRow], study: Study, xi: Ablation | None, smallest: float, largest: float
) -> tuple[str, Mapping[str, PairedDifference]] | None:
    """Compare the heads with the two values of xi if both were run at mu = 0."""
    variant_by_xi = {} if xi is None else dict(zip(xi.values, xi.variants, strict=True))
    if not {smallest, largest} <= set(variant_by_xi):
        return None
    variant, reference = variant_by_xi[largest], variant_by_xi[smallest]
    head = study.heads[variant]
    if not isinstance(head, Mem) or head.mu != 0:
        return None
    return f"{variant} minus {reference}", difference_of(rows, variant, reference)
