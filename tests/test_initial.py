"""Studies that start from external weights: their run keys, and their stages with a CNN."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mem.cli.main import main
from mem.config import Backbone
from mem.config.load import load_study
from mem.errors import UserError
from mem.models.backbones import build
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_record
from mem.runs.run_config import read_config, write_configs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"


def run_of(stage: str, changes: dict) -> Run:
    return next(run for run in study_runs(load_study([MINI], changes)) if run.stage == stage)


def test_the_run_key_contains_the_content_of_a_file_of_weights_and_not_its_path(tmp_path):
    plain = run_of("finetune", {"pretrain": None})
    paths = [tmp_path / "a.pth", tmp_path / "b.pth"]
    for path in paths:
        path.write_bytes(b"weights")
    keys = {run_of("finetune", {"pretrain": None, "initial": {"file": str(path)}}).key for path in paths}
    assert len(keys) == 1
    paths[1].write_bytes(b"other weights")
    keys |= {run_of("finetune", {"pretrain": None, "initial": {"file": str(paths[1])}}).key, plain.key}
    assert len(keys) == 3
    with_pretraining = {"initial": {"file": str(paths[0])}}
    assert "initial" in run_of("pretrain", with_pretraining).settings
    assert "initial" not in run_of("finetune", with_pretraining).settings


def test_official_weights_of_another_backbone_are_rejected_when_the_study_is_loaded():
    with pytest.raises(UserError, match=r"requires a backbone with patch_size 16, but backbone\.patch_size is 4"):
        load_study([MINI], {"initial": {"weights": "mae_pretrain_vit_base"}})
    with pytest.raises(UserError, match=r"unknown official weights mae_pretrain_vit_bas; did you mean"):
        load_study([MINI], {"initial": {"weights": "mae_pretrain_vit_bas"}})


@pytest.fixture
def cnn_study(tmp_path) -> Path:
    """The mini study with a CNN that is trained by SGD with weight averaging."""
    text = MINI.read_text()
    start, end = text.index("backbone:"), text.index("finetune:")
    backbone = "{name: cnn, kind: timm, model: resnet10t, image_size: 8, norm_batch: 32, center_crop: 1.0}"
    text = f"{text[:start]}backbone: {backbone}\npretrain: null\n{text[end:]}"
    sgd = "  optimizer: sgd\n  momentum: 0.9\n  ema_decay: 0.9\n  on_nonfinite: skip\n"
    text = text.replace("  betas: [0.9, 0.999]\n", sgd).replace("drop_path: 0.1", "drop_path: 0.0")
    path = tmp_path / "study.yaml"
    path.write_text(text[: text.index("compute:")])
    return path


@pytest.mark.stage
def test_a_cnn_runs_through_all_stages_from_a_file_of_weights(cnn_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    backbone: Backbone = load_study([cnn_study]).backbone
    torch.save({"model": build(backbone, 7).backbone.state_dict()}, tmp_path / "mine.pth")
    study = load_study([cnn_study], {"initial": {"file": "mine.pth"}})
    runs = study_runs(study)
    write_configs(runs, study)
    done = {run.stage: run for run in reversed(runs) if run.stage != "report"}
    for stage in ("convert", "finetune", "features", "train_head", "evaluate"):
        assert main([stage, "--config", str(done[stage].folder)]) == 0
    report = read_record(done["finetune"].folder)["results"]["initial"]
    assert report["missing"] == ["fc.weight", "fc.bias"]
    assert report["left_over"] == []
    assert len(report["matched"]) > 50


@pytest.mark.stage
def test_a_file_of_weights_that_changed_after_planning_is_rejected(cnn_study, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pth").write_bytes(b"then")
    study = load_study([cnn_study], {"initial": {"file": "mine.pth"}})
    runs = study_runs(study)
    write_configs(runs, study)
    (tmp_path / "mine.pth").write_bytes(b"now")
    convert, finetune = (next(run for run in runs if run.stage == stage) for stage in ("convert", "finetune"))
    assert main(["convert", "--config", str(convert.folder)]) == 0
    assert main(["finetune", "--config", str(finetune.folder)]) == 2
    assert "mine.pth: changed after this run was planned" in capsys.readouterr().err
    assert read_config(finetune.folder, "finetune").settings["initial"]["file"] == "mine.pth"


def test_pretraining_a_cnn_and_a_batch_that_splits_a_norm_group_are_rejected_when_the_study_is_loaded(cnn_study):
    text = MINI.read_text()
    section = text[text.index("pretrain:") : text.index("finetune:")]
    cnn_study.write_text(cnn_study.read_text().replace("pretrain: null\n", section))
    with pytest.raises(
        UserError, match=r"requires a backbone of kind vit or convmae, but resnet10t is a network of timm"
    ):
        load_study([cnn_study])
    changes = {"pretrain": None, "finetune": {"global_batch": 48}}
    with pytest.raises(UserError, match=r"\(48\) must be a multiple of backbone\.norm_batch \(32\)"):
        load_study([cnn_study], changes)
