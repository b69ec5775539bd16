"""Estimates for a study's runs: steps, images, FLOPs, hours and disk space."""

from __future__ import annotations

import functools
import json

import pytest

from mem.config.load import load_study
from mem.plan.disk import RECORD_BYTES
from mem.plan.estimate import Estimate
from mem.plan.hours import CPU_UTILISATION, Rates
from mem.plan.text import estimate_study
from tests.config.studies import write_study
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
RATES = Rates(core_gflops=50)


def estimates(changes: dict | None = None) -> dict[str, Estimate]:
    """Return the estimates for the mini study by stage and head."""
    return _estimates(json.dumps(changes))


@functools.cache
def _estimates(changes: str) -> dict[str, Estimate]:
    _, all_runs = estimate_study(load_study([MINI], json.loads(changes)), {}, RATES)
    names = [e.run.labels.get("variant", e.run.labels.get("crops", "")) for e in all_runs]
    return {f"{e.run.stage} {name}".strip(): e for e, name in zip(all_runs, names, strict=True)}


def test_steps_are_full_batches_rounded_up():
    by_run = estimates()
    assert (by_run["pretrain"].steps, by_run["finetune"].steps) == (46, 46)  # 6 epochs, 489 images, batch size 64
    assert by_run["train_head crt"].steps == 31  # 2 epochs, batch size 32
    assert by_run["pretrain"].images == 46 * 64
    assert by_run["features"].images == 2 * 489 + 100 + 200


def test_twice_the_gpus_take_half_the_time_and_the_same_gpu_hours():
    def hours(gpus: int) -> float:
        compute = {"pretrain": {"gpus_per_node": gpus}}
        long = {"epochs": 1e13}
        return estimates({"compute": compute, "pretrain": long})["pretrain"].hours

    assert hours(1) == pytest.approx(2 * hours(2), rel=1e-3)


def test_hours_are_flops_divided_by_the_used_share_of_the_peak_rate():
    pretrain = estimates(
        {"compute": {"pretrain": {"gpus_per_node": 1}}, "pretrain": {"epochs": 1e13, "precision": "bf16"}}
    )["pretrain"]
    assert pretrain.hours == pytest.approx(pretrain.flops / (790e12 * 0.4) / 3600, rel=1e-3)


def test_online_features_move_disk_space_and_backbone_flops_to_the_heads():
    stored, online = estimates(), estimates({"features": {"online": True}})
    stored_bytes, online_bytes = stored["features"].disk.final_bytes, online["features"].disk.final_bytes
    assert online_bytes < 0.2 * stored_bytes
    assert online["features"].saved_bytes == stored_bytes - online_bytes
    for name in ("train_head crt", "train_head mem_on_crt"):
        assert online[name].flops_per_image > stored[name].flops_per_image
        assert online[name].hours == pytest.approx(stored[name].hours + online[name].added_hours)
    assert stored["train_head crt"].added_hours == 0


def test_features_in_half_precision_take_half_the_disk_space():
    half, half_pooled, full, none = (
        estimates({"features": change})["features"].disk.final_bytes
        for change in ({"dtype": "float16"}, {"pooled_dtype": "float16"}, {}, {"online": True})
    )
    images, width, tokens = 2 * 489 + 100 + 200, 16, 4
    assert full - none == 4 * images * width * (1 + tokens)
    assert full - half == 2 * images * width * tokens
    assert full - half_pooled == 2 * images * width


def test_crops_run_the_backbone_on_val_and_test_and_change_no_training():
    plain, with_crops = estimates(), estimates({"evaluate": {"crops": {"number": 5, "resize": 10}}})
    assert with_crops["features"].images == plain["features"].images
    crops = with_crops["features five crops at 10"]
    assert crops.images == 5 * (100 + 200)
    assert crops.flops_per_image == plain["features"].flops_per_image > 0
    assert with_crops["train_head crt"].images == plain["train_head crt"].images
    assert with_crops["evaluate ce"].images == 5 * plain["evaluate ce"].images
    width, tokens, classes = 16, 4, 10
    features_and_labels = 4 * crops.images * width * (1 + tokens) + 8 * (100 + 200)
    assert crops.disk.final_bytes == features_and_labels + 4 * classes * (width + 1) + RECORD_BYTES


def test_online_crops_are_computed_by_the_evaluations():
    crops = {"crops": {"number": 5, "resize": 10}}
    stored, online = estimates({"evaluate": crops}), estimates({"evaluate": crops, "features": {"online": True}})
    run, online_run = (each["features five crops at 10"] for each in (stored, online))
    assert online_run.images == 0
    assert online_run.saved_bytes == run.disk.final_bytes - online_run.disk.final_bytes > 0
    assert online["evaluate ce"].hours > estimates({"features": {"online": True}})["evaluate ce"].hours
    # A value that is selected on val is selected with all crops.
    tau, plain = (each["train_head tau"] for each in (online, estimates({"features": {"online": True}})))
    assert tau.added_hours == pytest.approx(5 * plain.added_hours, rel=0.01)


@pytest.mark.parametrize("online", [False, True])
def test_the_update_of_batch_norm_statistics_runs_the_backbone(online, tmp_path, mini_values):
    cnn = {"name": "cnn", "kind": "timm", "model": "resnet10t", "image_size": 64, "norm_batch": 32, "center_crop": 1.0}
    mini_values |= {"pretrain": None, "backbone": cnn, "compute": {"features": {"tasks_per_node": 2}}}
    mini_values["finetune"]["drop_path"] = 0.0
    mini_values["features"]["online"] = online

    def features() -> Estimate:
        _, all_runs = estimate_study(load_study([write_study(tmp_path, mini_values)]), {}, RATES)
        return next(e for e in all_runs if e.run.stage == "features")

    plain = features()
    mini_values["features"]["batch_norm"] = {"sampler": "class_balanced", "epochs": 1000, "batch": 1024}
    updated = features()
    images = 478 * 1024  # 1000 * 489 images, in full batches
    assert updated.images - plain.images == images
    assert updated.flops_per_image > 0
    seconds = 3600 * (updated.hours - plain.hours)
    assert seconds == pytest.approx(images * updated.flops_per_image / (2 * 50e9 * CPU_UTILISATION), rel=0.01)
    assert updated.memory is not None
    assert updated.memory.batch == 512  # 1024 images on two ranks; features are computed for 256 images at once
    assert updated.added_hours == pytest.approx(plain.added_hours, abs=1e-3)
