"""Keys of runs: what changes them and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from mem.config import Study
from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_config, write_configs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"


def changed_stages(change: dict[str, Any]) -> set[str]:
    """Stage and variant of the runs whose key a change moves."""
    before = {words(run): run.key for run in study_runs(load_study([MINI]))}
    after = {words(run): run.key for run in study_runs(load_study([MINI], change))}
    assert before.keys() == after.keys()
    return {name for name, key in after.items() if key != before[name]}


def words(run: Run) -> str:
    return f"{run.stage} {run.labels.get('variant', '')}".strip()


EVERYTHING_AFTER_FINETUNING = {
    "finetune",
    "features",
    "report",
    *(f"{stage} {head}" for stage in ("train_head", "evaluate") for head in load_study([MINI]).heads),
}


def test_a_setting_of_a_head_moves_that_head_its_evaluation_and_the_report():
    assert changed_stages({"heads": {"mem": {"xi": 33}}}) == {"train_head mem", "evaluate mem", "report"}


def test_a_setting_of_crt_also_moves_what_starts_from_it():
    assert changed_stages({"heads": {"crt": {"training": {"lr": 0.2}}}}) == {
        "train_head crt",
        "evaluate crt",
        "train_head mem_on_crt",
        "evaluate mem_on_crt",
        "report",
    }


def test_a_setting_of_finetuning_leaves_pretraining_alone():
    assert changed_stages({"finetune": {"epochs": 9}}) == EVERYTHING_AFTER_FINETUNING


def test_a_setting_of_pretraining_moves_everything_but_the_images():
    assert changed_stages({"pretrain": {"mask_ratio": 0.6}}) == EVERYTHING_AFTER_FINETUNING | {"pretrain"}


def test_the_data_set_moves_everything():
    moved = changed_stages({"dataset": {"cut": {"seed": 1}}})
    assert moved == EVERYTHING_AFTER_FINETUNING | {"pretrain", "convert"}


@pytest.mark.parametrize(
    "change",
    [
        {"compute": {"pretrain": {"threads": 7, "micro_batch": 8, "hours": 9, "checkpoint_minutes": 1}}},
        {"compute": {"train_head": {"memory_gb": 64}}},
    ],
)
def test_what_cannot_change_a_result_moves_nothing(change):
    assert changed_stages(change) == set()


def test_where_the_images_lie_moves_nothing():
    study = load_study([REPOSITORY / "config" / "digits_lt.yaml"])
    fashion = {"source": "fashion_mnist", "name": "f", "cut": {"counts": [9] * 10, "seed": 0, "val_per_class": 1}}
    fashion |= {"pixel_mean": [0, 0, 0], "pixel_std": [1, 1, 1], "storage": "raw"}
    here, there = (
        Study.model_validate({**study.model_dump(), "dataset": {**fashion, "root": root}}) for root in ("/a", "/b")
    )
    assert [run.key for run in study_runs(here)] == [run.key for run in study_runs(there)]


def test_thresholds_of_the_shots_move_what_uses_them():
    moved = changed_stages({"shots": {"many_above": 90}})
    assert moved == {
        "train_head mem",
        "train_head mem_on_crt",
        "report",
        *(f"evaluate {head}" for head in load_study([MINI]).heads),
    }


def test_changing_a_setting_back_finds_the_old_runs():
    first = [run.key for run in study_runs(load_study([MINI]))]
    back = [run.key for run in study_runs(load_study([MINI], {"finetune": {"epochs": 6.0}}))]
    assert first == back


def test_another_seed_adds_runs_and_keeps_the_old_ones():
    one = {run.key for run in study_runs(load_study([MINI])) if run.stage != "report"}
    two = {run.key for run in study_runs(load_study([MINI], {"seeds": [0, 1]}))}
    assert one < two
    assert sum(run.stage == "convert" for run in study_runs(load_study([MINI], {"seeds": [0, 1]}))) == 1


def test_another_order_of_the_classes_has_images_of_its_own():
    runs = study_runs(load_study([MINI], {"orders": [0, 1]}))
    assert sum(run.stage == "convert" for run in runs) == 2
    assert len({run.key for run in runs}) == len(runs)


def test_every_run_stands_after_its_inputs(mini):
    seen: set[str] = set()
    for run in study_runs(mini):
        assert {parent.key for parent in run.inputs.values()} <= seen
        seen.add(run.key)
    assert study_runs(mini)[-1].stage == "report"


def test_training_from_scratch_has_no_pretraining():
    runs = study_runs(load_study([MINI], {"pretrain": None}))
    assert "pretrain" not in {run.stage for run in runs}
    assert set(next(run for run in runs if run.stage == "finetune").inputs) == {"images"}


def test_keys_are_the_same_on_every_machine(mini):
    # Recorded once: a moved key means that everybody's finished runs are made anew.
    keys = {words(run): run.key for run in study_runs(mini)}
    assert (keys["convert"], keys["pretrain"]) == ("82c0a3e40e42", "157d80da7e75")


def test_ce_without_training_keeps_the_key_that_it_had():
    digits = study_runs(load_study([REPOSITORY / "config" / "digits_lt.yaml"]))
    assert {run.labels["variant"]: run.key for run in digits if run.stage == "train_head"}["ce"] == "062880aa99d6"


def test_a_runs_configuration_reads_back_as_it_was_written(tmp_path, mini):
    runs = study_runs(mini)
    write_configs(runs, mini, tmp_path)
    for run in runs:
        config = read_config(tmp_path / run.folder / "config.yaml", run.stage)
        assert (config.key, config.seed, dict(config.labels)) == (run.key, run.seed, dict(run.labels))
    pretrain = next(run for run in runs if run.stage == "pretrain")
    assert read_config(tmp_path / pretrain.folder, "pretrain").compute.checkpoint_minutes == 0.01


def test_a_configuration_is_not_touched_while_it_stays_the_same(tmp_path, mini):
    runs = study_runs(mini)
    write_configs(runs, mini, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")}
    write_configs(runs, mini, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")} == before


def test_a_setting_at_its_default_is_written_down_but_names_nothing(tmp_path, mini):
    said = load_study([MINI], {"dataset": {"jpeg_quality": 90}, "shots": {"many_above": 100, "few_below": 20}})
    assert [run.key for run in study_runs(said)] == [run.key for run in study_runs(mini)]
    document = study_runs(mini)[0].document()
    assert "jpeg_quality" not in document["settings"]["dataset"]
    assert document["defaults"]["dataset"]["jpeg_quality"] == 90
    write_configs(study_runs(mini), mini, tmp_path)
    config = read_config(tmp_path / study_runs(mini)[0].folder, "convert")
    assert config.settings["dataset"]["jpeg_quality"] == 90


def test_a_setting_added_later_rewrites_no_configuration(tmp_path, mini):
    run = study_runs(mini)[0]
    write_configs([run], mini, tmp_path)
    path = tmp_path / run.folder / "config.yaml"
    older = path.read_text().replace("    jpeg_quality: 90\n", "")
    assert older != path.read_text()
    path.write_text(older)
    write_configs([run], mini, tmp_path)
    assert path.read_text() == older
