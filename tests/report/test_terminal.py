"""`mem results` prints tables and figures of a finished study, or one message that tells the user what to do next."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from mem.errors import UserError
from mem.report.results import from_csv
from mem.report.terminal import PARTS, paper_part
from tests.report.synthetic import mem_grid, study_of, write_report

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    """A folder with the report of a study with a sweep and two seeds."""
    folder = tmp_path_factory.mktemp("reported")
    write_report(folder, study_of(folder, seeds=[0, 1], **mem_grid(4)), gain={"mem": 0.2})
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_printed_with_numbers_caption_and_files(reported, part):
    text = paper_part("mini", part, reported)
    assert text.startswith(f"{part[:-1].capitalize()} {part[-1]}: ")
    folder = reported / "results" / "mini" / f"{part[:-1]}s"
    for suffix in ("md", "csv", "html" if part.startswith("table") else "svg"):
        assert str(folder / f"{part}.{suffix}") in text
    with open(folder / f"{part}.csv", newline="") as file:
        for line in csv.reader(file):
            assert "  ".join(line).split() in [printed.split() for printed in text.splitlines()]
    for phrase in ("many>100 few<20", "Seeds 0, 1: mean ± 95 %"):
        assert phrase in " ".join(text.split())


def test_figure_1_agrees_with_the_results_file(reported):
    with open(reported / "results" / "mini" / "figures" / "figure1.csv", newline="") as file:
        cells = {line[0]: line[1] for line in csv.reader(file)}
    rows = from_csv(reported / "results" / "mini" / "report" / "results.csv")
    few = {v: [row.few for row in rows if row.variant == v and row.split == "test"] for v in ("ce", "mem")}
    assert cells["ce: few among all classes"].startswith(f"{np.mean(few['ce']):.2f} ±")
    assert cells["mem minus ce: few"].startswith(f"{np.mean(few['mem']) - np.mean(few['ce']):+.2f} ±")


@pytest.mark.parametrize("part", ["table2", "figure1"])
@pytest.mark.parametrize("text", [None, "", "# Table 2: a title\n\n"], ids=["missing", "empty", "short"])
def test_a_missing_or_truncated_caption_file_is_reported_with_the_command_that_writes_it(
    reported, tmp_path, part, text
):
    shutil.copytree(reported / "results", tmp_path / "results")
    path = tmp_path / "results" / "mini" / f"{part[:-1]}s" / f"{part}.md"
    path.unlink() if text is None else path.write_text(text)
    problem = "does not exist, although its CSV file does" if text is None else "is damaged: expected a title"
    command = f"mem run mini --directory {tmp_path} --forcerun report"
    with pytest.raises(UserError, match=rf"{part}.md {problem}.*Write the report again: {command}"):
        paper_part("mini", part, tmp_path)


def test_unknown_parts_and_studies_and_older_reports_are_reported(reported, tmp_path):
    with pytest.raises(UserError, match=r"Unknown table or figure table6. Choose one of: table1, table2"):
        paper_part("mini", "table6", reported)
    with pytest.raises(UserError, match=r"study minni has no report yet. Run the study first. Did you mean mini\?"):
        paper_part("minni", "table1", reported)
    older = tmp_path / "results" / "mini" / "report"
    older.mkdir(parents=True)
    (older / "results.csv").write_text("")
    with pytest.raises(UserError, match=r"figure1.csv does not exist: the report of study mini is from an older"):
        paper_part("mini", "figure1", tmp_path)
