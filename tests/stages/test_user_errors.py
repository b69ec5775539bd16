"""User errors and full disks, after which a stage ends with a single error message."""

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
from tests.data.font_files import write_families
from tests.data.miniatures import glyphs
from tests.stages.running import MINI, call_mem, mini_run, start_mem


def test_an_unfinished_input_is_refused_with_the_command_that_runs_it(tmp_path):
    study = load_study([MINI])
    write_configs(study_runs(study), study, tmp_path)
    config = mini_run("pretrain").folder / "config.yaml"
    message = call_mem(tmp_path, "pretrain", "--config", str(config), status=2).err
    assert (
        f"{mini_run('convert').folder}: input images of this run is not finished. Run the study, or "
        f"this stage first: mem convert --config {mini_run('convert').folder}/config.yaml" in message
    )


def test_an_input_run_with_other_settings_is_refused(study, tmp_path):
    other = load_study([MINI], {"dataset": {"cut": {"seed": 5}}})
    write_configs(study_runs(other), other, tmp_path)
    run = mini_run("pretrain", changes={"dataset": {"cut": {"seed": 5}}})
    images = study / mini_run("convert").folder
    message = call_mem(tmp_path, "pretrain", "--config", str(run.folder), "--images", str(images), status=2).err
    assert "but this run needs images" in message


def test_an_unknown_input_is_refused(study, tmp_path):
    scratch = load_study([MINI], {"pretrain": None})
    write_configs(study_runs(scratch), scratch, tmp_path)
    run = mini_run("finetune", changes={"pretrain": None})
    message = call_mem(tmp_path, "finetune", "--config", str(run.folder), "--encoder", str(study), status=2).err
    assert "this run has no input encoder. Its inputs: images." in message


def test_glyphs_are_converted_unless_their_fonts_changed_after_planning(mini_values, tmp_path):
    fonts = write_families(tmp_path / "fonts")
    values = mini_values | {"dataset": glyphs(fonts), "orders": [1]}
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    call_mem(tmp_path, "runs", "study.yaml", "--write")
    config = next((tmp_path / "runs").rglob("convert-*/config.yaml"))
    changed = next(fonts.rglob("*.ttf"))
    content = changed.read_bytes()
    changed.write_bytes(content + b"\0")
    message = call_mem(tmp_path, "convert", "--config", str(config), status=2).err
    assert "dataset, font digest: changed after this run was planned" in message
    changed.write_bytes(content)
    said = call_mem(tmp_path, "convert", "--config", str(config))
    assert "Fonts: 36 faces of 12 families" in said.out + said.err
    manifest = json.loads((config.parent / "dataset.json").read_text())
    assert manifest["splits"]["train"]["images"] == 33


def test_glyphs_are_not_converted_if_their_fonts_did_not_exist_when_the_run_was_planned(mini_values, tmp_path):
    values = mini_values | {"dataset": glyphs(tmp_path / "fonts"), "orders": [1]}
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    call_mem(tmp_path, "runs", "study.yaml", "--write")
    config = next((tmp_path / "runs").rglob("convert-*/config.yaml"))
    write_families(tmp_path / "fonts")
    message = call_mem(tmp_path, "convert", "--config", str(config), status=2).err
    assert "changed after this run was planned" in message
    assert "it did not exist then" in message
    assert not list(config.parent.glob("*.beton"))


def test_the_message_about_a_missing_data_set_explains_how_to_get_it(tmp_path):
    overlay = tmp_path / "over.yaml"
    overlay.write_text(
        "dataset: {source: fashion_mnist, name: f, counts: [9, 9, 9, 9, 9, 9, 9, 9, 9, 9], root: /nowhere, "
        "test_per_class: null}\n"
    )
    values = (REPOSITORY / "tests" / "mini.yaml").read_text().replace("source: digits", "source: fashion_mnist")
    values = values.replace("  test_per_class: 20\n", "  root: /nowhere\n")
    (tmp_path / "study.yaml").write_text(values)
    call_mem(tmp_path, "runs", "study.yaml", "--write")
    config = next((tmp_path / "runs").rglob("convert-*/config.yaml"))
    message = call_mem(tmp_path, "convert", "--config", str(config), status=2).err
    assert "Fashion-MNIST was not found" in message
    assert "/nowhere: no such folder" in message
    assert "apt install dataset-fashion-mnist" in message
    assert not list(config.parent.glob("*.beton"))


