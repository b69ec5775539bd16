"""Results of the study Digits-LT, which is run once through the complete workflow."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

from mem.config.load import load_study
from mem.data.beton.reader import Beton
from mem.longtail import SHOT_NAMES
from mem.plan.hours import Rates
from mem.plan.text import estimate_study
from mem.report.results import to_csv
from mem.runs.dag import study_runs
from mem.runs.folder import read_record
from mem.tracking import server
from tests.conftest import REPOSITORY
from tests.workflow.conftest import jobs, snakemake
from tests.workflow.pages import WIDTHS, check_mlflow_views, check_report, rows_on_test

pytestmark = pytest.mark.workflow
STUDY = REPOSITORY / "config" / "digits_lt.yaml"
HEADS = tuple(load_study([STUDY]).heads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which `snakemake --cores 2` has run."""
    folder = tmp_path_factory.mktemp("digits_lt")
    output = snakemake(folder, "--cores", "2").stdout
    assert "Report: results/digits_lt/report/index.html" in output
    return folder


def rows(folder: Path):
    return rows_on_test(folder, "digits_lt")


def images_of(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels, from 0 to 1, and the labels of a converted split."""
    run = next(run for run in study_runs(load_study([STUDY])) if run.stage == "convert")
    beton = Beton(folder / run.folder / f"{split}.beton")
    pixels = np.zeros((len(beton), 8, 8, 3), dtype=np.uint8)
    for i in range(len(beton)):
        beton.crop(i, 0, 0, 8, 8, pixels[i])
    return pixels[..., 0].reshape(len(beton), -1) / 255, beton.labels


def test_ce_is_more_accurate_than_logistic_regression_on_the_pixels(folder):
    from sklearn.linear_model import LogisticRegression

    train, val, test = (images_of(folder, split) for split in ("train", "val", "test"))
    # For a fair comparison, the regularisation is selected on val.
    models = [LogisticRegression(C=c, max_iter=5000).fit(*train) for c in (0.1, 1, 10, 100)]
    best = max(models, key=lambda model: model.score(*val))
    logistic = 100 * best.score(*test)
    ce = next(row.all for row in rows(folder) if row.method == "ce")
    print(f"CE {ce:.2f}, logistic regression {logistic:.2f} (C = {best.C})")
    assert ce > logistic


def test_every_head_is_better_than_chance_in_every_shot_group(folder):
    accuracies = {row.variant: {shot: getattr(row, shot) for shot in (*SHOT_NAMES, "all")} for row in rows(folder)}
    assert set(accuracies) == set(HEADS)
    chance = 100 / 10
    for variant, scores in accuracies.items():
        assert all(score > 2 * chance for score in scores.values()), (variant, scores)


def test_every_shot_group_has_at_least_three_classes(folder):
    manifest = json.loads(next(folder.glob("runs/digits_lt/data/*/dataset.json")).read_text())
    assert all(count >= 3 for count in manifest["groups"].values())


def test_a_second_run_finds_everything_up_to_date(folder):
    assert "Nothing to be done" in snakemake(folder, "--cores", "2").stdout


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ('heads={"mem": {"xi": 35}}', {"train_head": 1, "evaluate": 1, "report": 1}),
        (
            'finetune={"epochs": 77}',
            {"finetune": 1, "features": 1, "train_head": len(HEADS), "evaluate": len(HEADS), "report": 1},
        ),
        (
            'pretrain={"mask_ratio": 0.7}',
            {
                "pretrain": 1,
                "finetune": 1,
                "features": 1,
                "train_head": len(HEADS),
                "evaluate": len(HEADS),
                "report": 1,
            },
        ),
        ('compute={"pretrain": {"threads": 1, "hours": 9}}', {}),
    ],
)
def test_a_changed_setting_reruns_only_the_runs_that_depend_on_it(folder, change, expected):
    counted = jobs(folder, "--config", change)
    assert counted == ({**expected, "all": 1} if expected else {})


def test_a_setting_that_is_changed_back_finds_the_earlier_runs(folder):
    before = rows(folder)
    page = (folder / "results" / "digits_lt" / "report" / "index.html").read_bytes()
    snakemake(folder, "--cores", "2", "--config", 'heads={"mem": {"xi": 35}}')
    new_keys = {row.variant: row.key for row in rows(folder)}
    changed = {row.variant for row in before if new_keys[row.variant] != row.key}
    assert changed == {"mem"}
    assert (folder / "results" / "digits_lt" / "report" / "index.html").read_bytes() != page
    assert jobs(folder) == {"report": 1, "all": 1}
    snakemake(folder, "--cores", "2")
    # Compare the rows as text, because missing scores are NaN, which is not equal to itself.
    assert to_csv(rows(folder)) == to_csv(before)


def test_mlflow_has_one_run_per_stage_run_and_backbone_runs_are_nested(folder):
    client = MlflowClient(server.tracking_uri(folder))
    experiment = client.get_experiment_by_name("digits_lt")
    by_key = {run.data.tags["config_digest"]: run for run in client.search_runs([experiment.experiment_id])}
    expected = [run for run in study_runs(load_study([STUDY])) if run.stage != "evaluate"]
    assert {run.key for run in expected} <= set(by_key)
    for run in expected:
        tags = by_key[run.key].data.tags
        assert tags["stage"] == run.stage
        assert by_key[run.key].info.status == "FINISHED"
        assert len(tags["git_sha"]) == 40
        if run.stage == "features":
            parent_run = next(parent for parent in run.lineage() if parent.stage == "finetune")
        elif run.stage == "finetune":
            parent_run = run.inputs["encoder"]
        else:
            assert "mlflow.parentRunId" not in tags
            continue
        assert tags["mlflow.parentRunId"] == by_key[parent_run.key].info.run_id


def test_mlflow_runs_have_scores_settings_and_complete_curves(folder):
    client = MlflowClient(server.tracking_uri(folder))
    by_key = {
        run.data.tags["config_digest"]: run
        for run in client.search_runs([client.get_experiment_by_name("digits_lt").experiment_id])
    }
    for row in rows(folder):
        run = by_key[row.key]
        assert run.data.metrics["test/all"] == pytest.approx(row.all, abs=1e-3)
        assert run.data.params["head.method"] == row.method
        assert {"stage", "method", "dataset", "backbone", "seed", "git_sha", "config_digest"} <= set(run.data.tags)
    for run in study_runs(load_study([STUDY])):
        if run.stage in ("pretrain", "finetune"):
            history = client.get_metric_history(by_key[run.key].info.run_id, "train/loss")
            steps = [point.step for point in history]
            assert len(steps) == len(set(steps)) >= 300
            assert max(steps) == json.loads((folder / run.folder / "run.json").read_text())["results"]["steps"]


def test_the_report_has_pictures_of_confused_images_and_scaled_calibration_errors(folder):
    page = (folder / "results" / "digits_lt" / "report" / "index.html").read_text()
    assert len(page) < 2_500_000
    section = page.partition('<section id="confused-classes">')[2].partition("</section>")[0]
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" alt="test image (\d+)"', section)
    pixels, _ = images_of(folder, "test")
    assert pictures
    for content, index in pictures:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("L"))
        np.testing.assert_allclose(shown.ravel() / 255, pixels[int(index)], atol=0.01)
    calibration = page.partition('<section id="calibration">')[2].partition("</table>")[0]
    # A cell without a number contains a dash.
    assert calibration.count("<tr>") == 1 + len(HEADS)
    assert ">-<" not in calibration


def test_the_report_is_an_artifact(folder):
    client = MlflowClient(server.tracking_uri(folder))
    report = study_runs(load_study([STUDY]))[-1]
    run = next(
        run
        for run in client.search_runs([client.get_experiment_by_name("digits_lt").experiment_id])
        if run.data.tags["config_digest"] == report.key
    )
    assert {a.path for a in client.list_artifacts(run.info.run_id, "report")} == {
        "report/index.html",
        "report/results.csv",
        "report/table.md",
        "report/figures",
    }
    assert len(client.list_artifacts(run.info.run_id, "report/figures")) == 18


def test_the_plan_estimates_disk_space_and_steps_correctly(folder):
    _, estimates = estimate_study(load_study([STUDY]), {}, Rates(core_gflops=50))
    for estimate in estimates:
        run = folder / estimate.run.folder
        used = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
        if estimate.run.stage == "report":
            used = sum(p.stat().st_size for p in (folder / "results" / "digits_lt").rglob("*") if p.is_file())
        assert estimate.disk.final_bytes == pytest.approx(used, rel=0.1), estimate.run.stage
        if estimate.steps is not None:
            assert estimate.steps == read_record(run)["results"]["steps"], estimate.run.stage


# --- targets for single tables and figures ----------------------------------------------------------------------------

TARGETS = ("table1", "table2", "table3", "table4", "table5", "figure1", "figure3", "figure4")


def test_every_target_prints_its_table_or_figure_and_writes_all_formats(folder):
    counted = jobs(folder, *TARGETS)
    assert counted == dict.fromkeys(TARGETS, 1), "the report is up to date, so only the targets run"
    out = snakemake(folder, "--cores", "1", *TARGETS).stdout
    results = folder / "results" / "digits_lt"
    for target in TARGETS:
        kind, number = target[:-1], target[-1]
        assert f"{kind.capitalize()} {number}: " in out
        for ending in ("md", "csv", "tex", *(("html",) if kind == "table" else ("svg", "png"))):
            assert f"results/digits_lt/{kind}s/{target}.{ending}\n" in out
            assert (results / f"{kind}s" / f"{target}.{ending}").stat().st_size > 100
    captions = " ".join(out.split())
    for text in ("Shot groups by training images per class: many>100 few<20.", "Seed 0: one run, no interval."):
        assert captions.count(text) == len(TARGETS)
    for row in rows(folder):
        shots = [f"{getattr(row, shot):.2f}" for shot in (*SHOT_NAMES, "all")]
        listed = [line.split() for line in out.splitlines()]
        assert ["digits_lt", row.variant, *shots, "ours,", "1", "run"] in listed, "table 1"
        assert listed.count(["vit_digits", row.variant, shots[-1], "1", "-", "-"]) == 3, "tables 2 to 4"
        assert [row.variant, *shots, "ours,", "1", "run"] in listed, "figure 3"
        if row.variant in ("ce", "mem"):
            assert ["digits_lt", row.variant, *shots, "1", "-", "-"] in listed, "table 5"


def test_the_snakemake_report_contains_every_table_and_figure_with_its_caption(folder):
    snakemake(folder, "--report", "snakemake.html")
    page = (folder / "snakemake.html").read_text()
    listed = page.split('<script id="results">', 1)[1].split("var results = ", 1)[1]
    shown = json.JSONDecoder().raw_decode(listed)[0]
    results = "results/digits_lt"
    for target in TARGETS:
        kind, ending = target[:-1], "html" if target.startswith("table") else "svg"
        result = shown[f"{results}/{kind}s/{target}.{ending}"]
        assert f"{kind.capitalize()} {target[-1]} of the paper: " in result["caption"]
        content = base64.b64decode(result["data_uri"].split("base64,", 1)[1])
        assert content == (folder / results / f"{kind}s" / f"{target}.{ending}").read_bytes()
    assert "The complete report in one file" in shown[f"{results}/report/index.html"]["caption"]
    assert len(shown[f"{results}/report/results.csv"]["caption"]) > 20
    assert "The workflow converts images" in page


# --- in a browser --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "width"), WIDTHS)
def test_the_report_fits_desktop_and_phone_screens_in_a_browser(folder, device, width):
    check_report(folder, "digits_lt", device, width, HEADS)


def test_mlflow_shows_a_table_of_all_methods_and_in_one_click_parallel_coordinates_in_a_browser(folder):
    # Of the runs with changed settings that other tests started, the table shows none.
    assert (folder / "results" / "digits_lt" / "report" / "mlflow.html").is_file()
    check_mlflow_views(folder, "digits_lt", HEADS, "mlflow")
