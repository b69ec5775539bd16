"""Generate the tables of the pages on the paper's claims and errors from the paper's numbers.

`make tables` rewrites the marked blocks, as in `tables.py`. The numbers are those of `mem/report/paper.yaml`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mem.data.datasets.reference_counts import IMAGENET_LT, INATURALIST_2018, PLACES_LT
from mem.report.paper_format import EMPTY, format_accuracy, paper_numbers
from mem.report.results import SHOTS
from mem.report.table_formats import markdown_table

EXPLANATION = Path(__file__).parents[1] / "explanation"
PAGES = (EXPLANATION / "claims-of-the-paper.md", EXPLANATION / "errors-of-the-paper.md")
BLOCK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- /table -->)", re.DOTALL)
GROUPS = {"imagenet_lt": IMAGENET_LT.groups, "inat18": INATURALIST_2018.groups, "places_lt": PLACES_LT.groups}
"""Number of many-shot, medium-shot and few-shot classes."""
BASELINES = ("ce", "tau", "lws", "crt")
PARTITIONS = {
    "mem": "(1) shot groups",
    "mem_random_even": "(2) random and even",
    "mem_cardinality_even": "(3) even, by image count",
}

Lines = list[list[str]]


def regenerate(page: Path) -> str:
    """Return the text of a page with all marked tables regenerated.

    Raises:
        KeyError: A block specifies an unknown table.
    """
    paper = paper_numbers()

    def block(match: re.Match[str]) -> str:
        return f"{match[1]}\n{markdown_table(TABLES[match[2]](paper))}\n{match[3]}"

    return BLOCK.sub(block, page.read_text(encoding="utf-8"))


def methods(paper: Mapping[str, Any]) -> Lines:
    """Return the accuracies of tables 2 to 4, and MEM's differences from cRT and from the best other method."""
    lines = [["data set, backbone", *BASELINES, "mem", "mem − crt", "best of the others", "mem − best"]]
    for entry in paper["tables"]:
        for column, backbone in enumerate(entry["backbones"]):
            accuracy = {method: entry[method][column] for method in (*BASELINES, "mem")}
            best = max(BASELINES, key=accuracy.__getitem__)
            gains = [_signed(accuracy["mem"] - accuracy[other]) for other in ("crt", best)]
            scores = [f"{value:.2f}" for value in accuracy.values()]
            lines.append([f"{entry['dataset']}, {backbone}", *scores, gains[0], best, gains[1]])
    return lines


def partitions(paper: Mapping[str, Any]) -> Lines:
    """Return MEM's rows of table 5, and the differences from CE in each group and from the cRT of table 2."""
    rows = {row["head"]: row["shots"] for row in paper["table5"] if row["recipe"] == "imagenet_lt_vit_base"}
    crt = _vit_base(paper, "crt")
    names = [*SHOTS, *[f"{shot} − ce" for shot in SHOTS], "all − crt of table 2"]
    lines = [["partition", *names]]
    for head, name in PARTITIONS.items():
        gains = [_signed(mem - ce) for mem, ce in zip(rows[head], rows["ce"], strict=True)]
        lines.append([name, *map(format_accuracy, rows[head]), *gains, _signed(rows[head][-1] - crt)])
    return lines


def pretraining(paper: Mapping[str, Any]) -> Lines:
    """Return the rows of table 5 without MEM."""
    lines = [["case", *SHOTS]]
    for row in paper["table5"]:
        if row["head"] == "ce":
            epochs = row["recipe"].rpartition("_")[2]
            case = f"from scratch, {epochs} epochs" if epochs.isdigit() else "MAE 400 epochs, finetuning 100 epochs"
            lines.append([case, *map(format_accuracy, row["shots"])])
    return lines


def consistency(paper: Mapping[str, Any]) -> Lines:
    """Return the accuracies over all classes next to the means of the shot groups, weighted by their classes."""
    rows = [("table 1", f"mem, {name}", name, cited["mem"]) for name, cited in paper["table1"].items()]
    rows += [("table 5", f"{r['recipe']}, {r['head']}", "imagenet_lt", r["shots"]) for r in paper["table5"]]
    lines = [["table", "row", "all, as stated", "all, from the groups", "difference"]]
    for table, name, dataset, shots in rows:
        weighted = weighted_mean(shots[:3], dataset)
        lines.append([table, name, format_accuracy(shots[3]), f"{weighted:.2f}", _signed(shots[3] - weighted)])
    return lines


def tau_gains(paper: Mapping[str, Any]) -> Lines:
    """Return by how much tau-normalisation and cRT are better than CE in tables 2 to 4."""
    lines = [["data set, backbone", "ce", "tau − ce", "crt − ce"]]
    for entry in paper["tables"]:
        for column, backbone in enumerate(entry["backbones"]):
            ce, tau, crt = (entry[method][column] for method in ("ce", "tau", "crt"))
            lines.append([f"{entry['dataset']}, {backbone}", f"{ce:.2f}", _signed(tau - ce), _signed(crt - ce)])
    return lines


def few_shot(paper: Mapping[str, Any]) -> Lines:
    """Return the few-shot accuracies of CE and MEM in figure 1b and table 5."""
    rows = {row["head"]: row["shots"][2] for row in paper["table5"] if row["recipe"] == "imagenet_lt_vit_base"}
    figure = paper["figure1"]["few_accuracy"]
    return [
        ["source", "ce", "mem", "mem − ce"],
        ["figure 1b and its text", format_accuracy(figure["entire_set"]), EMPTY, _signed(figure["mem_gain"], 1)],
        ["table 5", *map(format_accuracy, (rows["ce"], rows["mem"])), _signed(rows["mem"] - rows["ce"], 1)],
    ]


def vit_base_mem(paper: Mapping[str, Any]) -> Lines:
    """Return the accuracies that the paper states for MEM with ViT-Base on ImageNet-LT."""
    table5 = next(row["shots"][3] for row in paper["table5"] if row["head"] == "mem")
    one_block = paper["figure4"]["one_block_subnetwork_all"]
    return [
        ["source", "all"],
        ["table 2", format_accuracy(_vit_base(paper, "mem"))],
        ["table 5", format_accuracy(table5)],
        ["section 4.3, one transformer block", format_accuracy(one_block)],
    ]


def weighted_mean(shots: Sequence[float], dataset: str) -> float:
    """Return the accuracy over all classes from those of the shot groups."""
    counts = GROUPS[dataset]
    assert counts is not None
    return sum(accuracy * count for accuracy, count in zip(shots, counts, strict=True)) / sum(counts)


def _vit_base(paper: Mapping[str, Any], method: str) -> float:
    entry = next(entry for entry in paper["tables"] if entry["dataset"] == "imagenet_lt")
    return entry[method][entry["backbones"].index("vit_base")]


def _signed(difference: float, digits: int = 2) -> str:
    return f"{difference:+.{digits}f}".replace("-", "−")


TABLES: dict[str, Callable[[Mapping[str, Any]], Lines]] = {
    "methods": methods,
    "partitions": partitions,
    "pretraining": pretraining,
    "consistency": consistency,
    "tau_gains": tau_gains,
    "few_shot": few_shot,
    "vit_base_mem": vit_base_mem,
}

if __name__ == "__main__":
    for page in PAGES:
        page.write_text(regenerate(page), encoding="utf-8")
