"""Every stage by itself, without Snakemake: what the runs of a whole mini study hold."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from mem.config.load import load_study
from mem.data.features.files import open_split
from mem.heads.build import load_head
from mem.heads.training import predict_classes
from mem.metrics.predictions import read_predictions
from mem.metrics.scores import split_scores
from mem.report.results import from_csv
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder, read_record
from mem.tracking.log import read_curve, read_events
from tests.stages.running import MINI, mem, run_here, run_of


def test_every_run_leaves_its_record(study):
    for run in study_runs(load_study([MINI])):
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
    from mem.data.beton.reader import Beton
    from mem.data.loading.images import plain_batches
    from mem.jobs.backbone_training import normalization_of
    from mem.models.backbones import build
    from mem.models.weights import load_into, load_weights
    from mem.runs.run_config import read_config

    tuned = study / run_of("finetune").folder
    backbone = read_config(tuned, "finetune").union("backbone", Backbone)
    model = build(backbone, 10).eval()
    load_into(model.backbone, load_weights(tuned / "model.safetensors"))
    images = study / run_of("convert").folder
    val = Beton(images / "val.beton")
    split = open_split(study / run_of("features").folder, "val")
    batch = next(iter(plain_batches(val, np.arange(len(val)), len(val), 8, 1.0, 1)))
    with torch.no_grad():
        pooled, tokens = model.features(normalization_of(images).normalise(batch.inputs))
    np.testing.assert_allclose(split.pooled[0], pooled.numpy(), rtol=1e-4, atol=1e-4)
    assert split.tokens is not None
    np.testing.assert_allclose(split.tokens[0], tokens.numpy(), rtol=1e-4, atol=1e-4)
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
        predictions = predict_classes(head, split, variant == "mem_on_crt", torch.device("cpu"))
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
    np.testing.assert_allclose(splits["test"].norms, norms.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(splits["test"].weights, weights.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(splits["test"].top_probabilities[:, 0], logits.softmax(1).max(1).values, rtol=1e-4)
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
    assert len(runs) == len(study_runs(load_study([MINI])))  # all but the report, and a header


def test_the_table_is_printed_with_where_to_look(study):
    out = mem(study, "results", "mini").stdout
    assert "many>100 few<20" in out
    assert "mem_on_crt" in out
    assert "Report:    results/mini/report/index.html" in out
    assert "MLflow UI: mem track ui" in out


def test_a_study_without_a_report_is_named_with_those_that_have_one(study):
    done = mem(study, "results", "minni", check=False)
    assert done.returncode == 2
    assert "study minni has no report yet. Run the study first. Did you mean mini?" in done.stderr


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
