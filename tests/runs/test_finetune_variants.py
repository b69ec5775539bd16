"""Runs of a study with several finetunings."""

from __future__ import annotations

import copy

from mem.config import Study
from mem.runs.dag import Run, study_runs

VARIANTS = {"balanced": {"objective": "balanced_softmax"}}
HEADS = {
    "balanced": {"method": "finetuned", "finetuning": "balanced"},
    "tau_balanced": {"method": "tau", "taus": [0.0, 1.0], "finetuning": "balanced"},
}


def runs_of(mini_values: dict, **changes) -> list[Run]:
    return study_runs(Study.model_validate(copy.deepcopy(mini_values) | changes))


def test_variants_share_pretraining_and_change_no_other_run(mini_values):
    before = {run.key: run for run in runs_of(mini_values)}
    runs = runs_of(mini_values, finetune_variants=VARIANTS, heads=mini_values["heads"] | HEADS)
    new = [run for run in runs if run.key not in before]
    assert set(before) - {run.key for run in runs} == {run.key for run in before.values() if run.stage == "report"}
    kinds = [(run.stage, run.labels.get("variant", run.labels.get("finetuning"))) for run in new]
    assert kinds == [
        ("finetune", "balanced"),
        ("features", "balanced"),
        *((stage, name) for name in HEADS for stage in ("train_head", "evaluate")),
        ("report", None),
    ]
    finetune, features, *heads = new[:-1]
    (pretrain,) = (run for run in runs if run.stage == "pretrain")
    assert finetune.inputs["encoder"] is pretrain
    assert features.inputs["classifier"] is finetune
    assert all(run.inputs["features"] is features and run.labels["finetuning"] == "balanced" for run in heads)
    assert heads[0].labels["method"] == "finetuned_balanced_softmax"


def test_a_finetuning_without_heads_is_not_planned(mini_values):
    heads = {"balanced": HEADS["balanced"]}
    runs = runs_of(mini_values, finetune_variants=VARIANTS, heads=heads)
    assert [run.labels.get("finetuning") for run in runs if run.stage in ("finetune", "features")] == ["balanced"] * 2


def test_each_branch_of_a_selection_finetunes_each_variant(mini_values):
    cut = mini_values["dataset"]["cut"] | {"val_per_class": 0}
    selection = {"holdout": {"share": 0.2, "seed": 0}}
    runs = runs_of(
        mini_values,
        dataset=mini_values["dataset"] | {"cut": cut},
        selection=selection,
        finetune_variants=VARIANTS,
        heads=mini_values["heads"] | HEADS,
    )
    finetunings = [(run.labels.get("finetuning"), run.labels["branch"]) for run in runs if run.stage == "finetune"]
    assert sorted(finetunings, key=str) == sorted(
        [(name, branch) for name in (None, "balanced") for branch in ("select", "refit")], key=str
    )
    (refit,) = (
        run
        for run in runs
        if run.stage == "train_head" and run.labels["variant"] == "tau_balanced" and run.labels["branch"] == "refit"
    )
    assert refit.inputs["selection"].labels == refit.labels | {"branch": "select"}
    assert refit.inputs["selection"].inputs["features"].labels["finetuning"] == "balanced"
