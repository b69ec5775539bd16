"""ConvMAE through the stages that know backbones, with pictures of what it makes of images, and its curves."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from mem.cli.main import main
from mem.config.load import load_study
from mem.models.weights import load_weights
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import read_curve, read_events
from tests.conftest import REPOSITORY

BACKBONE = {
    "name": "convmae_mini",
    "kind": "convmae",
    "image_size": 16,
    "patch_sizes": [2, 2, 1],
    "widths": [8, 12, 16],
    "depths": [1, 1, 2],
    "heads": 2,
    "center_crop": 1.0,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """The runs up to the features, by stage."""
    folder = tmp_path_factory.mktemp("convmae")
    values = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())
    values["backbone"] = BACKBONE
    values["pretrain"] |= {"epochs": 4, "reconstruct_every_epochs": 1.5}
    values["finetune"]["epochs"] = 2
    values["compute"] = {"pretrain": {"peak_tflops": 0.1, "micro_batch": 40}, "finetune": {"peak_tflops": 0.1}}
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    before = Path.cwd()
    os.chdir(folder)
    try:
        study = load_study([Path("study.yaml")])
        planned = study_runs(study)
        write_configs(planned, study, folder)
        chosen = [run for run in planned if run.stage in ("convert", "pretrain", "finetune", "features")]
        for run in chosen:
            assert main([run.stage, "--config", str(run.folder / "config.yaml")]) == 0
    finally:
        os.chdir(before)
    return {run.stage: folder / run.folder for run in chosen}


def test_the_encoder_goes_on_into_finetuning_and_features(runs):
    encoder = load_weights(runs["pretrain"] / "encoder.safetensors")
    tuned = load_weights(runs["finetune"] / "model.safetensors")
    assert {"stage1_output_decode.weight", "norm.weight"} <= set(encoder) - set(tuned)
    assert {"fc_norm.weight", "head.weight"} == {name for name in set(tuned) - set(encoder) if "weight" in name}
    pooled = np.load(next(runs["features"].glob("*train*pooled*.npy")))
    assert pooled.shape[2] == 16
    assert np.isfinite(pooled).all()


def test_pictures_are_made_every_few_epochs_and_at_the_end_and_told_to_mlflow_once(runs):
    events = [e for e in read_events(runs["pretrain"] / "log.jsonl") if e["event"] == "artifact"]
    # 489 images in batches of 64: every 1.5 epochs is every 11 steps.
    assert [e["step"] for e in events] == [11, 22, 31]
    for event in events:
        assert event["to"] == "reconstructions"
        with Image.open(runs["pretrain"].parents[3] / event["path"]) as picture:
            assert picture.format == "PNG"
            assert picture.height > 8 * 112


def test_curves_say_rate_waiting_gradient_and_share_of_the_peak(runs):
    for stage in ("pretrain", "finetune"):
        log = runs[stage] / "log.jsonl"
        rates = dict(read_curve(log, "train/images_per_s"))
        shares = dict(read_curve(log, "train/mfu"))
        assert shares.keys() == rates.keys()
        ratios = {shares[step] / rates[step] for step in rates}
        assert max(ratios) == pytest.approx(min(ratios))
        assert 0 < max(shares.values()) < 1
        assert all(value > 0 for _, value in read_curve(log, "train/grad_norm"))
        assert len(read_curve(log, "train/data_wait")) == len(rates)
