"""Tables of accuracies on pages: the lines that the DAG wrote, and those that nothing vouches for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from mem.report.comparison import signed
from mem.report.results import SHOTS, summarised, table, to_markdown, to_text
from mem.report.scored import accuracy_table, difference_text
from tests.docs.figures import FENCE
from tests.docs.sources import gained_by_pretraining, paper_says, studies

ACCURACIES = {*SHOTS, "val, all", "top5", "balanced", "ce", "tau", "crt", "lws", "mem", "accuracy", "top-1", "top-5"}
"""Heads of columns that hold accuracies."""


def lines_of_unknown_origin(page: str) -> list[str]:
    """Lines of tables of accuracies, in Markdown and in the terminal's output, that nothing vouches for."""
    printed = "\n".join(match[0] for match in FENCE.finditer(page)).splitlines()
    scores = [line for line in printed if re.match(r"(?:ce|tau|crt|lws|mem\S*) .*\d\.\d\d", line)]
    unknown = [line for line in scores if line not in lines_that_the_dag_wrote()]
    for header, lines in tables(page):
        columns = [column for column, name in enumerate(header) if name.lower() in ACCURACIES]
        for line in lines:
            row = cells(line)
            stated = [row[c] for c in columns if re.search(r"\d", row[c])]
            if (stated or "±" in line) and line not in lines_that_the_dag_wrote():
                recipe = re.search(r"config/paper/(\w+)\.yaml", line)
                said = [paper_says(recipe[1], header[c].lower()) for c in columns if row[c]] if recipe else []
                if stated != said or not stated:
                    unknown.append(line)
    return unknown


def tables(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """The cells of the header of each table, and its lines."""
    for found in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        header, _, *lines = found.splitlines()
        yield cells(header), lines


def cells(line: str) -> list[str]:
    """Of a line of a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


@cache
def lines_that_the_dag_wrote() -> set[str]:
    """Every line of the tables that reports make of the results in docs/results/."""
    lines = set(lines_on_pretraining())
    for results in studies().values():
        rows = results.rows
        shots = [table(summarised(rows, split)) for split in ("test", "val")]
        differences = [difference_text(rows, split) for split in ("test", "val")]
        for made in (accuracy_table(rows), *shots, *filter(None, differences)):
            lines |= set(to_markdown(made).splitlines()) | set(to_text(made).splitlines())
    return lines


def lines_on_pretraining() -> list[str]:
    """What pretraining is worth on Fashion-MNIST-LT, by head and shot."""
    gains = {head: [gained_by_pretraining(head, shot) for shot in SHOTS] for head in ("ce", "crt")}
    return [
        f"| {head} | {' | '.join(signed(gain.mean, gain.half_width) for gain in found)} |"
        for head, found in gains.items()
    ]
