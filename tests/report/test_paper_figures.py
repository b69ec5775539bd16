"""The paper's figures 1, 3 and 4 in numbers, beside ours."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from mem.config import Study
from mem.errors import UserError
from mem.report.collect import StudyResults
from mem.report.paper_figures import figures_in_numbers
from mem.report.paper_tables import PaperTable, ResultsStore
from mem.report.results import Row, from_csv
from mem.report.terminal import PARTS, paper_part
from tests.report.synthetic import grid, study_of
from tests.report.test_paper import rows
from tests.report.test_report import reported

WRONG = np.array([[8.0, 1, 1], [30, 9, 1], [50, 40, 10]])


def figures(folder: Path, study: Study, found: list[Row]) -> dict[int, PaperTable]:
    """The figures of made-up results, by number."""
    wrong = {row.variant: WRONG for row in found}
    library = ResultsStore(found[0].study, found, folder)
    return {one.number: one for one in figures_in_numbers(library, study, StudyResults(found, wrong))}


def theirs(study: str = "imagenet_lt_vit_base", backbone: str = "vit_base", **accuracies: float) -> list[Row]:
    return rows(study, "imagenet_lt", backbone, **accuracies)


def test_figure_1_has_where_errors_land_the_oracle_and_what_mem_adds_beside_the_papers(tmp_path):
    found = [Row(**{**vars(row), "oracle_few": 70.0}) for row in theirs(ce=20.0, mem=33.0)]
    figure = figures(tmp_path, study_of(tmp_path), found)[1]
    assert figure.lines == [
        ["on test, %", "ours", "runs", "paper", "difference"],
        ["ce: medium shot's errors that land in many", "75.00", "2", "73.6", "+1.40"],
        ["ce: few shot's errors that land in many", "50.00", "2", "71.2", "−21.20"],
        ["ce: few shot's errors that land in medium", "40.00", "2", "27.2", "+12.80"],
        ["ce: few among all classes", "20.00 ± 0.00", "2", "24.9", "−4.90 ± 0.00"],
        ["ce: few with the shot given", "70.00 ± 0.00", "2", "67.9", "+2.10 ± 0.00"],
        ["mem minus ce: few", "+13.00 ± 0.00", "2", "+11.9", "+1.10 ± 0.00"],
    ]
    assert "Both are of ViT-Base on ImageNet-LT" in figure.caption
    assert "its text has 24.9 and its table 5 21.1" in figure.caption


def test_figure_3_has_the_accuracies_of_the_papers_tables_and_its_claim(tmp_path):
    figure = figures(tmp_path, study_of(tmp_path), theirs(ce=53.0, crt=58.0, mem=60.0))[3]
    assert ["ce", "73.4", "47.2", "21.1", "53.48", "paper, table 5"] in figure.lines
    assert ["mem", "−7.90 ± 0.00", "+4.10 ± 0.00", "+17.00 ± 0.00", "+1.83 ± 6.35", "difference"] in figure.lines
    assert ["crt", "-", "-", "-", "58.06", "paper, table 2"] in figure.lines
    assert ["lws", *["not run"] * 4, "-"] in figure.lines
    assert ["mem minus crt", *["+2.00 ± 0.00"] * 4, "ours, paired"] in figure.lines
    assert ["mem minus crt", "-", "-", "-", "+0.82", "paper"] in figure.lines
    assert "higher on the medium and the few shot, slightly lower on the many shot" in figure.caption
    assert "Not run: tau, lws." in figure.caption


def test_figure_4_has_one_block_and_the_gain_by_xi_beside_the_papers(tmp_path):
    sweeps = {"xi": {"of": "mem_on_crt", "over": {"xi": [20, 100]}}, "d": {"of": "mem_on_crt", "over": {"depth": [2]}}}
    study = study_of(tmp_path, sweeps=sweeps)
    found = [
        Row(**{**vars(row), "variant": name, "all": row.all + (0.5 if vars(head).get("xi") == 100 else 0.0)})
        for name, head in study.heads.items()
        for row in theirs(mem=58.0)
    ]
    figure = figures(tmp_path, study, found)[4]
    one_block = ["mem_on_crt", *["58.00 ± 0.00"] * 3, "58.50 ± 6.35", "2", "58.72", "−0.22 ± 6.35"]
    assert ["depth 1", *one_block] in figure.lines
    xi = next(line for line in figure.lines if line[0] == "xi 100 minus xi 20")
    assert xi[5:] == ["+0.50 ± 0.00", "2", "+0.2", "+0.30 ± 0.00"]
    assert "Not run: other values of width, mu." in figure.caption


@pytest.mark.parametrize(
    ("study", "backbone"), [("imagenet_lt_vit_large", "vit_large"), ("table5_scratch_100", "vit_base")]
)
def test_no_difference_is_taken_from_another_backbone_or_from_scratch(tmp_path, study, backbone):
    made = figures(tmp_path, study_of(tmp_path), theirs(study, backbone, ce=50.0, crt=58.0, mem=60.0))
    assert {line[-1] for line in made[1].lines[1:]} == {line[-1] for line in made[4].lines[1:]} == {"-"}
    assert not any(line[-1] == "difference" for line in made[3].lines)
    assert all("so no difference is taken" in one.caption for one in made.values())


def test_a_study_without_a_mem_head_or_without_ce_says_what_was_not_run(tmp_path):
    study = study_of(tmp_path)
    made = figures(tmp_path, study_of(tmp_path, heads={"ce": None}), rows("s", "d", "v", ce=50.0))
    assert made[1].lines[-1] == ["mem minus ce: few", "not run", "-", "+11.9", "-"]
    assert "Not run: mem." in made[1].caption
    assert ["depth 1, a transformer block", "-", *["not run"] * 4, "-", "58.72", "-"] in made[4].lines
    only = figures(tmp_path, study, rows("s", "d", "v", mem=50.0))[1]
    assert only.lines[-1][:2] == ["mem minus mem: few", "not run"]
    assert "Not run: ce." in only.caption


# --- as files and in the terminal --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory) -> Path:
    """A folder with the report of a study with a sweep, over two seeds."""
    folder = tmp_path_factory.mktemp("figures")
    reported(folder, study_of(folder, seeds=[0, 1], **grid(4)), gain={"mem": 0.2})
    return folder


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_printed_with_numbers_caption_and_files(several, part):
    text = paper_part("mini", part, several)
    assert text.startswith(f"{part[:-1].capitalize()} {part[-1]}: ")
    folder = several / "results" / "mini" / f"{part[:-1]}s"
    for ending in ("md", "csv", "html" if part.startswith("table") else "svg"):
        assert str(folder / f"{part}.{ending}") in text
    with open(folder / f"{part}.csv", newline="") as file:
        for line in csv.reader(file):
            assert "  ".join(line).split() in [printed.split() for printed in text.splitlines()]
    for said in ("many>100 few<20", "Seeds 0, 1: mean ± 95 %"):
        assert said in " ".join(text.split())


def test_figure_1_of_files_is_what_the_predictions_say(several):
    with open(several / "results" / "mini" / "figures" / "figure1.csv", newline="") as file:
        lines = {line[0]: line[1] for line in csv.reader(file)}
    found = from_csv(several / "results" / "mini" / "report" / "results.csv")
    few = {v: [row.few for row in found if row.variant == v and row.split == "test"] for v in ("ce", "mem")}
    assert lines["ce: few among all classes"].startswith(f"{np.mean(few['ce']):.2f} ±")
    assert lines["mem minus ce: few"].startswith(f"{np.mean(few['mem']) - np.mean(few['ce']):+.2f} ±")


@pytest.mark.parametrize("part", ["table2", "figure1"])
@pytest.mark.parametrize("text", [None, "", "# Table 2: a title\n\n"], ids=["missing", "empty", "short"])
def test_a_part_whose_text_is_missing_or_short_is_to_be_made_again(several, tmp_path, part, text):
    shutil.copytree(several / "results", tmp_path / "results")
    path = tmp_path / "results" / "mini" / f"{part[:-1]}s" / f"{part}.md"
    path.unlink() if text is None else path.write_text(text)
    said = "not there, though its table is" if text is None else "damaged: expected a title"
    again = "Make the report again: snakemake --config study=mini --forcerun report"
    with pytest.raises(UserError, match=rf"{part}.md: {said}.*{again}"):
        paper_part("mini", part, tmp_path)


def test_what_is_not_there_is_said(several, tmp_path):
    with pytest.raises(UserError, match=r"table6: no table or figure of the paper .*: table1, table2"):
        paper_part("mini", "table6", several)
    with pytest.raises(UserError, match=r"study minni has no report yet; run it first. Did you mean mini\?"):
        paper_part("minni", "table1", several)
    older = tmp_path / "results" / "mini" / "report"
    older.mkdir(parents=True)
    (older / "results.csv").write_text("")
    with pytest.raises(UserError, match=r"figure1.csv: not there, though study mini has a report: an older one"):
        paper_part("mini", "figure1", tmp_path)
