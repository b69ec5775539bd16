"""The plan of a study with `selection` contains the runs of both branches."""

from __future__ import annotations

import copy

import pytest

from mem.config import Study
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates
from mem.plan.render import render_plan
from mem.plan.text import estimate_study
from tests.runs.test_selection_branches import SELECTION, without_val
from tests.stages.custom_studies import frozen_study

RATES = Rates(core_gflops=50)
TRAIN, HELD_OUT, TEST = 489, 98, 200
"""Images of the mini study without val, of which a fifth is held out."""


def estimates(values: dict) -> tuple[dict[tuple[str, object, object], Estimate], str]:
    """Return the estimates by stage, branch and head, and the printed plan."""
    study = Study.model_validate(values)
    images, all_runs = estimate_study(study, {}, RATES)
    text = render_plan(study, images, all_runs, RATES, 1e12)
    return {(e.run.stage, e.run.labels.get("branch"), e.run.labels.get("variant")): e for e in all_runs}, text


@pytest.fixture(scope="module")
def planned() -> tuple[dict[tuple[str, object, object], Estimate], str]:
    return estimates(without_val(selection=SELECTION))


def test_finetuning_and_heads_are_counted_in_both_branches(planned):
    by_run, _ = planned
    assert by_run["finetune", "select", None].steps == -(-6 * (TRAIN - HELD_OUT) // 64)
    assert by_run["finetune", "refit", None].steps == -(-6 * TRAIN // 64)
    assert by_run["train_head", "select", "crt"].steps == -(-2 * (TRAIN - HELD_OUT) // 32)
    assert by_run["train_head", "refit", "crt"].steps == -(-2 * TRAIN // 32)
    plain, _ = estimates(without_val(taus=[0.5]))
    for stage in ("finetune", "features"):
        assert by_run[stage, "refit", None].flops == plain[stage, None, None].flops
    total = sum(e.hours for e in by_run.values())
    assert total > sum(e.hours for e in plain.values()) + by_run["finetune", "select", None].hours


def test_the_branch_that_selects_computes_features_of_its_images_and_evaluates_only_val(planned):
    by_run, _ = planned
    assert by_run["features", "select", None].images == 2 * (TRAIN - HELD_OUT) + HELD_OUT
    assert by_run["features", "refit", None].images == 2 * TRAIN + TEST
    assert by_run["evaluate", "select", "crt"].images == HELD_OUT
    assert by_run["evaluate", "refit", "crt"].images == TEST


def test_the_plan_names_the_branches_and_the_held_out_images(planned):
    _, text = planned
    assert (
        "select: trains on 391 training images and selects on the 98 held-out images; refit: trains on all 489" in text
    )
    kinds = [line.partition("  ")[0] for line in text.splitlines()]
    for kind in ("finetune", "features", "train_head tau", "evaluate"):
        assert f"{kind} (select)" in kinds
        assert f"{kind} (refit)" in kinds
    assert "pretrain" in kinds
    chain = next(line for line in text.splitlines() if line.startswith("longest chain"))
    assert "pretrain > finetune (" in chain


def test_copied_features_use_disk_space_but_no_backbone():
    values = without_val(frozen_study(), selection=SELECTION)
    by_run, _ = estimates(values)
    part, complete = by_run["features", "select", None], by_run["features", None, None]
    assert part.flops == 0
    assert complete.flops > 0
    assert 0.7 * complete.disk.final_bytes < part.disk.final_bytes < complete.disk.final_bytes


def test_online_features_are_estimated_in_both_branches():
    values = copy.deepcopy(without_val(selection=SELECTION))
    values["features"]["online"] = True
    by_run, _ = estimates(values)
    select, refit = by_run["evaluate", "select", "crt"], by_run["evaluate", "refit", "crt"]
    assert select.added_hours > 0
    assert refit.flops == pytest.approx(select.flops * TEST / HELD_OUT)
