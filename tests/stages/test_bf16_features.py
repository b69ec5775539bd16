"""Features that the backbone computes in bfloat16 or float16, stored and online."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from mem import precision
from mem.data.features.stored import FeatureSource, FeatureSplit, open_split
from mem.errors import UserError
from mem.jobs.frozen_features import in_main_memory
from mem.jobs.online_features import OnlineBackbone
from mem.runs.dag import Run
from mem.runs.folder import RunFolder
from mem.stages import features as features_stage
from tests.stages.running import MINI_VALUES, find_run, job_of, run_study

TOLERANCE = 0.05
"""Largest difference between features in bfloat16 and float32, which have an absolute value of about 1."""


@pytest.fixture(autouse=True)
def supported(monkeypatch) -> None:
    """Compute in the precision of the settings, also on a processor that is slow in it."""
    monkeypatch.setattr(precision, "is_supported", lambda *_: True)


def values(**features: object) -> dict:
    finetune = MINI_VALUES["finetune"] | {"epochs": 1, "warmup_epochs": 0.1, "drop_path": 0.0}
    heads = {"ce": None, "crt": MINI_VALUES["heads"]["crt"]}
    features = MINI_VALUES["features"] | features
    return MINI_VALUES | {"pretrain": None, "finetune": finetune, "features": features, "heads": heads, "compute": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("precision")


def stored(folder: Path, precision: str, **features: object) -> FeatureSplit:
    runs = run_study(folder, values(precision=precision, **features), ("convert", "finetune", "features"))
    return open_split(folder / find_run(runs, "features").folder, "train")


def all_features(split: FeatureSource) -> torch.Tensor:
    indices = np.arange(len(split))
    return torch.cat([split.inputs(view, indices, tokens=True) for view in range(split.views)])


def online(folder: Path) -> FeatureSource:
    stages = ("convert", "finetune", "features", "train_head")
    runs: list[Run] = run_study(folder, values(precision="bf16", online=True), stages)
    return OnlineBackbone(job_of(folder, find_run(runs, "train_head", "crt"))).split("train")


def test_features_in_bf16_are_stored_in_float32_and_differ_by_rounding(folder):
    exact, rounded = (all_features(stored(folder, precision)) for precision in ("fp32", "bf16"))
    assert rounded.dtype == torch.float32
    difference = (exact - rounded).abs().max()
    assert 1e-4 < difference < TOLERANCE


def test_features_in_fp16_are_more_exact_than_in_bf16_and_are_read_as_float32_from_float16(folder):
    exact, rounded = (all_features(stored(folder, precision)) for precision in ("fp32", "bf16"))
    split = stored(folder, "fp16", pooled_dtype="float16", dtype="float16")
    assert split.tokens is not None
    assert split.pooled.dtype == split.tokens.dtype == np.float16
    half = all_features(split)
    assert half.dtype == torch.float32
    assert 0 < (exact - half).abs().mean() < 0.5 * (exact - rounded).abs().mean()


def test_a_value_that_overflows_in_fp16_is_reported_with_its_cause(monkeypatch, folder):
    runs = run_study(folder, values(precision="fp16"), ("convert", "finetune", "features"))
    run = find_run(runs, "features")
    monkeypatch.setattr(features_stage, "feature_function", lambda *_, **__: overflowing)
    out = RunFolder(folder / "overflow")
    out.path.mkdir()
    job = replace(job_of(folder, run), folder=out)
    with pytest.raises(
        UserError, match=r"not finite: with features\.precision fp16, .* Set features\.precision to bf16"
    ):
        features_stage.features(job)


def overflowing(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.full((len(images), 16), torch.inf), torch.zeros(len(images), 4, 16)


def test_online_features_use_the_precision_of_the_features(folder):
    exact, rounded = (all_features(stored(folder, precision)) for precision in ("fp32", "bf16"))
    computed = all_features(online(folder))
    # Batches are composed differently, which changes single roundings of bfloat16, but not most of the values.
    assert (computed - rounded).abs().mean() < 0.1 * (computed - exact).abs().mean()


def test_results_are_read_in_order_after_the_next_one_was_started():
    events: list[str] = []

    def results():
        for number in range(3):
            events.append(f"start {number}")
            yield number, {"pooled": torch.full((2,), float(number))}

    for number, arrays in in_main_memory(results()):
        assert arrays["pooled"].tolist() == [number, number]
        events.append(f"store {number}")
    assert events == ["start 0", "start 1", "store 0", "start 2", "store 1", "store 2"]
    assert not list(in_main_memory([]))


@pytest.mark.gpu
def test_results_on_a_gpu_are_complete_when_they_are_read():
    def results():
        for number in range(3):
            torch.cuda._sleep(100_000_000)
            yield number, {"pooled": torch.full((1000,), float(number), device="cuda")}

    for number, arrays in in_main_memory(results()):
        assert (arrays["pooled"] == number).all()
