"""Studies with `selection`: one branch selects on held-out training images, the other trains on all training images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mem.config import Study
from mem.config.load import load_study
from mem.data.beton.reader import Beton
from mem.data.features.stored import open_split
from mem.data.split_parts import parts_of_train
from mem.export.best_head import best_head
from mem.export.lineage import lineage
from mem.heads.build import load_classifier, load_head
from mem.heads.tau import tau_normalised
from mem.metrics.predictions import read_predictions
from mem.models.weights.tensors import load_weights
from mem.report.results import from_csv, is_refitted
from mem.runs.dag import Run, study_runs
from mem.runs.diff import compare
from mem.runs.folder import RunFolder, read_record
from mem.runs.run_config import write_configs
from mem.tracking.log import read_curve
from tests.data import miniatures
from tests.runs.test_selection_branches import SELECTION, find, without_val
from tests.stages.custom_studies import feature_file_study, frozen_study
from tests.stages.running import call_mem, find_run, run_stage, run_study

HEADS = ("ce", "tau", "crt", "mem", "adjusted")


def selecting_study(**changes: Any) -> dict:
    """Return the mini study with few epochs, heads with and without a selected value, and `selection`."""
    values = without_val(study="selecting", selection=SELECTION, **changes)
    values["heads"]["adjusted"] = {"method": "logit_adjustment", "taus": [0.0, 1.0]}
    values["heads"] = {name: values["heads"][name] for name in HEADS}
    for stage in ("pretrain", "finetune"):
        if values[stage] is not None:
            values[stage] |= {"epochs": 2, "warmup_epochs": 0.5}
    return values


class Finished:
    """A finished study: its folder, its study and its runs."""

    def __init__(self, folder: Path, values: dict) -> None:
        self.folder, self.study = folder, Study.model_validate(values)
        self.runs = run_study(folder, values)
        self.holdout = self.study.selection.holdout  # type: ignore[union-attr]

    def path(self, stage: str, branch: str, variant: str | None = None) -> Path:
        return self.folder / find(self.runs, stage, branch, variant).folder

    def results(self, stage: str, branch: str, variant: str | None = None) -> dict[str, Any]:
        return read_record(self.path(stage, branch, variant))["results"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Finished:
    return Finished(tmp_path_factory.mktemp("selecting"), selecting_study())


@pytest.fixture(scope="module")
def parts(finished) -> dict[str, np.ndarray]:
    train = Beton(finished.folder / find_run(finished.runs, "convert").folder / "train.beton")
    return parts_of_train(train.labels, finished.holdout)


def test_the_branch_that_selects_uses_only_training_images(finished, parts):
    convert = finished.folder / find_run(finished.runs, "convert").folder
    train = Beton(convert / "train.beton")
    select = finished.path("features", "select")
    for split, positions in parts.items():
        np.testing.assert_array_equal(open_split(select, split).labels, train.labels[positions])
    assert finished.results("finetune", "select")["held_out_images"] == len(parts["val"])
    assert finished.results("finetune", "select")["steps"] < finished.results("finetune", "refit")["steps"]
    assert len(open_split(finished.path("features", "refit"), "train")) == len(train)


def test_the_branch_that_selects_does_not_read_test(tmp_path, finished):
    """Without the test images, all its stages succeed."""
    for run in finished.runs[:2]:
        (tmp_path / run.folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / run.folder).symlink_to(finished.folder / run.folder)
    convert = tmp_path / finished.runs[0].folder
    convert.unlink()
    convert.mkdir()
    for file in (finished.folder / finished.runs[0].folder).iterdir():
        if file.name != "test.beton":
            (convert / file.name).symlink_to(file)
    select = [run for run in finished.runs if run.labels.get("branch") == "select"]
    write_configs(select, finished.study, tmp_path)
    for run in select:
        run_stage(tmp_path, run)
    for variant in HEADS:
        folder = find(finished.runs, "evaluate", "select", variant).folder
        scores, expected = (
            json.loads((root / folder / "metrics.json").read_text()) for root in (tmp_path, finished.folder)
        )
        assert list(scores["splits"]) == ["val"]
        assert scores["splits"]["val"]["images"] == expected["splits"]["val"]["images"]


def test_finetuning_is_validated_on_the_held_out_images(finished):
    assert len(read_curve(RunFolder(finished.path("finetune", "select")).log, "val/acc1")) >= 1
    assert read_curve(RunFolder(finished.path("finetune", "refit")).log, "val/acc1") == []


@pytest.mark.parametrize("variant", ["tau", "adjusted"])
def test_the_refitted_head_has_the_selected_value(finished, variant):
    select, refit = (finished.results("train_head", branch, variant) for branch in ("select", "refit"))
    assert len(select["val_balanced_accuracy_by_tau"]) == len(finished.study.heads[variant].taus)  # type: ignore[union-attr]
    assert refit == {"tau": select["tau"]}


def test_the_selected_tau_is_applied_to_the_classifier_of_the_refit(finished):
    classifier = load_classifier(finished.path("features", "refit") / "classifier.safetensors")
    tau = finished.results("train_head", "select", "tau")["tau"]
    expected = tau_normalised(classifier.weight.detach(), tau).weight
    weights = load_weights(finished.path("train_head", "refit", "tau") / "head.safetensors")
    torch.testing.assert_close(weights["weight"], expected)


def test_a_value_that_is_not_the_best_on_test_is_kept(tmp_path, finished):
    """The refit takes the value in the record of the other branch."""
    run = find(finished.runs, "train_head", "refit", "tau")
    for parent in (*run.inputs.values(),):
        (tmp_path / parent.folder).mkdir(parents=True)
        for file in (finished.folder / parent.folder).iterdir():
            if file.is_file() and file.name != "run.json":
                (tmp_path / parent.folder / file.name).symlink_to(file)
        record = read_record(finished.folder / parent.folder)
        if parent.stage == "train_head":
            record["results"]["tau"] = 1.0
        (tmp_path / parent.folder / "run.json").write_text(json.dumps(record))
    write_configs([run], finished.study, tmp_path)
    run_stage(tmp_path, run)
    assert read_record(tmp_path / run.folder)["results"] == {"tau": 1.0}


def test_a_record_without_a_candidate_is_refused(tmp_path, finished):
    run = find(finished.runs, "train_head", "refit", "tau")
    selected = run.inputs["selection"]
    (tmp_path / run.inputs["features"].folder).parent.mkdir(parents=True)
    (tmp_path / run.inputs["features"].folder).symlink_to(finished.folder / run.inputs["features"].folder)
    (tmp_path / selected.folder).mkdir(parents=True)
    record = read_record(finished.folder / selected.folder)
    record["results"]["tau"] = 0.7
    (tmp_path / selected.folder / "run.json").write_text(json.dumps(record))
    for name in ("head.json", "head.safetensors"):
        (tmp_path / selected.folder / name).symlink_to(finished.folder / selected.folder / name)
    write_configs([run], finished.study, tmp_path)
    message = call_mem(tmp_path, "train_head", "--config", str(run.folder / "config.yaml"), status=2).err
    assert "expected a run that selected one of 3 values of tau, found 0.7" in message


def test_the_groups_of_classes_are_the_same_in_both_branches(finished):
    heads = [load_head(finished.path("train_head", branch, "mem")) for branch in ("select", "refit")]
    assert torch.equal(*(head.get_buffer("group_of_class") for head in heads))
    abouts = [
        read_predictions(finished.path("evaluate", b, "crt") / "predictions.parquet")[0] for b in ("select", "refit")
    ]
    assert abouts[0].shot_of_class == abouts[1].shot_of_class


def test_predictions_on_val_name_the_held_out_images(finished, parts):
    lines = (finished.folder / find_run(finished.runs, "convert").folder / "images.csv").read_text().splitlines()[1:]
    names = [line.split(",")[3] for line in lines if line.startswith("train,")]
    _, splits = read_predictions(finished.path("evaluate", "select", "crt") / "predictions.parquet")
    assert list(splits) == ["val"]
    assert list(splits["val"].names or ()) == [names[i] for i in parts["val"]]


def test_the_report_shows_val_of_one_branch_and_test_of_the_other(finished):
    rows = from_csv(finished.folder / "results" / "selecting" / "report" / "results.csv")
    branch = {"val": "select", "test": "refit"}
    assert {(row.variant, row.split) for row in rows} == {(name, split) for name in HEADS for split in branch}
    for row in rows:
        assert row.key == find(finished.runs, "train_head", branch[row.split], row.variant).key
    assert is_refitted(rows)
    page = (finished.folder / "results" / "selecting" / "report" / "index.html").read_text()
    assert "Settings were selected on held-out training images; then every head was trained on all" in page
    assert "Val are held-out training images" in page
    assert "held-out training images (seed 0), with heads trained on the other" in page


def test_mem_results_says_that_val_are_held_out_images(finished):
    printed = call_mem(finished.folder, "results", "selecting").out
    assert "Best on val (held-out training images; test: heads trained on all of them; mean per-class" in printed


def test_the_best_head_is_chosen_on_val_and_is_the_refitted_head(finished):
    selected = best_head(finished.study, finished.folder)
    rows = from_csv(finished.folder / "results" / "selecting" / "report" / "results.csv")
    val = {row.variant: row.balanced for row in rows if row.split == "val"}
    assert val[str(selected.run.labels["variant"])] == max(val.values())
    assert selected.run.labels["branch"] == "refit"
    assert lineage(finished.folder / selected.run.folder).backbone == finished.path("finetune", "refit")


def test_the_branches_can_be_compared(finished):
    heads = [find(finished.runs, "train_head", branch, "tau").folder for branch in ("select", "refit")]
    text = compare(str(heads[0]), str(heads[1]), finished.folder)
    assert "features < classifier: holdout.share" in text
    assert any(line.split() == ["selection", "-", heads[0].name] for line in text.splitlines())


def test_mem_runs_and_titles_name_the_branch(finished):
    listed = call_mem(finished.folder, "runs", "study.yaml").out
    assert "seed=0 branch=select method=tau variant=tau" in listed
    assert listed.count("branch=refit") == listed.count("branch=select") == 2 + 2 * len(HEADS)


# --- other sources of features -------------------------------------------------------------------------


def test_online_features_of_the_branch_that_selects_are_those_of_its_images(tmp_path, finished):
    values = selecting_study()
    values["features"]["online"] = True
    runs = run_study(tmp_path, values, ("convert", "pretrain", "finetune", "features", "train_head", "evaluate"))
    for variant in ("crt", "mem"):
        online, stored = (
            json.loads((root / find(found, "evaluate", "select", variant).folder / "metrics.json").read_text())
            for root, found in ((tmp_path, runs), (finished.folder, finished.runs))
        )
        assert online["class_counts"] == stored["class_counts"]
        assert online["splits"]["val"]["images"] == stored["splits"]["val"]["images"]
        weights = [
            load_weights(root / find(found, "train_head", "select", variant).folder / "head.safetensors")
            for root, found in ((tmp_path, runs), (finished.folder, finished.runs))
        ]
        torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-4)


def test_a_frozen_backbone_computes_its_features_once(tmp_path):
    values = without_val(frozen_study(), study="frozen_selection", selection=SELECTION)
    values["heads"] = {name: values["heads"][name] for name in ("ce", "tau", "crt")}
    values["pretrain"] |= {"epochs": 2, "warmup_epochs": 0.5}
    frozen = Finished(tmp_path, values)
    (features,) = [run for run in frozen.runs if run.stage == "features" and "branch" not in run.labels]
    complete, part = (
        open_split(tmp_path / features.folder, "train"),
        open_split(frozen.path("features", "select"), "val"),
    )
    positions = parts_of_train(complete.labels, frozen.holdout)["val"]
    np.testing.assert_array_equal(part.pooled, complete.pooled[:1, positions])
    assert part.has_tokens
    assert frozen.results("train_head", "refit", "tau")["tau"] == frozen.results("train_head", "select", "tau")["tau"]
    _, splits = read_predictions(frozen.path("evaluate", "select", "crt") / "predictions.parquet")
    assert splits["val"].names is not None


def test_feature_files_without_val_are_divided_into_parts(tmp_path):
    values = feature_file_study(tmp_path, study="files_selection", selection=SELECTION)
    values["dataset"] = {name: value for name, value in values["dataset"].items() if not name.startswith("val_")}
    values["heads"] = {name: values["heads"][name] for name in ("ce", "tau", "crt")}
    files = Finished(tmp_path, values)
    part = open_split(files.path("features", "select"), "val")
    labels = np.load(tmp_path / "labels.npy")
    positions = parts_of_train(labels, files.holdout)["val"]
    np.testing.assert_array_equal(part.pooled[0], np.load(tmp_path / "train.npy")[positions, 0])
    assert files.results("train_head", "refit", "tau")["tau"] == files.results("train_head", "select", "tau")["tau"]
    rows = from_csv(tmp_path / "results" / "files_selection" / "report" / "results.csv")
    assert {row.split for row in rows} == {"val", "test"}


def test_a_dataset_whose_val_split_is_known_only_after_the_conversion_is_refused_by_the_first_stage(tmp_path):
    values = selecting_study() | {"dataset": miniatures.table(tmp_path), "pretrain": None}
    values["heads"] = {"ce": None}
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    study = load_study([tmp_path / "study.yaml"])
    runs: list[Run] = study_runs(study)
    write_configs(runs, study, tmp_path)
    run_stage(tmp_path, runs[0])
    finetune = find(runs, "finetune", "select").folder
    message = call_mem(tmp_path, "finetune", "--config", str(finetune / "config.yaml"), status=2).err
    assert "selection: the dataset has a val split of" in message
    checked = call_mem(tmp_path, "data", "check", "study.yaml", status=1).out
    assert "but `selection` is for datasets without one" in checked
