"""Costs of the initial classifier of finetuning, and of the zero-shot classifier."""

from __future__ import annotations

import pytest

from mem.config import Study
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates
from mem.plan.image_counts import count_images
from mem.plan.model_cost import NO_MODEL, ClassifierCost
from mem.plan.model_costs import head_cost
from mem.plan.text import estimate_study
from mem.runs.dag import study_runs
from tests.heads.test_zero_shot import SETTINGS

GFLOPS = 50.0


def finetune_estimate(values: dict, **finetune: object) -> Estimate:
    study = Study.model_validate(values | {"pretrain": None, "finetune": values["finetune"] | finetune})
    estimates = estimate_study(study, {}, Rates(core_gflops=GFLOPS))[1]
    return next(each for each in estimates if each.run.stage == "finetune")


def test_class_means_need_one_forward_pass_of_each_training_image(mini_values):
    often, once = (finetune_estimate(mini_values, validate_every_epochs=n) for n in (0.5, 6))
    study = Study.model_validate(mini_values)
    counts = count_images(study, study_runs(study)[0], {})
    per_image = (often.hours - once.hours) / (11 * counts.val)
    means = finetune_estimate(mini_values, validate_every_epochs=6, initial_classifier="class_means")
    assert means.hours - once.hours == pytest.approx(per_image * counts.train)
    assert means.steps == once.steps


def test_no_more_validations_than_steps_are_planned(mini_values):
    shorter, every_step = (finetune_estimate(mini_values, validate_every_epochs=n) for n in (1e-6, 1e-5))
    assert shorter.hours == every_step.hours


def test_the_zero_shot_classifier_has_a_cost_and_is_not_trained(mini):
    backbone = ClassifierCost(NO_MODEL, width=32, tokens=4)
    cost = head_cost(mini, SETTINGS, 10, backbone)
    assert cost.forward_flops == pytest.approx(2 * (32 * 32 + 32 * 10), rel=0.2)
