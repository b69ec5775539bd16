"""Deleted outputs of a finished study are created again, also if the report is up to date."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from mem.runs.outputs import missing_files
from mem.runs.run_config import write_configs
from tests.conftest import REPOSITORY
from tests.runs.test_outputs import touch_outputs
from tests.stages.running import find_run
from tests.workflow.conftest import jobs, snakemake

MINI = REPOSITORY / "tests" / "mini.yaml"
STUDY = ("--config", f"study={MINI}")


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a finished mini study, with empty outputs."""
    folder, study = tmp_path_factory.mktemp("finished"), load_study([MINI])
    write_configs(study_runs(study), study, folder)
    touch_outputs(study_runs(study), folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of the finished study."""
    return Path(shutil.copytree(finished, tmp_path / "study"))


def run_of(stage: str, variant: str | None = None) -> Run:
    return find_run(study_runs(load_study([MINI])), stage, variant)


def planned(folder: Path) -> Counter[str]:
    return jobs(folder, *STUDY)


def test_a_finished_study_plans_nothing(folder):
    assert planned(folder) == {}


@pytest.mark.parametrize(
    ("stage", "deleted"),
    [
        ("convert", ""),
        ("convert", "images.csv"),
        ("pretrain", "autoencoder.safetensors"),
        ("finetune", ""),
        ("finetune", "model.safetensors"),
        ("features", "val-tokens.npy"),
        ("features", "classifier.safetensors"),
        ("train_head", "head.safetensors"),
        ("evaluate", "predictions.parquet"),
    ],
)
def test_a_run_without_its_folder_or_a_file_is_repeated_with_what_depends_on_it(folder, stage, deleted):
    run = run_of(stage)
    if deleted:
        (folder / run.folder / deleted).unlink()
    else:
        shutil.rmtree(folder / run.folder)
    found = planned(folder)
    assert found[stage] == 1
    assert found["report"] == found["all"] == 1
    earlier = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate")
    assert not any(found[name] for name in earlier[: earlier.index(stage)])


def test_a_deleted_head_repeats_only_this_head(folder):
    shutil.rmtree(folder / run_of("train_head", "tau").folder)
    assert planned(folder) == {"train_head": 1, "evaluate": 1, "report": 1, "all": 1}


@pytest.mark.parametrize("deleted", ["runs.csv", "tables/table3.csv", "figures/figure4.png", "report/table.md"])
def test_a_deleted_file_of_the_report_repeats_the_report(folder, deleted):
    (folder / "results" / "mini" / deleted).unlink()
    assert planned(folder) == {"report": 1, "all": 1}


def test_deleted_files_are_created_and_the_next_command_has_nothing_to_do(tmp_path):
    study = (*STUDY, "--cores", "2")
    conversion, pretrain = run_of("convert"), run_of("pretrain")
    snakemake(tmp_path, *study, "--until", "pretrain")
    (tmp_path / conversion.folder / "images.csv").unlink()
    shutil.rmtree(tmp_path / pretrain.folder)
    snakemake(tmp_path, *study, "--until", "pretrain")
    assert missing_files(conversion, tmp_path) == missing_files(pretrain, tmp_path) == []
    assert jobs(tmp_path, *STUDY, "--until", "pretrain") == {}
