"""The paper's figures 1, 3 and 4 in numbers: ours, and what the paper prints or says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mem.config import Mem, Study
from mem.longtail import SHOT_NAMES
from mem.metrics import PairedDifference, paired_student
from mem.report.ablation import Ablation, ablations
from mem.report.collect import StudyResults
from mem.report.differences import signed
from mem.report.paper_tables import (
    FROM_SCRATCH,
    METHODS,
    NONE,
    NOT_RUN,
    PaperTable,
    ResultsStore,
    caption_of,
    format_accuracy,
    head_for,
    methods_of,
    minus_paper,
    numbers,
    runs_of,
    scores_of,
)
from mem.report.results import SHOTS, Row, by_variant, interval

BACKBONE = "vit_base"
"""All three figures are of ViT-Base on ImageNet-LT."""
TITLES = {
    1: "Where errors land, and what knowing the shot would be worth",
    3: "Accuracy by shot",
    4: "MEM with one setting changed",
}
VARIED = ("width", "depth", "xi", "mu")
"""Settings of MEM that the paper's figure 4 varies."""


def figures_in_numbers(library: ResultsStore, study: Study, found: StudyResults) -> list[PaperTable]:
    """What figures 1, 3 and 4 show, beside what the paper says of its own."""
    paper = numbers()
    return [_figure1(library, found, paper), _figure3(library, paper), _figure4(library, study, paper)]


def classifier_of(rows: Sequence[Row]) -> str:
    """The head that figure 1 is of: the finetuned classifier, or the first head."""
    return head_for(rows, "ce") or rows[0].variant


def _figure1(library: ResultsStore, found: StudyResults, paper: Mapping[str, Any]) -> PaperTable:
    rows, theirs = library.rows, _is_theirs(library)
    variant, mem = classifier_of(rows), head_for(rows, "mem")
    share = found.confusion([variant])[variant]
    landed, few = paper["figure1"]["misclassified_to"], paper["figure1"]["few_accuracy"]
    runs = str(runs_of(rows, variant))
    lines = [["on test, %", "ours", "runs", "paper", "difference"]]
    for name, said in landed.items():
        true, wrong = name.split("_to_")
        mean = float(share[SHOT_NAMES.index(true), SHOT_NAMES.index(wrong)])
        ours = NONE if np.isnan(mean) else f"{mean:.2f}"
        difference = signed(mean - said) if theirs else NONE
        lines.append(
            [f"{variant}: {true} shot's errors that land in {wrong}", ours, runs, format_accuracy(said), difference]
        )
    for column, what, said in (
        ("few", "few among all classes", few["entire_set"]),
        ("oracle_few", "few with the shot given", few["x_shot_oracle"]),
    ):
        score = interval([getattr(row, column) for row in by_variant(rows, "test")[variant]])
        difference = minus_paper(score, said) if theirs else NONE
        lines.append([f"{variant}: {what}", str(score), runs, format_accuracy(said), difference])
    missing = ["mem"] if mem is None else ["ce"] if mem == variant else []
    gain = NOT_RUN if mem is None or missing else _minus(rows, mem, variant)["few"]
    lines.append([f"mem minus {variant}: few", *_paired(gain, few["mem_gain"], theirs)])
    text = (
        f"Of the wrong test images of a shot, the share that is predicted as a class of another (summed over runs); "
        f"accuracy of {variant} on the few shot, among all classes and with the shot given; and what MEM adds there. "
        f"The paper's text has no other numbers of its figure 1. {_whose(theirs)} For the few shot of CE its text has "
        f"{few['entire_set']} and its table 5 {_table5(paper)['ce'][2]}."
    )
    return PaperTable(1, TITLES[1], caption_of(library, text, missing), lines)


def _figure3(library: ResultsStore, paper: Mapping[str, Any]) -> PaperTable:
    rows, theirs = library.rows, _is_theirs(library)
    entry = next(each for each in paper["tables"] if each["table"] == 2)
    column = entry["backbones"].index(BACKBONE)
    by_shot = _table5(paper)
    lines = [["method", *SHOTS, "source"]]
    not_run: list[str] = []
    for method in methods_of(rows):
        variant = head_for(rows, method)
        said = None if method not in METHODS else by_shot.get(method, [None, None, None, entry[method][column]])
        found = {} if variant is None else scores_of(rows, variant)
        if variant is None:
            not_run.append(method)
            lines.append([method, *[NOT_RUN] * len(SHOTS), NONE])
        else:
            name, runs = variant if variant == method else f"{method}: {variant}", runs_of(rows, variant)
            lines.append([name, *map(str, found.values()), f"ours, {runs} run{'s' * (runs > 1)}"])
        if said is not None:
            lines.append([method, *map(format_accuracy, said), f"paper, table {5 if method in by_shot else 2}"])
        if said is not None and found and theirs:
            cells = [minus_paper(found[shot], number) for shot, number in zip(SHOTS, said, strict=True)]
            lines.append([method, *cells, "difference"])
    mem, crt = head_for(rows, "mem"), head_for(rows, "crt")
    if mem is not None and crt is not None:
        cells = [_signed(difference) for difference in _minus(rows, mem, crt).values()]
        lines.append([f"{mem} minus {crt}", *cells, "ours, paired"])
    lines.append(["mem minus crt", NONE, NONE, NONE, signed(entry["mem"][column] - entry["crt"][column]), "paper"])
    text = (
        "The paper's text has no numbers of these bars: the accuracies are those of its tables for the same heads "
        f"(MEM: table 2 has {entry['mem'][column]}, table 5 {by_shot['mem'][-1]}). It says that MEM is more "
        "balanced than the other methods: higher on the medium and the few shot, slightly lower on the many shot. "
        f"{_whose(theirs)}"
    )
    return PaperTable(3, TITLES[3], caption_of(library, text, not_run), lines)


