"""The stages from `convert` to `features` with ConvMAE: weights, reconstructions and training curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mem.models.weights.tensors import load_weights
from mem.tracking.log import read_curve, read_events
from tests.stages.running import MINI_VALUES, run_study

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
    """Run folders of the stages from `convert` to `features`, by stage."""
    folder = tmp_path_factory.mktemp("convmae")
    values = MINI_VALUES | {
        "backbone": BACKBONE,
        "pretrain": MINI_VALUES["pretrain"] | {"epochs": 4, "reconstruct_every_epochs": 1.5},
        "finetune": MINI_VALUES["finetune"] | {"epochs": 2},
        "compute": {"pretrain": {"peak_tflops": 0.1, "micro_batch": 40}, "finetune": {"peak_tflops": 0.1}},
    }
    runs = run_study(folder, values, ("convert", "pretrain", "finetune", "features"))
    return {run.stage: folder / run.folder for run in runs}


def test_finetuning_and_features_use_the_pretrained_encoder(runs):
    encoder = load_weights(runs["pretrain"] / "encoder.safetensors")
    finetuned = load_weights(runs["finetune"] / "model.safetensors")
    assert {"stage1_output_decode.weight", "norm.weight"} <= set(encoder) - set(finetuned)
    assert {"fc_norm.weight", "head.weight"} == {name for name in set(finetuned) - set(encoder) if "weight" in name}
    pooled = np.load(next(runs["features"].glob("*train*pooled*.npy")))
    assert pooled.shape[2] == 16
    assert np.isfinite(pooled).all()


def test_reconstructions_are_written_and_logged_at_their_interval_and_at_the_end(runs):
    events = [e for e in read_events(runs["pretrain"] / "log.jsonl") if e["event"] == "artifact"]
    # 489 images in batches of 64: 1.5 epochs are 11 steps.
    assert [e["step"] for e in events] == [11, 22, 31]
    for event in events:
        assert event["to"] == "reconstructions"
        with Image.open(runs["pretrain"].parents[3] / event["path"]) as image:
            assert image.format == "PNG"
            assert image.height > 8 * 112


def test_curves_contain_throughput_data_wait_gradient_norm_and_flop_utilisation(runs):
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
