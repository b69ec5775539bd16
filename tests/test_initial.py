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
    by_order = run_of("finetune", {"pretrain": None, "initial": {"file": str(paths[0]), "keys": "order"}})
    assert by_order.key not in keys
    by_name = run_of("finetune", {"pretrain": None, "initial": {"file": str(paths[0]), "keys": "names"}})
    assert by_name.key in keys
    with_pretraining = {"initial": {"file": str(paths[0])}}
    assert "initial" in run_of("pretrain", with_pretraining).settings
    assert "initial" not in run_of("finetune", with_pretraining).settings


def test_official_weights_of_another_backbone_are_rejected_when_the_study_is_loaded():
    with pytest.raises(UserError, match=r"requires a backbone with patch_size 16, but backbone\.patch_size is 4"):
        load_study([MINI], {"initial": {"weights": "mae_pretrain_vit_base"}})
    with pytest.raises(UserError, match=r"unknown official weights mae_pretrain_vit_bas; did you mean"):
        load_study([MINI], {"initial": {"weights": "mae_pretrain_vit_bas"}})


@pytest.mark.parametrize(
    ("initial", "expected"),
    [
        ({"weights": "hf-hub:timm"}, "hf-hub:timm: expected hf-hub:OWNER/REPOSITORY"),
        ({"weights": "hf-hub:timm/a@main"}, "write the commit as a setting of its own"),
        ({"weights": "hf-hub:timm/a", "revision": "main"}, "expected a commit (40 hexadecimal digits), got main"),
        ({"weights": "local-dir:"}, "expected local-dir:PATH"),
        ({"weights": "mae_pretrain_vit_base", "revision": "0" * 40}, "revision: applies only to weights of the hub"),
        ({"weights": "hf-hub:timm/a", "file": "w.pth"}, "cannot be combined with weights: hf-hub:timm/a"),
        (
            {"weights": "test_vit.r160"},
            "timm has no weights test_vit.r160. Weights for this architecture: test_vit.r160_",
        ),
        ({"weights": "test_vi.r160_in1k"}, "timm has no weights test_vi.r160_in1k; did you mean test_vit.r160_in1k"),
        ({"revision": "0" * 40}, "set `weights` (a name) or `file` (a path)"),
    ],
)
def test_names_of_weights_and_settings_that_do_not_apply_are_rejected(initial, expected):
    with pytest.raises(UserError) as error:
        load_study([MINI], {"pretrain": None, "initial": initial})
    assert expected in str(error.value)


def test_a_timm_tag_of_another_architecture_is_rejected_when_the_study_is_loaded():
    network = {
        "name": "t",
        "kind": "timm",
        "model": "test_vit2",
        "image_size": 32,
        "norm_batch": None,
        "center_crop": 1.0,
    }
    changes = {"backbone": network, "pretrain": None, "initial": {"weights": "test_vit.r160_in1k"}}
    with pytest.raises(UserError, match=r"has the architecture test_vit, but backbone\.model is test_vit2; set"):
        load_study([MINI], changes)


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
    weights = {f"layer{i}": value for i, value in enumerate(build(backbone, 7).backbone.state_dict().values())}
    torch.save({"model": weights}, tmp_path / "mine.pth")
    study = load_study([cnn_study], {"initial": {"file": "mine.pth", "keys": "order"}})
    runs = study_runs(study)
    write_configs(runs, study)
    done = {run.stage: run for run in reversed(runs) if run.stage != "report"}
    for stage in ("convert", "finetune", "features", "train_head", "evaluate"):
        assert main([stage, "--config", str(done[stage].folder)]) == 0
    report = read_record(done["finetune"].folder)["results"]["initial"]
    assert report["missing"] == ["fc.weight", "fc.bias"]
    assert report["left_over"] == []
    assert len(report["matched"]) > 50
    assert report["conversion"] == "mapped by order and shape"
    assert report["pairs"].keys() >= {"conv1.0.weight", "layer4.0.bn2.running_var", "fc.bias"}
    assert set(report["pairs"].values()) == {n for n, value in weights.items() if value.is_floating_point()}


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
