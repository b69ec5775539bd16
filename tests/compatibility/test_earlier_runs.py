"""Runs of an earlier version are listed, compared, resumed and used as inputs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from safetensors.torch import load_file

from mem.cli.main import main
from mem.report.evaluation import read_evaluation
from mem.runs.folder import RunFolder
from mem.runs.run_config import read_config
from mem.tracking.commands import sync
from mem.tracking.log import read_curve, read_events
from mem.tracking.server import tracking_uri
from tests.compatibility.conftest import BEFORE, EarlierRun
from tests.key_biases import without_key_biases
from tests.stages.running import find_run

HEADS = ("ce", "tau", "crt", "lws", "mem")


def run_again(run: EarlierRun, *outputs: str) -> None:
    """Delete outputs of a finished run, and recompute them with the current code from the earlier inputs."""
    for name in ("run.json", *outputs):
        (run.folder / name).unlink()
    assert main([run.stage, "--config", str(run.folder / "config.yaml")]) == 0


def test_every_run_can_be_read_and_is_finished(folder, runs):
    assert len(runs) == 15
    for run in runs:
        assert RunFolder(run.folder).finished()
        if (run.stage, run.labels.get("variant")) != ("train_head", "tau"):
            assert read_config(run.folder, run.stage).key == run.key


def test_tau_is_not_selected_again_in_a_run_of_the_former_selection_rule(folder, runs, capsys):
    tau = find_run(runs, "train_head", "tau")
    (tau.folder / "run.json").unlink()
    assert main(["train_head", "--config", str(tau.folder / "config.yaml")]) == 2
    printed = capsys.readouterr().err
    assert "written for version 1 of train_head, but this is version 2" in printed
    assert "Run the study again. This creates new runs next to the old ones." in printed


def test_the_study_has_new_runs_since_the_normalisation_is_not_part_of_the_conversion(folder, runs, capsys):
    # See "Run keys" in CHANGELOG.md: the keys changed once.
    assert main(["runs", "study.yaml"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[2] for line in lines] == ["-"] * len(runs)
    assert {line[1] for line in lines}.isdisjoint(run.key for run in runs)


def test_configurations_are_left_as_they_are(folder, runs):
    before = {run.key: (run.folder / "config.yaml").stat().st_mtime_ns for run in runs}
    assert main(["runs", "study.yaml", "--write"]) == 0
    assert {run.key: (run.folder / "config.yaml").stat().st_mtime_ns for run in runs} == before


@pytest.mark.parametrize("variant", HEADS)
def test_scores_that_an_earlier_evaluation_does_not_have_are_computed_from_its_predictions(variant, folder, runs):
    evaluation = find_run(runs, "evaluate", variant).folder
    earlier = json.loads((evaluation / "metrics.json").read_text())["splits"]
    assert not any("balanced_se" in scores for scores in earlier.values())
    predictions = pd.read_parquet(evaluation / "predictions.parquet")
    splits = read_evaluation(evaluation)[1]["splits"]
    for split, scores in splits.items():
        of_split = predictions[predictions["split"] == split]
        right = (of_split["prediction"] == of_split["label"]).groupby(of_split["label"])
        variance = right.mean() * (1 - right.mean()) / (right.size() - 1)
        assert scores["balanced_se"] == pytest.approx(100 * np.sqrt(variance.sum()) / len(variance), abs=1e-3)
        assert ("group_by_class" in scores) == (variant == "mem")
        assert scores["balanced"] == earlier[split]["balanced"]


def test_two_runs_are_compared(folder, runs, capsys):
    first, second = (find_run(runs, "train_head", variant).key for variant in ("crt", "lws"))
    assert main(["runs", "compare", first, second]) == 0
    printed = capsys.readouterr().out
    assert "head.method" in printed
    assert "crt" in printed
    assert "lws" in printed


@pytest.mark.stage
@pytest.mark.parametrize("variant", HEADS)
def test_an_earlier_head_is_evaluated_with_the_same_scores(variant, folder, runs):
    evaluation = find_run(runs, "evaluate", variant)
    before = pd.read_parquet(evaluation.folder / "predictions.parquet")
    metrics = json.loads((evaluation.folder / "metrics.json").read_text())
    run_again(evaluation, "metrics.json", "predictions.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(evaluation.folder / "predictions.parquet"), before, rtol=1e-4)
    accuracies = {split: values["accuracy"] for split, values in metrics["splits"].items()}
    found = json.loads((evaluation.folder / "metrics.json").read_text())["splits"]
    assert {split: values["accuracy"] for split, values in found.items()} == accuracies


@pytest.mark.stage
def test_the_report_of_earlier_runs_is_not_repeated_and_the_message_names_the_reason(folder, runs, capsys):
    report = find_run(runs, "report")
    assert main(["report", "--config", str(report.folder / "config.yaml")]) == 2
    printed = capsys.readouterr().err
    assert "the runs of this study have other keys now" in printed
    assert "Run the study again" in printed
    assert not (folder / "results").exists()


@pytest.mark.stage
def test_features_of_an_earlier_backbone_and_data_set_are_the_same(folder, runs):
    features = find_run(runs, "features")
    before = {path.name: np.load(path) for path in features.folder.glob("*.npy")}
    assert len(before) == 9
    run_again(features, *before)
    for name, values in before.items():
        np.testing.assert_allclose(np.load(features.folder / name), values, rtol=1e-3, atol=1e-4)


@pytest.mark.stage
@pytest.mark.parametrize("variant", ["ce", "crt", "lws"])
def test_a_head_trained_on_earlier_features_is_the_same(variant, folder, runs):
    head = find_run(runs, "train_head", variant)
    before = load_file(head.folder / "head.safetensors")
    run_again(head, "head.json", "head.safetensors")
    torch.testing.assert_close(load_file(head.folder / "head.safetensors"), before, rtol=1e-3, atol=1e-4)


@pytest.mark.stage
def test_a_finetuning_resumes_from_an_earlier_checkpoint(folder, runs):
    finetune = find_run(runs, "finetune")
    before = load_file(finetune.folder / "model.safetensors")
    shutil.copytree(BEFORE / "checkpoints", finetune.folder / "checkpoints")
    run_again(finetune, "model.safetensors")
    log = finetune.folder / "log.jsonl"
    assert [event["step"] for event in read_events(log) if event["event"] == "resumed"] == [51]
    assert not (finetune.folder / "checkpoints").exists()
    assert json.loads((finetune.folder / "run.json").read_text())["attempts"] == 2
    after = load_file(finetune.folder / "model.safetensors")
    torch.testing.assert_close(without_key_biases(after), without_key_biases(before), rtol=1e-3, atol=1e-4)


def test_earlier_logs_are_sent_to_mlflow(folder, runs):
    assert sync(folder) == 0
    client = MlflowClient(tracking_uri(folder))
    experiment = client.get_experiment_by_name("before_digits")
    assert experiment is not None
    found = {run.data.tags["config_digest"]: run for run in client.search_runs([experiment.experiment_id])}
    assert set(found) == {run.key for run in runs if run.stage != "evaluate"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    finetune = find_run(runs, "finetune")
    history = client.get_metric_history(found[finetune.key].info.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == read_curve(finetune.folder / "log.jsonl", "train/loss")
    scores = found[find_run(runs, "train_head", "mem").key].data.metrics
    expected = json.loads((find_run(runs, "evaluate", "mem").folder / "run.json").read_text())["results"]
    assert scores["test/acc1"] == pytest.approx(expected["test"]["all"], abs=1e-3)


def machine_paths(text: str) -> bool:
    return any(word in text for word in ("/tmp/", "/home/", "/" + "root/", str(Path.home())))


def test_the_files_name_no_machine():
    for path in BEFORE.rglob("*"):
        if path.is_file():
            assert not machine_paths(path.read_bytes().decode(errors="replace")), path