def test_a_refused_input_does_not_change_a_finished_run(study, tmp_path):
    shutil.copytree(study / "runs", tmp_path / "runs")
    run = tmp_path / mini_run("train_head", "crt").folder
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.suffix in (".json", ".jsonl")}
    other = str(mini_run("convert").folder)
    config = str(mini_run("train_head", "crt").folder)
    call_mem(tmp_path, "train_head", "--config", config, "--features", other, status=2)
    assert "run.json" in before
    assert {name: (run / name).read_bytes() for name in before} == before


# --- features that do not fit the head ----------------------------------------------------------------------------


def evaluation_error(study: Path, folder: Path, **changed: np.ndarray) -> str:
    """Evaluate a head on changed features, and return the error message."""
    shutil.copytree(study / "runs", folder / "runs")
    features = folder / mini_run("features").folder
    about = json.loads((features / "features.json").read_text())
    about["class_counts"] = changed.get("counts", np.asarray(about["class_counts"])).tolist()
    (features / "features.json").write_text(json.dumps(about))
    for kind in ("labels", "pooled"):
        if kind in changed:
            np.save(features / f"test-{kind}.npy", changed[kind])
    return call_mem(folder, "evaluate", "--config", str(mini_run("evaluate", "ce").folder), status=2).err


def test_features_with_another_number_of_classes_are_refused(study, tmp_path):
    message = evaluation_error(study, tmp_path, counts=np.arange(1, 13))
    assert "this head has 10 classes, but" in message
    assert "has features of 12 classes. They belong to different datasets" in message


def test_labels_outside_the_classes_are_refused(study, tmp_path):
    labels = np.load(study / mini_run("features").folder / "test-labels.npy")
    message = evaluation_error(study, tmp_path, labels=np.where(labels == 3, 17, labels))
    assert "test has labels from 0 to 17, but there are 10 classes (0 to 9)" in message


def test_a_test_split_without_images_is_refused(study, tmp_path):
    pooled = np.load(study / mini_run("features").folder / "test-pooled.npy")
    message = evaluation_error(study, tmp_path, labels=np.zeros(0, dtype=np.int64), pooled=pooled[:, :0])
    assert "the test split has no images, so there is nothing to evaluate" in message


def test_classes_without_test_images_are_named_and_excluded_from_means(study, tmp_path):
    pooled = np.load(study / mini_run("features").folder / "test-pooled.npy")
    labels = np.load(study / mini_run("features").folder / "test-labels.npy")
    kept = labels < 7
    shutil.copytree(study / "runs", tmp_path / "runs")
    features = tmp_path / mini_run("features").folder
    np.save(features / "test-labels.npy", labels[kept])
    np.save(features / "test-pooled.npy", pooled[:, kept])
    run = mini_run("evaluate", "ce").folder
    messages = call_mem(tmp_path, "evaluate", "--config", str(run)).err
    assert "test has no images of 3 of 10 classes (7, 8, 9). Means over classes exclude them." in messages
    scores = json.loads((tmp_path / run / "metrics.json").read_text())["splits"]["test"]
    assert scores["per_class"][7:] == [None, None, None]
    assert scores["accuracy"]["few"] is None
    assert read_predictions(tmp_path / run / "predictions.parquet")[1]["test"].names is None


# --- disks --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A 100 kB file system that contains the configuration of a `convert` run."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(tmp_path)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting is not permitted")
    study = load_study([MINI])
    write_configs([mini_run("convert")], study, tmp_path)
    yield tmp_path
    subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_conversion_on_a_full_disk_ends_with_one_message_and_resumes_when_space_is_free(small_disk):
    folder = mini_run("convert").folder
    failed = start_mem(small_disk, "convert", "--config", str(folder))
    message = failed.stderr
    assert failed.returncode == 2
    assert message.count("\n") == 1
    assert f"{folder}/.train.beton.partial: the disk is full" in message
    remaining = {p.name for p in (small_disk / folder).iterdir()}
    unfinished = {f".{split}.beton.{part}" for split in ("train", "val", "test") for part in ("partial", "journal")}
    assert remaining <= {"config.yaml", "site.yaml", "log.jsonl", "run.lock"} | unfinished
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    resumed = start_mem(small_disk, "convert", "--config", str(folder))
    assert resumed.returncode == 0, resumed.stderr
    assert not [p for p in (small_disk / folder).iterdir() if p.name in unfinished]


def test_a_read_only_folder_is_named(small_disk):
    folder = mini_run("convert").folder
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    failed = start_mem(small_disk, "convert", "--config", str(folder))
    assert failed.returncode == 2
    assert failed.stderr == (
        f"mem convert: {folder}/run.lock: no permission to write. Change the permissions, or use another folder.\n"
    )
