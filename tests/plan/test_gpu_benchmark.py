"""Hours from the result of benchmarks/gpu.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.errors import UserError
from mem.plan.gpu_benchmark import DEFAULT_FILE, SCHEMA, find_benchmark, model_settings, read_benchmark
from mem.plan.hours import JOB_OVERHEAD_SECONDS, Rates
from mem.plan.render import render_plan
from mem.plan.text import AssumedGpu, estimate_study
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
GPUS = {"compute": {stage: {"gpus_per_node": 2} for stage in ("pretrain", "finetune", "features")}}
BF16 = {"pretrain": {"precision": "bf16"}, "finetune": {"precision": "bf16"}, "features": {"precision": "bf16"}}
CHANGES = {name: GPUS.get(name, {}) | BF16.get(name, {}) for name in (*GPUS, *BF16)}


def case(stage: str, images_per_s: float, flops: float, *, compiled: bool = False, model: dict | None = None) -> dict:
    return {
        "name": f"{stage} model",
        "stage": stage,
        "precision": "bf16",
        "compile": compiled,
        "status": "ok",
        "images_per_s": images_per_s,
        "flops_per_image": flops,
        "model": model or {},
    }


def written(folder: Path, *cases: dict, **changes: object) -> Path:
    content = {
        "schema": SCHEMA,
        "quick": False,
        "date": "2026-12-01",
        "device": {"name": "NVIDIA H200", "memory_gb": 150.0, "driver": "1", "cuda": "13.0"},
        "matrix_tflops": 800.0,
        "cases": cases,
    }
    path = folder / "measured.json"
    path.write_text(json.dumps(content | changes))
    return path


def planned(path: Path | None, changes: dict = CHANGES) -> tuple[dict, str]:
    """Return the estimates by stage and the printed plan."""
    study = load_study([MINI], changes)
    rates = Rates(core_gflops=50, gpu=find_benchmark(path))
    images, estimates = estimate_study(study, {}, rates)
    return {e.run.stage: e for e in estimates}, render_plan(study, images, estimates, rates, 1e12)


def test_the_hours_of_a_measured_model_are_its_images_divided_by_the_measured_speed(tmp_path):
    study = load_study([MINI], CHANGES)
    flops = planned(None)[0]["pretrain"].flops_per_image
    path = written(
        tmp_path,
        case("pretrain", 50.0, flops, model=model_settings("pretrain", study)),
        case("pretrain", 70.0, flops, compiled=True, model=model_settings("pretrain", study)),
        case("pretrain", 9.0, flops),  # another model that happens to have the same FLOPs
    )
    estimates, text = planned(path)
    pretrain = estimates["pretrain"]
    assert 3600 * pretrain.hours == pytest.approx(JOB_OVERHEAD_SECONDS + pretrain.images / (2 * 50.0))
    assert "measured GPU:   NVIDIA H200 on 2026-12-01" in text
    assert "  pretrain: pretrain model, not compiled, 50 images/s (0 % of the matrix rate)" in text
    compiled = CHANGES | {"compute": CHANGES["compute"] | {"pretrain": {"gpus_per_node": 2, "compile": True}}}
    pretrain = planned(path, compiled)[0]["pretrain"]
    assert 3600 * pretrain.hours == pytest.approx(JOB_OVERHEAD_SECONDS + pretrain.images / (2 * 70.0))


def test_another_model_takes_the_rate_of_the_nearest_measured_model_and_the_plan_says_so(tmp_path):
    flops = planned(None)[0]["pretrain"].flops_per_image
    path = written(tmp_path, case("pretrain", 30.0, 2 * flops), case("pretrain", 1.0, 100 * flops))
    estimates, text = planned(path)
    pretrain = estimates["pretrain"]
    assert 3600 * pretrain.hours == pytest.approx(JOB_OVERHEAD_SECONDS + pretrain.images / (2 * 60.0))
    assert "  pretrain: scaled by FLOPs (0.5x) from pretrain model, not compiled, 30 images/s, the nearest" in text
    assert "  finetune:" not in text


def test_stages_without_a_measurement_keep_the_assumed_rate(tmp_path):
    path = written(tmp_path, case("features", 10.0, 1e9), {"name": "x", "stage": "pretrain", "status": "out of memory"})
    (before, _), (after, text) = planned(None), planned(path)
    for stage in ("pretrain", "finetune", "convert", "train_head", "evaluate"):
        assert after[stage].hours == before[stage].hours
    assert after["features"].hours != before["features"].hours
    assert "assumed GPU:" in text
    _, text = planned(path, GPUS)  # float32
    assert "measured GPU" not in text


def test_features_in_bf16_take_the_bf16_rate():
    changes = GPUS | {"features": {"views": 1000}}
    slow, fast = (
        planned(None, changes | {"features": changes["features"] | {"precision": precision}})[0]["features"]
        for precision in ("fp32", "bf16")
    )
    assert fast.hours <= slow.hours
    online = {"features": {"views": 1, "online": True}, "compute": {"train_head": {"gpus_per_node": 1}}}
    heads = [
        planned(None, online | {"features": online["features"] | {"precision": precision}})[0]["train_head"].hours
        for precision in ("fp32", "bf16")
    ]
    assert heads[1] < heads[0]


def test_a_measured_loader_replaces_the_assumed_one(tmp_path):
    fast = CHANGES | {"pretrain": {"precision": "bf16", "epochs": 1e7}}
    assert "one core decodes about 800" in planned(None, fast)[1]
    loader = {"name": "loader", "stage": "loader", "status": "ok", "images_per_s_per_core": 123.0}
    assert "one core decodes about 123" in planned(written(tmp_path, loader), fast)[1]


def test_the_file_in_the_current_folder_is_used_unless_an_option_contradicts_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert AssumedGpu().rates(1.0, None) == Rates(core_gflops=1.0)
    written(tmp_path, case("features", 10.0, 1e9)).rename(DEFAULT_FILE)
    rates = AssumedGpu().rates(1.0, None)
    assert rates.gpu is not None
    assert (rates.peak_tflops, rates.device_gb) == (800.0, 150.0)
    assert AssumedGpu(utilisation=0.3).rates(1.0, None) == Rates(utilisation=0.3, core_gflops=1.0)
    rates = AssumedGpu(memory_gb=40, utilisation=0.3, benchmark=DEFAULT_FILE).rates(1.0, None)
    assert rates.gpu is not None
    assert (rates.device_gb, rates.utilisation) == (40, 0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 99}, "has format 99, but this version reads format 1"),
        ({"quick": True}, "written with --quick, which measures tiny models"),
        ({"cases": [{"name": "x"}]}, "not a result of benchmarks/gpu.py .KeyError: 'status'"),
        ({"cases": [case("pretrain", 0.0, 1.0)]}, "case pretrain model has no speed"),
        ({"device": None}, "not a result of benchmarks/gpu.py"),
    ],
)
def test_an_unsuitable_file_is_an_error_with_the_command_that_writes_it(tmp_path, changes, message):
    with pytest.raises(UserError, match=f"{message}.*Run `python benchmarks/gpu.py`"):
        read_benchmark(written(tmp_path, **changes))


def test_a_missing_or_damaged_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"nothing.json: cannot be read: No such file"):
        find_benchmark(tmp_path / "nothing.json")
    (tmp_path / "damaged.json").write_text("{")
    with pytest.raises(UserError, match=r"damaged.json: not a result of benchmarks/gpu.py"):
        find_benchmark(tmp_path / "damaged.json")
