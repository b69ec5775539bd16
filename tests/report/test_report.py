"""The report of a synthetic study: files, tables, captions and their order."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mem.errors import UserError
from mem.report import collect
from mem.report.results import from_csv
from mem.report.terminal import study_summary
from tests.report.synthetic import mem_grid, study_of, write_report

pytestmark = pytest.mark.stage


@pytest.fixture(scope="module")
def several_runs(tmp_path_factory) -> Path:
    """Results of the mini study for two seeds and two class orders. MEM is 20 points above all other heads."""
    folder = tmp_path_factory.mktemp("several")
    return write_report(folder, study_of(folder, seeds=[0, 1], orders=[0, 3]), gain={"mem": 0.2})


def test_every_table_and_figure_of_the_paper_is_written_in_every_format(several_runs):
    for number in range(1, 6):
        for suffix in ("md", "csv", "tex", "html"):
            assert (several_runs / "tables" / f"table{number}.{suffix}").stat().st_size > 100
    for number in (1, 3, 4):
        assert (several_runs / "figures" / f"figure{number}.svg").read_text().startswith("<svg")
        assert (several_runs / "figures" / f"figure{number}.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_contains_every_section_and_loads_nothing_from_the_network(several_runs):
    page = (several_runs / "report" / "index.html").read_text()
    for title in (
        "best method on val",
        "Accuracy on test",
        "Accuracy on val",
        "Differences between methods",
        "Top-5 accuracy, balanced accuracy, calibration",
        "The worst three classes of mem (the best method on val) on test are ",
        "Most confused classes",
        "Few-shot successes and failures",
        "Calibration with temperature scaling",
        "Oracle accuracy",
        "Norms of MEM&#39;s sub-networks",
        "Table 5",
        "Deviations from the paper",
        "Cost",
        "Provenance",
    ):
        assert title in page, title
    assert page.count("Methods on mini_digits") == page.count("Tables 2, 3 and 4: Methods on mini_digits") > 0
    # The synthetic heads of one run have the same norms.
    assert "These heads have the same norms to 0.1 %: mem, mem_on_crt." in page
    assert "MEM heads that differ only in the fusion or the classifier have nearly the same norms" in page
    without_names = re.sub(r'xmlns(:\w+)?="[^"]*"|xlink:href="#[^"]*"', "", page)
    assert not re.search(r'(src|href)="(?!#|data:|mlflow\.html")', without_names)
    assert "many&gt;100 few&lt;20" in page
    assert "Values are the mean and 95 % interval (Student&#39;s t) over 2 class orders (mean of 2 seeds each)." in page
    assert "They cover the sampling of test images only if each class order has its own." in page
    assert "The standard error of the mean per-class accuracy due to the sampling of test images is " in page


def test_differences_are_paired_with_crt_over_seeds_and_class_orders(several_runs):
    folder = several_runs.parent.parent
    text = study_summary("mini", folder)
    report = f"Report:    {folder}/results/mini/report/index.html\nMLflow UI: cd {folder} && mem track ui mini"
    assert text.endswith(report)
    assert "Difference from crt on the same backbone" in text
    line = next(line for line in text.splitlines() if line.startswith("mem ") and line.rstrip().endswith(" 4"))
    rows = from_csv(several_runs / "report" / "results.csv")
    score = {(row.variant, *row.repeat): row.all for row in rows if row.split == "test"}
    pairs = [score["mem", *repeat] - score["crt", *repeat] for repeat in ((0, 0), (0, 1), (3, 0), (3, 1))]
    assert f"{sum(pairs) / 4:+.2f} ±" in line
    assert re.search(r"Best on val \(mean per-class accuracy\): mem, \d+\.\d+ % \(standard error \d\.\d+\)", text)


def test_norms_and_classes_are_compared_by_how_often_they_name_the_group(several_runs):
    page = (several_runs / "report" / "index.html").read_text()
    table = page.partition("Who names the group")[2].partition("</table>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line, re.DOTALL) for line in table.split("<tr")]
    lines = {line[0]: line[1:] for line in cells if line}
    assert list(lines) == ["mem", "mem_on_crt"]
    rows = [row for row in from_csv(several_runs / "report" / "results.csv") if row.split == "test"]
    for variant, base in (("mem", "ce"), ("mem_on_crt", "crt")):
        norms, own = (
            np.mean([getattr(row, name) for row in rows if row.variant == variant])
            for name in ("group_by_norm", "group_by_class")
        )
        of_base = np.mean([row.group_recall_all for row in rows if row.variant == base])
        shown = [float(re.sub("<.*?>", "", cell).split()[0]) for cell in lines[variant][:3]]
        assert shown == pytest.approx([norms, own, of_base], abs=0.006)
        assert lines[variant][-1] == base
        assert norms > 90 > own


def test_a_head_with_a_fresh_classifier_has_no_base_although_it_names_one(tmp_path):
    heads = study_of(tmp_path).model_dump(mode="json")["heads"]
    heads |= {"mem_fresh": {**heads["mem"], "classifier": "fresh"}}
    assert heads["mem_fresh"]["classifier_from"] == "ce"
    results = write_report(tmp_path, study_of(tmp_path, heads=heads))
    table = (results / "report" / "index.html").read_text().partition("Who names the group")[2].partition("</table>")[0]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", line, re.DOTALL) for line in table.split("<tr")]
    lines = {line[0]: line[1:] for line in cells if line}
    assert lines["mem_fresh"][2:] == ["-", "-", "-"]
    assert lines["mem"][-1] == "ce"


def test_any_head_can_be_subtracted_in_the_terminal(several_runs):
    folder = several_runs.parent.parent
    text = study_summary("mini", folder, minus="lws")
    assert "Difference from lws on the same backbone" in text
    rows = from_csv(several_runs / "report" / "results.csv")
    test = {(row.variant, *row.repeat): row.all for row in rows if row.split == "test"}
    repeats = ((0, 0), (0, 1), (3, 0), (3, 1))
    mean = sum(test["mem", *repeat] - test["lws", *repeat] for repeat in repeats) / 4
    assert f"{mean:+.2f} ±" in next(line for line in text.splitlines() if line.startswith("mem ") and "+" in line)
    printed = " ".join(text.split())
    assert "The intervals are not adjusted for the number of methods." in printed
    assert "The standard error of a score on val is over class orders." in printed
    assert "Methods with equal results in every run are one hypothesis: ce = " in printed
    with pytest.raises(UserError, match="There is no head `crt_warm` to compare with"):
        study_summary("mini", folder, minus="crt_warm")


def test_many_heads_are_sorted_by_val_and_each_evaluation_is_read_once(tmp_path, monkeypatch):
    study = study_of(tmp_path, seeds=[0, 1], **mem_grid(20))
    read: list[Path] = []
    original = collect.read_evaluation
    monkeypatch.setattr(collect, "read_evaluation", lambda folder: read.append(folder) or original(folder))
    results = write_report(tmp_path, study, gain={"mem.additive.xi35": 0.3, "mem.free.xi40": 0.15})
    assert len(read) == len(set(read)) == 2 * len(study.heads)
    lines = (results / "report" / "table.md").read_text().splitlines()
    assert lines[0] == "| method | val, balanced | many | medium | few | all |"
    assert [line.split(" | ")[0] for line in lines[2:4]] == ["| mem.additive.xi35", "| mem.free.xi40"]
    on_val = [float(line.split(" | ")[1].split(" (SE ")[0]) for line in lines[2:]]
    assert on_val == sorted(on_val, reverse=True)
    page = (results / "report" / "index.html").read_text()
    assert "methods are sorted, best on val first" in page
    assert "One setting at a time" in page
    assert "<strong>mem.additive.xi35</strong> is the best method on val" in page


def test_heads_of_a_single_run_are_compared_over_its_images(tmp_path):
    results = write_report(tmp_path, study_of(tmp_path), gain={"mem": 0.3})
    page = (results / "report" / "index.html").read_text()
    assert "bootstrap intervals over test images, stratified by class" in page
    assert "Difference from" not in study_summary("mini", tmp_path)


def test_a_shot_group_without_test_images_is_shown_as_a_dash(tmp_path):
    results = write_report(tmp_path, study_of(tmp_path, seeds=[0, 1]), without_few=True)
    lines = (results / "report" / "table.md").read_text().splitlines()
    assert all(line.split(" | ")[3] == "-" for line in lines[2:])
    assert "nan" not in study_summary("mini", tmp_path)


def test_tables_of_another_data_set_contain_the_methods_of_the_study(several_runs):
    with open(several_runs / "tables" / "table2.csv", newline="") as file:
        lines = list(csv.reader(file))
    assert lines[0] == ["backbone", "method", "ours", "runs", "paper", "difference"]
    assert [line[1] for line in lines[1:]] == ["ce", "tau", "crt", "lws", "mem"]
    assert {(line[3], line[4], line[5]) for line in lines[1:]} == {("4", "-", "-")}
    caption = (several_runs / "tables" / "table2.md").read_text()
    assert "many>100 few<20" in caption
    assert "Seeds 0, 1, class orders 0, 3: mean ± 95 % interval" in caption


def test_predictions_of_all_heads_are_written_side_by_side(several_runs):
    files = sorted(path.name for path in (several_runs / "report" / "predictions").iterdir())
    assert files == [f"order{order}-seed{seed}.parquet" for order in (0, 3) for seed in (0, 1)]
    rows = from_csv(several_runs / "report" / "results.csv")
    for order, seed in ((0, 0), (3, 1)):
        table = pq.read_table(several_runs / "report" / "predictions" / f"order{order}-seed{seed}.parquet")
        labels = table["label"].to_numpy()
        on_test = [row for row in rows if row.split == "test" and row.repeat == (order, seed)]
        assert set(table.column_names) - {"label", "name"} == {row.variant for row in on_test}
        for row in on_test:
            correct = (table[row.variant].to_numpy() == labels).mean()
            assert 100 * correct == pytest.approx(row.all, abs=1e-3)
