"""What users get wrong, and disks that are full: a stage ends with one message."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mem.config.load import load_study
from mem.metrics.predictions import read_predictions
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from tests.conftest import REPOSITORY
from tests.stages.running import MINI, mem, refusal, run_of


def test_an_input_that_is_not_finished_is_named(tmp_path):
    study = load_study([MINI])
    write_configs(study_runs(study), study, tmp_path)
    message = refusal(tmp_path, "pretrain", "--config", str(run_of("pretrain").folder / "config.yaml"))
    assert f"{run_of('convert').folder}: the images of this run is not finished. Make it first: mem convert" in message


def test_an_input_of_other_settings_is_refused(study, tmp_path):
    other = load_study([MINI], {"dataset": {"cut": {"seed": 5}}})
    write_configs(study_runs(other), other, tmp_path)
    run = run_of("pretrain", changes={"dataset": {"cut": {"seed": 5}}})
    given = study / run_of("convert").folder
    message = refusal(tmp_path, "pretrain", "--config", str(run.folder), "--images", str(given))
    assert "but this run was configured for images" in message


def test_an_input_that_the_stage_does_not_have_is_refused(study, tmp_path):
    scratch = load_study([MINI], {"pretrain": None})
    write_configs(study_runs(scratch), scratch, tmp_path)
    run = run_of("finetune", changes={"pretrain": None})
    message = refusal(tmp_path, "finetune", "--config", str(run.folder), "--encoder", str(study))
    assert "this run has no input encoder; it has images" in message


def test_a_missing_data_set_says_how_to_get_it(tmp_path):
    overlay = tmp_path / "over.yaml"
    overlay.write_text(
        "dataset: {source: fashion_mnist, name: f, counts: [9, 9, 9, 9, 9, 9, 9, 9, 9, 9], root: /nowhere, "
        "test_per_class: null}\n"
    )
    values = (REPOSITORY / "tests" / "mini.yaml").read_text().replace("source: digits", "source: fashion_mnist")
    values = values.replace("  test_per_class: 20\n", "  root: /nowhere\n")
    (tmp_path / "study.yaml").write_text(values)
    mem(tmp_path, "runs", "study.yaml", "--write")
    config = next((tmp_path / "runs").rglob("convert-*/config.yaml"))
    message = refusal(tmp_path, "convert", "--config", str(config))
    assert "Fashion-MNIST was not found" in message
    assert "/nowhere: no such folder" in message
    assert "apt install dataset-fashion-mnist" in message
    assert not list(config.parent.glob("*.beton"))


def test_a_refused_input_leaves_a_finished_run_as_it_is(study, tmp_path):
    shutil.copytree(study / "runs", tmp_path / "runs")
    run = tmp_path / run_of("train_head", "crt").folder
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".jsonl")}
    other = str(run_of("convert").folder)
    refusal(tmp_path, "train_head", "--config", str(run_of("train_head", "crt").folder), "--features", other)
    assert "run.json" in before
    assert {name: (run / name).read_bytes() for name in before} == before


# --- features of others ------------------------------------------------------------------------------------


def features_of_others(study: Path, folder: Path, **changed: np.ndarray) -> str:
    """The message of an evaluation whose features were changed behind its back."""
    shutil.copytree(study / "runs", folder / "runs")
    features = folder / run_of("features").folder
    about = json.loads((features / "features.json").read_text())
    about["class_counts"] = changed.get("counts", np.asarray(about["class_counts"])).tolist()
    (features / "features.json").write_text(json.dumps(about))
    for kind in ("labels", "pooled"):
        if kind in changed:
            np.save(features / f"test-{kind}.npy", changed[kind])
    return refusal(folder, "evaluate", "--config", str(run_of("evaluate", "ce").folder))


def test_a_head_of_other_classes_is_refused(study, tmp_path):
    message = features_of_others(study, tmp_path, counts=np.arange(1, 13))
    assert "this head knows 10 classes, but" in message
    assert "has features of 12: they are of different data sets" in message


def test_labels_that_are_no_class_are_refused(study, tmp_path):
    labels = np.load(study / run_of("features").folder / "test-labels.npy")
    message = features_of_others(study, tmp_path, labels=np.where(labels == 3, 17, labels))
    assert "test has labels from 0 to 17, but there are 10 classes (0 to 9)" in message


def test_a_test_split_without_images_is_refused(study, tmp_path):
    pooled = np.load(study / run_of("features").folder / "test-pooled.npy")
    message = features_of_others(study, tmp_path, labels=np.zeros(0, dtype=np.int64), pooled=pooled[:, :0])
    assert "the test split has no images, so there is nothing to report" in message


def test_a_class_without_test_images_is_named_and_left_out(study, tmp_path):
    pooled = np.load(study / run_of("features").folder / "test-pooled.npy")
    labels = np.load(study / run_of("features").folder / "test-labels.npy")
    kept = labels < 7
    shutil.copytree(study / "runs", tmp_path / "runs")
    features = tmp_path / run_of("features").folder
    np.save(features / "test-labels.npy", labels[kept])
    np.save(features / "test-pooled.npy", pooled[:, kept])
    run = run_of("evaluate", "ce").folder
    said = mem(tmp_path, "evaluate", "--config", str(run)).stderr
    assert "test has no image of 3 of 10 classes (7, 8, 9): they are left out of every mean over classes." in said
    scores = json.loads((tmp_path / run / "metrics.json").read_text())["splits"]["test"]
    assert scores["per_class"][7:] == [None, None, None]
    assert scores["accuracy"]["few"] is None
    assert read_predictions(tmp_path / run / "predictions.parquet")[1]["test"].names is None


# --- disks -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 100 kB; unmounted afterwards."""
    if os.geteuid() != 0:
        pytest.skip("needs root, to mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not allowed here")
    study = load_study([MINI])
    write_configs([run_of("convert")], study, tmp_path)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_full_disk_ends_a_conversion_with_one_message_and_no_half_file(small_disk):
    folder = run_of("convert").folder
    message = refusal(small_disk, "convert", "--config", str(folder))
    assert message.count("\n") == 1
    assert f"{folder}/.train.beton.partial: the disk is full" in message
    left = {p.name for p in (small_disk / folder).iterdir()}
    in_the_making = {f".{split}.beton.{part}" for split in ("train", "val", "test") for part in ("partial", "journal")}
    assert left <= {"config.yaml", "site.yaml", "log.jsonl", "run.lock"} | in_the_making
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    mem(small_disk, "convert", "--config", str(folder))
    assert not [p for p in (small_disk / folder).iterdir() if p.name in in_the_making]


def test_a_folder_without_write_permission_is_named(small_disk):
    folder = run_of("convert").folder
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    message = refusal(small_disk, "convert", "--config", str(folder))
    assert message == f"mem convert: {folder}/run.lock: no permission to write there.\n"
