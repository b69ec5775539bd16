"""Run keys: the settings that change them, and the settings that do not."""

from __future__ import annotations

from typing import Any

import pytest

from mem.config import Study
from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from mem.runs.keys import SHOT_COUNTS
from mem.runs.versions import version_of
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


AFTER_FINETUNING = EVERYTHING_AFTER_FINETUNING - {"finetune"}


def test_the_precision_of_features_changes_them_and_everything_that_reads_them():
    assert changed_stages({"features": {"precision": "bf16"}}) == AFTER_FINETUNING
    assert changed_stages({"features": {"precision": "fp32"}}) == set()


@pytest.mark.parametrize("name", ["pixel_mean", "pixel_std"])
def test_the_normalisation_changes_no_conversion_but_everything_that_uses_it(name):
    changed = changed_stages({"dataset": {name: [0.4, 0.4, 0.4]}})
    assert changed == EVERYTHING_AFTER_FINETUNING | {"pretrain"}


def test_the_normalisation_changes_features_without_training(mini_values):
    keys = []
    for mean in (0.3, 0.4):
        dataset = {**mini_values["dataset"], "pixel_mean": [mean] * 3}
        heads = {"crt": mini_values["heads"]["crt"]}
        changes = {"dataset": dataset, "heads": heads, "pretrain": None, "finetune": None}
        runs = study_runs(Study.model_validate({**mini_values, **changes}))
        keys.append({run.stage: run.key for run in runs})
    assert {stage for stage, key in keys[0].items() if key == keys[1][stage]} == {"convert"}


def test_the_center_crop_of_evaluation_changes_no_training_of_the_backbone():
    assert changed_stages({"backbone": {"center_crop": 0.875}}) == AFTER_FINETUNING


def test_training_that_starts_from_class_means_depends_on_the_center_crop():
    """The means are those of center crops."""
    means = {"finetune": {"initial_classifier": "class_means"}}
    before = changed_stages(means)
    assert before == EVERYTHING_AFTER_FINETUNING
    runs = [study_runs(load_study([MINI], {**means, "backbone": {"center_crop": crop}})) for crop in (0.75, 0.875)]
    keys = [{run_name(run): run.key for run in each} for each in runs]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == EVERYTHING_AFTER_FINETUNING


def test_the_interval_of_validation_changes_only_the_report():
    assert changed_stages({"finetune": {"validate_every_epochs": 3}}) == {"report"}


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": {"jpeg_quality": 70}},  # storage: raw
        {"dataset": {"resample": "lanczos"}},  # no short_side
        {"finetune": {"mix_probability": 0.5}},  # neither mixup nor cutmix
        {"finetune": {"mix_switch": 0.3}},
        {"finetune": {"mix_batch": 2}},
        {"heads": {"mem": {"partition_seed": 1}}},  # partition: shot
    ],
)
def test_a_setting_without_effect_changes_only_the_report(change):
    assert changed_stages(change) == {"report"}


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"dataset": {"storage": "jpeg", "jpeg_quality": 70}}, "convert"),
        ({"dataset": {"short_side": 4, "resample": "lanczos"}}, "convert"),
        ({"finetune": {"mixup": 0.8, "mix_probability": 0.5}}, "finetune"),
        ({"finetune": {"mixup": 0.8, "cutmix": 1, "mix_switch": 0.3}}, "finetune"),
        ({"finetune": {"mixup": 0.8, "mix_batch": 2}}, "finetune"),
        ({"finetune": {"classifier_lr_factor": 10}}, "finetune"),
        ({"finetune": {"step_decay": {"every_epochs": 1, "factor": 0.1}}}, "finetune"),
        ({"features": {"augmentation": {"flip": True}}}, "features"),
        ({"heads": {"mem": {"partition": "random_even", "partition_seed": 1}}}, "train_head mem"),
    ],
)
def test_a_setting_with_an_effect_changes_the_key_of_its_stage(change, first):
    section, values = next(iter(change.items()))
    before = {section: {name: value for name, value in values.items() if name != list(values)[-1]}}
    if section == "heads":
        before = {"heads": {"mem": {"partition": "random_even"}}}
    keys = [{run_name(run): run.key for run in study_runs(load_study([MINI], c))} for c in (before, change)]
    assert keys[0][first] != keys[1][first]


def test_the_augmentation_of_features_without_views_changes_only_the_report():
    keys = [
        {run_name(run): run.key for run in study_runs(load_study([MINI], {"features": {"views": 0, **change}}))}
        for change in ({}, {"augmentation": {"flip": True}})
    ]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"report"}


def test_shot_thresholds_do_not_change_a_mem_head_with_another_partition():
    keys = [
        {
            run_name(run): run.key
            for run in study_runs(load_study([MINI], {"heads": {"mem": {"partition": "cardinality_even"}}, **change}))
        }
        for change in ({}, {"shots": {"many_above": 90}})
    ]
    assert keys[0]["train_head mem"] == keys[1]["train_head mem"]
    assert keys[0]["evaluate mem"] != keys[1]["evaluate mem"]


def test_a_new_name_for_the_head_that_mem_starts_from_does_not_change_the_mem_head(mini_values):
    heads = dict(mini_values["heads"])
    heads["linear"] = {"method": "crt", **heads.pop("crt")}
    heads["mem_on_crt"] = {**heads["mem_on_crt"], "classifier_from": "linear"}
    renamed = {run_name(run): run.key for run in study_runs(Study.model_validate({**mini_values, "heads": heads}))}
    before = {run_name(run): run.key for run in study_runs(load_study([MINI]))}
    assert renamed["train_head linear"] == before["train_head crt"]
    assert renamed["train_head mem_on_crt"] == before["train_head mem_on_crt"]


