"""Results of every stage in the mini study, which is run without Snakemake."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from mem.config.load import load_study
from mem.data.features.stored import open_split
from mem.heads.build import load_head
from mem.heads.training import predict_classes
from mem.metrics.predictions import read_predictions
from mem.metrics.scores import split_scores
from mem.processor import vector_instructions
from mem.report.results import from_csv
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder, read_record
from mem.tracking.log import read_curve, read_events
from tests.stages.running import MINI, call_mem, mini_run


def test_every_run_writes_its_record(study):
    for run in study_runs(load_study([MINI])):
        record = read_record(study / run.folder)
        assert (record["stage"], record["key"]) == (run.stage, run.key)
        assert record["seconds"] > 0
        assert record["attempts"] == 1
        assert record["versions"]["torch"] == torch.__version__.split("+")[0]
        assert record["machine"]["host"] and record["machine"]["instructions"] == vector_instructions()
        assert len(record["git"]["commit"]) == 40


def test_a_finished_training_has_curves_and_no_checkpoints(study):
    for stage, metric in (("pretrain", "train/loss"), ("finetune", "val/acc1")):
        folder = RunFolder(study / mini_run(stage).folder)
        assert len(read_curve(folder.log, metric)) >= 3
        assert not folder.checkpoints.exists()
    losses = [value for _, value in read_curve(RunFolder(study / mini_run("pretrain").folder).log, "train/loss")]
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_stored_features_equal_those_of_the_finetuned_model(study):
    from mem.config import Backbone
    from mem.data.beton.reader import Beton
    from mem.data.loading.images import plain_batches
    from mem.models.backbones import build
    from mem.models.pixels import Pixels
    from mem.models.weights.tensors import load_into, load_weights
    from mem.runs.run_config import read_config

    finetuned = study / mini_run("finetune").folder
    backbone = read_config(finetuned, "finetune").union("backbone", Backbone)
    model = build(backbone, 10).eval()
    load_into(model.backbone, load_weights(finetuned / "model.safetensors"))
    images = study / mini_run("convert").folder
    val = Beton(images / "val.beton")
    split = open_split(study / mini_run("features").folder, "val")
    batch = next(iter(plain_batches(val, np.arange(len(val)), len(val), 8, 1.0, 1)))
    with torch.no_grad():
        pooled, tokens = model.features(Pixels((0.305,) * 3, (0.376,) * 3).normalise(batch.inputs))
    np.testing.assert_allclose(split.pooled[0], pooled.numpy(), rtol=1e-4, atol=1e-4)
    assert split.tokens is not None
    np.testing.assert_allclose(split.tokens[0], tokens.numpy(), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(split.labels, val.labels)
    assert open_split(study / mini_run("features").folder, "train").views == 2


def test_the_ce_head_is_the_finetuned_classifier(study):
    curve = read_curve(RunFolder(study / mini_run("finetune").folder).log, "val/acc1")
    scores = json.loads((study / mini_run("evaluate", "ce").folder / "metrics.json").read_text())
    assert scores["splits"]["val"]["accuracy"]["all"] == pytest.approx(curve[-1][1], abs=1e-3)


def test_scores_equal_those_of_the_saved_head(study):
    for variant in ("crt", "mem", "mem_on_crt"):
        head = load_head(study / mini_run("train_head", variant).folder)
        split = open_split(study / mini_run("features").folder, "test")
        predictions = predict_classes(head, split, variant == "mem_on_crt", torch.device("cpu"))
        scores = json.loads((study / mini_run("evaluate", variant).folder / "metrics.json").read_text())
        expected = 100 * (predictions == split.labels).mean()
        assert scores["splits"]["test"]["accuracy"]["all"] == pytest.approx(expected, abs=1e-3)
        _, saved = read_predictions(study / mini_run("evaluate", variant).folder / "predictions.parquet")
        np.testing.assert_array_equal(saved["test"].predictions, predictions)


def test_scores_can_be_recomputed_from_the_saved_predictions(study):
    for variant in ("crt", "mem_on_crt"):
        folder = study / mini_run("evaluate", variant).folder
        about, splits = read_predictions(folder / "predictions.parquet")
        metrics = json.loads((folder / "metrics.json").read_text())
        scores, calibration = metrics["splits"], metrics["calibration"]
        unscaled = calibration["temperatures"].index(1.0)
        for name, split in scores.items():
            # A confidence on the edge of a bin can be in the other bin after rounding.
            assert calibration["splits"][name]["ece"][unscaled] == pytest.approx(split["ece"], abs=0.6)
        assert scores == {name: split_scores(split, about) for name, split in splits.items()}
        with open(study / mini_run("convert").folder / "images.csv", newline="") as file:
            names = {split: [] for split in ("train", "val", "test")}
            for line in csv.DictReader(file):
                names[line["split"]].append(line["name"])
        assert all(split.names == names[name] for name, split in splits.items())
        assert (splits["test"].norms is not None) == (variant == "mem_on_crt")


def test_saved_norms_weights_and_oracle_accuracy_equal_those_of_the_saved_mem_head(study):
    head = load_head(study / mini_run("train_head", "mem").folder)
    split = open_split(study / mini_run("features").folder, "test")
    with torch.no_grad():
        logits, weights, norms = head.modulate(split.inputs(0, np.arange(len(split)), tokens=False))
    about, splits = read_predictions(study / mini_run("evaluate", "mem").folder / "predictions.parquet")
    np.testing.assert_allclose(splits["test"].norms, norms.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(splits["test"].weights, weights.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(splits["test"].top_probabilities[:, 0], logits.softmax(1).max(1).values, rtol=1e-4)
    groups = np.asarray(about.shot_of_class)
    masked = np.where(groups[split.labels][:, None] == groups[None], logits.numpy(), -np.inf)
    correct = masked.argmax(axis=1) == split.labels
    scores = json.loads((study / mini_run("evaluate", "mem").folder / "metrics.json").read_text())["splits"]["test"]
    assert scores["oracle"]["all"] == pytest.approx(100 * correct.mean(), abs=1e-3)
    group_is_correct = norms.numpy().argmax(axis=1) == groups[split.labels]
    assert scores["group_by_norm"]["all"] == pytest.approx(100 * group_is_correct.mean(), abs=1e-3)
    log = RunFolder(study / mini_run("evaluate", "mem").folder).log
    assert read_curve(log, "test/group_by_norm") == [(0, scores["group_by_norm"]["all"])]
    assert read_curve(log, "test/acc1") == read_curve(log, "test/all")


def test_tau_is_selected_on_val(study):
    results = read_record(study / mini_run("train_head", "tau").folder)["results"]
    scores = results["val_balanced_accuracy_by_tau"]
    assert scores[f"{results['tau']:g}"] == max(scores.values())
    # The val split of this study is balanced.
    assert scores == results["val_accuracy_by_tau"]


def test_mem_on_crt_keeps_the_classifier_of_crt(study):
    crt = load_head(study / mini_run("train_head", "crt").folder)
    mem_head = load_head(study / mini_run("train_head", "mem_on_crt").folder)
    assert torch.equal(mem_head.classifier.weight, crt.weight)


def test_the_report_has_all_files_and_columns(study):
    results = study / "results" / "mini"
    header = (results / "report" / "results.csv").read_text().splitlines()[0]
    assert header == (
        "study,dataset,backbone,method,variant,seed,order,split,thresholds,many,medium,few,all,key,top5,balanced,ece,"
        "oracle_many,oracle_medium,oracle_few,oracle_all,group_recall_many,group_recall_medium,group_recall_few,"
        "group_by_norm,group_by_class,balanced_se,group_recall_all,finetuning,transductive,experts_used_many,"
        "experts_used_medium,experts_used_few,experts_used_all,crops"
    )
    rows = from_csv(results / "report" / "results.csv")
    assert {(row.variant, row.split) for row in rows} == {
        (variant, split) for variant in load_study([MINI]).heads for split in ("val", "test")
    }
    keys = {row.variant: row.key for row in rows}
    assert keys["mem"] == mini_run("train_head", "mem").key
    page = (results / "report" / "index.html").read_text()
    assert page.count("<svg") == 9
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    runs = (results / "runs.csv").read_text().splitlines()
    assert len(runs) == len(study_runs(load_study([MINI])))  # a header, and every run except the report


def test_mem_results_prints_the_table_and_the_paths_of_report_and_mlflow(study):
    out = call_mem(study, "results", "mini").out
    assert "many>100 few<20" in out
    assert "mem_on_crt" in out
    assert "Report:    results/mini/report/index.html" in out
    assert "MLflow UI: mem track ui " in out


def test_mem_results_suggests_a_study_with_a_report_for_a_misspelt_name(study):
    message = call_mem(study, "results", "minni", status=2).err
    assert "study minni has no report yet. Run the study first. Did you mean mini?" in message


def test_a_repeated_run_writes_the_same_weights(study, tmp_path):
    run = mini_run("pretrain")
    again = tmp_path / "again"
    shutil.copytree(study / run.folder, again, ignore=shutil.ignore_patterns("*.json*", "*.safetensors"))
    call_mem(study, "pretrain", "--config", str(again / "config.yaml"))
    name = "encoder.safetensors"
    assert (again / name).read_bytes() == (study / run.folder / name).read_bytes()


def test_a_rerun_of_a_finished_run_starts_a_new_log(study, tmp_path):
    run = mini_run("train_head", "lws")
    again = tmp_path / run.folder.name
    shutil.copytree(study / run.folder, again)
    call_mem(study, "train_head", "--config", str(again / "config.yaml"))
    assert [p.name for p in sorted(again.glob("log*.jsonl"))] == ["log-1.jsonl", "log.jsonl"]
    ids = {next(iter(read_events(path)))["id"] for path in again.glob("log*.jsonl")}
    assert len(ids) == 2
    assert read_record(again)["attempts"] == 1
