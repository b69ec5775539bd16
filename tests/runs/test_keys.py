"""Run keys: the settings that change them, and the settings that do not."""

from __future__ import annotations

from typing import Any

import pytest

from mem.config import Study
from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"


def changed_stages(change: dict[str, Any]) -> set[str]:
    """Return the stage and variant of all runs whose keys change when the study changes."""
    before = {run_name(run): run.key for run in study_runs(load_study([MINI]))}
    after = {run_name(run): run.key for run in study_runs(load_study([MINI], change))}
    assert before.keys() == after.keys()
    return {name for name, key in after.items() if key != before[name]}


def run_name(run: Run) -> str:
    return f"{run.stage} {run.labels.get('variant', '')}".strip()


EVERYTHING_AFTER_FINETUNING = {
    "finetune",
    "features",
    "report",
    *(f"{stage} {head}" for stage in ("train_head", "evaluate") for head in load_study([MINI]).heads),
}


def test_a_setting_of_a_head_changes_this_head_its_evaluation_and_the_report():
    assert changed_stages({"heads": {"mem": {"xi": 33}}}) == {"train_head mem", "evaluate mem", "report"}


def test_a_setting_of_crt_also_changes_the_heads_that_start_from_it():
    assert changed_stages({"heads": {"crt": {"training": {"lr": 0.2}}}}) == {
        "train_head crt",
        "evaluate crt",
        "train_head mem_on_crt",
        "evaluate mem_on_crt",
        "report",
    }


def test_a_setting_of_finetuning_does_not_change_pretraining():
    assert changed_stages({"finetune": {"epochs": 9}}) == EVERYTHING_AFTER_FINETUNING


def test_a_setting_of_pretraining_changes_everything_except_the_conversion():
    assert changed_stages({"pretrain": {"mask_ratio": 0.6}}) == EVERYTHING_AFTER_FINETUNING | {"pretrain"}


def test_a_setting_of_the_data_set_changes_everything():
    changed = changed_stages({"dataset": {"cut": {"seed": 1}}})
    assert changed == EVERYTHING_AFTER_FINETUNING | {"pretrain", "convert"}


@pytest.mark.parametrize(
    "change",
    [
        {"compute": {"pretrain": {"threads": 7, "micro_batch": 8, "hours": 9, "checkpoint_minutes": 1}}},
        {"compute": {"train_head": {"memory_gb": 64}}},
    ],
)
def test_compute_settings_change_no_key(change):
    assert changed_stages(change) == set()


def test_the_folder_of_the_images_changes_no_key():
    study = load_study([REPOSITORY / "config" / "digits_lt.yaml"])
    fashion = {"source": "fashion_mnist", "name": "f", "cut": {"counts": [9] * 10, "seed": 0, "val_per_class": 1}}
    fashion |= {"pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1], "storage": "raw"}
    here, there = (
        Study.model_validate({**study.model_dump(), "dataset": {**fashion, "root": root}}) for root in ("/a", "/b")
    )
    assert [run.key for run in study_runs(here)] == [run.key for run in study_runs(there)]


def test_shot_thresholds_change_the_runs_that_use_them():
    changed = changed_stages({"shots": {"many_above": 90}})
    assert changed == {
        "train_head mem",
        "train_head mem_on_crt",
        "report",
        *(f"evaluate {head}" for head in load_study([MINI]).heads),
    }


def test_restoring_a_setting_restores_the_keys():
    first = [run.key for run in study_runs(load_study([MINI]))]
    back = [run.key for run in study_runs(load_study([MINI], {"finetune": {"epochs": 6.0}}))]
    assert first == back


def test_another_seed_adds_runs_and_keeps_the_existing_ones():
    one = {run.key for run in study_runs(load_study([MINI])) if run.stage != "report"}
    two = {run.key for run in study_runs(load_study([MINI], {"seeds": [0, 1]}))}
    assert one < two
    assert sum(run.stage == "convert" for run in study_runs(load_study([MINI], {"seeds": [0, 1]}))) == 1


def test_another_class_order_has_its_own_conversion():
    runs = study_runs(load_study([MINI], {"orders": [0, 1]}))
    assert sum(run.stage == "convert" for run in runs) == 2
    assert len({run.key for run in runs}) == len(runs)


def test_every_run_is_listed_after_its_inputs(mini):
    seen: set[str] = set()
    for run in study_runs(mini):
        assert {parent.key for parent in run.inputs.values()} <= seen
        seen.add(run.key)
    assert study_runs(mini)[-1].stage == "report"


def test_training_from_scratch_has_no_pretraining():
    runs = study_runs(load_study([MINI], {"pretrain": None}))
    assert "pretrain" not in {run.stage for run in runs}
    assert set(next(run for run in runs if run.stage == "finetune").inputs) == {"images"}


def test_the_keys_of_the_mini_study_are_as_recorded(mini):
    # If these keys changed, all users would have to recompute their finished runs.
    keys = {run_name(run): run.key for run in study_runs(mini)}
    assert (keys["convert"], keys["pretrain"]) == ("82c0a3e40e42", "157d80da7e75")


def test_ce_without_training_has_its_recorded_key():
    digits = study_runs(load_study([REPOSITORY / "config" / "digits_lt.yaml"]))
    assert {run.labels["variant"]: run.key for run in digits if run.stage == "train_head"}["ce"] == "062880aa99d6"
