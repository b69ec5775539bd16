"""The printed plan: a line for each kind of run, totals, and a warning for each exceeded limit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mem.cli.main import main
from mem.config.load import load_study
from mem.plan.hours import CoreRate, Rates
from mem.plan.render import format_si, render_plan
from mem.plan.text import estimate_study
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"


def plan(changes: dict, *, device_gb: float = 80, free_bytes: float = 1e12, measured: CoreRate | None = None) -> str:
    """Return the printed plan of the mini study with the given changes."""
    study = load_study([MINI], changes)
    rates = Rates(core_gflops=50, device_gb=device_gb, measured=measured)
    images, estimates = estimate_study(study, {}, rates)
    return render_plan(study, images, estimates, rates, free_bytes)


def test_a_study_within_all_limits_has_no_notes():
    assert "!" not in plan({})


def test_the_load_at_which_the_rate_was_measured_is_printed_and_a_busy_machine_has_a_note():
    text = plan({}, measured=CoreRate(50, 0.1, 2, 1.0))
    assert "% of 50 GFLOP/s in float32 (measured at load 0.1 on 2 cores; --core-gflops)" in text
    assert "!" not in text
    assert "in float32 (--core-gflops)" in plan({})
    text = plan({}, measured=CoreRate(50, 3.2, 2, 0.48))
    assert "! core rate: measured while this machine was busy (load 3.2 on 2 cores; the measurement got 48 %" in text
    gpus = {"gpus_per_node": 1}
    only_gpus = {
        stage: gpus for stage in ("convert", "train_head", "evaluate", "report", "pretrain", "finetune", "features")
    }
    assert "core rate" not in plan({"compute": only_gpus}, measured=CoreRate(50, 3.2, 2, 0.48))


def test_a_training_longer_than_its_time_limit_is_announced_as_requeued():
    text = plan({"pretrain": {"epochs": 3e6}, "compute": {"pretrain": {"hours": 2}}})
    assert "! pretrain: takes " in text
    assert "its limit is 2 h (compute.pretrain.hours). On SLURM it is requeued" in text


def test_too_little_gpu_memory_names_the_micro_batch_that_fits():
    text = plan({"compute": {"finetune": {"gpus_per_node": 1, "micro_batch": 64}}}, device_gb=0.0004)
    assert "! finetune: needs " in text
    assert "more than the 400 kB of a GPU (--device-gb). compute.finetune.micro_batch: " in text


def test_online_features_have_a_line_with_their_savings_and_cost():
    assert "online features: " in plan({"features": {"online": True}})
    assert "online features: " not in plan({})


def test_too_little_disk_space_names_the_settings_that_save_it():
    text = plan({}, free_bytes=1e6)
    assert "! disk: the study needs " in text
    assert (
        "only 1.00 MB is free here. `features.tokens: false` saves most of it. `features.online: true` stores no"
        in text
    )


def test_a_loader_that_is_slower_than_the_gpus_has_a_note():
    compute = {"pretrain": {"gpus_per_node": 8, "threads": 1}}
    assert "! pretrain: " in plan({"compute": compute, "pretrain": {"epochs": 1e7}})


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0.00 B"), (1, "1.00 B"), (999, "999 B"), (58.8e9, "58.8 GB"), (1234, "1.23 kB"), (4.2e15, "4.20 PB")],
)
def test_numbers_have_three_digits_and_a_prefix(value, expected):
    assert format_si(value, "B") == expected


@pytest.mark.stage
def test_the_command_prints_a_line_for_each_stage_and_writes_nothing(tmp_path):
    command = [sys.executable, "-m", "mem.cli", "plan", str(MINI), "--core-gflops", "50"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for stage in ("convert", "pretrain", "finetune", "features", "train_head mem_on_crt", "evaluate", "report"):
        assert any(line.startswith(stage) for line in done.stdout.splitlines()), stage
    assert "longest chain:" in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--images", "train=many"], "train=many: expected train=N, val=N, test=N or classes=N"),
        (["--utilisation", "0"], "0: expected a positive number"),
    ],
)
def test_an_invalid_option_is_refused_with_what_is_expected(capsys, arguments, expected):
    with pytest.raises(SystemExit):
        main(["plan", str(MINI), *arguments])
    assert expected in capsys.readouterr().err
