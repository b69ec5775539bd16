"""Every stage by itself, without Snakemake: a whole mini study, and what users get wrong."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from mem.checkpoints import Checkpoints
from mem.data.features import open_split
from mem.frozen.training import predict
from mem.heads.build import load_head
from mem.predictions import read_predictions
from mem.report.results import from_csv
from mem.runfolder import RunFolder, read_record, write_configs
from mem.runs import Run, plan
from mem.scores import split_scores
from mem.study import load_study
from mem.tracking.log import read_curve, read_events
from tests.conftest import REPOSITORY

MEM = [sys.executable, "-m", "mem.cli"]
MINI = REPOSITORY / "tests" / "mini.yaml"


def mem(folder: Path, *arguments: str, check: bool = True, **options) -> subprocess.CompletedProcess:
    done = subprocess.run(
        [*MEM, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False, **options
    )
    assert not check or done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """A folder in which every stage of the mini study was run by the commands that `mem runs` prints."""
    folder = tmp_path_factory.mktemp("study")
    commands = mem(folder, "runs", str(MINI), "--commands").stdout.splitlines()
    for command in commands:
        # In this process, where shapes are checked; the command line itself is tested with the others below.
        words = command.split()
        assert words[0] == "mem"
        run_here(folder, words[1:])
    return folder


def run_here(folder: Path, words: list[str]) -> None:
    from mem.cli import main

    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(words) == 0, words
    finally:
        os.chdir(before)


def run_of(stage: str, variant: str | None = None, changes: dict | None = None) -> Run:
    return next(
        run
        for run in plan(load_study([MINI], changes))
        if run.stage == stage and (variant is None or run.labels["variant"] == variant)
    )


# --- the whole ---------------------------------------------------------------------------------------------


def test_every_run_leaves_its_record(study):
    for run in plan(load_study([MINI])):
        record = read_record(study / run.folder)
        assert (record["stage"], record["key"]) == (run.stage, run.key)
        assert record["seconds"] > 0
        assert record["attempts"] == 1
        assert record["versions"]["torch"] == torch.__version__.split("+")[0]
        assert record["machine"]["host"]
        assert len(record["git"]["commit"]) == 40


def test_training_leaves_curves_and_no_checkpoints(study):
    for stage, metric in (("pretrain", "train/loss"), ("finetune", "val/acc1")):
        folder = RunFolder(study / run_of(stage).folder)
        assert len(read_curve(folder.log, metric)) >= 3
        assert not folder.checkpoints.exists()
    losses = [value for _, value in read_curve(RunFolder(study / run_of("pretrain").folder).log, "train/loss")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_features_are_those_of_the_model_on_the_images(study):
    from mem.config import Backbone
    from mem.data.beton import Beton
    from mem.data.loaders import plain_batches
    from mem.models.backbones import build
    from mem.models.weights import load_into, load_weights
    from mem.runfolder import read_config
    from mem.stages.training import pixels_of

    tuned = study / run_of("finetune").folder
    backbone = read_config(tuned, "finetune").union("backbone", Backbone)
    model = build(backbone, 10).eval()
    load_into(model.backbone, load_weights(tuned / "model.safetensors"))
    images = study / run_of("convert").folder
    val = Beton(images / "val.beton")
    split = open_split(study / run_of("features").folder, "val")
    batch = next(iter(plain_batches(val, np.arange(len(val)), len(val), 8, 1.0, 1)))
    with torch.no_grad():
        pooled, tokens = model.features(pixels_of(images).normalise(batch.inputs))
    np.testing.assert_allclose(split.pooled[0], pooled.numpy(), atol=1e-5)
    assert split.tokens is not None
    np.testing.assert_allclose(split.tokens[0], tokens.numpy(), atol=1e-5)
    np.testing.assert_array_equal(split.labels, val.labels)
    assert open_split(study / run_of("features").folder, "train").views == 2


def test_the_ce_head_is_the_finetuned_classifier(study):
    curve = read_curve(RunFolder(study / run_of("finetune").folder).log, "val/acc1")
    scores = json.loads((study / run_of("evaluate", "ce").folder / "metrics.json").read_text())
    assert scores["splits"]["val"]["accuracy"]["all"] == pytest.approx(curve[-1][1], abs=1e-3)


def test_scores_are_those_of_the_saved_head(study):
    for variant in ("crt", "mem", "mem_on_crt"):
        head = load_head(study / run_of("train_head", variant).folder)
        split = open_split(study / run_of("features").folder, "test")
        predictions = predict(head, split, variant == "mem_on_crt", torch.device("cpu"))
        scores = json.loads((study / run_of("evaluate", variant).folder / "metrics.json").read_text())
        expected = 100 * (predictions == split.labels).mean()
        assert scores["splits"]["test"]["accuracy"]["all"] == pytest.approx(expected, abs=1e-3)
        _, saved = read_predictions(study / run_of("evaluate", variant).folder / "predictions.parquet")
        np.testing.assert_array_equal(saved["test"].predictions, predictions)


def test_predictions_are_kept_whole_so_that_scores_can_be_had_without_the_model(study):
    for variant in ("crt", "mem_on_crt"):
        folder = study / run_of("evaluate", variant).folder
        about, splits = read_predictions(folder / "predictions.parquet")
        scores = json.loads((folder / "metrics.json").read_text())["splits"]
        assert scores == {name: split_scores(split, about) for name, split in splits.items()}
        with open(study / run_of("convert").folder / "images.csv", newline="") as file:
            named = {split: [] for split in ("train", "val", "test")}
            for line in csv.DictReader(file):
                named[line["split"]].append(line["name"])
        assert all(split.names == named[name] for name, split in splits.items())
        assert (splits["test"].norms is not None) == (variant == "mem_on_crt")


def test_norms_weights_and_the_oracle_are_those_of_the_saved_modulator(study):
    head = load_head(study / run_of("train_head", "mem").folder)
    split = open_split(study / run_of("features").folder, "test")
    with torch.no_grad():
        logits, weights, norms = head.modulate(split.inputs(0, np.arange(len(split)), tokens=False))
    about, splits = read_predictions(study / run_of("evaluate", "mem").folder / "predictions.parquet")
    np.testing.assert_allclose(splits["test"].norms, norms.numpy(), rtol=1e-5)
    np.testing.assert_allclose(splits["test"].weights, weights.numpy(), rtol=1e-5)
    np.testing.assert_allclose(splits["test"].top_probabilities[:, 0], logits.softmax(1).max(1).values, rtol=1e-5)
    groups = np.asarray(about.shot_of_class)
    masked = np.where(groups[split.labels][:, None] == groups[None], logits.numpy(), -np.inf)
    right = masked.argmax(axis=1) == split.labels
    scores = json.loads((study / run_of("evaluate", "mem").folder / "metrics.json").read_text())["splits"]["test"]
    assert scores["oracle"]["all"] == pytest.approx(100 * right.mean(), abs=1e-3)
    named = norms.numpy().argmax(axis=1) == groups[split.labels]
    assert scores["group_by_norm"]["all"] == pytest.approx(100 * named.mean(), abs=1e-3)
    log = RunFolder(study / run_of("evaluate", "mem").folder).log
    assert read_curve(log, "test/group_by_norm") == [(0, scores["group_by_norm"]["all"])]
    assert read_curve(log, "test/acc1") == read_curve(log, "test/all")


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


def test_tau_was_chosen_on_val(study):
    results = read_record(study / run_of("train_head", "tau").folder)["results"]
    best = max(results["val_accuracy_by_tau"].values())
    assert results["val_accuracy_by_tau"][f"{results['tau']:g}"] == best


def test_mem_on_crt_modulates_crts_classifier_and_leaves_it_alone(study):
    crt = load_head(study / run_of("train_head", "crt").folder)
    mem_head = load_head(study / run_of("train_head", "mem_on_crt").folder)
    assert torch.equal(mem_head.classifier.weight, crt.weight)


def test_the_report_has_its_files_and_the_columns_asked_for(study):
    results = study / "results" / "mini"
    header = (results / "report" / "results.csv").read_text().splitlines()[0]
    assert header == (
        "study,dataset,backbone,method,variant,seed,order,split,thresholds,many,medium,few,all,key,top5,balanced,ece,"
        "oracle_many,oracle_medium,oracle_few,oracle_all,group_recall_many,group_recall_medium,group_recall_few,"
        "group_by_norm"
    )
    rows = from_csv(results / "report" / "results.csv")
    assert {(row.variant, row.split) for row in rows} == {
        (variant, split) for variant in load_study([MINI]).heads for split in ("val", "test")
    }
    keys = {row.variant: row.key for row in rows}
    assert keys["mem"] == run_of("train_head", "mem").key
    page = (results / "report" / "index.html").read_text()
    assert page.count("<svg") == 7
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    runs = (results / "runs.csv").read_text().splitlines()
    assert len(runs) == len(plan(load_study([MINI])))  # all but the report, and a header


def test_the_table_is_printed_with_where_to_look(study):
    out = mem(study, "results", "mini").stdout
    assert "many>100 few<20" in out
    assert "mem_on_crt" in out
    assert "Report:    results/mini/report/index.html" in out
    assert "MLflow UI: mem track ui" in out


def test_a_study_without_a_report_is_named_with_those_that_have_one(study):
    done = mem(study, "results", "minni", check=False)
    assert done.returncode == 2
    assert "study minni has no report yet; run it first. Did you mean mini?" in done.stderr


def test_the_same_run_gives_the_same_weights(study, tmp_path):
    run = run_of("pretrain")
    again = tmp_path / "again"
    shutil.copytree(study / run.folder, again, ignore=shutil.ignore_patterns("*.json*", "*.safetensors"))
    run_here(study, ["pretrain", "--config", str(again / "config.yaml")])
    name = "encoder.safetensors"
    assert (again / name).read_bytes() == (study / run.folder / name).read_bytes()


def test_a_finished_run_that_is_made_once_more_begins_a_new_log(study, tmp_path):
    run = run_of("train_head", "lws")
    again = tmp_path / run.folder.name
    shutil.copytree(study / run.folder, again)
    run_here(study, ["train_head", "--config", str(again / "config.yaml")])
    assert [p.name for p in sorted(again.glob("log*.jsonl"))] == ["log-1.jsonl", "log.jsonl"]
    ids = {next(iter(read_events(path)))["id"] for path in again.glob("log*.jsonl")}
    assert len(ids) == 2
    assert read_record(again)["attempts"] == 1


# --- interruptions -----------------------------------------------------------------------------------------


def slow_pretraining(folder: Path, study: Path) -> Path:
    """A pretraining that takes a while, configured in `folder`; its images are those of the mini study."""
    changes = {"pretrain": {"epochs": 2000}}
    write_configs(plan(load_study([MINI], changes)), load_study([MINI], changes), folder)
    images = run_of("convert").folder
    shutil.copytree(study / images, folder / images, dirs_exist_ok=True)
    return folder / run_of("pretrain", changes=changes).folder


def started(folder: Path, run: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [*MEM, "pretrain", "--config", str(run / "config.yaml"), "--log", "log/pretrain.log"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_checkpoint(run: Path, process: subprocess.Popen, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not list((run / "checkpoints").glob("*.json")):
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def output_of(process: subprocess.Popen) -> str:
    return process.communicate(timeout=60)[0]


def test_a_stop_saves_says_so_and_the_next_start_goes_on(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    first = started(tmp_path, run)
    wait_for_checkpoint(run, first)
    first.send_signal(signal.SIGTERM)
    said = output_of(first)
    assert first.returncode == 143
    assert "and stopped, as asked. (SIGTERM) The same command goes on from there." in said
    step = int(said.split("Saved at step ")[1].split()[0])
    assert not (run / "run.json").exists()

    second = started(tmp_path, run)
    deadline = time.monotonic() + 60
    while "Going on from" not in (tmp_path / "log" / "pretrain.log").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    second.send_signal(signal.SIGTERM)
    said = output_of(second)
    assert f"Going on from the checkpoint at step {step} of" in said
    resumed = [event["step"] for event in read_events(run / "log.jsonl") if event["event"] == "resumed"]
    assert resumed == [step]
    logged = [step for step, _ in read_curve(run / "log.jsonl", "train/loss")]
    assert logged == sorted(set(logged))


def test_a_killed_trainer_is_followed_by_one_that_goes_on_and_no_two_work_at_once(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    first = started(tmp_path, run)
    wait_for_checkpoint(run, first)
    rival = started(tmp_path, run)
    while "Waiting for process" not in (tmp_path / "log" / "pretrain.log").read_text():
        assert rival.poll() is None
        time.sleep(0.05)
    first.kill()
    output_of(first)
    while "Going on from the checkpoint" not in (tmp_path / "log" / "pretrain.log").read_text():
        assert rival.poll() is None
        time.sleep(0.05)
    rival.send_signal(signal.SIGINT)
    assert "(SIGINT) The same command goes on from there." in output_of(rival)


def test_a_checkpoint_on_request_does_not_stop_the_training(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    process = started(tmp_path, run)
    wait_for_checkpoint(run, process)
    before = max(p.name for p in (run / "checkpoints").glob("*.json"))
    process.send_signal(signal.SIGUSR2)
    deadline = time.monotonic() + 30
    while max(p.name for p in (run / "checkpoints").glob("*.json")) == before:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    output_of(process)


def test_a_torn_checkpoint_is_named_and_the_older_one_used(study, tmp_path):
    run = slow_pretraining(tmp_path, study)
    process = started(tmp_path, run)
    deadline = time.monotonic() + 90
    while len(list((run / "checkpoints").glob("*.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    output_of(process)
    notes = sorted((run / "checkpoints").glob("*.json"))
    newest = notes[-1].with_suffix(".pt")
    newest.write_bytes(newest.read_bytes()[:1000])
    said: list[str] = []
    found = Checkpoints(run / "checkpoints", json.loads(notes[0].read_text())["key"], 1, said.append)._newest_valid()
    assert found == notes[-2].with_suffix(".pt")
    assert str(newest) in said[0]


# --- mistakes ------------------------------------------------------------------------------------------------


def refusal(folder: Path, *arguments: str, status: int = 2, **options) -> str:
    done = mem(folder, *arguments, check=False, **options)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_an_input_that_is_not_finished_is_named(tmp_path):
    study = load_study([MINI])
    write_configs(plan(study), study, tmp_path)
    message = refusal(tmp_path, "pretrain", "--config", str(run_of("pretrain").folder / "config.yaml"))
    assert f"{run_of('convert').folder}: the images of this run is not finished. Make it first: mem convert" in message


def test_an_input_of_other_settings_is_refused(study, tmp_path):
    other = load_study([MINI], {"dataset": {"cut": {"seed": 5}}})
    write_configs(plan(other), other, tmp_path)
    run = run_of("pretrain", changes={"dataset": {"cut": {"seed": 5}}})
    given = study / run_of("convert").folder
    message = refusal(tmp_path, "pretrain", "--config", str(run.folder), "--images", str(given))
    assert "but this run was configured for images" in message


def test_an_input_that_the_stage_does_not_have_is_refused(study, tmp_path):
    scratch = load_study([MINI], {"pretrain": None})
    write_configs(plan(scratch), scratch, tmp_path)
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
