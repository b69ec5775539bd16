"""The plan of a finetuning with a tuner: parameters, FLOPs, memory and disk space."""

from __future__ import annotations

import copy

import pytest

from mem.config import Study
from mem.plan.estimate import Estimate
from mem.plan.hours import Rates
from mem.plan.model_costs import classifier_cost
from mem.plan.text import estimate_study

WIDTH, DEPTH, PATCHES, CLASSES = 16, 2, 4, 10
HEAD = WIDTH * CLASSES + CLASSES + 2 * WIDTH
"""Parameters of the classifier and of the norm before it."""
LORA = {"name": "lora", "rank": 2, "alpha": 2.0, "layers": ["query", "value"]}


def study_of(values: dict, tuner: object, **finetune: object) -> Study:
    values = copy.deepcopy(values)
    values["finetune"] |= {"tuner": tuner, **finetune}
    return Study.model_validate(values)


def estimate(study: Study) -> Estimate:
    return next(e for e in estimate_study(study, {}, Rates(core_gflops=50))[1] if e.run.stage == "finetune")


def test_the_cost_counts_what_trains_and_no_gradients_of_frozen_weights(mini_values):
    costs = {}
    for tuner in ("all", "head", LORA):
        study = study_of(mini_values, tuner)
        costs[str(study.finetune and study.finetune.tuner).partition(",")[0]] = classifier_cost(
            study, study.finetune, CLASSES
        ).cost
    everything, head, lora = costs["all"], costs["head"], costs["lora"]
    updates = DEPTH * 2 * 2 * (WIDTH + WIDTH)
    assert (head.trained_parameters, head.parameters) == (HEAD, everything.parameters)
    assert (lora.trained_parameters, lora.parameters) == (HEAD + updates, everything.parameters + updates)
    assert everything.changing_parameters == everything.parameters
    assert lora.changing_parameters == lora.trained_parameters
    # The backward pass of a frozen backbone computes the gradients of the classifier and of its input (for the norm).
    assert head.training_flops == pytest.approx(head.forward_flops + 4 * WIDTH * CLASSES)
    assert head.forward_flops < lora.forward_flops < lora.training_flops < everything.training_flops
    assert head.activation_bytes < lora.activation_bytes


def test_checkpoints_averages_and_optimizer_state_contain_what_trains(mini_values):
    for ema_decay in (None, 0.9):
        everything, head = (estimate(study_of(mini_values, tuner, ema_decay=ema_decay)) for tuner in ("all", "head"))
        copies = 3 + (ema_decay is not None)  # weights, two states of AdamW, and the average
        assert head.disk.running_bytes == 3 * 4 * copies * HEAD
        assert everything.disk.running_bytes > 4 * head.disk.running_bytes
        assert head.disk.final_bytes == everything.disk.final_bytes
        assert head.memory is not None and everything.memory is not None
        total = classifier_cost(study_of(mini_values, "head"), study_of(mini_values, "head").finetune, CLASSES).cost
        # Weights, gradients and optimizer state, the average, and the copy of a checkpoint in main memory.
        assert head.memory.state_bytes == 4 * (total.parameters + HEAD * (1 + 2 + 2 * (copies - 2) - 1 + 2))
    assert estimate(study_of(mini_values, "head")).tuned_parameters == (HEAD, total.parameters)
    assert estimate(study_of(mini_values, "all")).tuned_parameters is None