def _figure4(library: ResultsStore, study: Study, paper: Mapping[str, Any]) -> PaperTable:
    rows, theirs = library.rows, _is_theirs(library)
    one_block, gain = paper["figure4"]["one_block_subnetwork_all"], paper["figure4"]["xi_gain_at_mu_0"]
    first, last = paper["figure4"]["xi_range_at_mu_0"]
    varied = {one.setting: one for one in ablations(study.heads)}
    mem = study.heads.get("mem")
    if "depth" not in varied and isinstance(mem, Mem):
        varied["depth"] = Ablation("depth", ("mem",), (mem.depth,))
    lines = [["setting", "head", *SHOTS, "runs", "paper, all", "difference"]]
    for one in varied.values():
        for variant, value in zip(one.variants, one.values, strict=True):
            found = scores_of(rows, variant)
            said = one_block if _is_one_block(study, one, value) else None
            difference = minus_paper(found["all"], said) if theirs else NONE
            cells = [*map(str, found.values()), str(runs_of(rows, variant)), format_accuracy(said), difference]
            lines.append([f"{one.setting} {_word(value)}", variant, *cells])
    if not any(line[-2] == format_accuracy(one_block) for line in lines):
        lines.append(
            ["depth 1, a transformer block", NONE, *[NOT_RUN] * len(SHOTS), NONE, format_accuracy(one_block), NONE]
        )
    if (pair := _ends(varied.get("xi"), first, last)) is not None and _mu(study, pair[0]) == 0:
        found = _minus(rows, *pair)
        cells = [_signed(difference) for difference in found.values()]
        ending = _paired(found["all"], gain, theirs)[1:]
        lines.append([f"xi {last} minus xi {first}", f"{pair[0]} minus {pair[1]}", *cells, *ending])
    else:
        lines.append([f"xi {last} minus xi {first}", NONE, *[NOT_RUN] * len(SHOTS), NONE, f"{gain:+g}", NONE])
    absent = [setting for setting in VARIED if setting not in varied or len(varied[setting].values) < 2]
    text = (
        "MEM heads that differ in one setting. The paper's text has few numbers of its curves; it says that accuracy "
        f"hardly depends on width or depth, that one transformer block has {one_block} %, that {gain} points come "
        f"from raising xi from {first} to {last} at mu 0, and that mu matters little. {_whose(theirs)}"
    )
    return PaperTable(
        4, TITLES[4], caption_of(library, text, [f"other values of {', '.join(absent)}"] if absent else []), lines
    )


# --- parts ---------------------------------------------------------------------------------------------


def _is_theirs(library: ResultsStore) -> bool:
    here = library.rows[0]
    return (here.dataset, here.backbone) == ("imagenet_lt", BACKBONE) and library.study not in FROM_SCRATCH


def _table5(paper: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """Accuracy by shot of the pretrained ViT-Base's heads."""
    return {each["head"]: each["shots"] for each in paper["table5"] if each["recipe"].endswith(BACKBONE)}


def _whose(theirs: bool) -> str:
    if theirs:
        return "Both are of ViT-Base on ImageNet-LT."
    return "The paper's is of ViT-Base on ImageNet-LT, so no difference is taken."


def _is_one_block(study: Study, one: Ablation, value: object) -> bool:
    """Whether a head is what the paper's text gives a number for: one transformer block, which reads tokens."""
    head = study.heads[one.variants[0]]
    return one.setting == "depth" and value == 1 and isinstance(head, Mem) and head.input == "tokens"


def _ends(xi: Ablation | None, first: float, last: float) -> tuple[str, str] | None:
    """The heads of the largest and the smallest xi that the paper compares, where both are there."""
    by_value = {} if xi is None else dict(zip(xi.values, xi.variants, strict=True))
    return (by_value[last], by_value[first]) if {first, last} <= set(by_value) else None


def _mu(study: Study, variant: str) -> float | None:
    head = study.heads[variant]
    return head.mu if isinstance(head, Mem) else None


def _minus(rows: Sequence[Row], variant: str, reference: str) -> dict[str, PairedDifference]:
    """Scores of a head minus those of another, over the runs that both have."""
    grouped = by_variant(rows, "test")
    base = {row.repeat: row for row in grouped[reference]}
    pairs = [(row, base[row.repeat]) for row in grouped[variant] if row.repeat in base]
    return {
        shot: paired_student([getattr(a, shot) for a, _ in pairs], [getattr(b, shot) for _, b in pairs])
        for shot in SHOTS
    }


def _signed(difference: PairedDifference) -> str:
    return signed(difference.mean, difference.half_width)


def _paired(ours: PairedDifference | str, said: float, theirs: bool) -> list[str]:
    """Ours, its pairs, the paper's, and the difference of the two."""
    if isinstance(ours, str):
        return [ours, NONE, f"{said:+g}", NONE]
    return [_signed(ours), str(ours.pairs), f"{said:+g}", minus_paper(ours, said) if theirs else NONE]


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
