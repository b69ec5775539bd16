"""The output files of each stage are those that the workflow declares, and missing files are found."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from mem.runs.outputs import OUTPUT_FILES, REPORT_FILES, files_to_restore, missing_files, output_files, shown_files
from tests.conftest import REPOSITORY
from tests.stages.running import ADAPTED, find_run

MINI = REPOSITORY / "tests" / "mini.yaml"


@pytest.mark.parametrize("stage", OUTPUT_FILES)
def test_the_output_files_are_those_of_the_rule(stage):
    rule = (REPOSITORY / "workflow" / "rules" / f"{stage}.smk").read_text()
    names = set(re.findall(rf'"runs/[^"]*/{stage}-\{{+key\}}+/([^"]+)"', rule)) - {"config.yaml", "run.json"}
    if stage == "features":
        assert 'FEATURES = ["labels"] if ONLINE else ["pooled", "labels"]' in rule
        assert 'CLASSIFIER = [] if STUDY.finetune is None else ["classifier.safetensors"]' in rule
        assert 'STATISTICS = ["batch-norm.safetensors"] if BATCH_NORM else []' in rule
        names -= {"{split}-{kind}.npy", "{file}"}
        names |= {f"{split}-{kind}.npy" for split in ("train", "val", "test") for kind in ("pooled", "labels")}
    assert set(output_files(stage, {}) or ()) == names


def test_online_features_are_not_stored():
    names = output_files("features", {"features": {"online": True, "tokens": True}})
    assert names == ("train-labels.npy", "val-labels.npy", "test-labels.npy", "features.json")


def test_tokens_and_the_finetuned_classifier_are_outputs_of_features():
    names = output_files("features", {"features": {"tokens": True}}, ["images", "classifier"])
    assert names is not None
    assert {"train-tokens.npy", "val-tokens.npy", "test-tokens.npy", "classifier.safetensors"} <= set(names)


@pytest.mark.parametrize("online", [False, True])
def test_updated_batch_norm_statistics_are_an_output_of_features(online):
    settings = {"online": online, "batch_norm": {"sampler": "instance", "epochs": 1, "batch": 8}}
    names = output_files("features", {"features": settings}, ["images", "classifier"])
    assert names is not None
    assert {"batch-norm.safetensors", "classifier.safetensors"} <= set(names)
    assert "batch-norm.safetensors" not in (output_files("features", {"features": {"batch_norm": None}}) or ())


def test_a_report_has_no_files_in_its_run_folder():
    assert output_files("report", {}) is None


@pytest.fixture
def finished(tmp_path) -> list[Run]:
    """The runs of the mini study with experts, all finished, with empty files in `tmp_path`."""
    runs = study_runs(load_study([MINI], ADAPTED))
    touch_outputs(runs, tmp_path)
    return runs


def touch_outputs(runs: list[Run], root: Path) -> None:
    """Create empty files for all outputs of runs."""
    for run in runs:
        names = output_files(run.stage, run.settings, run.inputs)
        paths = [run.folder / name for name in (*(names or ()), "run.json")]
        if run.stage == "report":
            paths += [Path("results", "mini", name) for name in REPORT_FILES]
        for path in paths:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()


def test_a_finished_study_lacks_nothing(finished, tmp_path):
    assert [missing_files(run, tmp_path) for run in finished] == [[]] * len(finished)
    assert files_to_restore(finished, tmp_path) == []


@pytest.mark.parametrize("stage", OUTPUT_FILES)
def test_each_deleted_output_of_each_stage_is_missing_and_is_restored(stage, finished, tmp_path):
    run = find_run(finished, stage)
    for name in output_files(stage, run.settings, run.inputs) or ():
        (tmp_path / run.folder / name).unlink()
        assert missing_files(run, tmp_path) == [run.folder / name]
        assert files_to_restore(finished, tmp_path) == [str(run.folder / name)]
        (tmp_path / run.folder / name).touch()


@pytest.mark.parametrize("stage", OUTPUT_FILES)
def test_a_deleted_folder_is_restored(stage, finished, tmp_path):
    run = find_run(finished, stage)
    shutil.rmtree(tmp_path / run.folder)
    assert missing_files(run, tmp_path) == [run.folder / "run.json"]
    assert files_to_restore(finished, tmp_path) == [str(run.folder / "run.json")]


def test_deleted_files_of_the_report_are_missing(finished, tmp_path):
    (tmp_path / "results" / "mini" / "tables" / "table2.csv").unlink()
    assert missing_files(finished[-1], tmp_path) == [Path("results/mini/tables/table2.csv")]
    shutil.rmtree(tmp_path / "results")
    assert missing_files(finished[-1], tmp_path) == [Path("results/mini/report/index.html")]


def test_nothing_is_restored_for_a_study_that_has_not_started_or_is_interrupted(finished, tmp_path):
    assert files_to_restore(finished, tmp_path / "empty") == []
    stages = ("convert", "pretrain")
    for run in finished:
        if run.stage not in stages:
            shutil.rmtree(tmp_path / run.folder, ignore_errors=True)
    shutil.rmtree(tmp_path / "results")
    assert files_to_restore(finished, tmp_path) == []


def test_at_most_two_missing_files_are_named():
    paths = [Path("a", name) for name in ("x", "y", "z", "w")]
    assert [shown_files(paths[:count]) for count in (1, 2, 4)] == ["x", "x, y", "x, y and 2 more"]