def keys_with_heads(values: dict, **heads: dict) -> dict[str, str]:
    """Return the keys of the mini study with additional heads."""
    study = Study.model_validate({**values, "heads": {**values["heads"], **heads}})
    return {run_name(run): run.key for run in study_runs(study)}


@pytest.mark.parametrize("method", ["crt", "balanced_softmax", "block_classifier"])
def test_a_start_is_part_of_the_key_but_not_its_name(mini_values, method):
    head = {"method": method, "training": mini_values["heads"]["crt"]["training"] | {"epochs": 3}}
    head |= {"input": "pooled", "width": 8, "depth": 1} if method == "block_classifier" else {}
    new = {"new": head, "from_ce": {**head, "classifier_from": "ce"}, "from_crt": {**head, "classifier_from": "crt"}}
    keys = keys_with_heads(mini_values, **new)
    assert len({keys[f"train_head {name}"] for name in new}) == 3
    heads = {"renamed": mini_values["heads"]["crt"] | {"method": "crt"}}
    renamed = keys_with_heads({**mini_values, "heads": heads}, from_it={**head, "classifier_from": "renamed"})
    assert renamed["train_head from_it"] == keys["train_head from_crt"]


def test_a_setting_at_the_start_of_a_chain_changes_the_whole_chain(mini_values):
    training = mini_values["heads"]["crt"]["training"]
    again = {"method": "crt", "classifier_from": "crt", "training": training}
    mem_on_again = {**mini_values["heads"]["mem"], "method": "mem", "classifier_from": "again"}
    chain = {"mem_on_again": mem_on_again, "again": again}
    before = keys_with_heads(mini_values, **chain)
    changed_crt = {"crt": {"method": "crt", "training": training | {"lr": 0.2}}}
    after = keys_with_heads(mini_values, **chain, **changed_crt)
    changed = {name for name in before if before[name] != after[name]}
    assert {f"train_head {name}" for name in ("crt", "again", "mem_on_again", "mem_on_crt")} <= changed
    assert "train_head mem" not in changed


def test_shot_thresholds_change_heads_with_group_balanced_sampling(mini_values):
    training = mini_values["heads"]["crt"]["training"]
    heads = {
        sampler: {"method": "crt", "training": training | {"epochs": 3, "sampler": sampler}}
        for sampler in ("group_balanced", "class_balanced")
    }
    before = keys_with_heads(mini_values, **heads)
    after = keys_with_heads({**mini_values, "shots": {"many_above": 90}}, **heads)
    assert before["train_head group_balanced"] != after["train_head group_balanced"]
    assert before["train_head class_balanced"] == after["train_head class_balanced"]


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


def test_only_heads_that_are_selected_on_val_have_a_higher_version():
    """Their selection rule changed. All other heads keep their keys."""
    heads = {
        "ce": {},
        "crt": {},
        "mem": {},
        "tau": {"method": "tau", "taus": [0.0, 1.0]},
        "one_tau": {"method": "tau", "taus": [1.0]},
        "adjusted": {"method": "logit_adjustment", "taus": [0.5, 1.0]},
        "one_adjusted": {"method": "logit_adjustment", "taus": [1.0]},
    }
    runs = study_runs(load_study([MINI], {"heads": heads}))
    versions = {run.labels["variant"]: run.document()["version"] for run in runs if run.stage == "train_head"}
    assert {name for name, version in versions.items() if version == 2} == {"tau", "adjusted"}
    assert {version for name, version in versions.items() if name not in ("tau", "adjusted")} == {1}


def test_with_a_holdout_the_runs_that_use_shot_groups_count_the_images_before_it(mini_values):
    cut = mini_values["dataset"]["cut"] | {"val_per_class": 0}
    heads = dict(mini_values["heads"])
    heads["by_counts"] = {**heads["mem"], "method": "mem", "partition": "cardinality_even"}
    heads["at_random"] = {**heads["mem"], "method": "mem", "partition": "random_even"}
    dataset = mini_values["dataset"] | {"cut": cut, "holdout": {"share": 0.1, "seed": 0}}
    runs = study_runs(Study.model_validate(mini_values | {"dataset": dataset, "heads": heads}))
    marked = {run_name(run) for run in runs if SHOT_COUNTS in run.settings}
    grouped = {"train_head mem", "train_head mem_on_crt", "train_head by_counts"}
    assert marked == grouped | {f"evaluate {head}" for head in heads}
    assert not any(SHOT_COUNTS in run.settings for run in study_runs(load_study([MINI])))


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
    assert (keys["convert"], keys["pretrain"]) == ("fd1a3f2d5889", "0cac97b1d5e5")


def test_ce_without_training_has_its_recorded_key():
    digits = study_runs(load_study([REPOSITORY / "config" / "digits_lt.yaml"]))
    assert {run.labels["variant"]: run.key for run in digits if run.stage == "train_head"}["ce"] == "e658fdd613b0"


@pytest.mark.parametrize(("source", "version"), [("file", 2), ("class_means", 1), ("text", 1)])
def test_only_runs_that_read_a_file_of_class_embeddings_have_a_higher_version(source, version):
    assert version_of("finetune", {"finetune": {"initial_classifier": {"source": source}}}) == version
    assert version_of("train_head", {"head": {"method": "zero_shot", "embeddings": {"source": source}}}) == version
    assert version_of("features", {"features": {}}) == 1
