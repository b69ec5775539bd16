"""Estimates for a study's runs: steps, images, FLOPs, hours and disk space."""

from __future__ import annotations

import functools
import json

import pytest

from mem.config.load import load_study
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates
from mem.plan.text import estimate_study
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
RATES = Rates(core_gflops=50)


def estimates(changes: dict | None = None) -> dict[str, Estimate]:
    """Return the estimates for the mini study by stage and head."""
    return _estimates(json.dumps(changes))


@functools.cache
def _estimates(changes: str) -> dict[str, Estimate]:
    _, all_runs = estimate_study(load_study([MINI], json.loads(changes)), {}, RATES)
    return {f"{e.run.stage} {e.run.labels.get('variant', '')}".strip(): e for e in all_runs}


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


def test_tokens_in_half_precision_take_half_the_disk_space():
    half, full, none = (
        estimates({"features": change})["features"].disk.final_bytes
        for change in ({"dtype": "float16"}, {}, {"online": True})
    )
    images, width, tokens = 2 * 489 + 100 + 200, 16, 4
    assert full - none == 4 * images * width * (1 + tokens)
    assert full - half == 2 * images * width * tokens
