"""benchmarks/gpu.py: its content, its budget and its failures, with tiny models on a CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from benchmarks import gpu
from benchmarks.gpu_cases import CASES
from tests.conftest import REPOSITORY


@pytest.mark.stage
def test_the_script_measures_trainings_features_loader_and_checkpoints(tmp_path):
    script = [sys.executable, str(REPOSITORY / "benchmarks" / "gpu.py"), "--device", "cpu", "--quick", "--no-compile"]
    only = ["--only", "vit_base", "loader", "checkpoint"]
    subprocess.run([*script, *only, "--out", "gpu.json"], cwd=tmp_path, check=True, capture_output=True, timeout=600)
    content = json.loads((tmp_path / "gpu.json").read_text())
    assert content["schema"] == gpu.SCHEMA
    assert content["quick"] is True
    assert content["matrix_tflops"] == max(content["matrix_tflops_by_size"].values()) > 0
    cases = {case["name"]: case for case in content["cases"]}
    assert {case["status"] for case in content["cases"]} == {"ok"}, content["cases"]
    for name in ("pretrain vit_base", "finetune vit_base", "features vit_base"):
        case = cases[name]
        assert case["images_per_s"] > 0
        assert case["mfu"] == pytest.approx(
            case["images_per_s"] * case["flops_per_image"] / (content["matrix_tflops"] * 1e12), rel=0.01, abs=1e-4
        )
        assert case["model"]["backbone"]["kind"] == "vit"
    assert cases["finetune vit_base"]["flops_per_image"] > 2 * cases["features vit_base"]["flops_per_image"]
    assert cases["loader"]["images_per_s_per_core"] > 0
    assert 0 <= cases["loader"]["data_wait"] <= 1
    assert cases["checkpoint"]["bytes"] > 100_000


class Spent:
    """A budget that allows cases of up to `left` seconds."""

    def __init__(self, left: float) -> None:
        self.left = left

    def allows(self, seconds: float) -> bool:
        return self.left >= seconds


def test_a_case_that_would_exceed_the_budget_is_skipped():
    earlier = [
        {"compile": True, "seconds": 60.0},
        {"compile": True, "status": "skipped"},
        {"compile": True, "seconds": 80.0},
        {"compile": False, "seconds": 10.0},
    ]
    for left, compiled, expected in ((69, True, "skipped"), (71, True, "ok"), (11, False, "ok"), (9, False, "skipped")):
        about: dict = {"compile": compiled}
        gpu.attempt(about, dict, Spent(left), [*earlier, about])  # type: ignore[arg-type]
        assert about["status"] == expected, (left, compiled)
    first: dict = {"compile": True}
    gpu.attempt(first, dict, Spent(gpu.FIRST_SECONDS[True] - 1), [first])  # type: ignore[arg-type]
    assert first["status"] == "skipped"


def test_a_failed_case_is_recorded_with_its_error():
    def out_of_memory() -> dict:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")

    def broken() -> dict:
        raise ValueError("a reason")

    for run, status, error in (
        (out_of_memory, "out of memory", "CUDA out of memory. Tried to allocate 2 GiB."),
        (broken, "failed", "ValueError: a reason"),
    ):
        about: dict = {"name": "case"}
        gpu.attempt(about, run, Spent(1), [about])  # type: ignore[arg-type]
        assert (about["status"], about["error"]) == (status, error)
        assert about["seconds"] >= 0


def test_the_budget_counts_from_the_beginning(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget = gpu.Budget(480)
    now = 400.0
    assert budget.used == 300
    assert budget.allows(180)
    assert not budget.allows(181)


def test_every_requested_model_is_a_case():
    names = {case.name for case in CASES}
    trained = {f"pretrain {model}" for model in ("vit_base", "vit_large", "convmae_base")}
    assert names == trained | {"finetune vit_base", "finetune resnext50", "features vit_base"}
